//! How long are packets inside, and how full are batches? Histograms of one worker, handed over without a lock.
//!
//! The worker records one batch of [`SAMPLE_BATCHES`] into a histogram of its own, with fixed bounds. In housekeeping it
//! swaps the box for an empty one over bounded queues; whoever asks adds the full ones up and gives them back.

use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::ArrayQueue;
use hdrhistogram::Histogram;

use crate::batch::BATCH;

/// One batch of so many is recorded.
pub const SAMPLE_BATCHES: u32 = 32;
/// The longest delay that is told apart from longer ones, nanoseconds.
const MAX_DELAY_NS: u64 = 10_000_000_000;
/// Significant decimal digits: values are right to one percent.
const DIGITS: u8 = 2;

/// What was recorded.
#[derive(Debug)]
struct Samples {
    /// Nanoseconds from the reception of a batch's first packet to the hand-over of its last copy.
    delay_ns: Histogram<u64>,
    /// Packets in a batch.
    batch_pkts: Histogram<u64>,
}

impl Samples {
    fn new() -> Option<Self> {
        // The bounds are right, so there is always one.
        Some(Self {
            delay_ns: Histogram::new_with_bounds(1, MAX_DELAY_NS, DIGITS).ok()?,
            batch_pkts: Histogram::new_with_bounds(1, BATCH as u64, DIGITS).ok()?,
        })
    }

    fn reset(&mut self) {
        self.delay_ns.reset();
        self.batch_pkts.reset();
    }

    fn add(&mut self, other: &Self) {
        // Histograms of the same bounds can be added.
        let _added = self.delay_ns.add(&other.delay_ns).and_then(|()| self.batch_pkts.add(&other.batch_pkts));
    }
}

/// Percentiles of some values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// How many values there were.
    pub samples: u64,
    /// The median.
    pub p50: u64,
    /// 90 of 100 are at most this.
    pub p90: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// 999 of 1000 are at most this.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            samples: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        }
    }
}

/// How many values were at most so large.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// How many values there were.
    pub count: u64,
    /// Their sum, right to one percent.
    pub sum: u64,
    /// By bound: how many are at most it, and more than the bound before.
    pub counts: Vec<u64>,
}

impl Distribution {
    /// Over `bounds`, which ascend; what is above the last one is in `count` only.
    fn of(histogram: &Histogram<u64>, bounds: &[u64]) -> Self {
        let mut found = Self { count: histogram.len(), sum: 0, counts: vec![0; bounds.len()] };
        for step in histogram.iter_recorded() {
            let (value, count) = (step.value_iterated_to(), step.count_since_last_iteration());
            found.sum = found.sum.saturating_add(value.saturating_mul(count));
            // Values are told apart to a percent: one on a bound may be read as a little more.
            let place = bounds.partition_point(|&bound| histogram.highest_equivalent(bound) < value);
            if let Some(cell) = found.counts.get_mut(place) {
                *cell += count;
            }
        }
        found
    }
}

/// What a worker's histograms say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Nanoseconds from the reception of a batch's first packet to the hand-over of its last copy.
    pub delay_ns: Percentiles,
    /// Packets in a batch.
    pub batch_pkts: Percentiles,
}

/// The queues between a worker and those who ask, and the sum of what they got.
#[derive(Debug)]
pub struct LatencyCell {
    /// Worker to reader.
    full: ArrayQueue<Box<Samples>>,
    /// Reader to worker.
    empty: ArrayQueue<Box<Samples>>,
    /// Readers only.
    total: Mutex<Option<Samples>>,
}

impl LatencyCell {
    /// Delays in nanoseconds and batches in packets over ascending bounds, as far as the worker has handed them over. Not
    /// for workers: it locks.
    #[must_use]
    pub fn distributions(&self, delay_bounds_ns: &[u64], batch_bounds: &[u64]) -> [Distribution; 2] {
        let _taken = self.read();
        let total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(total) = &*total else { return Default::default() };
        [
            Distribution::of(&total.delay_ns, delay_bounds_ns),
            Distribution::of(&total.batch_pkts, batch_bounds),
        ]
    }

    /// Everything recorded since the start, as far as the worker has handed it over. Not for workers: it locks.
    #[must_use]
    pub fn read(&self) -> Latency {
        let mut total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(total) = &mut *total else { return Latency::default() };
        while let Some(mut samples) = self.full.pop() {
            total.add(&samples);
            samples.reset();
            // There is room: what was taken from one queue fits the other.
            drop(self.empty.push(samples));
        }
        Latency { delay_ns: Percentiles::of(&total.delay_ns), batch_pkts: Percentiles::of(&total.batch_pkts) }
    }
}

