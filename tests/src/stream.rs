//! A numbered stream of frames of all kinds and sizes: is what arrives, byte for byte and in order, what was sent?
//!
//! Every frame can be made again from its number, which its last eight bytes hold; so neither end keeps any.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_af_packet::{AfPacketConfig, AfPacketRx, RxConfig, TxConfig};

use crate::netns::Namespace;

/// Flows, each with frames of one kind.
pub const FLOWS: u64 = 64;
/// The longest frame: 9,000 bytes behind the Ethernet header.
pub const LONGEST: usize = 9_014;
/// Frames between two ends at a time: less than the kernel lets wait between two interfaces
/// (`net.core.netdev_max_backlog`, 1000), so that none is lost by it.
const WINDOW: u64 = 400;
/// Frames handed to the kernel at once.
const CHUNK: u64 = 16;
/// Without a frame for so long, nothing more comes.
const PATIENCE: Duration = Duration::from_secs(5);
/// The bytes of the number at the end of a frame.
const NUMBER: usize = 8;

/// Makes frames by their numbers.
#[derive(Debug)]
pub struct Frames {
    pattern: Vec<u8>,
}

impl Default for Frames {
    fn default() -> Self {
        // Long enough for the longest frame from any of its first bytes on.
        Self { pattern: (0..4 * LONGEST as u64).map(|at| mix(at).to_le_bytes()[3]).collect() }
    }
}

/// The finaliser of SplitMix64: numbers in a row come out without any order.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl Frames {
    /// The flow of a frame.
    #[must_use]
    pub fn flow(number: u64) -> u64 {
        mix(number) % FLOWS
    }

    /// Writes frame `number` into `frame`.
    #[allow(clippy::cast_possible_truncation, reason = "parts of a hash are meant")]
    pub fn write(&self, number: u64, frame: &mut Vec<u8>) {
        let bits = mix(number);
        let flow = Self::flow(number) as u8;
        frame.clear();
        let (a, b) = ([0x02, 0xaa, 0, 0, 0, flow], [0x02, 0xbb, 0, 0, 0, flow]);
        let back = bits >> 32 & 1 == 1;
        let (src, dst) = if back { (b, a) } else { (a, b) };
        frame.extend(dst);
        frame.extend(src);
        let ends = if back { [2, 1] } else { [1, 2] };
        let kind = flow % 8;
        match kind {
            3 => frame.extend([0x81, 0x00, 0x00, flow]),
            4 => frame.extend([0x88, 0xa8, 0x20, flow, 0x81, 0x00, 0x40, 7]),
            _ => {}
        }
        let size = size(bits);
        match kind {
            2 => ipv6(frame, flow, ends, size),
            7 => frame.extend([0x88, 0xb5]),
            _ => ipv4(frame, flow, ends, kind, size),
        }
        let start = (number % 4_096) as usize;
        let payload = size.saturating_sub(frame.len() + NUMBER);
        frame.extend_from_slice(&self.pattern[start..start + payload]);
        frame.extend(number.to_be_bytes());
    }
}

/// The length of a frame, without the headers that some kinds have beyond it.
#[allow(clippy::cast_possible_truncation, reason = "parts of a hash are meant")]
fn size(bits: u64) -> usize {
    let draw = (bits >> 40) as usize;
    match bits >> 8 & 0xff {
        0..=3 => LONGEST,
        4..=100 => 60 + draw % 69,
        101..=180 => 128 + draw % 1_387,
        181..=230 => 1_514 + draw % 2_486,
        _ => 4_000 + draw % 5_014,
    }
}

