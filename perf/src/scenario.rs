//! What is there to measure?

use anyhow::Result;
use sluice_model::PolicySet;

use crate::policies::{self, Target};

/// What the worker does with each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One policy that matches everything.
    One(Target),
    /// So many policies towards a VXLAN tool.
    Many(usize),
}

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The name on the command line and in the output.
    pub name: &'static str,
    /// Distinct flows, one packet of each in turn.
    pub flows: usize,
    /// What happens to them.
    pub work: Work,
}

/// Flows that fit the caches of a worker's tables.
const FLOWS: usize = 10_000;

/// All scenarios.
pub const ALL: [Scenario; 6] = [
    Scenario { name: "forward", flows: FLOWS, work: Work::One(Target::Port) },
    Scenario { name: "vxlan", flows: FLOWS, work: Work::One(Target::Vxlan) },
    Scenario { name: "erspan", flows: FLOWS, work: Work::One(Target::Erspan3) },
    Scenario { name: "policies-10", flows: FLOWS, work: Work::Many(10) },
    Scenario { name: "policies-1000", flows: FLOWS, work: Work::Many(1000) },
    Scenario { name: "policies-10000", flows: FLOWS, work: Work::Many(10_000) },
];

impl Scenario {
    /// The scenario of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        ALL.into_iter().find(|scenario| scenario.name == name)
    }

    /// Its policies.
    pub fn policies(&self) -> Result<PolicySet> {
        match self.work {
            Work::One(target) => policies::one(target),
            Work::Many(count) => policies::many(count),
        }
    }
}