/// The worker's side.
#[derive(Debug)]
pub(crate) struct Recorder {
    current: Option<Box<Samples>>,
    cell: Arc<LatencyCell>,
    /// Batches until the next one that is recorded.
    left: u32,
}

impl Recorder {
    /// A recorder; all memory is taken here.
    pub(crate) fn new() -> Self {
        let cell = LatencyCell {
            full: ArrayQueue::new(2),
            empty: ArrayQueue::new(2),
            total: Mutex::new(Samples::new()),
        };
        if let Some(spare) = Samples::new() {
            drop(cell.empty.push(Box::new(spare)));
        }
        Self { current: Samples::new().map(Box::new), cell: Arc::new(cell), left: SAMPLE_BATCHES }
    }

    pub(crate) fn cell(&self) -> Arc<LatencyCell> {
        Arc::clone(&self.cell)
    }

    /// Whether the batch in hand is to be recorded.
    #[inline]
    pub(crate) fn is_due(&mut self) -> bool {
        self.left -= 1;
        if self.left == 0 {
            self.left = SAMPLE_BATCHES;
            return true;
        }
        false
    }

    /// Records a batch.
    pub(crate) fn record(&mut self, delay_ns: u64, packets: usize) {
        if let Some(current) = &mut self.current {
            current.delay_ns.saturating_record(delay_ns.max(1));
            current.batch_pkts.saturating_record(packets as u64);
        }
    }

    /// Hands over what was recorded, if an empty box is there to go on with.
    pub(crate) fn hand_over(&mut self) {
        if self.current.as_ref().is_some_and(|current| current.delay_ns.is_empty()) {
            return;
        }
        if let Some(empty) = self.cell.empty.pop()
            && let Some(full) = self.current.replace(empty)
        {
            // The queue holds all boxes that there are.
            drop(self.cell.full.push(full));
        }
    }

    /// Hands over the rest; nothing is recorded afterwards.
    pub(crate) fn end(&mut self) {
        if let Some(last) = self.current.take() {
            drop(self.cell.full.push(last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_is_lost_and_nothing_allocates() {
        let mut recorder = Recorder::new();
        let cell = recorder.cell();
        assert_eq!(cell.read(), Latency::default());
        let mut work = |values: std::ops::Range<u64>| {
            for value in values {
                recorder.record(value * 1000, usize::try_from(value % 64).unwrap() + 1);
                recorder.hand_over();
            }
        };
        // The reader looks now and then; in between the worker goes on with what it has.
        let allocated = allocation_counter::measure(|| work(1..500)).count_total;
        assert_eq!(allocated, 0);
        assert_eq!(cell.read().delay_ns.samples, 1, "one box was full, the other is in use");
        work(500..1001);
        assert_eq!(cell.read().delay_ns.samples, 500);
        recorder.end();
        let latency = cell.read();
        assert_eq!((latency.delay_ns.samples, latency.batch_pkts.samples), (1000, 1000));
        let within = |value: u64, expected: u64| value.abs_diff(expected) * 100 <= expected;
        assert!(within(latency.delay_ns.p50, 500_000), "{latency:?}");
        assert!(within(latency.delay_ns.p99, 990_000), "{latency:?}");
        assert!(within(latency.delay_ns.max, 1_000_000), "{latency:?}");
        assert_eq!(latency.batch_pkts.max, 64);
        let [delays, batches] = cell.distributions(&[100_000, 500_000], &[1, 32, 64]);
        assert!(within(delays.counts[0], 100) && within(delays.counts[1], 400), "{delays:?}");
        assert_eq!(delays.count, 1000);
        assert!(within(delays.sum, 500_500_000), "{}", delays.sum);
        let at_most = |most: u64| (1..=1000_u64).filter(|value| value % 64 < most).count() as u64;
        assert_eq!(batches.counts, [at_most(1), at_most(32) - at_most(1), 1000 - at_most(32)]);
    }

    #[test]
    fn one_batch_of_some_is_due_and_beyond_the_bounds_is_the_bound() {
        let mut recorder = Recorder::new();
        assert_eq!((0..320).filter(|_| recorder.is_due()).count(), 10);
        recorder.record(u64::MAX, BATCH);
        recorder.record(0, 1);
        recorder.end();
        let latency = recorder.cell().read();
        assert!(latency.delay_ns.max >= MAX_DELAY_NS && latency.delay_ns.samples == 2, "{latency:?}");
    }
}
