//! In which order does a flow prefer the members of its group?
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998) with weights: every member scores every slot of flows, and the
//! order of the scores is the order of preference. It is worked out once; who is there at the moment is one word of
//! bits, so that a change costs nothing but that word.

use sluice_cpu::hash_u64x2;

/// Slots of flows: the share of a member comes within a few per cent of what the weights say (its standard deviation is
/// one in the square root of its slots). The same for every group, so that one that grows keeps its flows.
const SLOTS: u64 = 16_384;
const SEED: u64 = 0x3c6e_f372_fe94_f82b;

/// The orders of preference of all slots: one byte per slot and member, shared by all workers.
#[derive(Debug)]
pub struct Preferences {
    members: usize,
    /// The favourite of each slot.
    first: Box<[u8]>,
    /// All members of each slot, favourite first.
    order: Box<[u8]>,
}

impl Preferences {
    /// For members of these names and weights, at most 64 (others never get a flow). The names decide, not the places:
    /// a member that is added takes its share of flows, and moves no others.
    #[must_use]
    pub fn new(members: &[(&str, u16)]) -> Self {
        let members = members.get(..members.len().min(64)).unwrap_or_default();
        let count = members.len();
        let names: Vec<u64> = members.iter().map(|(name, _)| name_hash(name)).collect();
        let (mut first, mut order) = (Vec::new(), Vec::new());
        let mut scores: Vec<(f64, u8)> = Vec::with_capacity(count);
        for slot in 0..SLOTS {
            scores.clear();
            for ((number, name), (_, weight)) in (0_u8..).zip(&names).zip(members) {
                scores.push((score(slot, *name, *weight), number));
            }
            scores.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            first.extend(scores.first().map(|&(_, number)| number));
            order.extend(scores.iter().map(|&(_, number)| number));
        }
        Self { members: count, first: first.into(), order: order.into() }
    }

    /// The number of the member that has the flow of this hash when those with a bit in `present` are there; `None`
    /// when none is.
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64, present: u64) -> Option<usize> {
        let favourite = usize::from(*self.first.get(slot_of(hash))?);
        if present >> favourite & 1 == 1 { Some(favourite) } else { self.next(hash, present) }
    }

    /// The member that has the flow of this hash when all are there.
    #[inline]
    #[must_use]
    pub fn favourite(&self, hash: u64) -> Option<usize> {
        self.first.get(slot_of(hash)).map(|&number| usize::from(number))
    }

    /// The first in the order that is there.
    fn next(&self, hash: u64, present: u64) -> Option<usize> {
        let start = slot_of(hash) * self.members;
        let order = self.order.get(start..start + self.members)?;
        order.iter().map(|&number| usize::from(number)).find(|&number| present >> number & 1 == 1)
    }
}

#[inline]
fn slot_of(hash: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "below the number of slots")]
    let slot = ((u128::from(hash) * u128::from(SLOTS)) >> 64) as usize;
    slot
}

/// How far a member is from a slot: exponentially distributed with the weight as its rate, so that the least of all is
/// this one's with a probability in proportion to its weight.
fn score(slot: u64, name: u64, weight: u16) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    let uniform = ((hash_u64x2(&[slot, name], SEED) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(weight.max(1))
}

/// FNV-1a with a final mix: the same for a name in every run and on every machine.
fn name_hash(name: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, fold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("ids{number}")).collect()
    }

    fn preferences(names: &[String], weights: &[u16]) -> Preferences {
        let weight = |index: usize| weights.get(index).copied().unwrap_or(1);
        let members: Vec<_> = names.iter().enumerate().map(|(i, name)| (name.as_str(), weight(i))).collect();
        Preferences::new(&members)
    }

    /// Numbers as hashes of flows give them.
    fn flows(count: u64) -> impl Iterator<Item = u64> {
        (0..count).map(|n| hash_u64x2(&[n, 7], 0x1234_5678))
    }

    fn shares(table: &Preferences, members: usize, present: u64) -> Vec<u32> {
        let mut shares = vec![0; members];
        flows(200_000).filter_map(|hash| table.pick(hash, present)).for_each(|member| shares[member] += 1);
        shares
    }

    #[test]
    fn members_get_what_their_weights_say() {
        for (count, weights) in
            [(1, vec![]), (2, vec![]), (3, vec![]), (7, vec![]), (64, vec![]), (3, vec![1, 2, 5])]
        {
            let table = preferences(&names(count), &weights);
            let shares = shares(&table, count, u64::MAX);
            let total: u16 = (0..count).map(|i| weights.get(i).copied().unwrap_or(1)).sum();
            for (member, share) in shares.iter().enumerate() {
                let weight = weights.get(member).copied().unwrap_or(1);
                let expected = 200_000.0 * f64::from(weight) / f64::from(total);
                // Slots are drawn: four standard deviations of that, and of the flows.
                let slots = 16_384.0 * f64::from(weight) / f64::from(total);
                let bound = 4.0 * (expected / slots.sqrt() + expected.sqrt());
                assert!((f64::from(*share) - expected).abs() < bound, "{count} {weights:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn what_a_lost_member_had_is_spread_over_the_others() {
        let table = preferences(&names(4), &[]);
        let (all, less) = (shares(&table, 4, 0b1111), shares(&table, 4, 0b1011));
        assert_eq!(less[2], 0);
        for member in [0, 1, 3] {
            let gained = less[member] - all[member];
            assert!(gained.abs_diff(all[2] / 3) < all[2] / 30, "{all:?} {less:?}");
        }
    }

    #[test]
    fn a_member_that_is_added_moves_no_flow_but_to_itself() {
        let (three, four) = (names(3), names(4));
        let turned: Vec<_> = four.iter().rev().cloned().collect();
        let (small, large) = (preferences(&three, &[]), preferences(&turned, &[]));
        let mut moved = 0;
        for hash in flows(50_000) {
            let before = &three[small.pick(hash, u64::MAX).unwrap()];
            let after = &turned[large.pick(hash, u64::MAX).unwrap()];
            moved += u32::from(before != after);
            assert!(before == after || after == "ids3");
        }
        assert!(moved.abs_diff(12_500) < 1_250, "{moved}");
    }

    #[test]
    fn nobody_there_is_no_member() {
        let table = preferences(&names(3), &[]);
        assert_eq!(table.pick(1, 0), None);
        assert_eq!(Preferences::new(&[]).pick(1, u64::MAX), None);
        assert!(table.favourite(1).is_some());
    }

    proptest! {
        #[test]
        fn only_flows_of_members_that_leave_move(count in 1_usize..10, away in any::<u64>(), hashes in prop::collection::vec(any::<u64>(), 1..500)) {
            let table = preferences(&names(count), &[]);
            let all = (1_u64 << count) - 1;
            let mut present = all;
            // They leave one by one ...
            for member in (0..count).filter(|member| away >> member & 1 == 1) {
                let less = present & !(1 << member);
                for &hash in &hashes {
                    let (before, after) = (table.pick(hash, present), table.pick(hash, less));
                    if before == Some(member) {
                        prop_assert_ne!(after, before);
                        prop_assert_eq!(after.is_none(), less == 0);
                    } else {
                        prop_assert_eq!(after, before);
                    }
                }
                present = less;
            }
            // ... and who is there decides, not how it came about.
            for &hash in &hashes {
                prop_assert_eq!(table.pick(hash, all), table.favourite(hash));
            }
        }
    }
}
