//! How far can a frame be followed from its first byte? The walk through the headers of one view.

use super::bytes::{be16, be32, byte, bytes, offset16};
use super::ethernet::{self, EthernetHeader, ethertype};
use super::gre::GreHeader;
use super::ipv4::{self, Ipv4Header, protocol};
use super::ipv6::{self, Extension, Ipv6Header};
use super::llc::{SNAP_LEN, SnapHeader};
use super::mpls::{self, LabelEntry};
use super::parsed::{Fragment, L3, Parsed, Stop, TunnelHeader};
use super::tcp::{self, TcpHeader};
use super::tunnel::{self, Inner};
use super::vlan::{self, VlanTag};
use super::{arp, icmp, sctp, udp};

/// The longest frame, in bytes, whose places fit into the offsets of [`Parsed`].
pub const MAX_FRAME_LEN: usize = 65_535;

/// Where L4 starts in an untagged frame with a plain IPv4 header, and where a TCP header without options ends.
const PLAIN_L4: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
const PLAIN_LEN: usize = PLAIN_L4 + tcp::HEADER_LEN;

/// The outermost headers of a frame through L4, and the tunnel that follows them.
///
/// `frame` holds the captured bytes from the destination address on; what lies beyond [`MAX_FRAME_LEN`] is not looked at.
///
/// ```
/// use sluice_core::wire::{self, L3};
/// let mut frame = [0u8; 60];
/// frame[12..14].copy_from_slice(&[0x08, 0x00]);
/// frame[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
/// frame[34..42].copy_from_slice(&[0xc0, 0, 0, 53, 0, 26, 0, 0]);
/// let parsed = wire::parse(&frame);
/// assert_eq!((parsed.l3, parsed.dst_port, parsed.header_end), (L3::Ipv4, 53, 42));
/// ```
#[inline]
pub fn parse(frame: &[u8]) -> Parsed {
    let mut parsed = Parsed::EMPTY;
    parse_into(frame, &mut parsed);
    parsed
}

/// As [`parse`], written where the result shall stay; all of what was there is replaced.
#[inline]
pub fn parse_into(frame: &[u8], parsed: &mut Parsed) {
    if !plain(frame, 0, parsed) {
        parse_any(frame, parsed);
    }
}

/// As [`parse_into`] for untagged Ethernet, IPv4 without options and fragments, TCP or UDP; for all else false, and
/// nothing is changed.
#[inline(always)]
pub(crate) fn parse_plain_into(frame: &[u8], parsed: &mut Parsed) -> bool {
    plain(frame, 0, parsed)
}

/// The innermost headers that can be parsed, through at most `depth_limit` tunnels; `*outer` when there is no tunnel, or
/// nothing inside it can be parsed.
///
/// `outer` is what [`parse`] said about the same `frame`. In the result, `tunnel`, `tunnel_id` and `inner_offset` are
/// about the tunnel that encloses the headers, so that `inner_offset` is where they start, like `l2_offset`.
#[inline]
pub fn parse_innermost(frame: &[u8], outer: &Parsed, depth_limit: u8) -> Parsed {
    if outer.tunnel == TunnelHeader::None { *outer } else { follow(frame, outer, depth_limit) }
}

/// Untagged Ethernet, IPv4 without options and fragments, TCP or UDP: straight, false for all else. `data` starts at
/// `at` in the frame.
#[inline(always)]
fn plain(data: &[u8], at: usize, parsed: &mut Parsed) -> bool {
    let Some(head) = data.first_chunk::<PLAIN_LEN>() else { return false };
    let protocol = byte::<23, _>(head);
    let is_tcp = protocol == protocol::TCP;
    let is_udp = protocol == protocol::UDP;
    let src_port = be16::<34, _>(head);
    let dst_port = be16::<36, _>(head);
    let tcp_len = usize::from(byte::<46, _>(head) >> 4) * 4;
    // Arithmetic and not branches, as the traffic mixes both: the compiler makes branches of choices.
    let least = udp::HEADER_LEN + usize::from(is_tcp) * (tcp::HEADER_LEN - udp::HEADER_LEN);
    let len = usize::from(is_tcp) * tcp_len + usize::from(is_udp) * udp::HEADER_LEN;
    let tcp_flags = byte::<47, _>(head) & u8::from(is_tcp).wrapping_neg();
    let tunnel_port = dst_port & u16::from(is_udp).wrapping_neg();
    // EtherType 0x0800, version 4, five words of header; no fragment.
    let differs = ((be32::<12, _>(head) ^ 0x0800_4500) & 0xffff_ff00) | (be32::<20, _>(head) & 0x3fff_0000);
    if differs != 0
        || !(is_tcp | is_udp)
        || usize::from(be16::<16, _>(head)) < ipv4::HEADER_LEN + least
        || len < least
        || PLAIN_L4 + len > data.len()
    {
        return false;
    }
    *parsed = Parsed {
        src_addr: widen(bytes::<26, 4, _>(head)),
        dst_addr: widen(bytes::<30, 4, _>(head)),
        src_port,
        dst_port,
        ethertype: ethertype::IPV4,
        l2_offset: offset16(at),
        l3_offset: offset16(at + ethernet::HEADER_LEN),
        l4_offset: offset16(at + PLAIN_L4),
        header_end: offset16(at + PLAIN_L4 + len),
        protocol,
        tcp_flags,
        l3: L3::Ipv4,
        has_ports: true,
        ..Parsed::EMPTY
    };
    if tunnel::is_tunnel_port(tunnel_port)
        && let Some(payload) = data.get(PLAIN_L4 + udp::HEADER_LEN..)
    {
        tunnel::over_udp(payload, at + PLAIN_L4 + udp::HEADER_LEN, parsed);
    }
    true
}

