//! Which packets does a capture want, and which flows does a list want?
//!
//! Filters have the words of policies, so they are read as policies.

use std::net::IpAddr;
use std::sync::Arc;

use sluice_model::spec::{
    Diagnostic, Diagnostics, GroupSpec, Loaded, PolicySetSpec, PolicySpec, Severity, SideSpec,
};
use sluice_model::{Action, AddressSet, MacAddr, Policy, PortSet, ProtocolSet, RangeSet};

use crate::policy::side;
use crate::v1;
use crate::words::{self, word};

/// The predicates of a filter as a policy, which copies nothing anywhere. `groups` are those that it may name.
///
/// # Errors
///
/// Every error in the filter, with paths to its fields.
pub fn packet_filter(filter: &v1::PacketFilter, groups: &[GroupSpec]) -> Result<Loaded<Policy>, Diagnostics> {
    let spec = PolicySpec {
        name: "filter".to_owned(),
        collect: side(filter.collect.as_ref()),
        peer: side(filter.peer.as_ref()),
        protocol: filter.protocol.clone(),
        vlan: filter.vlan.clone(),
        vlan_inner: filter.vlan_inner.clone(),
        tunnel_id: filter.tunnel_id.clone(),
        headers: word(filter.headers, words::HEADER_VIEW),
        ethertype: filter.ethertype.clone(),
        tcp_flags: filter.tcp_flags.clone(),
        length: filter.length.clone(),
        fragment: word(filter.fragment, words::FRAGMENT_MATCH),
        ..PolicySpec::default()
    };
    let own = |field: &str| Some(field.strip_prefix("policies[0]")?.trim_start_matches('.').to_owned());
    let Loaded { value, warnings } = read(vec![spec], groups, own)?;
    let policy = value.into_iter().next().unwrap_or_default();
    Ok(Loaded { value: Policy { action: Action::Copy, ..policy }, warnings })
}

/// A [`v1::FlowFilter`] whose words were understood. An empty list of sets, and `None`, hold for every flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowMatch {
    /// Addresses of either end.
    pub addresses: Vec<Arc<AddressSet>>,
    /// Addresses of the client.
    pub clients: Vec<Arc<AddressSet>>,
    /// Addresses of the server.
    pub servers: Vec<Arc<AddressSet>>,
    /// IP protocols.
    pub protocol: Option<ProtocolSet>,
    /// Ports of either end.
    pub ports: Option<PortSet>,
    /// Ports of the server.
    pub server_ports: Option<PortSet>,
    /// VLAN ids.
    pub vlan: Option<RangeSet<u16>>,
    /// Tunnel ids.
    pub tunnel_id: Option<RangeSet<u32>>,
    /// The tap.
    pub tap: Option<u32>,
    /// The least number of bytes, both ends together.
    pub min_bytes: u64,
}

impl FlowMatch {
    /// Whether `sets` want an end with these addresses, as far as they are known; without sets, any.
    #[must_use]
    pub fn wants(sets: &[Arc<AddressSet>], address: Option<IpAddr>, mac: Option<MacAddr>) -> bool {
        let holds = |set: &Arc<AddressSet>| {
            let by_address = match address {
                Some(IpAddr::V4(v4)) => set.ipv4.contains(v4.to_bits()),
                Some(IpAddr::V6(v6)) => set.ipv6.contains(v6.to_bits()),
                None => false,
            };
            by_address || mac.is_some_and(|mac| set.macs.binary_search(&mac).is_ok())
        };
        sets.is_empty() || sets.iter().any(holds)
    }

    /// All sets of addresses.
    pub fn address_sets(&self) -> impl Iterator<Item = &Arc<AddressSet>> {
        self.addresses.iter().chain(&self.clients).chain(&self.servers)
    }
}

/// Reads a filter of flows. `groups` are those that it may name.
///
/// # Errors
///
/// Every error in the filter, with paths to its fields.
pub fn flow_filter(filter: &v1::FlowFilter, groups: &[GroupSpec]) -> Result<FlowMatch, Diagnostics> {
    let side = |addresses: &[String], ports: &[String]| SideSpec {
        addresses: addresses.to_vec(),
        ports: ports.to_vec(),
    };
    let either = PolicySpec {
        name: "either".to_owned(),
        collect: side(&filter.addresses, &filter.ports),
        protocol: filter.protocol.clone(),
        vlan: filter.vlan.clone(),
        tunnel_id: filter.tunnel_id.clone(),
        ..PolicySpec::default()
    };
    let directed = PolicySpec {
        name: "directed".to_owned(),
        collect: side(&filter.clients, &[]),
        peer: side(&filter.servers, &filter.server_ports),
        ..PolicySpec::default()
    };
    let own = |field: &str| {
        let names = [
            ("policies[0].collect.addresses", "addresses"),
            ("policies[0].collect.ports", "ports"),
            ("policies[1].collect.addresses", "clients"),
            ("policies[1].peer.addresses", "servers"),
            ("policies[1].peer.ports", "server_ports"),
            ("policies[0].", ""),
        ];
        names.iter().find_map(|(path, name)| Some(format!("{name}{}", field.strip_prefix(path)?)))
    };
    // Warnings are about the policies that were made up.
    let mut policies = read(vec![either, directed], groups, own)?.value.into_iter();
    let (either, directed) = (policies.next().unwrap_or_default(), policies.next().unwrap_or_default());
    Ok(FlowMatch {
        addresses: either.collect.addresses,
        clients: directed.collect.addresses,
        servers: directed.peer.addresses,
        protocol: either.protocol,
        ports: either.collect.ports,
        server_ports: directed.peer.ports,
        vlan: either.vlan,
        tunnel_id: either.tunnel_id,
        tap: filter.tap,
        min_bytes: filter.min_bytes,
    })
}

