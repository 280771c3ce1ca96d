//! By which port did the first copy of a duplicate come, and by which the second?

use sluice_model::PortId;

use crate::counters::Counter;

/// Ports with rows of their own; in a larger system the last row is that of all further ports together.
pub const MAX_ROWS: usize = 64;

/// Counters of one pair of ports (worker: w, control: r).
#[derive(Debug, Default)]
struct PairCounters {
    packets: Counter,
    bytes: Counter,
}

/// The duplicates of one worker by ports: a square of bounded size.
#[derive(Debug)]
pub struct PortPairs {
    ports: usize,
    rows: usize,
    pairs: Box<[PairCounters]>,
}

/// The duplicates of one pair of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairTotals {
    /// Where the first copy came in; `None` = one of the ports that have no row of their own.
    pub first: Option<PortId>,
    /// Where the duplicate came in; `None` likewise.
    pub second: Option<PortId>,
    /// Duplicates.
    pub packets: u64,
    /// Their original lengths in bytes.
    pub bytes: u64,
}

impl PortPairs {
    /// Zeroed counters for `ports` ports.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        let rows = ports.clamp(1, MAX_ROWS);
        Self { ports, rows, pairs: std::iter::repeat_with(PairCounters::default).take(rows * rows).collect() }
    }

    /// Counts a duplicate of `bytes`.
    #[inline]
    pub fn add(&self, first: usize, second: usize, bytes: u64) {
        let (first, second) = (first.min(self.rows - 1), second.min(self.rows - 1));
        if let Some(pair) = self.pairs.get(first * self.rows + second) {
            pair.packets.add(1);
            pair.bytes.add(bytes);
        }
    }

    /// The sums over all workers of the pairs that have any, by first and second port.
    #[must_use]
    pub fn totals(workers: &[&Self]) -> Vec<PairTotals> {
        let Some(one) = workers.first() else { return Vec::new() };
        let port = |row| {
            let shared = one.ports > MAX_ROWS && row == one.rows - 1;
            u16::try_from(row).ok().filter(|_| !shared).map(PortId)
        };
        let mut totals = Vec::new();
        for index in 0..one.pairs.len() {
            let (mut packets, mut bytes) = (0, 0);
            for pair in workers.iter().filter_map(|worker| worker.pairs.get(index)) {
                packets += pair.packets.get();
                bytes += pair.bytes.get();
            }
            if packets > 0 {
                let (first, second) = (port(index / one.rows), port(index % one.rows));
                totals.push(PairTotals { first, second, packets, bytes });
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_without_a_row_share_the_last_one() {
        let (a, b) = (PortPairs::new(100), PortPairs::new(100));
        a.add(0, 1, 60);
        a.add(62, 63, 70);
        b.add(0, 1, 5);
        b.add(255, 99, 80);
        let total = |first: Option<u16>, second: Option<u16>, packets, bytes| PairTotals {
            first: first.map(PortId),
            second: second.map(PortId),
            packets,
            bytes,
        };
        let expected =
            [total(Some(0), Some(1), 2, 65), total(Some(62), None, 1, 70), total(None, None, 1, 80)];
        assert_eq!(PortPairs::totals(&[&a, &b]), expected);
        let small = PortPairs::new(2);
        small.add(1, 1, 9);
        assert_eq!(PortPairs::totals(&[&small]), [total(Some(1), Some(1), 1, 9)]);
    }
}
