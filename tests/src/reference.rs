//! What is in the captures, as the Wireshark tools read them, and which frames of it does a replay owe?
//!
//! `mergecap -a` turns captures of all formats into one file of one known shape. Frames of raw IP, Linux cooked and BSD
//! loopback captures get the Ethernet header that the documentation of `sluiced replay` promises, computed here anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The longest frame that a replay takes.
pub const MAX_FRAME_LEN: usize = 65_535;

/// mergecap opens all its inputs at once: few enough for any limit on open files.
const MERGED_AT_ONCE: usize = 200;

/// A packet whose time has a fraction of 4,293,562,680 microseconds, which overflows in the Wireshark tools: file, number.
const IMPOSSIBLE_FRACTION: (&str, usize) = ("nfstream/tests/pcaps/fuzz-2021-06-07-c6c72a0a56.pcap", 0);
const IMPOSSIBLE_TIME_NS: u64 = 1_953_631_157_000_000_000 + 4_293_562_680_000;

/// Link types that a replay takes.
const TAKEN: [u16; 10] = [0, 1, 12, 14, 101, 108, 113, 228, 229, 276];

/// One capture.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Its path below the folder of captures.
    pub name: String,
    /// The whole path.
    pub path: PathBuf,
    /// Its packets as INDEX.md counts them (with capinfos).
    pub packets: usize,
    /// What capinfos says about it: the sum of original lengths; 0 where it does not say.
    pub data_bytes: u64,
    /// The link type of its first interface, by name as capinfos has it.
    pub encapsulation: String,
}

/// One frame as a replay must see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which capture it is from.
    pub capture: usize,
    /// Its number there, from 0.
    pub number: usize,
    /// Nanoseconds since the epoch.
    pub timestamp_ns: u64,
    /// Original length, never less than what was captured.
    pub wire_len: u32,
    /// The captured bytes from the Ethernet header on, at most [`MAX_FRAME_LEN`].
    pub data: Vec<u8>,
    /// The Ethernet header was added.
    pub converted: bool,
}

/// The captures of a folder: those that a replay must take, and those that it must refuse.
#[derive(Debug)]
pub struct Captures {
    /// Taken, in the order of INDEX.md.
    pub taken: Vec<Capture>,
    /// Refused because of their link type.
    pub refused: Vec<Capture>,
}

/// All captures that INDEX.md lists, told apart by capinfos.
///
/// # Panics
/// When INDEX.md is not as expected, or capinfos does not run.
pub fn captures(folder: &Path) -> Captures {
    let text = fs::read_to_string(folder.join("INDEX.md")).expect("INDEX.md");
    let mut repository = "";
    let mut all = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            repository = heading.split(' ').next().expect("a repository");
        }
        if let ["| OPEN", file, packets, _, ..] = line.split(" | ").collect::<Vec<_>>()[..]
            && let Ok(packets) = packets.parse()
        {
            let name = format!("{repository}/{file}");
            let path = folder.join(&name);
            all.push(Capture { name, path, packets, data_bytes: 0, encapsulation: String::new() });
        }
    }
    assert_eq!(all.len(), 947, "captures in INDEX.md");
    let output =
        run(Command::new("capinfos").args(["-T", "-r", "-M", "-E", "-d"]).args(all.iter().map(|c| &c.path)));
    let mut told = BTreeMap::new();
    for line in output.lines() {
        let mut columns = line.split('\t');
        if let (Some(path), Some(encapsulation), Some(bytes)) =
            (columns.next(), columns.next(), columns.next())
        {
            told.insert(path.to_owned(), (encapsulation.to_owned(), bytes.parse().unwrap_or(0)));
        }
    }
    for capture in &mut all {
        let path = capture.path.to_str().expect("UTF-8");
        let (encapsulation, bytes) = told.remove(path).unwrap_or_else(|| panic!("capinfos on {path}"));
        (capture.encapsulation, capture.data_bytes) = (encapsulation, bytes);
    }
    let (taken, refused) = all.into_iter().partition(|capture| is_taken(&capture.encapsulation));
    Captures { taken, refused }
}

/// By the names of `capinfos -E`.
fn is_taken(encapsulation: &str) -> bool {
    matches!(
        encapsulation,
        "ether" | "rawip" | "rawip4" | "rawip6" | "linux-sll" | "linux-sll2" | "null" | "loop" | "per-packet"
    )
}

