//! Which values do the policies tell apart? Ranges in, intervals of equal membership out.

use std::collections::HashMap;
use std::rc::Rc;

/// Who uses each member: for a set of addresses (or of ports, ...) the policies that name it.
#[derive(Clone, Debug, Default)]
pub(super) struct Users(Vec<Vec<u32>>);

impl Users {
    /// Notes that `policy` uses `member`.
    pub(super) fn add(&mut self, member: u32, policy: u32) {
        let member = member as usize;
        if self.0.len() <= member {
            self.0.resize_with(member + 1, Vec::new);
        }
        if let Some(policies) = self.0.get_mut(member) {
            policies.push(policy);
        }
    }

    /// The policies that use `member`.
    pub(super) fn of(&self, member: u32) -> &[u32] {
        self.0.get(member as usize).map_or(&[], Vec::as_slice)
    }
}

/// Equivalence classes: each is a distinct list of members; class 0 has none.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    numbers: HashMap<Rc<[u32]>, u32>,
    members: Vec<Rc<[u32]>>,
}

impl Default for Classes {
    fn default() -> Self {
        let none: Rc<[u32]> = Rc::from([]);
        Self { numbers: HashMap::from([(Rc::clone(&none), 0)]), members: vec![none] }
    }
}

impl Classes {
    /// The class of the values that belong to exactly `members` (ascending).
    pub(super) fn number(&mut self, members: &[u32]) -> u32 {
        if let Some(&number) = self.numbers.get(members) {
            return number;
        }
        let number = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let members: Rc<[u32]> = Rc::from(members);
        self.numbers.insert(Rc::clone(&members), number);
        self.members.push(members);
        number
    }

    /// The members of each class, by its number.
    pub(super) fn members(&self) -> &[Rc<[u32]>] {
        &self.members
    }
}

/// The start of a stretch of values that all belong to one class; it reaches to the next one's start.
pub(super) type Interval = (u128, u32);

/// Cuts the numbers from 0 up into intervals. `ranges` are (first, last, member), inclusive, in any order.
pub(super) fn sweep(ranges: &[(u128, u128, u32)], classes: &mut Classes) -> Vec<Interval> {
    let mut events: Vec<(u128, bool, u32)> = Vec::with_capacity(ranges.len() * 2);
    for &(first, last, member) in ranges {
        events.push((first, true, member));
        if let Some(after) = last.checked_add(1) {
            events.push((after, false, member));
        }
    }
    // Leaving comes first, so that a member that ends and begins again stays in the list once.
    events.sort_unstable();
    let mut active: Vec<u32> = Vec::new();
    let mut intervals: Vec<Interval> = vec![(0, 0)];
    let mut rest = events.as_slice();
    while let Some(&(at, ..)) = rest.first() {
        let here = rest.iter().take_while(|event| event.0 == at).count();
        let (now, later) = rest.split_at(here);
        for &(_, enters, member) in now {
            match active.binary_search(&member) {
                Ok(place) if !enters => {
                    active.remove(place);
                }
                Err(place) if enters => active.insert(place, member),
                _ => {}
            }
        }
        rest = later;
        let class = classes.number(&active);
        match intervals.last_mut() {
            Some(last) if last.0 == at => last.1 = class,
            Some(last) if last.1 == class => {}
            _ => intervals.push((at, class)),
        }
    }
    intervals
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn intervals_tell_the_members_of_every_value(
            sets in proptest::collection::vec(proptest::collection::vec((0..64_u8, 0..64_u8), 0..4), 0..6))
        {
            // Ranges of one member must not overlap, as those of a range set do not.
            let sets: Vec<_> = sets.iter()
                .map(|s| sluice_model::RangeSet::<u8>::new(s.iter().map(|&(a, b)| a..=b))).collect();
            let mut ranges = Vec::new();
            for (member, set) in sets.iter().enumerate() {
                ranges.extend(set.iter().map(|r| {
                    (u128::from(*r.start()), u128::from(*r.end()), member as u32)
                }));
            }
            let mut classes = Classes::default();
            let intervals = sweep(&ranges, &mut classes);
            for value in 0..70_u128 {
                let place = intervals.partition_point(|&(start, _)| start <= value) - 1;
                let members = &classes.members()[intervals[place].1 as usize];
                let expected: Vec<u32> = (0..sets.len() as u32)
                    .filter(|&m| value < 64 && sets[m as usize].contains(value as u8)).collect();
                prop_assert_eq!(&**members, &*expected);
            }
        }
    }
}
