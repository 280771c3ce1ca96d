//! Where is the entry of a flow? Buckets of one cache line that name slots; slots are numbers into parallel arrays.
//!
//! All memory is taken at start. A lookup goes through three steps for a whole batch, each touching lines that the step
//! before asked for: hash and fetch the bucket; find candidates in it and fetch their entries; compare keys.

use sluice_cpu::{equal_u16x8, large_table, prefetch_index};

use super::key::FlowKey;

/// Places in a bucket.
const WAYS: usize = 8;
/// Buckets that a flow may be in: its own, and the next ones.
const PROBES: usize = 4;

/// The number of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    /// No entry.
    pub const NONE: Self = Self(u32::MAX);

    /// The entry with this number.
    #[inline(always)]
    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The number as an index.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One cache line of the index.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// A part of the hash of each flow; 0 = empty place.
    tags: [u16; WAYS],
    slots: [u32; WAYS],
    /// How many flows of this bucket are in the next ones.
    elsewhere: u16,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The places whose tag is `tag`, as bits.
    #[inline(always)]
    fn places(&self, tag: u16) -> u32 {
        equal_u16x8(&self.tags, tag)
    }
}

/// The words of the keys, by slot: what the index compares. The owner keeps them in its entries.
pub trait Keys {
    /// The words of the key at `slot`.
    fn words(&self, slot: Slot) -> &[u64; 3];
    /// The long addresses of the key at `slot`, if its words say that there are any.
    fn long(&self, slot: Slot) -> &[u64; 4];
}

/// The index: from keys to slots.
#[derive(Debug)]
pub struct Index {
    buckets: Box<[Bucket]>,
    mask: usize,
    free: Vec<u32>,
    capacity: u32,
}

impl Index {
    /// An index of `capacity` flows.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let buckets = buckets(capacity);
        Self {
            buckets: large_table(Bucket::default(), buckets),
            mask: buckets - 1,
            free: (0..capacity).rev().collect(),
            capacity,
        }
    }

    /// Flows in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.capacity as usize - self.free.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most flows that can be in it.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// The slot that the next new flow gets, for fetching it ahead.
    #[inline]
    #[must_use]
    pub fn next_free(&self) -> Slot {
        self.free.last().map_or(Slot::NONE, |&slot| Slot(slot))
    }

    /// Asks for the bucket of `hash`.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch_index(&self.buckets, self.home(hash));
    }

    /// A slot that may hold the flow of `hash`, or [`Slot::NONE`]: worth fetching, not yet compared.
    #[inline(always)]
    #[must_use]
    pub fn candidate(&self, hash: u64) -> Slot {
        let Some(bucket) = self.buckets.get(self.home(hash)) else { return Slot::NONE };
        let places = bucket.places(tag(hash));
        // With no place the first slot is taken and dropped again: cheaper than a branch that nothing predicts.
        let place = places.trailing_zeros() as usize % WAYS;
        if places == 0 { Slot::NONE } else { Slot(bucket.slots[place]) }
    }

    /// The slot of `key`, if it is there.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &FlowKey, hash: u64, keys: &impl Keys) -> Option<Slot> {
        let home = self.home(hash);
        for step in 0..PROBES {
            let bucket = self.buckets.get((home + step) & self.mask)?;
            let mut places = bucket.places(tag(hash));
            while places != 0 {
                let slot = Slot(bucket.slots[places.trailing_zeros() as usize % WAYS]);
                if is_same(key, slot, keys) {
                    return Some(slot);
                }
                places &= places - 1;
            }
            if step == 0 && bucket.elsewhere == 0 {
                return None;
            }
        }
        None
    }

    /// Gives the flow of `hash`, which must not be there, a slot; `None` when all are taken (or, one time in millions
    /// of flows, all places of its buckets).
    pub fn insert(&mut self, hash: u64) -> Option<Slot> {
        let home = self.home(hash);
        let slot = *self.free.last()?;
        for step in 0..PROBES {
            let bucket = self.buckets.get_mut((home + step) & self.mask)?;
            let places = bucket.places(0);
            if places == 0 {
                continue;
            }
            let place = places.trailing_zeros() as usize % WAYS;
            bucket.tags[place] = tag(hash);
            bucket.slots[place] = slot;
            self.free.pop();
            if step > 0 {
                self.buckets.get_mut(home)?.elsewhere += 1;
            }
            return Some(Slot(slot));
        }
        None
    }

    /// Takes the flow of `hash` at `slot` out.
    pub fn remove(&mut self, hash: u64, slot: Slot) {
        let home = self.home(hash);
        for step in 0..PROBES {
            let Some(bucket) = self.buckets.get_mut((home + step) & self.mask) else { return };
            for place in 0..WAYS {
                if bucket.tags[place] == tag(hash) && bucket.slots[place] == slot.0 {
                    bucket.tags[place] = 0;
                    self.free.push(slot.0);
                    if step > 0
                        && let Some(home) = self.buckets.get_mut(home)
                    {
                        home.elsewhere -= 1;
                    }
                    return;
                }
            }
        }
        debug_assert!(false, "a flow that is not in the table was taken out");
    }

    /// Bytes that an index of `capacity` flows takes.
    #[must_use]
    pub fn bytes_for(capacity: u32) -> u64 {
        (buckets(capacity) * size_of::<Bucket>() + capacity as usize * size_of::<u32>()) as u64
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & self.mask
    }
}

