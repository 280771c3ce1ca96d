//! When did a NIC receive a packet? Its own clock, measured against the TSC by the control thread.
//!
//! A driver stamps in ticks whose rate and epoch it does not tell, and lets the clock be read (DPDK's rte_mbuf_dyn.h and
//! rte_ethdev.h). Both are steady oscillators, so a line from one reading to the next says
//! which TSC belongs to a stamp; how old a packet is by the TSC is taken off the time of its batch. So stamps are of the
//! same clock as everything else here, whatever the system clock does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use dpdk::{Mbuf, Port, PortError, RxTimestampField, Tsc};

use crate::batch::RxInfo;
use crate::clock::{Clock, Line, LineCell, SHIFT, scale, with_tsc};

/// How long the rate is measured at the start; each second after that it is measured anew, over that second.
const MEASURE: Duration = Duration::from_millis(20);
/// How old a packet may be when it is taken from its queue, nanoseconds: longer, and the stamp is not believed.
const MAX_AGE_NS: u64 = 1_000_000_000;
/// How far ahead a stamp may be, nanoseconds: the clocks are compared to some microseconds.
const MAX_AHEAD_NS: u64 = 1_000_000;
/// So few packets do not show whether stamps are believable.
const FEW_PACKETS: u64 = 16;
/// How far a stamp may be from the last reading, cycles of the TSC: decades, far enough from where sums wrap around.
const MAX_CYCLES: u64 = 1 << 62;
/// Rates of two measurements differ by one part in so many, at most: else the clock was set in between.
const STEADY: u64 = 1_000;

/// Why the clock of a NIC cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NicClockError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] PortError),
    /// It does not move.
    #[error("the clock of the device stands still")]
    Still,
}

/// What a new reading of the clock has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicClockNews {
    /// It was set since the last one, or measured badly.
    Set,
    /// Most packets since then have no believable stamp.
    Blind,
    /// They have again.
    Seeing,
}

/// The clock of a NIC by the TSC (control: w, workers: r).
#[derive(Debug)]
pub struct NicClock {
    field: RxTimestampField,
    /// The TSC by the ticks of the device, from the last reading on.
    line: LineCell,
    /// Packets that were stamped, and that were not, or not believably. Workers write here, and only read the rest.
    counts: CachePadded<[AtomicU64; 2]>,
    /// Of the control thread alone.
    seen: Mutex<Seen>,
}

/// What the control thread saw so far.
#[derive(Debug, Default)]
struct Seen {
    /// The rate of the last interval, if it was refused.
    refused: Option<u64>,
    counts: [u64; 2],
    is_blind: bool,
}

/// Both clocks at one moment.
fn read(port: &Port) -> Result<(u64, u64), PortError> {
    let ticks = port.clock()?;
    // A reading that fails is over sooner than any other.
    let best = with_tsc(|| port.clock().ok());
    Ok(best.map_or_else(|| (ticks, Tsc::now().0), |(tsc, ticks)| (ticks, tsc)))
}

/// Cycles of the TSC for each tick, times 2^32, between two readings; `None` = the ticks do not go forward.
fn rate_between(before: (u64, u64), after: (u64, u64)) -> Option<u64> {
    let ticks = after.0.wrapping_sub(before.0);
    let cycles = u128::from(after.1.saturating_sub(before.1));
    if ticks == 0 || ticks > u64::MAX / 2 {
        return None;
    }
    u64::try_from((cycles << SHIFT) / u128::from(ticks)).ok()
}

/// The line that goes on from a new reading. Where the clock was set in between it keeps its rate, and that of the
/// interval, refused, is given out, 0 if there is none. Two intervals after one another that agree are right: then what
/// was believed so far was measured badly.
fn line_to(last: Line, refused: Option<u64>, now: (u64, u64)) -> (Line, Option<u64>) {
    let line = |rate| Line { from: now.0, to: now.1, rate };
    let Some(rate) = rate_between((last.from, last.to), now) else { return (line(last.rate), Some(0)) };
    let is_near = |other: u64| rate.abs_diff(other) <= other / STEADY;
    if is_near(last.rate) || refused.is_some_and(is_near) {
        (line(rate), None)
    } else {
        (line(last.rate), Some(rate))
    }
}

impl NicClock {
    /// Measures the clock of a started port, which stamps into this field. Takes some hundredths of a second.
    pub fn measure(port: &Port, field: RxTimestampField) -> Result<Self, NicClockError> {
        let before = read(port)?;
        std::thread::sleep(MEASURE);
        let after = read(port)?;
        let rate = rate_between(before, after).ok_or(NicClockError::Still)?;
        let line = LineCell::new(Line { from: after.0, to: after.1, rate });
        Ok(Self { field, line, counts: CachePadded::default(), seen: Mutex::default() })
    }

