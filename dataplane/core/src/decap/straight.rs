//! How do most tunnels come off? One VXLAN header over IPv4, and in it Ethernet, IPv4, and TCP or UDP.
//!
//! The same as [`unwrap`](super::unwrap) does, with everything else left to it.

use sluice_model::{DecapKind, DecapSettings};

use super::TunnelInfo;
use super::walk::NUMBERED_FLAGS;
use crate::wire::bytes::{be16, be24, be32, byte, bytes};
use crate::wire::ipv4::protocol;
use crate::wire::{self, Fragment, L3, Parsed, TunnelHeader, ethernet, vxlan};

/// Where the inner frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Straight {
    /// Where it starts.
    pub start: u16,
    /// Where it ends by the length of the outer packet, which may be behind the end of the frame.
    pub end: u32,
}

/// Takes off the one tunnel of `frame` if it is of the plainest kind; `None`, and nothing changed, for all else.
#[inline(always)]
pub fn straight(
    frame: &[u8],
    settings: DecapSettings,
    view: &mut Parsed,
    tunnel: &mut TunnelInfo,
) -> Option<Straight> {
    let is_plain = view.tunnel == TunnelHeader::Vxlan
        && view.l3 == L3::Ipv4
        && view.fragment == Fragment::Whole
        && settings.kinds.has(DecapKind::Vxlan);
    if !is_plain {
        return None;
    }
    let (at, l3) = (usize::from(view.inner_offset), usize::from(view.l3_offset));
    let (info, start) = (
        TunnelInfo {
            kind: TunnelHeader::Vxlan,
            depth: 1,
            ipv4: true,
            id: view.tunnel_id,
            src_addr: view.src_addr,
            dst_addr: view.dst_addr,
            own: false,
            mark: TunnelInfo::mark_of(view.tunnel_id, false),
        },
        view.inner_offset,
    );
    let total = u16::from_be_bytes(*frame.get(l3 + 2..)?.first_chunk()?);
    let end = l3 + usize::from(total);
    let header = frame.get(at.checked_sub(vxlan::HEADER_LEN)?..end.min(frame.len()))?;
    let (flags, data) = (*header.first()?, header.get(vxlan::HEADER_LEN..)?);
    // Labels may stand before the outer packet: an MPLS tunnel is one more.
    if flags == NUMBERED_FLAGS || super::walk::is_mpls(view.ethertype) || !wire::parse_plain_into(data, view)
    {
        return None;
    }
    if view.tunnel != TunnelHeader::None {
        wire::parse_into(frame, view);
        return None;
    }
    *tunnel = info;
    Some(Straight { start, end: u32::try_from(end).unwrap_or(u32::MAX) })
}

/// Where the inner frame of a packet in VXLAN over untagged IPv4 without options starts.
const DIRECT_START: usize = 50;
/// The flags byte of VXLAN (RFC 7348).
const PLAIN_FLAGS: u8 = vxlan::FLAG_VNI;

/// As [`straight`] for a frame that was not parsed: its outer headers are compared with the one shape that most have, and
/// only the inner ones are parsed. `None` for all else; then nothing is said about `view`, and `tunnel` is unchanged.
#[inline(always)]
pub fn direct(
    frame: &[u8],
    settings: DecapSettings,
    view: &mut Parsed,
    tunnel: &mut TunnelInfo,
) -> Option<Straight> {
    let head = frame.first_chunk::<DIRECT_START>()?;
    let total = be16::<16, _>(head);
    // EtherType 0x0800, version 4, five words of header; no fragment; UDP to VXLAN's port.
    let differs = ((be32::<12, _>(head) ^ 0x0800_4500) & 0xffff_ff00)
        | (be32::<20, _>(head) & 0x3fff_0000)
        | u32::from(byte::<23, _>(head) ^ protocol::UDP)
        | u32::from(be16::<36, _>(head) ^ vxlan::PORT)
        | u32::from(byte::<42, _>(head) ^ PLAIN_FLAGS);
    if differs != 0 || !settings.kinds.has(DecapKind::Vxlan) {
        return None;
    }
    let end = ethernet::HEADER_LEN + usize::from(total);
    let data = frame.get(DIRECT_START..end.min(frame.len()))?;
    if !wire::parse_plain_into(data, view) || view.tunnel != TunnelHeader::None {
        return None;
    }
    let address = |octets: [u8; 4]| u128::from(u32::from_le_bytes(octets)).to_le_bytes();
    let id = be24::<46, _>(head);
    *tunnel = TunnelInfo {
        kind: TunnelHeader::Vxlan,
        depth: 1,
        ipv4: true,
        id,
        src_addr: address(bytes::<26, 4, _>(head)),
        dst_addr: address(bytes::<30, 4, _>(head)),
        own: false,
        mark: TunnelInfo::mark_of(id, false),
    };
    Some(Straight { start: DIRECT_START_16, end: u32::try_from(end).unwrap_or(u32::MAX) })
}

/// The same as offsets have it.
const DIRECT_START_16: u16 = 50;
const _: () = assert!(DIRECT_START_16 as usize == DIRECT_START);
