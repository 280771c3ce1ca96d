//! Which policies have no effect because another one wholly covers them?
//!
//! A policy is covered when an exclusion matches every packet that it matches, or when a copying policy does and
//! sends the same copies, at least as long. Sound, not complete: a policy that only several others cover together is
//! not found, nor an address set that only several sets of the other cover together.
//!
//! Not every pair is compared. A policy can only cover those whose *lowest* address, port, tag and so on lie in its
//! own sets; so each policy looks, in the one dimension where the fewest do, at just these.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{
    Action, AddressSet, FragmentMatch, GuestKind, HeaderView, Policy, ProtocolSet, RangeSet, RangeValue, Side,
};

use super::contradiction::effective_protocols;

/// One policy that has no effect because of another; both as indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shadow {
    pub(super) covered: usize,
    pub(super) by: usize,
}

/// What was found, and at what cost.
#[derive(Debug, Default)]
pub(super) struct Shadows {
    /// Ascending by the covered policy, each once.
    pub(super) found: Vec<Shadow>,
    /// Pairs of policies that were looked at.
    pub(super) pairs: usize,
    /// Whether the search was ended because it became too long.
    pub(super) ended_early: bool,
}

/// Finds the covered policies. `skip` tells those that need no report.
pub(super) fn shadows(policies: &[&Policy], skip: impl Fn(usize) -> bool) -> Shadows {
    let subjects: Vec<Subject<'_>> = policies.iter().map(|policy| Subject::new(policy)).collect();
    let mut search = Search {
        points: Dimension::ALL.map(|dimension| points(&subjects, dimension)),
        spans_of_sets: HashMap::new(),
        supersets: HashMap::new(),
        covered_by: vec![None; policies.len()],
        pairs: 0,
        // Far more than any set of policies needs that somebody wrote with a purpose.
        budget: 1_000_000 + 200 * policies.len(),
    };
    // Exclusions first: that is the stronger reason.
    let is_drop = |i: &usize| policies.get(*i).is_some_and(|p| p.action == Action::Drop);
    let (drops, copies): (Vec<usize>, Vec<usize>) = (0..policies.len()).partition(is_drop);
    for i in drops.into_iter().chain(copies) {
        let Some(subject) = subjects.get(i) else { continue };
        search.cover(subject, i, &subjects, &skip);
        // Exclusions ask for no direction: their sides may also be read the other way round.
        if subject.policy.action == Action::Drop && subject.collect != subject.peer {
            let turned = Subject { collect: subject.peer, peer: subject.collect, ..subject.clone() };
            search.cover(&turned, i, &subjects, &skip);
        }
    }
    let covered = search.covered_by.iter().enumerate();
    let found = covered.filter_map(|(covered, by)| by.map(|by| Shadow { covered, by })).collect();
    Shadows { found, pairs: search.pairs, ended_early: search.pairs >= search.budget }
}

/// A policy as the search sees it.
#[derive(Clone)]
struct Subject<'p> {
    policy: &'p Policy,
    collect: &'p Side,
    peer: &'p Side,
    protocols: Option<ProtocolSet>,
    /// The (destination, tag) pairs as numbers, ascending; empty for exclusions.
    copies: Vec<u64>,
}

/// A place on one of the axes: the kind of value (such as the address family), and the value; of a name, its hash.
type Point = (u8, u128);

/// The axes along which policies are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Dimension {
    Collect,
    Peer,
    CollectPorts,
    PeerPorts,
    Protocol,
    Vlan,
    VlanInner,
    TunnelId,
    Ethertype,
    Length,
    Ingress,
    Taps,
    Copies,
}

impl Dimension {
    const ALL: [Self; 13] = [
        Self::Collect,
        Self::Peer,
        Self::CollectPorts,
        Self::PeerPorts,
        Self::Protocol,
        Self::Vlan,
        Self::VlanInner,
        Self::TunnelId,
        Self::Ethertype,
        Self::Length,
        Self::Ingress,
        Self::Taps,
        Self::Copies,
    ];
}

