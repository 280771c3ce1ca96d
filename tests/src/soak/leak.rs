//! Does a daemon take more and more? Its resources whenever it is at rest, over one life.

use std::fmt;
use std::time::Duration;

/// One look at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Since the life began.
    pub age: Duration,
    /// Resident memory.
    pub rss_kb: u64,
    /// Open descriptors.
    pub fds: u64,
    /// Threads.
    pub threads: u64,
    /// Packet buffers in use.
    pub mbufs: u64,
}

/// One of the numbers of a point.
type What = fn(&Point) -> u64;

/// From its start on, a daemon takes memory that it was promised (tables are written to as traffic comes, generations
/// are kept) for so long.
const WARM: Duration = Duration::from_secs(20);
/// It may take so much more from then on, once: pages of tables that are touched later, what allocators keep.
const ONCE_KB: u64 = 16 << 10;
/// And so much more an hour: what a long life may not exceed.
const HOURLY_KB: f64 = 64.0 * 1024.0;
/// So long a life tells a trend.
const TREND: Duration = Duration::from_secs(300);
/// Descriptors that come and go at rest: a Parquet file that is open or not, of four tables, and a capture file.
const FDS: u64 = 6;
/// Threads that come and go: those that an API lends to slow requests end ten seconds later.
const THREADS: u64 = 6;
/// Packet buffers at rest: of an ARP request that comes just then.
const MBUFS: u64 = 2;

/// What a daemon took from its start to its end.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Whenever it was at rest.
    pub points: Vec<Point>,
}

impl Life {
    /// The points after warming up.
    fn warm(&self) -> &[Point] {
        let warm = self.points.partition_point(|point| point.age < WARM);
        &self.points[warm.min(self.points.len())..]
    }

    /// What must not be: a leak; `None` = none.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        if last.fds > first.fds + FDS || last.threads > first.threads + THREADS {
            return Some(format!("descriptors or threads leak: {self}"));
        }
        if last.mbufs > first.mbufs + MBUFS {
            return Some(format!("packet buffers leak: {self}"));
        }
        let warm = self.warm();
        if let (Some(first), Some(last)) = (warm.first(), warm.last()) {
            let hours = last.age.saturating_sub(first.age).as_secs_f64() / 3600.0;
            let grown = last.rss_kb.saturating_sub(first.rss_kb);
            #[expect(clippy::cast_precision_loss, reason = "kB of memory")]
            if grown as f64 > ONCE_KB as f64 + HOURLY_KB * hours {
                return Some(format!("memory leaks: {self}"));
            }
        }
        let growth_kb = self.growth_kb().unwrap_or(0.0);
        (growth_kb > HOURLY_KB + trend_slack(warm)).then(|| format!("memory grows: {self}"))
    }

    /// How long it lasted, as far as it was looked at.
    #[must_use]
    pub fn lasted(&self) -> Duration {
        self.points.last().map_or(Duration::ZERO, |point| point.age)
    }

    /// First, last and largest of something.
    #[must_use]
    pub fn range(&self, what: What) -> [u64; 3] {
        let all = || self.points.iter().map(what);
        [all().next(), all().next_back(), all().max()].map(Option::unwrap_or_default)
    }

    /// kB of memory more in an hour by a straight line through the points after warming up; `None` = too short a life.
    #[must_use]
    pub fn growth_kb(&self) -> Option<f64> {
        slope_per_hour(self.warm(), |point| point.rss_kb)
    }
}

/// What is taken once may come late, and tilts a straight line.
fn trend_slack(points: &[Point]) -> f64 {
    let [Some(first), Some(last)] = [points.first(), points.last()] else { return 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "kB of memory")]
    let once_kb = ONCE_KB as f64;
    // A step in the midst of the points tilts the line by half as much again as the step over their time.
    1.5 * once_kb / (last.age.saturating_sub(first.age).as_secs_f64() / 3600.0).max(1e-9)
}

/// The slope of the straight line through the points, least squares; `None` = too short a time.
fn slope_per_hour(points: &[Point], what: What) -> Option<f64> {
    let time = points.last()?.age.saturating_sub(points.first()?.age);
    if time < TREND {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "kB of memory, counts of descriptors")]
    let pairs: Vec<_> =
        points.iter().map(|point| (point.age.as_secs_f64() / 3600.0, what(point) as f64)).collect();
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let count = pairs.len() as f64;
    let (mean_x, mean_y) =
        pairs.iter().fold((0.0, 0.0), |(x, y), pair| (x + pair.0 / count, y + pair.1 / count));
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in pairs {
        above += (x - mean_x) * (y - mean_y);
        below += (x - mean_x) * (x - mean_x);
    }
    Some(above / below)
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {:.0?}, first, last, most:", self.lasted())?;
        let whats: [(&str, What); 4] = [
            ("kB", |point| point.rss_kb),
            ("descriptors", |point| point.fds),
            ("threads", |point| point.threads),
            ("mbufs", |point| point.mbufs),
        ];
        for (name, what) in whats {
            let [first, last, most] = self.range(what);
            write!(f, " {first} {last} {most} {name};")?;
        }
        if let Some(growth_kb) = self.growth_kb() {
            write!(f, " {growth_kb:+.0} kB an hour")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A life of an hour, with a point every ten seconds.
    fn life(rss_kb: impl Fn(u64) -> u64, fds: impl Fn(u64) -> u64) -> Life {
        let point = |at: u64| Point {
            age: Duration::from_secs(10 * at),
            rss_kb: rss_kb(at),
            fds: fds(at),
            threads: 20,
            mbufs: 0,
        };
        Life { points: (0..360).map(point).collect() }
    }

    #[test]
    fn leaks_are_told_from_what_settles() {
        let steady = life(|at| 200_000 + at % 7 * 300, |at| 40 + at % 4);
        assert_eq!(steady.fault(), None);
        assert!(steady.growth_kb().unwrap().abs() < 500.0, "{steady}");
        // Warming up, and a step later on.
        assert_eq!(life(|at| if at < 2 { 90_000 } else { 200_000 }, |_| 40).fault(), None);
        assert_eq!(life(|at| if at < 200 { 200_000 } else { 212_000 }, |_| 40).fault(), None);
        // 100 kB for every point, and a descriptor for every sixth.
        let leaks = life(|at| 200_000 + 400 * at, |_| 40);
        assert!((leaks.growth_kb().unwrap() - 144_000.0).abs() < 1.0, "{leaks}");
        assert!(leaks.fault().unwrap().contains("memory leaks"));
        assert!(life(|_| 200_000, |at| 40 + at / 6).fault().unwrap().contains("descriptors"));
        assert_eq!(Life::default().fault(), None);
    }
}
