//! Which policies of one view (outermost or innermost headers) match, given the classes of a packet?

use std::collections::HashMap;
use std::sync::Arc;

use sluice_model::{AddressSet, Policy, PortId, Side};

use super::address::{Boundaries, Ipv4Trie};
use super::dimension::{Members, Scalar, ScalarTable, ValueTable, ranges};
use super::rows::{Row, Rows, summaries};
use super::sweep::{Classes, Interval, Users, sweep};
use crate::wire::{L3, Parsed};

/// Ethernet header length.
const ETHERNET_LEN: u16 = 14;

/// The policies of each class by side, with the unconstrained ones in a last row.
#[derive(Clone, Debug)]
struct Sides {
    collect: Rows,
    peer: Rows,
    classes: u32,
}

impl Sides {
    fn new(classes: &Classes, users: &[Users; 2], any: &[Vec<u32>; 2], total: usize) -> Self {
        let [collect, peer] = [0, 1].map(|side| {
            let mut rows = Rows::new(total);
            if let (Some(users), Some(any)) = (users.get(side), any.get(side)) {
                rows.push_classes(classes.members(), users);
                rows.push(any.iter().copied());
            }
            rows
        });
        Self { collect, peer, classes: u32::try_from(classes.members().len()).unwrap_or(u32::MAX) }
    }

    fn collect(&self, class: u32) -> Operand<'_> {
        [self.collect.row(class as usize), self.collect.row(self.classes as usize), Row::EMPTY]
    }

    fn peer(&self, class: u32) -> Operand<'_> {
        [self.peer.row(class as usize), self.peer.row(self.classes as usize), Row::EMPTY]
    }

    fn bytes(&self) -> usize {
        self.collect.bytes() + self.peer.bytes()
    }
}

/// The two sides of a policy, in the order of the arrays here.
fn sides(policy: &Policy) -> [&Side; 2] {
    [&policy.collect, &policy.peer]
}

/// IP and Ethernet addresses to classes. IP classes and MAC classes are numbered apart; a set may hold both.
#[derive(Clone, Debug)]
struct Addresses {
    ipv4: Ipv4Trie,
    ipv6: Boundaries,
    mac: Option<(Boundaries, Sides)>,
    ip: Sides,
}

impl Addresses {
    fn new(policies: &[(u32, &Policy)], total: usize) -> Option<Self> {
        let mut numbers: HashMap<*const AddressSet, u32> = HashMap::new();
        let mut sets: Vec<&AddressSet> = Vec::new();
        let mut users = [Users::default(), Users::default()];
        let mut any = [Vec::new(), Vec::new()];
        for &(number, policy) in policies {
            for ((side, users), any) in sides(policy).into_iter().zip(&mut users).zip(&mut any) {
                if side.addresses.is_empty() {
                    any.push(number);
                }
                for set in &side.addresses {
                    let member = *numbers.entry(Arc::as_ptr(set)).or_insert_with(|| {
                        sets.push(set);
                        u32::try_from(sets.len() - 1).unwrap_or(u32::MAX)
                    });
                    users.add(member, number);
                }
            }
        }
        if sets.is_empty() {
            return None;
        }
        let mut ip_classes = Classes::default();
        let mut intervals =
            |of: fn(&AddressSet) -> Vec<(u128, u128)>| sweep(&member_ranges(&sets, of), &mut ip_classes);
        let ipv4 = Ipv4Trie::new(&intervals(|set| ranges(&set.ipv4)));
        let ipv6 = Boundaries::new(&intervals(|set| ranges(&set.ipv6)), 128);
        let mut mac_classes = Classes::default();
        let macs = sweep(
            &member_ranges(&sets, |set| set.macs.iter().map(|m| (mac(m.0), mac(m.0))).collect()),
            &mut mac_classes,
        );
        let mac = (macs.len() > 1).then(|| {
            let unused = [Vec::new(), Vec::new()];
            (Boundaries::new(&macs, 48), Sides::new(&mac_classes, &users, &unused, total))
        });
        Some(Self { ipv4, ipv6, mac, ip: Sides::new(&ip_classes, &users, &any, total) })
    }

