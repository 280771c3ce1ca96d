//! What is missing, late or twice in one stream of numbered packets?

/// Numbers remembered behind the highest one: what comes later than that is late, and cannot be told from a duplicate.
pub(super) const WINDOW: u64 = 1024;
const WORDS: usize = 16;
const _: () = assert!(WORDS as u64 * 64 == WINDOW);
/// Extended numbers start here, so that what came before the first packet has a number, too.
const ORIGIN: u64 = 1 << 40;

/// How many bits a sequence number has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// 24: VXLAN's reserved bits.
    B24,
    /// 32: GRE.
    B32,
}

impl Bits {
    /// The number of bits.
    #[inline]
    #[must_use]
    pub const fn count(self) -> u32 {
        match self {
            Self::B24 => 24,
            Self::B32 => 32,
        }
    }

    /// The way from number `from` to number `to`, the shorter way round.
    #[inline]
    fn distance(self, from: u32, to: u32) -> i64 {
        let spare = 32 - self.count();
        i64::from((to.wrapping_sub(from) << spare).cast_signed() >> spare)
    }

    #[inline]
    pub(super) const fn mask(self) -> u32 {
        u32::MAX >> (32 - self.count())
    }

    /// A greater step ahead is no loss but another stream, if the next packet agrees.
    #[inline]
    const fn max_ahead(self) -> u64 {
        1 << (self.count() - 2)
    }
}

/// The account of one stream: a receiver's view, as that of RFC 3550, appendix A.1, with a window for late packets.
///
/// A number far from the highest one (more than a quarter of the number space ahead, or further behind than the window)
/// is a stray until the next packet continues from it: then the sender started anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceTracker {
    /// The highest number of this run, extended: it does not wrap around.
    highest: u64,
    /// The lowest number of this run, extended.
    lowest: u64,
    /// Different numbers of this run that were seen.
    different: u64,
    /// The two of the runs that ended.
    past_expected: u64,
    past_different: u64,
    received: u64,
    reordered: u64,
    duplicates: u64,
    restarts: u64,
    /// The number that would follow a stray.
    after_stray: Option<u32>,
    /// Which of the last numbers were seen, each at its number modulo [`WINDOW`].
    seen: [u64; WORDS],
}

/// What a [`SequenceTracker`] counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceCounts {
    /// Packets received, duplicates and strays included.
    pub received: u64,
    /// Packets with a lower number than an earlier one, not seen before as far as is remembered.
    pub reordered: u64,
    /// Packets whose number was seen before.
    pub duplicates: u64,
    /// How often the sender started anew.
    pub restarts: u64,
    /// The lowest and the highest number of the present run, extended so that they do not wrap around.
    pub lowest: u64,
    /// See `lowest`.
    pub highest: u64,
    /// Different numbers seen in the present run.
    pub different: u64,
    /// Numbers between the lowest and the highest of the runs that ended, both included.
    pub past_expected: u64,
    /// Different numbers seen in those.
    pub past_different: u64,
}

impl SequenceCounts {
    /// Numbers between the lowest and the highest that were never seen.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let expected = if self.received == 0 { 0 } else { self.highest - self.lowest + 1 };
        (expected + self.past_expected).saturating_sub(self.different + self.past_different)
    }
}