impl<'p> Subject<'p> {
    fn new(policy: &'p Policy) -> Self {
        let tag = u64::from(policy.tag.get());
        let mut copies: Vec<u64> = policy.to.iter().map(|id| u64::from(id.0) << 24 | tag).collect();
        copies.sort_unstable();
        let protocols = effective_protocols(policy);
        Self { policy, collect: &policy.collect, peer: &policy.peer, protocols, copies }
    }

    /// The ranges along a dimension, ascending within each kind; `None` when the policy does not ask. Addresses are
    /// not here: see [`Subject::sets`].
    fn ranges(&self, dimension: Dimension) -> Option<Vec<(Point, Point)>> {
        fn list<T: RangeValue + Into<u128>>(set: Option<&RangeSet<T>>) -> Option<Vec<(Point, Point)>> {
            Some(set?.iter().map(|r| ((0, (*r.start()).into()), (0, (*r.end()).into()))).collect())
        }
        fn names(names: &[String]) -> Option<Vec<(Point, Point)>> {
            let point = |name: &String| ((0, hash(name)), (0, hash(name)));
            (!names.is_empty()).then(|| names.iter().map(point).collect())
        }
        let policy = self.policy;
        match dimension {
            Dimension::Collect | Dimension::Peer => None,
            Dimension::CollectPorts => list(self.collect.ports.as_ref()),
            Dimension::PeerPorts => list(self.peer.ports.as_ref()),
            Dimension::Protocol => list(self.protocols.as_ref()),
            Dimension::Vlan => list(policy.vlan.as_ref()),
            Dimension::VlanInner => list(policy.vlan_inner.as_ref()),
            Dimension::TunnelId => list(policy.tunnel_id.as_ref()),
            Dimension::Ethertype => list(policy.ethertype.as_ref()),
            Dimension::Length => list(policy.length.as_ref()),
            Dimension::Ingress => names(&policy.ingress),
            Dimension::Taps => names(&policy.taps),
            Dimension::Copies => (policy.action == Action::Copy)
                .then(|| self.copies.iter().map(|&c| ((0, c.into()), (0, c.into()))).collect()),
        }
    }

    /// The address sets along a dimension.
    fn sets(&self, dimension: Dimension) -> Option<&'p [Arc<AddressSet>]> {
        let side = match dimension {
            Dimension::Collect => self.collect,
            Dimension::Peer => self.peer,
            _ => return None,
        };
        (!side.addresses.is_empty()).then_some(&side.addresses)
    }

    /// One value along a dimension that whoever covers this policy must hold. For ingress and taps, the first name.
    fn point(&self, dimension: Dimension) -> Option<Point> {
        match self.sets(dimension) {
            Some(sets) => sets.iter().find_map(|set| set_ranges(set).next()).map(|(low, _)| low),
            None => self.ranges(dimension)?.first().map(|&(low, _)| low),
        }
    }

    /// Whether this policy makes `other` useless.
    fn covers(&self, other: &Self, supersets: &mut HashMap<(usize, usize), bool>) -> bool {
        let (a, b) = (self.policy, other.policy);
        let same_copies = || {
            let as_long = match (a.payload, b.payload) {
                (None, _) => true,
                (Some(a_len), Some(b_len)) => a_len >= b_len && a.headers == b.headers,
                (Some(_), None) => false,
            };
            b.action == Action::Copy
                && as_long
                && other.copies.iter().all(|c| self.copies.binary_search(c).is_ok())
        };
        (a.action == Action::Drop || same_copies())
            && (a.headers == b.headers || !self.reads_headers())
            && within(a.vlan.as_ref(), b.vlan.as_ref())
            && within(a.vlan_inner.as_ref(), b.vlan_inner.as_ref())
            && within(a.tunnel_id.as_ref(), b.tunnel_id.as_ref())
            && within(a.ethertype.as_ref(), b.ethertype.as_ref())
            && within(a.length.as_ref(), b.length.as_ref())
            && within(self.protocols.as_ref(), other.protocols.as_ref())
            && within(self.collect.ports.as_ref(), other.collect.ports.as_ref())
            && within(self.peer.ports.as_ref(), other.peer.ports.as_ref())
            && names_within(&a.ingress, &b.ingress)
            && names_within(&a.taps, &b.taps)
            && match (a.fragment, b.fragment) {
                (None, _) | (Some(FragmentMatch::Fragments), Some(FragmentMatch::Later)) => true,
                (a_fragment, b_fragment) => a_fragment == b_fragment,
            }
            && match (a.tcp_flags, b.tcp_flags) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(wide), Some(narrow)) => {
                    wide.mask & narrow.mask == wide.mask && narrow.value & wide.mask == wide.value
                }
            }
            && side_within(self.collect, other.collect, supersets)
            && side_within(self.peer, other.peer, supersets)
    }

    /// Whether any predicate depends on the choice between outer and inner headers.
    fn reads_headers(&self) -> bool {
        let policy = self.policy;
        let plain = self.collect == &Side::default()
            && self.peer == &Side::default()
            && self.protocols.is_none()
            && policy.vlan.is_none()
            && policy.vlan_inner.is_none()
            && policy.tunnel_id.is_none()
            && policy.ethertype.is_none()
            && policy.fragment.is_none();
        !plain || policy.headers == HeaderView::Inner
    }
}

