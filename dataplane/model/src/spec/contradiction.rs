//! Can a policy match any packet at all?
//!
//! Sound, not complete: what is reported can never match, but not every such policy is found.

use crate::{AddressSet, HeaderView, Policy, ProtocolSet, Side};

/// Protocols with ports: TCP, UDP, SCTP.
const WITH_PORTS: [u8; 3] = [6, 17, 132];
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// MPLS, unicast and multicast or upstream-assigned (RFC 5332): IP may follow the labels.
const MPLS: [u16; 2] = [0x8847, 0x8848];
const VLAN: [u16; 2] = [0x8100, 0x88a8];

/// Why a policy never matches, and what may have been meant.
pub(super) fn contradiction(policy: &Policy) -> Option<(String, String)> {
    sides(policy).or_else(|| protocols(policy)).or_else(|| ethertypes(policy))
}

/// The protocols that a policy matches once ports and flags are taken into account; `None` = any packet.
pub(super) fn effective_protocols(policy: &Policy) -> Option<ProtocolSet> {
    let ports = policy.collect.ports.is_some() || policy.peer.ports.is_some();
    let flags = policy.tcp_flags.is_some();
    if !ports && !flags {
        return policy.protocol.clone();
    }
    let allowed = |protocol: u8| {
        policy.protocol.as_ref().is_none_or(|set| set.contains(protocol))
            && (!ports || WITH_PORTS.contains(&protocol))
            && (!flags || protocol == TCP)
    };
    Some(
        WITH_PORTS
            .into_iter()
            .filter(|&protocol| allowed(protocol))
            .map(|protocol| protocol..=protocol)
            .collect(),
    )
}

/// Which kinds of packet the addresses of a side allow.
#[derive(Clone, Copy)]
struct Families {
    ipv4: bool,
    ipv6: bool,
    /// Any frame: no addresses are asked for, or MAC addresses, or names that may stand for any.
    any: bool,
}

impl Families {
    fn of(side: &Side) -> Self {
        let some = |f: fn(&AddressSet) -> bool| side.addresses.iter().any(|set| f(set));
        Self {
            ipv4: some(|set| !set.ipv4.is_empty()),
            ipv6: some(|set| !set.ipv6.is_empty()),
            any: side.addresses.is_empty() || some(|set| !(set.macs.is_empty() && set.guests.is_empty())),
        }
    }

    const fn allows_ipv4(self) -> bool {
        self.any || self.ipv4
    }

    const fn allows_ipv6(self) -> bool {
        self.any || self.ipv6
    }
}

fn sides(policy: &Policy) -> Option<(String, String)> {
    let (collect, peer) = (Families::of(&policy.collect), Families::of(&policy.peer));
    for (key, families) in [("collect", collect), ("peer", peer)] {
        if !families.allows_ipv4() && !families.allows_ipv6() {
            let reason = format!("the groups of {key}.addresses are empty");
            return Some((reason, "add addresses to them, or set enabled = false".to_owned()));
        }
    }
    let common =
        (collect.allows_ipv4() && peer.allows_ipv4()) || (collect.allows_ipv6() && peer.allows_ipv6());
    (!common).then(|| {
        let name = |families: Families| if families.ipv4 { "IPv4" } else { "IPv6" };
        let reason = format!("collect has only {} addresses and peer only {}", name(collect), name(peer));
        (reason, "give both sides addresses of one family".to_owned())
    })
}

fn protocols(policy: &Policy) -> Option<(String, String)> {
    let protocols = effective_protocols(policy)?;
    if protocols.is_empty() {
        return Some(if policy.tcp_flags.is_some() {
            (
                "tcp_flags asks for TCP, which protocol leaves out".to_owned(),
                "write protocol = \"tcp\"".to_owned(),
            )
        } else {
            let reason = "ports ask for TCP, UDP or SCTP, which protocol leaves out".to_owned();
            (reason, "remove the ports, or write protocol = \"tcp,udp,sctp\"".to_owned())
        });
    }
    let only = |protocol: u8| protocols.iter().all(|range| range == (protocol..=protocol));
    let (collect, peer) = (Families::of(&policy.collect), Families::of(&policy.peer));
    if only(ICMP) && !(collect.allows_ipv4() && peer.allows_ipv4()) {
        let reason = "icmp belongs to IPv4, and the addresses are IPv6".to_owned();
        return Some((reason, "write protocol = \"icmpv6\"".to_owned()));
    }
    if only(ICMPV6) && !(collect.allows_ipv6() && peer.allows_ipv6()) {
        let reason = "icmpv6 belongs to IPv6, and the addresses are IPv4".to_owned();
        return Some((reason, "write protocol = \"icmp\"".to_owned()));
    }
    None
}

