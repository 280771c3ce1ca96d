//! Which class does an address belong to? A 16-8-8 trie for IPv4, adaptive nodes for longer numbers.

use super::sweep::Interval;

/// Marks an entry that points to a node rather than naming a class.
const NODE: u32 = 1 << 31;
/// Marks an entry of [`Boundaries`] that points to a few intervals, to be gone through.
const SCAN: u32 = 1 << 30;
/// The most boundaries that are gone through one by one.
const SCAN_MOST: usize = 6;

/// IPv4 addresses to classes: at most three dependent loads.
#[derive(Clone, Debug)]
pub(super) struct Ipv4Trie {
    /// By the upper 16 bits.
    root: Vec<u32>,
    /// 256 entries each, by the next 8 bits. The first is never pointed to.
    nodes: Vec<u32>,
}

impl Ipv4Trie {
    pub(super) fn new(intervals: &[Interval]) -> Self {
        let mut trie = Self { root: Vec::with_capacity(1 << 16), nodes: vec![0; 256] };
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

    /// The class of `address` (wire order). All three loads are made for every address, since how deep the next one
    /// goes is no pattern to predict.
    #[inline(always)]
    pub(super) fn class(&self, [a, b, c, d]: [u8; 4]) -> u32 {
        let mut entry = self.root.get(usize::from(u16::from_be_bytes([a, b]))).copied().unwrap_or(0);
        for byte in [c, d] {
            let is_node = entry & NODE != 0;
            let place = if is_node { (entry ^ NODE) as usize * 256 + usize::from(byte) } else { 0 };
            let next = self.nodes.get(place).copied().unwrap_or(0);
            entry = if is_node { next } else { entry };
        }
        entry
    }

    pub(super) fn bytes(&self) -> usize {
        (self.root.len() + self.nodes.len()) * 4
    }
}

/// Long numbers to classes. A node cuts the stretch between its first and its last boundary into up to 256 equal pieces,
/// so that the bits which all boundaries share cost nothing.
#[derive(Clone, Debug)]
pub(super) struct Boundaries {
    nodes: Vec<Node>,
    /// A class; or [`NODE`] and its number; or [`SCAN`] and the last interval that starts before the piece.
    pieces: Vec<u32>,
    starts: Vec<u128>,
    classes: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The first boundary.
    first: u128,
    /// The logarithm of a piece's size.
    shift: u32,
    /// The class before the first boundary.
    below: u32,
    /// The pieces.
    pieces: u32,
    /// How many pieces there are, less one; the last one has no end.
    last: u32,
}

impl Boundaries {
    /// Intervals; the first starts at 0.
    pub(super) fn new(intervals: &[Interval]) -> Self {
        let mut all = Self {
            nodes: Vec::new(),
            pieces: Vec::new(),
            starts: intervals.iter().map(|i| i.0).collect(),
            classes: intervals.iter().map(|i| i.1).collect(),
        };
        all.add_node(0, intervals.len());
        all
    }

    /// A node over the boundaries `from..to`.
    fn add_node(&mut self, from: usize, to: usize) -> u32 {
        let number = self.nodes.len();
        let here = self.starts.get(from..to).unwrap_or(&[]);
        let (Some(&first), Some(&end)) = (here.first(), here.last()) else { return 0 };
        let shift = (u128::BITS - (end - first).leading_zeros()).saturating_sub(8);
        let count = usize::try_from((end - first) >> shift).unwrap_or(0) + 1;
        let pieces = self.pieces.len();
        self.nodes.push(Node {
            first,
            shift,
            below: from.checked_sub(1).and_then(|before| self.classes.get(before)).copied().unwrap_or(0),
            pieces: u32::try_from(pieces).unwrap_or(0),
            last: u32::try_from(count - 1).unwrap_or(0),
        });
        self.pieces.resize(pieces + count, 0);
        let mut from = from;
        for piece in 0..count {
            let rest = self.starts.get(from..to).unwrap_or(&[]);
            let inside = rest.partition_point(|start| (start - first) >> shift <= piece as u128);
            let before = from.saturating_sub(1);
            let starts_piece = rest.first().is_some_and(|&start| start == first + ((piece as u128) << shift));
            let entry = match inside {
                0 => self.classes.get(before).copied().unwrap_or(0),
                1 if starts_piece => self.classes.get(from).copied().unwrap_or(0),
                1..=SCAN_MOST => SCAN | u32::try_from(before).unwrap_or(0),
                _ => NODE | self.add_node(from, from + inside),
            };
            if let Some(place) = self.pieces.get_mut(pieces + piece) {
                *place = entry;
            }
            from += inside;
        }
        u32::try_from(number).unwrap_or(0)
    }

    /// The class of `value`.
    #[inline]
    pub(super) fn class(&self, value: u128) -> u32 {
        let mut number = 0;
        while let Some(node) = self.nodes.get(number as usize) {
            let Some(offset) = value.checked_sub(node.first) else { return node.below };
            let piece = u32::try_from(offset >> node.shift).unwrap_or(u32::MAX).min(node.last);
            let entry = self.pieces.get((node.pieces + piece) as usize).copied().unwrap_or(0);
            if entry & (NODE | SCAN) == 0 {
                return entry;
            }
            if entry & NODE == 0 {
                return self.scan((entry ^ SCAN) as usize, value);
            }
            number = entry ^ NODE;
        }
        0
    }

    /// The class of `value`, which lies in interval `from` or one of the next few.
    #[inline]
    fn scan(&self, from: usize, value: u128) -> u32 {
        let later = self.starts.get(from + 1..).unwrap_or(&[]);
        let passed = later.iter().take(SCAN_MOST).take_while(|&&start| start <= value).count();
        self.classes.get(from + passed).copied().unwrap_or(0)
    }

    pub(super) fn bytes(&self) -> usize {
        self.nodes.len() * size_of::<Node>() + self.pieces.len() * 4 + self.starts.len() * 20
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn intervals(width: u32) -> impl Strategy<Value = Vec<Interval>> {
        // Close together, far apart, and both at once.
        let starts = proptest::collection::btree_map((1..1_u128 << 20, 0..=width - 20), 0..9_u32, 0..80);
        (starts, any::<bool>()).prop_map(|(starts, one)| {
            let mut all = std::collections::BTreeMap::from([(0, 0)]);
            let shift = starts.keys().next().map_or(0, |k| k.1);
            all.extend(
                starts.into_iter().map(|((s, own), class)| (s << if one { shift } else { own }, class)),
            );
            all.into_iter().collect()
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
            let boundaries = Boundaries::new(&six);
            let near = |all: &[Interval]| {
                all.iter().flat_map(|i| [i.0.saturating_sub(1), i.0, i.0 + 1]).collect::<Vec<_>>()
            };
            for value in near(&four).into_iter().chain(values.iter().map(|v| v >> 96)) {
                prop_assert_eq!(trie.class((value as u32).to_be_bytes()), slow(&four, value));
            }
            for value in near(&six).into_iter().chain(values).chain([u128::MAX]) {
                prop_assert_eq!(boundaries.class(value), slow(&six, value));
            }
        }
    }
}
