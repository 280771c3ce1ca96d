//! When did a fingerprint come first? Buckets of one cache line, found by the fingerprint alone.
//!
//! All memory is taken at start, and the cost of a packet does not depend on the window: nothing is swept. An entry
//! whose window is over is overwritten when its place is wanted, the oldest first. A bucket that is full of entries
//! still in their window passes a newcomer on to its neighbours, the other half of its pair of lines first, and notes
//! until when somebody may have to look there.
//! When all neighbours are full, too, the oldest entry of the bucket goes before its time, which is counted: its
//! duplicate, should it come, passes (fail open).

use sluice_cpu::{large_table, prefetch_index};

/// Entries in a bucket.
const WAYS: usize = 4;
/// Buckets that an entry may be in: its own, the other one of its pair, and those of the next pairs.
const PROBES: usize = 8;
/// With so many buckets, the bucket and the tag together are all 64 bits of the fingerprint.
const MIN_BUCKETS: usize = 1 << 16;
/// The fewest entries that a table has.
pub const MIN_ENTRIES: u32 = 1 << 16;
/// Added to every time, so that an empty entry (0) is older than any window.
const BIAS: u64 = 1 << 62;
/// Later times count as this one: the year 2262.
const LAST_TIME: u64 = u64::MAX - 2 * BIAS;
/// How far times may run backwards, from one port to another, without an entry being overwritten too early:
/// a kernel interface hands over its frames up to a millisecond late. Nanoseconds.
const DISORDER_NS: u64 = 4_000_000;
/// Unit of [`Bucket::beyond`]: 2^20 ns, about a millisecond.
const BEYOND_SHIFT: u32 = 20;

/// One cache line: four entries.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// When the first copy came, with [`BIAS`]; 0 = empty.
    times: [u64; WAYS],
    /// The upper half of the fingerprint.
    high: [u32; WAYS],
    /// The 16 bits below it.
    low: [u16; WAYS],
    /// Where the first copy came in.
    ports: [u8; WAYS],
    /// The time of the last entry that was passed on to the next bucket, coarse and odd; 0 = none was.
    beyond: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// The part of a fingerprint that an entry keeps.
#[derive(Clone, Copy, Debug)]
struct Tag {
    high: u32,
    low: u16,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen within the window: it is remembered now.
    First,
    /// Seen within the window; the first copy came in by this port.
    Duplicate(u8),
}

/// The fingerprints of the packets seen within a window.
#[derive(Debug)]
pub struct DedupTable {
    buckets: Box<[Bucket]>,
    window_ns: u64,
    /// Entries farther away than this are free.
    free_ns: u64,
    /// The window in units of [`Bucket::beyond`], rounded up.
    beyond_window: i32,
    evicted: u64,
}

/// How many bits of the fingerprint decide about equality in a table for `entries` fingerprints.
#[must_use]
pub fn fingerprint_bits(entries: u32) -> u32 {
    (48 + buckets_for(entries).ilog2()).min(64)
}

/// Bytes that a table for `entries` fingerprints takes.
#[must_use]
pub fn table_bytes(entries: u32) -> usize {
    buckets_for(entries) * size_of::<Bucket>()
}

/// One for each: a quarter full at most. Then one entry in a hundred is not in its own bucket (at twice the load it
/// would be one in fifteen, and those are what costs), and that none of the neighbours has room happens about once in
/// 10^9 entries.
fn buckets_for(entries: u32) -> usize {
    (entries as usize).max(PROBES).next_multiple_of(2)
}

impl DedupTable {
    /// A table that holds `entries` fingerprints (at least [`MIN_ENTRIES`]), for a window of `window_ns` nanoseconds.
    #[must_use]
    pub fn new(entries: u32, window_ns: u64) -> Self {
        Self::with_buckets(buckets_for(entries).max(MIN_BUCKETS), window_ns)
    }

