//! Do copies fit the way to their destination?

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_model::{BootConfig, Destination, DestinationKind, Oversize, PortConfig, PortSpec, Tunnel};

use super::Case;
use super::finding::{Finding, Level};
use crate::Machine;

const CHECK: &str = "mtu";

const ETHERNET_LEN: usize = 14;
const VLAN_TAG_LEN: usize = 4;
/// The MTU of a device that does not tell.
const ETHERNET_MTU: usize = 1_500;
/// The MTU of a port for a vhost-user switch, unless the boot config says otherwise: as the daemon takes it.
const VHOST_MTU: usize = 9_000;

/// Looks at the way to every tunnel destination of the policies.
pub(crate) fn ways(machine: &Machine<'_>, case: &Case<'_>, findings: &mut Vec<Finding>) {
    let (Some(boot), Some(policies)) = (case.boot, case.policies) else { return };
    let captured = boot.ports.iter().filter(|port| port.role.captures());
    let Some(largest) = captured.map(|port| mtu(machine, port)).max() else { return };
    let mut longest: BTreeMap<IpAddr, (usize, &str)> = BTreeMap::new();
    for destination in policies.destinations() {
        let DestinationKind::Tunnel(tunnel) = &destination.kind else { continue };
        let Some(port) = exit(boot, tunnel) else { continue };
        let need = need(destination, tunnel, largest);
        let have = destination.mtu.map_or_else(|| mtu(machine, port), usize::from);
        findings.push(way(destination, port, have, need));
        // What does not fit the port is cut, split or dropped before it leaves.
        let sent = (need.min(have), port.name.as_str());
        let known = longest.entry(tunnel.remote).or_insert(sent);
        *known = sent.max(*known);
    }
    findings.extend(longest.into_iter().map(|(remote, (longest, port))| unseen(remote, longest, port)));
}

/// The largest copies to a destination, from the outer IP header on.
fn need(destination: &Destination, tunnel: &Tunnel, largest: usize) -> usize {
    let tag = if destination.inner_vlan { VLAN_TAG_LEN } else { 0 };
    // Frames of capture ports may have a tag of their own.
    usize::from(tunnel.overhead_bytes()) + ETHERNET_LEN + VLAN_TAG_LEN + tag + largest
}

/// What is behind the port: whoever is in between with a smaller MTU drops, since DF is set. The kernel cannot try it from
/// the port, whose addresses are not its own.
fn unseen(remote: IpAddr, longest: usize, port: &str) -> Finding {
    let headers = if remote.is_ipv4() { 28 } else { 48 };
    let text = format!(
        "all switches on the way must carry {longest} bytes, which is not seen from here; a machine beside port {port} \
         can try"
    );
    let test = format!("ping -M do -c 3 -s {} {remote}", longest.saturating_sub(headers));
    Finding::note(CHECK, remote.to_string(), text).decided_by(test)
}

/// The MTU of a port.
fn mtu(machine: &Machine<'_>, port: &PortConfig) -> usize {
    let own = match &port.spec {
        PortSpec::AfPacket(interface) => machine.number(format!("/sys/class/net/{interface}/mtu")),
        PortSpec::Pci(_) | PortSpec::Devargs(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_) => None,
    };
    let own = own.and_then(|mtu| usize::try_from(mtu).ok());
    let usual = if matches!(port.spec, PortSpec::Vhost(_)) { VHOST_MTU } else { ETHERNET_MTU };
    port.mtu.map(usize::from).or(own).unwrap_or(usual)
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

/// Does the port carry what a destination gets?
fn way(destination: &Destination, port: &PortConfig, have: usize, need: usize) -> Finding {
    let name = destination.name.as_str();
    if have >= need {
        let text = format!("port {} carries {have} bytes, the largest copies have {need}", port.name);
        return Finding::ok(CHECK, name, text);
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
    match &port.spec {
        PortSpec::AfPacket(interface) if destination.mtu.is_none() && port.mtu.is_none() => finding
            .decided_by(format!("ip link set dev {interface} mtu {need}   # and on all switches on the way")),
        _ => finding.decided_by(format!("# in the boot config, [[port]] {}: mtu = {need}", port.name)),
    }
}
