//! Which numbered tunnels come in, and what is missing of each, as anyone may read it while the worker counts.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use sluice_core::decap::{Bits, LossCounts, LossMeter, SequenceCounts, TunnelKey};
use sluice_core::wire::TunnelHeader;

/// Words of a key and of its counts.
const KEY_WORDS: usize = 3;
const COUNT_WORDS: usize = 9;

/// Kinds of tunnels that may be numbered.
const NUMBERED: [TunnelHeader; 5] = [
    TunnelHeader::Vxlan,
    TunnelHeader::Gre,
    TunnelHeader::GreTeb,
    TunnelHeader::Erspan2,
    TunnelHeader::Erspan3,
];

/// One numbered tunnel, over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelTotals {
    /// The outer source address.
    pub source: IpAddr,
    /// The kind of tunnel.
    pub kind: TunnelHeader,
    /// VNI, GRE key or ERSPAN session.
    pub id: u32,
    /// Packets received, those that came twice included.
    pub received: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// Packets whose number had come before.
    pub duplicates: u64,
    /// How often the sender began to count anew.
    pub restarts: u64,
}

/// The rows of one worker's [`LossMeter`], published (worker: w, others: r). Each word is read on its own: the counts of
/// a row may be a packet apart.
#[derive(Debug)]
pub struct TunnelRows {
    used: AtomicUsize,
    refused: AtomicU64,
    rows: Box<[[AtomicU64; KEY_WORDS + COUNT_WORDS]]>,
}

impl TunnelRows {
    /// Rows for a meter of so many.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let row = || [const { AtomicU64::new(0) }; KEY_WORDS + COUNT_WORDS];
        Self {
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            rows: std::iter::repeat_with(row).take(capacity).collect(),
        }
    }

    /// Makes one row of `meter` visible. Only the owning worker may call this.
    #[inline]
    pub fn publish(&self, meter: &LossMeter, row: usize) {
        let (Some(cells), Some((key, counts))) = (self.rows.get(row), meter.row(row)) else { return };
        let words = key.words().into_iter().chain(count_words(&counts.0));
        for (cell, word) in cells.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        if self.used.load(Ordering::Relaxed) < meter.len() {
            // After the words of the new row, so that nobody reads a row without its key.
            self.used.store(row + 1, Ordering::Release);
        }
    }

    /// Makes the number of packets visible for which the table was full.
    #[inline]
    pub fn publish_refused(&self, meter: &LossMeter) {
        self.refused.store(meter.refused(), Ordering::Relaxed);
    }

    fn read(&self) -> impl Iterator<Item = (TunnelKey, LossCounts)> {
        let used = self.used.load(Ordering::Acquire);
        self.rows.iter().take(used).filter_map(|cells| {
            let word = |at: usize| cells.get(at).map_or(0, |cell| cell.load(Ordering::Relaxed));
            let key = key_of([word(0), word(1), word(2)])?;
            let counts = std::array::from_fn(|at| word(KEY_WORDS + at));
            Some((key, LossCounts(counts_of(counts))))
        })
    }
}

/// The tunnels of all workers, by source, kind and id; and the packets for which their tables were full.
#[must_use]
pub fn tunnel_totals(workers: &[&TunnelRows]) -> (Vec<TunnelTotals>, u64) {
    let mut rows: Vec<(TunnelKey, LossCounts)> = workers.iter().flat_map(|rows| rows.read()).collect();
    rows.sort_by_key(|(key, _)| *key);
    let mut totals: Vec<(TunnelKey, LossCounts)> = Vec::with_capacity(rows.len());
    for (key, counts) in rows {
        match totals.last_mut() {
            Some((known, sum)) if *known == key => sum.merge(&counts, bits(key.kind)),
            _ => totals.push((key, counts)),
        }
    }
    let refused = workers.iter().map(|rows| rows.refused.load(Ordering::Relaxed)).sum();
    (totals.iter().map(|(key, counts)| total(key, counts)).collect(), refused)
}

fn total(key: &TunnelKey, counts: &LossCounts) -> TunnelTotals {
    let [a, b, c, d, ..] = key.src_addr;
    TunnelTotals {
        source: if key.ipv4 { [a, b, c, d].into() } else { key.src_addr.into() },
        kind: key.kind,
        id: key.id,
        received: counts.0.received,
        lost: counts.lost(),
        reordered: counts.0.reordered,
        duplicates: counts.0.duplicates,
        restarts: counts.0.restarts,
    }
}

/// The numbers of VXLAN have 24 bits, the others are GRE's.
const fn bits(kind: TunnelHeader) -> Bits {
    if matches!(kind, TunnelHeader::Vxlan) { Bits::B24 } else { Bits::B32 }
}

fn key_of([low, high, rest]: [u64; KEY_WORDS]) -> Option<TunnelKey> {
    let kind = NUMBERED.into_iter().find(|&kind| kind as u64 == rest >> 32 & 0xff)?;
    Some(TunnelKey {
        src_addr: (u128::from(high) << 64 | u128::from(low)).to_le_bytes(),
        ipv4: rest >> 40 & 1 != 0,
        kind,
        id: u32::try_from(rest & u64::from(u32::MAX)).unwrap_or(0),
    })
}

fn count_words(counts: &SequenceCounts) -> [u64; COUNT_WORDS] {
    let SequenceCounts {
        received,
        reordered,
        duplicates,
        restarts,
        lowest,
        highest,
        different,
        past_expected,
        past_different,
    } = *counts;
    [received, reordered, duplicates, restarts, lowest, highest, different, past_expected, past_different]
}

fn counts_of(words: [u64; COUNT_WORDS]) -> SequenceCounts {
    let [
        received,
        reordered,
        duplicates,
        restarts,
        lowest,
        highest,
        different,
        past_expected,
        past_different,
    ] = words;
    SequenceCounts {
        received,
        reordered,
        duplicates,
        restarts,
        lowest,
        highest: highest.max(lowest),
        different,
        past_expected,
        past_different,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_counted_and_merged() {
        let address: IpAddr = "2001:db8::5".parse().unwrap();
        let key = |kind, id| TunnelKey {
            src_addr: [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5],
            ipv4: false,
            kind,
            id,
        };
        let mut rows = Vec::new();
        for worker in 0..2_u32 {
            let (mut meter, published) = (LossMeter::new(2), TunnelRows::new(2));
            for number in 0..10 {
                let row = meter.observe(&key(TunnelHeader::Vxlan, 7), 2 * number + worker, Bits::B24);
                published.publish(&meter, row.unwrap());
            }
            let row = meter.observe(&key(TunnelHeader::Erspan3, worker), u32::MAX, Bits::B32).unwrap();
            published.publish(&meter, row);
            assert!(meter.observe(&key(TunnelHeader::Gre, 9), 0, Bits::B32).is_none());
            published.publish_refused(&meter);
            rows.push(published);
        }
        let (totals, refused) = tunnel_totals(&rows.iter().collect::<Vec<_>>());
        assert_eq!(refused, 2);
        let seen: Vec<_> =
            totals.iter().map(|t| (t.source, t.kind.name(), t.id, t.received, t.lost)).collect();
        assert_eq!(
            seen,
            [(address, "vxlan", 7, 20, 0), (address, "erspan3", 0, 1, 0), (address, "erspan3", 1, 1, 0),]
        );
    }
}