/// Buckets for so many flows: half full at most, then only one flow in a few hundred is not in its own.
fn buckets(capacity: u32) -> usize {
    (capacity as usize * 2).div_ceil(WAYS).max(PROBES).next_power_of_two()
}

/// The part of the hash that a bucket keeps: never 0, and not the part that chose the bucket.
#[inline(always)]
fn tag(hash: u64) -> u16 {
    let [high, low, ..] = hash.to_be_bytes();
    u16::from_be_bytes([high, low]) | 1
}

#[inline(always)]
fn is_same(key: &FlowKey, slot: Slot, keys: &impl Keys) -> bool {
    let words = keys.words(slot);
    let differs = key.words.iter().zip(words).fold(0, |bits, (a, b)| bits | (a ^ b));
    differs == 0 && (!FlowKey::is_long(words) || key.long == *keys.long(slot))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Owner(Vec<FlowKey>);

    impl Keys for Owner {
        fn words(&self, slot: Slot) -> &[u64; 3] {
            &self.0[slot.index()].words
        }

        fn long(&self, slot: Slot) -> &[u64; 4] {
            &self.0[slot.index()].long
        }
    }

    fn key(number: u64) -> FlowKey {
        // Every second key is a long one, with words that collide in pairs.
        if number.is_multiple_of(2) {
            FlowKey { words: [number, 7, 0], long: [0; 4] }
        } else {
            FlowKey { words: [number / 4, 7, 0x80], long: [number, 1, 2, 3] }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(operations in prop::collection::vec((any::<bool>(), 0_u64..96), 1..600)) {
            let mut index = Index::new(64);
            let mut owner = Owner(vec![FlowKey::default(); 64]);
            let mut model: HashMap<u64, Slot> = HashMap::new();
            for (add, number) in operations {
                let key = key(number);
                // Few distinct hashes: buckets overflow.
                let hash = (number % 5) | (number % 3) << 48;
                let found = index.find(&key, hash, &owner);
                prop_assert_eq!(found, model.get(&number).copied());
                match (add, found) {
                    (true, None) => if let Some(slot) = index.insert(hash) {
                        owner.0[slot.index()] = key;
                        prop_assert!(!model.values().any(|other| *other == slot));
                        model.insert(number, slot);
                    },
                    (false, Some(slot)) => {
                        index.remove(hash, slot);
                        model.remove(&number);
                    }
                    _ => {}
                }
                prop_assert_eq!(index.len(), model.len());
            }
        }
    }

    #[test]
    fn takes_as_many_flows_as_it_says() {
        let mut index = Index::new(10_000);
        let mut refused = 0;
        for number in 0..10_000 {
            refused += u32::from(index.insert(sluice_cpu::hash_u64(number, 1)).is_none());
        }
        assert_eq!(refused, 0);
        assert_eq!(index.insert(1), None);
        assert_eq!(index.len(), 10_000);
    }
}
