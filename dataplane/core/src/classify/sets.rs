//! Where are verdicts kept? Action sets, each stored once, in memory that is taken at the start and never grows.

use sluice_cpu::prefetch_index;
use sluice_model::PolicyId;

use super::batch::BATCH;
use super::program::{Bounds, Program};
use crate::verdict::{ActionSet, CopyAction, Keep};

/// Where the parts of a set are.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    matched: (u32, u32),
    copies: (u32, u32),
    sharers: (u32, u32),
    /// Which reading each matched policy matched by, so that equal sets are recognised.
    readings: (u32, u32),
    excluded: bool,
}

/// Policies and copies of a usual set; larger ones take the room of others.
const USUAL: usize = 8;

/// The action sets of one worker.
#[derive(Debug)]
pub(super) struct Sets {
    growth: Growth,
    places: Vec<Place>,
    matched: Vec<PolicyId>,
    copies: Vec<CopyAction>,
    sharers: Vec<PolicyId>,
    readings: Vec<u32>,
    /// Open addressing over `places`, plus one; 0 = empty.
    index: Box<[u32]>,
    /// Copies of the set being made: stream, then matched policy.
    wishes: Vec<(u32, u32)>,
}

/// How much one batch can add at most.
#[derive(Clone, Copy, Debug, Default)]
struct Growth {
    sets: usize,
    /// Matched policies of all its sets together.
    matched: usize,
    copies: usize,
    sharers: usize,
}

impl Growth {
    fn of(bounds: &Bounds) -> Self {
        let sets = bounds.combinations.min(BATCH);
        Self {
            sets,
            matched: sets * bounds.matched,
            copies: sets * bounds.copies,
            sharers: sets * bounds.wishes,
        }
    }
}

impl Sets {
    /// Room for `sets` small sets beside the largest that one batch can bring.
    pub(super) fn new(program: &Program, sets: usize) -> Self {
        let growth = Growth::of(&program.bounds);
        let places = sets + growth.sets;
        Self {
            growth,
            places: Vec::with_capacity(places),
            matched: Vec::with_capacity(sets * USUAL + growth.matched),
            copies: Vec::with_capacity(sets * USUAL + growth.copies),
            sharers: Vec::with_capacity(sets * USUAL + growth.sharers),
            readings: Vec::with_capacity(sets * USUAL + growth.matched),
            index: vec![0; (places * 2).next_power_of_two()].into(),
            wishes: Vec::with_capacity(program.bounds.wishes),
        }
    }

    /// Whether the sets of one more batch fit, however large.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        fn fits<T>(list: &Vec<T>, growth: usize) -> bool {
            list.capacity() - list.len() >= growth
        }
        fits(&self.places, self.growth.sets)
            && fits(&self.matched, self.growth.matched)
            && fits(&self.readings, self.growth.matched)
            && fits(&self.copies, self.growth.copies)
            && fits(&self.sharers, self.growth.sharers)
    }

    /// The most sets.
    pub(super) fn capacity(&self) -> usize {
        self.places.capacity()
    }

    /// Forgets all sets.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.matched.clear();
        self.copies.clear();
        self.sharers.clear();
        self.readings.clear();
        self.index.fill(0);
    }

    /// Asks for the first that is read of set number `id`.
    #[inline(always)]
    pub(super) fn prefetch(&self, id: u32) {
        prefetch_index(&self.places, id as usize);
    }

    /// The set number `id`; empty when there is none.
    #[inline]
    pub(super) fn get(&self, id: u32) -> ActionSet<'_> {
        let place = self.places.get(id as usize).copied().unwrap_or_default();
        ActionSet {
            excluded: place.excluded,
            matched: part(&self.matched, place.matched),
            copies: part(&self.copies, place.copies),
            sharers: part(&self.sharers, place.sharers),
        }
    }

    /// The number of the set for these matches (`policy << 1 | egress`, ascending), made if it is new.
    pub(super) fn intern(&mut self, program: &Program, matches: &[u32]) -> u32 {
        let mask = self.index.len() - 1;
        let mut slot = usize::try_from(hash(matches) & u64::from(u32::MAX)).unwrap_or(0) & mask;
        while let Some(&stored) = self.index.get(slot).filter(|&&stored| stored != 0) {
            let known = self
                .places
                .get(stored as usize - 1)
                .is_some_and(|p| part(&self.readings, p.readings) == matches);
            if known {
                return stored - 1;
            }
            slot = (slot + 1) & mask;
        }
        let number = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        let place = self.add(program, matches);
        self.places.push(place);
        if let Some(slot) = self.index.get_mut(slot) {
            *slot = number + 1;
        }
        number
    }

    fn add(&mut self, program: &Program, matches: &[u32]) -> Place {
        let mut place = Place::default();
        let first = self.readings.len();
        self.readings.extend_from_slice(matches);
        place.readings = range(first, self.readings.len());

        let first = self.matched.len();
        let excluding = matches.iter().map(|m| PolicyId(m >> 1)).filter(|&policy| program.excludes(policy));
        self.matched.extend(excluding);
        place.excluded = self.matched.len() > first;
        if !place.excluded {
            self.matched.extend(matches.iter().map(|m| PolicyId(m >> 1)));
        }
        place.matched = range(first, self.matched.len());
        if place.excluded {
            return place;
        }

        self.wishes.clear();
        for &matched in matches {
            let streams = program.streams_of(PolicyId(matched >> 1));
            self.wishes.extend(streams.iter().map(|stream| (stream.0, matched)));
        }
        self.wishes.sort_unstable();
        let (first_copy, first_sharer) = (self.copies.len(), self.sharers.len());
        for wishes in self.wishes.chunk_by(|a, b| a.0 == b.0) {
            let Some((stream, destination, tag)) = wishes.first().and_then(|wish| program.stream(wish.0))
            else {
                continue;
            };
            let own_first = self.sharers.len() - first_sharer;
            let mut keep = Keep::NONE;
            for &(_, matched) in wishes {
                let policy = PolicyId(matched >> 1);
                keep = keep.union(program.keep(policy));
                self.sharers.push(policy);
            }
            self.copies.push(CopyAction {
                destination,
                egress: wishes.iter().any(|wish| wish.1 & 1 == 1),
                tag,
                stream,
                keep,
                first_sharer: u32::try_from(own_first).unwrap_or(u32::MAX),
                sharers: u32::try_from(wishes.len()).unwrap_or(u32::MAX),
            });
        }
        place.copies = range(first_copy, self.copies.len());
        place.sharers = range(first_sharer, self.sharers.len());
        place
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
            + (self.matched.capacity() + self.sharers.capacity() + self.readings.capacity()) * 4
            + self.copies.capacity() * size_of::<CopyAction>()
            + self.index.len() * 4
            + self.wishes.capacity() * 8
    }
}

fn range(first: usize, end: usize) -> (u32, u32) {
    (u32::try_from(first).unwrap_or(u32::MAX), u32::try_from(end).unwrap_or(u32::MAX))
}

#[inline]
fn part<T>(all: &[T], (first, end): (u32, u32)) -> &[T] {
    all.get(first as usize..end as usize).unwrap_or(&[])
}

fn hash(words: &[u32]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &word in words {
        hash = (hash ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    }
    hash
}
