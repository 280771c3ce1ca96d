//! Do workers have their CPUs for themselves, at full speed, near their NICs?

use std::collections::BTreeSet;

use sluice_model::{BootConfig, Polling, PortSpec};

use super::Case;
use super::finding::Finding;
use crate::machine::{Machine, ranges};

const CPUS: &str = "/sys/devices/system/cpu";

/// The CPUs that the boot config gives to workers and distributors; none = chosen by the daemon.
fn busy(boot: &BootConfig) -> BTreeSet<u16> {
    boot.worker.lcores.iter().chain(&boot.worker.distributor_lcores).copied().collect()
}

/// Looks at the CPUs of workers.
pub(crate) fn cores(machine: &Machine<'_>, case: &Case<'_>, findings: &mut Vec<Finding>) {
    let Some(online) = machine.cpus(format!("{CPUS}/online")) else {
        findings.push(Finding::note("cpus", "", "the CPUs of the machine cannot be read"));
        return;
    };
    let named = case.boot.map(busy).unwrap_or_default();
    let missing: Vec<u16> = named.difference(&online).copied().collect();
    if missing.is_empty() {
        findings.push(Finding::ok("cpus", "", format!("{} are online", ranges(online.iter().copied()))));
    } else {
        let text = format!("the boot config names {}, which are not online", ranges(missing));
        findings.push(Finding::error("cpus", "", text, "their threads run on any CPU, beside others"));
    }
    let polls = case.boot.is_some_and(|boot| boot.worker.polling == Polling::Always);
    isolation(machine, &named, polls, findings);
    governor(machine, if named.is_empty() { &online } else { &named }, findings);
    siblings(machine, &named, findings);
    numa(machine, case, &named, findings);
}

fn isolation(machine: &Machine<'_>, named: &BTreeSet<u16>, polls: bool, findings: &mut Vec<Finding>) {
    const CHECK: &str = "isolation";
    if named.is_empty() {
        let text = "the boot config names no lcores: the daemon chooses, and shares them with other programs";
        findings.push(Finding::note(CHECK, "", text));
        return;
    }
    let isolated = machine.cpus(format!("{CPUS}/isolated")).unwrap_or_default();
    let shared: Vec<u16> = named.difference(&isolated).copied().collect();
    if shared.is_empty() {
        findings.push(Finding::ok(CHECK, "", "no other program runs on the CPUs of workers"));
        return;
    }
    let cpus = ranges(shared);
    let text = format!("the kernel runs other programs on CPUs {cpus}, too");
    let cost =
        "a worker that is put aside for some milliseconds loses what its queues cannot hold (lost before rx)";
    let finding = if polls {
        Finding::warning(CHECK, "", text, cost)
    } else {
        Finding::note(CHECK, "", format!("{text}: {cost}"))
    };
    let all = ranges(named.iter().copied());
    findings.push(finding.decided_by(format!(
        "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&isolcpus=managed_irq,domain,{all} nohz_full={all} rcu_nocbs={all} /' \
         /etc/default/grub && update-grub   # then restart the machine"
    )));
}

fn governor(machine: &Machine<'_>, cpus: &BTreeSet<u16>, findings: &mut Vec<Finding>) {
    const CHECK: &str = "governor";
    let of = |cpu: u16| machine.text(format!("{CPUS}/cpu{cpu}/cpufreq/scaling_governor"));
    let governors: Vec<(u16, String)> = cpus.iter().filter_map(|&cpu| Some((cpu, of(cpu)?))).collect();
    if governors.is_empty() {
        let text = "the machine does not let its kernel choose frequencies (a virtual machine, say)";
        findings.push(Finding::note(CHECK, "", text));
        return;
    }
    let slow: Vec<u16> =
        governors.iter().filter(|(_, name)| name != "performance").map(|&(cpu, _)| cpu).collect();
    if slow.is_empty() {
        findings.push(Finding::ok(CHECK, "", "CPUs run at full speed"));
        return;
    }
    let command = format!(
        "for cpu in {}; do echo performance > {CPUS}/cpu$cpu/cpufreq/scaling_governor; done",
        slow.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
    );
    let text = format!("CPUs {} save power", ranges(slow));
    let cost = "bursts after a pause meet a slow CPU: delay, and losses where queues are short";
    findings.push(Finding::warning(CHECK, "", text, cost).mended_by(command));
}

/// Two busy threads on one core share its units.
fn siblings(machine: &Machine<'_>, named: &BTreeSet<u16>, findings: &mut Vec<Finding>) {
    let mut told = BTreeSet::new();
    for &cpu in named {
        let siblings =
            machine.cpus(format!("{CPUS}/cpu{cpu}/topology/thread_siblings_list")).unwrap_or_default();
        let shared: BTreeSet<u16> = siblings.intersection(named).copied().collect();
        if shared.len() > 1 && told.insert(shared.clone()) {
            let text = format!("CPUs {} are threads of one core", ranges(shared));
            let cost = "they share its units and caches, and so do less than two cores: give workers cores of their own";
            findings.push(Finding::warning("siblings", "", text, cost));
        }
    }
}

fn numa(machine: &Machine<'_>, case: &Case<'_>, named: &BTreeSet<u16>, findings: &mut Vec<Finding>) {
    const CHECK: &str = "numa";
    let nodes: Vec<(i64, BTreeSet<u16>)> = machine
        .names("/sys/devices/system/node")
        .iter()
        .filter_map(|name| {
            let cpus = machine.cpus(format!("/sys/devices/system/node/{name}/cpulist"))?;
            Some((name.strip_prefix("node")?.parse().ok()?, cpus))
        })
        .collect();
    if nodes.len() < 2 {
        findings.push(Finding::ok(CHECK, "", "one node: all memory is near"));
        return;
    }
    for port in case.boot.map_or(&[][..], |boot| &boot.ports) {
        let device = match &port.spec {
            PortSpec::Pci(device) => {
                format!("/sys/bus/pci/devices/{}", device.split(',').next().unwrap_or_default())
            }
            PortSpec::AfPacket(interface) => format!("/sys/class/net/{interface}/device"),
            PortSpec::Devargs(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_) => continue,
        };
        let Some(node) = machine.number(format!("{device}/numa_node")).filter(|&node| node >= 0) else {
            continue;
        };
        let near = nodes.iter().find(|(number, _)| *number == node).map(|(_, cpus)| cpus);
        let Some(near) = near else { continue };
        let far: Vec<u16> = named.difference(near).copied().collect();
        findings.push(if far.is_empty() {
            Finding::ok(CHECK, port.name.as_str(), format!("at node {node}, as its workers are"))
        } else {
            let text = format!("at node {node}; CPUs {} of workers are not", ranges(far));
            let cost = "each packet crosses between sockets: fewer packets a second";
            let finding = Finding::warning(CHECK, port.name.as_str(), text, cost);
            finding
                .decided_by(format!("# in the boot config: lcores = [\"{}\"]", ranges(near.iter().copied())))
        });
    }
}