/// The frames of the captures, one after the other.
///
/// # Panics
/// When the Wireshark tools do not run, or count otherwise than INDEX.md.
pub fn frames(captures: &[Capture]) -> Vec<Frame> {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let merged = dir.path().join("merged.pcapng");
    let mut frames: Vec<Frame> = Vec::new();
    for (chunk, first) in captures.chunks(MERGED_AT_ONCE).zip((0..).step_by(MERGED_AT_ONCE)) {
        run(Command::new("mergecap")
            .args(["-a", "-I", "none", "-F", "pcapng", "-w"])
            .arg(&merged)
            .args(chunk.iter().map(|capture| &capture.path)));
        let bytes = fs::read(&merged).expect("what mergecap wrote");
        let mut packets = packets(&bytes).into_iter();
        for (capture, index) in chunk.iter().zip(first..) {
            let mut last_ns = 0;
            for number in 0..capture.packets {
                let packet =
                    packets.next().unwrap_or_else(|| panic!("{}: {} packets", capture.name, capture.packets));
                let mut frame = packet.frame(index, number);
                if (capture.name.as_str(), number) == IMPOSSIBLE_FRACTION {
                    frame.timestamp_ns = IMPOSSIBLE_TIME_NS;
                } else if frame.timestamp_ns == 0 {
                    // A simple packet block has no time; Sluice takes that of the packet before.
                    frame.timestamp_ns = last_ns;
                }
                last_ns = frame.timestamp_ns;
                frames.push(frame);
            }
        }
        assert!(packets.next().is_none(), "more packets than INDEX.md says");
    }
    frames
}

struct Packet<'a> {
    link_type: u16,
    timestamp_ns: u64,
    wire_len: u32,
    data: &'a [u8],
}

impl Packet<'_> {
    fn frame(&self, capture: usize, number: usize) -> Frame {
        let mut wire_len = self.wire_len.max(u32::try_from(self.data.len()).expect("a length"));
        let mut data = self.data.to_vec();
        if let Some(header_len) = self.link_header_len() {
            assert!(data.len() >= header_len, "no capture cuts the link header");
            let mut frame = self.ethernet_header().to_vec();
            frame.extend(&data[header_len..]);
            data = frame;
            wire_len = wire_len + 14 - u32::try_from(header_len).expect("small");
        }
        data.truncate(MAX_FRAME_LEN);
        let converted = self.link_type != 1;
        Frame { capture, number, timestamp_ns: self.timestamp_ns, wire_len, data, converted }
    }

    fn link_header_len(&self) -> Option<usize> {
        assert!(TAKEN.contains(&self.link_type), "link type {}", self.link_type);
        Some(match self.link_type {
            1 => return None,
            0 | 108 => 4,
            113 => 16,
            276 => 20,
            _ => 0,
        })
    }

    fn ethernet_header(&self) -> [u8; 14] {
        let be16 = |at: usize| u16::from_be_bytes([self.data[at], self.data[at + 1]]);
        let version = |at: usize| match self.data.get(at).map(|first| first >> 4) {
            Some(4) => 0x0800,
            Some(6) => 0x86dd,
            _ => 0xffff,
        };
        let mut header = [0; 14];
        let address = match self.link_type {
            113 if be16(4) == 6 => Some(6),
            276 if self.data[11] == 6 => Some(12),
            _ => None,
        };
        if let Some(at) = address {
            header[6..12].copy_from_slice(&self.data[at..at + 6]);
        }
        let protocol = match self.link_type {
            113 => be16(14),
            276 => be16(0),
            228 => 0x0800,
            229 => 0x86dd,
            0 | 108 => version(4),
            _ => version(0),
        };
        // Below are Linux' own numbers; 802.2 frames state their length.
        let ethertype = match protocol {
            0x0600.. => protocol,
            1 | 4 => {
                u16::try_from(self.wire_len).expect("short") - if self.link_type == 113 { 16 } else { 20 }
            }
            _ => 0xffff,
        };
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
        header
    }
}

/// The packets of a file that mergecap wrote: little-endian, one section, enhanced packet blocks.
fn packets(file: &[u8]) -> Vec<Packet<'_>> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    let half = |at: usize| u16::from_le_bytes([file[at], file[at + 1]]);
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < file.len() {
        let len = word(at + 4) as usize;
        match word(at) {
            1 => {
                let mut unit_ns = 1_000;
                let mut option = at + 16;
                while option < at + len - 4 {
                    if half(option) == 9 {
                        unit_ns = 10u64.pow(9 - u32::from(file[option + 4]));
                    }
                    option += 4 + usize::from(half(option + 2)).next_multiple_of(4);
                }
                interfaces.push((half(at + 8), unit_ns));
            }
            6 => {
                let (link_type, unit_ns) = interfaces[word(at + 8) as usize];
                let units = u64::from(word(at + 12)) << 32 | u64::from(word(at + 16));
                packets.push(Packet {
                    link_type,
                    timestamp_ns: units * unit_ns,
                    wire_len: word(at + 24),
                    data: &file[at + 28..at + 28 + word(at + 20) as usize],
                });
            }
            _ => {}
        }
        at += len;
    }
    packets
}

fn run(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}: install the package tshark"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