    #[inline]
    fn ip_class(&self, l3: L3, address: &[u8; 16]) -> u32 {
        match l3 {
            L3::Ipv4 => {
                let [a, b, c, d, ..] = *address;
                self.ipv4.class(u32::from_be_bytes([a, b, c, d]))
            }
            L3::Ipv6 => self.ipv6.class(u128::from_be_bytes(*address)),
            L3::None | L3::Arp => 0,
        }
    }

    /// The policies whose collection point holds an address of these IP and MAC classes.
    fn collect(&self, (ip, mac): (u32, u32)) -> Operand<'_> {
        let by_mac = self.mac.as_ref().map_or(Row::EMPTY, |(_, sides)| sides.collect.row(mac as usize));
        let [by_ip, any, _] = self.ip.collect(ip);
        [by_ip, any, by_mac]
    }

    /// The same for the peer.
    fn peer(&self, (ip, mac): (u32, u32)) -> Operand<'_> {
        let by_mac = self.mac.as_ref().map_or(Row::EMPTY, |(_, sides)| sides.peer.row(mac as usize));
        let [by_ip, any, _] = self.ip.peer(ip);
        [by_ip, any, by_mac]
    }

    fn bytes(&self) -> usize {
        let mac = self.mac.as_ref().map_or(0, |(table, sides)| table.bytes() + sides.bytes());
        self.ipv4.bytes() + self.ipv6.bytes() + self.ip.bytes() + mac
    }
}

fn member_ranges(sets: &[&AddressSet], of: fn(&AddressSet) -> Vec<(u128, u128)>) -> Vec<(u128, u128, u32)> {
    let ranges =
        (0..).zip(sets).flat_map(|(member, set)| of(set).into_iter().map(move |(a, b)| (a, b, member)));
    ranges.collect()
}

fn mac([a, b, c, d, e, f]: [u8; 6]) -> u128 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f]).into()
}

/// TCP, UDP and SCTP ports to classes.
#[derive(Clone, Debug)]
struct Ports {
    table: ValueTable,
    sides: Sides,
}

impl Ports {
    fn new(policies: &[(u32, &Policy)], total: usize) -> Option<Self> {
        let mut members = Members::default();
        let mut users = [Users::default(), Users::default()];
        let mut any = [Vec::new(), Vec::new()];
        for &(number, policy) in policies {
            for ((side, users), any) in sides(policy).into_iter().zip(&mut users).zip(&mut any) {
                match &side.ports {
                    Some(ports) => users.add(members.number(ranges(ports)), number),
                    None => any.push(number),
                }
            }
        }
        if any.iter().all(|any| any.len() == policies.len()) {
            return None;
        }
        let mut classes = Classes::default();
        let intervals: Vec<Interval> = sweep(&members.all, &mut classes);
        Some(Self {
            table: ValueTable::new(&intervals, 16),
            sides: Sides::new(&classes, &users, &any, total),
        })
    }

    fn bytes(&self) -> usize {
        self.table.bytes() + self.sides.bytes()
    }
}

/// A dimension in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    SrcAddress,
    DstAddress,
    SrcMac,
    DstMac,
    SrcPort,
    DstPort,
    Scalar(usize),
}

/// The tables of one view.
#[derive(Clone, Debug)]
pub(super) struct View {
    summaries: usize,
    /// One row: the policies of this view.
    all: Rows,
    addresses: Option<Addresses>,
    ports: Option<Ports>,
    scalars: Vec<ScalarTable>,
}

/// Policies that accept a class, by up to three rows that are united.
type Operand<'a> = [Row<'a>; 3];

fn summary(operand: &Operand<'_>, index: usize) -> u64 {
    operand.iter().fold(0, |bits, row| bits | row.summary(index))
}

