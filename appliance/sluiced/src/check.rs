//! `sluiced check`: validates, and prints what would run.

use std::path::Path;
use std::process::ExitCode;

use sluice_core::classify::Program;
use sluice_engine::machine::Machine;
use sluice_engine::runtime::{
    CorePlan, DedupPlan, FlowPlan, MemoryPlan, StartError, finished_checksums, memory_fits,
};
use sluice_model::spec::{Diagnostics, Severity, check_against, load_boot, load_policy};
use sluice_model::{
    BootConfig, Destination, DestinationKind, DistributorMode, Generation, Oversize, PolicySet, PortRole,
    PortSpec, Tunnel, TunnelKind,
};

use crate::report::{self, table};

/// The largest frame, without FCS, that an Ethernet port of MTU 1,500 receives, bytes.
const ETHERNET_FRAME: usize = 1514;

pub(crate) fn check(config: Option<&Path>, policy: Option<&Path>) -> ExitCode {
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
    let policies = match path {
        Some(path) => {
            let policies = report::load(&load_policy(&path));
            whole &= policies.is_some();
            policies
        }
        None => None,
    };
    if let (Some(boot), Some(policies)) = (&boot, &policies) {
        let findings = check_against(policies, boot);
        whole &= !findings.iter().any(|finding| finding.severity == Severity::Error);
        if !findings.is_empty() {
            eprintln!("{}", Diagnostics(findings));
        }
    }
    if let Some(boot) = &boot
        && let Err(error) = print_boot(boot)
    {
        eprintln!("error: {error}");
        whole = false;
    }
    if let Some(policies) = &policies {
        print_policies(policies, boot.as_ref());
    }
    println!("{}", if whole { "OK" } else { "NOT OK: see the errors above" });
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints what would run, or why it would not.
fn print_boot(boot: &BootConfig) -> Result<(), StartError> {
    let mut ports = table(&["port", "device", "role", "addresses", "mtu"]);
    for port in &boot.ports {
        let device = match &port.spec {
            PortSpec::Pci(device) | PortSpec::Devargs(device) => device.clone(),
            PortSpec::Pcap(path) => format!("pcap:{}", path.display()),
            PortSpec::AfPacket(interface) => format!("af_packet:{interface}"),
        };
        let role = match port.role {
            PortRole::Capture => "capture",
            PortRole::Output => "output",
            PortRole::Both => "both",
        };
        let addresses: Vec<_> = port.addresses.iter().map(ToString::to_string).collect();
        let mtu = port.mtu.map_or_else(|| "the device's".to_owned(), |mtu| mtu.to_string());
        ports.add_row([&port.name, &device, role, &addresses.join(" "), &mtu]);
    }
    println!("{ports}\n");
    for port in boot.ports.iter().filter(|port| port.role.captures()) {
        if let Some(caution) = uncounted(&port.spec) {
            println!("port \"{}\": {caution}", port.name);
        }
    }
    let machine = Machine::detect();
    let cores = CorePlan::new(boot, &machine);
    print_plan(boot, &machine, &cores);
    print_flows(boot, &machine, &cores);
    print_dedup(boot, &machine, &cores);
    memory_fits(boot, &cores, &machine)
}

/// What metering flows takes.
fn print_flows(boot: &BootConfig, machine: &Machine, cores: &CorePlan) {
    let Some(plan) = FlowPlan::of(&boot.flow, cores.workers.len(), machine) else { return };
    let mb = |bytes: u64| bytes.div_ceil(1_000_000);
    println!(
        "flow: {} flows in {} MB, metrics in {} MB, rings of records in {} MB for each worker",
        plan.flows,
        mb(plan.flow_bytes),
        mb(plan.metrics_bytes),
        mb(plan.ring_bytes)
    );
}

/// What deduplication takes, and how sure its verdicts are.
fn print_dedup(boot: &BootConfig, machine: &Machine, cores: &CorePlan) {
    let Some(plan) = DedupPlan::of(&boot.dedup, cores.workers.len(), machine) else { return };
    let window_us = u32::try_from(boot.dedup.window_ns / 1000).map_or(f64::MAX, f64::from);
    let checksum = boot.dedup.key.l4_checksum.unwrap_or_else(|| finished_checksums(boot));
    println!(
        "dedup: {} within {} ms; the L4 checksum is {} the key",
        boot.dedup.mode.name(),
        window_us / 1e3,
        if checksum { "part of" } else { "left out of" }
    );
    println!(
        "       {} fingerprints of {} bits in {} MB for each worker: holds {} packets/s for the whole window",
        plan.entries,
        plan.bits,
        plan.bytes / 1_000_000,
        plan.packets_per_s
    );
    println!(
        "       probability of a false duplicate: {:.1e} per packet with a full table; at that rate one in {:.0} hours",
        plan.false_duplicate(),
        plan.hours_between_false_duplicates()
    );
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
fn print_plan(boot: &BootConfig, machine: &Machine, cores: &CorePlan) {
    let plan = MemoryPlan::new(boot, cores, machine);
    println!(
        "machine: {} CPUs{}, {} MB{}",
        machine.cpus.len(),
        quota(machine),
        machine.memory_bytes >> 20,
        { if machine.memory_limited { " by control group" } else { "" } }
    );
    println!("workers: {} on CPUs {:?}", cores.workers.len(), cores.workers);
    if cores.distributors.is_empty() {
        println!("distributors: none");
    } else {
        let when = match boot.worker.distributor {
            DistributorMode::Always => "always",
            DistributorMode::Auto | DistributorMode::Never => {
                "unless the RSS self-test of every capture port passes"
            }
        };
        let shared = if cores.shared { "; a CPU is shared with a worker" } else { "" };
        println!(
            "distributors: {} on CPUs {:?}, {when}; rings of {}{shared}",
            cores.distributors.len(),
            cores.distributors,
            plan.ring_size
        );
    }
    println!(
        "queues: receive queues of {} descriptors, transmit queues of {}, one of each for every worker where the \
         port has them",
        plan.rx_descriptors, plan.tx_descriptors
    );
    let pages = match plan.use_hugepages(boot.eal.hugepages) {
        Ok(true) => "in hugepages".to_owned(),
        Ok(false) => "in ordinary pages".to_owned(),
        Err(error) => error.to_string(),
    };
    println!("memory: {} MB for DPDK, {pages}", plan.memory_mb());
    let nodes: Vec<_> = plan.nodes.iter().flatten().map(ToString::to_string).collect();
    let nodes = if nodes.is_empty() {
        String::new()
    } else {
        format!(", on each of the NUMA nodes {}", nodes.join(", "))
    };
    println!(
        "        {} mbufs of {} bytes for packets ({} can be in use at once), {} for headers{nodes}",
        plan.mbufs, plan.data_room, plan.needed, plan.headers
    );
    if plan.mbufs < plan.needed {
        println!("        with so few mbufs, packets are lost before queues and rings are full");
    }
}

/// What a quota leaves of the CPUs, for people.
fn quota(machine: &Machine) -> String {
    let Some(milli) = machine.cpu_quota_milli else { return String::new() };
    format!(", a quota of {}.{:02}", milli / 1000, milli % 1000 / 10)
}

fn print_policies(policies: &PolicySet, boot: Option<&BootConfig>) {
    let names: Vec<String> =
        boot.map(|boot| boot.ports.iter().map(|port| port.name.clone()).collect()).unwrap_or_default();
    let (program, report) = Program::compile(policies, &names, Generation(1));
    let streams = program.streams().len();
    println!(
        "\n{} policies, {} destinations, {streams} (destination, tag) pairs",
        policies.policies().len(),
        policies.destinations().len()
    );
    let dimensions: Vec<_> =
        report.dimensions.iter().map(|(name, classes)| format!("{name} {classes}")).collect();
    println!("classifier: {} kB; classes: {}\n", report.bytes / 1024, dimensions.join(", "));

    let mut destinations =
        table(&["destination", "type", "mtu", "when larger", "underlay MTU for 1,514-byte frames"]);
    for destination in policies.destinations() {
        let (kind, need) = match &destination.kind {
            DestinationKind::Tunnel(tunnel) => {
                let need = ETHERNET_FRAME + tunnel_overhead(tunnel) + tag_len(destination);
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
    println!("{destinations}");
}

fn tunnel_name(tunnel: &Tunnel) -> String {
    let kind = match tunnel.kind {
        TunnelKind::Vxlan { .. } => "vxlan",
        TunnelKind::Erspan2 => "erspan2",
        TunnelKind::Erspan3 => "erspan3",
    };
    format!("{kind} to {}", tunnel.remote)
}

/// Bytes of the outer IP packet before the copied frame.
fn tunnel_overhead(tunnel: &Tunnel) -> usize {
    let any = if tunnel.remote.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let ends = sluice_core::encap::Endpoints {
        src_mac: sluice_model::MacAddr::default(),
        dst_mac: sluice_model::MacAddr::default(),
        local: any,
        remote: tunnel.remote,
    };
    sluice_core::encap::Encap::new(tunnel, ends, true).map_or(0, |encap| encap.overhead())
}

fn tag_len(destination: &Destination) -> usize {
    if destination.inner_vlan { sluice_core::encap::VLAN_TAG_LEN } else { 0 }
}
