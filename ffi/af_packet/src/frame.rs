//! Which frame lies at this place of a ring block, and what does the kernel say about it?
//!
//! Pure byte work on a block that user space owns: layouts are those of `linux/if_packet.h` (TPACKET_V3) and
//! `linux/virtio_net.h`. The kernel is trusted to be honest, not to be free of faults: every offset is
//! checked against the block.

use crate::checksum;

/// Bytes of `struct tpacket_block_desc` in front of the frames.
pub(crate) const BLOCK_HEADER_LEN: usize = 48;
/// Bytes of `struct tpacket3_hdr`, which `struct sockaddr_ll` follows.
const FRAME_HEADER_LEN: usize = 48;
/// Bytes of `struct virtio_net_hdr`, directly in front of the frame.
pub(crate) const VNET_HEADER_LEN: usize = 10;
/// Source and destination address: a tag stands behind them.
const ADDRESSES_LEN: usize = 12;
/// Bytes of a re-inserted tag (IEEE 802.1Q, 9.4).
const TAG_LEN: usize = 4;

const VNET_F_NEEDS_CSUM: u8 = 1;
const VNET_F_DATA_VALID: u8 = 2;
const VNET_GSO_ECN: u8 = 0x80;
const PACKET_OUTGOING: u8 = 4;

/// What the kernel knows of a received frame beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RxMeta {
    /// Time stamp, nanoseconds since the Unix epoch (the kernel's `CLOCK_REALTIME`).
    pub timestamp_ns: u64,
    /// Length on the wire in bytes, re-inserted tag included; more than was captured when cut.
    pub wire_len: u32,
    /// Payload bytes per segment of a super-frame; 0 when the frame is an ordinary one.
    pub gso_size: u16,
    /// How a super-frame is to be segmented.
    pub gso: GsoKind,
    /// State of the innermost transport checksum.
    pub checksum: RxChecksum,
    /// This host sent the frame; it was not received.
    pub outgoing: bool,
}

/// Which protocol a super-frame is segmented by (`VIRTIO_NET_HDR_GSO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GsoKind {
    /// Not a super-frame.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// One UDP datagram, to be fragmented by IP.
    UdpFragment,
    /// UDP datagrams of `gso_size` bytes each.
    UdpSegment,
    /// A type this driver does not know.
    Unknown(u8),
}

/// State of a frame's transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RxChecksum {
    /// As it was on the wire; nobody verified it.
    #[default]
    AsReceived,
    /// The kernel or the NIC verified it, or the frame never left this host's memory.
    Valid,
    /// The sender left it undone; the driver completed it.
    Finished,
    /// The sender left it undone and it still is: the frame was cut, or finishing is off.
    Unfinished {
        /// Offset of the first covered byte in the delivered frame.
        start: u16,
        /// Offset of the field from `start`.
        offset: u16,
    },
}

/// What is done to each frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrepareOptions {
    /// Bytes kept of each frame.
    pub(crate) snaplen: usize,
    /// Complete unfinished checksums of whole frames.
    pub(crate) finish_checksums: bool,
}

/// What lies in a slot of a block. `next` is the offset of the following slot, from the start of the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// A frame at `start..start + cap_len`, tag and checksum in place.
    Frame { start: usize, cap_len: usize, meta: RxMeta, next: usize },
    /// The kernel took the slot, then refused the frame (and counted it as a drop): an offload type that
    /// `virtio_net_hdr` cannot describe. The bytes are those of an older frame.
    Refused { next: usize },
    /// Offsets point outside the block: nothing after this can be trusted.
    Malformed,
}

