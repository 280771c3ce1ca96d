//! How do most tunnels come off? One VXLAN header over IPv4, and in it Ethernet, IPv4, and TCP or UDP.
//!
//! The same as [`unwrap`](super::unwrap) does, with everything else left to it.

use sluice_model::{DecapKind, DecapSettings};

use super::TunnelInfo;
use super::walk::NUMBERED_FLAGS;
use crate::wire::{self, Fragment, L3, Parsed, TunnelHeader, vxlan};

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
