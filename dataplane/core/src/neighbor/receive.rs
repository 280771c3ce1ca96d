//! What does a frame that [`OwnFilter`](super::OwnFilter) selected say, and is it valid?
//!
//! All checks that the RFCs demand before a packet may be believed are here; the table decides what to do with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_model::MacAddr;

use super::addresses::{is_station, is_unicast};
use super::emit::{ND_HOP_LIMIT, OVERRIDE, SOLICITED};
use crate::wire::arp::{self, ArpPacket};
use crate::wire::ethernet::{EthernetHeader, ethertype};
use crate::wire::icmpv6::{self, NeighborMessage};
use crate::wire::ipv4::{self, Ipv4Header, protocol};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::{checksum, icmp};

/// Flag of an advertisement: the sender is a router.
const ROUTER: u8 = 0x80;

/// A valid message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// ARP; with `sender` unspecified it is a probe (RFC 5227).
    Arp { operation: u16, sender_mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr },
    /// A neighbour solicitation. `from` is where an answer goes.
    Solicitation { from: MacAddr, src: Ipv6Addr, target: Ipv6Addr, link_layer: Option<MacAddr> },
    /// A neighbour advertisement.
    Advertisement {
        target: Ipv6Addr,
        link_layer: Option<MacAddr>,
        router: bool,
        solicited: bool,
        overrides: bool,
    },
    /// An ICMP echo request; `message` is the ICMP message.
    Echo4 { from: MacAddr, src: Ipv4Addr, dst: Ipv4Addr, tos: u8, message: &'a [u8] },
    /// An ICMPv6 echo request; `message` is the ICMPv6 message.
    Echo6 { from: MacAddr, src: Ipv6Addr, dst: Ipv6Addr, message: &'a [u8] },
    /// Valid as far as looked at, and of no use: router discovery, redirects, echo replies, other ARP operations.
    Unused,
}

/// Reads a frame; `None` when a check fails.
pub(super) fn read(frame: &[u8], own_mac: MacAddr) -> Option<Message<'_>> {
    let (ethernet, rest) = EthernetHeader::split(frame)?;
    let from = station(ethernet.src(), own_mac)?;
    match ethernet.ethertype() {
        ethertype::ARP => read_arp(rest, own_mac),
        ethertype::IPV4 => read_ipv4(rest, from),
        ethertype::IPV6 => read_ipv6(rest, from, own_mac),
        _ => None,
    }
}

/// A MAC address that another station may have: neither a group, nor zero, nor the own one.
fn station(mac: [u8; 6], own_mac: MacAddr) -> Option<MacAddr> {
    let mac = MacAddr(mac);
    (is_station(mac) && mac != own_mac).then_some(mac)
}

fn read_arp(packet: &[u8], own_mac: MacAddr) -> Option<Message<'_>> {
    let (arp, _) = ArpPacket::split(packet)?;
    let (operation, sender) = (arp.operation(), Ipv4Addr::from(arp.src_addr()));
    if !matches!(operation, arp::REQUEST | arp::REPLY) {
        return Some(Message::Unused);
    }
    let probe = operation == arp::REQUEST && sender.is_unspecified();
    (probe || is_unicast(sender.into())).then_some(())?;
    let sender_mac = station(arp.src_mac(), own_mac)?;
    Some(Message::Arp { operation, sender_mac, sender, target: arp.dst_addr().into() })
}

fn read_ipv4(packet: &[u8], from: MacAddr) -> Option<Message<'_>> {
    let (ip, _) = Ipv4Header::split(packet)?;
    let header = packet.get(..ip.header_len())?;
    let message = packet.get(ip.header_len()..usize::from(ip.total_len()))?;
    let whole = header.len() >= ipv4::HEADER_LEN
        && message.len() >= icmp::HEADER_LEN
        && is_right(checksum::sum(header, 0))
        && is_right(checksum::sum(message, 0));
    if !whole {
        return None;
    }
    let src = Ipv4Addr::from(ip.src_addr());
    match *message {
        // RFC 1122, section 3.2.1.3: groups and the like are no sources.
        [icmp::ECHO_REQUEST, 0, ..] if is_unicast(src.into()) => {
            Some(Message::Echo4 { from, src, dst: ip.dst_addr().into(), tos: ip.tos(), message })
        }
        [icmp::ECHO_REPLY, 0, ..] => Some(Message::Unused),
        _ => None,
    }
}

