//! Hugepages, and memory in all.

use sluice_model::{Hugepages, PortSpec};

use super::Case;
use super::daemon::Daemon;
use super::finding::Finding;
use super::runner::Runner;
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
pub(crate) fn limits(machine: &Machine<'_>, case: &Case<'_>, runner: &Runner, findings: &mut Vec<Finding>) {
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
    if nics && runner.locks_all(machine) == Some(false) {
        let cost = "vfio-pci locks all memory that a NIC may reach: ports fail to start";
        let text = format!("{} may lock a limited amount of memory", runner.name());
        let finding = Finding::warning("locked_memory", "", text, cost);
        findings.push(finding.decided_by("ulimit -l unlimited   # in a unit: LimitMEMLOCK=infinity"));
    }
}
