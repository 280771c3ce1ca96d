//! Which packets of a batch fit the predicates of a capture? A program of one policy, with its own classifier.

use dpdk::Mbuf;
use sluice_core::classify::{
    Classifier, ClassifierConfig, FragmentTable, FragmentTableConfig, Input, Program, VerdictId,
};
use sluice_core::wire::{self, Fragment, Parsed};
use sluice_model::{Action, Generation, Policy, PolicySet, PortId};

use crate::batch::{BATCH, Batch};
use crate::stage::parse::DEPTH_LIMIT;

/// One policy: there are two verdicts, and few combinations of classes.
const SIZES: ClassifierConfig = ClassifierConfig { cache_entries: 256, sets: 64 };
/// Datagrams whose later fragments are given the ports of their first one.
const FRAGMENTS: FragmentTableConfig = FragmentTableConfig { datagrams: 1024, life_ns: 10_000_000_000 };

/// The predicates of a capture, compiled.
#[derive(Debug)]
pub(crate) struct TapFilter {
    program: Program,
    classifier: Classifier,
    fragments: FragmentTable,
    outer: Box<[Parsed; BATCH]>,
    inner: Box<[Parsed; BATCH]>,
    wire_len: [u32; BATCH],
    ingress: [PortId; BATCH],
    taps: [u16; BATCH],
    verdicts: [VerdictId; BATCH],
}

impl TapFilter {
    /// The predicates of `policy`; what it does with packets does not matter.
    pub(crate) fn new(policy: &Policy) -> Option<Self> {
        // A policy that takes packets out needs no destination.
        let policy = Policy {
            action: Action::Drop,
            to: Vec::new(),
            ingress: Vec::new(),
            taps: Vec::new(),
            ..policy.clone()
        };
        let policies = PolicySet::new(vec![policy], Vec::new())?;
        let (program, _report) = Program::compile(&policies, &[], Generation::default());
        Some(Self {
            classifier: Classifier::new(&program, SIZES),
            program,
            fragments: FragmentTable::new(&FRAGMENTS),
            outer: Box::new([Parsed::EMPTY; BATCH]),
            inner: Box::new([Parsed::EMPTY; BATCH]),
            wire_len: [0; BATCH],
            ingress: [PortId(0); BATCH],
            taps: [0; BATCH],
            verdicts: [VerdictId::NONE; BATCH],
        })
    }

    /// Those of `places` (bit i: place i) that fit, by the headers of the frames as they are; nothing was parsed yet.
    pub(crate) fn received(&mut self, batch: &Batch, places: u64) -> u64 {
        let with_inner = self.program.needs_inner();
        for (index, place) in batch.live_places_of(places).enumerate() {
            let frame = batch.mbufs[place].as_ref().map_or(&[][..], Mbuf::data);
            let now_ns = batch.info[place].timestamp_ns;
            let outer = &mut self.outer[index];
            wire::parse_into(frame, outer);
            if outer.fragment != Fragment::Whole {
                let _outcome = self.fragments.resolve(outer, frame, now_ns);
            }
            if with_inner {
                let inner = &mut self.inner[index];
                *inner = wire::parse_innermost(frame, outer, DEPTH_LIMIT);
                if inner.fragment != Fragment::Whole && outer.inner_offset != 0 {
                    let _outcome = self.fragments.resolve(inner, frame, now_ns);
                }
            }
        }
        self.fitting(batch, places)
    }

    /// The live packets that fit, by the headers that policies are held against. `parsed_inner`: those inside are there.
    pub(crate) fn decided(&mut self, batch: &Batch, parsed_inner: bool) -> u64 {
        let with_inner = self.program.needs_inner();
        for (index, place) in batch.live_places().enumerate() {
            self.outer[index] = *batch.view(place);
            if with_inner {
                let frame = batch.mbufs[place].as_ref().map_or(&[][..], Mbuf::data);
                self.inner[index] = if parsed_inner {
                    batch.inner[place]
                } else {
                    wire::parse_innermost(frame, &batch.outer[place], DEPTH_LIMIT)
                };
            }
            // As for policies: the id of a tunnel that was taken off can still be asked for.
            let tunnel = &batch.tunnel[place];
            tunnel.show_in(&mut self.outer[index]);
            tunnel.show_in(&mut self.inner[index]);
        }
        self.fitting(batch, batch.live)
    }

    fn fitting(&mut self, batch: &Batch, places: u64) -> u64 {
        let mut frames: [&[u8]; BATCH] = [&[]; BATCH];
        let mut len = 0;
        for place in batch.live_places_of(places) {
            frames[len] = batch.mbufs[place].as_ref().map_or(&[], Mbuf::data);
            self.wire_len[len] = batch.info[place].wire_len;
            self.ingress[len] = batch.ingress[place];
            self.taps[len] = batch.tap[place];
            len += 1;
        }
        let input = Input {
            frames: &frames[..len],
            outer: &self.outer[..len],
            inner: if self.program.needs_inner() { &self.inner[..len] } else { &[] },
            wire_len: &self.wire_len[..len],
            ingress: &self.ingress[..len],
            taps: &self.taps[..len],
        };
        self.classifier.classify(&self.program, &input, &mut self.verdicts[..len]);
        let mut fitting = 0;
        for (place, &verdict) in batch.live_places_of(places).zip(&self.verdicts) {
            if self.classifier.action_set(verdict).excluded {
                fitting |= 1 << place;
            }
        }
        fitting
    }
}
