//! The header fields that policies constrain by a single value, and the tables that map their values to classes.

use std::collections::HashMap;

use sluice_model::{FragmentMatch, Policy, RangeSet, RangeValue};

use super::address::Boundaries;
use super::batch::{BATCH, Batch, Packet};
use super::origins::Origins;
use super::rows::{Row, Rows};
use super::sweep::{Classes, Interval, Users, sweep};
use crate::wire::{Fragment, L3, Parsed, TunnelHeader};

const PROTOCOL_TCP: u8 = 6;
const ETHERNET_LEN: u16 = 14;
/// The VLAN id within a TCI.
const VID: u16 = 0x0fff;

/// A field with one value per packet, the same for both readings of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Protocol,
    Ethertype,
    Vlan,
    VlanInner,
    TunnelId,
    Fragment,
    Ingress,
    Tap,
    TcpFlags,
    Length,
}

impl Scalar {
    pub(super) const ALL: [Self; 10] = [
        Self::Protocol,
        Self::Ethertype,
        Self::Vlan,
        Self::VlanInner,
        Self::TunnelId,
        Self::Fragment,
        Self::Ingress,
        Self::Tap,
        Self::TcpFlags,
        Self::Length,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Ethertype => "ethertype",
            Self::Vlan => "vlan",
            Self::VlanInner => "vlan_inner",
            Self::TunnelId => "tunnel_id",
            Self::Fragment => "fragment",
            Self::Ingress => "ingress",
            Self::Tap => "taps",
            Self::TcpFlags => "tcp_flags",
            Self::Length => "length",
        }
    }

    /// Whether packets of one flow can differ in it, so that a verdict cached for a flow must be checked for it.
    pub(super) const fn varies_in_flow(self) -> bool {
        matches!(self, Self::TcpFlags | Self::Length | Self::Fragment)
    }

    /// Whether it is the same in all packets that come from one end of a flow, because it is part of the flow's key.
    pub(super) const fn is_fixed_in_flow(self, vlan_in_key: bool) -> bool {
        match self {
            Self::Protocol | Self::Tap => true,
            Self::Vlan | Self::VlanInner => vlan_in_key,
            // Several ports may belong to a tap, several tunnels to a flow between their ends, MPLS may come and go; the
            // others are of single packets.
            Self::Ingress
            | Self::TunnelId
            | Self::Ethertype
            | Self::Fragment
            | Self::TcpFlags
            | Self::Length => false,
        }
    }

    /// The value of a packet; `None` = the packet has none, and no policy that asks for one matches.
    #[inline(always)]
    pub(super) fn value(self, packet: &Packet<'_>) -> Option<u32> {
        let &Packet { parsed, wire_len, ingress, tap, .. } = packet;
        let is_ip = matches!(parsed.l3, L3::Ipv4 | L3::Ipv6);
        match self {
            Self::Protocol => is_ip.then_some(parsed.protocol.into()),
            // 0 is that of a frame with a length in its place (802.3).
            Self::Ethertype => {
                (parsed.ethertype != 0 || has_ethernet(parsed)).then_some(parsed.ethertype.into())
            }
            Self::Vlan => (parsed.vlan_count > 0).then_some((parsed.vlan_tci & VID).into()),
            Self::VlanInner => (parsed.vlan_count > 1).then_some((parsed.vlan_inner_tci & VID).into()),
            // IP in IP and ERSPAN type I have no field for an id.
            Self::TunnelId => {
                let none = matches!(
                    parsed.tunnel,
                    TunnelHeader::None | TunnelHeader::IpInIp | TunnelHeader::Erspan1
                );
                (!none).then_some(parsed.tunnel_id)
            }
            Self::Fragment => Some(match parsed.fragment {
                Fragment::Whole => 0,
                Fragment::First => 1,
                Fragment::Later => 2,
            }),
            Self::Ingress => Some(ingress.0.into()),
            Self::Tap => Some(tap.into()),
            // A TCP header may be cut between ports and flags; a later fragment has the flags with the ports.
            Self::TcpFlags => {
                let known = parsed.l4_offset > 0 || (parsed.fragment == Fragment::Later && parsed.has_ports);
                (is_ip && parsed.protocol == PROTOCOL_TCP && known).then_some(parsed.tcp_flags.into())
            }
            Self::Length => Some(wire_len.min(u16::MAX.into())),
        }
    }

    /// What `policy` asks of it, as ranges; `None` = nothing.
    pub(super) fn wanted(self, policy: &Policy, origins: &Origins<'_>) -> Option<Vec<(u128, u128)>> {
        match self {
            Self::Protocol => policy.protocol.as_ref().map(ranges),
            Self::Ethertype => policy.ethertype.as_ref().map(ranges),
            Self::Vlan => policy.vlan.as_ref().map(ranges),
            Self::VlanInner => policy.vlan_inner.as_ref().map(ranges),
            Self::TunnelId => policy.tunnel_id.as_ref().map(ranges),
            Self::Length => policy.length.as_ref().map(ranges),
            Self::Fragment => policy.fragment.map(|wanted| match wanted {
                FragmentMatch::Whole => vec![(0, 0)],
                FragmentMatch::Fragments => vec![(1, 2)],
                FragmentMatch::Later => vec![(2, 2)],
            }),
            Self::TcpFlags => policy.tcp_flags.map(|wanted| {
                let fitting = (0..=u8::MAX).filter(|&flags| wanted.matches(flags));
                ranges(&fitting.map(|flags| flags..=flags).collect::<RangeSet<u8>>())
            }),
            Self::Ingress => (!policy.ingress.is_empty()).then(|| {
                let known = (0_u16..).zip(origins.ports).filter(|(_, name)| policy.ingress.contains(name));
                ranges(&known.map(|(id, _)| id..=id).collect::<RangeSet<u16>>())
            }),
            Self::Tap => (!policy.taps.is_empty()).then(|| {
                let known = origins.taps.iter().filter(|tap| policy.taps.contains(&tap.name));
                ranges(&known.map(|tap| tap.number..=tap.number).collect::<RangeSet<u16>>())
            }),
        }
    }

    /// How many bits its values have.
    const fn width(self) -> u32 {
        match self {
            Self::TunnelId => 32,
            Self::Protocol | Self::TcpFlags | Self::Fragment => 8,
            Self::Vlan | Self::VlanInner => 12,
            Self::Ethertype | Self::Ingress | Self::Tap | Self::Length => 16,
        }
    }
}

