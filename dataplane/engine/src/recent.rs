//! Who sent the most in the last seconds? The rows of seconds of a worker's metrics, kept for a minute by who drains them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sluice_model::{MetricsKey, MetricsRecord, Period};

/// Seconds that are kept.
const SECONDS: usize = 68;
/// Rows that are kept, of all seconds together, for each row of the table of metrics: 15 MB with its usual 65,536. Of more
/// the oldest seconds go.
const ROWS_PER_ROW: usize = 2;

/// What was counted for a key in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentRow {
    /// What it is about; `None` = all that found no place in the table.
    pub key: Option<MetricsKey>,
    /// Packets that the client sent, and the server.
    pub packets: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
    /// Flows that began.
    pub new_flows: u32,
    /// Retransmissions of both.
    pub retransmissions: u32,
}

/// The rows of one second.
#[derive(Clone, Debug, Default)]
struct Second {
    begin_s: u32,
    rows: Vec<RecentRow>,
}

/// The latest seconds, ascending.
#[derive(Debug, Default)]
struct Seconds {
    kept: VecDeque<Second>,
    rows: usize,
    /// Seconds before this one are not whole any more.
    whole_from_s: u32,
}

/// The latest rows of one worker; by default none are kept.
#[derive(Debug, Default)]
pub struct RecentMetrics {
    seconds: Mutex<Seconds>,
    most_rows: usize,
}

impl RecentMetrics {
    /// Of a worker whose table of metrics has so many rows.
    #[must_use]
    pub fn new(table_rows: u32) -> Self {
        Self { seconds: Mutex::default(), most_rows: table_rows as usize * ROWS_PER_ROW }
    }

    /// What it takes at most, in bytes: vectors that grow are up to half empty.
    #[must_use]
    pub const fn most_bytes(table_rows: u32) -> u64 {
        2 * (table_rows as usize * ROWS_PER_ROW * size_of::<RecentRow>()) as u64
    }

    /// Keeps a row, if it is one of a second.
    pub fn add(&self, row: &MetricsRecord) {
        if row.period == Period::Second {
            self.lock().add(row.begin_s, RecentRow::new(row), self.most_rows);
        }
    }

    /// The latest second that there is a row of, seconds since the epoch.
    #[must_use]
    pub fn latest_s(&self) -> Option<u32> {
        Some(self.lock().kept.back()?.begin_s)
    }

    /// The first second from which on all rows are still there, seconds since the epoch.
    #[must_use]
    pub fn whole_from_s(&self) -> u32 {
        self.lock().whole_from_s
    }

    /// Hands the rows of these seconds to `take`.
    pub fn read(&self, seconds: std::ops::Range<u32>, take: impl FnMut(&RecentRow)) {
        let seconds_kept = self.lock();
        let wanted = seconds_kept.kept.iter().filter(|second| seconds.contains(&second.begin_s));
        wanted.flat_map(|second| &second.rows).for_each(take);
    }

    fn lock(&self) -> MutexGuard<'_, Seconds> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecentRow {
    fn new(row: &MetricsRecord) -> Self {
        let counters = &row.counters;
        Self {
            key: row.key,
            packets: [0, 1].map(|side| counters.sides[side].packets),
            bytes: [0, 1].map(|side| counters.sides[side].bytes),
            new_flows: counters.new_flows,
            retransmissions: counters.perf.sides[0].retrans + counters.perf.sides[1].retrans,
        }
    }
}

impl Seconds {
    fn add(&mut self, begin_s: u32, row: RecentRow, most_rows: usize) {
        // Rows come in the order of their seconds, nearly always.
        let place = self.kept.partition_point(|second| second.begin_s < begin_s);
        if self.kept.get(place).is_none_or(|second| second.begin_s != begin_s) {
            self.kept.insert(place, Second { begin_s, rows: Vec::new() });
        }
        if let Some(second) = self.kept.get_mut(place) {
            second.rows.push(row);
            self.rows += 1;
        }
        let latest_s = self.kept.back().map_or(begin_s, |second| second.begin_s);
        while let Some(first) = self.kept.front() {
            let is_old = first.begin_s.saturating_add(u32::try_from(SECONDS).unwrap_or(u32::MAX)) < latest_s;
            if !is_old && self.rows <= most_rows {
                break;
            }
            self.rows -= first.rows.len();
            self.whole_from_s = self.whole_from_s.max(first.begin_s.saturating_add(1));
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_seconds_go() {
        let mut kept = Seconds::default();
        for second in 100..110 {
            for _ in 0..10 {
                kept.add(second, RecentRow::default(), 45);
            }
        }
        assert_eq!((kept.rows, kept.whole_from_s, kept.kept.len()), (40, 106, 4));
        kept.add(500, RecentRow::default(), 45);
        assert_eq!((kept.rows, kept.whole_from_s, kept.kept.len()), (1, 110, 1));
        // What is late counts, too.
        kept.add(498, RecentRow::default(), 45);
        assert_eq!(kept.kept.iter().map(|second| second.begin_s).collect::<Vec<_>>(), [498, 500]);
    }
}
