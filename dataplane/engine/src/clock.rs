//! What time is it? The TSC, calibrated against CLOCK_REALTIME by the control thread.
//!
//! Workers read the clock once per burst. Within a worker it never runs backwards: a step of the system clock moves the
//! rate, not the time, until both agree again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dpdk::Tsc;

/// How far off the clock may be before it jumps forward instead of being slewed, nanoseconds.
const STEP_NS: u64 = 1_000_000_000;
/// The most that the rate is bent to follow the system clock: one part in 2^11, about 500 ppm, as adjtime does.
const SLEW_SHIFT: u32 = 11;
/// How long the rate of the TSC is measured: both clocks are read together to some tenth of a microsecond, parts per
/// million of this.
const MEASURE: Duration = Duration::from_millis(50);
/// Fixed-point bits of a rate.
pub(crate) const SHIFT: u32 = 32;

/// Reads another clock and the TSC together: of several readings the one that the least came between. `None` = it could not
/// be read.
pub(crate) fn with_tsc<T>(read_other: impl Fn() -> Option<T>) -> Option<(u64, T)> {
    let read = |_| {
        let (before, other, after) = (Tsc::now().0, read_other()?, Tsc::now().0);
        let width = after.saturating_sub(before);
        Some((width, (before + width / 2, other)))
    };
    (0..16).filter_map(read).min_by_key(|(width, _)| *width).map(|(_, moment)| moment)
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    tsc: u64,
    at: Instant,
}

impl Moment {
    fn now() -> Self {
        let (tsc, at) = with_tsc(|| Some(Instant::now())).unwrap_or_else(|| (Tsc::now().0, Instant::now()));
        Self { tsc, at }
    }
}

/// Measures the rate of the TSC against the kernel's clock.
///
/// Where the processor does not tell the rate, as those of AMD do not, DPDK rounds what it measures to 10 MHz
/// (`rte_get_tsc_hz`, 22.11): up to 0.2 % off, which is more than the clock is slewed, so that it would lag and jump.
#[derive(Clone, Copy, Debug)]
pub struct TscRate(Moment);

impl TscRate {
    /// Begins to measure.
    #[must_use]
    pub fn begin() -> Self {
        Self(Moment::now())
    }

    /// The rate since then, Hz; waits until it was measured for long enough.
    #[must_use]
    pub fn hz(&self) -> u64 {
        std::thread::sleep(MEASURE.saturating_sub(self.0.at.elapsed()));
        let end = Moment::now();
        let span_ns = end.at.duration_since(self.0.at).as_nanos().max(1);
        let cycles = u128::from(end.tsc.saturating_sub(self.0.tsc));
        u64::try_from(cycles * 1_000_000_000 / span_ns).unwrap_or(u64::MAX)
    }
}

/// What one clock shows by the readings of another: a moment by both, and a rate from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The reading of the one that is read.
    pub(crate) from: u64,
    /// What the other one shows then.
    pub(crate) to: u64,
    /// By how much that moves on for each count, times 2^32.
    pub(crate) rate: u64,
}

/// A [`Line`] that one thread changes and others read, who take part in a sequence lock and never wait for long.
#[derive(Debug)]
pub(crate) struct LineCell {
    sequence: AtomicU64,
    from: AtomicU64,
    to: AtomicU64,
    rate: AtomicU64,
}

impl LineCell {
    /// A cell with this line.
    pub(crate) fn new(line: Line) -> Self {
        let [from, to, rate] = [line.from, line.to, line.rate].map(AtomicU64::new);
        Self { sequence: AtomicU64::new(0), from, to, rate }
    }

    /// The line as it is now.
    #[inline]
    pub(crate) fn get(&self) -> Line {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let line = Line {
                from: self.from.load(Ordering::Relaxed),
                to: self.to.load(Ordering::Relaxed),
                rate: self.rate.load(Ordering::Relaxed),
            };
            std::sync::atomic::fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                return line;
            }
        }
    }

    /// Replaces the line; only one thread does.
    pub(crate) fn set(&self, line: Line) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::Release);
        self.from.store(line.from, Ordering::Relaxed);
        self.to.store(line.to, Ordering::Relaxed);
        self.rate.store(line.rate, Ordering::Relaxed);
        self.sequence.store(sequence + 2, Ordering::Release);
    }
}

/// A calibrated clock (control: w, workers: r).
#[derive(Debug)]
pub struct Clock {
    /// Nanoseconds since the epoch by the TSC, from the last calibration on.
    line: LineCell,
    /// The rate before any slewing.
    nominal_rate: u64,
    /// TSC when the clock was made.
    start_tsc: u64,
    /// Calibrations in which the system clock had moved by more than a slew can follow at once.
    steps: AtomicU64,
    /// The last difference from the system clock, nanoseconds.
    error_ns: AtomicU64,
}

fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Clock {
    /// A clock that is right now; `tsc_hz` is the rate of the TSC.
    #[must_use]
    pub fn new(tsc_hz: u64) -> Self {
        let nominal_rate = (1_000_000_000_u64 << SHIFT) / tsc_hz.max(1_000_000);
        let start_tsc = Tsc::now().0;
        Self {
            line: LineCell::new(Line { from: start_tsc, to: realtime_ns(), rate: nominal_rate }),
            start_tsc,
            nominal_rate,
            steps: AtomicU64::new(0),
            error_ns: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the clock was made: no step of the system clock moves it. For timers.
    #[must_use]
    pub fn monotonic_ns(&self, tsc: Tsc) -> u64 {
        self.span_ns(tsc.0.saturating_sub(self.start_tsc))
    }

    /// Nanoseconds that so many cycles of the TSC take.
    #[inline]
    #[must_use]
    pub fn span_ns(&self, cycles: u64) -> u64 {
        scale(cycles, self.nominal_rate)
    }

    /// Nanoseconds since the epoch at `tsc`.
    #[inline]
    #[must_use]
    pub fn now_ns(&self, tsc: Tsc) -> u64 {
        let Line { from, to, rate } = self.line.get();
        to + scale(tsc.0.saturating_sub(from), rate)
    }

    /// Compares with the system clock and bends the rate; called about once a second by the control thread.
    pub fn calibrate(&self) {
        let tsc = Tsc::now();
        let system = realtime_ns();
        self.calibrate_at(tsc, system);
    }

    fn calibrate_at(&self, tsc: Tsc, system_ns: u64) {
        let own_ns = self.now_ns(tsc);
        let error = own_ns.abs_diff(system_ns);
        self.error_ns.store(error, Ordering::Relaxed);
        let mut base_ns = own_ns;
        let mut rate = self.nominal_rate;
        if error > STEP_NS {
            self.steps.fetch_add(1, Ordering::Relaxed);
        }
        // As much as would close the gap within a second, but no more than a slew may.
        let wanted = u128::from(rate) * u128::from(error) / 1_000_000_000;
        let bend = u64::try_from(wanted).unwrap_or(u64::MAX).min(rate >> SLEW_SHIFT);
        if system_ns > own_ns {
            if error > STEP_NS {
                // Forward is safe: time does not run backwards by it.
                base_ns = system_ns;
            } else {
                rate += bend;
            }
        } else {
            rate -= bend;
        }
        self.line.set(Line { from: tsc.0, to: base_ns, rate });
    }

    /// How often the system clock was found more than a second away, and the last difference in nanoseconds.
    #[must_use]
    pub fn quality(&self) -> (u64, u64) {
        (self.steps.load(Ordering::Relaxed), self.error_ns.load(Ordering::Relaxed))
    }
}

/// By how much a clock moves on for so many counts of another, at a rate times 2^32.
#[inline]
pub(crate) fn scale(cycles: u64, rate: u64) -> u64 {
    let product = (u128::from(cycles) * u128::from(rate)) >> SHIFT;
    u64::try_from(product).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_keeps_up_with_the_system_clock() {
        let [rate, again] = [TscRate::begin().hz(), TscRate::begin().hz()];
        assert!(rate.abs_diff(again) < rate / 10_000, "{rate} and {again} Hz");
        let clock = Clock::new(rate);
        // Whatever comes between reading one clock and the other counts as an error: the least of some is told.
        let errors = (0..20).map(|_| {
            std::thread::sleep(Duration::from_millis(50));
            clock.calibrate();
            clock.quality().1
        });
        let last = errors.skip(10).min();
        assert!(last.is_some_and(|error| error < 200_000), "{last:?} ns off");
    }

    #[test]
    fn never_runs_backwards_and_follows_a_step() {
        let hz = 1_000_000_000;
        let clock = Clock::new(hz);
        let Line { from: start_tsc, to: start_ns, .. } = clock.line.get();
        let mut last = start_ns;
        // The system clock is set back by 200 ms after five seconds, and forward by ten seconds after 30.
        let mut offset: i64 = 0;
        for second in 1..=1000_u64 {
            if second == 5 {
                offset = -200_000_000;
            }
            if second == 900 {
                offset += 10_000_000_000;
            }
            let tsc = Tsc(start_tsc + second * hz);
            let now = clock.now_ns(tsc);
            assert!(now >= last, "second {second}: {now} < {last}");
            last = now;
            let system = start_ns + second * 1_000_000_000;
            clock.calibrate_at(tsc, system.checked_add_signed(offset).unwrap());
            if second == 899 || second == 1000 {
                let error = clock.quality().1;
                assert!(error < 1_000, "second {second}: still {error} ns off");
            }
        }
        assert_eq!(clock.quality().0, 1);
    }
}