fn read_ipv6(packet: &[u8], from: MacAddr, own_mac: MacAddr) -> Option<Message<'_>> {
    let (ip, payload) = Ipv6Header::split(packet)?;
    let message = payload.get(..usize::from(ip.payload_len()))?;
    let (header, _) = icmpv6::Icmpv6Header::split(message)?;
    let pseudo =
        checksum::pseudo_ipv6(ip.src_addr(), ip.dst_addr(), protocol::ICMPV6, u32::from(ip.payload_len()));
    if !is_right(checksum::sum(message, pseudo)) || header.code() != 0 {
        return None;
    }
    let (src, dst) = (Ipv6Addr::from(ip.src_addr()), Ipv6Addr::from(ip.dst_addr()));
    match header.kind() {
        icmpv6::ECHO_REQUEST => {
            is_unicast(IpAddr::V6(src)).then_some(Message::Echo6 { from, src, dst, message })
        }
        icmpv6::NEIGHBOR_SOLICITATION | icmpv6::NEIGHBOR_ADVERTISEMENT => {
            if ip.hop_limit() != ND_HOP_LIMIT {
                return None;
            }
            let (neighbor, options) = NeighborMessage::split(message)?;
            let options = link_layer_options(options, own_mac)?;
            read_neighbor(neighbor, options, from, src, dst)
        }
        _ => Some(Message::Unused),
    }
}

/// The checks of RFC 4861, sections 7.1.1 and 7.1.2, beyond hop limit, checksum, code, lengths and options.
fn read_neighbor<'a>(
    neighbor: NeighborMessage<'_>,
    options: LinkLayer,
    from: MacAddr,
    src: Ipv6Addr,
    dst: Ipv6Addr,
) -> Option<Message<'a>> {
    let target = Ipv6Addr::from(neighbor.target());
    if !is_unicast(target.into()) || src.is_multicast() {
        return None;
    }
    if neighbor.kind() == icmpv6::NEIGHBOR_SOLICITATION {
        // A host without an address asks the solicited-node group, and leaves its MAC away.
        if src.is_unspecified() && (options.source.is_some() || dst != super::filter::solicited_node(target))
        {
            return None;
        }
        let from = options.source.unwrap_or(from);
        return Some(Message::Solicitation { from, src, target, link_layer: options.source });
    }
    let flag = |flag: u8| neighbor.flags() & flag != 0;
    if src.is_unspecified() || (dst.is_multicast() && flag(SOLICITED)) {
        return None;
    }
    Some(Message::Advertisement {
        target,
        link_layer: options.target,
        router: flag(ROUTER),
        solicited: flag(SOLICITED),
        overrides: flag(OVERRIDE),
    })
}

/// The link-layer addresses that a message names.
#[derive(Clone, Copy, Debug, Default)]
struct LinkLayer {
    source: Option<MacAddr>,
    target: Option<MacAddr>,
}

/// Reads the options. `None` when one has no length or reaches over the end, or a link-layer address is not that of
/// another station. Unknown options are passed over (RFC 4861, section 4.6).
fn link_layer_options(mut options: &[u8], own_mac: MacAddr) -> Option<LinkLayer> {
    let mut found = LinkLayer::default();
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * 8;
        let option = options.get(2..len)?; // also `None` when the length is zero
        let slot = match kind {
            icmpv6::OPTION_SOURCE_LINK_LAYER => Some(&mut found.source),
            icmpv6::OPTION_TARGET_LINK_LAYER => Some(&mut found.target),
            _ => None,
        };
        if let Some(slot) = slot {
            let mac = station(<[u8; 6]>::try_from(option).ok()?, own_mac)?;
            slot.get_or_insert(mac);
        }
        options = options.get(len..)?;
    }
    options.is_empty().then_some(found)
}

/// Whether a sum that includes the checksum field says that nothing changed.
fn is_right(sum: u64) -> bool {
    checksum::fold(sum) == 0xffff
}