impl SequenceTracker {
    /// Takes in the next packet, whose number has so many bits.
    #[inline]
    pub fn observe(&mut self, number: u32, bits: Bits) {
        self.received += 1;
        if self.received == 1 {
            return self.begin(number);
        }
        #[expect(clippy::cast_possible_truncation, reason = "the number is the low bits")]
        let last = self.highest as u32 & bits.mask();
        let step = bits.distance(last, number);
        let far = step.unsigned_abs();
        if step > 0 && far <= bits.max_ahead() {
            self.advance(far);
            self.after_stray = None;
        } else if step <= 0 && far < WINDOW {
            self.look_back(self.highest - far);
            self.after_stray = None;
        } else {
            self.stray(number, bits);
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> SequenceCounts {
        let Self { highest, lowest, different, past_expected, past_different, .. } = *self;
        let Self { received, reordered, duplicates, restarts, .. } = *self;
        SequenceCounts {
            received,
            reordered,
            duplicates,
            restarts,
            lowest,
            highest,
            different,
            past_expected,
            past_different,
        }
    }

    fn begin(&mut self, number: u32) {
        self.seen = [0; WORDS];
        self.lowest = ORIGIN + u64::from(number);
        self.highest = self.lowest;
        self.different = 1;
        self.mark(self.highest);
    }

    #[inline]
    fn advance(&mut self, by: u64) {
        if by > 1 {
            self.forget(by);
        }
        self.highest += by;
        self.different += 1;
        self.mark(self.highest);
    }

    /// Clears the places of the numbers up to `by` beyond the highest one.
    #[cold]
    fn forget(&mut self, by: u64) {
        if by >= WINDOW {
            self.seen = [0; WORDS];
            return;
        }
        for number in self.highest + 1..=self.highest + by {
            let (word, bit) = Self::place(number);
            if let Some(word) = self.seen.get_mut(word) {
                *word &= !bit;
            }
        }
    }

    #[cold]
    fn look_back(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        if self.seen.get(word).is_some_and(|word| word & bit != 0) {
            self.duplicates += 1;
            return;
        }
        self.mark(number);
        self.lowest = self.lowest.min(number);
        self.different += 1;
        self.reordered += 1;
    }

    #[cold]
    fn stray(&mut self, number: u32, bits: Bits) {
        if self.after_stray != Some(number) {
            self.after_stray = Some(number.wrapping_add(1) & bits.mask());
            self.reordered += 1;
            return;
        }
        // Two in a row: the stray was the first of a new run.
        self.after_stray = None;
        self.reordered -= 1;
        self.restarts += 1;
        self.past_expected += self.highest - self.lowest + 1;
        self.past_different += self.different;
        self.begin(number.wrapping_sub(1) & bits.mask());
        self.advance(1);
    }

    #[inline]
    fn mark(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
    }

    #[inline]
    const fn place(number: u64) -> (usize, u64) {
        ((number / 64 % WORDS as u64) as usize, 1 << (number % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// Remembers everything, with numbers that do not wrap around.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
        received: u64,
        reordered: u64,
        duplicates: u64,
    }

    impl Model {
        fn observe(&mut self, number: u64) {
            self.received += 1;
            let highest = self.seen.last().copied();
            if !self.seen.insert(number) {
                self.duplicates += 1;
            } else if highest.is_some_and(|highest| number < highest) {
                self.reordered += 1;
            }
        }

        fn lost(&self) -> u64 {
            match (self.seen.first(), self.seen.last()) {
                (Some(first), Some(last)) => last - first + 1 - self.seen.len() as u64,
                _ => 0,
            }
        }
    }

    /// A stream from `first` on: which numbers are lost, how often each comes, and how far back it is held.
    fn arrivals(first: u64, packets: &[(u8, u16)]) -> Vec<u64> {
        let mut queue: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (index, &(times, delay)) in packets.iter().enumerate() {
            let number = first + index as u64;
            for copy in 0..u64::from(times) {
                queue.entry(index as u64 + u64::from(delay) * (copy + 1)).or_default().push(number);
            }
        }
        queue.into_values().flatten().collect()
    }

    fn agree(bits: Bits, first: u64, packets: &[(u8, u16)]) {
        let (mut model, mut tracker) = (Model::default(), SequenceTracker::default());
        for number in arrivals(first, packets) {
            model.observe(number);
            tracker.observe((number & u64::from(bits.mask())) as u32, bits);
        }
        let counts = tracker.counts();
        let found = (counts.received, counts.lost(), counts.reordered, counts.duplicates, counts.restarts);
        assert_eq!(found, (model.received, model.lost(), model.reordered, model.duplicates, 0));
    }

    proptest! {
        #[test]
        fn agrees_with_a_model_that_remembers_everything(
            first in prop_oneof![Just(0_u64), (1_u64 << 24) - 300..1 << 24, (1_u64 << 32) - 300..1 << 32, 0..1_u64 << 32],
            packets in prop::collection::vec((prop_oneof![6 => Just(1_u8), 2 => Just(0), 1 => 2..4_u8], prop_oneof![4 => Just(0_u16), 1 => 0..200_u16]), 1..600),
        ) {
            agree(Bits::B24, first, &packets);
            agree(Bits::B32, first, &packets);
        }

        #[test]
        fn counts_add_up_whatever_comes(numbers in prop::collection::vec(prop_oneof![any::<u32>(), 0..3000_u32], 0..400)) {
            for bits in [Bits::B24, Bits::B32] {
                let mut tracker = SequenceTracker::default();
                for &number in &numbers {
                    tracker.observe(number & bits.mask(), bits);
                    let counts = tracker.counts();
                    prop_assert!(counts.different + counts.past_different + counts.duplicates <= counts.received);
                    prop_assert!(counts.lowest <= counts.highest);
                    prop_assert!(counts.reordered <= counts.received);
                }
                prop_assert_eq!(tracker.counts().received, numbers.len() as u64);
            }
        }
    }

    #[test]
    fn long_gaps_are_loss_up_to_a_quarter_of_the_space() {
        let mut tracker = SequenceTracker::default();
        tracker.observe(5, Bits::B24);
        tracker.observe(5 + (1 << 22), Bits::B24);
        assert_eq!(tracker.counts().lost(), (1 << 22) - 1);
        // Beyond, a single packet changes nothing.
        tracker.observe(7 + (1 << 23), Bits::B24);
        let counts = tracker.counts();
        assert_eq!((counts.lost(), counts.reordered, counts.restarts), ((1 << 22) - 1, 1, 0));
    }

    #[test]
    fn a_sender_that_starts_anew_loses_nothing() {
        for bits in [Bits::B24, Bits::B32] {
            let mut tracker = SequenceTracker::default();
            for number in (100_000..100_500).chain(0..500).chain(7..17) {
                tracker.observe(number, bits);
            }
            let counts = tracker.counts();
            assert_eq!((counts.received, counts.lost(), counts.restarts), (1010, 0, 1));
            assert_eq!((counts.reordered, counts.duplicates), (0, 10));
        }
    }

    #[test]
    fn loss_before_a_restart_is_kept() {
        let mut tracker = SequenceTracker::default();
        for number in [50_000, 50_003, 0, 1, 3] {
            tracker.observe(number, Bits::B32);
        }
        let counts = tracker.counts();
        assert_eq!((counts.lost(), counts.restarts, counts.received), (3, 1, 5));
    }

    #[test]
    fn what_is_later_than_the_window_is_late_and_stays_lost() {
        let mut tracker = SequenceTracker::default();
        tracker.observe(0, Bits::B32);
        (2..3000).for_each(|number| tracker.observe(number, Bits::B32));
        tracker.observe(1, Bits::B32);
        let counts = tracker.counts();
        assert_eq!((counts.lost(), counts.reordered, counts.restarts), (1, 1, 0));
    }
}
