//! Which values are legal? Generators for property tests: everything that a policy file can make, and nothing else.
//!
//! With the feature `contract`, for tests of other crates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::collection::{btree_set, vec};
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use crate::spec::{largest_tag, least_mtu};
use crate::{
    Action, AddressSet, Destination, DestinationId, DestinationKind, FragmentMatch, Group, GroupHash,
    GuestKind, GuestName, HeaderView, MacAddr, Marking, Member, Oversize, Policy, PolicySet, RangeSet,
    RangeValue, RateLimit, Side, Tag, TcpFlagsMatch, Tunnel, TunnelKind, UdpChecksum, VlanFrom,
};

/// Any policy set that can come out of validation.
pub fn policy_set() -> impl Strategy<Value = PolicySet> {
    let sets = vec(address_set().prop_map(Arc::new), 1..5);
    (destinations(), sets).prop_flat_map(|(destinations, sets)| {
        let policies = vec(policy(destinations.clone(), &sets), 0..6);
        policies.prop_map(move |mut policies| {
            for (number, policy) in policies.iter_mut().enumerate() {
                policy.name = unique(&policy.name, number);
            }
            PolicySet::new(policies, destinations.clone()).unwrap_or_default()
        })
    })
}

/// A policy that sends to some of `destinations` and names some of `sets`.
fn policy(destinations: Vec<Destination>, sets: &[Arc<AddressSet>]) -> impl Strategy<Value = Policy> + use<> {
    let numbers = (
        of(ranges(0..=u8::MAX)),
        of(ranges(0..=4_095_u16)),
        of(ranges(0..=4_095_u16)),
        of(ranges(0..=u32::MAX)),
        of(ranges(0..=u16::MAX)),
        of(ranges(0..=u16::MAX)),
    );
    let choices = (
        select(vec![HeaderView::Outer, HeaderView::Inner]),
        of(select(vec![FragmentMatch::Fragments, FragmentMatch::Later, FragmentMatch::Whole])),
        of((1..=u8::MAX, any::<u8>())),
    );
    let targets = subsequence((0..destinations.len()).collect::<Vec<_>>(), 1..=destinations.len());
    let copies = (any::<bool>(), of(any::<u16>()), 0..=Tag::MAX, targets.prop_shuffle());
    let names = || btree_set("[ -~]{1,12}", 0..3);
    let places = (names(), names());
    (name(), side(sets), side(sets), numbers, choices, copies, places).prop_map(
        move |(name, collect, peer, numbers, (headers, fragment, flags), copies, (ingress, taps))| {
            let (protocol, vlan, vlan_inner, tunnel_id, ethertype, length) = numbers;
            let (copy, payload, tag, to) = copies;
            let tcp_flags = flags.map(|(mask, value)| TcpFlagsMatch { mask, value: value & mask });
            let to: Vec<DestinationId> =
                to.into_iter().filter_map(|number| u16::try_from(number).ok().map(DestinationId)).collect();
            let tag = to.iter().fold(tag, |tag, id| tag & largest_tag(*id, &destinations));
            let common = Policy {
                name,
                collect,
                peer,
                protocol,
                vlan,
                vlan_inner,
                tunnel_id,
                headers,
                ethertype,
                tcp_flags,
                length,
                fragment,
                ingress: ingress.into_iter().collect(),
                taps: taps.into_iter().collect(),
                ..Policy::default()
            };
            if copy {
                Policy { payload, tag: Tag::new(tag).unwrap_or_default(), to, ..common }
            } else {
                Policy { action: Action::Drop, ..common }
            }
        },
    )
}

fn side(sets: &[Arc<AddressSet>]) -> impl Strategy<Value = Side> + use<> {
    let some = subsequence(sets.to_vec(), 0..=sets.len()).prop_shuffle();
    let addresses = prop_oneof![Just(Vec::new()), some];
    (addresses, of(ranges(0..=u16::MAX))).prop_map(|(addresses, ports)| Side { addresses, ports })
}

