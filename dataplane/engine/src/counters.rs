//! What did each policy and each destination do? Counters with a single writer each, read relaxed from outside.

use std::sync::atomic::{AtomicU64, Ordering};

use sluice_model::{DropCounts, DropReason};

/// A counter with one writer (worker: w, control: r).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`. Only the owning thread may call this: it is a load and a store, not a locked add.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets the value. Only the owning thread may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one policy on one worker.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PolicyCounters {
    /// Packets that the policy matched.
    pub matched_packets: Counter,
    /// Their original lengths in bytes.
    pub matched_bytes: Counter,
    /// Copies sent, one per destination of the policy; shared copies count for each policy that shares them.
    pub sent_packets: Counter,
    /// Copies not sent, by reason.
    pub drops: [Counter; DropReason::COUNT],
}

/// The counters of one destination on one thread.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct DestinationCounters {
    /// Packets sent to it, fragments and segments each counted.
    pub packets: Counter,
    /// Their lengths in bytes, as sent.
    pub bytes: Counter,
    /// Copies cut to its MTU.
    pub truncated: Counter,
    /// Copies not sent, by reason.
    pub drops: [Counter; DropReason::COUNT],
}

/// The tables of one thread: a row per policy and per destination of one generation.
#[derive(Debug)]
pub struct Tables {
    /// Rows by [`PolicyId`](sluice_model::PolicyId).
    pub policies: Box<[PolicyCounters]>,
    /// Rows by [`DestinationId`](sluice_model::DestinationId).
    pub destinations: Box<[DestinationCounters]>,
}

impl Tables {
    /// Zeroed tables of the given sizes.
    #[must_use]
    pub fn new(policies: usize, destinations: usize) -> Self {
        Self {
            policies: std::iter::repeat_with(PolicyCounters::default).take(policies).collect(),
            destinations: std::iter::repeat_with(DestinationCounters::default).take(destinations).collect(),
        }
    }
}

/// The sums of one policy over all threads; each field is read on its own, so they may be some batches apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyTotals {
    /// Packets that the policy matched.
    pub matched_packets: u64,
    /// Their original lengths in bytes.
    pub matched_bytes: u64,
    /// Copies sent.
    pub sent_packets: u64,
    /// Copies not sent, by reason.
    pub drops: DropCounts,
}

/// The sums of one destination over all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationTotals {
    /// Packets sent.
    pub packets: u64,
    /// Their lengths in bytes, as sent.
    pub bytes: u64,
    /// Copies cut to its MTU.
    pub truncated: u64,
    /// Copies not sent, by reason.
    pub drops: DropCounts,
}

impl PolicyTotals {
    /// Adds what was counted before.
    pub fn add(&mut self, before: &Self) {
        self.matched_packets += before.matched_packets;
        self.matched_bytes += before.matched_bytes;
        self.sent_packets += before.sent_packets;
        self.drops.merge(&before.drops);
    }
}

impl DestinationTotals {
    /// Adds what was counted before.
    pub fn add(&mut self, before: &Self) {
        self.packets += before.packets;
        self.bytes += before.bytes;
        self.truncated += before.truncated;
        self.drops.merge(&before.drops);
    }
}

fn sum_drops(into: &mut DropCounts, counters: &[Counter; DropReason::COUNT]) {
    for (sum, counter) in into.0.iter_mut().zip(counters) {
        *sum += counter.get();
    }
}

/// The sums of every policy over `tables`, by policy number.
#[must_use]
pub fn policy_totals(tables: &[&Tables]) -> Vec<PolicyTotals> {
    let rows = tables.iter().map(|t| t.policies.len()).max().unwrap_or(0);
    let mut totals = vec![PolicyTotals::default(); rows];
    for table in tables {
        for (total, row) in totals.iter_mut().zip(&table.policies) {
            total.matched_packets += row.matched_packets.get();
            total.matched_bytes += row.matched_bytes.get();
            total.sent_packets += row.sent_packets.get();
            sum_drops(&mut total.drops, &row.drops);
        }
    }
    totals
}

/// The sums of every destination over `tables`, by destination number.
#[must_use]
pub fn destination_totals(tables: &[&Tables]) -> Vec<DestinationTotals> {
    let rows = tables.iter().map(|t| t.destinations.len()).max().unwrap_or(0);
    let mut totals = vec![DestinationTotals::default(); rows];
    for table in tables {
        for (total, row) in totals.iter_mut().zip(&table.destinations) {
            total.packets += row.packets.get();
            total.bytes += row.bytes.get();
            total.truncated += row.truncated.get();
            sum_drops(&mut total.drops, &row.drops);
        }
    }
    totals
}
