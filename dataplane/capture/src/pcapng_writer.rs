//! How does a live capture become a pcapng stream? Block by block, each whole, so that what is there is a file at any
//! moment.
//!
//! Source: draft-ietf-opsawg-pcapng.

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const LINKTYPE_ETHERNET: u16 = 1;

/// Codes of options.
const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_USRDELIV: u16 = 8;
const ISB_OSDROP: u16 = 7;

/// Where a packet went, for `epb_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketDirection {
    /// It was received.
    Inbound,
    /// It was sent.
    Outbound,
}

/// A packet of a pcapng stream.
#[derive(Clone, Copy, Debug)]
pub struct PcapngPacket<'a> {
    /// The number of its interface, in the order of the descriptions.
    pub interface: u32,
    /// Nanoseconds since the epoch.
    pub timestamp_ns: u64,
    /// Its original length in bytes.
    pub wire_len: u32,
    /// Where it went.
    pub direction: PacketDirection,
    /// What is said of it; empty = nothing.
    pub comment: &'a str,
    /// Its first bytes.
    pub data: &'a [u8],
}

/// What is said of an interface at the end of a stream.
#[derive(Clone, Copy, Debug)]
pub struct PcapngStatistics {
    /// The number of the interface.
    pub interface: u32,
    /// When the capture began and ended, nanoseconds since the epoch.
    pub times_ns: [u64; 2],
    /// Packets in the stream.
    pub delivered: u64,
    /// Packets that were left out.
    pub lost: u64,
}

/// Writes pcapng blocks, little-endian and with times in nanoseconds, to a buffer.
///
/// ```
/// use sluice_capture::{PacketDirection, PcapngBlocks, PcapngPacket};
/// let mut blocks = PcapngBlocks::default();
/// blocks.section("example");
/// blocks.interface("tap0", "", 65_535);
/// let direction = PacketDirection::Inbound;
/// blocks.packet(&PcapngPacket { interface: 0, timestamp_ns: 1, wire_len: 60, direction, comment: "", data: &[0; 60] });
/// assert_eq!(blocks.take().len() % 4, 0);
/// ```
#[derive(Debug, Default)]
pub struct PcapngBlocks {
    out: Vec<u8>,
}

impl PcapngBlocks {
    /// A section header, by `application`; interfaces count from 0 again.
    pub fn section(&mut self, application: &str) {
        self.block(SECTION_HEADER, |out| {
            out.extend_from_slice(&BYTE_ORDER.to_le_bytes());
            // Version 1.0, and a section of unknown length.
            out.extend_from_slice(&[1, 0, 0, 0]);
            out.extend_from_slice(&[0xff; 8]);
            option(out, SHB_USERAPPL, application.as_bytes());
            end(out);
        });
    }

