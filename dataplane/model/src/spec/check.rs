//! Do policies and boot config fit together?

use std::collections::HashMap;
use std::net::IpAddr;

use crate::{BootConfig, Destination, DestinationKind, PolicySet, PortConfig, Tunnel};

use super::destinations::too_small;
use super::diagnostic::{Diagnostic, Severity};
use super::suggest::did_you_mean;

/// The MTU of an Ethernet port that says nothing else.
const ETHERNET_MTU: u16 = 1_500;

/// Holds a policy set against the ports of a boot config: every destination must be reachable through a port that
/// sends, every ingress port must exist and capture, and every tap must exist. Findings are about the policy file and have no line, since a
/// [`PolicySet`] knows none.
#[must_use]
pub fn check_against(policies: &PolicySet, boot: &BootConfig) -> Vec<Diagnostic> {
    let mut check = Check { boot, file: boot.policy.display().to_string(), findings: Vec::new() };
    for destination in policies.destinations() {
        match &destination.kind {
            DestinationKind::Tunnel(tunnel) => check.tunnel(destination, tunnel),
            DestinationKind::Port { port } => check.output(destination, port),
            // The members of a group are destinations themselves.
            DestinationKind::Pcap { .. } | DestinationKind::Group(_) => {}
        }
    }
    check.ingress(policies);
    check.taps(policies);
    check.findings
}

struct Check<'b> {
    boot: &'b BootConfig,
    file: String,
    findings: Vec<Diagnostic>,
}

impl<'b> Check<'b> {
    fn add(&mut self, severity: Severity, field: String, reason: String, suggestion: String) {
        let finding = Diagnostic::about_file(severity, &self.file, reason, Some(suggestion));
        self.findings.push(Diagnostic { field, ..finding });
    }

    fn error(&mut self, field: String, reason: String, suggestion: impl Into<String>) {
        self.add(Severity::Error, field, reason, suggestion.into());
    }

    fn senders(&self) -> impl Iterator<Item = &'b PortConfig> + use<'b> {
        self.boot.ports.iter().filter(|port| port.role.sends())
    }

