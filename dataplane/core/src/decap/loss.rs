//! Which numbered tunnels come in, and what is missing of each? A receiver's loss meter, bounded.

use sluice_cpu::hash_words;

use super::sequence::{Bits, SequenceCounts, SequenceTracker};
use crate::wire::TunnelHeader;

/// Places looked at for one key, at most.
const PROBES: usize = 16;
/// Seed of the hash: collisions must not be those of other tables.
const SEED: u64 = 0x5ca1_ab1e_0ddb_a115;
/// An empty place.
const EMPTY: u32 = u32::MAX;

/// A numbered tunnel: who sends it, of which kind, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelKey {
    /// The outer source address in wire order; IPv4 in the first four bytes.
    pub src_addr: [u8; 16],
    /// Whether it is IPv4.
    pub ipv4: bool,
    /// The kind of tunnel.
    pub kind: TunnelHeader,
    /// VNI, GRE key, ERSPAN session.
    pub id: u32,
}

impl TunnelKey {
    /// The key in 24 bytes.
    #[inline]
    #[must_use]
    pub fn words(&self) -> [u64; 3] {
        let address = u128::from_le_bytes(self.src_addr);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
        let (low, high) = (address as u64, (address >> 64) as u64);
        [low, high, u64::from(self.id) | (self.kind as u64) << 32 | u64::from(self.ipv4) << 40]
    }
}

/// What is known of one tunnel, of one worker or merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossCounts(pub SequenceCounts);

impl LossCounts {
    /// Numbers that never came.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost()
    }

    /// Adds what another worker saw of the same tunnel, whose numbers have so many bits. Exact while the sender does not
    /// start anew; a restart is seen by every worker at its own packet.
    pub fn merge(&mut self, other: &Self, bits: Bits) {
        let (mine, mut theirs) = (&mut self.0, other.0);
        if theirs.received == 0 {
            return;
        }
        if mine.received == 0 {
            *mine = theirs;
            return;
        }
        // One of them may have gone round once more than the other.
        let round = 1 << bits.count();
        while theirs.highest + round / 2 < mine.highest {
            (theirs.highest, theirs.lowest) = (theirs.highest + round, theirs.lowest + round);
        }
        while mine.highest + round / 2 < theirs.highest {
            (mine.highest, mine.lowest) = (mine.highest + round, mine.lowest + round);
        }
        mine.highest = mine.highest.max(theirs.highest);
        mine.lowest = mine.lowest.min(theirs.lowest);
        mine.different += theirs.different;
        mine.received += theirs.received;
        mine.reordered += theirs.reordered;
        mine.duplicates += theirs.duplicates;
        mine.restarts = mine.restarts.max(theirs.restarts);
        mine.past_expected = mine.past_expected.max(theirs.past_expected);
        mine.past_different += theirs.past_different;
    }
}

/// A bounded table of numbered tunnels. All memory is taken by [`LossMeter::new`].
#[derive(Debug)]
pub struct LossMeter {
    /// Numbers of entries, twice as many places as entries.
    places: Box<[u32]>,
    entries: Vec<Entry>,
    capacity: usize,
    /// The entry of the last packet: most follow one of the same tunnel.
    last: usize,
    refused: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    key: TunnelKey,
    tracker: SequenceTracker,
}

impl LossMeter {
    /// Room for `tunnels` of them (at least 1).
    #[must_use]
    pub fn new(tunnels: usize) -> Self {
        let capacity = tunnels.max(1);
        Self {
            places: vec![EMPTY; (capacity * 2).next_power_of_two()].into_boxed_slice(),
            entries: Vec::with_capacity(capacity),
            capacity,
            last: 0,
            refused: 0,
        }
    }

    /// Takes in packet `number` of a tunnel; returns the tunnel's row, `None` when the table is full (which is counted).
    #[inline]
    pub fn observe(&mut self, key: &TunnelKey, number: u32, bits: Bits) -> Option<usize> {
        let row = match self.entries.get(self.last) {
            Some(entry) if entry.key == *key => self.last,
            _ => self.find(key)?,
        };
        self.last = row;
        self.entries.get_mut(row)?.tracker.observe(number, bits);
        Some(row)
    }