fn word(operand: &Operand<'_>, word: usize) -> u64 {
    operand.iter().fold(0, |bits, row| bits | row.word(word))
}

/// The most operands that a reading has: address and port of both sides.
const SIDED: usize = 4;

impl View {
    /// The tables over `policies`, of `total` in the set; `None` when there are none.
    pub(super) fn new(policies: &[(u32, &Policy)], total: usize, ports: &[String]) -> Option<Self> {
        if policies.is_empty() {
            return None;
        }
        let mut all = Rows::new(total);
        all.push(policies.iter().map(|&(number, _)| number));
        Some(Self {
            summaries: summaries(total),
            all,
            addresses: Addresses::new(policies, total),
            ports: Ports::new(policies, total),
            scalars: Scalar::ALL
                .iter()
                .filter_map(|&s| ScalarTable::new(s, policies, total, ports))
                .collect(),
        })
    }

    /// The dimensions in use, each with the number of its classes.
    pub(super) fn dimensions(&self) -> Vec<(Dimension, u32)> {
        let mut dimensions = Vec::new();
        if let Some(addresses) = &self.addresses {
            let classes = addresses.ip.classes;
            dimensions.extend([(Dimension::SrcAddress, classes), (Dimension::DstAddress, classes)]);
            if let Some((_, sides)) = &addresses.mac {
                dimensions.extend([(Dimension::SrcMac, sides.classes), (Dimension::DstMac, sides.classes)]);
            }
        }
        if let Some(ports) = &self.ports {
            let classes = ports.sides.classes;
            dimensions.extend([(Dimension::SrcPort, classes), (Dimension::DstPort, classes)]);
        }
        dimensions
            .extend(self.scalars.iter().enumerate().map(|(i, table)| (Dimension::Scalar(i), table.classes)));
        dimensions
    }

