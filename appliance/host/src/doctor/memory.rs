//! Hugepages, and limits of control groups.

use sluice_model::{Hugepages, PortSpec};

use super::Case;
use super::daemon::Daemon;
use super::finding::Finding;
use crate::Machine;

/// Kilobytes of the hugepages that pools lie in.
const PAGE_KB: u64 = 2_048;
/// Prints what the boot config `$0` takes, errors or not. Who is not root may not have the daemon's folder in the path.
const CHECK_CONFIG: &str =
    "PATH=$PATH:/usr/sbin:/usr/local/sbin sluiced check --config \"$0\" 2>/dev/null || :";
/// How to learn the number of pages.
const ASK: &str =
    "sluiced check --config FILE   # half as many as its megabytes for DPDK: sysctl -w vm.nr_hugepages=PAGES";
/// Free memory below this is too little for a broker of any size, in kilobytes (768 MB, the default memory limit).
const LEAST_KB: u64 = 768 * 1_024;

/// Are there hugepages for the pools of mbufs?
pub(crate) fn hugepages(machine: &Machine<'_>, case: &Case<'_>, findings: &mut Vec<Finding>) {
    const CHECK: &str = "hugepages";
    let wanted = case.boot.map_or(Hugepages::Auto, |boot| boot.eal.hugepages);
    if wanted == Hugepages::Never {
        findings.push(Finding::ok(CHECK, "", "the boot config wants none"));
        return;
    }
    let of = |name| machine.kilobytes("/proc/meminfo", name);
    if of("Hugepagesize") != Some(PAGE_KB) {
        findings.push(Finding::note(
            CHECK,
            "",
            "the kernel's default hugepages are not of 2 MB: none are used",
        ));
        return;
    }
    let (free, total) = (of("HugePages_Free").unwrap_or(0), of("HugePages_Total").unwrap_or(0));
    let daemon = Daemon::of(machine, case);
    let held = daemon.as_ref().map_or(0, |daemon| daemon.hugepages_kb(machine) / PAGE_KB);
    // What the daemon holds is free again when it starts anew.
    let usable = (free + held).min(total);
    let mut text = format!("{free} of {total} are free");
    if let Some(Daemon(process)) = &daemon {
        text = format!("{text}, sluiced (process {process}) holds {held}");
    }
    let memory_mb = case.boot.and_then(|boot| boot.eal.memory_mb);
    let need_mb = memory_mb.map(u64::from).or_else(|| planned_mb(machine, case));
    let need = need_mb.map(|mb| (mb * 1_024).div_ceil(PAGE_KB));
    if let (Some(mb), Some(need)) = (need_mb, need) {
        let from = if memory_mb.is_some() { "memory_mb =" } else { "sluiced check plans with" };
        text = format!("{text}; {from} {mb} needs {need}");
    }
    let runs_without = daemon.is_some() && held == 0;
    match need {
        Some(need) if usable >= need && runs_without => {
            let text = format!("{text}: a restart of the daemon takes them");
            findings.push(Finding::note(CHECK, "", text).decided_by("systemctl restart sluiced"));
            return;
        }
        Some(need) if usable >= need => return findings.push(Finding::ok(CHECK, "", text)),
        None if held > 0 => return findings.push(Finding::ok(CHECK, "", text)),
        None if free > 0 => {
            let text = format!("{text}; how many the daemon needs is not known here");
            findings.push(Finding::note(CHECK, "", text).decided_by(ASK));
            return;
        }
        Some(_) | None => {}
    }
    let finding = if wanted == Hugepages::Require {
        Finding::error(CHECK, "", text, "the daemon does not start: hugepages = \"require\"")
    } else {
        let since = if held > 0 { "from its next start on, " } else { "" };
        let cost =
            "packets lie in ordinary pages: more misses of the TLB, and NICs by vfio-pci need an IOMMU";
        Finding::warning(CHECK, "", text, format!("{since}{cost}"))
    };
    let Some(need) = need else { return findings.push(finding.decided_by(ASK)) };
    let pages = total - usable + need;
    let command = format!("sysctl -w vm.nr_hugepages={pages}");
    // Reserved pages are nobody else's any more.
    let spare = of("MemAvailable").is_some_and(|kb| kb > 2 * (pages - total.min(pages)) * PAGE_KB + LEAST_KB);
    findings.push(if spare { finding.mended_by(command) } else { finding.decided_by(command) });
}

