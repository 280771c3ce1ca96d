//! `sluiced check`: validates, and prints what would run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use sluice_core::classify::{Origins, Program};
use sluice_engine::machine::Machine;
use sluice_engine::runtime::{
    CorePlan, DedupPlan, FlowPlan, MemoryPlan, StartError, finished_checksums, memory_fits,
};
use sluice_model::spec::{Diagnostics, Severity, check_against, load_boot, load_policy};
use sluice_model::{
    BootConfig, Destination, DestinationKind, DistributorMode, Generation, Oversize, PolicySet, PortRole,
    PortSpec, Tunnel, TunnelKind,
};

use crate::paths;
use crate::report::{self, table};
use crate::say::{Out, complain, say};

/// The largest frame, without FCS, that an Ethernet port of MTU 1,500 receives, bytes.
const ETHERNET_FRAME: usize = 1514;

pub(crate) fn check(config: Option<&Path>, policy: Option<&Path>) -> Result<ExitCode> {
    let mut out = Out::default();
    let mut whole = true;
    let boot = match config {
        Some(path) => {
            let boot = report::load(&load_boot(path));
            whole &= boot.is_some();
            boot
        }
        None => None,
    };
    let path = policy.map(Path::to_owned).or_else(|| boot.as_ref().map(|boot| boot.policy.clone()));
    let policies = match &path {
        Some(path) => {
            let policies = report::load(&load_policy(path));
            whole &= policies.is_some();
            policies
        }
        None => None,
    };
    if let (Some(boot), Some(policies)) = (&boot, &policies) {
        let findings = check_against(policies, boot);
        whole &= !findings.iter().any(|finding| finding.severity == Severity::Error);
        if !findings.is_empty() {
            complain!("{}", Diagnostics(findings));
        }
    }
    if let (Some(path), Some(policies)) = (&path, &policies) {
        for clash in paths::clashes(config, boot.as_ref(), path, policies) {
            complain!("error: {clash}");
            whole = false;
        }
    }
    if let Some(boot) = boot.as_ref().filter(|boot| boot.api.enabled)
        && let Err(error) = sluice_agent::check_access(&boot.api)
    {
        complain!("error: {error}");
        whole = false;
    }
    if let Some(boot) = &boot
        && let Err(error) = print_boot(&mut out, boot)
    {
        complain!("error: {error}");
        whole = false;
    }
    if let Some(policies) = &policies {
        print_policies(&mut out, policies, boot.as_ref());
    }
    say!(out, "{}", if whole { "OK" } else { "NOT OK: see the errors above" });
    out.end()?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what would run, or why it would not.
fn print_boot(out: &mut Out, boot: &BootConfig) -> Result<(), StartError> {
    let mut ports = table(&["port", "device", "role", "addresses", "mtu"]);
    for port in &boot.ports {
        let device = match &port.spec {
            PortSpec::Pci(device) | PortSpec::Devargs(device) => device.clone(),
            other => other.to_string(),
        };
        let role = match port.role {
            PortRole::Capture => "capture",
            PortRole::Output => "output",
            PortRole::Both => "both",
            PortRole::Removed => "removed",
        };
        let addresses: Vec<_> = port.addresses.iter().map(ToString::to_string).collect();
        let mtu = port.mtu.map_or_else(|| "the device's".to_owned(), |mtu| mtu.to_string());
        ports.add_row([&port.name, &device, role, &addresses.join(" "), &mtu]);
    }
    say!(out, "{ports}\n");
    print_taps(out, boot);
    for port in boot.ports.iter().filter(|port| port.role.captures()) {
        if let Some(caution) = uncounted(&port.spec) {
            say!(out, "port \"{}\": {caution}", port.name);
        }
    }
    let machine = Machine::detect().limited(&boot.protection);
    let cores = CorePlan::new(boot, &machine);
    print_plan(out, boot, &machine, &cores);
    print_flows(out, boot, &machine, &cores);
    print_dedup(out, boot, &machine, &cores);
    memory_fits(boot, &cores, &machine)
}

/// The taps that have names, and which frames are of each.
fn print_taps(out: &mut Out, boot: &BootConfig) {
    let mirror = &boot.mirror;
    if mirror.taps.is_empty() {
        return;
    }
    let mut taps = table(&["tap", "number", "marked with VLAN", "ports"]);
    for tap in &mirror.taps {
        let ports = boot.ports.iter().filter(|port| port.role.captures() && port.tap == tap.number);
        let ports: Vec<_> = ports.map(|port| port.name.as_str()).collect();
        let vlan = tap.vlan.map_or_else(|| "-".to_owned(), |vlan| vlan.to_string());
        taps.add_row([&tap.name, &tap.number.to_string(), &vlan, &ports.join(" ")]);
    }
    say!(out, "{taps}\n");
    if let Some(pcp) = mirror.pcp {
        let fate = if mirror.strip_mark { "comes off" } else { "stays" };
        say!(
            out,
            "frames whose outermost VLAN tag has the PCP {pcp} are of the tap of its VLAN; that tag {fate}\n"
        );
    }
}

/// What metering flows takes.
fn print_flows(out: &mut Out, boot: &BootConfig, machine: &Machine, cores: &CorePlan) {
    let Some(plan) = FlowPlan::of(&boot.flow, cores.workers.len(), machine) else { return };
    let mb = |bytes: u64| bytes.div_ceil(1_000_000);
    say!(
        out,
        "flow: {} flows in {} MB, metrics in {} MB, rings of records in {} MB for each worker",
        plan.flows,
        mb(plan.flow_bytes),
        mb(plan.metrics_bytes),
        mb(plan.ring_bytes)
    );
}

/// What deduplication takes, and how sure its verdicts are.
fn print_dedup(out: &mut Out, boot: &BootConfig, machine: &Machine, cores: &CorePlan) {
    let Some(plan) = DedupPlan::of(&boot.dedup, cores.workers.len(), machine) else { return };
    let window_us = u32::try_from(boot.dedup.window_ns / 1000).map_or(f64::MAX, f64::from);
    let checksum = boot.dedup.key.l4_checksum.unwrap_or_else(|| finished_checksums(boot));
    say!(
        out,
        "dedup: {} within {} ms; the L4 checksum is {} the key",
        boot.dedup.mode.name(),
        window_us / 1e3,
        if checksum { "part of" } else { "left out of" }
    );
    say!(
        out,
        "       {} fingerprints of {} bits in {} MB for each worker: holds {} packets/s for the whole window",
        plan.entries,
        plan.bits,
        plan.bytes / 1_000_000,
        plan.packets_per_s
    );
    say!(
        out,
        "       probability of a false duplicate: {:.1e} per packet with a full table; at that rate one in {}",
        plan.false_duplicate(),
        span(plan.hours_between_false_duplicates())
    );
}

/// A span of time, in the unit that people would choose.
fn span(hours: f64) -> String {
    match hours {
        ..=0.03 => format!("{:.1} seconds", hours * 3600.0),
        ..=2.0 => format!("{:.0} minutes", hours * 60.0),
        ..=48.0 => format!("{hours:.0} hours"),
        ..=17_532.0 => format!("{:.0} days", hours / 24.0),
        _ => format!("{:.0} years", hours / 8766.0),
    }
}

/// What a driver keeps from the account.
fn uncounted(spec: &PortSpec) -> Option<&'static str> {
    let PortSpec::Devargs(devargs) = spec else { return None };
    if devargs.starts_with("net_af_packet") {
        Some(
            "net_af_packet does not tell what the kernel dropped, cuts long frames without a mark, reassembles IP \
             fragments, turns 0x88a8 tags into 0x8100 and keeps the link up when the interface is gone; \
             spec = \"af_packet:IFACE\" counts and keeps all of these",
        )
    } else if devargs.starts_with("net_pcap") {
        Some("net_pcap loses original lengths and nanoseconds; spec = \"pcap:FILE\" keeps both")
    } else {
        None
    }
}

