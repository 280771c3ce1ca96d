//! Are nested tunnels taken off as an obvious model says, and do hostile ones stay harmless?
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;

use sluice_core::decap::{self, Ends, Obstacle, TunnelInfo};
use sluice_core::wire::{self, TunnelHeader};
use sluice_model::{DecapKind, DecapKinds, DecapMode, DecapSettings};
use sluice_tests::fuzz_targets;
use sluice_tests::nest::{self, Nest, Numbers, Tunnel};

fn settings(depth: u8) -> DecapSettings {
    DecapSettings { mode: DecapMode::Strip, depth, ..DecapSettings::default() }
}

/// The tunnel that is remembered of those that were taken off.
fn remembered(taken: &[Tunnel]) -> Option<&Tunnel> {
    taken.iter().find(|tunnel| tunnel.kind != TunnelHeader::Mpls).or(taken.first())
}

#[test]
fn nested_tunnels_come_off_as_the_model_says() {
    let mut seen: BTreeMap<TunnelHeader, usize> = BTreeMap::new();
    for seed in 0..30_000 {
        let mut numbers = Numbers::new(seed);
        let tunnels = numbers.below(10);
        let nest = Nest::draw(&mut numbers, tunnels);
        let depth = 1 + numbers.below(8);
        let taken = depth.min(tunnels);
        let frame = nest.frame();
        let outer = wire::parse(&frame);
        let (mut view, mut tunnel) = (outer, TunnelInfo::NONE);
        let mut numbered = Vec::new();
        let found = decap::unwrap(&frame, settings(depth as u8), &mut view, &mut tunnel, &mut |packet| {
            numbered.push((packet.kind, packet.number));
        });
        assert_eq!(usize::from(found.depth), taken, "seed {seed}: {:?}", nest.tunnels);
        assert_eq!(found.obstacle, (taken < tunnels).then_some(Obstacle::Depth), "seed {seed}");
        if taken == 0 {
            assert_eq!((view, tunnel), (outer, TunnelInfo::NONE), "seed {seed}");
            continue;
        }
        let left = nest.left(taken);
        assert_eq!(nest::take_off(&frame, &found), left, "seed {seed}: {:?}", nest.tunnels);
        assert_eq!(view, wire::parse(&left), "seed {seed}: {:?}", nest.tunnels);
        assert_eq!(view.check(left.len()), Ok(()), "seed {seed}");
        let expected = remembered(&nest.tunnels[..taken]).unwrap();
        let source = &tunnel.src_addr[..expected.source.len()];
        assert_eq!(
            (tunnel.kind, tunnel.id, source),
            (expected.kind, expected.id, &expected.source[..]),
            "seed {seed}"
        );
        assert_eq!((tunnel.depth, tunnel.ipv4), (taken as u8, expected.source.len() == 4), "seed {seed}");
        assert!(!tunnel.own && tunnel.mark & 0x8000 != 0, "seed {seed}");
        if matches!(expected.kind, TunnelHeader::Vxlan | TunnelHeader::Gre | TunnelHeader::GreTeb) {
            assert_eq!(u32::from(tunnel.mark) & 0xfff, expected.id & 0xfff, "seed {seed}");
        }
        let expected: Vec<_> =
            nest.tunnels[..taken].iter().filter_map(|t| Some((t.kind, t.number?))).collect();
        assert_eq!(numbered, expected, "seed {seed}");
        nest.tunnels[..taken].iter().for_each(|t| *seen.entry(t.kind).or_default() += 1);
    }
    assert_eq!(seen.len(), 10, "every kind of tunnel: {seen:?}");
}