fn ethertypes(policy: &Policy) -> Option<(String, String)> {
    let ethertypes = policy.ethertype.as_ref()?;
    if ethertypes.iter().all(|range| *range.start() > 0 && *range.end() < 0x0600) {
        let reason = "values below 0x0600 are lengths, not EtherTypes".to_owned();
        return Some((reason, "write ethertype = 0 for frames with a length".to_owned()));
    }
    let vlan =
        |range: &std::ops::RangeInclusive<u16>| range.start() == range.end() && VLAN.contains(range.start());
    if ethertypes.iter().all(|range| vlan(&range)) {
        let reason = "EtherTypes are read after all VLAN tags".to_owned();
        return Some((reason, "write vlan = \"0-4095\" for tagged frames".to_owned()));
    }
    // An inner packet that follows no Ethernet header has no EtherType.
    let mpls = MPLS.iter().any(|&t| ethertypes.contains(t))
        || (policy.headers == HeaderView::Inner && ethertypes.contains(0));
    let ipv4 = mpls || ethertypes.contains(IPV4);
    let ipv6 = mpls || ethertypes.contains(IPV6);
    let (collect, peer) = (Families::of(&policy.collect), Families::of(&policy.peer));
    let any = collect.any && peer.any;
    let fragments = policy.fragment.is_some_and(|f| f != crate::FragmentMatch::Whole);
    let by_protocol = effective_protocols(policy).is_some() || fragments;
    let reachable = (ipv4 && collect.allows_ipv4() && peer.allows_ipv4())
        || (ipv6 && collect.allows_ipv6() && peer.allows_ipv6())
        || (any && !by_protocol);
    (!reachable).then(|| {
        let reason = "ethertype leaves out the IP packets that the other fields ask for".to_owned();
        (reason, "remove ethertype, or the fields about IP".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{PortSet, RangeSet, TcpFlagsMatch};

    fn v4() -> Side {
        let set = AddressSet { ipv4: RangeSet::new([1..=2]), ..AddressSet::default() };
        Side { addresses: vec![Arc::new(set)], ports: None }
    }

    fn v6() -> Side {
        let set = AddressSet { ipv6: RangeSet::new([1..=2]), ..AddressSet::default() };
        Side { addresses: vec![Arc::new(set)], ports: None }
    }

    fn ports() -> Side {
        Side { addresses: Vec::new(), ports: Some(PortSet::new([80..=80])) }
    }

    fn protocol(number: u8) -> ProtocolSet {
        RangeSet::new([number..=number])
    }

    #[test]
    fn finds_contradictions() {
        let flags = Some(TcpFlagsMatch { mask: 2, value: 2 });
        let empty = Side { addresses: vec![Arc::default()], ports: None };
        let arp = Some(RangeSet::new([0x0806..=0x0806]));
        let ipv6 = Some(RangeSet::new([IPV6..=IPV6]));
        for policy in [
            Policy { collect: v4(), peer: v6(), ..Policy::default() },
            Policy { collect: empty, ..Policy::default() },
            Policy { collect: ports(), protocol: Some(protocol(1)), ..Policy::default() },
            Policy { tcp_flags: flags, protocol: Some(protocol(17)), ..Policy::default() },
            Policy { collect: v6(), protocol: Some(protocol(1)), ..Policy::default() },
            Policy { peer: v4(), protocol: Some(protocol(58)), ..Policy::default() },
            Policy { collect: v4(), ethertype: arp.clone(), ..Policy::default() },
            Policy { collect: v4(), ethertype: ipv6, ..Policy::default() },
            Policy { protocol: Some(protocol(6)), ethertype: arp, ..Policy::default() },
        ] {
            assert!(contradiction(&policy).is_some(), "{policy:?}");
        }
    }

    #[test]
    fn leaves_possible_policies_alone() {
        let mpls = Some(RangeSet::new([0x8847..=0x8847]));
        let arp = Some(RangeSet::new([0x0806..=0x0806]));
        for policy in [
            Policy::default(),
            Policy { collect: v4(), peer: v4(), protocol: Some(protocol(1)), ..Policy::default() },
            Policy { collect: ports(), ..Policy::default() },
            Policy { collect: v4(), ethertype: mpls, ..Policy::default() },
            Policy { ethertype: arp, ..Policy::default() },
        ] {
            assert!(contradiction(&policy).is_none(), "{policy:?}");
        }
    }
}