    pub(super) fn dimension_name(&self, dimension: Dimension) -> &'static str {
        match dimension {
            Dimension::SrcAddress => "src_address",
            Dimension::DstAddress => "dst_address",
            Dimension::SrcMac => "src_mac",
            Dimension::DstMac => "dst_mac",
            Dimension::SrcPort => "src_port",
            Dimension::DstPort => "dst_port",
            Dimension::Scalar(index) => self.scalars.get(index).map_or("", |table| table.scalar.name()),
        }
    }

    pub(super) fn varies_in_flow(&self, dimension: Dimension) -> bool {
        matches!(dimension, Dimension::Scalar(i) if self.scalars.get(i).is_some_and(|t| t.scalar.varies_in_flow()))
    }

    /// The class of a packet in one dimension.
    #[inline]
    pub(super) fn class(
        &self,
        dimension: Dimension,
        parsed: &Parsed,
        frame: &[u8],
        wire_len: u32,
        ingress: PortId,
    ) -> u32 {
        match dimension {
            Dimension::SrcAddress => {
                self.addresses.as_ref().map_or(0, |t| t.ip_class(parsed.l3, &parsed.src_addr))
            }
            Dimension::DstAddress => {
                self.addresses.as_ref().map_or(0, |t| t.ip_class(parsed.l3, &parsed.dst_addr))
            }
            Dimension::SrcMac => self.mac_class(parsed, frame, 6),
            Dimension::DstMac => self.mac_class(parsed, frame, 0),
            Dimension::SrcPort => self.port_class(parsed, parsed.src_port),
            Dimension::DstPort => self.port_class(parsed, parsed.dst_port),
            Dimension::Scalar(index) => {
                self.scalars.get(index).map_or(0, |table| table.class(parsed, wire_len, ingress))
            }
        }
    }

    #[inline]
    fn port_class(&self, parsed: &Parsed, port: u16) -> u32 {
        match &self.ports {
            Some(ports) if parsed.has_ports => ports.table.class(port.into()),
            _ => 0,
        }
    }

    #[inline]
    fn mac_class(&self, parsed: &Parsed, frame: &[u8], offset: u16) -> u32 {
        // An inner packet without an Ethernet header has no room for one before its IP header, or only MPLS labels
        // there, and no EtherType.
        let bare = parsed.ethertype == 0 && matches!(parsed.l3, L3::Ipv4 | L3::Ipv6);
        if bare || parsed.l3_offset < parsed.l2_offset.saturating_add(ETHERNET_LEN) {
            return 0;
        }
        let start = usize::from(parsed.l2_offset) + usize::from(offset);
        let bytes = frame.get(start..).and_then(|rest| rest.first_chunk::<6>());
        let table = self.addresses.as_ref().and_then(|addresses| addresses.mac.as_ref());
        match (table, bytes) {
            (Some((table, _)), Some(&bytes)) => table.class(mac(bytes)),
            _ => 0,
        }
    }

    /// Every policy of the view that matches, as `number << 1 | egress`, appended to `matched` in ascending order.
    /// `class_of` gives the packet's class in each dimension in use.
    pub(super) fn matches(&self, class_of: impl Fn(Dimension) -> u32, matched: &mut Vec<u32>) {
        let mut egress = [[Row::EMPTY; 3]; SIDED];
        let mut ingress = egress;
        let mut sided = 0;
        if let Some(addresses) = &self.addresses {
            let src = (class_of(Dimension::SrcAddress), class_of(Dimension::SrcMac));
            let dst = (class_of(Dimension::DstAddress), class_of(Dimension::DstMac));
            [egress[0], egress[1]] = [addresses.collect(src), addresses.peer(dst)];
            [ingress[0], ingress[1]] = [addresses.collect(dst), addresses.peer(src)];
            sided = 2;
        }
        if let Some(ports) = &self.ports {
            let [src, dst] = [class_of(Dimension::SrcPort), class_of(Dimension::DstPort)];
            [egress[sided], egress[sided + 1]] = [ports.sides.collect(src), ports.sides.peer(dst)];
            [ingress[sided], ingress[sided + 1]] = [ports.sides.collect(dst), ports.sides.peer(src)];
            sided += 2;
        }
        let (egress, ingress) = (&egress[..sided], &ingress[..sided]);
        let mut common = [[Row::EMPTY; 3]; Scalar::ALL.len() + 1];
        common[0][0] = self.all.row(0);
        for (index, (operand, table)) in common[1..].iter_mut().zip(&self.scalars).enumerate() {
            let [accepting, unconstrained] = table.rows(class_of(Dimension::Scalar(index)));
            [operand[0], operand[1]] = [accepting, unconstrained];
        }
        let common = &common[..=self.scalars.len()];

        for index in 0..self.summaries {
            let both = common.iter().fold(u64::MAX, |bits, operand| bits & summary(operand, index));
            let out = egress.iter().fold(both, |bits, operand| bits & summary(operand, index));
            let into = ingress.iter().fold(both, |bits, operand| bits & summary(operand, index));
            let mut live = out | into;
            while live != 0 {
                let bit = live.trailing_zeros() as usize;
                live &= live - 1;
                let place = index * 64 + bit;
                let both = common.iter().fold(u64::MAX, |bits, operand| bits & word(operand, place));
                let reading =
                    |operands: &[Operand<'_>]| operands.iter().fold(both, |bits, o| bits & word(o, place));
                let (out, into) = (reading(egress), reading(ingress));
                let mut policies = out | into;
                while policies != 0 {
                    let bit = policies.trailing_zeros();
                    policies &= policies - 1;
                    let number = u32::try_from(place).unwrap_or(u32::MAX) * 64 + bit;
                    matched.push(number << 1 | u32::from(out >> bit & 1 == 1));
                }
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.all.bytes()
            + self.addresses.as_ref().map_or(0, Addresses::bytes)
            + self.ports.as_ref().map_or(0, Ports::bytes)
            + self.scalars.iter().map(ScalarTable::bytes).sum::<usize>()
    }
}