    /// The port of that name, if it sends.
    fn sender(&mut self, destination: &Destination, name: &str) -> Option<&'b PortConfig> {
        let field = format!("destination {:?}: port", destination.name);
        let Some(port) = self.boot.ports.iter().find(|port| port.name == name) else {
            let suggestion = did_you_mean(name, self.senders().map(|port| port.name.as_str()));
            let suggestion =
                suggestion.unwrap_or_else(|| format!("add [[port]] name = {name:?}, role = \"output\""));
            self.error(field, format!("no port {name:?} in the boot config"), suggestion);
            return None;
        };
        if !port.role.sends() {
            let suggestion =
                format!("set role = \"both\" at port {name:?}, or name a port with role = \"output\"");
            self.error(field, format!("port {name:?} only captures"), suggestion);
            return None;
        }
        Some(port)
    }

    fn output(&mut self, destination: &Destination, name: &str) {
        if let Some(port) = self.sender(destination, name) {
            self.mtu(destination, port);
        }
    }

    fn tunnel(&mut self, destination: &Destination, tunnel: &Tunnel) {
        let port = match &tunnel.port {
            Some(name) => self.sender(destination, name),
            None => self.route(destination, tunnel),
        };
        let Some(port) = port else { return };
        let family = if tunnel.remote.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut own = port.addresses.iter().filter(|own| own.address.is_ipv4() == tunnel.remote.is_ipv4());
        let field = |key: &str| format!("destination {:?}: {key}", destination.name);
        let resolved = tunnel.mac.is_none();
        match tunnel.local {
            None if own.next().is_none() => {
                let reason = format!("port {:?} has no {family} address to send from", port.name);
                let suggestion = "give the port one (addresses = [...]), or the destination a local address";
                self.error(field("local"), reason, suggestion);
            }
            Some(local) if resolved && !own.any(|own| own.address == local) => {
                let reason =
                    format!("{local} is no address of port {:?}, so ARP or ND cannot ask from it", port.name);
                self.error(
                    field("local"),
                    reason,
                    format!("give {local} to the port, or the destination a mac"),
                );
            }
            _ if resolved && !next_hop(port, tunnel.remote) => {
                let reason = format!(
                    "{} is in no network of port {:?}, which has no gateway",
                    tunnel.remote, port.name
                );
                self.error(field("remote"), reason, "give the port a gateway, or the destination a mac");
            }
            _ => {}
        }
        self.mtu(destination, port);
    }

    /// The port through which a tunnel goes that names none.
    fn route(&mut self, destination: &Destination, tunnel: &Tunnel) -> Option<&'b PortConfig> {
        let remote = tunnel.remote;
        let direct = self.senders().find(|port| port.addresses.iter().any(|own| own.on_link(remote)));
        let route = direct.or_else(|| self.senders().find(|port| has_gateway(port, remote)));
        if route.is_none() {
            let field = format!("destination {:?}: remote", destination.name);
            let reason = format!(
                "no port leads to {remote}: it is in no network of an output port, and none has a gateway"
            );
            let suggestion = "give an output port an address in its network or a gateway; or the destination a port, \
                              a local address and a mac";
            self.error(field, reason, suggestion);
        }
        route
    }

    fn mtu(&mut self, destination: &Destination, port: &PortConfig) {
        let field = format!("destination {:?}: mtu", destination.name);
        let link = port.mtu.unwrap_or(ETHERNET_MTU);
        match destination.mtu {
            Some(mtu) if port.mtu.is_some_and(|link| mtu > link) => {
                let reason = format!("{mtu} is more than the MTU {link} of port {:?}", port.name);
                self.error(field, reason, format!("write {link} or less, or raise the MTU of the port"));
            }
            Some(_) => {}
            None => {
                if let DestinationKind::Tunnel(tunnel) = &destination.kind
                    && let Some((least, why)) = too_small(tunnel, destination.inner_vlan, link.into())
                {
                    let reason =
                        format!("the MTU {link} of port {:?} is too small for the tunnel: {why}", port.name);
                    self.error(field, reason, format!("set mtu = {least} or more at the port"));
                }
            }
        }
    }

    fn ingress(&mut self, policies: &PolicySet) {
        let captures: HashMap<&str, bool> =
            self.boot.ports.iter().map(|port| (port.name.as_str(), port.role.captures())).collect();
        for policy in policies.policies() {
            for name in policy.ingress.iter().filter(|name| captures.get(name.as_str()) != Some(&true)) {
                let field = format!("policy {:?}: ingress", policy.name);
                let (reason, suggestion) = if captures.contains_key(name.as_str()) {
                    let suggestion = format!("set role = \"both\" at port {name:?}");
                    (format!("nothing comes in at port {name:?}, which only sends"), suggestion)
                } else {
                    let known = self.boot.ports.iter().filter(|port| port.role.captures());
                    let suggestion = did_you_mean(name, known.map(|port| port.name.as_str()));
                    let suggestion =
                        suggestion.unwrap_or_else(|| "name a port of the boot config".to_owned());
                    (format!("no port {name:?} in the boot config"), suggestion)
                };
                self.add(Severity::Warning, field, reason, suggestion);
            }
        }
    }

    fn taps(&mut self, policies: &PolicySet) {
        let taps = &self.boot.mirror.taps;
        for policy in policies.policies() {
            for name in policy.taps.iter().filter(|name| taps.iter().all(|tap| tap.name != **name)) {
                let field = format!("policy {:?}: taps", policy.name);
                let suggestion = did_you_mean(name, taps.iter().map(|tap| tap.name.as_str()))
                    .unwrap_or_else(|| format!("add [[tap]] name = {name:?} to the boot config"));
                let reason = format!("no tap {name:?} in the boot config: nothing comes from there");
                self.add(Severity::Warning, field, reason, suggestion);
            }
        }
    }
}

fn has_gateway(port: &PortConfig, remote: IpAddr) -> bool {
    if remote.is_ipv4() { port.gateway.is_some() } else { port.gateway6.is_some() }
}