/// Whether the view starts with an Ethernet header that was captured whole. An inner packet without one has no room for
/// it before its IP header, or MPLS labels there, and no EtherType.
#[inline(always)]
pub(super) fn has_ethernet(parsed: &Parsed) -> bool {
    let bare = parsed.ethertype == 0 && matches!(parsed.l3, L3::Ipv4 | L3::Ipv6);
    !bare && parsed.l3_offset >= parsed.l2_offset.saturating_add(ETHERNET_LEN)
}

/// The ranges of a set as wide numbers.
pub(super) fn ranges<T: RangeValue + Into<u128>>(set: &RangeSet<T>) -> Vec<(u128, u128)> {
    set.iter().map(|range| ((*range.start()).into(), (*range.end()).into())).collect()
}

/// Gives equal sets of ranges one number.
#[derive(Debug, Default)]
pub(super) struct Members {
    numbers: HashMap<Vec<(u128, u128)>, u32>,
    pub(super) all: Vec<(u128, u128, u32)>,
}

impl Members {
    pub(super) fn number(&mut self, set: Vec<(u128, u128)>) -> u32 {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let all = &mut self.all;
        *self.numbers.entry(set).or_insert_with_key(|set| {
            all.extend(set.iter().map(|&(first, last)| (first, last, next)));
            next
        })
    }
}