    fn with_buckets(buckets: usize, window_ns: u64) -> Self {
        // The time of an empty entry is farther away than this.
        let window_ns = window_ns.min(BIAS / 4);
        let units = (window_ns >> BEYOND_SHIFT) + 3;
        Self {
            buckets: large_table(Bucket::default(), buckets),
            window_ns,
            free_ns: window_ns + DISORDER_NS,
            beyond_window: i32::try_from(units).unwrap_or(i32::MAX / 2),
            evicted: 0,
        }
    }

    /// Entries that were overwritten before their window was over.
    #[inline]
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// Asks for the bucket of `fingerprint`.
    #[inline(always)]
    pub fn prefetch(&self, fingerprint: u64) {
        prefetch_index(&self.buckets, self.home(fingerprint));
    }

    /// Says whether `fingerprint` was seen within the window around `time_ns`, and remembers it (and `port`) if not.
    ///
    /// The window counts from the first copy and includes its end: a packet is a duplicate when its time differs by at
    /// most the window from that of the last packet with this fingerprint that was none. A duplicate does not prolong
    /// the window, so that a packet repeated for ever passes once per window. The difference has no sign: ports hand
    /// over their packets at different moments, and the first one processed need not be the first one captured.
    #[inline(always)]
    pub fn offer(&mut self, fingerprint: u64, time_ns: u64, port: u8) -> Verdict {
        let home = self.home(fingerprint);
        let tag = tag(fingerprint);
        let time = time_ns.min(LAST_TIME) + BIAS;
        let (free_ns, beyond_window) = (self.free_ns, self.beyond_window);
        let Some(bucket) = self.buckets.get_mut(home) else { return Verdict::First };
        if !bucket.may_hold(tag) && !bucket.has_beyond(time, beyond_window) {
            let (place, age) = bucket.oldest(time, free_ns);
            if age > 2 * free_ns {
                bucket.set(place, tag, time, port);
                return Verdict::First;
            }
        }
        self.offer_with_care(home, tag, time, port)
    }

    /// The bucket knows the fingerprint, has passed on entries, or is full.
    #[inline(never)]
    fn offer_with_care(&mut self, home: usize, tag: Tag, time: u64, port: u8) -> Verdict {
        // Where the packet goes if it is no duplicate: where its fingerprint is, else the first bucket with room.
        let mut own_place = None;
        let mut room = None;
        let mut looking = true;
        for step in 0..PROBES {
            let index = self.neighbour(home, step);
            let Some(bucket) = self.buckets.get(index) else { break };
            let mut hits = if looking { bucket.hits(tag) } else { 0 };
            while hits != 0 {
                let place = hits.trailing_zeros() as usize % WAYS;
                if bucket.times[place].abs_diff(time) <= self.window_ns {
                    return Verdict::Duplicate(bucket.ports[place]);
                }
                own_place = own_place.or(Some((step, index, place)));
                hits &= hits - 1;
            }
            if room.is_none() {
                let (place, age) = bucket.oldest(time, self.free_ns);
                room = (age > 2 * self.free_ns).then_some((step, index, place));
            }
            looking = looking && bucket.has_beyond(time, self.beyond_window);
            if !looking && (room.is_some() || own_place.is_some()) {
                break;
            }
        }
        let (steps, index, place) = own_place.or(room).unwrap_or_else(|| self.evict(home, time));
        self.pass_on(home, steps, time);
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.set(place, tag, time, port);
        }
        Verdict::First
    }

    /// The oldest entry of the full bucket `home`, which is given up.
    fn evict(&mut self, home: usize, time: u64) -> (usize, usize, usize) {
        let mut given_up = (0, home, 0);
        if let Some(bucket) = self.buckets.get(home) {
            let (place, _) = bucket.oldest(time, self.free_ns);
            self.evicted += u64::from(bucket.times[place % WAYS].abs_diff(time) <= self.window_ns);
            given_up = (0, home, place);
        }
        given_up
    }

    /// Notes in the first `steps` buckets for `home` that an entry of this time lies beyond them.
    fn pass_on(&mut self, home: usize, steps: usize, time: u64) {
        for step in 0..steps {
            let index = self.neighbour(home, step);
            if let Some(bucket) = self.buckets.get_mut(index) {
                let now = coarse(time);
                let ahead = difference(bucket.beyond, now);
                // A later time stands, unless it is so far ahead that it is a very old one.
                if bucket.beyond == 0 || !(0..1 << 30).contains(&ahead) {
                    bucket.beyond = now;
                }
            }
        }
    }

    /// The bucket that is looked into after `step` others.
    #[inline(always)]
    fn neighbour(&self, home: usize, step: usize) -> usize {
        let index = (home & !1) + (step & !1) + ((home ^ step) & 1);
        if index < self.buckets.len() { index } else { index - self.buckets.len() }
    }

    /// The bucket of a fingerprint: its lowest 16 bits first, which the tag does not hold.
    #[inline(always)]
    fn home(&self, fingerprint: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let number = (fingerprint as u32).rotate_left(16);
        let scaled = (u64::from(number) * self.buckets.len() as u64) >> 32;
        usize::try_from(scaled).unwrap_or(0)
    }
}