#[inline(never)]
fn parse_any(frame: &[u8], parsed: &mut Parsed) {
    *parsed = Parsed::EMPTY;
    from_ethernet(frame.get(..MAX_FRAME_LEN).unwrap_or(frame), 0, parsed);
}

/// The headers of a packet that has lost its Ethernet header: what [`parse`] says of the frame that an untagged Ethernet
/// header of this EtherType and `packet` make together.
///
/// Offsets count from that header's first byte.
#[inline]
pub fn parse_headless_into(packet: &[u8], ethertype: u16, parsed: &mut Parsed) {
    *parsed = Parsed::EMPTY;
    let packet = packet.get(..MAX_FRAME_LEN - ethernet::HEADER_LEN).unwrap_or(packet);
    from_ethertype(packet, ethertype, ethernet::HEADER_LEN, parsed);
}

#[inline(never)]
fn follow(frame: &[u8], outer: &Parsed, depth_limit: u8) -> Parsed {
    let frame = frame.get(..MAX_FRAME_LEN).unwrap_or(frame);
    let mut view = *outer;
    let mut enclosing = None;
    for _ in 0..depth_limit {
        let at = usize::from(view.inner_offset);
        let Some(data) = frame.get(at..) else { break };
        let mut next = Parsed::EMPTY;
        let understood = match tunnel::carried(frame, &view) {
            Inner::Ethernet => {
                if !plain(data, at, &mut next) {
                    from_ethernet(data, at, &mut next);
                }
                data.len() >= ethernet::HEADER_LEN
            }
            Inner::Ip => {
                from_ip(data, at, &mut next);
                next.l3 != L3::None
            }
            Inner::Mpls => {
                from_mpls(data, at, &mut next);
                next.l3 != L3::None
            }
            Inner::Opaque => false,
        };
        if !understood {
            break;
        }
        enclosing = Some((view.tunnel, view.tunnel_id, view.inner_offset));
        view = next;
        view.l2_offset = offset16(at);
    }
    if let Some((tunnel, id, at)) = enclosing {
        (view.tunnel, view.tunnel_id, view.inner_offset) = (tunnel, id, at);
    }
    view
}

/// `data` starts with an Ethernet header, at `at` in the frame. So for the others below.
fn from_ethernet(data: &[u8], at: usize, parsed: &mut Parsed) {
    let Some((header, mut rest)) = EthernetHeader::split(data) else {
        (parsed.l3_offset, parsed.header_end) = (offset16(at), offset16(at));
        parsed.stop = Stop::Truncated;
        return;
    };
    let mut at = at + ethernet::HEADER_LEN;
    let mut kind = header.ethertype();
    while vlan::is_tpid(kind) {
        let tag = if parsed.vlan_count < vlan::MAX_TAGS { VlanTag::split(rest) } else { None };
        let Some((tag, after)) = tag else {
            parsed.stop = if parsed.vlan_count < vlan::MAX_TAGS { Stop::Truncated } else { Stop::Unknown };
            break;
        };
        match parsed.vlan_count {
            0 => parsed.vlan_tci = tag.tci(),
            1 => parsed.vlan_inner_tci = tag.tci(),
            _ => {}
        }
        parsed.vlan_count += 1;
        kind = tag.ethertype();
        rest = after;
        at += vlan::TAG_LEN;
    }
    if kind <= ethernet::LENGTH_MAX {
        kind = match SnapHeader::split(rest) {
            Some((snap, after)) => {
                rest = after;
                at += SNAP_LEN;
                snap.ethertype()
            }
            None => 0,
        };
    }
    from_ethertype(rest, kind, at, parsed);
}