fn ipv4(frame: &mut Vec<u8>, flow: u8, [src, dst]: [u8; 2], kind: u8, size: usize) {
    // Frames that are shorter than their own headers and the number get longer.
    let l4 = match kind {
        1 => 20,
        5 => 8 + 8 + 14 + 20 + 8,
        _ => 8,
    };
    let total = (size.saturating_sub(frame.len() + 2)).max(20 + l4 + NUMBER);
    let total = u16::try_from(total).unwrap().to_be_bytes();
    let protocol = if kind == 1 { 6 } else { 17 };
    // Kind 6: later fragments of one datagram each.
    let fragment = if kind == 6 { [0x20, 0x10] } else { [0x40, 0] };
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(total);
    frame.extend([0x12, flow, fragment[0], fragment[1], 64, protocol, 0, 0]);
    frame.extend([10, 5, flow, src, 10, 5, flow, dst]);
    let (sport, dport) = (40_000 + u16::from(src), 9_000 + u16::from(dst));
    match kind {
        1 => {
            frame.extend(sport.to_be_bytes());
            frame.extend(dport.to_be_bytes());
            frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        }
        // A tunnel of somebody else, which is not ours to open.
        5 => {
            frame.extend(sport.to_be_bytes());
            frame.extend([0x12, 0xb5, 0, 0, 0, 0, 0x08, 0, 0, 0, 0, 0x13, 0x88, 0]);
            frame.extend([2, 0xcc, 0, 0, 0, 1, 2, 0xcc, 0, 0, 0, 2, 0x08, 0x00]);
            frame.extend([0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2]);
            frame.extend([0x10, 0, 0x20, 0, 0, 16, 0, 0]);
        }
        _ => {
            frame.extend(sport.to_be_bytes());
            frame.extend(dport.to_be_bytes());
            frame.extend([0, 0, 0, 0]);
        }
    }
}

fn ipv6(frame: &mut Vec<u8>, flow: u8, [src, dst]: [u8; 2], size: usize) {
    let payload = size.saturating_sub(frame.len() + 2 + 40).max(20 + NUMBER);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
    frame.extend([6, 64]);
    for end in [src, dst] {
        frame.extend([0x20, 0x01, 0x0d, 0xb8, 0, 5, 0, flow, 0, 0, 0, 0, 0, 0, 0, end]);
    }
    frame.extend([0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
}

/// What came, and what was wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Frames that are, byte for byte, one that was sent.
    pub same: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that came a second time.
    pub twice: u64,
    /// Frames that came after a later one of their flow.
    pub out_of_order: u64,
    /// Frames that are none of those that were sent, or only nearly; the first of them.
    pub others: u64,
    /// The first of `others`.
    pub first_other: Vec<u8>,
    /// Frames that the kernel dropped for want of room before they could be looked at.
    pub kernel_drops: u64,
}

impl fmt::Display for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} frames ({} MB) as they were sent, {} twice, {} out of order, {} others, {} lost by the test itself",
            self.same,
            self.bytes / 1_000_000,
            self.twice,
            self.out_of_order,
            self.others,
            self.kernel_drops
        )
    }
}

/// Looks at all that comes in by an interface.
#[derive(Debug)]
pub struct Receiver {
    seen: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Arrived>,
}

impl Receiver {
    /// Expects frames `0..frames` in `namespace`; returns when it is listening.
    pub fn start(namespace: &Namespace, device: &str, frames: u64) -> Self {
        let config = AfPacketConfig {
            interface: device.to_owned(),
            rx: Some(RxConfig { ignore_outgoing: true, ..RxConfig::default() }),
            tx: None,
        };
        let (seen, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (listening, ready) = std::sync::mpsc::channel();
        let thread = namespace.inside({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || {
                let (port, rx, _) = sluice_af_packet::open(&config).unwrap();
                listening.send(()).unwrap();
                let mut look = Look::new(frames);
                let mut rx: AfPacketRx = rx.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let came = rx.rx_frames(64, |frame, _| {
                        look.at(frame);
                        true
                    });
                    seen.fetch_add(came as u64, Ordering::Relaxed);
                    if came == 0 {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                }
                look.arrived.kernel_drops = port.stats().kernel_drops;
                look.arrived
            }
        });
        ready.recv().unwrap();
        Self { seen, stop, thread }
    }

    /// Frames so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// The count itself, for a sender that goes by it.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.seen)
    }

    /// Waits until so many frames came, or none for a while; then tells all.
    pub fn finish(self, frames: u64) -> Arrived {
        let mut last = (self.seen(), Instant::now());
        while self.seen() < frames && last.1.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
            if self.seen() != last.0 {
                last = (self.seen(), Instant::now());
            }
        }
        // What is too much would come by now.
        std::thread::sleep(Duration::from_millis(100));
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The state of a receiver.
struct Look {
    frames: Frames,
    expected: Vec<u8>,
    came: Vec<bool>,
    latest: Vec<u64>,
    arrived: Arrived,
}

impl Look {
    fn new(frames: u64) -> Self {
        Self {
            frames: Frames::default(),
            expected: Vec::with_capacity(LONGEST + 64),
            came: vec![false; usize::try_from(frames).unwrap()],
            latest: vec![0; usize::try_from(FLOWS).unwrap()],
            arrived: Arrived::default(),
        }
    }

