//! How many tokens are left? One word that all workers share.
//!
//! The bucket does not count what is in it, but what was taken from it since the start. What was earned since the start
//! follows from the time alone, so that nothing is lost to rounding, however often the bucket is asked: the level is
//! `earned - taken`. Both are taken modulo 2^64; only their difference means anything.

use std::sync::atomic::{AtomicU64, Ordering};

/// A token bucket. Any unit will do: bits, packets.
#[derive(Debug)]
pub struct Bucket {
    rate_per_s: u64,
    burst: u64,
    taken: AtomicU64,
}

const NS_PER_S: u128 = 1_000_000_000;

impl Bucket {
    /// A full bucket: `rate_per_s` tokens come in each second, up to `burst`.
    #[must_use]
    pub fn new(rate_per_s: u64, burst: u64) -> Self {
        let burst = burst.clamp(1, i64::MAX.unsigned_abs() / 4);
        Self { rate_per_s, burst, taken: AtomicU64::new(0_u64.wrapping_sub(burst)) }
    }

    /// The most tokens in it.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// Takes `need` tokens, and up to `want` if there are more; returns how many, 0 when there are too few.
    ///
    /// More than the bucket can ever hold are given when it is full, on credit: the level is below zero then, and the
    /// long run stays right. `now_ns` comes from a clock that does not run backwards.
    pub fn take(&self, now_ns: u64, need: u64, want: u64) -> u64 {
        let earned = self.earned(now_ns);
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let mut level = earned.wrapping_sub(taken).cast_signed();
            if level > self.burst.cast_signed() {
                level = self.burst.cast_signed();
            } else if level < self.least() {
                // The caller's clock was set back by more than a second, against its promise: begin anew, full.
                level = self.burst.cast_signed();
            }
            let there = level.max(0).unsigned_abs();
            if there < need.min(self.burst) {
                return 0;
            }
            let given = want.max(need).min(there.max(need));
            let new = earned.wrapping_sub(level.cast_unsigned()).wrapping_add(given);
            match self.taken.compare_exchange_weak(taken, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return given,
                Err(other) => taken = other,
            }
        }
    }

    /// Puts `tokens` back that were taken and not used.
    pub fn put_back(&self, tokens: u64) {
        self.taken.fetch_sub(tokens, Ordering::Relaxed);
    }

    /// Tokens that came in since time zero, modulo 2^64.
    #[expect(clippy::cast_possible_truncation, reason = "modulo 2^64 is meant")]
    fn earned(&self, now_ns: u64) -> u64 {
        (u128::from(self.rate_per_s) * u128::from(now_ns) / NS_PER_S) as u64
    }

    /// No level that credit can bring about is lower: a second's tokens and the largest frame in bits.
    fn least(&self) -> i64 {
        const LARGEST: u64 = 1 << 21;
        -(self.rate_per_s.saturating_add(LARGEST).min(i64::MAX.unsigned_abs()).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The obvious bucket, in exact rational numbers: levels in units of 1 / 10^9 tokens.
    struct Model {
        rate: i128,
        burst: i128,
        level: i128,
        at_ns: i128,
    }

    impl Model {
        fn take(&mut self, now_ns: u64, need: u64) -> bool {
            let now_ns = i128::from(now_ns);
            self.level = (self.level + (now_ns - self.at_ns) * self.rate).min(self.burst);
            self.at_ns = now_ns;
            let need = i128::from(need) * NS_PER_S.cast_signed();
            if self.level < need.min(self.burst) {
                return false;
            }
            self.level -= need;
            true
        }
    }

    proptest! {
        #[test]
        fn it_decides_as_the_obvious_bucket_does(
            rate in 1_u64..2_000_000_000, burst in 1_u64..10_000_000, start in 0_u64..1 << 50,
            arrivals in prop::collection::vec((0_u64..20_000_000, 1_u64..2_000_000), 1..300),
        ) {
            let bucket = Bucket::new(rate, burst);
            let billion = NS_PER_S.cast_signed();
            let mut model = Model {
                rate: rate.into(), burst: i128::from(burst) * billion, level: i128::from(burst) * billion, at_ns: start.into(),
            };
            let mut now = start;
            for (gap, need) in arrivals {
                now += gap;
                let before = model.level;
                let expected = model.take(now, need);
                let given = bucket.take(now, need, need);
                prop_assert!(given == 0 || given == need);
                if (given > 0) != expected {
                    // Tokens come in whole here: only a level within one token of the need may be decided otherwise.
                    let level = model.level + if expected { i128::from(need) * billion } else { 0 };
                    let distance = level - (i128::from(need) * billion).min(model.burst);
                    prop_assert!(distance.abs() <= billion, "{before} {level} {need}");
                    // From here on, they have given different amounts.
                    model.level += if expected { i128::from(need) } else { -i128::from(need) } * billion;
                }
            }
        }
    }

    #[test]
    fn a_second_gives_a_seconds_worth() {
        let bucket = Bucket::new(1_000, 10);
        let mut given = 0;
        for now_us in 0..10_000_000_u64 {
            given += bucket.take(now_us * 1_000, 1, 1);
        }
        assert_eq!(given, 10 + 9_999, "the burst, and the rate for 9.999999 s");
    }

    #[test]
    fn it_gives_more_where_more_is_wanted_and_there() {
        let bucket = Bucket::new(1_000, 100);
        assert_eq!(bucket.take(0, 10, 60), 60);
        assert_eq!(bucket.take(0, 10, 60), 40);
        assert_eq!(bucket.take(0, 1, 1), 0);
        bucket.put_back(5);
        assert_eq!(bucket.take(0, 6, 6), 0);
        assert_eq!(bucket.take(0, 5, 5), 5);
    }

    #[test]
    fn what_is_larger_than_the_bucket_goes_on_credit() {
        let bucket = Bucket::new(1_000, 100);
        assert_eq!(bucket.take(0, 350, 350), 350, "full");
        assert_eq!(bucket.take(250_000_000, 1, 1), 0, "250 of 250 paid back");
        assert_eq!(bucket.take(251_000_000, 1, 1), 1);
        assert_eq!(bucket.take(300_000_000, 350, 350), 0, "not full");
    }

    #[test]
    fn it_runs_for_ever() {
        // 400 Gbit/s at the end of the clock.
        let bucket = Bucket::new(400_000_000_000, 4_000_000_000);
        let mut now = u64::MAX - 3_000_000_000;
        let mut given = bucket.take(now, 1, u64::MAX);
        while now < u64::MAX - 10_000_000 {
            now += 10_000_000;
            given += bucket.take(now, 1, u64::MAX);
        }
        assert_eq!(given, 4_000_000_000 + 299 * 4_000_000_000);
    }

    #[test]
    fn workers_together_take_no_more_than_there_is() {
        let bucket = Bucket::new(1_000_000, 1_000);
        let clock = AtomicU64::new(0);
        let total: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut given = 0;
                        loop {
                            let now = clock.fetch_add(1_000, Ordering::Relaxed);
                            if now > 1_000_000_000 {
                                return given;
                            }
                            given += bucket.take(now, 3, 17);
                        }
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert!((990_000..=1_001_000).contains(&total), "{total}");
    }
}