/// Values of up to 16 bits to classes by one load, larger ones by search.
#[derive(Clone, Debug)]
pub(super) enum ValueTable {
    Direct(Vec<u16>),
    Search(Boundaries),
}

impl ValueTable {
    pub(super) fn new(intervals: &[Interval], width: u32) -> Self {
        let narrow: Option<Vec<(u128, u16)>> =
            intervals.iter().map(|&(start, class)| Some((start, u16::try_from(class).ok()?))).collect();
        let Some(narrow) = narrow.filter(|_| width <= 16) else {
            return Self::Search(Boundaries::new(intervals));
        };
        let mut table = Vec::with_capacity(1 << width);
        for (index, &(start, class)) in narrow.iter().enumerate() {
            let end = narrow.get(index + 1).map_or(1 << width, |next| next.0.min(1 << width));
            let count = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
            table.extend(std::iter::repeat_n(class, count));
        }
        Self::Direct(table)
    }

    #[inline(always)]
    pub(super) fn class(&self, value: u32) -> u32 {
        match self {
            Self::Direct(table) => table.get(value as usize).copied().unwrap_or(0).into(),
            Self::Search(boundaries) => boundaries.class(value.into()),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Direct(table) => table.len() * 2,
            Self::Search(boundaries) => boundaries.bytes(),
        }
    }
}

/// A scalar field in use: its table, and the policies of each class.
#[derive(Clone, Debug)]
pub(super) struct ScalarTable {
    pub(super) scalar: Scalar,
    table: ValueTable,
    rows: Rows,
    pub(super) classes: u32,
}

impl ScalarTable {
    /// The table of `scalar` over `policies` (numbered as in their set); `None` when none of them constrains it.
    pub(super) fn new(
        scalar: Scalar,
        policies: &[(u32, &Policy)],
        total: usize,
        origins: &Origins<'_>,
    ) -> Option<Self> {
        let mut members = Members::default();
        let mut users = Users::default();
        let mut any = Vec::new();
        for &(number, policy) in policies {
            match scalar.wanted(policy, origins) {
                Some(set) => users.add(members.number(set), number),
                None => any.push(number),
            }
        }
        if any.len() == policies.len() {
            return None;
        }
        let mut classes = Classes::default();
        let intervals = sweep(&members.all, &mut classes);
        let mut rows = Rows::new(total);
        rows.push_classes(classes.members(), &users);
        rows.push(any);
        let classes = u32::try_from(classes.members().len()).unwrap_or(u32::MAX);
        Some(Self { scalar, table: ValueTable::new(&intervals, scalar.width()), rows, classes })
    }

    #[inline]
    pub(super) fn class(&self, packet: &Packet<'_>) -> u32 {
        self.class_of(self.scalar, packet)
    }

    /// Adds the classes of all packets to their keys. A loop for each field, so that none decides in it what it reads.
    pub(super) fn add_classes(&self, batch: &Batch<'_>, keys: &mut [u64; BATCH], shift: u32) {
        macro_rules! by_field {
            ($($field:ident),*) => {
                match self.scalar {
                    $(Scalar::$field => batch.add(keys, shift, |p| self.class_of(Scalar::$field, p)),)*
                }
            };
        }
        by_field!(Protocol, Ethertype, Vlan, VlanInner, TunnelId, Fragment, Ingress, Tap, TcpFlags, Length);
    }

    #[inline(always)]
    fn class_of(&self, scalar: Scalar, packet: &Packet<'_>) -> u32 {
        let value = scalar.value(packet);
        value.map_or(0, |value| self.table.class(value))
    }

    /// The policies that constrain the field and accept `class`, and those that do not constrain it.
    #[inline]
    pub(super) fn rows(&self, class: u32) -> [Row<'_>; 2] {
        [self.rows.row(class as usize), self.rows.row(self.classes as usize)]
    }

    /// The most policies that accept a packet.
    pub(super) fn most_accepted(&self) -> usize {
        self.rows.count(self.classes as usize) + self.rows.most(self.classes)
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.rows.bytes()
    }
}
