//! Do policies and boot config fit together?

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::{
    BootConfig, Destination, DestinationKind, FeedGuard, GuestName, Guests, PolicySet, PortConfig, Side,
    Tunnel,
};

use super::destinations::too_small;
use super::diagnostic::{Diagnostic, Severity};
use super::ovs_section::USUAL;
use super::suggest::did_you_mean;

/// The MTU of an Ethernet port that says nothing else.
const ETHERNET_MTU: u16 = 1_500;

/// Holds a policy set against the ports of a boot config: every destination must be reachable through a port that
/// sends, every ingress port must exist and capture, every tap must exist, and names of virtual machines need a database to be
/// learned from. Findings are about the policy file and have no line, since a [`PolicySet`] knows none.
#[must_use]
pub fn check_against(policies: &PolicySet, boot: &BootConfig) -> Vec<Diagnostic> {
    let mut check = Check { boot, file: boot.policy.display().to_string(), findings: Vec::new() };
    for destination in policies.destinations() {
        match &destination.kind {
            DestinationKind::Tunnel(tunnel) => {
                check.sends_to_own(destination, tunnel);
                check.tunnel(destination, tunnel);
            }
            DestinationKind::Port { port } => check.output(destination, port),
            // The members of a group are destinations themselves.
            DestinationKind::Pcap { .. } | DestinationKind::Group(_) => {}
        }
    }
    check.ingress(policies);
    check.taps(policies);
    check.database(policies);
    check.findings
}

/// How many names are compared with one that nothing has, in search of the one that was meant.
const MAX_NAMES_COMPARED: usize = 20_000;

/// Warns about the names of virtual machines and ports in `policies` that stand for nothing in `guests`, each once;
/// `None` = nobody knows yet. Names that stand for too much are refused.
#[must_use]
pub fn check_guests(policies: &PolicySet, guests: Option<&Guests>, file: &str) -> Vec<Diagnostic> {
    let Some(guests) = guests else {
        let Some((name, field)) = named(policies).into_iter().next() else { return Vec::new() };
        let reason = format!(
            "{:?} and all such names match nothing until the database of Open vSwitch has told what there is",
            name.to_string()
        );
        let suggestion = "sluice status says what keeps it".to_owned();
        let finding = Diagnostic::about_file(Severity::Warning, file, reason, Some(suggestion));
        return vec![Diagnostic { field, ..finding }];
    };
    let (count, most) = (policies.named_addresses(guests), PolicySet::MAX_NAMED_ADDRESSES);
    if count > most {
        let reason =
            format!("names of virtual machines and ports stand for {count} addresses now, more than {most}");
        let suggestion = "put names that several policies have into a group: it counts once".to_owned();
        return vec![Diagnostic::about_file(Severity::Error, file, reason, Some(suggestion))];
    }
    let mut budget = MAX_NAMES_COMPARED;
    let unknown = named(policies).into_iter().filter(|(name, _)| guests.is_silent(name));
    let finding = |(name, field): (&GuestName, String)| {
        let (kind, noun) = (name.kind(), name.kind().noun());
        if guests.get(name).is_some() {
            let reason = format!(
                "Open vSwitch tells no address of {noun} {:?} now: the name matches nothing",
                name.name()
            );
            let suggestion =
                "set external_ids:attached-mac of its interface, unless it is not in use".to_owned();
            let finding = Diagnostic::about_file(Severity::Warning, file, reason, Some(suggestion));
            return Diagnostic { field, ..finding };
        }
        let known = || guests.names().filter(|other| other.kind() == kind).map(GuestName::name);
        let meant = if budget == 0 { None } else { did_you_mean(name.name(), known()) };
        budget = budget.saturating_sub(guests.count(kind).max(1));
        let suggestion = meant.unwrap_or_else(|| "sluice guests lists what there is".to_owned());
        let reason = format!(
            "Open vSwitch has no {noun} {:?} now: the name matches nothing until it has",
            name.name()
        );
        let finding = Diagnostic::about_file(Severity::Warning, file, reason, Some(suggestion));
        Diagnostic { field, ..finding }
    };
    unknown.map(finding).collect()
}

