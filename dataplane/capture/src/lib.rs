//! Capture files: pcap and pcapng in (plain, gzip, zstd), nanosecond pcap (files) and pcapng (streams) out.
//!
//! [`CaptureReader`] hands on one Ethernet frame after the other from a file that nobody vouches for: every
//! whole packet before a damage is delivered, then an error says where the damage is and what it looks like.
//! Memory is bounded whatever the lengths in the file claim. Frames of raw IP, Linux cooked and BSD loopback
//! captures get an Ethernet header; other link types are refused by name.
//! [`PcapWriter`] writes what a replay sends, [`PcapngBlocks`] what a live capture sees.
//!
//! Nothing here knows packets beyond the link header, DPDK or policies.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod classic;
mod compression;
mod error;
mod link;
mod order;
mod pcapng;
mod pcapng_writer;
mod reader;
mod window;
mod writer;

pub use error::{CaptureError, Damage};
pub use link::LinkType;
pub use pcapng_writer::{PacketDirection, PcapngBlocks, PcapngPacket, PcapngStatistics};
pub use reader::{CaptureReader, Frame, MAX_FRAME_BYTES, Progress};
pub use writer::{PcapWriter, SNAPLEN};
