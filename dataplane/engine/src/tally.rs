//! What happened to each verdict's packets since the last look? Policies and destinations get it from here.
//!
//! A packet may match many policies. Counting it once, for its verdict, and adding that to the policies now and then
//! keeps the cost of a packet apart from their number.

use std::collections::VecDeque;

use sluice_core::classify::{Classifier, VerdictId};
use sluice_cpu::prefetch_index;
use sluice_model::DropReason;

use crate::counters::Tables;
use crate::ledger::Ledger;
use crate::port::Origin;

/// Parts into which folding everything is divided.
const SHARES: usize = 1024;

/// What one verdict's packets came to. The first copy is counted here; the others of a packet go straight to the tables.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
struct Tally {
    packets: u64,
    bytes: u64,
    sent_packets: u64,
    sent_bytes: u64,
}

/// The tallies of all verdicts of a classifier.
#[derive(Debug)]
pub struct Tallies {
    rows: Box<[Tally]>,
    /// The verdicts with something in their rows, the longest waiting first.
    dirty: VecDeque<u32>,
}

impl Tallies {
    /// Tallies for the verdicts of `classifier`.
    #[must_use]
    pub fn new(classifier: &Classifier) -> Self {
        let verdicts = classifier.most_verdicts();
        Self { rows: vec![Tally::default(); verdicts].into(), dirty: VecDeque::with_capacity(verdicts) }
    }

    /// Asks for the row of this verdict.
    #[inline(always)]
    pub fn prefetch(&self, verdict: VerdictId) {
        prefetch_index(&self.rows, verdict.number() as usize);
    }

    /// Counts packets with this verdict.
    #[inline(always)]
    pub fn matched(&mut self, verdict: VerdictId, packets: u64, bytes: u64) {
        let number = verdict.number();
        let Some(row) = self.rows.get_mut(number as usize) else { return };
        if row.packets == 0 && self.dirty.len() < self.dirty.capacity() {
            self.dirty.push_back(number);
        }
        row.packets += packets;
        row.bytes += bytes;
    }

    /// Counts first copies of packets with this verdict, which was counted as matched before.
    #[inline(always)]
    fn sent(&mut self, verdict: VerdictId, packets: u64, bytes: u64) {
        if let Some(row) = self.rows.get_mut(verdict.number() as usize) {
            row.sent_packets += packets;
            row.sent_bytes += bytes;
        }
    }

    /// Adds a share of what waits to the policies and destinations: with one call for each batch, everything has its turn
    /// within a thousand or two, and no call takes long.
    #[inline]
    pub fn fold_share(&mut self, classifier: &Classifier, tables: &Tables) {
        self.fold(self.dirty.len().div_ceil(SHARES), classifier, tables);
    }

    /// Adds what waits for `verdicts` verdicts to the policies and destinations. All must have been added before the
    /// classifier forgets its verdicts.
    #[inline(never)]
    pub fn fold(&mut self, verdicts: usize, classifier: &Classifier, tables: &Tables) {
        for number in self.dirty.drain(..verdicts.min(self.dirty.len())) {
            let Some(row) = self.rows.get_mut(number as usize) else { continue };
            let tally = std::mem::take(row);
            let set = classifier.action_set(VerdictId::from_number(number));
            for policy in set.matched {
                let row = &tables.policies[policy.index()];
                row.matched_packets.add(tally.packets);
                row.matched_bytes.add(tally.bytes);
            }
            if tally.sent_packets == 0 {
                continue;
            }
            let Some(first) = set.copies.first() else { continue };
            let row = &tables.destinations[first.destination.index()];
            row.packets.add(tally.sent_packets);
            row.bytes.add(tally.sent_bytes);
            for policy in set.sharers_of(first) {
                tables.policies[policy.index()].sent_packets.add(tally.sent_packets);
            }
        }
    }
}

/// Everything that is counted on the way out.
#[derive(Debug)]
pub struct Books<'a> {
    /// Where the verdicts of the batch are kept.
    pub classifier: &'a Classifier,
    /// Counters by policy and destination.
    pub tables: &'a Tables,
    /// Counters by verdict, on their way to the tables.
    pub tallies: &'a mut Tallies,
    /// The worker's ledger.
    pub ledger: &'a mut Ledger,
}

impl Books<'_> {
    /// Counts frames that left.
    #[inline]
    pub(crate) fn count_sent(&mut self, origins: &[Origin], lengths: &[u32]) {
        let Some(&first) = origins.first() else { return };
        let bytes: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        self.ledger.tx_packets += origins.len() as u64;
        self.ledger.tx_bytes += bytes;
        let differs = origins.iter().fold(0, |bits, origin| bits | origin.differs(first));
        if differs == 0 {
            self.count_copies(first, origins.len() as u64, bytes);
        } else {
            for (&origin, &length) in origins.iter().zip(lengths) {
                self.count_copies(origin, 1, length.into());
            }
        }
    }

    /// Counts frames of one origin as sent, but for the ledger.
    #[inline(always)]
    fn count_copies(&mut self, origin: Origin, packets: u64, bytes: u64) {
        if origin.is_first_copy() {
            self.tallies.sent(origin.verdict(), packets, bytes);
            return;
        }
        let Some(counted_for) = origin.counted_for(self.classifier) else { return };
        for destination in counted_for.destinations() {
            let row = &self.tables.destinations[destination.index()];
            row.packets.add(packets);
            row.bytes.add(bytes);
        }
        for policy in counted_for.sharers {
            self.tables.policies[policy.index()].sent_packets.add(packets);
        }
    }

    /// Counts one copy (or piece of one) as dropped.
    #[cold]
    pub(crate) fn drop_copy(&mut self, reason: DropReason, origin: Origin) {
        self.ledger.drops.add(reason, 1);
        let Some(counted_for) = origin.counted_for(self.classifier) else { return };
        for destination in counted_for.destinations() {
            self.tables.destinations[destination.index()].drops[reason as usize].add(1);
        }
        for policy in counted_for.sharers {
            self.tables.policies[policy.index()].drops[reason as usize].add(1);
        }
    }
}
