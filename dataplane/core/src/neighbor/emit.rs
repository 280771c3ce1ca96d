//! What bytes does the port itself send: ARP, neighbour solicitations and advertisements, echo replies?
//!
//! Whole Ethernet frames, checksums computed, padded to the shortest frame that Ethernet allows.

use std::net::{Ipv4Addr, Ipv6Addr};

use sluice_model::MacAddr;

use super::filter::{ALL_NODES, group_mac, solicited_node};
use crate::wire::ethernet::ethertype;
use crate::wire::{arp, checksum, icmp, icmpv6, ipv4, ipv6};

/// The shortest Ethernet frame in bytes, without its check sequence. Not every driver pads.
const MIN_FRAME_LEN: usize = 60;
/// The hop limit of neighbour discovery, which shows that no router forwarded the packet (RFC 4861, section 3.1).
pub(super) const ND_HOP_LIMIT: u8 = 255;
/// Time to live and hop limit of echo replies.
const ECHO_TTL: u8 = 64;

/// Flag of an advertisement: it answers a solicitation.
pub(super) const SOLICITED: u8 = 0x40;
/// Flag of an advertisement: it replaces what the receiver knew.
pub(super) const OVERRIDE: u8 = 0x20;

/// An ARP request (RFC 826) to `dst_mac`, which is broadcast for a question to all. With `sender` = `target` it is an
/// announcement (RFC 5227, section 3).
pub(super) fn arp_request(mac: MacAddr, dst_mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(arp::REQUEST, mac, dst_mac, sender, MacAddr::default(), target)
}

/// The ARP reply that tells `dst_mac`, which asked from `target`, that `sender` is here.
pub(super) fn arp_reply(mac: MacAddr, dst_mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(arp::REPLY, mac, dst_mac, sender, dst_mac, target)
}

/// A neighbour solicitation (RFC 4861, section 4.3) with the own link-layer address: to one station, or to the
/// solicited-node group of `target`.
pub(super) fn solicitation(mac: MacAddr, to: Option<MacAddr>, src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let (dst_mac, dst) = match to {
        Some(mac) => (mac, target),
        None => group(solicited_node(target)),
    };
    let body = neighbor(icmpv6::NEIGHBOR_SOLICITATION, 0, target, icmpv6::OPTION_SOURCE_LINK_LAYER, mac);
    icmpv6_frame(mac, dst_mac, src, dst, ND_HOP_LIMIT, body)
}

/// A neighbour advertisement (RFC 4861, section 4.4) that `target` is here, with override: to the host that asked, or to
/// all nodes (unsolicited, and to a host that has no address yet).
pub(super) fn advertisement(mac: MacAddr, to: Option<(MacAddr, Ipv6Addr)>, target: Ipv6Addr) -> Vec<u8> {
    let (flags, (dst_mac, dst)) = match to {
        Some(host) => (SOLICITED | OVERRIDE, host),
        None => (OVERRIDE, group(ALL_NODES)),
    };
    let body = neighbor(icmpv6::NEIGHBOR_ADVERTISEMENT, flags, target, icmpv6::OPTION_TARGET_LINK_LAYER, mac);
    icmpv6_frame(mac, dst_mac, target, dst, ND_HOP_LIMIT, body)
}

/// The answer to an ICMP echo request, `message`, that was sent to `src` (RFC 792; the TOS is the request's, RFC 1122
/// section 3.2.2.6).
pub(super) fn echo_reply4(
    (mac, dst_mac): (MacAddr, MacAddr),
    (src, dst): (Ipv4Addr, Ipv4Addr),
    tos: u8,
    message: &[u8],
) -> Vec<u8> {
    let mut header = [0; ipv4::HEADER_LEN];
    let total = u16::try_from(ipv4::HEADER_LEN + message.len()).unwrap_or(u16::MAX);
    // DF set and so no identification needed (RFC 6864, section 4.1).
    put(&mut header, ipv4::field::VERSION_IHL, &[0x45, tos]);
    put(&mut header, ipv4::field::TOTAL_LEN, &total.to_be_bytes());
    put(&mut header, ipv4::field::FRAGMENT, &ipv4::DONT_FRAGMENT.to_be_bytes());
    put(&mut header, ipv4::field::TTL, &[ECHO_TTL, ipv4::protocol::ICMP]);
    put(&mut header, ipv4::field::SRC_ADDR, &src.octets());
    put(&mut header, ipv4::field::DST_ADDR, &dst.octets());
    let sum = checksum::finish(checksum::sum(&header, 0));
    put(&mut header, ipv4::field::CHECKSUM, &sum.to_be_bytes());
    let mut body = reply(icmp::ECHO_REPLY, message);
    let sum = checksum::finish(checksum::sum(&body, 0));
    put(&mut body, icmp::field::CHECKSUM, &sum.to_be_bytes());
    frame(mac, dst_mac, ethertype::IPV4, &[&header, &body])
}

