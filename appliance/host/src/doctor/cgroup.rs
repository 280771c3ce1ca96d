//! What do control groups allow? Version 1 (a hierarchy for each controller) and version 2.
//!
//! Limits hold for a group and everything below it, so the smallest one on the way up counts, as for the daemon. Inside a
//! container the path of the group may be the host's, which is not visible: then the mount's root is the group.

use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::runner::Runner;
use crate::Machine;

/// A memory limit above this is none: version 1 says "none" by a number near 2^63, bytes.
const NO_LIMIT: u64 = 1 << 60;

/// The limits of the control groups that the daemon is in, or this process.
pub(crate) fn limits(machine: &Machine<'_>, runner: &Runner, findings: &mut Vec<Finding>) {
    const CHECK: &str = "cgroup";
    let (of, process) = match runner {
        Runner::Process(daemon) => (runner.name(), daemon.0.as_str()),
        Runner::Unit(_) | Runner::Asker => ("this process".to_owned(), "self"),
    };
    let (mut memory, mut cpu) = (None, None);
    for (group, version2) in groups(machine, process) {
        let (own_memory, own_cpu) =
            if version2 { version_2(machine, &group) } else { version_1(machine, &group) };
        memory = smaller(memory, own_memory);
        cpu = smaller(cpu, own_cpu);
    }
    let mut told = Vec::new();
    told.extend(memory.map(|bytes| format!("{} MB of memory", bytes >> 20)));
    told.extend(cpu.map(|hundredths| format!("{}.{:02} CPUs", hundredths / 100, hundredths % 100)));
    if told.is_empty() {
        findings.push(Finding::ok(CHECK, "", format!("the control group of {of} sets no limit")));
        return;
    }
    let text = format!("the control group of {of} allows {}", told.join(" and "));
    findings.push(Finding::note(
        CHECK,
        "",
        match runner {
            Runner::Process(_) | Runner::Asker => format!("{text}; the daemon plans with that"),
            Runner::Unit(_) => format!("{text}; what the unit of the daemon sets is seen when it runs"),
        },
    ));
}

/// The groups of a process and all above them, and whether they are of version 2.
fn groups(machine: &Machine<'_>, process: &str) -> Vec<(PathBuf, bool)> {
    let mounts = machine.text("/proc/self/mounts").unwrap_or_default();
    let own = machine.text(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        for mount in mounts.lines() {
            let mut words = mount.split(' ');
            let (Some(_), Some(point), Some(kind), Some(options)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let has = |name: &str| options.split(',').any(|option| option == name);
            let version2 = kind == "cgroup2";
            let serves = if controllers.is_empty() {
                version2
            } else {
                kind == "cgroup" && controllers.split(',').any(has)
            };
            if serves {
                let point = Path::new(point);
                let group = point.join(path.trim_start_matches('/'));
                let group = if machine.path(&group).is_dir() { group } else { point.to_owned() };
                let all = group.ancestors().take_while(|group| group.starts_with(point));
                found.extend(all.map(|group| (group.to_owned(), version2)));
            }
        }
    }
    found
}

/// Bytes of memory and hundredths of a CPU.
type Limits = (Option<u64>, Option<u64>);

fn version_1(machine: &Machine<'_>, group: &Path) -> Limits {
    let number = |name: &str| machine.number(group.join(name)).and_then(|number| u64::try_from(number).ok());
    let cpu = number("cpu.cfs_quota_us").zip(number("cpu.cfs_period_us"));
    (limited(number("memory.limit_in_bytes")), cpu.and_then(|(quota, period)| hundredths(quota, period)))
}

fn version_2(machine: &Machine<'_>, group: &Path) -> Limits {
    let cpu = machine.text(group.join("cpu.max")).and_then(|text| {
        let (quota, period) = text.split_once(' ')?;
        hundredths(quota.parse().ok()?, period.parse().ok()?)
    });
    (limited(machine.text(group.join("memory.max")).and_then(|text| text.parse().ok())), cpu)
}

fn limited(bytes: Option<u64>) -> Option<u64> {
    bytes.filter(|&bytes| bytes > 0 && bytes < NO_LIMIT)
}

fn hundredths(quota: u64, period: u64) -> Option<u64> {
    quota.saturating_mul(100).checked_div(period).filter(|_| quota > 0)
}

fn smaller(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}
