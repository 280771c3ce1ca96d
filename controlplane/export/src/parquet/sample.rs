//! Which records are kept when more come than the cap allows?
//!
//! Reservoir sampling (Vitter, "Random sampling with a reservoir", algorithm R, 1985) in windows of a second; with caps
//! that would need much memory in shorter ones, which have their share of the cap. Every record of a window has the
//! same chance.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

/// The most records that are held.
const MAX_HELD: u32 = 1 << 16;

/// A uniform sample of what comes in each window.
#[derive(Debug)]
pub(crate) struct Sampler<R> {
    /// Records kept per window.
    cap: usize,
    window: Duration,
    begin: Option<Instant>,
    held: Vec<R>,
    /// Records that came in the window.
    seen: u64,
    random: u64,
}

impl<R: Clone> Sampler<R> {
    /// Keeps `per_second` records each second.
    pub(crate) fn new(per_second: u32) -> Self {
        let windows = per_second.div_ceil(MAX_HELD).max(1);
        let cap = usize::try_from((per_second / windows).max(1)).unwrap_or(1);
        Self {
            cap,
            window: Duration::from_secs(1) / windows,
            begin: None,
            held: Vec::with_capacity(cap),
            seen: 0,
            random: RandomState::new().hash_one(per_second),
        }
    }

    /// Whether the window is over: [`Sampler::take`] what it held before more is offered.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.begin.is_some_and(|begin| now.saturating_duration_since(begin) >= self.window)
    }

    /// Offers records; says how many found no place, or lost it.
    pub(crate) fn offer(&mut self, records: &[R], now: Instant) -> usize {
        if !records.is_empty() {
            self.begin.get_or_insert(now);
        }
        let room = self.cap.saturating_sub(self.held.len()).min(records.len());
        let (first, rest) = records.split_at_checked(room).unwrap_or((records, &[]));
        self.held.extend_from_slice(first);
        self.seen += u64::try_from(first.len()).unwrap_or(0);
        for record in rest {
            self.seen += 1;
            let place = self.below(self.seen);
            if let Some(held) = usize::try_from(place).ok().and_then(|place| self.held.get_mut(place)) {
                held.clone_from(record);
            }
        }
        rest.len()
    }

    /// When the window began, if it did.
    pub(crate) fn begin(&self) -> Option<Instant> {
        self.begin
    }

    /// Ends the window: gives away what it held. [`Sampler::give_back`] the memory.
    pub(crate) fn take(&mut self) -> Vec<R> {
        (self.begin, self.seen) = (None, 0);
        std::mem::take(&mut self.held)
    }

    /// The memory of what was taken is used again.
    pub(crate) fn give_back(&mut self, mut taken: Vec<R>) {
        if self.held.is_empty() {
            taken.clear();
            self.held = taken;
        }
    }

    /// Records held.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// A random number below `end` (SplitMix64; Lemire, "Fast random integer generation in an interval").
    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        u64::try_from((u128::from(bits) * u128::from(end)) >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_cap_all_are_kept() {
        let mut sampler = Sampler::new(1000);
        let now = Instant::now();
        assert_eq!(sampler.offer(&[1, 2, 3], now), 0);
        assert_eq!(sampler.offer(&[4], now), 0);
        assert!(!sampler.is_due(now + Duration::from_millis(999)));
        assert!(sampler.is_due(now + Duration::from_secs(1)));
        assert_eq!(sampler.take(), [1, 2, 3, 4]);
        assert!(!sampler.is_due(now + Duration::from_secs(9)));
    }

    #[test]
    fn above_the_cap_each_has_the_same_chance() {
        const RECORDS: usize = 1000;
        const CAP: usize = 100;
        const ROUNDS: usize = 20_000;
        let mut sampler = Sampler::new(CAP as u32);
        let records: Vec<usize> = (0..RECORDS).collect();
        let mut kept = vec![0_usize; RECORDS];
        for _ in 0..ROUNDS {
            let (first, second) = records.split_at(37);
            let now = Instant::now();
            let left_out = sampler.offer(first, now) + sampler.offer(second, now);
            assert_eq!(left_out, RECORDS - CAP);
            let sample = sampler.take();
            assert_eq!(sample.len(), CAP);
            for record in sample {
                kept[record] += 1;
            }
        }
        // Binomial with n = 20,000 and p = 0.1: 2,000 with a deviation of 42; of 1,000 none is 6 deviations off.
        for (record, kept) in kept.into_iter().enumerate() {
            assert!(kept.abs_diff(ROUNDS * CAP / RECORDS) < 6 * 43, "record {record}: {kept}");
        }
    }

    #[test]
    fn large_caps_have_short_windows() {
        let mut sampler = Sampler::new(1_000_000);
        let now = Instant::now();
        let records = vec![0_u8; 200_000];
        let left_out = sampler.offer(&records, now);
        assert_eq!(records.len() - left_out, 62_500);
        assert!(sampler.is_due(now + Duration::from_millis(63)));
    }
}