/// Any set of addresses, the empty one included.
pub fn address_set() -> impl Strategy<Value = AddressSet> {
    let networks = vec((any::<u128>(), 0..=128_u32), 0..3).prop_map(|networks| {
        let network = |(address, prefix): (u128, u32)| {
            let hosts = u128::MAX.checked_shr(prefix).unwrap_or(0);
            address & !hosts..=address | hosts
        };
        networks.into_iter().map(network).collect::<RangeSet<u128>>()
    });
    let ipv6 = prop_oneof![networks, range_set(0..=u128::MAX)];
    let macs =
        btree_set(any::<[u8; 6]>().prop_map(MacAddr), 0..3).prop_map(|macs| macs.into_iter().collect());
    let guest = (select(GuestKind::ALL.to_vec()), "[!-~]{1,9}( [!-~]{1,9})?");
    let guest = guest.prop_filter_map("a name", |(kind, name)| GuestName::new(kind, &name).ok());
    let guests = prop_oneof![
        3 => Just(Vec::new()),
        1 => btree_set(guest, 1..3).prop_map(|guests| guests.into_iter().collect()),
    ];
    (range_set(0..=u32::MAX), ipv6, macs, guests).prop_map(|(ipv4, ipv6, macs, guests)| AddressSet {
        ipv4,
        ipv6,
        macs,
        guests,
    })
}

/// Destinations with their names; groups name only others.
fn destinations() -> impl Strategy<Value = Vec<Destination>> {
    let group = (vec((any::<Index>(), 1..=Group::MAX_WEIGHT), 1..6), hash(), limit());
    (vec((name(), plain_destination()), 1..5), vec((name(), group), 0..3), any::<bool>()).prop_map(
        |(plain, groups, groups_first)| {
            let mut all: Vec<Destination> =
                plain.into_iter().map(|(name, destination)| Destination { name, ..destination }).collect();
            // Members may be defined before and after their groups.
            let (first, count) = (if groups_first { groups.len() } else { 0 }, all.len());
            let groups = groups.into_iter().map(|(name, (members, hash, limit))| {
                let mut found: Vec<Member> = Vec::new();
                for (index, weight) in members {
                    let Ok(number) = u16::try_from(first + index.index(count)) else { continue };
                    if found.iter().all(|member| member.destination != DestinationId(number)) {
                        found.push(Member { destination: DestinationId(number), weight });
                    }
                }
                let kind = DestinationKind::Group(Group { members: found, hash });
                let (vlan_from, oversize) = (VlanFrom::Tag, Oversize::Truncate);
                Destination { name, kind, inner_vlan: false, vlan_from, mtu: None, oversize, limit }
            });
            let groups: Vec<Destination> = groups.collect();
            let at = if groups_first { 0 } else { all.len() };
            all.splice(at..at, groups);
            for (number, destination) in all.iter_mut().enumerate() {
                destination.name = unique(&destination.name, number);
                if let DestinationKind::Pcap { file } = &mut destination.kind {
                    *file = PathBuf::from(format!("{}.{number}", file.display()));
                }
            }
            all
        },
    )
}