/// Read the slot at `offset` of `frames` (a block without its descriptor), complete the checksum and put a
/// stripped tag back, in place. To be called once per slot: it rewrites the bytes in front of the frame.
pub(crate) fn prepare(frames: &mut [u8], offset: usize, options: PrepareOptions) -> Slot {
    let Some(slot) = frames.get(offset..) else { return Slot::Malformed };
    let Some((header, rest)) = slot.split_first_chunk::<FRAME_HEADER_LEN>() else { return Slot::Malformed };
    // A copy: the bytes behind it are about to be rewritten.
    let header = *header;
    let next_offset = u32_at(&header, 0) as usize;
    let Some(next) = offset.checked_add(next_offset) else { return Slot::Malformed };
    let status = u32_at(&header, 20);
    if status & libc::TP_STATUS_USER == 0 {
        return Slot::Refused { next };
    }
    let mut cap_len = u32_at(&header, 12) as usize;
    let frame_len = u32_at(&header, 16);
    let mac = usize::from(u16_at(&header, 24));
    // `sll_pkttype`, byte 10 of the `sockaddr_ll` behind the frame header.
    let outgoing = rest.get(10).is_some_and(|kind| *kind == PACKET_OUTGOING);
    if mac < FRAME_HEADER_LEN + VNET_HEADER_LEN || slot.len() < mac || slot.len() - mac < cap_len {
        return Slot::Malformed;
    }
    let mut start = offset + mac;
    // The kernel leaves the virtio header out when it had no room for a single byte.
    let vnet = if cap_len == 0 { Vnet::default() } else { Vnet::parse(&slot[mac - VNET_HEADER_LEN..mac]) };

    let mut checksum = RxChecksum::AsReceived;
    if vnet.flags & VNET_F_NEEDS_CSUM != 0 {
        let whole = cap_len == frame_len as usize;
        let finished = options.finish_checksums
            && whole
            && checksum::finish(&mut frames[start..start + cap_len], vnet.csum_start, vnet.csum_offset);
        checksum = if finished {
            RxChecksum::Finished
        } else {
            RxChecksum::Unfinished { start: vnet.csum_start, offset: vnet.csum_offset }
        };
    } else if vnet.flags & VNET_F_DATA_VALID != 0 || status & libc::TP_STATUS_CSUM_VALID != 0 {
        checksum = RxChecksum::Valid;
    }

    let mut wire_len = frame_len;
    if status & libc::TP_STATUS_VLAN_VALID != 0 {
        wire_len = wire_len.saturating_add(4);
        if cap_len >= ADDRESSES_LEN {
            // A 32-bit field whose upper half is always zero.
            let tci = u16::try_from(u32_at(&header, 32) & 0xffff).unwrap_or(0);
            let tpid = match u16_at(&header, 36) {
                tpid if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 => tpid,
                _ => 0x8100,
            };
            start -= TAG_LEN;
            cap_len += TAG_LEN;
            frames.copy_within(start + TAG_LEN..start + TAG_LEN + ADDRESSES_LEN, start);
            let [t0, t1] = tpid.to_be_bytes();
            let [c0, c1] = tci.to_be_bytes();
            frames[start + ADDRESSES_LEN..start + ADDRESSES_LEN + TAG_LEN].copy_from_slice(&[t0, t1, c0, c1]);
            if let RxChecksum::Unfinished { start, offset } = checksum {
                checksum = RxChecksum::Unfinished { start: start.saturating_add(4), offset };
            }
        }
    }
    let seconds = u64::from(u32_at(&header, 4));
    let nanoseconds = u64::from(u32_at(&header, 8));
    let meta = RxMeta {
        timestamp_ns: seconds * 1_000_000_000 + nanoseconds,
        wire_len,
        gso_size: vnet.gso_size,
        gso: vnet.gso,
        checksum,
        outgoing,
    };
    Slot::Frame { start, cap_len: cap_len.min(options.snaplen), meta, next }
}

/// The parts of `struct virtio_net_hdr` that matter on receive.
#[derive(Debug, Clone, Copy, Default)]
struct Vnet {
    flags: u8,
    gso: GsoKind,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Vnet {
    /// Fields are in host byte order on a packet socket (`vio_le()` in the kernel's af_packet.c).
    fn parse(bytes: &[u8]) -> Self {
        let Some(header) = bytes.first_chunk::<VNET_HEADER_LEN>() else { return Self::default() };
        let gso = match header[1] & !VNET_GSO_ECN {
            0 => GsoKind::None,
            1 => GsoKind::TcpV4,
            3 => GsoKind::UdpFragment,
            4 => GsoKind::TcpV6,
            5 => GsoKind::UdpSegment,
            other => GsoKind::Unknown(other),
        };
        Self {
            flags: header[0],
            gso,
            gso_size: if gso == GsoKind::None { 0 } else { u16_at(header, 4) },
            csum_start: u16_at(header, 6),
            csum_offset: u16_at(header, 8),
        }
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b))
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPTIONS: PrepareOptions = PrepareOptions { snaplen: usize::MAX, finish_checksums: true };