/// Which CPUs, queues and memory a run would take.
fn print_plan(out: &mut Out, boot: &BootConfig, machine: &Machine, cores: &CorePlan) {
    let plan = MemoryPlan::new(boot, cores, machine);
    say!(
        out,
        "machine: {} CPUs{}, {} MB{}",
        machine.cpus.len(),
        quota(machine),
        machine.memory_bytes >> 20,
        { if machine.memory_limited { " by control group" } else { "" } }
    );
    say!(out, "workers: {} on CPUs {:?}", cores.workers.len(), cores.workers);
    let threads = cores.workers.iter().chain(&cores.distributors);
    let missing: BTreeSet<_> = threads.filter(|cpu| !machine.cpus.contains(cpu)).collect();
    if !missing.is_empty() {
        complain!(
            "warning: worker: CPUs {missing:?} do not exist, are offline or lie outside the process's cpuset: their \
             threads would run wherever there is room; choose lcores out of {:?}",
            machine.cpus
        );
    }
    if cores.distributors.is_empty() {
        say!(out, "distributors: none");
    } else {
        let when = match boot.worker.distributor {
            DistributorMode::Always => "always",
            DistributorMode::Auto | DistributorMode::Never => {
                "unless the RSS self-test of every capture port passes"
            }
        };
        let shared = if cores.shared { "; a CPU is shared with a worker" } else { "" };
        say!(
            out,
            "distributors: {} on CPUs {:?}, {when}; rings of {}{shared}",
            cores.distributors.len(),
            cores.distributors,
            plan.ring_size
        );
    }
    say!(
        out,
        "queues: receive queues of {} descriptors, transmit queues of {}, one of each for every worker where the \
         port has them",
        plan.rx_descriptors,
        plan.tx_descriptors
    );
    let pages = match plan.use_hugepages(boot.eal.hugepages) {
        Ok(true) => "in hugepages".to_owned(),
        Ok(false) => "in ordinary pages".to_owned(),
        Err(_) => "in hugepages that are not free".to_owned(),
    };
    say!(out, "memory: {} MB for DPDK, {pages}", plan.memory_mb());
    let nodes: Vec<_> = plan.nodes.iter().flatten().map(ToString::to_string).collect();
    let nodes = if nodes.is_empty() {
        String::new()
    } else {
        format!(", on each of the NUMA nodes {}", nodes.join(", "))
    };
    say!(
        out,
        "        {} mbufs of {} bytes for packets ({} can be in use at once), {} for headers{nodes}",
        plan.mbufs,
        plan.data_room,
        plan.needed,
        plan.headers
    );
    if plan.mbufs < plan.needed {
        say!(out, "        with so few mbufs, packets are lost before queues and rings are full");
    }
}

