//! What would other policies match of the traffic that passes? Counted beside the policies in force, which decide alone.

use std::sync::Arc;

use dpdk::Mbuf;
use sluice_core::classify::{Classifier, ClassifierConfig, FragmentTable, FragmentTableConfig, Program};

use crate::batch::Batch;
use crate::counters::Counter;
use crate::stage::classify::Classify;
use crate::stage::decap::Decap;
use crate::stage::parse;

/// A packet that may match so many policies, or give so many copies, is looked at as a whole; beyond, one batch in
/// several is, so that traffic does not pay for the counting.
const ROWS_PER_PACKET: usize = 32;

/// Datagrams whose later fragments are given the ports of their first one, inside of tunnels that only the policies on
/// trial look into.
const FRAGMENTS: FragmentTableConfig = FragmentTableConfig { datagrams: 1024, life_ns: 10_000_000_000 };

/// Packets and bytes (worker: w, control: r).
#[derive(Debug, Default)]
pub struct Row {
    /// Packets or copies.
    pub packets: Counter,
    /// Their lengths in bytes.
    pub bytes: Counter,
}

/// What one worker counted.
#[derive(Debug)]
pub struct ShadowCounts {
    /// Packets that were looked at, and their original lengths.
    pub all: Row,
    /// Packets that would not be copied, and their original lengths.
    pub unmatched: Row,
    /// Matched packets and their original lengths, by policy number.
    pub policies: Box<[Row]>,
    /// Copies and their lengths after truncation, without tunnel headers, by destination number.
    pub destinations: Box<[Row]>,
}

/// Policies that are tried, as one worker has them.
#[derive(Debug)]
pub struct Shadow {
    program: Arc<Program>,
    classifier: Classifier,
    classify: Box<Classify>,
    counts: Arc<ShadowCounts>,
    /// Its own: those of the worker decide.
    fragments: FragmentTable,
    /// One batch in so many is looked at.
    sampling: u32,
    turn: u32,
}

impl Row {
    #[inline]
    fn add(&self, bytes: u32) {
        self.packets.add(1);
        self.bytes.add(bytes.into());
    }
}

impl Shadow {
    /// A worker's share of a trial of `program`, with all memory that it will ever use. `decapsulates`: the worker takes
    /// tunnels off.
    #[must_use]
    pub fn new(program: Arc<Program>, [policies, destinations]: [usize; 2], decapsulates: bool) -> Box<Self> {
        let rows = |count| std::iter::repeat_with(Row::default).take(count).collect();
        Box::new(Self {
            classifier: Classifier::new(&program, ClassifierConfig::default()),
            classify: Classify::new(&program, decapsulates),
            counts: Arc::new(ShadowCounts {
                all: Row::default(),
                unmatched: Row::default(),
                policies: rows(policies),
                destinations: rows(destinations),
            }),
            sampling: u32::try_from(program.most_rows().div_ceil(ROWS_PER_PACKET).max(1)).unwrap_or(u32::MAX),
            fragments: FragmentTable::new(&FRAGMENTS),
            turn: 0,
            program,
        })
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> Arc<ShadowCounts> {
        Arc::clone(&self.counts)
    }

    /// One batch in so many is looked at.
    #[must_use]
    pub fn sampling(&self) -> u32 {
        self.sampling
    }

    /// Counts the live packets of a batch that was parsed and decided; leaves its verdicts as they are. `with_inner`: the
    /// innermost headers were parsed.
    #[inline(never)]
    pub(crate) fn run(&mut self, batch: &mut Batch, with_inner: bool, decap: Option<&Decap>) {
        self.turn += 1;
        if self.turn < self.sampling || batch.live == 0 {
            return;
        }
        self.turn = 0;
        let reads_inner = self.program.needs_inner();
        if reads_inner && !with_inner {
            for place in batch.live_places() {
                let ingress = batch.ingress[place];
                // What is inside the tunnels looked through was parsed.
                if decap.is_some_and(|decap| decap.looks_through(ingress)) {
                    continue;
                }
                let Some(mbuf) = &batch.mbufs[place] else { continue };
                let (outer, inner) = (&batch.outer[place], &mut batch.inner[place]);
                let now_ns = batch.info[place].timestamp_ns;
                parse::innermost(mbuf.data(), outer, inner, now_ns, &mut self.fragments);
            }
        }
        let verdicts = batch.verdicts;
        self.classify.run(batch.live, batch, &self.program, &mut self.classifier);
        for place in batch.live_places() {
            self.count(batch, place, reads_inner);
        }
        batch.verdicts = verdicts;
    }

    fn count(&self, batch: &Batch, place: usize, reads_inner: bool) {
        let counts = &*self.counts;
        let wire_len = batch.info[place].wire_len;
        let set = self.classifier.action_set(batch.verdicts[place]);
        counts.all.add(wire_len);
        if set.copies.is_empty() {
            counts.unmatched.add(wire_len);
        }
        for policy in set.matched {
            if let Some(row) = counts.policies.get(policy.index()) {
                row.add(wire_len);
            }
        }
        let header_end = batch.view(place).header_end;
        let inner_header_end = if reads_inner { batch.inner[place].header_end } else { header_end };
        let cap_len = batch.mbufs[place].as_ref().map_or(0, Mbuf::pkt_len);
        for copy in set.copies {
            if let Some(row) = counts.destinations.get(copy.destination.index()) {
                row.add(copy.keep.frame_bytes(header_end, inner_header_end, cap_len));
            }
        }
    }
}
