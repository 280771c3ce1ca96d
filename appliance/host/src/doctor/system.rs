//! Rights, clock and versions.

use sluice_model::PortSpec;

use super::Case;
use super::finding::Finding;
use super::runner::Runner;
use crate::Machine;

/// Capabilities by number (linux/capability.h).
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const IPC_LOCK: u32 = 14;
const SYS_NICE: u32 = 23;

/// May the daemon do what it has to?
pub(crate) fn rights(machine: &Machine<'_>, case: &Case<'_>, runner: &Runner, findings: &mut Vec<Finding>) {
    const CHECK: &str = "rights";
    let kernel_ports = case.boot.is_none_or(|boot| {
        let others =
            |spec: &PortSpec| matches!(spec, PortSpec::Pci(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_));
        boot.ports.iter().any(|port| !others(&port.spec))
    });
    let nics = case.boot.is_some_and(|boot| boot.ports.iter().any(|p| matches!(p.spec, PortSpec::Pci(_))));
    let wanted = [
        (kernel_ports, NET_RAW, "CAP_NET_RAW", "kernel interfaces cannot be opened"),
        (kernel_ports, NET_ADMIN, "CAP_NET_ADMIN", "promiscuous mode, MTU and links cannot be set"),
        (nics, IPC_LOCK, "CAP_IPC_LOCK", "memory for NICs cannot be locked"),
        (true, SYS_NICE, "CAP_SYS_NICE", "threads of workers keep the priority of all others"),
    ];
    let before = findings.len();
    for (needed, number, name, cost) in wanted {
        let Some(has) = runner.may(machine, number, name) else {
            findings.push(Finding::note(
                CHECK,
                "",
                format!("the rights of {} cannot be read", runner.name()),
            ));
            return;
        };
        if !needed || has || *runner == Runner::Asker && by_file(machine, name) {
            continue;
        }
        let text = format!("{} has no {name}", runner.name());
        let finding = if number == SYS_NICE {
            Finding::note(CHECK, name, format!("{text}: {cost}"))
        } else {
            Finding::error(CHECK, name, text, cost)
        };
        findings.push(finding.decided_by(if *runner == Runner::Asker {
            "setcap cap_net_raw,cap_net_admin,cap_ipc_lock,cap_sys_nice+ep \"$(command -v sluiced)\""
                .to_owned()
        } else {
            format!(
                "systemctl edit sluiced   # [Service] AmbientCapabilities={name} CapabilityBoundingSet={name}"
            )
        }));
    }
    if findings.len() == before {
        findings.push(Finding::ok(CHECK, "", format!("{} may open ports", runner.name())));
    }
}

/// Whether the file of the daemon brings a capability, whoever starts it.
fn by_file(machine: &Machine<'_>, name: &str) -> bool {
    let told =
        machine.tools.run(&["sh", "-c", "PATH=$PATH:/usr/sbin:/sbin getcap \"$(command -v sluiced)\""]);
    told.is_ok_and(|told| told.contains(&name.to_lowercase()))
}

/// Are times of packets to be trusted?
pub(crate) fn clock(machine: &Machine<'_>, findings: &mut Vec<Finding>) {
    const CHECK: &str = "clock";
    let flags = machine.text("/proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let steady =
        ["constant_tsc", "nonstop_tsc"].iter().all(|flag| flags.split_whitespace().any(|f| f == *flag));
    findings.push(if steady {
        Finding::ok(CHECK, "tsc", "the TSC runs at one rate, in sleep, too")
    } else {
        Finding::warning(
            CHECK,
            "tsc",
            "the CPU does not promise that its TSC runs at one rate",
            "times of packets bend between two calibrations; the metric of the clock's error shows how much",
        )
    });
    match machine.text("/sys/devices/system/clocksource/clocksource0/current_clocksource").as_deref() {
        Some("tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page") => {
            findings.push(Finding::ok(CHECK, "source", "the kernel's clock is read without a system call"));
        }
        Some(other) => findings.push(
            Finding::warning(
                CHECK,
                "source",
                format!("the kernel's clock source is {other}"),
                "each reading of the time is a system call; the daemon calibrates with less accuracy",
            )
            .decided_by("echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource"),
        ),
        None => findings.push(Finding::note(CHECK, "source", "the kernel's clock source cannot be read")),
    }
    // Whichever of them keeps the time here.
    let asked = [
        (&["timedatectl", "show", "-p", "NTPSynchronized", "--value"][..], "yes"),
        (&["chronyc", "-n", "tracking"][..], "Leap status     : Normal"),
        (&["ntpstat"][..], "synchronised"),
    ];
    let answers = asked.iter().filter_map(|(command, good)| {
        Some(machine.tools.run(command).ok()?.lines().any(|line| line.starts_with(good)))
    });
    let answers: Vec<bool> = answers.collect();
    findings.push(if answers.contains(&true) {
        Finding::ok(CHECK, "synchronization", "the system clock is synchronized")
    } else if answers.is_empty() {
        Finding::note(
            CHECK,
            "synchronization",
            "nobody tells whether the system clock is synchronized: no timedatectl, chronyc or ntpstat answers",
        )
        .decided_by("apt-get install -y chrony")
    } else {
        Finding::warning(
            CHECK,
            "synchronization",
            "the system clock is not synchronized",
            "times in records and captures cannot be compared with those of other machines",
        )
        .decided_by("apt-get install -y chrony")
    });
}

/// Which programs are there?
pub(crate) fn versions(machine: &Machine<'_>, findings: &mut Vec<Finding>) {
    const CHECK: &str = "versions";
    let kernel = machine.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = kernel.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    findings.push(if version >= (5, 10) {
        Finding::ok(CHECK, "kernel", format!("Linux {kernel}"))
    } else {
        Finding::warning(CHECK, "kernel", format!("Linux {kernel}"), "no Linux before 5.10 is under test")
    });
    match machine.tools.run(&["sluiced", "--version"]) {
        Ok(version) => findings.push(Finding::ok(CHECK, "sluiced", version.trim().to_owned())),
        Err(error) => {
            findings.push(Finding::note(CHECK, "sluiced", format!("not on this machine's path ({error})")));
        }
    }
    if let Ok(version) = machine.tools.run(&["ovs-vsctl", "--version"]) {
        findings.push(Finding::ok(CHECK, "ovs", version.lines().next().unwrap_or_default().to_owned()));
    }
}