    /// One slot as the kernel lays it out: header, address, virtio header, frame.
    fn slot(status: u32, vnet: [u8; VNET_HEADER_LEN], frame: &[u8]) -> Vec<u8> {
        let mac = 92usize;
        let mut bytes = vec![0u8; mac];
        let len = u32::try_from(frame.len()).unwrap();
        let next = u32::try_from((mac + frame.len()).next_multiple_of(8)).unwrap();
        for (at, value) in
            [(0, next), (4, 1_700_000_000), (8, 999_999_999), (12, len), (16, len), (20, status)]
        {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes[24..26].copy_from_slice(&(mac as u16).to_ne_bytes());
        bytes[32..36].copy_from_slice(&0x6007u32.to_ne_bytes());
        bytes[36..38].copy_from_slice(&0x88a8u16.to_ne_bytes());
        bytes[mac - VNET_HEADER_LEN..].copy_from_slice(&vnet);
        bytes.extend_from_slice(frame);
        bytes.resize(next as usize, 0);
        bytes
    }

    #[test]
    fn a_slot_that_the_kernel_gave_up_shows_no_old_bytes() {
        let mut bytes = slot(libc::TP_STATUS_VLAN_VALID, [0; 10], &[1; 60]);
        let before = bytes.clone();
        assert_eq!(prepare(&mut bytes, 0, OPTIONS), Slot::Refused { next: 152 });
        assert_eq!(bytes, before);
    }

    #[test]
    fn a_tag_without_tpid_is_8021q() {
        let frame: Vec<u8> = (0..60).collect();
        let both = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        for (flags, tpid) in [(both, [0x88, 0xa8]), (libc::TP_STATUS_VLAN_VALID, [0x81, 0x00])] {
            let mut bytes = slot(libc::TP_STATUS_USER | flags, [0; 10], &frame);
            let Slot::Frame { start, cap_len, meta, next } = prepare(&mut bytes, 0, OPTIONS) else {
                panic!()
            };
            assert_eq!((start, cap_len, meta.wire_len, next), (88, 64, 64, 152));
            let expected = [&frame[..12], &tpid, &[0x60, 0x07], &frame[12..]].concat();
            assert_eq!(bytes[start..start + cap_len], expected);
            assert_eq!(meta.timestamp_ns, 1_700_000_000_999_999_999);
        }
    }

    #[test]
    fn lengths_that_leave_the_block_are_refused() {
        let good = slot(libc::TP_STATUS_USER, [0; 10], &[1; 60]);
        for (at, value) in [(12, 61u32), (12, u32::MAX), (24, 93), (24, 0xffff), (24, 57), (24, 0)] {
            let mut bytes = good[..152].to_vec();
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            assert_eq!(prepare(&mut bytes, 0, OPTIONS), Slot::Malformed, "{value} at {at}");
        }
        assert_eq!(prepare(&mut good.clone(), 153, OPTIONS), Slot::Malformed);
        assert_eq!(prepare(&mut good.clone(), usize::MAX, OPTIONS), Slot::Malformed);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(status in any::<u32>(), vnet in any::<[u8; 10]>(),
                          frame in prop::collection::vec(any::<u8>(), 0..200),
                          changes in prop::collection::vec((0usize..64, any::<u8>()), 0..6),
                          offset in 0usize..64, snaplen in 0usize..300, finish_checksums in any::<bool>()) {
            let mut bytes = slot(status, vnet, &frame);
            for (at, value) in changes {
                bytes[at] = value;
            }
            let len = bytes.len();
            let slot = prepare(&mut bytes, offset, PrepareOptions { snaplen, finish_checksums });
            if let Slot::Frame { start, cap_len, .. } = slot {
                prop_assert!(start + cap_len <= len && cap_len <= snaplen);
            }
        }
    }
}