fn next_hop(port: &PortConfig, remote: IpAddr) -> bool {
    has_gateway(port, remote) || port.addresses.iter().any(|own| own.on_link(remote))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{parse_boot, parse_policy};

    fn findings(destination: &str, ports: &str) -> Vec<String> {
        let policy = format!(
            "[[destination]]\nname = \"ids\"\n{destination}\n\
             [[policy]]\nname = \"all\"\ningress = [\"tap0\"]\nto = [\"ids\"]\n"
        );
        let boot = format!(
            "policy = \"p\"\n[[port]]\nname = \"tap0\"\nspec = \"af_packet:eth0\"\nrole = \"capture\"\n{ports}"
        );
        let policies = parse_policy("p", &policy).unwrap().value;
        let boot = parse_boot("b", &boot).unwrap().value;
        check_against(&policies, &boot).iter().map(ToString::to_string).collect()
    }

    const OUT: &str = "[[port]]\nname = \"out0\"\nspec = \"af_packet:eth1\"\nrole = \"output\"\n";

    #[test]
    fn what_fits_has_no_findings() {
        let vxlan = "type = \"vxlan\"\nremote = \"192.0.2.10\"\n";
        for (destination, ports) in [
            (vxlan.to_owned(), format!("{OUT}addresses = [\"192.0.2.1/24\"]")),
            (vxlan.to_owned(), format!("{OUT}addresses = [\"10.0.0.1/24\"]\ngateway = \"10.0.0.2\"")),
            (
                format!("{vxlan}port = \"out0\"\nlocal = \"192.0.2.1\"\nmac = \"02:00:00:00:00:01\""),
                OUT.to_owned(),
            ),
            ("type = \"port\"\nport = \"out0\"".to_owned(), OUT.to_owned()),
            ("type = \"pcap\"\nfile = \"x.pcap\"".to_owned(), String::new()),
        ] {
            assert_eq!(findings(&destination, &ports), [""; 0], "{destination} {ports}");
        }
    }

    #[test]
    fn unknown_taps_are_told() {
        let policy = "[[destination]]\nname = \"f\"\ntype = \"pcap\"\nfile = \"f.pcap\"\n\
                      [[policy]]\nname = \"all\"\ntaps = [\"core\", \"cores\"]\nto = [\"f\"]\n";
        let boot = "policy = \"p\"\n[[port]]\nname = \"cap0\"\nspec = \"af_packet:eth0\"\nrole = \"capture\"\n\
                    [[tap]]\nname = \"core\"\nnumber = 4\nports = [\"cap0\"]\n";
        let policies = parse_policy("p", policy).unwrap().value;
        let found = check_against(&policies, &parse_boot("b", boot).unwrap().value);
        assert_eq!(found.len(), 1, "{found:?}");
        let found = found[0].to_string();
        assert!(
            found.contains("warning: policy \"all\": taps: no tap \"cores\"") && found.contains("\"core\"?"),
            "{found}"
        );
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let vxlan = "type = \"vxlan\"\nremote = \"192.0.2.10\"\n";
        let own = format!("{OUT}addresses = [\"192.0.2.1/24\"]\n");
        for (destination, ports, expected) in [
            (vxlan.to_owned(), OUT.to_owned(), "no port leads to 192.0.2.10"),
            (format!("{vxlan}port = \"tap0\""), own.clone(), "only captures"),
            (format!("{vxlan}port = \"out1\""), own.clone(), "did you mean \"out0\"?"),
            (format!("{vxlan}port = \"out0\""), OUT.to_owned(), "has no IPv4 address to send from"),
            (
                format!("{vxlan}port = \"out0\""),
                format!("{OUT}addresses = [\"10.0.0.1/24\"]"),
                "which has no gateway",
            ),
            (format!("{vxlan}local = \"192.0.2.2\""), own.clone(), "is no address of port"),
            (format!("{vxlan}mtu = 9000"), format!("{own}mtu = 1500"), "more than the MTU 1500"),
            (vxlan.to_owned(), format!("{own}mtu = 80"), "too small for the tunnel"),
            ("type = \"port\"\nport = \"tap0\"".to_owned(), own, "only captures"),
        ] {
            let found = findings(&destination, &ports);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(expected), "{found:?}");
        }
    }
}
