//! What did the kernel see on an interface? An independent capture, by tcpdump, and tshark's view of it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sluice_capture::CaptureReader;

use crate::netns::{Lab, Namespace};
use crate::pcap_file::{Builder, ETHERNET, Record};

/// A frame as captured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    /// The captured bytes.
    pub data: Vec<u8>,
    /// The original length.
    pub wire_len: u32,
}

/// A running capture.
#[derive(Debug)]
pub struct Tcpdump {
    child: Child,
    messages: BufReader<std::process::ChildStderr>,
    file: PathBuf,
}

impl Tcpdump {
    /// Captures whole frames on `device`; returns when it is listening.
    pub fn start(lab: &Lab, namespace: &Namespace, device: &str) -> Self {
        let file = lab.dir().join(format!("{device}.pcap"));
        let mut child = namespace
            .command("tcpdump")
            .args([
                "-i",
                device,
                "-n",
                "-U",
                "-Z",
                "root",
                "-s",
                "0",
                "-B",
                "65536",
                "--immediate-mode",
                "-w",
            ])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut messages = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert_ne!(messages.read_line(&mut line).unwrap(), 0, "tcpdump on {device} ended");
        }
        Self { child, messages, file }
    }

    /// The file that is written.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ends the capture once nothing has come for a while; the kernel may not have dropped anything.
    pub fn stop(mut self) -> Vec<Frame> {
        self.settle();
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let mut text = String::new();
        self.messages.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        assert!(text.contains("\n0 packets dropped by kernel"), "{text}");
        read(&self.file)
    }

    fn settle(&self) {
        let mut size = 0;
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(300) {
            let now = std::fs::metadata(&self.file).unwrap().len();
            if now != size {
                (size, since) = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        // Ended already, as a rule.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The frames of a capture file.
pub fn read(path: &Path) -> Vec<Frame> {
    let mut reader = CaptureReader::open(path).unwrap();
    let mut frames = vec![];
    while let Some(frame) = reader.next_frame().unwrap() {
        frames.push(Frame { data: frame.data.to_vec(), wire_len: frame.wire_len });
    }
    frames
}

/// The frames of each sender in their order: between senders, two captures may see different orders.
#[must_use]
pub fn by_sender(frames: &[Frame]) -> std::collections::BTreeMap<Vec<u8>, Vec<&Frame>> {
    let mut senders = std::collections::BTreeMap::<_, Vec<&Frame>>::new();
    for frame in frames {
        senders.entry(frame.data[6..12].to_vec()).or_default().push(frame);
    }
    senders
}

/// How far apart two captures of one place may see a frame of a sender whose packets leave by two CPUs at once (an
/// acknowledgement and data, say): each capture has a queue of its own, and the CPUs reach them in either order.
const DISPLACEMENT: usize = 16;

/// Panics unless both hold the same frames, each sender's in the same order up to `DISPLACEMENT` places.
pub fn assert_same(what: &str, got: &[Frame], expected: &[Frame]) {
    let (got, expected) = (by_sender(got), by_sender(expected));
    assert_eq!(got.len(), expected.len(), "{what}: senders");
    for (sender, expected) in &expected {
        let got = got.get(sender).map_or(&[][..], Vec::as_slice);
        assert_eq!(got.len(), expected.len(), "{what}: frames of {sender:02x?}");
        let mut left: Vec<Option<&Frame>> = got.iter().map(|frame| Some(*frame)).collect();
        for (at, frame) in expected.iter().enumerate() {
            let near = at.saturating_sub(DISPLACEMENT)..left.len().min(at + DISPLACEMENT + 1);
            let place = near.clone().find(|&place| left[place] == Some(*frame));
            let place = place
                .unwrap_or_else(|| panic!("{what}: frame {at} of {sender:02x?} is not there: {frame:02x?}"));
            left[place] = None;
        }
    }
}

/// What tshark says of `fields` for every frame that passes `filter`, one line per frame, checksums verified.
pub fn tshark(file: &Path, filter: &str, fields: &[&str], decode: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-Y", filter, "-T", "fields", "-E", "occurrence=a"]);
    for preference in ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"] {
        command.args(["-o", preference]);
    }
    for rule in decode {
        command.args(["-d", rule]);
    }
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Writes frames to a file that [`tshark`] reads.
pub fn write(path: &Path, frames: &[Frame]) {
    let mut file = Builder::new(ETHERNET);
    for (timestamp_ns, Frame { data, wire_len }) in (0..).zip(frames) {
        file.push(Record { timestamp_ns, wire_len: *wire_len, data });
    }
    file.save(path);
}

/// What tshark is asked of frames that are in tunnels. It prints a field once, however often it is asked.
const FRAME: [&str; 7] = ["ip.src", "ip.dst", "eth.src", "eth.dst", "eth.type", "ip.id", "ip.len"];
const VXLAN: &[&str] = &["udp.port==4789,vxlan"];

/// What tshark says of frames as they are, sorted.
#[must_use]
pub fn dissected(file: &Path) -> Vec<String> {
    let mut lines = tshark(file, "frame", &FRAME, VXLAN);
    lines.sort_unstable();
    lines
}

/// What tshark says of frames that pass `filter` inside VXLAN, sorted: tunnels from an IPv4 address to another under `vni`, as
/// RFC 7348 has them.
///
/// # Panics
/// When a tunnel is not like that.
#[must_use]
pub fn dissected_in_vxlan(file: &Path, filter: &str, ends: [&str; 2], vni: u32) -> Vec<String> {
    let header =
        ["ip.checksum.status", "udp.dstport", "vxlan.flags", "vxlan.gbp", "vxlan.vni", "vxlan.reserved8"];
    let expected = [ends[0], ends[1], "1", "4789", "0x0800", "0", &vni.to_string(), "0"];
    let inner = tshark(file, filter, &[&FRAME[..], &header].concat(), VXLAN).into_iter().map(|line| {
        // What is inside may have a tunnel of somebody else: the outermost comes first.
        let values: Vec<_> =
            line.split('\t').map(|value| value.split_once(',').unwrap_or((value, ""))).collect();
        let outer: Vec<_> =
            values[..2].iter().chain(&values[FRAME.len()..]).map(|(first, _)| *first).collect();
        assert_eq!(outer, expected, "{line}");
        values[..FRAME.len()].iter().map(|(_, inner)| *inner).collect::<Vec<_>>().join("\t")
    });
    let mut inner: Vec<_> = inner.collect();
    inner.sort_unstable();
    inner
}
