//! Which verdict does a combination of classes have? A bounded, set-associative table of those seen before.

/// The most words that a key takes.
pub(super) const KEY_WORDS: usize = 6;

/// How often the cache had an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Packets whose combination of classes was there.
    pub hits: u64,
    /// Packets whose verdict had to be worked out.
    pub misses: u64,
    /// Times that all verdicts were forgotten because the memory for them was full.
    pub resets: u64,
}

/// Entries that share a cache line: as many keys as fit, and their verdicts plus one; 0 = empty.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line {
    keys: [u64; KEY_WORDS],
    verdicts: [u32; 4],
}

impl Line {
    const EMPTY: Self = Self { keys: [0; KEY_WORDS], verdicts: [0; 4] };
}

const _: () = assert!(size_of::<Line>() == 64);

/// How many keys of so many words fit into a line.
const fn ways(key_words: usize) -> usize {
    let ways = KEY_WORDS / key_words;
    if ways < 4 { ways } else { 4 }
}

/// A table of lines. Keys are of `N` words, 1 to [`KEY_WORDS`], the same `N` in all calls.
#[derive(Debug)]
pub(super) struct Cache {
    lines: Box<[Line]>,
    mask: usize,
    /// Which place of a full line is given up next.
    turn: usize,
}

impl Cache {
    /// A table of about `entries` entries with keys of `key_words` words.
    pub(super) fn new(entries: usize, key_words: usize) -> Self {
        let lines = entries.div_ceil(ways(key_words.clamp(1, KEY_WORDS))).max(1).next_power_of_two();
        Self { lines: vec![Line::EMPTY; lines].into(), mask: lines - 1, turn: 0 }
    }

    #[inline(always)]
    fn place<const N: usize>(&self, key: &[u64; N]) -> usize {
        let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
        for word in key {
            let product = u128::from(hash ^ word) * 0xd6e8_feb8_6659_fd93_u128;
            hash = low(product) ^ low(product >> 64);
        }
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & self.mask
    }

    /// The verdict of `key`, or `u32::MAX`. Without branches: which place holds the key is no pattern to predict.
    #[inline(always)]
    pub(super) fn get<const N: usize>(&self, key: &[u64; N]) -> u32 {
        let Some(line) = self.lines.get(self.place(key)) else { return u32::MAX };
        let mut found = 0;
        for (stored, verdict) in line.keys.as_chunks::<N>().0.iter().zip(line.verdicts) {
            let differs = stored.iter().zip(key).fold(0, |bits, (stored, word)| bits | (stored ^ word));
            found |= if differs == 0 { verdict } else { 0 };
        }
        found.wrapping_sub(1)
    }

    /// Keeps the verdict of `key`, in an empty place of its line or in place of another. The key must not be there.
    pub(super) fn insert<const N: usize>(&mut self, key: &[u64; N], verdict: u32) {
        let turn = self.turn;
        self.turn = self.turn.wrapping_add(1);
        let place = self.place(key);
        let Some(line) = self.lines.get_mut(place) else { return };
        let ways = ways(N);
        let empty = line.verdicts.iter().take(ways).position(|&verdict| verdict == 0);
        let way = empty.unwrap_or(turn % ways);
        let stored = line.keys.as_chunks_mut::<N>().0.get_mut(way);
        if let (Some(stored), Some(value)) = (stored, line.verdicts.get_mut(way)) {
            *stored = *key;
            *value = verdict.wrapping_add(1);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.lines.fill(Line::EMPTY);
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(wide: u128) -> u64 {
    wide as u64
}