impl Bucket {
    /// The entries with this tag, as bits.
    #[inline(always)]
    #[expect(clippy::needless_bitwise_bool, reason = "a branch per entry would cost more")]
    fn hits(&self, tag: Tag) -> u32 {
        let mut hits = 0;
        for place in 0..WAYS {
            let same = (self.high[place] == tag.high) & (self.low[place] == tag.low);
            hits |= u32::from(same) << place;
        }
        hits
    }

    /// Whether [`Bucket::hits`] is worth asking: nearly always when this is true.
    #[inline(always)]
    #[expect(clippy::needless_bitwise_bool, reason = "all four are compared at once")]
    fn may_hold(&self, tag: Tag) -> bool {
        self.high.iter().fold(false, |any, high| any | (*high == tag.high))
    }

    /// The entry that is farthest from its window, and its age: nanoseconds on a scale that begins `free_ns` after
    /// `time`, so that up to `2 * free_ns` the entry must stay. What is still farther in the future is very old there.
    #[inline(always)]
    fn oldest(&self, time: u64, free_ns: u64) -> (usize, u64) {
        let ages = self.times.map(|other| (time + free_ns).wrapping_sub(other));
        let first = if ages[1] > ages[0] { (1, ages[1]) } else { (0, ages[0]) };
        let second = if ages[3] > ages[2] { (3, ages[3]) } else { (2, ages[2]) };
        if second.1 > first.1 { second } else { first }
    }

    /// Whether an entry that was passed on may still be in its window, of so many units.
    #[inline(always)]
    fn has_beyond(&self, time: u64, beyond_window: i32) -> bool {
        self.beyond != 0 && difference(coarse(time), self.beyond) <= beyond_window
    }

    #[inline(always)]
    fn set(&mut self, place: usize, tag: Tag, time: u64, port: u8) {
        let place = place % WAYS;
        self.times[place] = time;
        self.high[place] = tag.high;
        self.low[place] = tag.low;
        self.ports[place] = port;
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "parts are meant")]
fn tag(fingerprint: u64) -> Tag {
    Tag { high: (fingerprint >> 32) as u32, low: (fingerprint >> 16) as u16 }
}

/// A time in units of [`Bucket::beyond`]: never 0, and it wraps.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it wraps after 52 days")]
fn coarse(time: u64) -> u32 {
    (time >> BEYOND_SHIFT) as u32 | 1
}

