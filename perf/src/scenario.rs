//! What is there to measure?

use anyhow::{Result, anyhow, bail};
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
    /// Workers at the same time, each on a core of its own with its own source, tables and sink.
    pub workers: usize,
    /// Measured only while the flow table fills, and not before it is full otherwise.
    pub until_full: bool,
}

/// Flows that fit the caches of a worker's tables.
const FLOWS: usize = 10_000;

/// Flows that fit no cache.
const MANY_FLOWS: usize = 1_000_000;
/// A table with room for all of them.
const TABLE: u32 = 1 << 20;

const fn scenario(name: &'static str, work: Work) -> Scenario {
    Scenario {
        name,
        flows: FLOWS,
        work,
        traffic: Traffic::Same,
        table: 0,
        dedup: false,
        workers: 1,
        until_full: false,
    }
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
pub const ALL: [Scenario; 24] = [
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
    full("full-30k", 30_000, Traffic::Conversations),
    full("full-100k", 100_000, Traffic::Conversations),
    full("full-300k", 300_000, Traffic::Conversations),
    full("full-1m", MANY_FLOWS, Traffic::Conversations),
    full("full-mix", FLOWS, Traffic::Mix),
    metered("established-10", FLOWS, Work::Many(10)),
    metered("established-100", FLOWS, Work::Many(100)),
    metered("established-1000", FLOWS, Work::Many(1000)),
    metered("established-10000", FLOWS, Work::Many(10_000)),
    Scenario { until_full: true, ..new_flows("new-flows-filling") },
    new_flows("new-flows-full"),
    full("workers-1", FLOWS, Traffic::Conversations),
    Scenario { workers: 2, ..full("workers-2", FLOWS, Traffic::Conversations) },
];

/// What runs when nothing or "all" is named.
pub const LIST: [&str; 25] = [
    "forward",
    "vxlan",
    "erspan",
    "decap",
    "dedup",
    "meter",
    "full-10k",
    "full-1m",
    "full-mix",
    "new-flows-filling",
    "new-flows-full",
    "policies-10",
    "policies-1000",
    "policies-10000",
    "established-10",
    "established-1000",
    "established-10000",
    "workers-1",
    "workers-2",
    "forward@512",
    "forward@1500",
    "forward@imix",
    "full-10k@512",
    "full-10k@1500",
    "full-10k@imix",
];

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

/// One thing to run: a scenario with packets of a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The name in the output: that of the scenario, with `@SIZE` where the name asked for a size.
    pub name: String,
    /// The scenario.
    pub scenario: Scenario,
    /// Bytes of each packet, without FCS; 0 = IMIX.
    pub packet_bytes: usize,
}

/// The runs that `names` ask for: scenarios, each alone or as `NAME@SIZE`, "all" and "new-flows", which is both phases;
/// [`LIST`] where there are none. `packet_bytes` is the size where a name has none.
///
/// # Errors
/// A scenario or a size is unknown.
pub fn runs(names: &[String], packet_bytes: usize) -> Result<Vec<Run>> {
    let mut wanted = Vec::new();
    for name in names {
        let (scenario, size) = name.split_once('@').map_or((name.as_str(), None), |(a, b)| (a, Some(b)));
        match (scenario, size) {
            ("all", None) => wanted.extend(LIST.map(str::to_owned)),
            ("all", Some(_)) => {
                bail!("\"{name}\": \"all\" runs sizes of its own; --bytes sets that of the others")
            }
            ("new-flows", _) => {
                let size = size.map(|size| format!("@{size}")).unwrap_or_default();
                wanted.extend(["filling", "full"].map(|phase| format!("new-flows-{phase}{size}")));
            }
            _ => wanted.push(name.clone()),
        }
    }
    if names.is_empty() {
        wanted.extend(LIST.map(str::to_owned));
    }
    wanted.into_iter().map(|name| run(name, packet_bytes)).collect()
}

fn run(name: String, packet_bytes: usize) -> Result<Run> {
    let (scenario, size) = name.split_once('@').map_or((name.as_str(), None), |(a, b)| (a, Some(b)));
    let Some(scenario) = Scenario::by_name(scenario) else {
        let known = ALL.map(|scenario| scenario.name).join(", ");
        bail!("no scenario \"{scenario}\"; there are {known}, new-flows (both phases) and all");
    };
    let packet_bytes = match size {
        None => packet_bytes,
        Some(_) if scenario.traffic == Traffic::Mix => {
            bail!("\"{name}\": the recorded mix has sizes of its own; write {}", scenario.name)
        }
        Some(size) => size_of(size).map_err(|wrong| anyhow!("\"{name}\": the size is {wrong}"))?,
    };
    Ok(Run { name, scenario, packet_bytes })
}

/// A size as it is written: bytes, or "imix", which is 0.
///
/// # Errors
/// What it must be instead.
pub fn size_of(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ 64..=1500) => Ok(bytes),
        _ if text == "imix" => Ok(0),
        _ => Err(format!("a number from 64 to 1500, or imix, not \"{text}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> Result<Vec<String>> {
        let of: Vec<_> = of.iter().map(|&name| name.to_owned()).collect();
        Ok(runs(&of, 64)?.into_iter().map(|run| run.name).collect())
    }

    #[test]
    fn every_name_of_the_list_runs() {
        assert_eq!(names(&[]).unwrap(), LIST);
        assert_eq!(names(&["all"]).unwrap(), LIST);
        for scenario in ALL {
            assert_eq!(names(&[scenario.name]).unwrap(), [scenario.name]);
        }
    }

    #[test]
    fn sizes_and_phases_are_understood() {
        assert_eq!(names(&["new-flows@512"]).unwrap(), ["new-flows-filling@512", "new-flows-full@512"]);
        let sized = runs(&["forward@imix".to_owned(), "vxlan".to_owned()], 1500).unwrap();
        assert_eq!(sized.iter().map(|run| run.packet_bytes).collect::<Vec<_>>(), [0, 1500]);
    }

    #[test]
    fn what_is_unknown_is_said() {
        for (name, part) in
            [("fast", "no scenario \"fast\""), ("forward@9", "64 to 1500"), ("full-mix@64", "of its own")]
        {
            let wrong = names(&[name]).unwrap_err().to_string();
            assert!(wrong.contains(part), "{wrong}");
        }
    }
}
