//! What do the UDP + VXLAN and GRE + ERSPAN headers of a copy look like?
//!
//! Each function returns the bytes after the outer IP header. Layouts: RFC 768, RFC 7348 section 5, RFC 2784 and 2890,
//! draft-foschiano-erspan-03 sections 4.2 and 4.3.

use super::{CopyFields, low16, low32};

/// UDP + VXLAN, and GRE + ERSPAN II.
pub(super) const SHORT: usize = 16;
/// GRE + ERSPAN III.
pub(super) const ERSPAN3: usize = 20;
/// GRE with key + ERSPAN III.
pub(super) const ERSPAN3_KEYED: usize = 24;

/// Lowest dynamic port (RFC 7348 section 5 recommends 49152 to 65535 as source ports): the upper two bits.
const DYNAMIC_PORTS: u16 = 0xc000;

/// GRE flags (RFC 2890) and protocol types.
const GRE_SEQUENCE: u32 = 0x1000_0000;
const GRE_KEY: u32 = 0x2000_0000;
const GRE_ERSPAN2: u32 = 0x88be;
const GRE_ERSPAN3: u32 = 0x22eb;

/// ERSPAN II En = 11b: the VLAN tag, if any, stays in the frame.
const EN_PRESERVED: u32 = 3;

/// ERSPAN III P = 1: the payload is an Ethernet frame (with FT = 0).
const P_ETHERNET: u32 = 1 << 15;
/// ERSPAN III Gra = 01b: the time stamp counts units of 100 ns.
const GRA_100_NS: u32 = 1 << 1;
/// ERSPAN III Gra = 11b: a granularity by agreement; here the 48-bit value counts units of 65,536 ns.
const GRA_CUSTOM: u32 = 3 << 1;

/// UDP, its checksum zero, and VXLAN with flags 0x08 and VNI = tag.
#[inline]
pub(super) fn vxlan(udp_port: u16, udp_len: u16, fields: &CopyFields) -> [u8; SHORT] {
    udp_and(udp_port, udp_len, fields, 0x0800_0000, fields.tag.get() << 8)
}

/// The same with flags 0xff, a 24-bit sequence number after them, and the direction in the lowest bit.
#[inline]
pub(super) fn vxlan_reference(udp_port: u16, udp_len: u16, fields: &CopyFields) -> [u8; SHORT] {
    let first = 0xff00_0000 | fields.sequence & 0x00ff_ffff;
    udp_and(udp_port, udp_len, fields, first, fields.tag.get() << 8 | u32::from(fields.egress))
}

#[inline]
fn udp_and(udp_port: u16, udp_len: u16, fields: &CopyFields, first: u32, second: u32) -> [u8; SHORT] {
    let src_port = DYNAMIC_PORTS | low16(fields.entropy);
    let ports = u32::from(src_port) << 16 | u32::from(udp_port);
    words([ports, u32::from(udp_len) << 16, first, second])
}

/// GRE with sequence number and ERSPAN II. The Index field, which the draft leaves to the platform ("source port and
/// direction"), holds the direction in its lowest bit.
#[inline]
pub(super) fn erspan2(fields: &CopyFields) -> [u8; SHORT] {
    let en = if fields.vlan_tci.is_some() { EN_PRESERVED << 11 } else { 0 };
    words([GRE_SEQUENCE | GRE_ERSPAN2, fields.sequence, first_word(1, fields) | en, u32::from(fields.egress)])
}

/// GRE with sequence number and ERSPAN III. The time stamp is the capture time in units of 100 ns modulo 2^32: it
/// wraps every 429.4967296 s. SGT 0 (unknown), hardware id 0, no platform sub-header.
#[inline]
pub(super) fn erspan3(fields: &CopyFields) -> [u8; ERSPAN3] {
    words([
        GRE_SEQUENCE | GRE_ERSPAN3,
        fields.sequence,
        first_word(2, fields),
        low32(fields.timestamp_ns / 100),
        P_ETHERNET | u32::from(fields.egress) << 3 | GRA_100_NS,
    ])
}

/// GRE with key = tag and sequence number, and ERSPAN III in which time stamp and SGT together are the upper 48 bits of
/// the capture time in nanoseconds: a unit of 65,536 ns, which no fixed granularity expresses, hence the custom one.
#[inline]
pub(super) fn erspan3_reference(fields: &CopyFields) -> [u8; ERSPAN3_KEYED] {
    let time = fields.timestamp_ns;
    words([
        GRE_KEY | GRE_SEQUENCE | GRE_ERSPAN3,
        fields.tag.get(),
        fields.sequence,
        first_word(2, fields),
        low32(time >> 32),
        low32(time) & 0xffff_0000 | P_ETHERNET | u32::from(fields.egress) << 3 | GRA_CUSTOM,
    ])
}

/// The word that ERSPAN II and III share: version, VLAN, COS, (En or BSO), T, session id.
#[inline]
fn first_word(version: u32, fields: &CopyFields) -> u32 {
    let tci = u32::from(fields.vlan_tci.unwrap_or(0));
    version << 28
        | (tci & 0xfff) << 16
        | tci >> 13 << 13
        | u32::from(fields.truncated) << 10
        | fields.tag.get() & 0x3ff
}

/// Words in network byte order.
#[inline]
fn words<const WORDS: usize, const BYTES: usize>(values: [u32; WORDS]) -> [u8; BYTES] {
    const { assert!(BYTES == WORDS * 4) };
    let mut bytes = [0; BYTES];
    for (chunk, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *chunk = value.to_be_bytes();
    }
    bytes
}
