//! Is a received frame addressed to the port as a host of its link, and so for the control thread?
//!
//! Workers ask this for every frame, so it is plain data, allocates nothing, and is done after one compare for frames
//! of others. It only selects: whether the frame is valid is for [`NeighborTable::input`](super::NeighborTable::input).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::addresses::{MAX_ADDRESSES, PortAddresses, in_prefix4};
use crate::wire::arp::ArpPacket;
use crate::wire::ethernet::{EthernetHeader, ethertype};
use crate::wire::ipv4::{Ipv4Header, protocol};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::{Fragment, icmp, icmpv6};

/// All nodes of the link (RFC 4291, section 2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Selects the frames that a port answers or learns from itself:
///
/// - ARP for IPv4, sent to the port's MAC or to all: for an own address, from somebody who claims an own address, or the
///   announcement (sender = target) of an address on the link;
/// - neighbour discovery (ICMPv6 types 133 to 137) to an own address, its solicited-node group or all nodes;
/// - ICMP and ICMPv6 echo requests and replies to an own address.
///
/// Not selected: frames with a VLAN tag (the port owns addresses on the untagged link only), fragments, IPv6 packets
/// with extension headers (of neighbour discovery RFC 6980 forbids the fragments), and frames that carry the port's own
/// MAC as source, which are its own frames seen in a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnFilter {
    mac: [u8; 6],
    ipv4_count: u8,
    ipv6_count: u8,
    gateway4: [u8; 4],
    ipv4: [([u8; 4], u8); MAX_ADDRESSES],
    ipv6: [[u8; 16]; MAX_ADDRESSES],
}

impl OwnFilter {
    /// The filter of a port.
    pub fn new(addresses: &PortAddresses) -> Self {
        let mut filter = Self {
            mac: addresses.mac.0,
            ipv4_count: 0,
            ipv6_count: 0,
            gateway4: addresses.gateway4.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
            ipv4: [([0; 4], 0); MAX_ADDRESSES],
            ipv6: [[0; 16]; MAX_ADDRESSES],
        };
        for (slot, (address, prefix_len)) in filter.ipv4.iter_mut().zip(addresses.own4()) {
            *slot = (address.octets(), prefix_len);
            filter.ipv4_count += 1;
        }
        for (slot, (address, _)) in filter.ipv6.iter_mut().zip(addresses.own6()) {
            *slot = address.octets();
            filter.ipv6_count += 1;
        }
        filter
    }

    /// Whether `frame`, from its Ethernet header on, is for the control thread.
    #[inline]
    pub fn matches(&self, frame: &[u8]) -> bool {
        let Some((ethernet, rest)) = EthernetHeader::split(frame) else { return false };
        let dst = ethernet.dst();
        // Traffic of others ends here.
        if dst != self.mac && dst[0] & 1 == 0 {
            return false;
        }
        self.matches_group(ethernet, rest)
    }

    fn matches_group(&self, ethernet: EthernetHeader<'_>, rest: &[u8]) -> bool {
        let dst = ethernet.dst();
        ethernet.src() != self.mac
            && match ethernet.ethertype() {
                ethertype::ARP => (dst == self.mac || dst == [0xff; 6]) && self.matches_arp(rest),
                ethertype::IPV4 => dst == self.mac && self.matches_ipv4(rest),
                ethertype::IPV6 => self.matches_ipv6(dst, rest),
                _ => false,
            }
    }

    fn matches_arp(&self, packet: &[u8]) -> bool {
        let Some((arp, _)) = ArpPacket::split(packet) else { return false };
        let (sender, target) = (arp.src_addr(), arp.dst_addr());
        self.owns4(target) || self.owns4(sender) || (sender == target && self.on_link4(sender))
    }

    fn matches_ipv4(&self, packet: &[u8]) -> bool {
        let Some((ip, _)) = Ipv4Header::split(packet) else { return false };
        ip.version() == 4
            && ip.protocol() == protocol::ICMP
            && self.owns4(ip.dst_addr())
            && ip.fragment() == Fragment::Whole
            && packet
                .get(ip.header_len())
                .is_some_and(|kind| matches!(*kind, icmp::ECHO_REQUEST | icmp::ECHO_REPLY))
    }

    fn matches_ipv6(&self, dst_mac: [u8; 6], packet: &[u8]) -> bool {
        let Some((ip, payload)) = Ipv6Header::split(packet) else { return false };
        let Some(kind) = payload.first() else { return false };
        if ip.version() != 6 || ip.next_header() != protocol::ICMPV6 {
            return false;
        }
        let dst = ip.dst_addr();
        let to_us = dst_mac == self.mac && self.owns6(dst);
        match *kind {
            133..=137 => to_us || (dst_mac == group_mac(dst) && self.in_group(dst)),
            icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY => to_us,
            _ => false,
        }
    }

    pub(super) fn owns4(&self, address: [u8; 4]) -> bool {
        self.own4().iter().any(|(own, _)| *own == address)
    }

    pub(super) fn owns6(&self, address: [u8; 16]) -> bool {
        self.own6().contains(&address)
    }

    /// Whether an IPv6 group is all nodes or the solicited-node group of an own address.
    fn in_group(&self, group: [u8; 16]) -> bool {
        self.ipv6_count > 0
            && (group == ALL_NODES.octets()
                || self.own6().iter().any(|own| solicited_node((*own).into()).octets() == group))
    }

    fn on_link4(&self, address: [u8; 4]) -> bool {
        self.ipv4_count > 0
            && (address == self.gateway4
                || self
                    .own4()
                    .iter()
                    .any(|&(own, prefix_len)| in_prefix4((own.into(), prefix_len), address.into())))
    }

    fn own4(&self) -> &[([u8; 4], u8)] {
        self.ipv4.get(..usize::from(self.ipv4_count)).unwrap_or(&[])
    }

    fn own6(&self) -> &[[u8; 16]] {
        self.ipv6.get(..usize::from(self.ipv6_count)).unwrap_or(&[])
    }
}

/// The solicited-node group of an address (RFC 4291, section 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let prefix = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).to_bits();
    Ipv6Addr::from_bits(prefix | address.to_bits() & 0x00ff_ffff)
}

/// The Ethernet address of an IPv6 group (RFC 2464, section 7).
pub(super) fn group_mac(group: [u8; 16]) -> [u8; 6] {
    let [.., a, b, c, d] = group;
    [0x33, 0x33, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc4291_solicited_node_address() {
        // Section 2.7.1: the example of the RFC.
        let group = solicited_node("4037::01:800:200e:8c6c".parse().unwrap());
        assert_eq!(group, "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
        assert_eq!(group_mac(group.octets()), [0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c]);
    }
}
