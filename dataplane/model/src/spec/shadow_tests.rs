//! Is every covered policy that is reported really covered, and is the index complete and cheap?

use proptest::prelude::*;

use super::super::contradiction::contradiction;
use super::*;
use crate::{DestinationId, PortSet, Tag, TcpFlagsMatch};

/// What the policies of these tests look at.
#[derive(Clone, Copy, Debug)]
struct Packet {
    addresses: [u32; 2],
    ports: [u16; 2],
    protocol: u8,
    vlan: Option<u16>,
    flags: u8,
}

fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for n in 0..4_u32 * 4 * 2 * 2 * 3 * 2 * 2 {
        let mut rest = n;
        let mut digit = |base: u32| {
            let digit = rest % base;
            rest /= base;
            digit
        };
        packets.push(Packet {
            addresses: [digit(4), digit(4)],
            ports: [80 + digit(2) as u16, 80 + digit(2) as u16],
            protocol: [1, 6, 17][digit(3) as usize],
            vlan: [None, Some(7)][digit(2) as usize],
            flags: [0x02, 0x10][digit(2) as usize],
        });
    }
    packets
}

/// The slow, obvious reading of a policy: (matches by source, matches by destination).
fn readings(policy: &Policy, packet: &Packet) -> (bool, bool) {
    let with_ports = packet.protocol != 1;
    let side = |side: &Side, end: usize| {
        let address = side.addresses.is_empty()
            || side.addresses.iter().any(|set| set.ipv4.contains(packet.addresses[end]));
        address && side.ports.as_ref().is_none_or(|ports| with_ports && ports.contains(packet.ports[end]))
    };
    let common = policy.protocol.as_ref().is_none_or(|set| set.contains(packet.protocol))
        && policy.vlan.as_ref().is_none_or(|set| packet.vlan.is_some_and(|vlan| set.contains(vlan)))
        && policy.tcp_flags.is_none_or(|flags| packet.protocol == 6 && flags.matches(packet.flags));
    let reading = |source: usize| common && side(&policy.collect, source) && side(&policy.peer, 1 - source);
    (reading(0), reading(1))
}

fn addresses(range: std::ops::RangeInclusive<u32>) -> Side {
    let set = AddressSet { ipv4: RangeSet::new([range]), ..AddressSet::default() };
    Side { addresses: vec![Arc::new(set)], ports: None }
}

