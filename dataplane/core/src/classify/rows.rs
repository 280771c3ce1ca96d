//! Sets of policies as two-level bitmaps: which words are not zero, and those words.

use std::rc::Rc;

use super::sweep::Users;

/// A table of sets of policies, one row per class.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// Summary words per row: one bit for each 64 policies.
    summaries: usize,
    /// Where each row's packed words start, behind its summary.
    starts: Vec<u32>,
    words: Vec<u64>,
}

/// One set of policies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    summary: &'a [u64],
    words: &'a [u64],
}

impl Row<'_> {
    /// No policies.
    pub(super) const EMPTY: Row<'static> = Row { summary: &[], words: &[] };

    /// One bit for each of the words `64 * index ..`: whether it can be non-zero.
    #[inline]
    pub(super) fn summary(&self, index: usize) -> u64 {
        self.summary.get(index).copied().unwrap_or(0)
    }

    /// The policies `64 * word ..`.
    #[inline]
    pub(super) fn word(&self, word: usize) -> u64 {
        let (index, bit) = (word / 64, word % 64);
        let summary = self.summary(index);
        if summary >> bit & 1 == 0 {
            return 0;
        }
        let before: u32 =
            if index == 0 { 0 } else { self.summary.iter().take(index).map(|s| s.count_ones()).sum() };
        let rank = before + (summary & ((1 << bit) - 1)).count_ones();
        self.words.get(rank as usize).copied().unwrap_or(0)
    }
}

/// Summary words that `policies` policies need.
pub(super) fn summaries(policies: usize) -> usize {
    policies.div_ceil(64 * 64)
}

impl Rows {
    /// An empty table for so many policies.
    pub(super) fn new(policies: usize) -> Self {
        Self { summaries: summaries(policies), ..Self::default() }
    }

    /// Adds a row that holds the policies `members` (ascending or not, repeats allowed); returns its number.
    pub(super) fn push(&mut self, members: impl IntoIterator<Item = u32>) -> usize {
        let mut words = vec![0_u64; self.summaries * 64];
        for member in members {
            if let Some(word) = words.get_mut(member as usize / 64) {
                *word |= 1 << (member % 64);
            }
        }
        for some in words.chunks(64) {
            self.words.push((0..).zip(some).fold(0, |bits, (bit, &word)| bits | u64::from(word != 0) << bit));
        }
        self.starts.push(u32::try_from(self.words.len()).unwrap_or(u32::MAX));
        self.words.extend(words.into_iter().filter(|&word| word != 0));
        self.starts.len() - 1
    }

    /// Adds a row per class: the policies that use any of the class's members.
    pub(super) fn push_classes(&mut self, classes: &[Rc<[u32]>], users: &Users) {
        for members in classes {
            self.push(members.iter().flat_map(|&member| users.of(member).iter().copied()));
        }
    }

    /// Row `index`; empty if there is no such row.
    #[inline]
    pub(super) fn row(&self, index: usize) -> Row<'_> {
        let start = self.starts.get(index).map_or(self.words.len(), |&s| s as usize);
        let end = self.starts.get(index + 1).map_or(self.words.len(), |&s| s as usize - self.summaries);
        let summary = start.checked_sub(self.summaries).and_then(|first| self.words.get(first..start));
        Row { summary: summary.unwrap_or(&[]), words: self.words.get(start..end).unwrap_or(&[]) }
    }

    /// How many policies row `index` holds.
    pub(super) fn count(&self, index: usize) -> usize {
        self.row(index).words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// How many policies the fullest of the first `rows` rows holds.
    pub(super) fn most(&self, rows: u32) -> usize {
        (0..rows as usize).map(|row| self.count(row)).max().unwrap_or(0)
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.words.len() * 8 + self.starts.len() * 4
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_hold_what_was_put_in(sets in proptest::collection::vec(
            proptest::collection::btree_set(0..20_000_u32, 0..40), 1..6))
        {
            let mut rows = Rows::new(20_000);
            for set in &sets {
                rows.push(set.iter().rev().copied());
            }
            for (index, set) in sets.iter().enumerate() {
                let row = rows.row(index);
                for word in 0..20_000_usize.div_ceil(64) {
                    let expected = (0..64).filter(|b| set.contains(&((word * 64 + b) as u32)))
                        .fold(0_u64, |bits, b| bits | 1 << b);
                    prop_assert_eq!(row.word(word), expected);
                    prop_assert!(expected == 0 || row.summary(word / 64) >> (word % 64) & 1 == 1);
                }
            }
        }
    }
}
