//! Which sequence numbers were seen?
//!
//! Each direction of a connection keeps its highest run of them inline: a segment that continues it touches nothing
//! else. Lower runs exist only where there are holes, in a block of a bounded pool.

/// Runs of one direction, the highest one included.
#[cfg(test)]
const RUNS: usize = LOWER + 1;
/// Runs below the highest one.
const LOWER: usize = 15;
/// No block.
pub(super) const NO_BLOCK: u32 = u32::MAX;
/// How far apart what is remembered may be: as far as a window may reach (RFC 7323 section 2.3). Farther ones could not
/// be compared as serial numbers.
const SPAN: u32 = 1 << 30;
/// No packet is as long.
const MAX_SEGMENT: u32 = 1 << 24;

/// A run of sequence numbers: from `start`, before `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Run {
    /// Makes the run reach to `end`. Its beginning is forgotten when it becomes longer than can be compared: `true`, and
    /// what lies below must be forgotten too.
    #[inline(always)]
    #[must_use]
    pub(super) fn extend(&mut self, end: u32) -> bool {
        self.end = end;
        let is_long = end.wrapping_sub(self.start) > SPAN;
        if is_long {
            self.start = end.wrapping_sub(SPAN / 2);
        }
        is_long
    }
}

/// Serial number arithmetic (RFC 1982): whether `a` comes before `b`.
#[inline(always)]
#[must_use]
pub(super) const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

/// The runs below the highest one, ascending, not touching each other.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Block {
    runs: [Run; LOWER],
    len: usize,
}

const _: () = assert!(size_of::<Block>() == 128);

/// What a segment is to the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It continues the highest run, or leaves a hole above it, or is the first; nothing of it was seen.
    Above,
    /// Nothing of it was seen, but there is something above it.
    Below,
    /// All of it was seen.
    Contained,
    /// Some of it was seen.
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
    /// A pool of `blocks` blocks, of 132 bytes each.
    #[must_use]
    pub fn new(blocks: usize) -> Self {
        let blocks = blocks.min(NO_BLOCK as usize - 1);
        Self {
            blocks: vec![Block::default(); blocks].into(),
            free: (0..u32::try_from(blocks).unwrap_or(0)).rev().collect(),
            exhausted: 0,
        }
    }

    /// Bytes that a pool of `blocks` blocks takes.
    #[must_use]
    pub const fn bytes_for(blocks: usize) -> u64 {
        (blocks * (size_of::<Block>() + size_of::<u32>())) as u64
    }

    /// How often a direction had holes and no block was free: its older runs were forgotten then.
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

    /// Enters a segment; `top` is the highest run of its direction, which must not be empty unless it is the only one.
    ///
    /// When there are more runs than are kept, the hole between the two lowest counts as received. A segment that is too
    /// far away to be compared takes the place of all that was known.
    pub(super) fn enter(&mut self, block: &mut u32, top: &mut Run, segment: Run) -> Seen {
        if segment.end.wrapping_sub(segment.start) > MAX_SEGMENT {
            return Seen::Partly;
        }
        let (up, down) = (segment.start.wrapping_sub(top.end), top.end.wrapping_sub(segment.start));
        if up > SPAN && down > SPAN {
            self.release(block);
            *top = segment;
            return Seen::Above;
        }
        if up <= SPAN {
            if up == 0 {
                if top.extend(segment.end) {
                    self.release(block);
                }
            } else {
                let mut lower = std::mem::replace(top, segment);
                self.forget_old(block, top.end);
                if top.end.wrapping_sub(lower.start) > SPAN {
                    lower.start = top.end.wrapping_sub(SPAN);
                }
                if before(lower.start, lower.end) {
                    self.insert(block, lower);
                }
            }
            return Seen::Above;
        }
        self.forget_old(block, top.end);
        if !before(segment.start, top.start) {
            if !before(top.end, segment.end) {
                return Seen::Contained;
            }
            if top.extend(segment.end) {
                self.release(block);
            }
            return Seen::Partly;
        }
        if before(segment.end, top.start) {
            return self.insert(block, segment);
        }
        // It reaches the highest run, and takes the lower runs that it reaches along.
        let overlaps_top = before(top.start, segment.end);
        let (start, overlaps_lower) = self.take_from(block, segment.start);
        top.start = start;
        if before(top.end, segment.end) && top.extend(segment.end) {
            self.release(block);
        }
        if overlaps_top || overlaps_lower { Seen::Partly } else { Seen::Below }
    }

    /// Enters a segment that lies below the highest run and does not touch it.
    fn insert(&mut self, block: &mut u32, segment: Run) -> Seen {
        if *block == NO_BLOCK {
            let Some(free) = self.free.pop() else {
                self.exhausted += 1;
                return Seen::Below;
            };
            *block = free;
            if let Some(own) = self.blocks.get_mut(free as usize) {
                own.len = 0;
            }
        }
        self.blocks.get_mut(*block as usize).map_or(Seen::Below, |own| own.insert(segment))
    }

    /// Takes out the runs that reach `from` or lie above it. Gives the least of their starts and `from`, and whether one
    /// lies on both sides of `from` or above it.
    fn take_from(&mut self, block: &mut u32, from: u32) -> (u32, bool) {
        let Some(own) = self.blocks.get_mut(*block as usize) else { return (from, false) };
        let runs = own.runs.get(..own.len).unwrap_or_default();
        let Some(first) = runs.iter().position(|run| !before(run.end, from)) else { return (from, false) };
        let start = if before(runs[first].start, from) { runs[first].start } else { from };
        // The first may only touch; any other lies above.
        let overlaps = runs.len() - first > 1 || runs[first].end != from;
        own.len = first;
        if first == 0 {
            self.release(block);
        }
        (start, overlaps)
    }

    /// Forgets runs that lie too far below `top_end`.
    fn forget_old(&mut self, block: &mut u32, top_end: u32) {
        let Some(own) = self.blocks.get_mut(*block as usize) else { return };
        let runs = own.runs.get(..own.len).unwrap_or_default();
        let old = runs.iter().take_while(|run| top_end.wrapping_sub(run.start) > SPAN).count();
        if old > 0 {
            own.runs.copy_within(old.., 0);
            own.len -= old;
        }
        if own.len == 0 {
            self.release(block);
        }
    }
}