fn any_side() -> impl Strategy<Value = Side> {
    let set = proptest::option::of((0..4_u32, 0..4_u32));
    let ports = proptest::option::weighted(0.3, 80..82_u16);
    (set, ports).prop_map(|(set, ports)| {
        let side = set.map_or(Side::default(), |(a, b)| addresses(a.min(b)..=a.max(b)));
        Side { ports: ports.map(|low| PortSet::new([low..=81])), ..side }
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let flags = proptest::sample::select(vec![
        TcpFlagsMatch { mask: 0x02, value: 0x02 },
        TcpFlagsMatch { mask: 0x12, value: 0x02 },
    ]);
    let protocol = (0..20_u8, 0..20_u8).prop_map(|(a, b)| RangeSet::new([a.min(b)..=a.max(b)]));
    (
        (any_side(), any_side()),
        proptest::option::weighted(0.3, protocol),
        proptest::option::weighted(0.2, Just(RangeSet::new([7..=7]))),
        proptest::option::weighted(0.2, flags),
        proptest::bool::weighted(0.2),
        proptest::option::weighted(0.5, 0..3_u16),
        (0..2_u32, 1..4_u8),
    )
        .prop_map(|((collect, peer), protocol, vlan, tcp_flags, drop, payload, (tag, to))| {
            let base = Policy { collect, peer, protocol, vlan, tcp_flags, ..Policy::default() };
            if drop {
                return Policy { action: Action::Drop, ..base };
            }
            let to = (0..2).filter(|i| to & (1 << i) != 0).map(DestinationId).collect();
            Policy { payload, tag: Tag::new(tag).unwrap(), to, ..base }
        })
}

proptest! {
    #[test]
    fn what_is_found_is_true(policies in proptest::collection::vec(any_policy(), 0..8)) {
        let refs: Vec<&Policy> = policies.iter().collect();
        for shadow in shadows(&refs, |_| false).found {
            let (covered, by) = (&policies[shadow.covered], &policies[shadow.by]);
            for packet in packets() {
                let (narrow, wide) = (readings(covered, &packet), readings(by, &packet));
                if narrow.0 || narrow.1 {
                    prop_assert!(wide.0 || wide.1, "{packet:?} {covered:?} {by:?}");
                    // The direction bit stays as it is.
                    prop_assert!(by.action == Action::Drop || wide.0 || !narrow.0);
                }
            }
            if by.action == Action::Copy {
                prop_assert_eq!(covered.action, Action::Copy);
                prop_assert_eq!(covered.tag, by.tag);
                prop_assert!(covered.to.iter().all(|id| by.to.contains(id)));
                prop_assert!(by.payload.is_none_or(|len| covered.payload.is_some_and(|c| c <= len)));
            }
        }
    }

    #[test]
    fn the_index_misses_nothing(policies in proptest::collection::vec(any_policy(), 0..12)) {
        let refs: Vec<&Policy> = policies.iter().collect();
        let found = shadows(&refs, |_| false).found;
        let covers = |by: usize, covered: usize| {
            Subject::new(refs[by]).covers(&Subject::new(refs[covered]), &mut HashMap::new())
        };
        for covered in 0..refs.len() {
            let expected = (0..refs.len())
                .any(|by| by != covered && covers(by, covered) && (by < covered || !covers(covered, by)));
            // Those that never match are reported for that.
            if expected && contradiction(refs[covered]).is_none() {
                prop_assert!(found.iter().any(|s| s.covered == covered), "{covered} of {policies:?}");
            }
        }
    }
}

#[test]
fn the_work_grows_with_the_policies_not_with_their_square() {
    const N: usize = 10_000;
    type Make<'a> = &'a dyn Fn(u32) -> Policy;
    let wide = addresses(0x0a00_0000..=0x0aff_ffff);
    let base = Policy { to: vec![DestinationId(0)], ..Policy::default() };
    let port = |i: u32| Some(PortSet::new([i as u16..=i as u16]));
    let cases: [(&str, Make<'_>, usize); 7] = [
        ("hosts", &|i| Policy { collect: addresses(i..=i), ..base.clone() }, 0),
        (
            "a network, many peers",
            &|i| Policy { collect: wide.clone(), peer: addresses(i..=i), ..base.clone() },
            0,
        ),
        ("many ports", &|i| Policy { collect: Side { ports: port(i), ..wide.clone() }, ..base.clone() }, 0),
        ("everything, many tags", &|i| Policy { tag: Tag::new(i).unwrap(), ..base.clone() }, 0),
        ("many taps", &|i| Policy { taps: vec![format!("tap{i}")], ..base.clone() }, 0),
        ("many ingress ports", &|i| Policy { ingress: vec![format!("tap{i}")], ..base.clone() }, 0),
        ("all alike", &|_| base.clone(), N - 1),
    ];
    for (name, make, expected) in cases {
        let policies: Vec<Policy> = (0..N as u32).map(make).collect();
        let refs: Vec<&Policy> = policies.iter().collect();
        let shadows = shadows(&refs, |_| false);
        assert_eq!(shadows.found.len(), expected, "{name}");
        assert!(shadows.pairs <= 4 * N, "{name}: {} pairs", shadows.pairs);
        assert!(!shadows.ended_early, "{name}");
    }
}

#[test]
fn an_exclusion_covers_both_readings() {
    let exclusion = Policy {
        action: Action::Drop,
        collect: addresses(1..=9),
        peer: addresses(20..=29),
        ..Policy::default()
    };
    let turned = Policy {
        collect: addresses(20..=21),
        peer: addresses(3..=3),
        to: vec![DestinationId(0)],
        ..Policy::default()
    };
    let found = shadows(&[&turned, &exclusion], |_| false).found;
    assert_eq!(found, [Shadow { covered: 0, by: 1 }]);
}
