//! Why can this capture not be read (further), and where is that?

use std::io;

use crate::link::LinkType;

/// Why a capture cannot be read, or not beyond a point.
///
/// Every whole packet before that point has been delivered before one of these is returned.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened.
    #[error("{file}: cannot be opened: {source}")]
    Open {
        /// The file as it was named.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// The system failed to read the file.
    #[error("{file}: reading failed at byte {offset}, after {packets} whole packets: {source}")]
    Read {
        /// The file as it was named.
        file: String,
        /// Offset in the (decompressed) file, in bytes.
        offset: u64,
        /// Packets delivered before.
        packets: u64,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no pcap or pcapng file.
    #[error(
        "{file}: not a capture file: {reason} (pcap and pcapng are read, plain or compressed by gzip or zstd)"
    )]
    NotACapture {
        /// The file as it was named.
        file: String,
        /// What the file looks like.
        reason: String,
    },
    /// The frames have a link type that Sluice does not turn into Ethernet.
    #[error(
        "{file}: link type {link_type} of interface {interface} is not supported, at byte {offset}, after \
         {packets} whole packets: capture on an Ethernet interface, or convert the file"
    )]
    LinkType {
        /// The file as it was named.
        file: String,
        /// The refused link type.
        link_type: LinkType,
        /// The interface that has it, as in [`Frame::interface`](crate::Frame::interface).
        interface: u32,
        /// Offset of the file header or packet in the (decompressed) file, in bytes.
        offset: u64,
        /// Packets delivered before.
        packets: u64,
    },
    /// The file is cut off or corrupt.
    #[error("{file}: damaged at byte {offset}, in packet {packet} (all before it were read): {damage}")]
    Damaged {
        /// The file as it was named.
        file: String,
        /// Offset of the damaged record or block in the (decompressed) file, in bytes.
        offset: u64,
        /// Number of the packet that could not be read, counted from 1.
        packet: u64,
        /// What is wrong.
        damage: Damage,
    },
}

/// What is wrong with a damaged capture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends too early.
    #[error("the file is cut off inside a {part}: {have_bytes} of {need_bytes} bytes are there")]
    Cut {
        /// In what it ends.
        part: &'static str,
        /// Bytes of it that are there.
        have_bytes: u64,
        /// Bytes that it should have.
        need_bytes: u64,
    },
    /// A packet claims to be longer than any capture tool writes.
    #[error("a packet claims {cap_len} captured bytes, more than the limit of {limit_bytes}")]
    CapturedLength {
        /// The claimed captured length, in bytes.
        cap_len: u32,
        /// The largest one that is believed, in bytes.
        limit_bytes: u32,
    },
    /// The file is of a version that nobody can read.
    #[error("{format} version {major}.{minor} is unknown")]
    Version {
        /// "pcap" or "pcapng".
        format: &'static str,
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// A pcapng block claims an impossible length.
    #[error("a block of type {block_type:#010x} claims a length of {len_bytes} bytes")]
    BlockLength {
        /// The type of the block.
        block_type: u32,
        /// The claimed length, in bytes.
        len_bytes: u32,
    },
    /// The two length fields of a pcapng block differ.
    #[error(
        "a block of type {block_type:#010x} says at its start that it is {first_bytes} bytes long, and \
         {second_bytes} at its end"
    )]
    BlockTrailer {
        /// The type of the block.
        block_type: u32,
        /// The length at its start, in bytes.
        first_bytes: u32,
        /// The length at its end, in bytes.
        second_bytes: u32,
    },
    /// The fields of a pcapng block make no sense.
    #[error("a malformed {part}")]
    Malformed {
        /// The kind of block.
        part: &'static str,
    },
    /// A pcapng packet claims more bytes than its block has.
    #[error("a packet claims {cap_len} captured bytes in a block with room for {room_bytes}")]
    PacketBeyondBlock {
        /// The claimed captured length, in bytes.
        cap_len: u32,
        /// What the block has room for, in bytes.
        room_bytes: u32,
    },
    /// A pcapng packet names an interface that the section does not describe.
    #[error("a packet of interface {interface}, but the section describes {described}")]
    UnknownInterface {
        /// The interface that the packet names.
        interface: u32,
        /// Interfaces described so far in this section.
        described: u32,
    },
    /// A pcapng section describes more interfaces than are believed.
    #[error("a section describes more than {limit} interfaces")]
    TooManyInterfaces {
        /// The largest number that is believed.
        limit: u32,
    },
    /// The compressed stream around the capture is cut or corrupt.
    #[error("the {format} stream is damaged: {reason}")]
    Compression {
        /// "gzip" or "zstd".
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
}

/// A failure below [`CaptureError`], before the file's name and the packet's number are added.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The source failed: the system, or (as an inner [`Damage`]) a decoder.
    Io(io::Error),
    /// The bytes make no sense; with the offset of the record or block.
    Damage(u64, Damage),
    /// The first packet of an interface with a refused link type; with its offset.
    LinkType { offset: u64, link_type: LinkType, interface: u32 },
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
