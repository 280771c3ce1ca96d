//! Which policies have an address or a port of a packet at their collection point, and which at their peer?

use std::collections::HashMap;
use std::sync::Arc;

use sluice_model::{AddressSet, Policy, Side};

use super::address::{Boundaries, Ipv4Trie};
use super::dimension::{Members, ValueTable, ranges};
use super::rows::{Row, Rows};
use super::sweep::{Classes, Interval, Users, sweep};
use crate::wire::L3;

/// Policies that accept a class, by up to three rows that are united.
pub(super) type Operand<'a> = [Row<'a>; 3];

/// The policies of each class by side, with the unconstrained ones in a last row.
#[derive(Clone, Debug)]
pub(super) struct Sides {
    collect: Rows,
    peer: Rows,
    pub(super) classes: u32,
}

impl Sides {
    pub(super) fn new(classes: &Classes, users: &[Users; 2], any: &[Vec<u32>; 2], total: usize) -> Self {
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

    pub(super) fn collect(&self, class: u32) -> Operand<'_> {
        [self.collect.row(class as usize), self.collect.row(self.classes as usize), Row::EMPTY]
    }

    pub(super) fn peer(&self, class: u32) -> Operand<'_> {
        [self.peer.row(class as usize), self.peer.row(self.classes as usize), Row::EMPTY]
    }

    /// The most policies that accept a packet by one of their readings: those that do not care, and for each reading
    /// those of one class.
    pub(super) fn most_accepted(&self) -> usize {
        let by_side = |rows: &Rows| rows.count(self.classes as usize) + 2 * rows.most(self.classes);
        by_side(&self.collect).min(by_side(&self.peer))
    }

    pub(super) fn bytes(&self) -> usize {
        self.collect.bytes() + self.peer.bytes()
    }
}

/// The two sides of a policy, in the order of the arrays here.
fn sides(policy: &Policy) -> [&Side; 2] {
    [&policy.collect, &policy.peer]
}

/// IP and Ethernet addresses to classes. IP classes and MAC classes are numbered apart; a set may hold both.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    ipv4: Ipv4Trie,
    ipv6: Boundaries,
    pub(super) mac: Option<(Boundaries, Sides)>,
    pub(super) ip: Sides,
}

impl Addresses {
    pub(super) fn new(policies: &[(u32, &Policy)], total: usize) -> Option<Self> {
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
        let ipv6 = Boundaries::new(&intervals(|set| ranges(&set.ipv6)));
        let mut mac_classes = Classes::default();
        let macs = sweep(
            &member_ranges(&sets, |set| set.macs.iter().map(|m| (mac(m.0), mac(m.0))).collect()),
            &mut mac_classes,
        );
        let mac = (macs.len() > 1).then(|| {
            let unused = [Vec::new(), Vec::new()];
            (Boundaries::new(&macs), Sides::new(&mac_classes, &users, &unused, total))
        });
        Some(Self { ipv4, ipv6, mac, ip: Sides::new(&ip_classes, &users, &any, total) })
    }

    #[inline(always)]
    pub(super) fn ip_class(&self, l3: L3, address: &[u8; 16]) -> u32 {
        match l3 {
            L3::Ipv4 => {
                let [a, b, c, d, ..] = *address;
                self.ipv4.class([a, b, c, d])
            }
            L3::Ipv6 => self.ipv6.class(u128::from_be_bytes(*address)),
            L3::None | L3::Arp => 0,
        }
    }

    /// The policies whose collection point holds an address of these IP and MAC classes.
    pub(super) fn collect(&self, (ip, mac): (u32, u32)) -> Operand<'_> {
        let by_mac = self.mac.as_ref().map_or(Row::EMPTY, |(_, sides)| sides.collect.row(mac as usize));
        let [by_ip, any, _] = self.ip.collect(ip);
        [by_ip, any, by_mac]
    }

    /// The same for the peer.
    pub(super) fn peer(&self, (ip, mac): (u32, u32)) -> Operand<'_> {
        let by_mac = self.mac.as_ref().map_or(Row::EMPTY, |(_, sides)| sides.peer.row(mac as usize));
        let [by_ip, any, _] = self.ip.peer(ip);
        [by_ip, any, by_mac]
    }

    pub(super) fn most_accepted(&self) -> usize {
        let by_mac = self.mac.as_ref().map_or(0, |(_, sides)| {
            2 * sides.collect.most(sides.classes).max(sides.peer.most(sides.classes))
        });
        self.ip.most_accepted() + by_mac
    }

    pub(super) fn bytes(&self) -> usize {
        let mac = self.mac.as_ref().map_or(0, |(table, sides)| table.bytes() + sides.bytes());
        self.ipv4.bytes() + self.ipv6.bytes() + self.ip.bytes() + mac
    }
}

fn member_ranges(sets: &[&AddressSet], of: fn(&AddressSet) -> Vec<(u128, u128)>) -> Vec<(u128, u128, u32)> {
    let ranges =
        (0..).zip(sets).flat_map(|(member, set)| of(set).into_iter().map(move |(a, b)| (a, b, member)));
    ranges.collect()
}

pub(super) fn mac([a, b, c, d, e, f]: [u8; 6]) -> u128 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f]).into()
}

/// TCP, UDP and SCTP ports to classes.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    pub(super) table: ValueTable,
    pub(super) sides: Sides,
}

impl Ports {
    pub(super) fn new(policies: &[(u32, &Policy)], total: usize) -> Option<Self> {
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

    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.sides.bytes()
    }
}
