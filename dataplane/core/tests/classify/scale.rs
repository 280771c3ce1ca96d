//! The largest policy set that is promised: 10,000 policies, 1,000 groups, 64 destinations.

use std::sync::Arc;

use sluice_core::classify::{Classifier, ClassifierConfig};
use sluice_model::{AddressSet, Policy, PolicySet, RangeSet, Side};

use crate::generate::{self, Dice};
use crate::random::{Packets, compile, outcome};
use crate::reference;

#[test]
fn ten_thousand_policies_agree_with_the_reference() {
    let mut dice = Dice::new(1);
    let mut groups: Vec<Arc<AddressSet>> = (0..400).map(|_| generate::group(&mut dice)).collect();
    // Subnets and hosts as an operator writes them, beside those at the edges.
    for number in 0..600_u32 {
        let start = 0x0a00_0000 + number * 256;
        let six = (0x2001_0db8_u128 << 96) + (u128::from(number) << 64);
        groups.push(Arc::new(AddressSet {
            ipv4: RangeSet::new([start..=start + 255, 0xc0a8_0000 + number..=0xc0a8_0000 + number]),
            ipv6: RangeSet::new([six..=six + u128::from(u64::MAX)]),
            ..AddressSet::default()
        }));
    }
    let mut policies: Vec<Policy> = (0..10_000)
        .map(|number| {
            let mut policy = generate::policy(&mut dice, &groups, 64, true);
            // Most policies of a large set name someone, and few take packets out.
            if number % 50 != 0 && policy.collect.addresses.is_empty() {
                policy.collect = Side { addresses: vec![groups[dice.below(1_000)].clone()], ports: None };
            }
            policy
        })
        .collect();
    for (number, policy) in policies.iter_mut().enumerate() {
        if policy.action == sluice_model::Action::Drop && number % 10 != 0 {
            policy.action = sluice_model::Action::Copy;
            policy.to = vec![sluice_model::DestinationId((number % 64) as u16)];
        }
    }
    let policies = PolicySet::new(policies, generate::destinations(64)).unwrap();
    let program = compile(&policies);
    let packets = Packets::random(&mut dice, 500);
    let mut classifier = Classifier::new(&program, ClassifierConfig::default());
    let mut matched = 0;
    packets.classify(&program, &mut classifier, |index, set| {
        assert_eq!(outcome(&program, set), reference::outcome(&policies, &packets.facts[index]));
        matched += set.matched.len();
    });
    assert!(matched > 1_000, "packets and policies meet: {matched}");
}
