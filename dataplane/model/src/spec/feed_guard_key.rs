//! What does `feed_guard` say, and what is it where nothing is said?

use crate::{FeedGuard, PortConfig, PortSpec};

use super::document::Fields;
use super::source::{Report, quote};

/// Reads the key and enters it at the ports that send. Where it is not given, copies are stopped if some port is the end of
/// tunnels: what leaves then is what others sent elsewhere.
pub(super) fn guard_ports(top: &mut Fields<'_>, ports: &mut [PortConfig], report: &Report<'_>) {
    let choices = [("off", FeedGuard::Off), ("count", FeedGuard::Count), ("stop", FeedGuard::Stop)];
    let given = top.choice("feed_guard", &choices);
    let is_end = ports.iter().any(|port| port.role.captures() && port.decap.is_end());
    let default = if is_end { FeedGuard::Stop } else { FeedGuard::Off };
    let guard = given.as_ref().map_or(default, |at| at.value);
    for port in ports.iter_mut().filter(|port| port.role.sends()) {
        port.feed_guard = guard;
        // What others send to one another is only seen so.
        port.promiscuous |= port.is_watched();
    }
    if guard != FeedGuard::Stop {
        return;
    }
    // Two drivers for one interface are told apart by their names only.
    let place = given.map_or(0..0, |at| at.span);
    let captures: Vec<_> = ports.iter().filter(|port| port.role.captures()).collect();
    for port in ports.iter().filter(|port| port.role.sends()) {
        let Some(interface) = interface(&port.spec) else { continue };
        let mut others = captures.iter().filter(|other| other.name != port.name);
        if let Some(other) = others.find(|other| self::interface(&other.spec) == Some(interface)) {
            let reason = format!(
                "port {} sends by {interface}, where port {} captures: copies would come back",
                quote(&port.name),
                quote(&other.name)
            );
            let suggestion = "give the tools an interface of their own, or write feed_guard = \"off\"";
            report.error(&place, "feed_guard", reason, suggestion.to_owned());
        }
    }
}

/// The kernel interface that a port is, if it is one.
fn interface(spec: &PortSpec) -> Option<&str> {
    match spec {
        PortSpec::AfPacket(interface) => Some(interface),
        PortSpec::Devargs(args) => args.split(',').find_map(|arg| arg.strip_prefix("iface=")),
        PortSpec::Pci(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BootConfig;
    use crate::spec::parse_boot;

    const OUTPUTS: &str = "[[port]]\nname = \"tool0\"\nspec = \"af_packet:eth1\"\nrole = \"output\"\n\
        [[port]]\nname = \"out0\"\nspec = \"af_packet:eth2\"\nrole = \"output\"\naddresses = [\"198.51.100.1/24\"]\n";

    fn text(top: &str, capture: &str) -> String {
        format!(
            "policy = \"p\"\n{top}\n[[port]]\nname = \"cap0\"\nspec = \"af_packet:eth0\"\nrole = \"capture\"\n\
             {capture}\n{OUTPUTS}"
        )
    }

    fn boot(top: &str, capture: &str) -> BootConfig {
        let loaded = parse_boot("b", &text(top, capture)).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        loaded.value
    }

    const END: &str = "decap = \"strip\"\ndecap_to = \"own\"\naddresses = [\"192.0.2.1/24\"]";

    #[test]
    fn ends_of_tunnels_are_guarded() {
        let guards = |boot: &BootConfig| boot.ports.iter().map(|port| port.feed_guard).collect::<Vec<_>>();
        let watched = |boot: &BootConfig| boot.ports.iter().map(PortConfig::is_watched).collect::<Vec<_>>();
        let node = boot("", END);
        assert_eq!(guards(&node), [FeedGuard::Off, FeedGuard::Stop, FeedGuard::Stop]);
        assert_eq!(watched(&node), [false, true, false]);
        assert!(node.ports[1].promiscuous && !node.ports[2].promiscuous);
        assert!(node.ports[0].decap.is_end() && node.ports[0].decap.drop_rest);
        assert_eq!(guards(&boot("", "")), [FeedGuard::Off; 3]);
        assert_eq!(guards(&boot("", "decap = \"strip\"")), [FeedGuard::Off; 3]);
        assert_eq!(watched(&boot("feed_guard = \"off\"", END)), [false; 3]);
        assert_eq!(watched(&boot("feed_guard = \"count\"", END)), [false, true, false]);
        assert_eq!(watched(&boot("feed_guard = \"stop\"", "")), [false, true, false]);
    }

    #[test]
    fn what_is_left_is_dropped_at_an_end_unless_it_is_to_pass() {
        let rest = |top: &str, capture: &str| boot(top, capture).ports[0].decap.drop_rest;
        let addresses = "addresses = [\"192.0.2.1/24\"]";
        let all = "decap = \"strip\"\ndecap_to = \"own\"\ndecap_rest = \"pass\"";
        assert!(rest("", END));
        assert!(!rest("", &format!("{END}\ndecap_rest = \"pass\"")));
        assert!(!rest(all, addresses) && boot(all, addresses).ports[0].decap.is_end());
        assert!(rest("decap_to = \"own\"", &format!("{addresses}\ndecap = \"strip\"")));
        assert!(!rest("decap = \"strip\"\ndecap_to = \"own\"", "decap_to = \"any\""));
        assert!(!rest("decap = \"strip\"\ndecap_to = \"own\"", "decap = \"off\""));
        assert!(!rest("", "decap = \"look_through\"\ndecap_to = \"own\""));
        assert!(rest("", "decap = \"strip\"\ndecap_rest = \"drop\""));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let same = "[[port]]\nname = \"cap1\"\nspec = \"net_af_packet0,iface=eth1\"\nrole = \"capture\"\n";
        for (top, capture, expected) in [
            (
                "",
                "decap = \"strip\"\ndecap_to = \"own\"",
                "error: port \"cap0\": decap_to: the port has no address",
            ),
            ("decap = \"strip\"\ndecap_to = \"own\"", "", "decap_to: the port has no address"),
            ("", "decap_to = \"us\"", "decap_to"),
            ("", "decap_rest = \"drop\"", "decap_rest: no tunnel is taken off"),
            ("feed_guard = \"on\"", "", "feed_guard"),
            (
                "feed_guard = \"stop\"",
                same,
                "feed_guard: port \"tool0\" sends by eth1, where port \"cap1\" captures",
            ),
        ] {
            let found = parse_boot("b", &text(top, capture)).unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        }
    }
}
