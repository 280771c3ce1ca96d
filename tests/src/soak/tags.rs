//! Which tag was in force when? Held against the tags of the copies that arrived.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A copy made before a change may be on its way for so long after it, on a busy machine, microseconds.
const ON_ITS_WAY_US: u64 = 500_000;
/// How much earlier than it was asked for a tag may be seen: resolution of time stamps, microseconds.
const EARLY_US: u64 = 1_000;

/// When a tag could be in force, microseconds since the epoch.
#[derive(Clone, Copy, Debug)]
struct Window {
    from_us: u64,
    until_us: Option<u64>,
}

/// Copies with one tag that came without another tag between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The tag.
    pub tag: u32,
    /// When the first of them came, microseconds since the epoch.
    pub first_us: u64,
    /// When the last of them came.
    pub last_us: u64,
}

/// All tags that ever were in force.
#[derive(Debug, Default)]
pub struct Tags(Mutex<BTreeMap<u32, Vec<Window>>>);

impl Tags {
    /// From now on a tag may be in force: it was asked for.
    pub fn asked(&self, tag: u32, now_us: u64) {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tags.entry(tag).or_default().push(Window { from_us: now_us, until_us: None });
    }

    /// From now on a tag is in force, and no other.
    pub fn acknowledged(&self, tag: u32, now_us: u64) {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, windows) in tags.iter_mut().filter(|(other, _)| **other != tag) {
            for window in windows.iter_mut().filter(|window| window.until_us.is_none()) {
                window.until_us = Some(now_us);
            }
        }
    }

    /// From now on a tag is not in force: it was refused. What was in force before stays.
    pub fn refused(&self, tag: u32, now_us: u64) {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The latest question: an earlier one for the same tag may be in force.
        if let Some(window) = tags.get_mut(&tag).and_then(|windows| windows.last_mut()) {
            window.until_us = Some(now_us);
        }
    }

    /// What is wrong with copies that came with this tag; `None` = it was in force all the time.
    #[must_use]
    pub fn fault(&self, span: &Span) -> Option<String> {
        let tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = tags.get(&span.tag).map_or(&[][..], Vec::as_slice);
        let holds = |window: &Window| {
            let until_us = window.until_us.map_or(u64::MAX, |until_us| until_us + ON_ITS_WAY_US);
            window.from_us <= span.first_us + EARLY_US && span.last_us <= until_us
        };
        (!windows.iter().any(holds)).then(|| {
            format!(
                "copies with tag {} from {} to {} us, which was in force {windows:?}",
                span.tag, span.first_us, span.last_us
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_held_against_what_was_in_force() {
        let tags = Tags::default();
        let span = |tag, first_us: u64, last_us: u64| Span {
            tag,
            first_us: first_us * 1_000_000,
            last_us: last_us * 1_000_000,
        };
        tags.asked(1, 1_000_000);
        tags.acknowledged(1, 2_000_000);
        assert_eq!(tags.fault(&span(1, 1, 60)), None);
        assert!(tags.fault(&span(2, 3, 3)).is_some(), "nobody asked for it");
        tags.asked(2, 5_000_000);
        assert_eq!((tags.fault(&span(1, 4, 6)), tags.fault(&span(2, 5, 6))), (None, None), "either, for now");
        tags.acknowledged(2, 6_000_000);
        assert!(tags.fault(&span(1, 5, 7)).is_some() && tags.fault(&span(2, 4, 7)).is_some());
        tags.asked(3, 8_000_000);
        tags.refused(3, 9_000_000);
        assert_eq!((tags.fault(&span(2, 6, 60)), tags.fault(&span(3, 8, 9))), (None, None));
        assert!(tags.fault(&span(3, 10, 11)).is_some());
        // Back to the first.
        tags.asked(1, 12_000_000);
        tags.acknowledged(1, 12_000_000);
        assert_eq!(tags.fault(&span(1, 12, 13)), None);
        assert!(tags.fault(&span(1, 4, 13)).is_some() && tags.fault(&span(2, 11, 13)).is_some());
    }
}