/// Only tunnels that are sent to us come off, each asked by itself from the outside.
#[test]
fn what_goes_elsewhere_stays() {
    let mut depths = BTreeMap::<usize, usize>::new();
    for seed in 0..30_000 {
        let mut numbers = Numbers::new(seed);
        let tunnels = numbers.below(6);
        let nest = Nest::draw(&mut numbers, tunnels);
        let sent_to = |depth: usize| {
            let view = wire::parse(&nest.left(depth));
            (view.l3, view.dst_addr)
        };
        let own: Vec<_> = (0..tunnels).filter(|_| numbers.below(4) > 0).map(sent_to).collect();
        let ends_here = |depth: usize| {
            // Labels are told by the EtherType of the frame that holds them.
            let left = nest.left(depth);
            let labels = [0x8847, 0x8848].contains(&wire::parse(&left).ethertype);
            !labels && own.contains(&sent_to(depth))
        };
        let expected = (0..tunnels).take_while(|&depth| ends_here(depth)).count();
        let frame = nest.frame();
        let outer = wire::parse(&frame);
        let (mut view, mut tunnel, mut numbered) = (outer, TunnelInfo::NONE, 0);
        let ends = Ends::Own(&own);
        let found =
            decap::unwrap_at(&frame, settings(8), ends, &mut view, &mut tunnel, &mut |_| numbered += 1);
        assert_eq!(usize::from(found.depth), expected, "seed {seed}: {:?}", nest.tunnels);
        assert_eq!(found.obstacle, None, "seed {seed}: {:?}", nest.tunnels);
        let numbers_there = nest.tunnels[..expected].iter().filter(|tunnel| tunnel.number.is_some()).count();
        assert_eq!(numbered, numbers_there, "seed {seed}: {:?}", nest.tunnels);
        if expected == 0 {
            assert_eq!((view, tunnel), (outer, TunnelInfo::NONE), "seed {seed}");
        } else {
            assert_eq!(nest::take_off(&frame, &found), nest.left(expected), "seed {seed}");
            assert!(tunnel.own, "seed {seed}");
        }
        *depths.entry(expected).or_default() += 1;
    }
    assert!(depths.len() > 4 && depths.values().all(|&count| count > 50), "{depths:?}");
}

/// The straight way, wherever it is open, leads to the same place.
#[test]
fn the_straight_way_is_no_other() {
    let (mut taken, mut directly) = (0, 0);
    for seed in 0..60_000 {
        let mut numbers = Numbers::new(seed);
        let tunnels = 1 + numbers.below(2);
        let mut frame = Nest::draw(&mut numbers, tunnels).frame();
        if numbers.below(4) == 0 {
            frame.truncate(numbers.below(frame.len()));
        }
        if numbers.below(4) == 0 {
            // Lengths and flags lie.
            let at = numbers.below(frame.len().min(60));
            frame.get_mut(at).into_iter().for_each(|byte| *byte = [0, 0xff, 8][numbers.below(3)]);
        }
        let outer = wire::parse(&frame);
        let (mut view, mut tunnel) = (outer, TunnelInfo::NONE);
        let (mut straight_view, mut straight_tunnel) = (view, tunnel);
        let found = decap::unwrap(&frame, settings(4), &mut view, &mut tunnel, &mut |_| ());
        let (mut direct_view, mut direct_tunnel) = (outer, TunnelInfo::NONE);
        if let Some(direct) = decap::direct(&frame, settings(4), &mut direct_view, &mut direct_tunnel) {
            directly += 1;
            let expected = (found.depth, found.obstacle, found.header, found.start, found.end);
            assert_eq!(expected, (1, None, None, direct.start, direct.end), "seed {seed}");
            assert_eq!((direct_view, direct_tunnel), (view, tunnel), "seed {seed}");
        }
        match decap::straight(&frame, settings(4), &mut straight_view, &mut straight_tunnel) {
            Some(straight) => {
                taken += 1;
                let expected = (found.depth, found.obstacle, found.header, found.start, found.end);
                assert_eq!(expected, (1, None, None, straight.start, straight.end), "seed {seed}");
                assert_eq!((straight_view, straight_tunnel), (view, tunnel), "seed {seed}");
            }
            None => assert_eq!((straight_view, straight_tunnel), (outer, TunnelInfo::NONE), "seed {seed}"),
        }
    }
    assert!(taken > 30 && directly > 3, "{taken} went straight, {directly} without parsing");
}

