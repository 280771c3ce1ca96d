//! Do copies fit the way to their destination?

use std::net::IpAddr;

use sluice_model::{BootConfig, Destination, DestinationKind, Oversize, PortConfig, PortSpec, Tunnel};

use super::Case;
use super::finding::{Finding, Level};
use crate::Machine;

const ETHERNET_LEN: usize = 14;
const VLAN_TAG_LEN: usize = 4;
/// The MTU of a device that does not tell.
const ETHERNET_MTU: usize = 1_500;

/// Looks at the way to every tunnel destination of the policies.
pub(crate) fn ways(machine: &Machine<'_>, case: &Case<'_>, findings: &mut Vec<Finding>) {
    let (Some(boot), Some(policies)) = (case.boot, case.policies) else { return };
    let captured = boot.ports.iter().filter(|port| port.role.captures());
    let Some(largest) = captured.map(|port| mtu(machine, port)).max() else { return };
    for destination in policies.destinations() {
        if let DestinationKind::Tunnel(tunnel) = &destination.kind {
            findings.extend(way(machine, boot, (destination, tunnel), largest));
        }
    }
}

/// The MTU of a port.
fn mtu(machine: &Machine<'_>, port: &PortConfig) -> usize {
    let own = match &port.spec {
        PortSpec::AfPacket(interface) => machine.number(format!("/sys/class/net/{interface}/mtu")),
        PortSpec::Pci(_) | PortSpec::Devargs(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_) => None,
    };
    let own = own.and_then(|mtu| usize::try_from(mtu).ok());
    port.mtu.map(usize::from).or(own).unwrap_or(ETHERNET_MTU)
}

/// The port that leads to a tunnel's end.
fn exit<'b>(boot: &'b BootConfig, tunnel: &Tunnel) -> Option<&'b PortConfig> {
    let outputs = || boot.ports.iter().filter(|port| port.role.sends());
    if let Some(name) = &tunnel.port {
        return outputs().find(|port| port.name == *name);
    }
    let direct = outputs().find(|port| port.addresses.iter().any(|own| own.on_link(tunnel.remote)));
    let routed = || {
        outputs().find(|port| match tunnel.remote {
            IpAddr::V4(_) => port.gateway.is_some(),
            IpAddr::V6(_) => port.gateway6.is_some(),
        })
    };
    direct.or_else(routed).or_else(|| outputs().next())
}

fn way(
    machine: &Machine<'_>,
    boot: &BootConfig,
    (destination, tunnel): (&Destination, &Tunnel),
    largest: usize,
) -> Option<Finding> {
    const CHECK: &str = "mtu";
    let overhead = usize::from(tunnel.overhead_bytes());
    let tag = if destination.inner_vlan { VLAN_TAG_LEN } else { 0 };
    // Frames of capture ports may have a tag of their own.
    let need = overhead + ETHERNET_LEN + VLAN_TAG_LEN + tag + largest;
    let port = exit(boot, tunnel)?;
    let have = destination.mtu.map_or_else(|| mtu(machine, port), usize::from);
    let name = destination.name.as_str();
    // DF is set: whoever is in between with a smaller MTU drops.
    let ip_headers = if tunnel.remote.is_ipv4() { 28 } else { 48 };
    let test = format!("ping -M do -c 3 -s {} {}", need.saturating_sub(ip_headers), tunnel.remote);
    if have >= need {
        let text = format!("port {} carries {have} bytes, the largest copies have {need}", port.name);
        let text = format!("{text}; all switches on the way must, too: {test}");
        return Some(Finding::ok(CHECK, name, text));
    }
    let cost = match destination.oversize {
        Oversize::Truncate => "copies of the largest packets are cut (counted as truncated)",
        Oversize::Drop => "copies of the largest packets are dropped as oversize",
        Oversize::Fragment => "copies of the largest packets are sent as outer IP fragments",
        Oversize::Segment => "the largest TCP packets are sent as several",
    };
    let text = format!("the largest copies have {need} bytes, port {} carries {have}", port.name);
    let mut finding = Finding::warning(CHECK, name, text, cost);
    if matches!(destination.oversize, Oversize::Fragment | Oversize::Segment) {
        // As the operator has chosen.
        finding.level = Level::Note;
    }
    Some(match &port.spec {
        PortSpec::AfPacket(interface) if destination.mtu.is_none() && port.mtu.is_none() => finding
            .decided_by(format!("ip link set dev {interface} mtu {need}   # and on all switches on the way")),
        _ => finding.decided_by(format!("# in the boot config, [[port]] {}: mtu = {need}", port.name)),
    })
}