/// How far `a` is after `b`, where both wrap.
#[inline(always)]
fn difference(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Fingerprints that share buckets and parts of their tags.
    fn crowded(number: u64) -> u64 {
        (number % 7) << 61 | (number / 7 % 3) << 17 | (number / 21) << 14 | (number / 21) << 40
    }

    proptest! {
        /// As long as no bucket overflows beyond the probes, the table is a map without bounds.
        #[test]
        fn agrees_with_a_map(
            packets in prop::collection::vec((0_u64..60, 0_u64..6, 0_u8..4), 1..400),
            base in prop::sample::select(vec![0, 5, 1_700_000_000_000_000_000, LAST_TIME - 1_000_000]),
        ) {
            let mut table = DedupTable::with_buckets(32, 1000);
            let mut model: HashMap<u64, (u64, u8)> = HashMap::new();
            let mut clock = base;
            for (number, step, port) in packets {
                // Exactly at the window, one beside it, and backwards.
                clock += [0, 1, 333, 500, 999, 1000][step as usize];
                let time = if port == 3 { clock.saturating_sub(700) } else { clock };
                let fingerprint = crowded(number);
                let expected = match model.get(&fingerprint) {
                    Some(&(first, port)) if time.abs_diff(first) <= 1000 => Verdict::Duplicate(port),
                    _ => {
                        model.insert(fingerprint, (time, port));
                        Verdict::First
                    }
                };
                prop_assert_eq!(table.offer(fingerprint, time, port), expected);
            }
            prop_assert_eq!(table.evicted(), 0);
        }
    }

    #[test]
    fn a_full_table_gives_up_the_oldest_and_counts() {
        let mut table = DedupTable::with_buckets(PROBES, 1_000_000);
        let slots = (PROBES * WAYS) as u64;
        let fingerprint = |number: u64| number << 16 | 1;
        for number in 0..slots {
            assert_eq!(table.offer(fingerprint(number), number, 0), Verdict::First);
        }
        assert_eq!(table.evicted(), 0);
        for number in 0..slots {
            assert_eq!(table.offer(fingerprint(number), slots, 1), Verdict::Duplicate(0), "{number}");
        }
        assert_eq!(table.offer(fingerprint(slots), slots, 2), Verdict::First);
        assert_eq!(table.evicted(), 1);
        assert_eq!(table.offer(fingerprint(slots), slots + 1, 3), Verdict::Duplicate(2));
        // The one that went was the oldest of its bucket; it passes, and takes the place of another.
        let passed = (0..slots).filter(|n| table.offer(fingerprint(*n), slots, 4) == Verdict::First).count();
        assert!(passed > 0);
        assert_eq!(table.evicted(), 1 + passed as u64);
        // When the window is over, there is room again.
        for number in 0..slots / 2 {
            assert_eq!(table.offer(fingerprint(1000 + number), 10_000_000, 0), Verdict::First);
        }
        assert_eq!(table.evicted(), 1 + passed as u64);
    }

    #[test]
    fn holds_as_many_as_it_says() {
        let mut table = DedupTable::new(MIN_ENTRIES, 1_000_000_000);
        for number in 0..u64::from(MIN_ENTRIES) {
            assert_eq!(table.offer(sluice_cpu::hash_u64(number, 7), number, 0), Verdict::First);
        }
        assert_eq!(table.evicted(), 0);
        for number in 0..u64::from(MIN_ENTRIES) {
            assert_eq!(table.offer(sluice_cpu::hash_u64(number, 7), number, 1), Verdict::Duplicate(0));
        }
    }

    #[test]
    fn all_bits_decide() {
        assert_eq!(fingerprint_bits(MIN_ENTRIES), 64);
        assert_eq!(table_bytes(1 << 20), 64 << 20);
        for base in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            let mut table = DedupTable::new(MIN_ENTRIES, 1_000_000_000);
            assert_eq!(table.offer(base, 5, 0), Verdict::First);
            for bit in 0..64 {
                assert_eq!(table.offer(base ^ 1 << bit, 5, 0), Verdict::First, "{base:x} {bit}");
            }
            assert_eq!(table.offer(base, 5, 0), Verdict::Duplicate(0));
        }
    }
}
