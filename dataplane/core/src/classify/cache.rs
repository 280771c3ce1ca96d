//! Which verdict does a combination of classes have? A bounded, set-associative table of those seen before.

/// The most words that a key takes.
pub(super) const KEY_WORDS: usize = 7;
/// Words of a cache line.
const LINE: usize = 8;

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

/// A table of lines; each holds as many entries of (key, verdict) as fit. Verdicts are stored plus one: 0 = empty.
#[derive(Debug)]
pub(super) struct Cache {
    lines: Box<[[u64; LINE]]>,
    mask: usize,
    key_words: usize,
    /// Words per entry: a power of two.
    stride: usize,
    /// Which place of a full line is given up next.
    turn: usize,
}

impl Cache {
    /// A table of about `entries` entries with keys of `key_words` words (at most [`KEY_WORDS`]).
    pub(super) fn new(entries: usize, key_words: usize) -> Self {
        let key_words = key_words.min(KEY_WORDS);
        let stride = (key_words + 1).next_power_of_two();
        let lines = (entries * stride / LINE).max(1).next_power_of_two();
        Self { lines: vec![[0; LINE]; lines].into(), mask: lines - 1, key_words, stride, turn: 0 }
    }

    /// Where a key is kept.
    #[inline]
    pub(super) fn line_of(&self, key: &[u64; KEY_WORDS]) -> usize {
        let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
        for word in key.iter().take(self.key_words) {
            let product = u128::from(hash ^ word) * 0xd6e8_feb8_6659_fd93_u128;
            let [a, b] =
                [product & u128::from(u64::MAX), product >> 64].map(|half| u64::try_from(half).unwrap_or(0));
            hash = a ^ b;
        }
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & self.mask
    }

    /// The verdict of `key`, whose line is `line`.
    #[inline]
    pub(super) fn get(&self, line: usize, key: &[u64; KEY_WORDS]) -> Option<u32> {
        let key = key.get(..self.key_words)?;
        self.lines.get(line)?.chunks_exact(self.stride).find_map(|entry| {
            let (stored, verdict) = entry.split_at_checked(self.key_words)?;
            let verdict = *verdict.first()?;
            (stored == key && verdict != 0).then(|| u32::try_from(verdict - 1).ok())?
        })
    }

    /// Keeps the verdict of `key`, in an empty place of its line or in place of another.
    pub(super) fn insert(&mut self, line: usize, key: &[u64; KEY_WORDS], verdict: u32) {
        let (stride, key_words, turn) = (self.stride, self.key_words, self.turn);
        self.turn = self.turn.wrapping_add(1);
        let Some(line) = self.lines.get_mut(line) else { return };
        let entries = LINE / stride;
        let empty = line.chunks_exact(stride).position(|entry| entry.get(key_words) == Some(&0));
        let place = empty.unwrap_or(turn % entries);
        if let Some(entry) = line.chunks_exact_mut(stride).nth(place)
            && let Some((stored, value)) = entry.split_at_mut_checked(key_words)
            && let (Some(key), Some(value)) = (key.get(..key_words), value.first_mut())
        {
            stored.copy_from_slice(key);
            *value = u64::from(verdict) + 1;
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.lines.fill([0; LINE]);
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * LINE * 8
    }
}
