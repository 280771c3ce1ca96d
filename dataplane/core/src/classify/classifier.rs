//! The verdicts of a batch of packets.

use sluice_model::PortId;

use super::batch::{BATCH, Batch};
use super::cache::{Cache, CacheCounts, KEY_WORDS};
use super::program::Program;
use super::sets::Sets;
use crate::verdict::ActionSet;
use crate::wire::Parsed;

/// A verdict: which [`ActionSet`] of the classifier that gave it. Valid until the next call of
/// [`Classifier::classify`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VerdictId(u32);

impl VerdictId {
    /// A verdict that names no set: no policy, no copy.
    pub const NONE: Self = Self(u32::MAX);

    /// The number, for keeping it elsewhere together with [`Classifier::stamp`].
    #[inline]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The verdict of a number that was kept.
    #[inline]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// How much memory a classifier takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifierConfig {
    /// Combinations of classes whose verdict is kept.
    pub cache_entries: usize,
    /// Distinct verdicts that are kept.
    pub sets: usize,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self { cache_entries: 32_768, sets: 16_384 }
    }
}

/// A batch of packets, as parallel slices of at most 64.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The first segment of each frame.
    pub frames: &'a [&'a [u8]],
    /// Outermost headers.
    pub outer: &'a [Parsed],
    /// Innermost headers; may be empty unless [`Program::needs_inner`].
    pub inner: &'a [Parsed],
    /// Original lengths in bytes.
    pub wire_len: &'a [u32],
    /// Where each packet came in.
    pub ingress: &'a [PortId],
    /// The number of the tap that each packet came from.
    pub taps: &'a [u16],
}

/// One worker's verdicts for one [`Program`]. All memory is taken by [`Classifier::new`].
#[derive(Debug)]
pub struct Classifier {
    cache: Cache,
    sets: Sets,
    /// The keys of the batch, word by word.
    keys: Box<[[u64; BATCH]; KEY_WORDS]>,
    matched: Vec<u32>,
    counts: CacheCounts,
    stamp: u32,
}

impl Classifier {
    /// A classifier for `program`.
    #[must_use]
    pub fn new(program: &Program, config: ClassifierConfig) -> Self {
        Self {
            cache: Cache::new(config.cache_entries, program.key_words),
            sets: Sets::new(program, config.sets),
            keys: Box::new([[0; BATCH]; KEY_WORDS]),
            matched: Vec::with_capacity(program.bounds.matched),
            counts: CacheCounts::default(),
            stamp: 1,
        }
    }

    /// Finds the verdict of every packet of `input`. `program` must be the one the classifier was made for; `verdicts`
    /// must be as long as the input.
    pub fn classify(&mut self, program: &Program, input: &Input<'_>, verdicts: &mut [VerdictId]) {
        if !self.sets.has_room() {
            self.forget();
        }
        let outer = Batch::new(input.frames, input.outer, input.wire_len, input.ingress, input.taps);
        let inner = Batch::new(input.frames, input.inner, input.wire_len, input.ingress, input.taps);
        let views = [outer, inner];
        let packets = verdicts.len().min(outer.len());
        let verdicts = verdicts.get_mut(..packets).unwrap_or_default();
        match program.key_words {
            1 => self.look_up::<1>(program, &views, verdicts),
            2 => self.look_up::<2>(program, &views, verdicts),
            3 => self.look_up::<3>(program, &views, verdicts),
            4 => self.look_up::<4>(program, &views, verdicts),
            5 => self.look_up::<5>(program, &views, verdicts),
            6 => self.look_up::<6>(program, &views, verdicts),
            _ => self.work_out_all(program, &views, verdicts),
        }
    }

    /// Asks for what [`Classifier::action_set`] reads first.
    #[inline(always)]
    pub fn prefetch(&self, id: VerdictId) {
        self.sets.prefetch(id.0);
    }

