//! What bytes go in front of a copy, and how is a copy cut that is too long for its way?
//!
//! - [`Encap`]: the outer Ethernet, IP, and UDP + VXLAN or GRE + ERSPAN headers of one tunnel destination.
//! - [`segment`]: a TCP super-frame into wire-sized segments.
//! - [`fragment`]: an encapsulated copy into outer IP fragments.
//! - [`offload`]: checksums that an offload left unfinished.
//! - [`inner_vlan_tag`] and [`entropy`]: the marks of the copied frame itself.
//!
//! Everything here works on byte slices that the caller owns; nothing allocates or panics on any bytes.

pub mod fragment;
mod header;
pub mod offload;
pub mod segment;
mod tunnel;

use sluice_model::Tag;

pub use fragment::{FragmentPart, FragmentPlan};
pub use header::{Encap, EncapError, Endpoints};
pub use offload::{PartsSum, finish_checksum};
pub use segment::SegmentPlan;

use crate::wire::Parsed;

/// The longest outer header in bytes: Ethernet, IPv6, GRE with key and sequence number, ERSPAN III. The 802.1Q tag of
/// the copied frame itself ([`inner_vlan_tag`]) is not part of it.
pub const MAX_HEADER_LEN: usize = 14 + 40 + 12 + 12;

/// The length of an 802.1Q tag in bytes.
pub const VLAN_TAG_LEN: usize = 4;

/// The largest outer IP packet in bytes, over IPv4 and (to keep one limit) over IPv6.
pub const MAX_IP_PACKET: usize = 65_535;

/// What differs from copy to copy in an outer header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyFields {
    /// The bytes that follow the outer header: the copied frame as sent, an inserted 802.1Q tag included.
    pub inner_len: u32,
    /// The tag: VNI, session id (low 10 bits), GRE key.
    pub tag: Tag,
    /// The direction bit: the copy was matched by its source reading.
    pub egress: bool,
    /// The sequence number of the (endpoint, tag) stream; meaningful when [`Encap::uses_sequence`]. VXLAN carries the
    /// low 24 bits.
    pub sequence: u32,
    /// A hash of the copied flow (see [`entropy`]) for the VXLAN source port and the IPv6 flow label.
    pub entropy: u32,
    /// The capture time in nanoseconds since the epoch (ERSPAN III).
    pub timestamp_ns: u64,
    /// Whether the copy is shorter than the original frame (ERSPAN's T bit).
    pub truncated: bool,
    /// The TCI of the outermost VLAN tag of the original frame (ERSPAN's VLAN and COS), if it had one.
    pub vlan_tci: Option<u16>,
    /// The IPv4 identification. Any value will do while DF is set (RFC 6864 section 4.1); without DF it must not
    /// repeat within a datagram's lifetime.
    pub ip_id: u16,
}

/// The 802.1Q tag that is inserted after the addresses of a copied frame: TPID 0x8100, PCP with its top bit set and
/// its lowest bit the direction, DEI 0, VID = low 12 bits of the tag.
#[inline]
#[must_use]
pub fn inner_vlan_tag(tag: Tag, egress: bool) -> [u8; 4] {
    let pcp = 0b100 | u32::from(egress);
    (0x8100_0000 | pcp << 13 | tag.get() & 0xfff).to_be_bytes()
}

/// An 802.1Q tag with this TCI.
#[inline]
#[must_use]
pub fn vlan_tag(tci: u16) -> [u8; 4] {
    (0x8100_0000 | u32::from(tci)).to_be_bytes()
}

/// A hash of the flow that `parsed` shows, the same for both directions.
///
/// RFC 7348 section 5 recommends a source port from a hash of the inner headers, so that the underlay can spread the
/// load. It leaves open which; this one is symmetric: the outer addresses do not depend on the direction, so both
/// directions of a flow take the same path and reach the same receive queue of the tool, in their order.
/// Frames without IP differ by EtherType and VLAN only.
#[inline]
#[must_use]
pub fn entropy(parsed: &Parsed) -> u32 {
    // Sums of the two ends commute; each end is mixed first, or 10.0.0.1 -> 10.0.0.2 would collide with its
    // neighbours.
    let ends = end(parsed.src_addr, parsed.src_port).wrapping_add(end(parsed.dst_addr, parsed.dst_port));
    let vlan = if parsed.vlan_count > 0 { parsed.vlan_tci & 0x0fff } else { 0 };
    let kind = u64::from(parsed.protocol) | u64::from(parsed.ethertype) << 8 | u64::from(vlan) << 24;
    let hash = mul_fold(ends ^ kind, 0x9e37_79b9_7f4a_7c15);
    low32(hash ^ hash >> 32)
}

/// One end of a flow, mixed.
#[inline]
fn end(addr: [u8; 16], port: u16) -> u64 {
    let [high, low] = halves(addr);
    mul_fold(high ^ 0xa076_1d64_78bd_642f, low ^ u64::from(port) ^ 0xe703_7ed1_a0b4_28db)
}

#[inline]
fn halves(addr: [u8; 16]) -> [u64; 2] {
    let both = u128::from_ne_bytes(addr);
    [low64(both), low64(both >> 64)]
}

/// The 128-bit product of two words, folded.
#[inline]
fn mul_fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    low64(product) ^ low64(product >> 64)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low64(value: u128) -> u64 {
    value as u64
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low32(value: u64) -> u32 {
    value as u32
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low16(value: u32) -> u16 {
    value as u16
}

/// A length that a 16-bit field holds; longer ones, which callers must have cut before, stand as the largest.
#[inline]
const fn len16(value: usize) -> u16 {
    if value > 0xffff {
        return 0xffff;
    }
    #[expect(clippy::cast_possible_truncation, reason = "compared above")]
    {
        value as u16
    }
}

#[cfg(test)]
mod tests;
