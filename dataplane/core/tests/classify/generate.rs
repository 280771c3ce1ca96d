//! Policies and packets that meet at the edges of each other's ranges.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use sluice_model::{
    Action, AddressSet, Destination, DestinationId, DestinationKind, FragmentMatch, HeaderView, MacAddr,
    Oversize, Policy, PolicySet, RangeSet, RangeValue, Side, Tag, TcpFlagsMatch,
};

use crate::packet::{Cut, Kind, L4, Layer, Net, Tunnel};
use crate::reference::Place;

/// Names of the ingress ports.
pub const PORTS: [&str; 3] = ["tap0", "tap1", "tap2"];
/// Names and numbers of the taps; tap 3 has no name.
pub const TAPS: [(&str, u16); 4] = [("core", 1), ("", 3), ("edge", 250), ("lab", 65_535)];

const V4: [u32; 14] = [
    0,
    1,
    0x0a00_0000,
    0x0a00_00ff,
    0x0a00_0100,
    0x0a00_01fe,
    0x0a00_ffff,
    0x0a01_0000,
    0x0aff_ffff,
    0x7fff_ffff,
    0x8000_0000,
    0xc0a8_0a18,
    0xc0a8_0aff,
    0xffff_ffff,
];
const V6: [u128; 11] = [
    0,
    1,
    0xffff_0a00_0000,
    0x2001_0db8 << 96,
    (0x2001_0db8 << 96) + 0xffff,
    (0x2001_0db8 << 96) + (1 << 64),
    (0x2001_0db8_0001 << 80) - 1,
    0x2001_0db9 << 96,
    0xfe80 << 112,
    (0xfe80 << 112) + 0x0200_00ff_fe00_0001,
    u128::MAX,
];
const PORT_EDGES: [u16; 10] = [0, 1, 53, 80, 443, 1023, 1024, 8080, 32_768, 65_535];
const LENGTHS: [u16; 6] = [0, 60, 64, 1500, 1514, 65_535];
const IDS: [u32; 7] = [0, 1, 7, 100, 0x00ff_fffe, 0x00ff_ffff, 0x8000_0000];
const TYPES: [u16; 7] = [0, 0x0800, 0x0806, 0x86dd, 0x88cc, 0x8100, 0xffff];
const PROTOCOLS: [u8; 8] = [0, 1, 6, 17, 47, 50, 132, 255];

/// A small generator of numbers (xorshift64*), so that a seed names a case.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 33) % end as u64) as usize
    }

    /// True once in `n` throws.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn maybe<T>(&mut self, one_in: usize, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.one_in(one_in) { Some(make(self)) } else { None }
    }
}

fn mac(dice: &mut Dice) -> MacAddr {
    dice.pick(&[[0; 6], [0, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6]].map(MacAddr))
}

fn v4(dice: &mut Dice) -> u32 {
    dice.pick(&V4).wrapping_add(dice.pick(&[0, 0, 1, u32::MAX]))
}

fn v6(dice: &mut Dice) -> u128 {
    dice.pick(&V6).wrapping_add(dice.pick(&[0, 0, 1, u128::MAX]))
}

fn some_ranges<T: RangeValue>(dice: &mut Dice, edge: impl Fn(&mut Dice) -> T) -> RangeSet<T> {
    let count = dice.pick(&[1, 1, 1, 2, 3]);
    let range = |dice: &mut Dice| -> RangeInclusive<T> {
        let (a, b) = (edge(dice), edge(dice));
        if dice.one_in(2) { a..=a } else { a.min(b)..=a.max(b) }
    };
    RangeSet::new((0..count).map(|_| range(dice)).collect::<Vec<_>>())
}

pub fn group(dice: &mut Dice) -> Arc<AddressSet> {
    let mut set = AddressSet::default();
    if !dice.one_in(3) {
        set.ipv4 = some_ranges(dice, v4);
    }
    if dice.one_in(2) {
        set.ipv6 = some_ranges(dice, v6);
    }
    if dice.one_in(3) {
        set.macs = (0..2).map(|_| mac(dice)).collect();
        set.macs.sort_unstable();
        set.macs.dedup();
    }
    Arc::new(set)
}

fn side(dice: &mut Dice, groups: &[Arc<AddressSet>]) -> Side {
    let count = dice.pick(&[0, 0, 1, 1, 2]);
    let addresses = (0..count)
        .map(|_| {
            if dice.one_in(4) || groups.is_empty() {
                group(dice)
            } else {
                groups[dice.below(groups.len())].clone()
            }
        })
        .collect();
    Side { addresses, ports: dice.maybe(4, |dice| some_ranges(dice, |dice| dice.pick(&PORT_EDGES))) }
}

