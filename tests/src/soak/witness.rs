//! What arrived at the tool, as tcpdump saw it: every copy once, in order, with a tag that was in force?

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use super::sender;
use super::tags::Span;

/// Outer Ethernet, IPv4 and UDP headers, and where the VNI is behind them (RFC 7348).
const VNI: usize = 14 + 20 + 8 + 4;
/// Where the inner packet's UDP data begin.
const DATA: usize = 14 + 20 + 8 + 8 + 14 + 20 + 8;
/// Copies with the same tag that are further apart may have others between that did not arrive, microseconds.
const PAUSE_US: u64 = 50_000;
/// Bytes of each packet that are looked at.
const SNAPLEN: usize = 160;

/// What arrived of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Copies.
    pub copies: u64,
    /// Numbers that were left out.
    pub missing: u64,
    /// The number that is next; 0 = none came yet.
    pub next: u64,
    /// When the copies since the last gap began to come, microseconds since the epoch.
    pub unbroken_us: u64,
    /// When the last one came.
    pub latest_us: u64,
}

#[derive(Debug, Default)]
struct Seen {
    streams: BTreeMap<u8, Arrived>,
    spans: Vec<Span>,
    /// Copies that came twice, late, or are not ours.
    mistakes: Vec<String>,
}

impl Seen {
    fn copy(&mut self, frame: &[u8], now_us: u64) {
        let vni = frame.get(VNI..VNI + 3).map(|vni| u32::from_be_bytes([0, vni[0], vni[1], vni[2]]));
        let (Some(tag), Some((stream, number))) = (vni, frame.get(DATA..).and_then(sender::number)) else {
            self.mistake(format!("a copy of nothing that was sent: {frame:02x?}"));
            return;
        };
        let goes_on = |span: &&mut Span| span.tag == tag && now_us < span.last_us + PAUSE_US;
        match self.spans.last_mut().filter(goes_on) {
            Some(span) => span.last_us = now_us,
            None => self.spans.push(Span { tag, first_us: now_us, last_us: now_us }),
        }
        let arrived = self.streams.entry(stream).or_default();
        arrived.copies += 1;
        arrived.latest_us = now_us;
        if number < arrived.next {
            let next = arrived.next;
            self.mistake(format!("packet {number} of stream {stream} came twice or late, at {next}"));
            return;
        }
        if number > arrived.next || arrived.copies == 1 {
            arrived.unbroken_us = now_us;
        }
        arrived.missing += number - arrived.next;
        arrived.next = number + 1;
    }

    fn mistake(&mut self, text: String) {
        // The first ones are enough.
        if self.mistakes.len() < 20 {
            self.mistakes.push(text);
        }
    }
}

/// A running tcpdump and who reads it; ended when dropped.
#[derive(Debug)]
pub struct Witness {
    child: Child,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
    words: Option<JoinHandle<String>>,
}

impl Witness {
    /// Starts `command`, which is `tcpdump` in the namespace of the tool, on `device`.
    pub fn start(mut command: Command, device: &str) -> Self {
        let snaplen = SNAPLEN.to_string();
        command.args([
            "-i",
            device,
            "-n",
            "-U",
            "-Z",
            "root",
            "-s",
            &snaplen,
            "-B",
            "65536",
            "--immediate-mode",
        ]);
        command.args(["-Q", "in", "-w", "-", "udp", "dst", "port", "4789"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let reader = std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || read(BufReader::new(stdout), &seen)
        });
        let words = std::thread::spawn(move || {
            let mut text = String::new();
            drop(stderr.read_to_string(&mut text));
            text
        });
        Self { child, seen, reader: Some(reader), words: Some(words) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What arrived so far.
    #[must_use]
    pub fn arrived(&self) -> BTreeMap<u8, Arrived> {
        self.seen().streams.clone()
    }

    /// All copies so far.
    #[must_use]
    pub fn copies(&self) -> u64 {
        self.seen().streams.values().map(|stream| stream.copies).sum()
    }

    /// The spans of tags since the last call. The one that lasts may go on in those of the next call.
    #[must_use]
    pub fn take_spans(&self) -> Vec<Span> {
        std::mem::take(&mut self.seen().spans)
    }

    /// What must never be seen, so far.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        self.seen().mistakes.clone()
    }

    /// Ends it; says what tcpdump said of what it lost.
    pub fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.reader.take().unwrap().join().unwrap();
        self.words.take().unwrap().join().unwrap()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Ended already, as a rule.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads a stream of pcap until its end.
fn read(mut stream: impl Read, seen: &Mutex<Seen>) {
    let mut header = [0; 24];
    if stream.read_exact(&mut header).is_err() {
        return;
    }
    assert_eq!(header[..4], 0xa1b2_c3d4_u32.to_le_bytes(), "microseconds, of a little-endian machine");
    let (mut record, mut frame) = ([0; 16], [0; SNAPLEN]);
    while stream.read_exact(&mut record).is_ok() {
        let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
        let frame = &mut frame[..word(8) as usize];
        if stream.read_exact(frame).is_err() {
            return;
        }
        let now_us = u64::from(word(0)) * 1_000_000 + u64::from(word(4));
        seen.lock().unwrap_or_else(PoisonError::into_inner).copy(frame, now_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_repetitions_and_tags_are_seen() {
        let copy = |tag: u8, number| {
            let mut frame = vec![0; VNI];
            frame.extend([0, 0, tag, 0]);
            frame.extend(sender::frame(3, number));
            frame
        };
        let mut seen = Seen::default();
        for (tag, number, now_us) in [(1, 0, 10), (1, 1, 20), (2, 4, 30), (2, 5, 40), (1, 6, 50)] {
            seen.copy(&copy(tag, number), now_us);
        }
        let expected = Arrived { copies: 5, missing: 2, next: 7, unbroken_us: 30, latest_us: 50 };
        assert_eq!(seen.streams[&3], expected);
        let span = |tag, first_us, last_us| Span { tag, first_us, last_us };
        assert_eq!(seen.spans, [span(1, 10, 20), span(2, 30, 40), span(1, 50, 50)]);
        assert!(seen.mistakes.is_empty());
        seen.copy(&copy(1, 6), 60);
        seen.copy(&[0; 120], 70);
        assert_eq!(seen.mistakes.len(), 2, "{:?}", seen.mistakes);
    }
}