impl Block {
    fn insert(&mut self, segment: Run) -> Seen {
        let runs = self.runs.get(..self.len).unwrap_or_default();
        // The runs from `first` and before `last` overlap the segment or touch it.
        let first = runs.iter().position(|run| !before(run.end, segment.start)).unwrap_or(self.len);
        let last = runs.iter().rposition(|run| !before(segment.end, run.start)).map_or(0, |last| last + 1);
        if first >= last {
            self.insert_apart(first, segment);
            return Seen::Below;
        }
        let (lowest, highest) = (runs[first], runs[last - 1]);
        if !before(segment.start, lowest.start) && !before(lowest.end, segment.end) {
            return Seen::Contained;
        }
        let overlaps = |run: &Run| before(run.start, segment.end) && before(segment.start, run.end);
        let seen = if runs[first..last].iter().any(overlaps) { Seen::Partly } else { Seen::Below };
        self.runs[first] = Run {
            start: if before(lowest.start, segment.start) { lowest.start } else { segment.start },
            end: if before(segment.end, highest.end) { highest.end } else { segment.end },
        };
        self.runs.copy_within(last..self.len, first + 1);
        self.len -= last - first - 1;
        seen
    }

    /// Puts a run that touches no other at `place`. In a full block the two lowest runs, the new one among them, become
    /// one.
    fn insert_apart(&mut self, place: usize, segment: Run) {
        if self.len < LOWER {
            self.runs.copy_within(place..self.len, place + 1);
            self.runs[place] = segment;
            self.len += 1;
            return;
        }
        match place {
            0 => self.runs[0].start = segment.start,
            1 => self.runs[0].end = segment.end,
            _ => {
                self.runs[1].start = self.runs[0].start;
                self.runs.copy_within(1..place, 0);
                self.runs[place - 1] = segment;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sequence numbers that the model has bits for.
    const BYTES: usize = 3000;

    /// One bit for each sequence number from `base`; whatever is asked is found by looking at all of them.
    struct Model {
        base: u32,
        seen: Vec<bool>,
    }

    impl Model {
        fn runs(&self) -> Vec<(usize, usize)> {
            let mut runs: Vec<(usize, usize)> = Vec::new();
            for place in (0..BYTES).filter(|place| self.seen[*place]) {
                match runs.last_mut() {
                    Some(run) if run.1 == place => run.1 += 1,
                    _ => runs.push((place, place + 1)),
                }
            }
            runs
        }

        fn enter(&mut self, start: usize, len: usize) -> Seen {
            let seen = self.seen[start..start + len].iter().filter(|seen| **seen).count();
            let above = self.seen[start + len..].iter().any(|seen| *seen);
            self.seen[start..start + len].fill(true);
            let runs = self.runs();
            if runs.len() > RUNS {
                self.seen[runs[0].0..runs[1].1].fill(true);
            }
            match seen {
                0 if above => Seen::Below,
                0 => Seen::Above,
                seen if seen == len => Seen::Contained,
                _ => Seen::Partly,
            }
        }

        fn run(&self, run: Run) -> (usize, usize) {
            (run.start.wrapping_sub(self.base) as usize, run.end.wrapping_sub(self.base) as usize)
        }
    }

    fn all_runs(pool: &RangePool, block: u32, top: Run) -> Vec<Run> {
        let lower = pool.blocks.get(block as usize).map_or(&[][..], |own| &own.runs[..own.len]);
        lower.iter().copied().chain([top]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Random segments, wherever the numbers wrap, against one bit for each number; many small ones overflow the
        /// runs that are kept.
        #[test]
        fn agrees_with_bits(
            base in prop_oneof![any::<u32>(), (u32::MAX - 3000)..=u32::MAX],
            small in any::<bool>(),
            segments in prop::collection::vec((0..BYTES - 60, 1..60_usize), 1..120),
        ) {
            let mut model = Model { base, seen: vec![false; BYTES] };
            let mut pool = RangePool::new(1);
            let (mut block, mut top) = (NO_BLOCK, None);
            for (start, len) in segments {
                let len = if small { len % 6 + 1 } else { len };
                let run = Run {
                    start: base.wrapping_add(start as u32),
                    end: base.wrapping_add((start + len) as u32),
                };
                let expected = model.enter(start, len);
                let seen = match &mut top {
                    None => { top = Some(run); Seen::Above }
                    Some(top) => pool.enter(&mut block, top, run),
                };
                prop_assert_eq!(seen, expected, "{:?} {}", start, len);
                let runs: Vec<_> =
                    all_runs(&pool, block, top.unwrap()).iter().map(|run| model.run(*run)).collect();
                prop_assert_eq!(runs, model.runs());
            }
            prop_assert_eq!(pool.exhausted(), 0);
            pool.release(&mut block);
            prop_assert_eq!(pool.in_use(), 0);
        }

        /// Whatever the numbers, runs stay ascending, apart, and near enough to be compared.
        #[test]
        fn stays_in_order(
            segments in prop::collection::vec((any::<u32>(), any::<u32>(), 0..4_u8), 1..200),
        ) {
            let mut pool = RangePool::new(1);
            let (mut block, mut top) = (NO_BLOCK, Run { start: 7, end: 9 });
            for (number, len, kind) in segments {
                let (start, len) = match kind {
                    0 => (number, len),
                    1 => (number, len % 65_536),
                    2 => (top.end.wrapping_add(number % SPAN), len % 65_536),
                    _ => (top.end.wrapping_sub(number % SPAN), len % MAX_SEGMENT),
                };
                pool.enter(&mut block, &mut top, Run { start, end: start.wrapping_add(len) });
                let runs = all_runs(&pool, block, top);
                prop_assert!(runs.len() <= RUNS);
                for pair in runs.windows(2) {
                    prop_assert!(before(pair[0].end, pair[1].start), "{:?}", runs);
                    prop_assert!(top.end.wrapping_sub(pair[0].start) <= 2 * SPAN, "{:?}", runs);
                }
            }
        }
    }

    #[test]
    fn without_memory_the_highest_run_is_still_known() {
        let mut pool = RangePool::new(0);
        let (mut block, mut top) = (NO_BLOCK, Run { start: 100, end: 200 });
        assert_eq!(pool.enter(&mut block, &mut top, Run { start: 300, end: 400 }), Seen::Above);
        assert_eq!(pool.exhausted(), 1);
        assert_eq!(pool.enter(&mut block, &mut top, Run { start: 310, end: 390 }), Seen::Contained);
        assert_eq!(pool.enter(&mut block, &mut top, Run { start: 250, end: 300 }), Seen::Below);
        assert_eq!(top, Run { start: 250, end: 400 });
        assert_eq!(pool.enter(&mut block, &mut top, Run { start: 100, end: 200 }), Seen::Below, "forgotten");
        assert_eq!((block, pool.exhausted()), (NO_BLOCK, 2));
    }

    #[test]
    fn a_long_run_forgets_its_beginning_and_what_is_below() {
        let mut pool = RangePool::new(1);
        let (mut block, mut top) = (NO_BLOCK, Run { start: 0, end: 10 });
        pool.enter(&mut block, &mut top, Run { start: 20, end: 30 });
        assert_eq!(pool.in_use(), 1);
        while top.end < u32::MAX - 2 * 60_000 {
            let next = Run { start: top.end, end: top.end + 60_000 };
            assert_eq!(pool.enter(&mut block, &mut top, next), Seen::Above);
        }
        assert_eq!(pool.in_use(), 0);
        assert!(top.end.wrapping_sub(top.start) <= SPAN);
    }
}
