//! Does the interface that carries distribution carry too much? The rule, without counters and clocks.
//!
//! Once per interval the average egress rate of the interface is compared: at the threshold or above, distribution by
//! it stops; it resumes after five consecutive intervals with a rate below 90 % of (threshold - distribution limit).

use sluice_model::BreakerSettings;

/// Intervals in a row that have to be quiet before distribution resumes.
const QUIET_INTERVALS: u32 = 5;

/// The breaker of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    settings: BreakerSettings,
    open: bool,
    /// Quiet intervals in a row since it opened.
    quiet: u32,
}

impl Breaker {
    /// A closed breaker: distribution goes on.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, open: false, quiet: 0 }
    }

    /// Whether distribution is stopped.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Ends an interval in which `bytes` left by the interface in `elapsed_ns`; says whether it is open from now on.
    /// An interval of no length tells nothing.
    pub fn end_interval(&mut self, bytes: u64, elapsed_ns: u64) -> bool {
        // bytes * 8 / (elapsed_ns / 10^9) against Mbit/s, that is 10^6 bits: both sides times elapsed_ns / 1000.
        let carried = u128::from(bytes) * 8 * 1_000;
        let at = |mbps: u32| u128::from(mbps) * u128::from(elapsed_ns);
        let (threshold, limit) = (self.settings.threshold_mbps, self.settings.limit_mbps);
        if elapsed_ns == 0 {
        } else if carried >= at(threshold) {
            (self.open, self.quiet) = (true, 0);
        } else if self.open {
            let is_quiet = carried * 10 < at(threshold.saturating_sub(limit)) * 9;
            self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
            self.open = self.quiet < QUIET_INTERVALS;
        }
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// Threshold 3000, limit 1000: it closes below (3000 - 1000) * 90 % = 1800 Mbit/s.
    const SETTINGS: BreakerSettings =
        BreakerSettings { threshold_mbps: 3_000, limit_mbps: 1_000, interval_ns: 10 * SECOND };

    /// Bytes that 10 s at `kbps` kbit/s make.
    fn bytes(kbps: u64) -> u64 {
        kbps * 1_000 * 10 / 8
    }

    /// What the breaker says after each interval at these rates (kbit/s).
    fn states(rates: &[u64]) -> Vec<bool> {
        let mut breaker = Breaker::new(SETTINGS);
        rates.iter().map(|&rate| breaker.end_interval(bytes(rate), 10 * SECOND)).collect()
    }

    #[test]
    fn it_opens_at_the_threshold_and_not_below() {
        assert_eq!(states(&[2_999_999, 3_000_000]), [false, true]);
        assert_eq!(states(&[9_000_000]), [true]);
        let mut breaker = Breaker::new(SETTINGS);
        assert!(!breaker.end_interval(bytes(3_000_000) - 1, 10 * SECOND), "one byte below");
        assert!(breaker.end_interval(bytes(3_000_000), 10 * SECOND));
        let mut breaker = Breaker::new(SETTINGS);
        assert!(!breaker.end_interval(bytes(3_000_000), 10 * SECOND + 1), "a nanosecond longer is slower");
    }

    #[test]
    fn it_closes_after_exactly_five_quiet_intervals() {
        assert_eq!(states(&[3_000_000, 0, 0, 0, 0, 0, 0]), [true, true, true, true, true, false, false]);
    }

    #[test]
    fn quiet_is_below_ninety_percent_of_the_difference() {
        let just_below = [3_000_000, 1_799_999, 1_799_999, 1_799_999, 1_799_999, 1_799_999];
        assert_eq!(states(&just_below), [true, true, true, true, true, false]);
        assert_eq!(
            states(&[3_000_000, 1_800_000, 1_800_000, 1_800_000, 1_800_000, 1_800_000, 1_800_000]),
            [true; 7]
        );
        // The intervals have to be consecutive.
        let mut broken = vec![3_000_000, 0, 0, 0, 0, 1_800_000, 0, 0, 0, 0];
        assert_eq!(states(&broken), [true; 10]);
        broken.push(0);
        assert_eq!(states(&broken)[10..], [false]);
    }

    #[test]
    fn above_the_threshold_while_open_begins_anew() {
        let rates = [3_000_000, 0, 0, 0, 0, 3_000_000, 0, 0, 0, 0, 0, 2_999_999, 3_000_000];
        let open = [true, true, true, true, true, true, true, true, true, true, false, false, true];
        assert_eq!(states(&rates), open);
    }

    #[test]
    fn between_quiet_and_threshold_nothing_changes() {
        assert_eq!(states(&[2_500_000; 20]), [false; 20]);
        let mut rates = vec![2_500_000; 20];
        rates[0] = 3_000_000;
        assert_eq!(states(&rates), [true; 20]);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let settings =
            BreakerSettings { threshold_mbps: u32::MAX, limit_mbps: u32::MAX / 2, interval_ns: u64::MAX };
        let mut breaker = Breaker::new(settings);
        assert!(!breaker.end_interval(0, 0));
        assert!(breaker.end_interval(u64::MAX, 1));
        assert!(breaker.end_interval(u64::MAX, 0), "no time tells nothing");
        for quiet in 1..=5 {
            assert_eq!(breaker.end_interval(0, u64::MAX), quiet < 5);
        }
    }
}