/// The megabytes that the daemon will ask DPDK for, where the boot config does not say: it alone works them out, from
/// ports, cores and NUMA nodes. Its complaints are told elsewhere.
fn planned_mb(machine: &Machine<'_>, case: &Case<'_>) -> Option<u64> {
    let config = case.config.filter(|_| case.boot.is_some())?.to_str()?;
    let told = machine.tools.run(&["sh", "-c", CHECK_CONFIG, config]).ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("memory: ")?.split_once(" MB for DPDK"));
    line?.0.parse().ok()
}

/// How much may be used?
pub(crate) fn limits(machine: &Machine<'_>, case: &Case<'_>, findings: &mut Vec<Finding>) {
    const CHECK: &str = "memory";
    match machine.kilobytes("/proc/meminfo", "MemAvailable") {
        Some(kb) if kb < LEAST_KB => findings.push(Finding::warning(
            CHECK,
            "",
            format!("{} MB are available", kb / 1_024),
            "a daemon with flow metering at its defaults may be refused its tables",
        )),
        Some(kb) => findings.push(Finding::ok(CHECK, "", format!("{} MB are available", kb / 1_024))),
        None => findings.push(Finding::note(CHECK, "", "the memory of the machine cannot be read")),
    }
    let nics = case.boot.is_some_and(|boot| boot.ports.iter().any(|p| matches!(p.spec, PortSpec::Pci(_))));
    if nics && let Some(limits) = machine.text("/proc/self/limits") {
        let locked = limits.lines().find(|line| line.starts_with("Max locked memory")).unwrap_or_default();
        if !locked.contains("unlimited") {
            let cost = "vfio-pci locks all memory that a NIC may reach: ports fail to start";
            let finding = Finding::warning("locked_memory", "", "locked memory is limited", cost);
            findings.push(finding.decided_by("ulimit -l unlimited   # in a unit: LimitMEMLOCK=infinity"));
        }
    }
    cgroup(machine, findings);
}

/// The limits of the control group that this process is in.
fn cgroup(machine: &Machine<'_>, findings: &mut Vec<Finding>) {
    const CHECK: &str = "cgroup";
    let own = machine.text("/proc/self/cgroup").unwrap_or_default();
    let path = |controller: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let here = if controllers.is_empty() {
                format!("/sys/fs/cgroup{path}")
            } else if controllers.split(',').any(|name| name == controller) {
                format!("/sys/fs/cgroup/{controller}{path}")
            } else {
                return None;
            };
            machine.exists(&here).then_some(here)
        })
    };
    let mut told = Vec::new();
    if let Some(here) = path("memory") {
        let limit = machine.text(format!("{here}/memory.max"));
        let limit = limit.or_else(|| machine.text(format!("{here}/memory.limit_in_bytes")));
        // Version 1 says "none" by a number near 2^63.
        let limit = limit.and_then(|text| text.parse::<u64>().ok()).filter(|&bytes| bytes < 1 << 60);
        told.extend(limit.map(|bytes| format!("{} MB of memory", bytes >> 20)));
    }
    if let Some(here) = path("cpu") {
        let quota = machine.text(format!("{here}/cpu.max")).or_else(|| {
            let part = |name: &str| machine.text(format!("{here}/cpu.cfs_{name}_us"));
            Some(format!("{} {}", part("quota")?, part("period")?))
        });
        let quota = quota.and_then(|text| {
            let (quota, period) = text.split_once(' ')?;
            Some((quota.parse::<u64>().ok()?, period.parse::<u64>().ok().filter(|&period| period > 0)?))
        });
        told.extend(quota.map(|(quota, period)| {
            let hundredths = quota.saturating_mul(100) / period;
            format!("{}.{:02} CPUs", hundredths / 100, hundredths % 100)
        }));
    }
    findings.push(if told.is_empty() {
        Finding::ok(CHECK, "", "the control group of this process sets no limit")
    } else {
        let text = format!("the control group of this process allows {}", told.join(" and "));
        Finding::note(CHECK, "", format!("{text}; the daemon plans with that"))
    });
}
