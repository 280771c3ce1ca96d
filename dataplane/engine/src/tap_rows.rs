//! How much came from each tap?

use crate::counters::Counter;

/// The counters of one tap (worker: w, control: r).
#[derive(Debug, Default)]
struct TapCounters {
    packets: Counter,
    bytes: Counter,
    duplicates: Counter,
}

/// The counters of one worker by tap: a row for each tap that has a name, and one for all others together.
#[derive(Debug)]
pub struct TapRows {
    rows: Box<[TapCounters]>,
}

/// What came from one tap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapTotals {
    /// Its name; `(others)` = the taps that have none, together.
    pub name: String,
    /// Packets that came from it.
    pub packets: u64,
    /// Their original lengths in bytes, with the marks that were on them.
    pub bytes: u64,
    /// Those of them that were seen before within the deduplication window, from this tap or another.
    pub duplicates: u64,
}

impl TapRows {
    /// The name of the row of all taps that have none; no tap can have it.
    pub const OTHERS: &str = "(others)";

    /// Zeroed counters for `taps` taps with names.
    #[must_use]
    pub fn new(taps: usize) -> Self {
        Self { rows: std::iter::repeat_with(TapCounters::default).take(taps + 1).collect() }
    }

    /// Counts a packet of `bytes`.
    #[inline]
    pub fn received(&self, row: usize, bytes: u32) {
        if let Some(row) = self.rows.get(row) {
            row.packets.add(1);
            row.bytes.add(bytes.into());
        }
    }

    /// Counts a packet as a duplicate.
    #[inline]
    pub fn duplicate(&self, row: usize) {
        if let Some(row) = self.rows.get(row) {
            row.duplicates.add(1);
        }
    }

    /// The sums over all workers, in the order of `names`, the others last.
    #[must_use]
    pub fn totals<'a>(workers: &[&Self], names: impl Iterator<Item = &'a str>) -> Vec<TapTotals> {
        let total = |(row, name): (usize, &str)| {
            let mut total = TapTotals { name: name.to_owned(), ..TapTotals::default() };
            for counters in workers.iter().filter_map(|worker| worker.rows.get(row)) {
                total.packets += counters.packets.get();
                total.bytes += counters.bytes.get();
                total.duplicates += counters.duplicates.get();
            }
            total
        };
        if workers.is_empty() {
            return Vec::new();
        }
        names.chain([Self::OTHERS]).enumerate().map(total).collect()
    }
}
