//! The policies compiled to tables: plain data that all workers share and none changes.

use std::ops::Range;

use sluice_model::{
    Action, Destination, DestinationId, Generation, GroupHash, HeaderView, Policy, PolicyId, PolicySet,
    StreamId, Tag,
};

use super::dimension::Scalar;
use super::origins::Origins;
use super::view::{Dimension, View};
use crate::verdict::Keep;

/// A compiled policy set.
#[derive(Clone, Debug)]
pub struct Program {
    generation: Generation,
    pub(super) outer: Option<View>,
    pub(super) inner: Option<View>,
    /// The dimensions in use, outer view first, with where their classes go in a key.
    pub(super) layout: Vec<Slot>,
    pub(super) key_words: usize,
    pub(super) bounds: Bounds,
    /// Some group that is used shares flows out by their innermost headers.
    balances_inner: bool,
    streams: Vec<(DestinationId, Tag)>,
    /// Of each stream, where the streams of its group's members are, if it is a group's.
    members: Vec<Range<u32>>,
    /// The streams of members, one group's after the other's.
    member_streams: Vec<StreamId>,
    actions: Vec<PolicyAction>,
    /// The streams of all policies, one after the other.
    policy_streams: Vec<StreamId>,
}

/// How large verdicts can be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    /// Combinations of classes, and so distinct verdicts.
    pub(super) combinations: usize,
    /// Policies that match one packet.
    pub(super) matched: usize,
    /// What these ask for before copies are united.
    pub(super) wishes: usize,
    /// Copies.
    pub(super) copies: usize,
}

/// What a policy does, in the form that verdicts are made from.
#[derive(Clone, Copy, Debug)]
struct PolicyAction {
    excludes: bool,
    keep: Keep,
    first_stream: usize,
    streams: usize,
}

/// Where a dimension's class is kept in a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) inner: bool,
    pub(super) dimension: Dimension,
    pub(super) word: usize,
    pub(super) shift: u32,
}

/// How large the tables are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompileReport {
    /// Bytes of all tables together, shared by all workers.
    pub bytes: usize,
    /// The dimensions in use and the number of classes of each; `inner.` marks those of the innermost headers.
    pub dimensions: Vec<(String, u32)>,
    /// The dimensions in which packets of one flow can differ.
    pub varying_in_flow: Vec<String>,
    /// Distinct (destination, tag) pairs.
    pub streams: usize,
}

impl Program {
    /// Compiles `policies`; `ports` are the names of the ingress ports by number, and no tap has a name. Pure: no I/O, no
    /// clock.
    #[must_use]
    pub fn compile(policies: &PolicySet, ports: &[String], generation: Generation) -> (Self, CompileReport) {
        Self::compile_for(policies, &Origins { ports, taps: &[] }, generation)
    }

    /// Compiles `policies` for packets from `origins`. Pure: no I/O, no clock.
    #[must_use]
    pub fn compile_for(
        policies: &PolicySet,
        origins: &Origins<'_>,
        generation: Generation,
    ) -> (Self, CompileReport) {
        let total = policies.policies().len();
        let view = |headers: HeaderView| {
            let own: Vec<(u32, &Policy)> =
                policies.iter().filter(|(_, p)| p.headers == headers).map(|(id, p)| (id.0, p)).collect();
            View::new(&own, total, origins)
        };
        let (outer, inner) = (view(HeaderView::Outer), view(HeaderView::Inner));

        let wanted = policies.policies().iter().flat_map(|p| p.to.iter().map(|&to| (to, p.tag)));
        let mut streams: Vec<(DestinationId, Tag)> = wanted.collect();
        streams.sort_unstable();
        streams.dedup();
        let group = |to: DestinationId| policies.destinations().get(to.index()).and_then(Destination::group);
        // A member's sequence numbers go on, whatever group or policy a copy comes by.
        let of_members: Vec<_> = streams
            .iter()
            .filter_map(|&(to, tag)| Some((group(to)?, tag)))
            .flat_map(|(group, tag)| group.members.iter().map(move |member| (member.destination, tag)))
            .collect();
        streams.extend(of_members);
        streams.sort_unstable();
        streams.dedup();
        let mut member_streams = Vec::new();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let members = streams.iter().map(|&(to, tag)| {
            let first = number(member_streams.len());
            let members = group(to).map_or(&[][..], |group| &group.members);
            member_streams.extend(members.iter().filter_map(|member| {
                let place = streams.binary_search(&(member.destination, tag)).ok()?;
                Some(StreamId(number(place)))
            }));
            first..number(member_streams.len())
        });
        let members = members.collect();
        let balances_inner =
            streams.iter().any(|&(to, _)| group(to).is_some_and(|group| group.hash == GroupHash::Inner));
        let mut actions = Vec::with_capacity(total);
        let mut policy_streams = Vec::new();
        for policy in policies.policies() {
            let first_stream = policy_streams.len();
            policy_streams.extend(policy.to.iter().filter_map(|&to| {
                let place = streams.binary_search(&(to, policy.tag)).ok()?;
                Some(StreamId(u32::try_from(place).ok()?))
            }));
            let payload = policy.payload.map_or(Keep::WHOLE, u32::from);
            let keep = match policy.headers {
                HeaderView::Outer => Keep { outer: payload, inner: Keep::UNASKED },
                HeaderView::Inner => Keep { outer: Keep::UNASKED, inner: payload },
            };
            actions.push(PolicyAction {
                excludes: policy.action == Action::Drop,
                keep,
                first_stream,
                streams: policy_streams.len() - first_stream,
            });
        }

        let mut program = Self {
            generation,
            outer,
            inner,
            layout: Vec::new(),
            key_words: 0,
            bounds: Bounds::default(),
            balances_inner,
            streams,
            members,
            member_streams,
            actions,
            policy_streams,
        };
        let report = program.lay_out();
        program.bounds = program.bounds(&report);
        (program, report)
    }