/// The answer to an ICMPv6 echo request, `message`, that was sent to `src` (RFC 4443, section 4.2).
pub(super) fn echo_reply6(
    (mac, dst_mac): (MacAddr, MacAddr),
    (src, dst): (Ipv6Addr, Ipv6Addr),
    message: &[u8],
) -> Vec<u8> {
    icmpv6_frame(mac, dst_mac, src, dst, ECHO_TTL, reply(icmpv6::ECHO_REPLY, message))
}

/// An echo message as a reply of type `kind`, its checksum still zero: identifier, sequence number and data mirrored.
fn reply(kind: u8, message: &[u8]) -> Vec<u8> {
    let mut body = message.to_vec();
    put(&mut body, 0, &[kind, 0, 0, 0]);
    body
}

fn arp(
    operation: u16,
    mac: MacAddr,
    dst_mac: MacAddr,
    sender: Ipv4Addr,
    target_mac: MacAddr,
    target: Ipv4Addr,
) -> Vec<u8> {
    let packet: [&[u8]; 6] = [
        &arp::ETHERNET_IPV4,
        &operation.to_be_bytes(),
        &mac.0,
        &sender.octets(),
        &target_mac.0,
        &target.octets(),
    ];
    frame(mac, dst_mac, ethertype::ARP, &packet)
}

/// A solicitation or advertisement with one link-layer option, its checksum still zero.
fn neighbor(kind: u8, flags: u8, target: Ipv6Addr, option: u8, mac: MacAddr) -> Vec<u8> {
    let mut body = vec![0; icmpv6::NEIGHBOR_LEN];
    put(&mut body, icmpv6::field::TYPE, &[kind]);
    put(&mut body, icmpv6::field::ADVERTISEMENT_FLAGS, &[flags]);
    put(&mut body, icmpv6::field::TARGET, &target.octets());
    body.extend([option, 1]); // its length in units of eight bytes
    body.extend(mac.0);
    body
}

fn icmpv6_frame(
    mac: MacAddr,
    dst_mac: MacAddr,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    hop_limit: u8,
    mut body: Vec<u8>,
) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let pseudo = checksum::pseudo_ipv6(src.octets(), dst.octets(), ipv4::protocol::ICMPV6, u32::from(len));
    let sum = checksum::finish(checksum::sum(&body, pseudo));
    put(&mut body, icmpv6::field::CHECKSUM, &sum.to_be_bytes());
    let mut header = [0; ipv6::HEADER_LEN];
    put(&mut header, ipv6::field::VERSION_CLASS_LABEL, &[0x60]);
    put(&mut header, ipv6::field::PAYLOAD_LEN, &len.to_be_bytes());
    put(&mut header, ipv6::field::NEXT_HEADER, &[ipv4::protocol::ICMPV6, hop_limit]);
    put(&mut header, ipv6::field::SRC_ADDR, &src.octets());
    put(&mut header, ipv6::field::DST_ADDR, &dst.octets());
    frame(mac, dst_mac, ethertype::IPV6, &[&header, &body])
}

fn frame(mac: MacAddr, dst_mac: MacAddr, ethertype: u16, parts: &[&[u8]]) -> Vec<u8> {
    let mut frame =
        Vec::with_capacity(MIN_FRAME_LEN.max(14 + parts.iter().map(|part| part.len()).sum::<usize>()));
    frame.extend(dst_mac.0);
    frame.extend(mac.0);
    frame.extend(ethertype.to_be_bytes());
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.resize(frame.len().max(MIN_FRAME_LEN), 0);
    frame
}

fn group(group: Ipv6Addr) -> (MacAddr, Ipv6Addr) {
    (MacAddr(group_mac(group.octets())), group)
}

/// Writes `bytes` at a fixed place.
fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in header.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}