    fn at(&mut self, frame: &[u8]) {
        let number = frame.last_chunk::<NUMBER>().map(|bytes| u64::from_be_bytes(*bytes));
        let place = number.and_then(|number| usize::try_from(number).ok());
        let Some((number, came)) = number.zip(place.and_then(|place| self.came.get_mut(place))) else {
            return self.other(frame);
        };
        self.frames.write(number, &mut self.expected);
        if frame != self.expected {
            return self.other(frame);
        }
        self.arrived.twice += u64::from(std::mem::replace(came, true));
        let latest = &mut self.latest[usize::try_from(Frames::flow(number)).unwrap()];
        self.arrived.out_of_order += u64::from(number < *latest);
        *latest = number.max(*latest);
        self.arrived.same += 1;
        self.arrived.bytes += frame.len() as u64;
    }

    fn other(&mut self, frame: &[u8]) {
        self.arrived.others += 1;
        if self.arrived.first_other.is_empty() {
            self.arrived.first_other = frame.to_vec();
        }
    }
}

/// Sends frames `numbers` in order by an interface of `namespace`, never more at a time than every queue on the way has room
/// for: `done` says how many of them have arrived, or were dropped for good. Returns how long it took; ends early when nothing
/// arrives any more.
pub fn send(
    namespace: &Namespace,
    device: &str,
    numbers: std::ops::Range<u64>,
    done: impl Fn() -> u64 + Send + 'static,
) -> Duration {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let work = move || {
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        let frames = Frames::default();
        let mut buffers: Vec<Vec<u8>> = (0..CHUNK).map(|_| Vec::with_capacity(LONGEST + 64)).collect();
        let begin = Instant::now();
        let mut next = numbers.start;
        while next < numbers.end {
            let waiting = Instant::now();
            while next - numbers.start >= done() + WINDOW {
                if waiting.elapsed() > PATIENCE {
                    eprintln!("nothing arrives any more after {} frames", next - numbers.start);
                    return begin.elapsed();
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            let end = (next + CHUNK).min(numbers.end);
            for (number, buffer) in (next..end).zip(&mut buffers) {
                frames.write(number, buffer);
            }
            let segments: Vec<[&[u8]; 1]> = buffers.iter().map(|buffer| [&buffer[..]]).collect();
            let chunk: Vec<&[&[u8]]> = segments.iter().map(|segments| &segments[..]).collect();
            let mut chunk = &chunk[..usize::try_from(end - next).unwrap()];
            while !chunk.is_empty() {
                let sent = tx.tx_frames(chunk, |at, why| panic!("frame {}: {why:?}", next + at as u64));
                chunk = &chunk[sent..];
                assert!(waiting.elapsed() < 2 * PATIENCE, "the kernel takes no frame");
            }
            next = end;
        }
        begin.elapsed()
    };
    namespace.inside(work).join().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::wire::{self, L3, TunnelHeader};

    #[test]
    fn frames_are_of_all_kinds_and_sizes() {
        let (frames, mut frame) = (Frames::default(), Vec::new());
        let (mut shortest, mut longest) = (usize::MAX, 0);
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..5_000 {
            frames.write(number, &mut frame);
            assert_eq!(frame.last_chunk(), Some(&number.to_be_bytes()));
            assert!((60..=LONGEST).contains(&frame.len()), "{}", frame.len());
            (shortest, longest) = (shortest.min(frame.len()), longest.max(frame.len()));
            let view = wire::parse(&frame);
            seen.insert((
                view.l3 as u8,
                view.protocol,
                view.vlan_count,
                view.tunnel as u8,
                view.fragment as u8,
            ));
            if view.l3 == L3::Ipv4 {
                let at = usize::from(view.l3_offset);
                let total = usize::from(u16::from_be_bytes([frame[at + 2], frame[at + 3]]));
                assert_eq!(at + total, frame.len(), "the IP packet fills the frame");
            }
        }
        assert!(shortest <= 64 && longest == LONGEST, "{shortest} to {longest}");
        assert!(seen.len() >= 7 && seen.iter().any(|kind| kind.3 == TunnelHeader::Vxlan as u8), "{seen:?}");
    }
}