    /// What the policies make of the packet with this verdict.
    #[inline]
    #[must_use]
    pub fn action_set(&self, id: VerdictId) -> ActionSet<'_> {
        self.sets.get(id.0)
    }

    /// Says which verdicts are valid: those given under this stamp. It changes when all verdicts are forgotten; a new
    /// program has a new classifier, whose stamps its user keeps apart by [`Classifier::start_at`].
    #[inline]
    #[must_use]
    pub fn stamp(&self) -> u32 {
        self.stamp
    }

    /// Lets stamps go on from `stamp`, before the first verdict is given.
    pub fn start_at(&mut self, stamp: u32) {
        self.stamp = stamp;
    }

    /// Numbers of verdicts are below this.
    #[must_use]
    pub fn most_verdicts(&self) -> usize {
        self.sets.capacity()
    }

    /// Whether the next call of [`Classifier::classify`] forgets all verdicts first.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.sets.has_room()
    }

    /// How often the cache had an answer.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        self.counts
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.cache.bytes() + self.sets.bytes()
    }

    /// The verdicts by the cache, for keys of `N` words; the rest is worked out.
    fn look_up<const N: usize>(
        &mut self,
        program: &Program,
        views: &[Batch<'_>; 2],
        verdicts: &mut [VerdictId],
    ) {
        const { assert!(N <= KEY_WORDS, "as many words as there are") };
        for word in self.keys.iter_mut().take(N) {
            *word = [0; BATCH];
        }
        for slot in &program.layout {
            let (view, batch) =
                if slot.inner { (&program.inner, &views[1]) } else { (&program.outer, &views[0]) };
            if let (Some(view), Some(word)) = (view, self.keys.get_mut(slot.word)) {
                view.add_classes(slot.dimension, batch, word, slot.shift);
            }
        }
        let Some((words, _)) = self.keys.split_first_chunk::<N>() else { return };
        let mut missing = 0_u64;
        for (index, verdict) in verdicts.iter_mut().enumerate().take(BATCH) {
            *verdict = VerdictId(self.cache.get(&words.each_ref().map(|word| word[index])));
            missing |= u64::from(*verdict == VerdictId::NONE) << index;
        }
        let misses = u64::from(missing.count_ones());
        self.counts.hits += verdicts.len() as u64 - misses;
        self.counts.misses += misses;
        while missing != 0 {
            let index = missing.trailing_zeros() as usize;
            missing &= missing - 1;
            let Some((words, _)) = self.keys.split_first_chunk::<N>() else { return };
            let key = words.each_ref().map(|word| word.get(index).copied().unwrap_or(0));
            // An earlier packet of the batch may have brought it.
            let mut verdict = VerdictId(self.cache.get(&key));
            if verdict == VerdictId::NONE {
                verdict = self.work_out(program, views, index);
                self.cache.insert(&key, verdict.0);
            }
            if let Some(place) = verdicts.get_mut(index) {
                *place = verdict;
            }
        }
    }

    /// The verdicts without the cache, for a program whose keys are too long for it.
    #[cold]
    fn work_out_all(&mut self, program: &Program, views: &[Batch<'_>; 2], verdicts: &mut [VerdictId]) {
        for (index, verdict) in verdicts.iter_mut().enumerate() {
            *verdict = self.work_out(program, views, index);
        }
        self.counts.misses += verdicts.len() as u64;
    }

    /// Evaluates the bitmaps for one packet.
    #[inline(never)]
    fn work_out(&mut self, program: &Program, views: &[Batch<'_>; 2], index: usize) -> VerdictId {
        self.matched.clear();
        for (view, batch) in [&program.outer, &program.inner].into_iter().zip(views) {
            if let (Some(view), Some(packet)) = (view, batch.packet(index)) {
                view.matches(|dimension| view.class(dimension, &packet), &mut self.matched);
            }
        }
        if program.outer.is_some() && program.inner.is_some() {
            // Each view is ascending by itself.
            self.matched.sort_unstable();
        }
        VerdictId(self.sets.intern(program, &self.matched))
    }

    /// Forgets all verdicts, so that there is room for new ones.
    #[cold]
    fn forget(&mut self) {
        self.stamp = self.stamp.wrapping_add(1);
        self.counts.resets += 1;
        self.sets.clear();
        self.cache.clear();
    }
}