/// `data` is what an EtherType announces.
fn from_ethertype(data: &[u8], kind: u16, at: usize, parsed: &mut Parsed) {
    parsed.ethertype = kind;
    parsed.l3_offset = offset16(at);
    parsed.header_end = offset16(at);
    match kind {
        ethertype::IPV4 => from_ipv4(data, at, parsed),
        ethertype::IPV6 => from_ipv6(data, at, parsed),
        ethertype::ARP => from_arp(data, at, parsed),
        ethertype::MPLS | ethertype::MPLS_UPSTREAM => from_mpls(data, at, parsed),
        // Why a stack of tags ended stays said.
        _ if parsed.stop == Stop::Complete => parsed.stop = Stop::Unknown,
        _ => {}
    }
}

fn from_mpls(data: &[u8], at: usize, parsed: &mut Parsed) {
    let (mut rest, mut at) = (data, at);
    for _ in 0..mpls::MAX_ENTRIES {
        let Some((entry, after)) = LabelEntry::split(rest) else {
            parsed.stop = Stop::Truncated;
            return;
        };
        rest = after;
        at += mpls::ENTRY_LEN;
        parsed.l3_offset = offset16(at);
        parsed.header_end = offset16(at);
        if entry.is_bottom() {
            from_ip(rest, at, parsed);
            if parsed.l3 == L3::None
                && let Some(skip) = mpls::pseudowire(rest)
            {
                parsed.tunnel = TunnelHeader::Mpls;
                parsed.tunnel_id = entry.label();
                parsed.inner_offset = offset16(at + skip);
                parsed.stop = Stop::Complete;
            }
            return;
        }
    }
    parsed.stop = Stop::Unknown;
}

/// IP of the version that the first four bits say, where nothing before it tells.
fn from_ip(data: &[u8], at: usize, parsed: &mut Parsed) {
    parsed.l3_offset = offset16(at);
    parsed.header_end = offset16(at);
    match data.first().map(|first| first >> 4) {
        Some(4) => from_ipv4(data, at, parsed),
        Some(6) => from_ipv6(data, at, parsed),
        Some(_) => parsed.stop = Stop::Unknown,
        None => parsed.stop = Stop::Truncated,
    }
}

fn from_arp(data: &[u8], at: usize, parsed: &mut Parsed) {
    parsed.l3 = L3::Arp;
    end_header(arp::PACKET_LEN, data.len(), at, parsed);
}

fn from_ipv4(data: &[u8], at: usize, parsed: &mut Parsed) {
    let Some((header, _)) = Ipv4Header::split(data) else {
        parsed.stop = Stop::Truncated;
        return;
    };
    let header_len = header.header_len();
    // A total length of 0 is what segmentation offloads leave in frames above 64 kB.
    let stated = match usize::from(header.total_len()) {
        0 => MAX_FRAME_LEN,
        total => total,
    };
    if header.version() != 4 || header_len < ipv4::HEADER_LEN || stated < header_len {
        parsed.stop = Stop::Malformed;
        return;
    }
    parsed.l3 = L3::Ipv4;
    parsed.src_addr = widen(header.src_addr());
    parsed.dst_addr = widen(header.dst_addr());
    parsed.protocol = header.protocol();
    parsed.fragment = header.fragment();
    end_header(header_len, data.len(), at, parsed);
    let Some(payload) = data.get(header_len..) else { return };
    if parsed.fragment != Fragment::Later {
        from_l4(payload, at + header_len, stated - header_len, parsed);
    }
}

fn from_ipv6(data: &[u8], at: usize, parsed: &mut Parsed) {
    let Some((header, mut rest)) = Ipv6Header::split(data) else {
        parsed.stop = Stop::Truncated;
        return;
    };
    if header.version() != 6 {
        parsed.stop = Stop::Malformed;
        return;
    }
    parsed.l3 = L3::Ipv6;
    parsed.src_addr = header.src_addr();
    parsed.dst_addr = header.dst_addr();
    parsed.protocol = header.next_header();
    // A payload length of 0 stands for a jumbo payload option, or for an offload as in IPv4.
    let mut stated = match usize::from(header.payload_len()) {
        0 => MAX_FRAME_LEN,
        payload_len => payload_len,
    };
    let mut at = at + ipv6::HEADER_LEN;
    parsed.header_end = offset16(at);
    let mut left = ipv6::MAX_EXTENSIONS;
    while ipv6::is_extension(parsed.protocol) {
        if left == 0 {
            parsed.stop = Stop::Unknown;
            return;
        }
        left -= 1;
        let extension = Extension::new(parsed.protocol, rest);
        let after = extension.and_then(|extension| rest.get(extension.header_len()..));
        let (Some(extension), Some(after)) = (extension, after) else {
            parsed.header_end = offset16(at + rest.len());
            parsed.stop = Stop::Truncated;
            return;
        };
        rest = after;
        at += extension.header_len();
        stated = stated.saturating_sub(extension.header_len());
        parsed.header_end = offset16(at);
        if extension.fragment() != Fragment::Whole {
            parsed.fragment = extension.fragment();
        }
        parsed.protocol = extension.next_header();
        if parsed.fragment == Fragment::Later {
            return;
        }
    }
    if parsed.protocol != protocol::NO_NEXT_HEADER {
        from_l4(rest, at, stated, parsed);
    }
}