pub fn policy(dice: &mut Dice, groups: &[Arc<AddressSet>], destinations: u16, inner: bool) -> Policy {
    let action = if dice.one_in(12) { Action::Drop } else { Action::Copy };
    let mut to: Vec<DestinationId> = match action {
        Action::Drop => Vec::new(),
        Action::Copy => {
            (0..=dice.below(3)).map(|_| DestinationId(dice.below(destinations.into()) as u16)).collect()
        }
    };
    to.sort_unstable();
    to.dedup();
    if dice.one_in(2) {
        to.reverse();
    }
    Policy {
        name: "p".to_owned(),
        collect: side(dice, groups),
        peer: side(dice, groups),
        protocol: dice.maybe(4, |dice| some_ranges(dice, |dice| dice.pick(&PROTOCOLS))),
        vlan: dice.maybe(12, |dice| some_ranges(dice, |dice| dice.pick(&[0_u16, 1, 100, 4094, 4095]))),
        vlan_inner: dice.maybe(16, |dice| some_ranges(dice, |dice| dice.pick(&[0_u16, 1, 200, 4095]))),
        tunnel_id: dice.maybe(10, |dice| some_ranges(dice, |dice| dice.pick(&IDS))),
        headers: if inner && dice.one_in(3) { HeaderView::Inner } else { HeaderView::Outer },
        ethertype: dice.maybe(12, |dice| some_ranges(dice, |dice| dice.pick(&TYPES))),
        tcp_flags: dice.maybe(12, |dice| {
            let mask = dice.pick(&[0_u8, 0x02, 0x12, 0x17, 0xff]);
            TcpFlagsMatch { mask, value: mask & dice.pick(&[0_u8, 0x02, 0x12, 0x10, 0xff]) }
        }),
        length: dice.maybe(12, |dice| some_ranges(dice, |dice| dice.pick(&LENGTHS))),
        fragment: dice.maybe(12, |dice| {
            dice.pick(&[FragmentMatch::Fragments, FragmentMatch::Later, FragmentMatch::Whole])
        }),
        ingress: dice
            .maybe(12, |dice| vec![dice.pick(&["tap0", "tap1", "gone"]).to_owned()])
            .unwrap_or_default(),
        taps: dice
            .maybe(8, |dice| {
                (0..=dice.below(2)).map(|_| dice.pick(&["core", "edge", "lab", "gone"]).to_owned()).collect()
            })
            .unwrap_or_default(),
        action,
        payload: dice.maybe(2, |dice| dice.pick(&[0, 20, 30, 65_535])),
        tag: Tag::new(dice.pick(&[0, 1, 7, Tag::MAX])).unwrap(),
        to,
    }
}

pub fn destinations(count: u16) -> Vec<Destination> {
    let destination = |number| Destination {
        name: format!("d{number}"),
        kind: DestinationKind::Pcap { file: format!("d{number}.pcap").into() },
        inner_vlan: false,
        vlan_from: sluice_model::VlanFrom::Tag,
        mtu: None,
        oversize: Oversize::Truncate,
        limit: None,
    };
    (0..count).map(destination).collect()
}

/// Some policies over a few groups.
pub fn policies(dice: &mut Dice, count: usize) -> PolicySet {
    let groups: Vec<_> = (0..dice.below(6)).map(|_| group(dice)).collect();
    let inner = dice.one_in(2);
    let policies = (0..count).map(|_| policy(dice, &groups, 4, inner)).collect();
    PolicySet::new(policies, destinations(4)).unwrap()
}

fn port(dice: &mut Dice) -> u16 {
    // Not a port that announces a tunnel.
    let port = dice.pick(&PORT_EDGES).wrapping_add(dice.pick(&[0, 0, 0, 1, u16::MAX]));
    if matches!(port, 2152 | 4789 | 6081 | 8472) { 80 } else { port }
}

fn l4(dice: &mut Dice, may_tunnel: bool) -> L4 {
    match dice.below(if may_tunnel { 8 } else { 6 }) {
        0..=2 => {
            let cut = if dice.one_in(8) { dice.pick(&[Cut::BeforePorts, Cut::BeforeFlags]) } else { Cut::No };
            L4::Tcp { src: port(dice), dst: port(dice), flags: dice.pick(&[0, 2, 0x10, 0x12, 0xff]), cut }
        }
        3 => L4::Udp { src: port(dice), dst: port(dice) },
        4 => L4::Sctp { src: port(dice), dst: port(dice) },
        5 => L4::Other(dice.pick(&[1, 2, 50, 255])),
        _ => {
            let kind = dice.pick(&[Kind::Vxlan, Kind::Geneve, Kind::Gre, Kind::IpInIp]);
            let id = match kind {
                Kind::Gre => dice.pick(&IDS),
                _ => dice.pick(&IDS) & 0x00ff_ffff,
            };
            let bare = kind == Kind::IpInIp || (kind == Kind::Gre && dice.one_in(2));
            let inner = if bare {
                Layer { macs: None, vlans: Vec::new(), net: ip(dice, false) }
            } else {
                layer(dice, false)
            };
            L4::Tunnel(Box::new(Tunnel { kind, id, inner }))
        }
    }
}

fn ip(dice: &mut Dice, may_tunnel: bool) -> Net {
    let (src, dst): (IpAddr, IpAddr) = if dice.one_in(3) {
        (IpAddr::V6(v6(dice).into()), IpAddr::V6(v6(dice).into()))
    } else {
        (IpAddr::V4(v4(dice).into()), IpAddr::V4(v4(dice).into()))
    };
    let place = if dice.one_in(8) { dice.pick(&[Place::First, Place::Later]) } else { Place::Whole };
    Net::Ip { src, dst, place, ident: dice.next() as u16, l4: l4(dice, may_tunnel && place == Place::Whole) }
}

/// A frame.
pub fn layer(dice: &mut Dice, may_tunnel: bool) -> Layer {
    let vlans = (0..dice.pick(&[0, 0, 0, 1, 2]))
        .map(|_| dice.pick(&[0_u16, 1, 100, 101, 200, 4095]) | dice.pick(&[0, 0xe000]))
        .collect();
    let net = match dice.below(10) {
        0 => match dice.below(3) {
            0 => Net::Arp,
            1 => Net::Llc,
            _ => Net::Other(0x88cc),
        },
        _ => ip(dice, may_tunnel),
    };
    Layer { macs: Some((mac(dice), mac(dice))), vlans, net }
}

/// An original length.
pub fn length(dice: &mut Dice) -> u32 {
    dice.pick(&[0, 59, 60, 61, 64, 65, 1500, 1515, 65_534, 65_535, 65_536, 1 << 20])
}
