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
    /// The same, each in VXLAN.
    Tunnelled,
    /// Both directions of each flow, with numbers that go on.
    Conversations,
    /// Every packet a new flow.
    NewFlows,
    /// The recorded mix of real traffic, again and again.
    Mix,
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
    /// Whether duplicates are dropped.
    pub dedup: bool,
}

/// Flows that fit the caches of a worker's tables.
const FLOWS: usize = 10_000;

/// Flows that fit no cache.
const MANY_FLOWS: usize = 1_000_000;
/// A table with room for all of them.
const TABLE: u32 = 1 << 20;

const fn scenario(name: &'static str, work: Work) -> Scenario {
    Scenario { name, flows: FLOWS, work, traffic: Traffic::Same, table: 0, dedup: false }
}

/// With flow metering.
const fn metered(name: &'static str, flows: usize, work: Work) -> Scenario {
    Scenario { flows, traffic: Traffic::Conversations, table: TABLE, ..scenario(name, work) }
}

/// The whole chain.
const fn full(name: &'static str, flows: usize, traffic: Traffic) -> Scenario {
    Scenario { dedup: true, traffic, ..metered(name, flows, Work::Many(1000)) }
}

/// All scenarios.
pub const ALL: [Scenario; 18] = [
    scenario("forward", Work::One(Target::Port)),
    scenario("vxlan", Work::One(Target::Vxlan)),
    scenario("erspan", Work::One(Target::Erspan3)),
    Scenario { traffic: Traffic::Tunnelled, ..scenario("decap", Work::One(Target::Port)) },
    Scenario { traffic: Traffic::Conversations, dedup: true, ..scenario("dedup", Work::One(Target::Port)) },
    scenario("policies-10", Work::Many(10)),
    scenario("policies-1000", Work::Many(1000)),
    scenario("policies-10000", Work::Many(10_000)),
    metered("meter", FLOWS, Work::One(Target::Port)),
    metered("meter-1m", MANY_FLOWS, Work::One(Target::Port)),
    full("full-10k", FLOWS, Traffic::Conversations),
    full("full-1m", MANY_FLOWS, Traffic::Conversations),
    full("full-mix", FLOWS, Traffic::Mix),
    metered("established-10", FLOWS, Work::Many(10)),
    metered("established-1000", FLOWS, Work::Many(1000)),
    metered("established-10000", FLOWS, Work::Many(10_000)),
    // The table is never full: it has room for more than come before the first of them time out.
    Scenario { table: NEW_FLOWS, ..new_flows("new-flows-filling") },
    new_flows("new-flows-full"),
];

/// Flows that begin in the time of a measurement.
const NEW_FLOWS: u32 = 1 << 24;

const fn new_flows(name: &'static str) -> Scenario {
    Scenario { traffic: Traffic::NewFlows, table: TABLE, ..scenario(name, Work::Many(1000)) }
}

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