    /// Reads the clock anew; about once a second by the control thread. A device that is gone changes nothing.
    pub fn calibrate(&self, port: &Port) -> Vec<NicClockNews> {
        let Ok(now) = read(port) else { return Vec::new() };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (line, refused) = line_to(self.line.get(), seen.refused, now);
        self.line.set(line);
        seen.refused = refused;
        let mut news = Vec::from_iter(refused.map(|_| NicClockNews::Set));
        news.extend(seen.look([0, 1].map(|which: usize| self.counts[which].load(Ordering::Relaxed))));
        news
    }

    /// Packets that were not stamped, or whose stamp is not believable, so far.
    #[must_use]
    pub fn unstamped(&self) -> u64 {
        self.counts[1].load(Ordering::Relaxed)
    }

    /// Replaces the times of packets of one queue, just taken from it, by those of the NIC; `last_ns` is the latest so far,
    /// before which no other one is. What has no believable stamp keeps the time it has. A call for each batch: it is to
    /// cost nothing where nothing is stamped.
    #[inline(never)]
    pub(super) fn stamp<'m>(
        &self,
        packets: impl Iterator<Item = (&'m mut RxInfo, &'m Mbuf)>,
        clock: &Clock,
        last_ns: &mut u64,
    ) {
        let line = self.line.get();
        // Anew: since the queue was looked at the thread may have waited for its core, while packets came.
        let now = Tsc::now();
        let now_ns = clock.now_ns(now);
        let (mut stamped, mut unstamped) = (0, 0);
        for (info, mbuf) in packets {
            let age_ns = mbuf.rx_timestamp(self.field).and_then(|ticks| age_ns(line, ticks, clock, now));
            if let Some(age_ns) = age_ns {
                *last_ns = now_ns.saturating_sub(age_ns).max(*last_ns);
                info.timestamp_ns = *last_ns;
                stamped += 1;
            } else {
                unstamped += 1;
            }
        }
        for (count, packets) in self.counts.iter().zip([stamped, unstamped]) {
            if packets > 0 {
                count.fetch_add(packets, Ordering::Relaxed);
            }
        }
    }
}

impl Seen {
    /// Looks at the counts: did what most packets have change?
    fn look(&mut self, counts: [u64; 2]) -> Option<NicClockNews> {
        let [stamped, unstamped] = [0, 1].map(|which: usize| counts[which] - self.counts[which]);
        if stamped + unstamped < FEW_PACKETS {
            // The next look has these, too.
            return None;
        }
        self.counts = counts;
        let is_blind = unstamped > stamped;
        let was_blind = std::mem::replace(&mut self.is_blind, is_blind);
        (is_blind != was_blind).then_some(if is_blind { NicClockNews::Blind } else { NicClockNews::Seeing })
    }
}