/// Looked through, the headers are those of the parser's innermost view, where the parser counts the same tunnels.
#[test]
fn looking_through_is_the_innermost_view() {
    for seed in 0..20_000 {
        let mut numbers = Numbers::new(seed);
        let tunnels = numbers.below(6);
        let mut nest = Nest::draw(&mut numbers, tunnels);
        nest.padding = 0;
        let frame = nest.frame();
        let outer = wire::parse(&frame);
        let (mut view, mut tunnel) = (outer, TunnelInfo::NONE);
        let found = decap::unwrap(&frame, settings(8), &mut view, &mut tunnel, &mut |_| ());
        if found.depth == 0 {
            continue;
        }
        found.look_through(&mut view);
        assert_eq!(view.check(frame.len()), Ok(()), "seed {seed}: {:?}", nest.tunnels);
        let mut innermost = wire::parse_innermost(&frame, &outer, 8);
        let labels = nest.tunnels.last().is_some_and(|last| last.kind == TunnelHeader::Mpls);
        if labels && matches!(nest.layers.last(), Some(nest::Packet::Ip(_))) {
            // For the parser, labels before IP belong to the frame that holds them.
            for (ours, theirs) in [(view.src_addr, innermost.src_addr), (view.dst_addr, innermost.dst_addr)] {
                assert_eq!(ours, theirs, "seed {seed}");
            }
            continue;
        }
        // The parser has no EtherType for what has no Ethernet header.
        innermost.ethertype = view.ethertype;
        assert_eq!(view, innermost, "seed {seed}: {:?}", nest.tunnels);
    }
}

#[test]
fn only_the_kinds_asked_for_come_off() {
    for seed in 0..5_000 {
        let mut numbers = Numbers::new(seed);
        let nest = Nest::draw(&mut numbers, 4);
        let kind = DecapKind::ALL[numbers.below(8)];
        let settings = DecapSettings { kinds: DecapKinds::NONE.with(kind), ..settings(8) };
        let is_kind = |tunnel: &Tunnel| {
            let name = tunnel.kind.name();
            name == kind.name() || (kind == DecapKind::Erspan && name.starts_with("erspan"))
        };
        // Labels before IP are passed over when they do not come off.
        let mut wanted = 0;
        for (index, tunnel) in nest.tunnels.iter().enumerate() {
            if is_kind(tunnel) {
                wanted = index + 1;
            } else if tunnel.kind != TunnelHeader::Mpls
                || !matches!(nest.layers[index + 1], nest::Packet::Ip(_))
            {
                break;
            }
        }
        let frame = nest.frame();
        let (mut view, mut tunnel) = (wire::parse(&frame), TunnelInfo::NONE);
        let found = decap::unwrap(&frame, settings, &mut view, &mut tunnel, &mut |_| ());
        assert_eq!(found.depth > 0, wanted > 0, "seed {seed}: {kind:?} {:?}", nest.tunnels);
        if wanted > 0 {
            assert_eq!(
                nest::take_off(&frame, &found),
                nest.left(wanted),
                "seed {seed}: {kind:?} {:?}",
                nest.tunnels
            );
        }
    }
}

/// A hundred tunnels in each other, cut anywhere, with lengths and bytes that lie: never more than the depth comes off,
/// and never a byte from outside the frame.
#[test]
fn hostile_nesting_is_bounded() {
    for seed in 0..300 {
        let mut numbers = Numbers::new(seed);
        let nest = Nest::draw(&mut numbers, 100);
        let frame = nest.frame();
        let (mut view, mut tunnel) = (wire::parse(&frame), TunnelInfo::NONE);
        let found = decap::unwrap(&frame, settings(8), &mut view, &mut tunnel, &mut |_| ());
        assert_eq!((found.depth, found.obstacle), (8, Some(Obstacle::Depth)));
        for _ in 0..200 {
            let mut hostile = nest.frame();
            hostile.truncate(numbers.below(hostile.len().min(900)));
            for _ in 0..numbers.below(6) {
                let at = numbers.below(hostile.len().min(400));
                if let Some(byte) = hostile.get_mut(at) {
                    *byte = [0, 0xff, numbers.below(256) as u8][numbers.below(3)];
                }
            }
            hostile.insert(0, numbers.below(256) as u8);
            fuzz_targets::decap(&hostile);
        }
    }
}