/// Validates made-up policies; `own` gives the path of a finding in the filter, `None` where it is not about that.
fn read(
    policies: Vec<PolicySpec>,
    groups: &[GroupSpec],
    own: impl Fn(&str) -> Option<String>,
) -> Result<Loaded<Vec<Policy>>, Diagnostics> {
    let take_out = |policy| PolicySpec { action: Some("drop".to_owned()), ..policy };
    let set = PolicySetSpec {
        destinations: Vec::new(),
        groups: groups.to_vec(),
        policies: policies.into_iter().map(take_out).collect(),
    };
    let told = |findings: Vec<Diagnostic>| -> Vec<Diagnostic> {
        let told = |mut finding: Diagnostic| match (own(&finding.field), finding.severity) {
            (Some(field), _) => {
                finding.field = field;
                Some(finding)
            }
            (None, Severity::Error) => Some(finding),
            (None, Severity::Warning) => None,
        };
        findings.into_iter().filter_map(told).collect()
    };
    match set.validate() {
        Ok(Loaded { value, warnings }) => {
            Ok(Loaded { value: value.policies().to_vec(), warnings: told(warnings) })
        }
        Err(Diagnostics(findings)) => Err(Diagnostics(told(findings))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    fn groups() -> Vec<GroupSpec> {
        vec![GroupSpec { name: "clients".into(), addresses: text(&["10.0.0.0/8"]) }]
    }

    #[test]
    fn a_packet_filter_has_the_words_of_policies() {
        let side = |addresses: &[&str], ports: &[&str]| {
            Some(v1::Side { addresses: text(addresses), ports: text(ports) })
        };
        let filter = v1::PacketFilter {
            collect: side(&["@clients"], &[]),
            peer: side(&[], &["443"]),
            protocol: text(&["tcp"]),
            headers: v1::HeaderView::Inner.into(),
            ..v1::PacketFilter::default()
        };
        let loaded = packet_filter(&filter, &groups()).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let policy = loaded.value;
        assert_eq!((policy.action, policy.headers), (Action::Copy, sluice_model::HeaderView::Inner));
        assert!(policy.collect.addresses[0].ipv4.contains(0x0a01_0203));
        assert!(policy.peer.ports.unwrap().contains(443));

        assert_eq!(
            packet_filter(&v1::PacketFilter::default(), &[]).unwrap().value.collect,
            sluice_model::Side::default()
        );
        let wrong = v1::PacketFilter { collect: side(&["10.0.0.0/8", "@nobody"], &["9-8"]), ..filter };
        let told = packet_filter(&wrong, &groups()).unwrap_err();
        let fields: Vec<&str> = told.0.iter().map(|finding| finding.field.as_str()).collect();
        assert_eq!(fields, ["collect.addresses[1]", "collect.ports[0]"]);
        let icmp =
            v1::PacketFilter { protocol: text(&["icmp"]), peer: side(&[], &["1"]), ..Default::default() };
        let warned = packet_filter(&icmp, &[]).unwrap().warnings;
        assert!(warned[0].field.is_empty() && warned[0].reason.starts_with("never matches"), "{warned:?}");
    }

    #[test]
    fn a_flow_filter_names_its_own_fields() {
        let filter = v1::FlowFilter {
            addresses: text(&["10.0.0.0/8", "2001:db8::/32", "02:00:00:00:00:02", "02:00:00:00:00:01"]),
            servers: text(&["@clients"]),
            server_ports: text(&["80", "443"]),
            vlan: text(&["7"]),
            tap: Some(3),
            min_bytes: 9,
            ..v1::FlowFilter::default()
        };
        let found = flow_filter(&filter, &groups()).unwrap();
        let wants = |sets: &[_], address: &str| FlowMatch::wants(sets, Some(address.parse().unwrap()), None);
        assert!(wants(&found.addresses, "2001:db8::9"));
        assert!(!wants(&found.addresses, "11.0.0.1"));
        assert!(wants(&found.clients, "11.0.0.1"), "none asked for");
        assert!(wants(&found.servers, "10.0.0.1"));
        let by_mac = |last, address: Option<IpAddr>| {
            FlowMatch::wants(&found.addresses, address, Some(MacAddr([2, 0, 0, 0, 0, last])))
        };
        assert!(by_mac(1, None) && by_mac(2, None) && !by_mac(3, None));
        assert!(by_mac(1, "11.0.0.1".parse().ok()) && by_mac(3, "10.0.0.1".parse().ok()));
        assert_eq!(found.address_sets().count(), 2);
        assert!(found.server_ports.unwrap().contains(443) && found.vlan.unwrap().contains(7));
        assert_eq!((found.tap, found.min_bytes, found.ports), (Some(3), 9, None));

        let wrong = v1::FlowFilter {
            addresses: text(&["x"]),
            clients: text(&["10.0.0.1/8"]),
            servers: text(&["@nobody"]),
            protocol: text(&["256"]),
            ports: text(&["80", "80"]),
            server_ports: text(&["-"]),
            ..v1::FlowFilter::default()
        };
        let mut fields: Vec<String> =
            flow_filter(&wrong, &[]).unwrap_err().0.into_iter().map(|finding| finding.field).collect();
        fields.sort();
        assert_eq!(
            fields,
            ["addresses[0]", "clients[0]", "ports[1]", "protocol[0]", "server_ports[0]", "servers[0]"]
        );
    }
}
