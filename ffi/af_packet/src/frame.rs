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
