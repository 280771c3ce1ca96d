//! Is this machine fit for a Sluice? Each finding says what it costs and which command mends it.
//!
//! [`examine`] only reads: files below `/proc`, `/sys` and `/etc`, and what `ethtool` and the like print. What it cannot
//! see it says so of. [`mend`] runs the commands that are safe: they change settings that hold until the next boot, and
//! stop nothing.

mod cgroup;
mod cpu;
mod daemon;
mod disk;
mod finding;
mod memory;
mod mtu;
mod nic;
mod runner;
mod system;

use std::path::Path;

use sluice_model::{BootConfig, PolicySet};

pub use finding::{Finding, Level, Remedy};

use crate::Machine;

/// What the machine is held against. Without a boot config only what concerns every Sluice is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Case<'a> {
    /// The file of the boot config.
    pub config: Option<&'a Path>,
    /// The boot config.
    pub boot: Option<&'a BootConfig>,
    /// The policies, for the ways to their destinations.
    pub policies: Option<&'a PolicySet>,
}

/// Looks at everything, in the order of a packet's way.
#[must_use]
pub fn examine(machine: &Machine<'_>, case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let runner = runner::Runner::of(machine, case);
    system::rights(machine, case, &runner, &mut findings);
    nic::ports(machine, case, &mut findings);
    cpu::cores(machine, case, &mut findings);
    memory::hugepages(machine, case, &mut findings);
    memory::limits(machine, case, &runner, &mut findings);
    cgroup::limits(machine, &runner, &mut findings);
    mtu::ways(machine, case, &mut findings);
    disk::folders(machine, case, &mut findings);
    system::clock(machine, &mut findings);
    system::versions(machine, &mut findings);
    findings
}

/// Runs the safe remedies of `findings`; returns those that were run, and what went wrong with each.
pub fn mend(machine: &Machine<'_>, findings: &[Finding]) -> Vec<(Remedy, Result<(), String>)> {
    let safe = findings.iter().filter_map(|finding| finding.remedy.as_ref()).filter(|remedy| remedy.safe);
    let mut done: Vec<(Remedy, Result<(), String>)> = Vec::new();
    for remedy in safe {
        // Two findings may have one remedy.
        if done.iter().any(|(other, _)| other.command == remedy.command) {
            continue;
        }
        let result = machine.tools.run(&["sh", "-c", &remedy.command]);
        done.push((remedy.clone(), result.map(drop)));
    }
    done
}
