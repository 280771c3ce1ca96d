//! Sets of integers as sorted, disjoint, inclusive ranges: ports, protocols, VLANs, addresses.

use std::fmt;
use std::ops::RangeInclusive;

/// An integer that a [`RangeSet`] can hold.
pub trait RangeValue: Copy + Ord + fmt::Debug {
    /// The next larger value, or `None` at the top of the type.
    fn successor(self) -> Option<Self>;
}

macro_rules! range_value {
    ($($t:ty),*) => { $(impl RangeValue for $t {
        fn successor(self) -> Option<Self> { self.checked_add(1) }
    })* };
}
range_value!(u8, u16, u32, u128);

/// A set of values, kept as sorted, disjoint, non-adjacent inclusive ranges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RangeSet<T> {
    ranges: Vec<(T, T)>,
}

impl<T> Default for RangeSet<T> {
    fn default() -> Self {
        Self { ranges: Vec::new() }
    }
}

impl<T: RangeValue> RangeSet<T> {
    /// The set of all values in `ranges`; overlapping and adjacent ranges are merged, reversed ones are empty.
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<T>>) -> Self {
        let mut sorted: Vec<(T, T)> =
            ranges.into_iter().filter(|r| !r.is_empty()).map(RangeInclusive::into_inner).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(sorted.len());
        for (start, end) in sorted {
            match merged.last_mut() {
                Some(last) if last.1.successor().is_none_or(|next| start <= next) => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Self { ranges: merged }
    }

    /// Whether the set holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `value` is in the set.
    #[must_use]
    pub fn contains(&self, value: T) -> bool {
        let after = self.ranges.partition_point(|&(start, _)| start <= value);
        after > 0 && value <= self.ranges[after - 1].1
    }

    /// The ranges in ascending order, disjoint and not adjacent.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RangeInclusive<T>> + '_ {
        self.ranges.iter().map(|&(start, end)| start..=end)
    }

    /// Whether every value of `other` is in this set.
    #[must_use]
    pub fn is_superset(&self, other: &Self) -> bool {
        other.ranges.iter().all(|&(start, end)| {
            let after = self.ranges.partition_point(|&(s, _)| s <= start);
            after > 0 && end <= self.ranges[after - 1].1
        })
    }
}

impl<T: RangeValue> FromIterator<RangeInclusive<T>> for RangeSet<T> {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<T>>>(iter: I) -> Self {
        Self::new(iter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(ranges in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..8)) {
            let set = RangeSet::new(ranges.iter().map(|&(a, b)| a..=b));
            for value in 0..=u8::MAX {
                prop_assert_eq!(set.contains(value), ranges.iter().any(|&(a, b)| a <= value && value <= b));
            }
            let mut last: Option<u8> = None;
            for range in set.iter() {
                prop_assert!(last.is_none_or(|l| u16::from(l) + 1 < u16::from(*range.start())));
                last = Some(*range.end());
            }
        }

        #[test]
        fn superset_is_containment(a in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..6),
                                   b in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..6)) {
            let a = RangeSet::new(a.iter().map(|&(x, y)| x..=y));
            let b = RangeSet::new(b.iter().map(|&(x, y)| x..=y));
            let expected = (0..=u8::MAX).all(|v| !b.contains(v) || a.contains(v));
            prop_assert_eq!(a.is_superset(&b), expected);
        }
    }
}