/// `stated` is what the IP header says about the length of the payload; a header that does not fit into it is not
/// there, and what follows is padding.
fn from_l4(data: &[u8], at: usize, stated: usize, parsed: &mut Parsed) {
    parsed.l4_offset = offset16(at);
    let least = match parsed.protocol {
        protocol::TCP => tcp::HEADER_LEN,
        protocol::UDP => udp::HEADER_LEN,
        protocol::SCTP => sctp::HEADER_LEN,
        protocol::ICMP | protocol::ICMPV6 => icmp::HEADER_LEN,
        protocol::GRE => super::gre::HEADER_LEN,
        protocol::IPV4 | protocol::IPV6 => {
            parsed.tunnel = TunnelHeader::IpInIp;
            parsed.inner_offset = offset16(at);
            return;
        }
        _ => {
            parsed.stop = Stop::Unknown;
            return;
        }
    };
    if stated < least {
        parsed.l4_offset = 0;
        parsed.stop = Stop::Malformed;
        return;
    }
    match parsed.protocol {
        protocol::TCP => from_tcp(data, at, parsed),
        protocol::UDP => {
            read_ports(data, parsed);
            end_header(least, data.len(), at, parsed);
            if tunnel::is_tunnel_port(parsed.dst_port)
                && let Some(payload) = data.get(udp::HEADER_LEN..)
            {
                tunnel::over_udp(payload, at + udp::HEADER_LEN, parsed);
            }
        }
        protocol::GRE => from_gre(data, at, parsed),
        protocol => {
            if protocol == protocol::SCTP {
                read_ports(data, parsed);
            }
            end_header(least, data.len(), at, parsed);
        }
    }
}

fn from_tcp(data: &[u8], at: usize, parsed: &mut Parsed) {
    read_ports(data, parsed);
    let header_len = match (TcpHeader::split(data), data.get(tcp::field::FLAGS)) {
        (Some((header, _)), _) => {
            parsed.tcp_flags = header.flags();
            header.header_len()
        }
        (None, Some(flags)) => {
            parsed.tcp_flags = *flags;
            tcp::HEADER_LEN
        }
        // `l4_offset` promises the flags.
        (None, None) => {
            parsed.l4_offset = 0;
            tcp::HEADER_LEN
        }
    };
    if header_len < tcp::HEADER_LEN {
        parsed.stop = Stop::Malformed;
    }
    end_header(header_len.max(tcp::HEADER_LEN), data.len(), at, parsed);
}

fn from_gre(data: &[u8], at: usize, parsed: &mut Parsed) {
    match GreHeader::split(data) {
        Ok((gre, payload)) => {
            let at = at + gre.header_len;
            parsed.header_end = offset16(at);
            if gre.version() == 0 {
                tunnel::over_gre(&gre, payload, at, parsed);
            } else {
                parsed.stop = Stop::Unknown;
            }
        }
        Err(Stop::Truncated) => end_header(data.len() + 1, data.len(), at, parsed),
        Err(stop) => parsed.stop = stop,
    }
}

/// Source and destination port are the first four bytes of TCP, UDP and SCTP.
fn read_ports(data: &[u8], parsed: &mut Parsed) {
    if let Some(ports) = data.first_chunk::<4>() {
        parsed.src_port = be16::<0, _>(ports);
        parsed.dst_port = be16::<2, _>(ports);
        parsed.has_ports = true;
    }
}

/// A header of `header_len` bytes starts at `at`, where `cap_len` bytes are left: what is there of it is header.
fn end_header(header_len: usize, cap_len: usize, at: usize, parsed: &mut Parsed) {
    parsed.header_end = offset16(at + header_len.min(cap_len));
    if header_len > cap_len {
        parsed.stop = Stop::Truncated;
    }
}

/// An IPv4 address as [`Parsed`] holds it.
#[inline(always)]
fn widen(addr: [u8; 4]) -> [u8; 16] {
    u128::from(u32::from_le_bytes(addr)).to_le_bytes()
}
