//! What lies in a nanosecond pcap file, byte for byte? A reader of its own, so that no test of an output trusts the code that
//! wrote it.
//!
//! Layout: draft-ietf-opsawg-pcap: 24 bytes of file header, 16 before each packet. Only the little-endian nanosecond form
//! is known, Ethernet or raw IP; anything else panics, as only tests call this.

use std::fs;
use std::path::Path;

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;

/// Link types of pcap.
pub const ETHERNET: u32 = 1;
/// IPv4 or IPv6 without a link header.
pub const RAW_IP: u32 = 101;

/// One packet record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Nanoseconds since the epoch.
    pub timestamp_ns: u64,
    /// Original length.
    pub wire_len: u32,
    /// The captured bytes.
    pub data: &'a [u8],
}

/// The records of a file of Ethernet frames.
///
/// # Panics
/// When the file is not such a file, whole to its last byte.
pub fn records(file: &[u8]) -> Vec<Record<'_>> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    assert!(file.len() >= 24, "no file header");
    assert_eq!((word(0), word(4)), (MAGIC_NANOSECONDS, 0x0004_0002), "magic and version");
    assert_eq!(word(20), ETHERNET, "link type");
    let snaplen = word(16) as usize;
    let mut records = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let (seconds, nanoseconds, len) = (word(at), word(at + 4), word(at + 8) as usize);
        assert!(nanoseconds < 1_000_000_000, "nanoseconds {nanoseconds} of record {}", records.len());
        assert!(len <= snaplen, "length {len} of record {} beyond the snap length", records.len());
        records.push(Record {
            timestamp_ns: u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds),
            wire_len: word(at + 12),
            data: &file[at + 16..at + 16 + len],
        });
        at += 16 + len;
    }
    records
}

/// Builds such a file.
#[derive(Clone, Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    records: usize,
}

impl Builder {
    /// An empty file of frames of `link_type`.
    pub fn new(link_type: u32) -> Self {
        let mut bytes = Vec::new();
        for word in [MAGIC_NANOSECONDS, 0x0004_0002, 0, 0, 262_144, link_type] {
            bytes.extend(word.to_le_bytes());
        }
        Self { bytes, records: 0 }
    }

    /// Appends a record.
    ///
    /// # Panics
    /// When the time or the length does not fit.
    pub fn push(&mut self, record: Record<'_>) {
        let seconds = u32::try_from(record.timestamp_ns / 1_000_000_000).expect("a time before 2106");
        let nanoseconds = (record.timestamp_ns % 1_000_000_000) as u32;
        let len = u32::try_from(record.data.len()).expect("a length of 32 bits");
        for word in [seconds, nanoseconds, len, record.wire_len] {
            self.bytes.extend(word.to_le_bytes());
        }
        self.bytes.extend(record.data);
        self.records += 1;
    }

    /// The number of records.
    pub fn records(&self) -> usize {
        self.records
    }

    /// The file so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn save(&self, path: &Path) {
        fs::write(path, &self.bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
