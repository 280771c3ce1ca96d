//! Which class does an address belong to? A 16-8-8 trie for IPv4, indexed boundaries for IPv6 and for Ethernet.

use super::sweep::Interval;

/// Marks an entry of the IPv4 trie that points to a node rather than naming a class.
const NODE: u32 = 1 << 31;

/// IPv4 addresses to classes: at most three dependent loads.
#[derive(Clone, Debug)]
pub(super) struct Ipv4Trie {
    /// By the upper 16 bits.
    root: Vec<u32>,
    /// 256 entries each, by the next 8 bits.
    nodes: Vec<u32>,
}

impl Ipv4Trie {
    pub(super) fn new(intervals: &[Interval]) -> Self {
        let mut trie = Self { root: Vec::with_capacity(1 << 16), nodes: Vec::new() };
        let mut cursor = 0;
        for upper in 0..1_u128 << 16 {
            let entry = trie.entry(intervals, &mut cursor, upper << 16, 16);
            trie.root.push(entry);
        }
        trie
    }

    /// The entry for the block of `2^bits` addresses from `first` on; `cursor` is the interval of `first` or an earlier
    /// one, and moves on.
    fn entry(&mut self, intervals: &[Interval], cursor: &mut usize, first: u128, bits: u32) -> u32 {
        while intervals.get(*cursor + 1).is_some_and(|next| next.0 <= first) {
            *cursor += 1;
        }
        let last = first + (1 << bits) - 1;
        if intervals.get(*cursor + 1).is_none_or(|next| next.0 > last) {
            return intervals.get(*cursor).map_or(0, |interval| interval.1);
        }
        let node = self.nodes.len() / 256;
        self.nodes.resize(self.nodes.len() + 256, 0);
        for index in 0..256_usize {
            let entry = self.entry(intervals, cursor, first + ((index as u128) << (bits - 8)), bits - 8);
            if let Some(place) = self.nodes.get_mut(node * 256 + index) {
                *place = entry;
            }
        }
        NODE | u32::try_from(node).unwrap_or(0)
    }

    /// The class of `address` (host order).
    #[inline]
    pub(super) fn class(&self, address: u32) -> u32 {
        let [a, b, c, d] = address.to_be_bytes();
        let mut entry = self.root.get(usize::from(u16::from_be_bytes([a, b]))).copied().unwrap_or(0);
        for byte in [c, d] {
            if entry & NODE == 0 {
                return entry;
            }
            let place = (entry ^ NODE) as usize * 256 + usize::from(byte);
            entry = self.nodes.get(place).copied().unwrap_or(0);
        }
        entry
    }

    pub(super) fn bytes(&self) -> usize {
        (self.root.len() + self.nodes.len()) * 4
    }
}

/// Long numbers to classes: a table by their upper 16 bits, then a search among the boundaries there.
#[derive(Clone, Debug)]
pub(super) struct Boundaries {
    /// How far the upper 16 bits are up.
    shift: u32,
    /// For each value of the upper 16 bits, the first interval that starts there or later.
    first: Vec<u32>,
    starts: Vec<u128>,
    classes: Vec<u32>,
}

impl Boundaries {
    /// Intervals of numbers of `width` bits, at least 16.
    pub(super) fn new(intervals: &[Interval], width: u32) -> Self {
        let shift = width - 16;
        let index = |upper: u128| {
            let count = intervals.partition_point(|&(start, _)| start >> shift < upper);
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        Self {
            shift,
            first: (0..=1_u128 << 16).map(index).collect(),
            starts: intervals.iter().map(|i| i.0).collect(),
            classes: intervals.iter().map(|i| i.1).collect(),
        }
    }

    /// The class of `value`.
    #[inline]
    pub(super) fn class(&self, value: u128) -> u32 {
        let upper = usize::try_from(value >> self.shift).unwrap_or(usize::MAX);
        let (Some(&first), Some(&end)) = (self.first.get(upper), self.first.get(upper.saturating_add(1)))
        else {
            return 0;
        };
        let (first, end) = (first as usize, end as usize);
        let here = self.starts.get(first..end).unwrap_or(&[]);
        let place = first + here.partition_point(|&start| start <= value);
        place.checked_sub(1).and_then(|last| self.classes.get(last)).copied().unwrap_or(0)
    }

    pub(super) fn bytes(&self) -> usize {
        self.first.len() * 4 + self.starts.len() * 20
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn intervals(width: u32) -> impl Strategy<Value = Vec<Interval>> {
        let low = proptest::collection::btree_map(1..1_u128 << 20, 0..9_u32, 0..40);
        (low, 0..=width - 20).prop_map(|(starts, shift)| {
            let mut all = vec![(0, 0)];
            all.extend(starts.into_iter().map(|(start, class)| (start << shift, class)));
            all
        })
    }

    fn slow(intervals: &[Interval], value: u128) -> u32 {
        intervals.iter().rev().find(|i| i.0 <= value).map_or(0, |i| i.1)
    }

    proptest! {
        #[test]
        fn tables_agree_with_a_linear_search(
            four in intervals(32), six in intervals(128), values in proptest::collection::vec(any::<u128>(), 20))
        {
            let trie = Ipv4Trie::new(&four);
            let boundaries = Boundaries::new(&six, 128);
            let near = |all: &[Interval]| all.iter().flat_map(|i| [i.0.saturating_sub(1), i.0, i.0 + 1]).collect::<Vec<_>>();
            for value in near(&four).into_iter().chain(values.iter().map(|v| v >> 96)) {
                prop_assert_eq!(trie.class(value as u32), slow(&four, value));
            }
            for value in near(&six).into_iter().chain(values) {
                prop_assert_eq!(boundaries.class(value), slow(&six, value));
            }
        }
    }
}