/// Whether a list of names, where an empty one stands for all, holds all of `narrow`.
fn names_within(wide: &[String], narrow: &[String]) -> bool {
    wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|name| wide.contains(name)))
}

/// The subjects that have a point along one dimension, ascending by it.
type Points = Vec<(Point, usize)>;
/// Parts of [`Points`].
type Spans = Vec<(usize, usize)>;

struct Search {
    points: [Points; Dimension::ALL.len()],
    /// The spans of shared address sets, by side and by the address of the set in memory.
    spans_of_sets: HashMap<(Dimension, usize), Arc<Spans>>,
    supersets: HashMap<(usize, usize), bool>,
    covered_by: Vec<Option<usize>>,
    pairs: usize,
    budget: usize,
}

impl Search {
    /// Marks what subject `i` covers.
    fn cover(
        &mut self,
        subject: &Subject<'_>,
        i: usize,
        subjects: &[Subject<'_>],
        skip: &impl Fn(usize) -> bool,
    ) {
        // Whoever covers a policy covers all that it covers.
        if self.covered_by.get(i).copied().flatten().is_some() {
            return;
        }
        let mut best: Option<(usize, usize, Vec<Arc<Spans>>)> = None;
        for (axis, dimension) in Dimension::ALL.into_iter().enumerate() {
            let Some(spans) = self.spans(subject, dimension, axis) else { continue };
            let cost = spans.iter().flat_map(|s| s.iter()).map(|(start, end)| end - start).sum();
            if best.as_ref().is_none_or(|&(least, ..)| cost < least) {
                best = Some((cost, axis, spans));
            }
            if cost == 0 {
                break;
            }
        }
        match best {
            Some((_, axis, lists)) => {
                for &(start, end) in lists.iter().flat_map(|spans| spans.iter()) {
                    for at in start..end {
                        let Some(&(_, j)) = self.points.get(axis).and_then(|points| points.get(at)) else {
                            continue;
                        };
                        self.compare(subject, i, j, subjects, skip);
                    }
                }
            }
            None => (0..subjects.len()).for_each(|j| self.compare(subject, i, j, subjects, skip)),
        }
    }

    fn compare(
        &mut self,
        subject: &Subject<'_>,
        i: usize,
        j: usize,
        subjects: &[Subject<'_>],
        skip: &impl Fn(usize) -> bool,
    ) {
        let covered = self.covered_by.get(j).copied().flatten().is_some();
        if i == j || self.pairs >= self.budget {
            return;
        }
        self.pairs += 1;
        let (Some(other), Some(own)) = (subjects.get(j), subjects.get(i)) else { return };
        if covered || skip(j) || !subject.covers(other, &mut self.supersets) {
            return;
        }
        // Of two that cover each other, the later one is reported.
        let (covered, by) = if j < i && other.covers(own, &mut self.supersets) { (i, j) } else { (j, i) };
        if let Some(slot) = self.covered_by.get_mut(covered) {
            slot.get_or_insert(by);
        }
    }

    /// Where the points that lie in the sets of a subject stand; `None` when it does not ask for anything there.
    fn spans(&mut self, subject: &Subject<'_>, dimension: Dimension, axis: usize) -> Option<Vec<Arc<Spans>>> {
        let points = self.points.get(axis)?;
        if let Some(sets) = subject.sets(dimension) {
            let spans = sets.iter().map(|set| {
                let key = (dimension, Arc::as_ptr(set).addr());
                let entry = self.spans_of_sets.entry(key);
                Arc::clone(entry.or_insert_with(|| Arc::new(locate(points, set_ranges(set)))))
            });
            return Some(spans.collect());
        }
        Some(vec![Arc::new(locate(points, subject.ranges(dimension)?.into_iter()))])
    }
}

fn points(subjects: &[Subject<'_>], dimension: Dimension) -> Points {
    let mut points: Points =
        subjects.iter().enumerate().filter_map(|(i, subject)| Some((subject.point(dimension)?, i))).collect();
    points.sort_unstable();
    points
}

fn locate(points: &Points, ranges: impl Iterator<Item = (Point, Point)>) -> Spans {
    let spans = ranges.map(|(low, high)| {
        (
            points.partition_point(|&(point, _)| point < low),
            points.partition_point(|&(point, _)| point <= high),
        )
    });
    spans.filter(|(start, end)| start < end).collect()
}

fn set_ranges(set: &AddressSet) -> impl Iterator<Item = (Point, Point)> + '_ {
    let v4 = set.ipv4.iter().map(|r| ((4, (*r.start()).into()), (4, (*r.end()).into())));
    let v6 = set.ipv6.iter().map(|r| ((6, *r.start()), (6, *r.end())));
    let macs = set.macs.iter().map(|mac| {
        let [a, b, c, d, e, f] = mac.0;
        let point = (48, u64::from_be_bytes([0, 0, a, b, c, d, e, f]).into());
        (point, point)
    });
    let guests = set.guests.iter().map(|guest| {
        let point = (64 + u8::from(guest.kind() == GuestKind::Vm), hash(guest.name()));
        (point, point)
    });
    v4.chain(v6).chain(macs).chain(guests)
}

/// Whether a predicate `b` allows no more than `a`; `None` allows everything.
fn within<T: RangeValue>(a: Option<&RangeSet<T>>, b: Option<&RangeSet<T>>) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => a.is_superset(b),
    }
}