    /// Gives every dimension its place in the key.
    fn lay_out(&mut self) -> CompileReport {
        let mut report = CompileReport { streams: self.streams.len(), ..CompileReport::default() };
        let (mut word, mut shift) = (0, 0);
        let mut layout = Vec::new();
        for (inner, view) in [(false, &self.outer), (true, &self.inner)] {
            let Some(view) = view else { continue };
            report.bytes += view.bytes();
            for (dimension, classes) in view.dimensions() {
                let bits = u32::BITS - classes.saturating_sub(1).leading_zeros();
                if shift + bits > u64::BITS {
                    (word, shift) = (word + 1, 0);
                }
                // With one class only there is nothing to look up.
                if bits > 0 {
                    layout.push(Slot { inner, dimension, word, shift });
                    shift += bits;
                }
                let name = format!("{}{}", if inner { "inner." } else { "" }, view.dimension_name(dimension));
                if view.varies_in_flow(dimension) {
                    report.varying_in_flow.push(name.clone());
                }
                report.dimensions.push((name, classes));
            }
        }
        self.key_words = word + 1;
        self.layout = layout;
        report
    }

    /// The bounds that follow from the classes.
    fn bounds(&self, report: &CompileReport) -> Bounds {
        let combinations = report.dimensions.iter().fold(1_usize, |product, (_, classes)| {
            product.saturating_mul(usize::try_from(*classes).unwrap_or(usize::MAX))
        });
        let views = [&self.outer, &self.inner].into_iter().flatten();
        let matched = views.map(View::most_matched).sum::<usize>().min(self.actions.len());
        let each = self.actions.iter().map(|action| action.streams).max().unwrap_or(0);
        let wishes = matched.saturating_mul(each).min(self.policy_streams.len());
        Bounds { combinations, matched, wishes, copies: wishes.min(self.streams.len()) }
    }

    /// Whether some policy, or some group that shares out flows, reads the innermost headers.
    #[inline]
    #[must_use]
    pub fn needs_inner(&self) -> bool {
        self.inner.is_some() || self.balances_inner
    }

    /// Whether some policy asks for the id of a tunnel.
    #[must_use]
    pub fn reads_tunnel_id(&self) -> bool {
        [&self.outer, &self.inner].into_iter().flatten().any(|view| view.reads(Scalar::TunnelId))
    }

    /// Whether all packets of a flow that come from the same end have one verdict: then it can be kept with the flow.
    /// `vlan_in_key`: the VLAN ids tell flows apart.
    #[must_use]
    pub fn flow_decides(&self, vlan_in_key: bool) -> bool {
        let fixed = |slot: &Slot| match (slot.inner, slot.dimension) {
            // The headers of a tunnel say little of the many flows in it.
            (true, _) | (false, Dimension::SrcMac | Dimension::DstMac) => false,
            (false, Dimension::Scalar(index)) => {
                let scalar = self.outer.as_ref().and_then(|view| view.scalar(index));
                scalar.is_some_and(|scalar| scalar.is_fixed_in_flow(vlan_in_key))
            }
            (
                false,
                Dimension::SrcAddress | Dimension::DstAddress | Dimension::SrcPort | Dimension::DstPort,
            ) => true,
        };
        self.layout.iter().all(fixed)
    }

    /// The distinct (destination, tag) pairs, by [`StreamId`]; beside those of a group stand those of its members.
    #[must_use]
    pub fn streams(&self) -> &[(DestinationId, Tag)] {
        &self.streams
    }

    /// For a stream of a group: the streams of its members with the same tag, in their order; empty for any other.
    #[inline]
    #[must_use]
    pub fn member_streams(&self, stream: StreamId) -> &[StreamId] {
        let range = self.members.get(stream.index()).cloned().unwrap_or(0..0);
        self.member_streams.get(range.start as usize..range.end as usize).unwrap_or(&[])
    }

    /// The most policies that can match one packet, or copies that it can give rise to, if these are more.
    #[must_use]
    pub fn most_rows(&self) -> usize {
        self.bounds.matched.max(self.bounds.copies)
    }

    /// The number under which the program is published.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn stream(&self, number: u32) -> Option<(StreamId, DestinationId, Tag)> {
        self.streams.get(number as usize).map(|&(destination, tag)| (StreamId(number), destination, tag))
    }

    pub(super) fn excludes(&self, policy: PolicyId) -> bool {
        self.actions.get(policy.index()).is_some_and(|action| action.excludes)
    }

    pub(super) fn keep(&self, policy: PolicyId) -> Keep {
        self.actions.get(policy.index()).map_or(Keep::NONE, |action| action.keep)
    }

    pub(super) fn streams_of(&self, policy: PolicyId) -> &[StreamId] {
        let action = self.actions.get(policy.index());
        action
            .and_then(|a| self.policy_streams.get(a.first_stream..a.first_stream + a.streams))
            .unwrap_or(&[])
    }
}
