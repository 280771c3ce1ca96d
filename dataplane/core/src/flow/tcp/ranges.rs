//! Which sequence numbers were seen below the highest run of them?
//!
//! Only flows with holes need this memory: each direction keeps its highest run inline, and lower runs in a block of a
//! bounded pool.

/// Runs in a block.
pub(super) const RUNS: usize = 16;
/// No block.
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// A run of sequence numbers: from `start`, before `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// Serial number arithmetic (RFC 1982): whether `a` comes before `b`.
#[inline(always)]
#[must_use]
pub(super) const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

/// The runs below the highest one, ascending, not touching each other.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    runs: [Run; RUNS],
    len: usize,
}

/// What a segment is to the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// All of it was seen before.
    Contained,
    /// Nothing of it was; now it is.
    New,
    /// Some of it was; now all is.
    Partly,
}

/// Blocks of runs for all flows of a worker. All memory is taken at start.
#[derive(Debug)]
pub struct RangePool {
    blocks: Box<[Block]>,
    free: Vec<u32>,
    exhausted: u64,
}

impl RangePool {
    /// A pool of `blocks` blocks.
    #[must_use]
    pub fn new(blocks: usize) -> Self {
        let blocks = blocks.min(NO_BLOCK as usize - 1);
        Self {
            blocks: vec![Block::default(); blocks].into(),
            free: (0..u32::try_from(blocks).unwrap_or(0)).rev().collect(),
            exhausted: 0,
        }
    }

    /// How often a flow had holes and no block was free: its older runs were forgotten then.
    #[must_use]
    pub fn exhausted(&self) -> u64 {
        self.exhausted
    }

    /// Blocks in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.blocks.len() - self.free.len()
    }

    /// Gives a block back.
    pub(super) fn release(&mut self, block: &mut u32) {
        if *block != NO_BLOCK {
            self.free.push(*block);
            *block = NO_BLOCK;
        }
    }

    /// Adds a run above all others of `block`, which may not exist yet. When the block is full, the hole between its
    /// two lowest runs counts as received.
    pub(super) fn push(&mut self, block: &mut u32, run: Run) {
        if *block == NO_BLOCK {
            let Some(free) = self.free.pop() else {
                self.exhausted += 1;
                return;
            };
            *block = free;
            if let Some(own) = self.blocks.get_mut(free as usize) {
                own.len = 0;
            }
        }
        let Some(own) = self.blocks.get_mut(*block as usize) else { return };
        if own.len == RUNS {
            own.merge_lowest();
        }
        own.runs[own.len] = run;
        own.len += 1;
    }

    /// Enters a segment that lies below the highest run, which starts at `top`. When it closes the last hole, the
    /// lower run joins the highest one: its start is given back as the new start.
    pub(super) fn enter(&mut self, block: &mut u32, segment: Run, top: &mut u32) -> Seen {
        let Some(own) = self.blocks.get_mut(*block as usize) else {
            // What is below was never seen, or forgotten.
            if segment.end == *top {
                *top = segment.start;
                return Seen::New;
            }
            self.push(block, segment);
            return Seen::New;
        };
        let seen = own.enter(segment);
        if own.len > 0 && own.runs[own.len - 1].end == *top {
            *top = own.runs[own.len - 1].start;
            own.len -= 1;
        }
        if own.len == 0 {
            self.release(block);
        }
        seen
    }
}

impl Block {
    fn merge_lowest(&mut self) {
        self.runs[1].start = self.runs[0].start;
        self.runs.copy_within(1.., 0);
        self.len -= 1;
    }

    fn enter(&mut self, segment: Run) -> Seen {
        let runs = &self.runs[..self.len];
        if runs.iter().any(|run| !before(segment.start, run.start) && !before(run.end, segment.end)) {
            return Seen::Contained;
        }
        // The runs that the segment overlaps or touches become one with it.
        let first = runs.iter().position(|run| !before(run.end, segment.start)).unwrap_or(self.len);
        let last = runs.iter().rposition(|run| !before(segment.end, run.start)).map_or(0, |last| last + 1);
        let overlaps = |run: &Run| before(run.start, segment.end) && before(segment.start, run.end);
        let seen = if runs.iter().any(overlaps) { Seen::Partly } else { Seen::New };
        if first < last {
            let mut joined = segment;
            if before(runs[first].start, joined.start) {
                joined.start = runs[first].start;
            }
            if before(joined.end, runs[last - 1].end) {
                joined.end = runs[last - 1].end;
            }
            self.runs[first] = joined;
            self.runs.copy_within(last..self.len, first + 1);
            self.len -= last - first - 1;
            return seen;
        }
        let mut place = first;
        if self.len == RUNS {
            self.merge_lowest();
            place = place.saturating_sub(1);
            // It may have come to lie in the hole that was closed.
            if place == 0
                && !before(self.runs[0].end, segment.end)
                && !before(segment.start, self.runs[0].start)
            {
                return seen;
            }
        }
        self.runs.copy_within(place..self.len, place + 1);
        self.runs[place] = segment;
        self.len += 1;
        seen
    }
}