fn side_within(a: &Side, b: &Side, supersets: &mut HashMap<(usize, usize), bool>) -> bool {
    if a.addresses.is_empty() {
        return true;
    }
    !b.addresses.is_empty()
        && b.addresses.iter().all(|narrow| a.addresses.iter().any(|wide| set_within(wide, narrow, supersets)))
}

/// Whether one set holds another; large sets that policies share are compared once.
fn set_within(
    wide: &Arc<AddressSet>,
    narrow: &Arc<AddressSet>,
    supersets: &mut HashMap<(usize, usize), bool>,
) -> bool {
    const SMALL: usize = 8;
    let holds = || {
        wide.ipv4.is_superset(&narrow.ipv4)
            && wide.ipv6.is_superset(&narrow.ipv6)
            && narrow.macs.iter().all(|mac| wide.macs.binary_search(mac).is_ok())
            // A name stands for the same in both.
            && narrow.guests.iter().all(|name| wide.guests.binary_search(name).is_ok())
    };
    if Arc::ptr_eq(wide, narrow) {
        return true;
    }
    let names = narrow.macs.len() + narrow.guests.len();
    if narrow.ipv4.iter().len() + narrow.ipv6.iter().len() + names <= SMALL {
        return holds();
    }
    *supersets.entry((Arc::as_ptr(wide).addr(), Arc::as_ptr(narrow).addr())).or_insert_with(holds)
}

/// A number for a name (FNV-1a); names that share one only cost a comparison.
fn hash(name: &str) -> u128 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    name.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)).into()
}

#[cfg(test)]
#[path = "shadow_tests.rs"]
mod tests;
