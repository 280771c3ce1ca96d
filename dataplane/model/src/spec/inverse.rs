//! Which plain values make a validated policy set?
//!
//! The names of groups and what was switched off are gone from it: groups get numbers for names.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::{
    Action, AddressSet, Destination, DestinationId, DestinationKind, FragmentMatch, GroupHash, HeaderView,
    Marking, Oversize, Policy, PolicySet, RangeSet, RangeValue, Side, TcpFlagsMatch, TunnelKind, UdpChecksum,
    VlanFrom,
};

use super::plain::{DestinationSpec, GroupSpec, PolicySetSpec, PolicySpec, SideSpec};
use super::policies::TCP_FLAGS;

impl From<&PolicySet> for PolicySetSpec {
    fn from(set: &PolicySet) -> Self {
        let destinations = set.destinations();
        let name = |id: DestinationId| destinations.get(id.index()).map_or("", |d| &d.name).to_owned();
        let mut groups = Groups::new(set);
        let policies: Vec<PolicySpec> =
            set.policies().iter().map(|policy| policy_spec(policy, &mut groups, &name)).collect();
        Self {
            destinations: destinations
                .iter()
                .map(|destination| destination_spec(destination, &name))
                .collect(),
            groups: groups.named,
            policies,
        }
    }
}

/// The address sets of a policy set; those that need it get a name.
struct Groups {
    /// How many sides name a set, by its address in memory.
    uses: HashMap<usize, usize>,
    names: HashMap<usize, String>,
    named: Vec<GroupSpec>,
}

impl Groups {
    fn new(set: &PolicySet) -> Self {
        let mut uses = HashMap::new();
        for side in set.policies().iter().flat_map(|policy| [&policy.collect, &policy.peer]) {
            for addresses in &side.addresses {
                *uses.entry(Arc::as_ptr(addresses).addr()).or_insert(0) += 1;
            }
        }
        Self { uses, names: HashMap::new(), named: Vec::new() }
    }

    /// A side. Only its first set can stand in the list itself, and an empty one cannot: that would be any address.
    fn side(&mut self, side: &Side) -> SideSpec {
        let mut addresses = Vec::new();
        for (place, set) in side.addresses.iter().enumerate() {
            let own = place == 0
                && **set != AddressSet::default()
                && self.uses.get(&Arc::as_ptr(set).addr()).is_none_or(|&uses| uses < 2);
            if own {
                addresses.extend(elements(set));
            } else {
                addresses.push(format!("@{}", self.name(set)));
            }
        }
        SideSpec { addresses, ports: words(side.ports.as_ref()) }
    }

    fn name(&mut self, set: &Arc<AddressSet>) -> &str {
        let named = &mut self.named;
        self.names.entry(Arc::as_ptr(set).addr()).or_insert_with(|| {
            let name = format!("group-{}", named.len() + 1);
            named.push(GroupSpec { name: name.clone(), addresses: elements(set) });
            name
        })
    }
}

fn policy_spec(policy: &Policy, groups: &mut Groups, name: &impl Fn(DestinationId) -> String) -> PolicySpec {
    let headers = match policy.headers {
        HeaderView::Outer => None,
        HeaderView::Inner => Some("inner"),
    };
    let fragment = policy.fragment.map(|fragment| match fragment {
        FragmentMatch::Fragments => "fragments",
        FragmentMatch::Later => "later",
        FragmentMatch::Whole => "whole",
    });
    let action = match policy.action {
        Action::Copy => None,
        Action::Drop => Some("drop"),
    };
    let tag = policy.tag.get();
    PolicySpec {
        name: policy.name.clone(),
        collect: groups.side(&policy.collect),
        peer: groups.side(&policy.peer),
        protocol: words(policy.protocol.as_ref()),
        vlan: words(policy.vlan.as_ref()),
        vlan_inner: words(policy.vlan_inner.as_ref()),
        tunnel_id: words(policy.tunnel_id.as_ref()),
        headers: headers.map(str::to_owned),
        ethertype: words(policy.ethertype.as_ref()),
        tcp_flags: policy.tcp_flags.map(flags).unwrap_or_default(),
        length: words(policy.length.as_ref()),
        fragment: fragment.map(str::to_owned),
        ingress: policy.ingress.clone(),
        taps: policy.taps.clone(),
        action: action.map(str::to_owned),
        payload: policy.payload.map(u32::from),
        tag: (tag > 0).then_some(tag),
        to: policy.to.iter().map(|&id| name(id)).collect(),
        enabled: None,
    }
}

