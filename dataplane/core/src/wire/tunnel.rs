//! Which tunnel follows an L4 header, and what does it carry?
//!
//! Tunnels over UDP are recognised by destination port: VXLAN 4789 (with the flag of a valid VNI, other flags ignored,
//! so 0xff too) and 8472 (Linux' older default; only with flags 0x08 and reserved bits 0, since the port is also used by
//! others), GENEVE 6081 (version 0), GTP-U 2152 (version 1, T-PDU). What does not look like it is plain UDP.

use super::bytes::offset16;
use super::erspan::{self, ErspanHeader, Type3Tail};
use super::ethernet::ethertype;
use super::geneve::{self, GeneveHeader};
use super::gre::GreHeader;
use super::gtpu::{self, GtpuHeader};
use super::ipv4::protocol;
use super::parsed::{Parsed, Stop, TunnelHeader};
use super::udp;
use super::vxlan::{self, VxlanHeader};

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    /// An Ethernet frame.
    Ethernet,
    /// An IP packet, version by its first four bits.
    Ip,
    /// An MPLS label stack.
    Mpls,
    /// Something that is not parsed.
    Opaque,
}

/// Whether a UDP destination port may announce a tunnel.
#[inline(always)]
pub(crate) fn is_tunnel_port(port: u16) -> bool {
    matches!(port, vxlan::PORT | vxlan::LINUX_PORT | geneve::PORT | gtpu::PORT)
}

/// Looks for a tunnel in a UDP payload, which starts at `at`, and notes it in `parsed`.
pub(super) fn over_udp(payload: &[u8], at: usize, parsed: &mut Parsed) {
    let (tunnel, id, header_len) = match parsed.dst_port {
        vxlan::PORT | vxlan::LINUX_PORT => {
            let Some((header, _)) = VxlanHeader::split(payload) else { return };
            let strict = parsed.dst_port == vxlan::LINUX_PORT;
            let clean =
                header.flags() == vxlan::FLAG_VNI && header.reserved() == 0 && header.reserved_low() == 0;
            if header.flags() & vxlan::FLAG_VNI == 0 || (strict && !clean) {
                return;
            }
            (TunnelHeader::Vxlan, header.vni(), vxlan::HEADER_LEN)
        }
        geneve::PORT => {
            let Some((header, _)) = GeneveHeader::split(payload) else { return };
            if header.version() != 0 || header.header_len() > payload.len() {
                return;
            }
            (TunnelHeader::Geneve, header.vni(), header.header_len())
        }
        gtpu::PORT => match GtpuHeader::split(payload) {
            Ok((header, _)) if header.message == gtpu::T_PDU => {
                (TunnelHeader::GtpU, header.teid, header.header_len)
            }
            _ => return,
        },
        _ => return,
    };
    parsed.tunnel = tunnel;
    parsed.tunnel_id = id;
    parsed.inner_offset = offset16(at + header_len);
}

/// Notes the tunnel that a GRE header announces; its payload starts at `at`.
pub(super) fn over_gre(gre: &GreHeader, payload: &[u8], at: usize, parsed: &mut Parsed) {
    let found = match gre.protocol {
        ethertype::IPV4 | ethertype::IPV6 | ethertype::MPLS | ethertype::MPLS_UPSTREAM => {
            Ok((TunnelHeader::Gre, gre.key, 0))
        }
        ethertype::TEB => Ok((TunnelHeader::GreTeb, gre.key, 0)),
        // Type I is told by the missing sequence number.
        ethertype::ERSPAN if gre.flags & super::gre::flags::SEQUENCE == 0 => {
            Ok((TunnelHeader::Erspan1, gre.key, 0))
        }
        ethertype::ERSPAN | ethertype::ERSPAN3 => erspan(payload),
        _ => Err(Stop::Unknown),
    };
    match found {
        Ok((tunnel, id, header_len)) => {
            parsed.tunnel = tunnel;
            parsed.tunnel_id = id;
            parsed.inner_offset = offset16(at + header_len);
        }
        Err(stop) => parsed.stop = stop,
    }
}

/// What the tunnel of this (outer) view carries, read again from its headers.
pub(crate) fn carried(frame: &[u8], view: &Parsed) -> Inner {
    match view.tunnel {
        TunnelHeader::None => Inner::Opaque,
        TunnelHeader::Vxlan
        | TunnelHeader::GreTeb
        | TunnelHeader::Erspan1
        | TunnelHeader::Erspan2
        | TunnelHeader::Mpls => Inner::Ethernet,
        TunnelHeader::IpInIp | TunnelHeader::GtpU => Inner::Ip,
        TunnelHeader::Gre => by_ethertype(frame, usize::from(view.l4_offset) + 2),
        TunnelHeader::Geneve => {
            by_ethertype(frame, usize::from(view.l4_offset) + udp::HEADER_LEN + geneve::field::PROTOCOL)
        }
        TunnelHeader::Erspan3 => {
            let tail =
                frame.get(usize::from(view.header_end) + erspan::TYPE2_LEN..).and_then(Type3Tail::split);
            match tail.map(|(tail, _)| tail.frame_type()) {
                Some(erspan::FRAME_ETHERNET) => Inner::Ethernet,
                Some(erspan::FRAME_IP) => Inner::Ip,
                _ => Inner::Opaque,
            }
        }
    }
}

/// The IP version that the tunnel of this (outer) view announces for its packet; `None` when it announces none.
pub(crate) fn announced_version(frame: &[u8], view: &Parsed) -> Option<u8> {
    let ethertype = match view.tunnel {
        TunnelHeader::IpInIp if view.protocol == protocol::IPV4 => return Some(4),
        TunnelHeader::IpInIp => return Some(6),
        TunnelHeader::Gre => usize::from(view.l4_offset) + 2,
        TunnelHeader::Geneve => usize::from(view.l4_offset) + udp::HEADER_LEN + geneve::field::PROTOCOL,
        _ => return None,
    };
    match frame.get(ethertype..).and_then(|field| field.first_chunk()).map(|field| u16::from_be_bytes(*field))
    {
        Some(ethertype::IPV4) => Some(4),
        Some(ethertype::IPV6) => Some(6),
        _ => None,
    }
}

/// Type II or III by the version field, whatever the GRE protocol says: senders mix them up.
fn erspan(payload: &[u8]) -> Result<(TunnelHeader, u32, usize), Stop> {
    let (header, rest) = ErspanHeader::split(payload).ok_or(Stop::Truncated)?;
    let session = u32::from(header.session());
    match header.version() {
        erspan::TYPE2_VERSION => Ok((TunnelHeader::Erspan2, session, erspan::TYPE2_LEN)),
        erspan::TYPE3_VERSION => {
            let (tail, rest) = Type3Tail::split(rest).ok_or(Stop::Truncated)?;
            let sub_header = if tail.has_sub_header() { erspan::SUB_HEADER_LEN } else { 0 };
            if rest.len() < sub_header {
                return Err(Stop::Truncated);
            }
            Ok((TunnelHeader::Erspan3, session, erspan::TYPE3_LEN + sub_header))
        }
        _ => Err(Stop::Malformed),
    }
}

fn by_ethertype(frame: &[u8], at: usize) -> Inner {
    match frame.get(at..).and_then(|field| field.first_chunk()).map(|field| u16::from_be_bytes(*field)) {
        Some(ethertype::TEB) => Inner::Ethernet,
        Some(ethertype::IPV4 | ethertype::IPV6) => Inner::Ip,
        Some(ethertype::MPLS | ethertype::MPLS_UPSTREAM) => Inner::Mpls,
        _ => Inner::Opaque,
    }
}
