//! Which policies match, decided one policy at a time from explicit fields, with no table?
//!
//! Written from the meaning of the policies (both readings, ports by side, exclusion, union of copies), not from the
//! classifier: slow and obvious.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_model::{
    Action, DestinationId, FragmentMatch, HeaderView, MacAddr, Policy, PolicySet, RangeSet, RangeValue, Side,
    Tag,
};

/// What one view of a packet's headers holds; `None` = the packet has no such field, or it was not captured.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    pub macs: Option<(MacAddr, MacAddr)>,
    pub vlans: Vec<u16>,
    pub ethertype: Option<u16>,
    pub addresses: Option<(IpAddr, IpAddr)>,
    pub protocol: Option<u8>,
    pub ports: Option<(u16, u16)>,
    pub tcp_flags: Option<u8>,
    pub fragment: Place,
    pub tunnel_id: Option<u32>,
}

/// The place of a packet in a fragmented datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    #[default]
    Whole,
    First,
    Later,
}

/// A packet: both views (the same without a tunnel), and what does not come from its headers.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub outer: Fields,
    pub inner: Fields,
    pub length: u32,
    pub ingress: String,
    /// The name of the tap; empty = it has none.
    pub tap: String,
}

/// What the policies make of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub excluded: bool,
    pub matched: Vec<u32>,
    pub copies: Vec<Copy>,
}

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub destination: DestinationId,
    pub tag: Tag,
    pub egress: bool,
    pub outer: Kept,
    pub inner: Kept,
    pub sharers: Vec<u32>,
}

/// How much payload a copy keeps, counted from the headers of one view; the largest of several is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    NotAsked,
    Bytes(u16),
    Whole,
}

/// The readings by which a policy matches: (egress, ingress).
pub fn readings(policy: &Policy, facts: &Facts) -> (bool, bool) {
    let fields = match policy.headers {
        HeaderView::Outer => &facts.outer,
        HeaderView::Inner => &facts.inner,
    };
    if !common(policy, fields, facts) {
        return (false, false);
    }
    let ip = fields.addresses.map_or((None, None), |(src, dst)| (Some(src), Some(dst)));
    let mac = fields.macs.map_or((None, None), |(src, dst)| (Some(src), Some(dst)));
    let port = fields.ports.map_or((None, None), |(src, dst)| (Some(src), Some(dst)));
    let src_in = |side: &Side| holds(side, ip.0, mac.0, port.0);
    let dst_in = |side: &Side| holds(side, ip.1, mac.1, port.1);
    (src_in(&policy.collect) && dst_in(&policy.peer), dst_in(&policy.collect) && src_in(&policy.peer))
}

/// What all `policies` together make of a packet.
pub fn outcome(policies: &PolicySet, facts: &Facts) -> Outcome {
    let mut matching: Vec<(u32, &Policy, bool)> = Vec::new();
    for (number, policy) in (0..).zip(policies.policies()) {
        let (egress, ingress) = readings(policy, facts);
        if egress || ingress {
            matching.push((number, policy, egress));
        }
    }
    let excluding: Vec<u32> =
        matching.iter().filter(|m| m.1.action == Action::Drop).map(|&(number, ..)| number).collect();
    if !excluding.is_empty() {
        return Outcome { excluded: true, matched: excluding, copies: Vec::new() };
    }
    let mut copies: BTreeMap<(DestinationId, Tag), Copy> = BTreeMap::new();
    for &(number, policy, egress) in &matching {
        let kept = policy.payload.map_or(Kept::Whole, Kept::Bytes);
        for &destination in &policy.to {
            let copy = copies.entry((destination, policy.tag)).or_insert_with(|| Copy {
                destination,
                tag: policy.tag,
                egress: false,
                outer: Kept::NotAsked,
                inner: Kept::NotAsked,
                sharers: Vec::new(),
            });
            copy.egress |= egress;
            match policy.headers {
                HeaderView::Outer => copy.outer = copy.outer.max(kept),
                HeaderView::Inner => copy.inner = copy.inner.max(kept),
            }
            copy.sharers.push(number);
        }
    }
    Outcome {
        excluded: false,
        matched: matching.iter().map(|&(number, ..)| number).collect(),
        copies: copies.into_values().collect(),
    }
}

/// The predicates that are the same for both readings.
fn common(policy: &Policy, fields: &Fields, facts: &Facts) -> bool {
    wanted(policy.protocol.as_ref(), fields.protocol)
        && wanted(policy.vlan.as_ref(), fields.vlans.first().copied())
        && wanted(policy.vlan_inner.as_ref(), fields.vlans.get(1).copied())
        && wanted(policy.tunnel_id.as_ref(), fields.tunnel_id)
        && wanted(policy.ethertype.as_ref(), fields.ethertype)
        && wanted(policy.length.as_ref(), Some(u16::try_from(facts.length).unwrap_or(u16::MAX)))
        && policy.tcp_flags.is_none_or(|wanted| {
            fields.protocol == Some(6) && fields.tcp_flags.is_some_and(|f| f & wanted.mask == wanted.value)
        })
        && policy.fragment.is_none_or(|wanted| match wanted {
            FragmentMatch::Fragments => fields.fragment != Place::Whole,
            FragmentMatch::Later => fields.fragment == Place::Later,
            FragmentMatch::Whole => fields.fragment == Place::Whole,
        })
        && (policy.ingress.is_empty() || policy.ingress.contains(&facts.ingress))
        && (policy.taps.is_empty() || policy.taps.contains(&facts.tap))
}

/// Whether an end with these addresses and this port fits.
fn holds(side: &Side, ip: Option<IpAddr>, mac: Option<MacAddr>, port: Option<u16>) -> bool {
    let by_address = side.addresses.is_empty()
        || side.addresses.iter().any(|set| {
            let by_ip = match ip {
                Some(IpAddr::V4(ip)) => within(&set.ipv4, u32::from(ip)),
                Some(IpAddr::V6(ip)) => within(&set.ipv6, u128::from(ip)),
                None => false,
            };
            by_ip || mac.is_some_and(|mac| set.macs.contains(&mac))
        });
    by_address && wanted(side.ports.as_ref(), port)
}

/// No wish, or a value that fulfils it.
fn wanted<T: RangeValue>(set: Option<&RangeSet<T>>, value: Option<T>) -> bool {
    set.is_none_or(|set| value.is_some_and(|value| within(set, value)))
}

fn within<T: RangeValue>(set: &RangeSet<T>, value: T) -> bool {
    set.iter().any(|range| range.contains(&value))
}
