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

/// Which packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// One packet of each flow in turn, always the same.
    Same,
    /// Both directions of each flow, with numbers that go on.
    Conversations,
    /// Every packet a new flow.
    NewFlows,
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
    /// Which packets come.
    pub traffic: Traffic,
    /// Entries of the flow table; 0 = flows are not metered.
    pub table: u32,
}

/// Flows that fit the caches of a worker's tables.
const FLOWS: usize = 10_000;

/// Flows that fit no cache.
const MANY_FLOWS: usize = 1_000_000;
/// A table with room for all of them.
const TABLE: u32 = 1 << 20;

const fn scenario(name: &'static str, work: Work) -> Scenario {
    Scenario { name, flows: FLOWS, work, traffic: Traffic::Same, table: 0 }
}

/// With flow metering.
const fn metered(name: &'static str, flows: usize, work: Work) -> Scenario {
    Scenario { name, flows, work, traffic: Traffic::Conversations, table: TABLE }
}

/// All scenarios.
pub const ALL: [Scenario; 14] = [
    scenario("forward", Work::One(Target::Port)),
    scenario("vxlan", Work::One(Target::Vxlan)),
    scenario("erspan", Work::One(Target::Erspan3)),
    scenario("policies-10", Work::Many(10)),
    scenario("policies-1000", Work::Many(1000)),
    scenario("policies-10000", Work::Many(10_000)),
    metered("meter", FLOWS, Work::One(Target::Port)),
    metered("meter-1m", MANY_FLOWS, Work::One(Target::Port)),
    metered("full-10k", FLOWS, Work::Many(1000)),
    metered("full-1m", MANY_FLOWS, Work::Many(1000)),
    metered("established-10", FLOWS, Work::Many(10)),
    metered("established-1000", FLOWS, Work::Many(1000)),
    metered("established-10000", FLOWS, Work::Many(10_000)),
    Scenario {
        name: "new-flows",
        flows: FLOWS,
        work: Work::Many(1000),
        traffic: Traffic::NewFlows,
        table: TABLE,
    },
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