fn destination_spec(destination: &Destination, name: &impl Fn(DestinationId) -> String) -> DestinationSpec {
    let word = |word: &str| Some(word.to_owned());
    let mut spec = DestinationSpec {
        name: destination.name.clone(),
        mtu: destination.mtu.map(u32::from),
        oversize: match destination.oversize {
            Oversize::Truncate => None,
            Oversize::Fragment => word("fragment"),
            Oversize::Segment => word("segment"),
            Oversize::Drop => word("drop"),
        },
        inner_vlan: destination.inner_vlan.then_some(true),
        vlan_from: match destination.vlan_from {
            VlanFrom::Tag => None,
            VlanFrom::Tunnel => word("tunnel"),
        },
        rate_mbps: destination.limit.and_then(|limit| limit.rate_mbps),
        rate_pps: destination.limit.and_then(|limit| limit.rate_pps),
        burst_ms: destination.limit.map(|limit| limit.burst_ms),
        ..DestinationSpec::default()
    };
    match &destination.kind {
        DestinationKind::Tunnel(tunnel) => {
            spec.kind = match tunnel.kind {
                TunnelKind::Vxlan { udp_port, udp_checksum } => {
                    spec.udp_port = Some(udp_port.into());
                    spec.udp_checksum = match udp_checksum {
                        UdpChecksum::Auto => None,
                        UdpChecksum::On => word("on"),
                        UdpChecksum::Off => word("off"),
                    };
                    word("vxlan")
                }
                TunnelKind::Erspan2 => word("erspan2"),
                TunnelKind::Erspan3 => word("erspan3"),
            };
            spec.marking = match tunnel.marking {
                Marking::Standard => None,
                Marking::Reference => word("reference"),
            };
            spec.remote = Some(tunnel.remote.to_string());
            spec.local = tunnel.local.map(|local| local.to_string());
            spec.mac = tunnel.mac.map(|mac| mac.to_string());
            spec.port.clone_from(&tunnel.port);
        }
        DestinationKind::Port { port } => {
            spec.kind = word("port");
            spec.port = Some(port.clone());
        }
        DestinationKind::Pcap { file } => {
            spec.kind = word("pcap");
            spec.file = Some(file.to_string_lossy().into_owned());
        }
        DestinationKind::Group(group) => {
            spec.kind = word("group");
            spec.members = group.members.iter().map(|member| name(member.destination)).collect();
            spec.weights = group.members.iter().map(|member| member.weight.to_string()).collect();
            spec.hash = match group.hash {
                GroupHash::Auto => None,
                GroupHash::Outer => word("outer"),
                GroupHash::Inner => word("inner"),
            };
        }
    }
    spec
}

/// The elements of a list that hold a set.
fn elements(set: &AddressSet) -> Vec<String> {
    let v4 = set.ipv4.iter().map(|range| {
        let (low, high) = range.into_inner();
        element(low.into(), high.into(), 32, &|bits| {
            Ipv4Addr::from(u32::try_from(bits).unwrap_or_default()).to_string()
        })
    });
    let v6 = set.ipv6.iter().map(|range| {
        let (low, high) = range.into_inner();
        element(low, high, 128, &|bits| Ipv6Addr::from(bits).to_string())
    });
    let macs = set.macs.iter().map(ToString::to_string);
    v4.chain(v6).chain(macs).chain(set.guests.iter().map(ToString::to_string)).collect()
}

/// A network where the range is one, else both its ends.
fn element(low: u128, high: u128, width: u32, show: &dyn Fn(u128) -> String) -> String {
    let hosts = low ^ high;
    if low == high {
        show(low)
    } else if hosts & hosts.wrapping_add(1) == 0 && low & hosts == 0 {
        format!("{}/{}", show(low), width - hosts.count_ones())
    } else {
        format!("{}-{}", show(low), show(high))
    }
}

fn words<T: RangeValue + std::fmt::Display>(set: Option<&RangeSet<T>>) -> Vec<String> {
    let show = |range: std::ops::RangeInclusive<T>| match range.into_inner() {
        (low, high) if low == high => low.to_string(),
        (low, high) => format!("{low}-{high}"),
    };
    set.map(|set| set.iter().map(show).collect()).unwrap_or_default()
}

fn flags(flags: TcpFlagsMatch) -> Vec<String> {
    let asked = TCP_FLAGS.iter().filter(|(_, bit)| flags.mask & bit != 0);
    asked.map(|(name, bit)| format!("{}{name}", if flags.value & bit == 0 { "!" } else { "" })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::policy_set;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_made_of_plain_values_comes_back(set in policy_set()) {
            prop_assert!(!set.destinations().is_empty(), "the generator makes whole sets");
            let spec = PolicySetSpec::from(&set);
            let again = spec.validate();
            prop_assert!(again.is_ok(), "{}\n{}", again.unwrap_err(), spec.to_toml().unwrap());
            prop_assert_eq!(again.unwrap().value, set);
        }
    }

    #[test]
    fn ranges_are_shown_as_networks_where_they_are() {
        let show = |low: u32, high: u32| {
            element(low.into(), high.into(), 32, &|bits| Ipv4Addr::from(bits as u32).to_string())
        };
        assert_eq!(show(0, u32::MAX), "0.0.0.0/0");
        assert_eq!(show(0x0a00_0000, 0x0aff_ffff), "10.0.0.0/8");
        assert_eq!(show(0x0a00_0001, 0x0a00_0001), "10.0.0.1");
        assert_eq!(show(0x0a00_0001, 0x0a00_0002), "10.0.0.1-10.0.0.2");
        assert_eq!(show(0x0a00_0002, 0x0a00_0003), "10.0.0.2/31");
    }
}