/// What a quota leaves of the CPUs, for people.
fn quota(machine: &Machine) -> String {
    let Some(milli) = machine.cpu_quota_milli else { return String::new() };
    format!(", a quota of {}.{:02}", milli / 1000, milli % 1000 / 10)
}

fn print_policies(out: &mut Out, policies: &PolicySet, boot: Option<&BootConfig>) {
    let names: Vec<String> =
        boot.map(|boot| boot.ports.iter().map(|port| port.name.clone()).collect()).unwrap_or_default();
    let taps = boot.map(|boot| boot.mirror.taps.as_slice()).unwrap_or_default();
    let (program, report) = Program::compile_for(policies, &Origins { ports: &names, taps }, Generation(1));
    let streams = program.streams().len();
    let counted =
        |count: usize, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    say!(
        out,
        "\n{}, {}, {}",
        counted(policies.policies().len(), "policy", "policies"),
        counted(policies.destinations().len(), "destination", "destinations"),
        counted(streams, "(destination, tag) pair", "(destination, tag) pairs"),
    );
    let dimensions: Vec<_> =
        report.dimensions.iter().map(|(name, classes)| format!("{name} {classes}")).collect();
    say!(out, "classifier: {} kB; classes: {}\n", report.bytes / 1024, dimensions.join(", "));

    let mut destinations =
        table(&["destination", "type", "mtu", "when larger", "underlay MTU for 1,514-byte frames"]);
    for destination in policies.destinations() {
        let (kind, need) = match &destination.kind {
            DestinationKind::Tunnel(tunnel) => {
                let need = ETHERNET_FRAME + usize::from(tunnel.overhead_bytes()) + tag_len(destination);
                (tunnel_name(tunnel), need.to_string())
            }
            DestinationKind::Port { port } => {
                (format!("port {port}"), (1500 + tag_len(destination)).to_string())
            }
            DestinationKind::Pcap { file } => (format!("pcap {}", file.display()), "-".to_owned()),
            DestinationKind::Group(group) => (format!("group of {}", group.members.len()), "-".to_owned()),
        };
        let mtu = destination.mtu.map_or_else(|| "the port's".to_owned(), |mtu| mtu.to_string());
        let oversize = match destination.oversize {
            Oversize::Truncate => "truncate",
            Oversize::Fragment => "fragment",
            Oversize::Segment => "segment",
            Oversize::Drop => "drop",
        };
        destinations.add_row([&destination.name, &kind, &mtu, oversize, &need]);
    }
    say!(out, "{destinations}");
}

fn tunnel_name(tunnel: &Tunnel) -> String {
    let kind = match tunnel.kind {
        TunnelKind::Vxlan { .. } => "vxlan",
        TunnelKind::Erspan2 => "erspan2",
        TunnelKind::Erspan3 => "erspan3",
    };
    format!("{kind} to {}", tunnel.remote)
}

fn tag_len(destination: &Destination) -> usize {
    if destination.inner_vlan { sluice_core::encap::VLAN_TAG_LEN } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_never_none_at_all() {
        let spans = [0.0036, 0.5, 2.1, 233.0, 11_931_557.0].map(span);
        assert_eq!(spans, ["13.0 seconds", "30 minutes", "2 hours", "10 days", "1361 years"]);
    }
}