    /// The key and the counts of a row, `None` beyond the last one.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<(TunnelKey, LossCounts)> {
        self.entries.get(row).map(|entry| (entry.key, LossCounts(entry.tracker.counts())))
    }

    /// The rows in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no row is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The most rows.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Packets that were not counted because the table was full.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    #[inline(never)]
    fn find(&mut self, key: &TunnelKey) -> Option<usize> {
        let mask = self.places.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
        let hash = hash_words(&key.words(), SEED) as usize;
        for probe in 0..PROBES {
            let Some(place) = self.places.get_mut(hash.wrapping_add(probe) & mask) else { break };
            if *place == EMPTY {
                if self.entries.len() == self.capacity {
                    break;
                }
                let row = self.entries.len();
                *place = u32::try_from(row).unwrap_or(EMPTY);
                self.entries.push(Entry { key: *key, tracker: SequenceTracker::default() });
                return Some(row);
            }
            let row = usize::try_from(*place).unwrap_or(usize::MAX);
            if self.entries.get(row).is_some_and(|entry| entry.key == *key) {
                return Some(row);
            }
        }
        self.refused += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn key(source: u8, id: u32) -> TunnelKey {
        let mut src_addr = [0; 16];
        src_addr[3] = source;
        TunnelKey { src_addr, ipv4: true, kind: TunnelHeader::Erspan2, id }
    }

    proptest! {
        #[test]
        fn tunnels_are_counted_apart(packets in prop::collection::vec((0..4_u8, 0..5_u32), 0..300)) {
            let mut meter = LossMeter::new(32);
            let mut next: HashMap<TunnelKey, u32> = HashMap::new();
            for (source, id) in packets {
                let number = next.entry(key(source, id)).or_default();
                prop_assert!(meter.observe(&key(source, id), *number, Bits::B32).is_some());
                *number += 2;
            }
            prop_assert_eq!(meter.len(), next.len());
            for row in 0..meter.len() {
                let (key, counts) = meter.row(row).unwrap();
                let packets = u64::from(next[&key] / 2);
                prop_assert_eq!((counts.0.received, counts.lost()), (packets, packets - 1));
            }
        }

        /// Packets of one stream spread over workers: together they know as much as one that saw all.
        #[test]
        fn workers_add_up(
            first in prop_oneof![Just(0_u32), (1_u32 << 24) - 200..1 << 24],
            packets in prop::collection::vec((0..3_usize, any::<bool>()), 1..400),
        ) {
            let mut workers = [const { None }; 3].map(|_: Option<()>| SequenceTracker::default());
            let mut one = SequenceTracker::default();
            for (index, (worker, lost)) in packets.into_iter().enumerate() {
                if !lost {
                    let number = (first + index as u32) & Bits::B24.mask();
                    workers[worker].observe(number, Bits::B24);
                    one.observe(number, Bits::B24);
                }
            }
            let mut merged = LossCounts::default();
            for worker in workers {
                merged.merge(&LossCounts(worker.counts()), Bits::B24);
            }
            prop_assert_eq!((merged.0.received, merged.lost()), (one.counts().received, one.counts().lost()));
        }
    }

    #[test]
    fn a_full_table_keeps_what_it_has_and_counts_the_rest() {
        let mut meter = LossMeter::new(4);
        for id in 0..10 {
            assert_eq!(meter.observe(&key(1, id), 0, Bits::B32).is_some(), id < 4);
        }
        assert_eq!((meter.len(), meter.refused()), (4, 6));
        assert_eq!(meter.observe(&key(1, 2), 1, Bits::B32), Some(2));
        assert_eq!(meter.row(2).unwrap().1.0.received, 2);
        assert!(meter.row(4).is_none());
    }
}