    /// The description of an Ethernet interface of which `snaplen` bytes of each packet are kept.
    pub fn interface(&mut self, name: &str, description: &str, snaplen: u32) {
        self.block(INTERFACE_DESCRIPTION, |out| {
            out.extend_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&snaplen.to_le_bytes());
            option(out, IF_NAME, name.as_bytes());
            if !description.is_empty() {
                option(out, IF_DESCRIPTION, description.as_bytes());
            }
            option(out, IF_TSRESOL, &[9]);
            end(out);
        });
    }

    /// A packet.
    pub fn packet(&mut self, packet: &PcapngPacket<'_>) {
        let cap_len = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
        self.block(ENHANCED_PACKET, |out| {
            out.extend_from_slice(&packet.interface.to_le_bytes());
            time(out, packet.timestamp_ns);
            out.extend_from_slice(&cap_len.to_le_bytes());
            out.extend_from_slice(&packet.wire_len.max(cap_len).to_le_bytes());
            out.extend_from_slice(packet.data);
            pad(out);
            if !packet.comment.is_empty() {
                option(out, COMMENT, packet.comment.as_bytes());
            }
            let flags: u32 = match packet.direction {
                PacketDirection::Inbound => 1,
                PacketDirection::Outbound => 2,
            };
            option(out, EPB_FLAGS, &flags.to_le_bytes());
            end(out);
        });
    }

    /// Bytes that [`PcapngBlocks::packet`] takes.
    #[must_use]
    pub fn packet_bytes(packet: &PcapngPacket<'_>) -> usize {
        let comment = match packet.comment.len() {
            0 => 0,
            bytes => 4 + bytes.min(LONGEST_OPTION).next_multiple_of(4),
        };
        // Type and both lengths, the fixed fields, the flags and the end of the options.
        12 + 20 + packet.data.len().next_multiple_of(4) + comment + 8 + 4
    }

    /// What became of an interface.
    pub fn statistics(&mut self, statistics: &PcapngStatistics) {
        let [start_ns, end_ns] = statistics.times_ns;
        self.block(INTERFACE_STATISTICS, |out| {
            out.extend_from_slice(&statistics.interface.to_le_bytes());
            time(out, end_ns);
            for (code, time_ns) in [(ISB_STARTTIME, start_ns), (ISB_ENDTIME, end_ns)] {
                out.extend_from_slice(&code.to_le_bytes());
                out.extend_from_slice(&8_u16.to_le_bytes());
                time(out, time_ns);
            }
            option(out, ISB_OSDROP, &statistics.lost.to_le_bytes());
            option(out, ISB_USRDELIV, &statistics.delivered.to_le_bytes());
            end(out);
        });
    }

    /// Bytes that [`PcapngBlocks::statistics`] takes.
    pub const STATISTICS_BYTES: usize = 12 + 12 + 4 * 12 + 4;

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether none wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes the blocks out.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    fn block(&mut self, block_type: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.out.len();
        self.out.extend_from_slice(&block_type.to_le_bytes());
        self.out.extend_from_slice(&[0; 4]);
        body(&mut self.out);
        // A frame has 64 KiB, a buffer a few MiB.
        let len = u32::try_from(self.out.len() - begin + 4).unwrap_or(u32::MAX).to_le_bytes();
        self.out.extend_from_slice(&len);
        if let Some(place) = self.out.get_mut(begin + 4..begin + 8) {
            place.copy_from_slice(&len);
        }
    }
}

/// Bytes of an option's value, at most.
const LONGEST_OPTION: usize = 65_535;

/// An option with its padding. All blocks before it, and so the buffer, end at a multiple of four bytes.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..LONGEST_OPTION).unwrap_or(value);
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(value);
    pad(out);
}

fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A time: its upper half, then its lower one.
fn time(out: &mut Vec<u8>, time_ns: u64) {
    let [low, high] = [time_ns & 0xffff_ffff, time_ns >> 32].map(|half| u32::try_from(half).unwrap_or(0));
    out.extend_from_slice(&high.to_le_bytes());
    out.extend_from_slice(&low.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::CaptureReader;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            packets in prop::collection::vec((0_u32..3, any::<u64>(), 14_usize..300, "\\PC{0,20}"), 0..20),
        ) {
            let mut blocks = PcapngBlocks::default();
            blocks.section("test");
            for name in ["a", "bc", ""] {
                blocks.interface(name, "what it is", 300);
            }
            for (interface, timestamp_ns, len, comment) in &packets {
                let data = vec![u8::try_from(*interface).unwrap(); *len];
                let packet = PcapngPacket {
                    interface: *interface,
                    timestamp_ns: *timestamp_ns,
                    wire_len: 1000,
                    direction: PacketDirection::Outbound,
                    comment,
                    data: &data,
                };
                let before = blocks.len();
                blocks.packet(&packet);
                prop_assert_eq!(blocks.len() - before, PcapngBlocks::packet_bytes(&packet));
            }
            let before = blocks.len();
            blocks.statistics(&PcapngStatistics { interface: 2, times_ns: [1, 2], delivered: 3, lost: 4 });
            prop_assert_eq!(blocks.len() - before, PcapngBlocks::STATISTICS_BYTES);
            let file = blocks.take();
            let mut reader = CaptureReader::from_reader("test", Box::new(std::io::Cursor::new(file))).unwrap();
            for (interface, timestamp_ns, len, _) in &packets {
                let frame = reader.next_frame().unwrap().unwrap();
                prop_assert_eq!((frame.timestamp_ns, frame.wire_len), (*timestamp_ns, 1000));
                prop_assert_eq!(frame.data, &vec![u8::try_from(*interface).unwrap(); *len][..]);
            }
            prop_assert!(reader.next_frame().unwrap().is_none());
        }
    }
}
