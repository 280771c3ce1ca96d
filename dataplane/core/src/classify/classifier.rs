//! The verdicts of a batch of packets.

use sluice_model::PortId;

use super::cache::{Cache, CacheCounts, KEY_WORDS};
use super::program::Program;
use super::sets::Sets;
use super::view::View;
use crate::verdict::ActionSet;
use crate::wire::Parsed;

/// The most packets that one call classifies.
const BATCH: usize = 64;

/// A verdict: which [`ActionSet`] of the classifier that gave it. Valid until the next call of
/// [`Classifier::classify`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VerdictId(u32);

impl VerdictId {
    /// A verdict that names no set: no policy, no copy.
    pub const NONE: Self = Self(u32::MAX);
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
        Self { cache_entries: 32_768, sets: 8_192 }
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
}

/// One worker's verdicts for one [`Program`]. All memory is taken by [`Classifier::new`].
#[derive(Debug)]
pub struct Classifier {
    cache: Cache,
    sets: Sets,
    keys: Box<[[u64; KEY_WORDS]; BATCH]>,
    lines: Box<[usize; BATCH]>,
    matched: Vec<u32>,
    counts: CacheCounts,
}

impl Classifier {
    /// A classifier for `program`.
    #[must_use]
    pub fn new(program: &Program, config: ClassifierConfig) -> Self {
        Self {
            cache: Cache::new(config.cache_entries, program.key_words),
            sets: Sets::new(program, config.sets, BATCH),
            keys: Box::new([[0; KEY_WORDS]; BATCH]),
            lines: Box::new([0; BATCH]),
            matched: Vec::with_capacity(program.policy_count()),
            counts: CacheCounts::default(),
        }
    }

    /// Finds the verdict of every packet of `input`. `program` must be the one the classifier was made for; `verdicts`
    /// must be as long as the input.
    pub fn classify(&mut self, program: &Program, input: &Input<'_>, verdicts: &mut [VerdictId]) {
        if !self.sets.has_room(program, BATCH) {
            self.counts.resets += 1;
            self.sets.clear();
            self.cache.clear();
        }
        let packets = verdicts.len().min(input.outer.len()).min(BATCH);
        self.make_keys(program, input, packets);
        let cacheable = program.key_words <= KEY_WORDS;
        for (key, line) in self.keys.iter().zip(self.lines.iter_mut()).take(packets) {
            *line = self.cache.line_of(key);
        }
        let mut hits = 0;
        for (index, verdict) in verdicts.iter_mut().enumerate().take(packets) {
            let (Some(key), Some(&line)) = (self.keys.get(index), self.lines.get(index)) else { continue };
            *verdict = match self.cache.get(line, key) {
                Some(id) if cacheable => {
                    hits += 1;
                    VerdictId(id)
                }
                _ => self.work_out(program, input, index, line, cacheable),
            };
        }
        self.counts.hits += hits;
        self.counts.misses += packets as u64 - hits;
    }

    /// What the policies make of the packet with this verdict.
    #[inline]
    #[must_use]
    pub fn action_set(&self, id: VerdictId) -> ActionSet<'_> {
        self.sets.get(id.0)
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

    /// Packs the classes of every packet into its key, dimension by dimension.
    #[inline]
    fn make_keys(&mut self, program: &Program, input: &Input<'_>, packets: usize) {
        for key in self.keys.iter_mut().take(packets) {
            *key = [0; KEY_WORDS];
        }
        for slot in &program.layout {
            let (view, parsed) =
                if slot.inner { (&program.inner, input.inner) } else { (&program.outer, input.outer) };
            let Some(view) = view else { continue };
            let packets =
                parsed.iter().zip(input.frames).zip(input.wire_len).zip(input.ingress).take(packets);
            for (key, (((parsed, frame), &wire_len), &ingress)) in self.keys.iter_mut().zip(packets) {
                let class = view.class(slot.dimension, parsed, frame, wire_len, ingress);
                if let Some(word) = key.get_mut(slot.word) {
                    *word |= u64::from(class) << slot.shift;
                }
            }
        }
    }

    /// Evaluates the bitmaps for one packet and keeps the verdict.
    #[cold]
    fn work_out(
        &mut self,
        program: &Program,
        input: &Input<'_>,
        index: usize,
        line: usize,
        cacheable: bool,
    ) -> VerdictId {
        self.matched.clear();
        let views: [(&Option<View>, &[Parsed]); 2] =
            [(&program.outer, input.outer), (&program.inner, input.inner)];
        for (view, parsed) in views {
            let (Some(view), Some(parsed)) = (view, parsed.get(index)) else { continue };
            let frame = input.frames.get(index).copied().unwrap_or(&[]);
            let wire_len = input.wire_len.get(index).copied().unwrap_or(0);
            let ingress = input.ingress.get(index).copied().unwrap_or_default();
            view.matches(|d| view.class(d, parsed, frame, wire_len, ingress), &mut self.matched);
        }
        // Each view is ascending by itself.
        self.matched.sort_unstable();
        let id = self.sets.intern(program, &self.matched);
        if cacheable && let Some(key) = self.keys.get(index) {
            self.cache.insert(line, key, id);
        }
        VerdictId(id)
    }
}