/// A destination that is no group, with an empty name.
fn plain_destination() -> impl Strategy<Value = Destination> {
    let port = "[!-~]{1,12}";
    let kind = prop_oneof![
        4 => tunnel().prop_map(DestinationKind::Tunnel),
        1 => port.prop_map(|port| DestinationKind::Port { port }),
        1 => "[!-~]{1,20}".prop_map(|file| DestinationKind::Pcap { file: file.into() }),
    ];
    let oversize = select(vec![Oversize::Truncate, Oversize::Fragment, Oversize::Segment, Oversize::Drop]);
    let vlan = select(vec![(false, VlanFrom::Tag), (true, VlanFrom::Tag), (true, VlanFrom::Tunnel)]);
    (kind, vlan, weighted(0.5, any::<u16>()), oversize, limit()).prop_map(
        |(kind, (inner_vlan, vlan_from), mtu, oversize, limit)| {
            let (mtu, oversize) = match &kind {
                DestinationKind::Pcap { .. } | DestinationKind::Group(_) => (None, Oversize::Truncate),
                DestinationKind::Port { .. } if oversize == Oversize::Fragment => (mtu, Oversize::Drop),
                _ => (mtu, oversize),
            };
            let mtu = mtu.map(|mtu| mtu.max(least_mtu(&kind, inner_vlan)));
            Destination { name: String::new(), kind, inner_vlan, vlan_from, mtu, oversize, limit }
        },
    )
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    let checksum = select(vec![UdpChecksum::Auto, UdpChecksum::On, UdpChecksum::Off]);
    let kind = prop_oneof![
        (1..=u16::MAX, checksum)
            .prop_map(|(udp_port, udp_checksum)| TunnelKind::Vxlan { udp_port, udp_checksum }),
        Just(TunnelKind::Erspan2),
        Just(TunnelKind::Erspan3),
    ];
    // The first octet of an IPv4 address 1 to 223, of an IPv6 address 0x20 to 0x3f: unicast.
    let ends = prop_oneof![
        (0x0100_0000..0xe000_0000_u32, 0x0100_0000..0xe000_0000_u32)
            .prop_map(|(a, b)| (IpAddr::from(Ipv4Addr::from(a)), IpAddr::from(Ipv4Addr::from(b)))),
        (any::<u128>(), any::<u128>()).prop_map(|(a, b)| {
            let unicast = |bits: u128| IpAddr::from(Ipv6Addr::from(bits >> 3 | 1 << 125));
            (unicast(a), unicast(b))
        }),
    ];
    let mac = any::<[u8; 6]>().prop_map(|[first, rest @ .., last]| {
        let [a, b, c, d] = rest;
        MacAddr([first & 0xfe | 2, a, b, c, d, last])
    });
    let marking = select(vec![Marking::Standard, Marking::Reference]);
    (kind, marking, ends, any::<bool>(), of(mac), of("[!-~]{1,12}")).prop_map(
        |(kind, marking, (remote, local), with_local, mac, port)| {
            let marking = if kind == TunnelKind::Erspan2 { Marking::Standard } else { marking };
            let local = (with_local && local != remote).then_some(local);
            Tunnel { kind, marking, remote, local, mac, port }
        },
    )
}

fn limit() -> impl Strategy<Value = Option<RateLimit>> {
    let rates = (of(1..=RateLimit::MAX_MBPS), of(1..=RateLimit::MAX_PPS), 1..=RateLimit::MAX_BURST_MS);
    rates.prop_map(|(rate_mbps, rate_pps, burst_ms)| {
        (rate_mbps.is_some() || rate_pps.is_some()).then_some(RateLimit { rate_mbps, rate_pps, burst_ms })
    })
}

fn hash() -> impl Strategy<Value = GroupHash> {
    select(vec![GroupHash::Auto, GroupHash::Outer, GroupHash::Inner])
}

/// A set of at least one value.
fn ranges<T: RangeValue + Arbitrary>(
    bounds: std::ops::RangeInclusive<T>,
) -> impl Strategy<Value = RangeSet<T>> {
    let first = *bounds.start();
    let last = *bounds.end();
    let clamp = move |value: T| value.max(first).min(last);
    vec((any::<T>(), any::<T>()), 1..4)
        .prop_map(move |pairs| pairs.into_iter().map(|(a, b)| clamp(a.min(b))..=clamp(a.max(b))).collect())
}

/// A set that may be empty.
fn range_set<T: RangeValue + Arbitrary>(
    bounds: std::ops::RangeInclusive<T>,
) -> impl Strategy<Value = RangeSet<T>> {
    prop_oneof![1 => Just(RangeSet::default()), 2 => ranges(bounds)]
}

/// A legal name, with room for a number behind it.
fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.-]{1,58}"
}

fn unique(name: &str, number: usize) -> String {
    format!("{name}.{number}")
}