/// The names of virtual machines and ports, each once, with the first field that holds it.
fn named(policies: &PolicySet) -> Vec<(&GuestName, String)> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for policy in policies.policies() {
        for (key, Side { addresses, .. }) in [("collect", &policy.collect), ("peer", &policy.peer)] {
            for name in addresses.iter().flat_map(|set| &set.guests) {
                if seen.insert(name) {
                    all.push((name, format!("policy {:?}: {key}.addresses", policy.name)));
                }
            }
        }
    }
    all
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

    fn ports(&self) -> impl Iterator<Item = &'b PortConfig> + use<'b> {
        self.boot.ports.iter().filter(|port| !port.is_removed())
    }

    fn senders(&self) -> impl Iterator<Item = &'b PortConfig> + use<'b> {
        self.boot.ports.iter().filter(|port| port.role.sends())
    }

    /// The port of that name, if it sends.
    fn sender(&mut self, destination: &Destination, name: &str) -> Option<&'b PortConfig> {
        let field = format!("destination {:?}: port", destination.name);
        let Some(port) = self.ports().find(|port| port.name == name) else {
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
            self.feed(destination, port);
            self.mtu(destination, port);
        }
    }

    /// Whether plain copies would leave into a network that is in use.
    fn feed(&mut self, destination: &Destination, port: &PortConfig) {
        let severity = match port.feed_guard {
            FeedGuard::Off => return,
            FeedGuard::Count => Severity::Warning,
            FeedGuard::Stop => Severity::Error,
        };
        let reason = if port.role.captures() {
            format!("port {:?} captures, too: plain copies would come back as traffic", port.name)
        } else if let Some(own) = port.addresses.first() {
            format!(
                "port {:?} has the address {own}: plain copies would leave into a network that is in use",
                port.name
            )
        } else {
            return;
        };
        let suggestion = "name a port with role = \"output\" and no addresses, which leads to tools only; or write \
                          feed_guard = \"off\" in the boot config";
        self.add(
            severity,
            format!("destination {:?}: port", destination.name),
            reason,
            suggestion.to_owned(),
        );
    }

    /// Whether copies would be sent to ourselves.
    fn sends_to_own(&mut self, destination: &Destination, tunnel: &Tunnel) {
        let owner =
            self.boot.ports.iter().find(|port| port.addresses.iter().any(|own| own.address == tunnel.remote));
        if let Some(owner) = owner {
            let reason =
                format!("{} is an address of port {:?}: copies would come back", tunnel.remote, owner.name);
            self.error(
                format!("destination {:?}: remote", destination.name),
                reason,
                "write the address of the tool",
            );
        }
    }

    fn tunnel(&mut self, destination: &Destination, tunnel: &Tunnel) {
        let port = match &tunnel.port {
            Some(name) => self.sender(destination, name),
            None => self.route(destination, tunnel),
        };
        let Some(port) = port else { return };
        if let Some(own) = port.addresses.iter().find(|own| own.names_network(tunnel.remote)) {
            let field = format!("destination {:?}: remote", destination.name);
            let reason = format!("{} is the network of {own} itself, or all of it: no tool", tunnel.remote);
            self.error(field, reason, "write the address of the tool");
            return;
        }
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
            self.ports().map(|port| (port.name.as_str(), port.role.captures())).collect();
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

impl Check<'_> {
    /// Names are learned from a database.
    fn database(&mut self, policies: &PolicySet) {
        if self.boot.ovs.is_some() {
            return;
        }
        for (name, field) in named(policies) {
            let name = name.to_string();
            let reason =
                format!("{name:?} is learned from Open vSwitch, and the boot config names no database of it");
            self.error(field, reason, format!("add [ovs] with {USUAL} to the boot config"));
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
    fn plain_copies_leave_only_where_nobody_is() {
        let plain = "type = \"port\"\nport = \"out0\"";
        let both = OUT.replace("\"output\"", "\"both\"");
        let addressed = format!("{OUT}addresses = [\"198.51.100.1/24\"]\n");
        // Keys of the boot config's top level go before its ports.
        let guarded = |guard: &str, port: &str| {
            let boot = format!(
                "policy = \"p\"\nfeed_guard = \"{guard}\"\n\
                 [[port]]\nname = \"tap0\"\nspec = \"af_packet:eth0\"\nrole = \"capture\"\n{port}"
            );
            let policy = format!(
                "[[destination]]\nname = \"ids\"\n{plain}\n[[policy]]\nname = \"all\"\nto = [\"ids\"]\n"
            );
            let policies = parse_policy("p", &policy).unwrap().value;
            let found = check_against(&policies, &parse_boot("b", &boot).unwrap().value);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for guard in ["off", "count", "stop"] {
            assert_eq!(guarded(guard, OUT), [""; 0], "{guard}");
        }
        for (guard, expected) in
            [("count", "warning: destination \"ids\": port"), ("stop", "error: destination")]
        {
            let found = guarded(guard, &both);
            assert!(
                found.len() == 1 && found[0].contains(expected) && found[0].contains("captures, too"),
                "{found:?}"
            );
            let found = guarded(guard, &addressed);
            assert!(
                found.len() == 1 && found[0].contains(expected) && found[0].contains("198.51.100.1"),
                "{found:?}"
            );
        }
        for port in [&both, &addressed] {
            assert_eq!(guarded("off", port), [""; 0]);
        }
        let own = format!("{OUT}addresses = [\"192.0.2.1/24\", \"192.0.2.2/24\"]\n");
        let found = findings("type = \"vxlan\"\nremote = \"192.0.2.2\"\nmac = \"02:00:00:00:00:01\"", &own);
        assert!(
            found.len() == 1 && found[0].contains("192.0.2.2 is an address of port \"out0\""),
            "{found:?}"
        );
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
    fn names_need_a_database_and_somebody_who_has_them() {
        let policy = "[[group]]\nname = \"web\"\naddresses = [\"vm:web-1\", \"vm:db\"]\n\
                      [[policy]]\nname = \"all\"\ncollect = { addresses = [\"@web\"] }\n\
                      peer = { addresses = [\"port:vnet0\", \"vm:db\"] }\naction = \"drop\"\n";
        let boot =
            "policy = \"p\"\n[[port]]\nname = \"cap0\"\nspec = \"af_packet:eth0\"\nrole = \"capture\"\n";
        let loaded = parse_policy("p", policy).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let policies = loaded.value;
        let found = check_against(&policies, &parse_boot("b", boot).unwrap().value);
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(
            told[2],
            "p: error: policy \"all\": peer.addresses: \"port:vnet0\" is learned from Open vSwitch, and the boot config \
             names no database of it; add [ovs] with database = \"unix:/var/run/openvswitch/db.sock\" to the boot config"
        );
        let boot = format!("{boot}[ovs]\ndatabase = \"unix:/x\"\n");
        assert_eq!(check_against(&policies, &parse_boot("b", &boot).unwrap().value), []);

        let mut guests = Guests::default();
        let set = crate::AddressSet { macs: vec![crate::MacAddr([2; 6])], ..crate::AddressSet::default() };
        for name in ["vm:db", "vm:web-2"] {
            guests.add(GuestName::of(name).unwrap().unwrap(), &set);
        }
        guests.add(GuestName::of("port:vnet0").unwrap().unwrap(), &crate::AddressSet::default());
        let told: Vec<String> =
            check_guests(&policies, Some(&guests), "p").iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("no virtual machine \"web-1\" now") && told[0].contains("\"web-2\"?"),
            "{}",
            told[0]
        );
        assert!(
            told[1].starts_with(
                "p: warning: policy \"all\": peer.addresses: Open vSwitch tells no address of port"
            ),
            "{}",
            told[1]
        );

        let unknown = check_guests(&policies, None, "p");
        assert_eq!(unknown.len(), 1);
        assert!(
            unknown[0].to_string().contains("until the database of Open vSwitch has told"),
            "{}",
            unknown[0]
        );
        let macs = (0..1 << 20).map(|n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            crate::MacAddr([2, 0, a, b, c, d])
        });
        let set = crate::AddressSet { macs: macs.collect(), ..crate::AddressSet::default() };
        guests.add(GuestName::of("port:vnet0").unwrap().unwrap(), &set);
        let found = check_guests(&policies, Some(&guests), "p");
        assert!(found.len() == 1 && found[0].severity == Severity::Error, "{found:?}");
        assert!(
            found[0].to_string().contains("stand for 1048578 addresses now, more than 1048576"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let vxlan = "type = \"vxlan\"\nremote = \"192.0.2.10\"\n";
        let own = format!("{OUT}addresses = [\"192.0.2.1/24\"]\n");
        for (destination, ports, expected) in [
            (vxlan.to_owned(), OUT.to_owned(), "no port leads to 192.0.2.10"),
            (vxlan.replace(".10", ".255"), own.clone(), "192.0.2.255 is the network of 192.0.2.1/24 itself"),
            (vxlan.replace(".10", ".0"), own.clone(), "192.0.2.0 is the network"),
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
