//! Where do the cycles of a worker go? Packets, batches and cycles per stage, and how full its bursts are.

use dpdk::Tsc;

use crate::batch::BATCH;
use crate::counters::Counter;

/// The stages whose cycles are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// Receiving, and making frames whole.
    Rx,
    /// Parsing, fragments, loop guard.
    Parse,
    /// Taking tunnels off, or looking through them.
    Decap,
    /// Finding duplicates.
    Dedup,
    /// Finding flows, counting in them.
    Flow,
    /// Looking up verdicts.
    Classify,
    /// Cutting, marking, encapsulating.
    Act,
    /// Handing bursts to the drivers, publishing counts.
    Tx,
}

impl Stage {
    /// Every stage, in the packet's order.
    pub const ALL: [Self; 8] =
        [Self::Rx, Self::Parse, Self::Decap, Self::Dedup, Self::Flow, Self::Classify, Self::Act, Self::Tx];

    /// The name in tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Parse => "parse",
            Self::Decap => "decap",
            Self::Dedup => "dedup",
            Self::Flow => "flow",
            Self::Classify => "classify",
            Self::Act => "act",
            Self::Tx => "tx",
        }
    }
}

/// What one stage did.
#[derive(Debug, Default)]
pub struct StageStats {
    /// Packets that entered it.
    pub packets: Counter,
    /// Batches that entered it.
    pub batches: Counter,
    /// TSC cycles spent in it.
    pub cycles: Counter,
}

/// The statistics of one worker (worker: w, control: r).
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerStats {
    /// By [`Stage`].
    pub stages: [StageStats; Stage::ALL.len()],
    /// Polls that brought nothing.
    pub idle_polls: Counter,
    /// Times that the core slept, as nothing came.
    pub sleeps: Counter,
    /// Polls by how many packets they brought; the last place is a full batch.
    pub burst_sizes: [Counter; BATCH + 1],
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self {
            stages: Default::default(),
            idle_polls: Counter::default(),
            sleeps: Counter::default(),
            burst_sizes: [const { Counter::new() }; BATCH + 1],
        }
    }
}

impl WorkerStats {
    /// Cycles spent on packets, over all stages.
    #[must_use]
    pub fn busy_cycles(&self) -> u64 {
        self.stages.iter().map(|row| row.cycles.get()).sum()
    }

    /// Polls so far, those included that brought nothing: what stands still when the thread does.
    #[must_use]
    pub fn polls(&self) -> u64 {
        // Each poll is in one place of the histogram, that of empty ones included.
        self.burst_sizes.iter().map(Counter::get).sum()
    }

    /// Counts one poll.
    #[inline]
    pub fn poll(&self, packets: usize) {
        if packets == 0 {
            self.idle_polls.add(1);
        }
        self.burst_sizes[packets.min(BATCH)].add(1);
    }

    /// Counts one batch through `stage`, which began at `start`; returns the time at its end.
    #[inline]
    pub fn stage(&self, stage: Stage, start: Tsc, packets: usize) -> Tsc {
        let end = Tsc::now();
        let row = &self.stages[stage as usize];
        row.packets.add(packets as u64);
        row.batches.add(1);
        row.cycles.add(end.cycles_since(start));
        end
    }
}