/// How old a stamp is at `now`, nanoseconds; `None` = that is not to be believed.
#[inline]
fn age_ns(line: Line, ticks: u64, clock: &Clock, now: Tsc) -> Option<u64> {
    let since = ticks.wrapping_sub(line.from).cast_signed();
    let cycles = scale(since.unsigned_abs(), line.rate);
    if cycles > MAX_CYCLES {
        return None;
    }
    let stamped = if since < 0 { line.to.wrapping_sub(cycles) } else { line.to.wrapping_add(cycles) };
    let age = now.0.wrapping_sub(stamped).cast_signed();
    let age_ns = clock.span_ns(age.unsigned_abs());
    if age < 0 { (age_ns <= MAX_AHEAD_NS).then_some(0) } else { (age_ns <= MAX_AGE_NS).then_some(age_ns) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The TSC at 2.6 GHz.
    const TSC_HZ: u64 = 2_600_000_000;

    fn clock() -> Clock {
        Clock::new(TSC_HZ)
    }

    proptest! {
        #[test]
        fn stamps_of_any_rate_and_epoch_tell_the_age(
            hz in 1_000_000..10_000_000_000_u64,
            epoch: u64,
            tsc in 0..1_u64 << 60,
            stamped_us in 0..1_000_000_u64,
            taken_us in 0..900_000_u64,
        ) {
            // Both counters as they are, by definition, at so many microseconds after a moment.
            let ticks = |us: u64| epoch.wrapping_add(u64::try_from(u128::from(hz) * u128::from(us) / 1_000_000).unwrap());
            let cycles = |us: u64| tsc + TSC_HZ / 1_000_000 * us;
            let moment = |us| (ticks(us), cycles(us));
            let rate = rate_between(moment(0), moment(20_000)).unwrap();
            let first = Line { from: ticks(20_000), to: cycles(20_000), rate };
            let (line, refused) = line_to(first, None, moment(500_000));
            prop_assert_eq!(refused, None);
            let now = Tsc(cycles(stamped_us + taken_us));
            let age = age_ns(line, ticks(stamped_us), &clock(), now).unwrap();
            // A tick more or less, in what is extrapolated and in what was measured.
            let tick_ns = 1_000_000_000 / hz + 1;
            prop_assert!(age.abs_diff(taken_us * 1_000) <= 2 * tick_ns + 2, "{age} ns, not {taken_us} us");
        }

        #[test]
        fn a_stamp_is_believed_where_its_age_is_credible(
            from: u64,
            to in 0..1_u64 << 62,
            rate in prop_oneof![any::<u64>(), 0..1_u64 << 40],
            since in prop_oneof![any::<i64>(), -10_000_000_000..10_000_000_000_i64],
            later in 0..10_000_000_000_u64,
        ) {
            let line = Line { from, to, rate };
            let (ticks, now) = (from.wrapping_add_signed(since), to + later);
            // The same without any limit of widths.
            let cycles = (i128::from(since).abs() * i128::from(rate)) >> SHIFT;
            let stamped = i128::from(to) + i128::from(since).signum() * cycles;
            let age = (i128::from(now) - stamped) * 1_000_000_000 / i128::from(TSC_HZ);
            match age_ns(line, ticks, &clock(), Tsc(now)) {
                Some(told) => prop_assert!((age.max(0) - i128::from(told)).abs() <= 2, "{told}, not {age}"),
                None => prop_assert!(!(2 - i128::from(MAX_AHEAD_NS)..i128::from(MAX_AGE_NS) - 2).contains(&age), "{age}"),
            }
            let (after, refused) = line_to(line, None, (ticks, now));
            prop_assert!(after.rate.abs_diff(rate) <= rate / STEADY);
            prop_assert!(refused.is_none() || after.rate == rate);
        }
    }

    #[test]
    fn what_is_too_old_or_ahead_is_not_believed() {
        // A clock of nanoseconds, as those for PTP are.
        let line = Line {
            from: 7_000_000_000,
            to: TSC_HZ,
            rate: rate_between((0, 0), (1_000_000_000, TSC_HZ)).unwrap(),
        };
        let age = |ticks| age_ns(line, ticks, &clock(), Tsc(TSC_HZ));
        assert_eq!(age(7_000_000_000), Some(0));
        assert!(age(6_999_000_000).is_some_and(|ns| ns.abs_diff(1_000_000) < 3), "a millisecond");
        assert_eq!(age(7_000_900_000), Some(0), "ahead by what the comparison may be off");
        assert_eq!(age(7_002_000_000), None);
        assert_eq!(age(5_900_000_000), None);
        assert_eq!(age(0), None);
    }

    #[test]
    fn a_clock_that_is_set_keeps_its_rate() {
        let rate = rate_between((0, 0), (1_000_000_000, TSC_HZ)).unwrap();
        let line = Line { from: 1_000_000_000, to: TSC_HZ, rate };
        // By PTP: an hour ahead, an hour back.
        for ticks in [3_602_000_000_000, u64::MAX - 3_598_000_000_000] {
            let (set, refused) = line_to(line, None, (ticks, 2 * TSC_HZ));
            assert_eq!(set, Line { from: ticks, to: 2 * TSC_HZ, rate });
            assert!(refused.is_some(), "which is told");
        }
        // Slewed by 200 ppm: that is followed.
        let (slewed, refused) = line_to(line, None, (2_000_200_000, 2 * TSC_HZ));
        assert!(slewed.rate < rate && rate - slewed.rate < rate / 4_000 && refused.is_none());
    }

    #[test]
    fn a_rate_that_was_measured_badly_is_mended() {
        let rate = rate_between((0, 0), (1_000_000_000, TSC_HZ)).unwrap();
        let mut last = (Line { from: 0, to: 0, rate: rate + rate / 100 }, None);
        for second in 1..=2 {
            last = line_to(last.0, last.1, (second * 1_000_000_000, second * TSC_HZ));
            assert_eq!(last.1.is_some(), second == 1);
        }
        assert_eq!(last.0.rate, rate);
        // Set twice by different times: no two intervals agree.
        for ticks in [12_000_000_000, 33_000_000_000] {
            last = line_to(last.0, last.1, (ticks, last.0.to + TSC_HZ));
            assert!(last.1.is_some() && last.0.rate == rate);
        }
    }

    #[test]
    fn that_most_packets_are_not_stamped_is_told_once() {
        let mut seen = Seen::default();
        let news = [[0, 3], [0, 15], [0, 16], [0, 900], [0, 905], [9, 915], [80, 920], [200, 920]]
            .map(|counts| seen.look(counts));
        let [blind, seeing] = [NicClockNews::Blind, NicClockNews::Seeing].map(Some);
        assert_eq!(news, [None, None, blind, None, None, None, seeing, None]);
    }

    #[test]
    fn a_clock_that_stands_still_has_no_rate() {
        assert_eq!(rate_between((5, 0), (5, TSC_HZ)), None);
        assert_eq!(rate_between((5, 0), (4, TSC_HZ)), None);
    }
}
