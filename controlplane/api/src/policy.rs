//! Which plain values does a message of a policy set hold, and which message holds plain values?

use sluice_model::PolicySet;
use sluice_model::spec::{
    DestinationSpec, Diagnostic, Diagnostics, GroupSpec, Loaded, PolicySetSpec, PolicySpec, Severity,
    SideSpec,
};

use crate::v1;
use crate::words::{self, number, word};

/// The revision of the policy language that this crate knows (`PolicySet.revision`): raised with every field that is
/// added to a policy, a group or a destination.
pub const POLICY_REVISION: u32 = 3;

/// A choice in plain values that no enumeration has, so that there is no message for them. Validated values have none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {word:?} is not one of the choices")]
pub struct NotInProto {
    /// The path to the field: `policies[3].headers`.
    pub field: String,
    /// What it holds.
    pub word: String,
}

/// Validates a policy set as it came. Findings have paths to the fields of the message.
///
/// # Errors
///
/// Every error in the set, with the warnings between.
pub fn validate(set: &v1::PolicySet) -> Result<Loaded<PolicySet>, Diagnostics> {
    let Loaded { value, warnings } = validate_spec(set)?;
    Ok(Loaded { value: value.1, warnings })
}

/// Validates a policy set as it came, and gives its plain values, too.
///
/// # Errors
///
/// As [`validate`].
pub fn validate_spec(set: &v1::PolicySet) -> Result<Loaded<(PolicySetSpec, PolicySet)>, Diagnostics> {
    let spec = PolicySetSpec::from(set);
    let checked = spec.validate();
    match newer_revision(set.revision) {
        // What else is found may come from fields that are not known here.
        Some(newer) => Err(Diagnostics(vec![newer])),
        None => checked.map(|Loaded { value, warnings }| Loaded { value: (spec, value), warnings }),
    }
}

/// The error for a revision above [`POLICY_REVISION`].
fn newer_revision(revision: u32) -> Option<Diagnostic> {
    if revision <= POLICY_REVISION {
        return None;
    }
    let reason = format!(
        "the set is written in revision {revision} of the policy language; revision {POLICY_REVISION} is known here, and \
         fields that are not known would be lost"
    );
    let suggestion = Some("update the daemon, or use a client that is as old".to_owned());
    let mut finding = Diagnostic::about_file(Severity::Error, "", reason, suggestion);
    "revision".clone_into(&mut finding.field);
    Some(finding)
}

impl From<&v1::PolicySet> for PolicySetSpec {
    fn from(set: &v1::PolicySet) -> Self {
        Self {
            destinations: set.destinations.iter().map(Into::into).collect(),
            groups: set.groups.iter().map(Into::into).collect(),
            policies: set.policies.iter().map(Into::into).collect(),
        }
    }
}

impl From<&v1::Policy> for PolicySpec {
    fn from(policy: &v1::Policy) -> Self {
        Self {
            name: policy.name.clone(),
            collect: side(policy.collect.as_ref()),
            peer: side(policy.peer.as_ref()),
            protocol: policy.protocol.clone(),
            vlan: policy.vlan.clone(),
            vlan_inner: policy.vlan_inner.clone(),
            tunnel_id: policy.tunnel_id.clone(),
            headers: word(policy.headers, words::HEADER_VIEW),
            ethertype: policy.ethertype.clone(),
            tcp_flags: policy.tcp_flags.clone(),
            length: policy.length.clone(),
            fragment: word(policy.fragment, words::FRAGMENT_MATCH),
            ingress: policy.ingress.clone(),
            taps: policy.taps.clone(),
            action: word(policy.action, words::ACTION),
            payload: policy.payload,
            tag: policy.tag,
            to: policy.to.clone(),
            enabled: policy.enabled,
        }
    }
}

impl From<&v1::Group> for GroupSpec {
    fn from(group: &v1::Group) -> Self {
        Self { name: group.name.clone(), addresses: group.addresses.clone() }
    }
}

impl From<&v1::Destination> for DestinationSpec {
    fn from(destination: &v1::Destination) -> Self {
        Self {
            name: destination.name.clone(),
            kind: word(destination.r#type, words::DESTINATION_TYPE),
            remote: destination.remote.clone(),
            local: destination.local.clone(),
            mac: destination.mac.clone(),
            port: destination.port.clone(),
            marking: word(destination.marking, words::MARKING),
            udp_port: destination.udp_port,
            udp_checksum: word(destination.udp_checksum, words::UDP_CHECKSUM),
            mtu: destination.mtu,
            oversize: word(destination.oversize, words::OVERSIZE),
            inner_vlan: destination.inner_vlan,
            vlan_from: word(destination.vlan_from, words::VLAN_FROM),
            file: destination.file.clone(),
            rate_mbps: destination.rate_mbps,
            rate_pps: destination.rate_pps,
            burst_ms: destination.burst_ms,
            members: destination.members.clone(),
            weights: destination.weights.iter().map(ToString::to_string).collect(),
            hash: word(destination.hash, words::GROUP_HASH),
        }
    }
}

/// The plain values of a side; an absent one asks for nothing.
pub(crate) fn side(side: Option<&v1::Side>) -> SideSpec {
    side.map_or_else(SideSpec::default, |side| SideSpec {
        addresses: side.addresses.clone(),
        ports: side.ports.clone(),
    })
}

impl TryFrom<&PolicySetSpec> for v1::PolicySet {
    type Error = NotInProto;

    fn try_from(spec: &PolicySetSpec) -> Result<Self, NotInProto> {
        Ok(Self {
            revision: POLICY_REVISION,
            destinations: list("destinations", &spec.destinations)?,
            groups: spec.groups.iter().map(Into::into).collect(),
            policies: list("policies", &spec.policies)?,
        })
    }
}

impl TryFrom<&PolicySpec> for v1::Policy {
    type Error = NotInProto;

    fn try_from(spec: &PolicySpec) -> Result<Self, NotInProto> {
        let message = |side: &SideSpec| {
            let given = !side.is_empty();
            given.then(|| v1::Side { addresses: side.addresses.clone(), ports: side.ports.clone() })
        };
        Ok(Self {
            name: spec.name.clone(),
            collect: message(&spec.collect),
            peer: message(&spec.peer),
            protocol: spec.protocol.clone(),
            vlan: spec.vlan.clone(),
            vlan_inner: spec.vlan_inner.clone(),
            tunnel_id: spec.tunnel_id.clone(),
            headers: choice("headers", spec.headers.as_deref(), words::HEADER_VIEW)?,
            ethertype: spec.ethertype.clone(),
            tcp_flags: spec.tcp_flags.clone(),
            length: spec.length.clone(),
            fragment: choice("fragment", spec.fragment.as_deref(), words::FRAGMENT_MATCH)?,
            ingress: spec.ingress.clone(),
            taps: spec.taps.clone(),
            action: choice("action", spec.action.as_deref(), words::ACTION)?,
            payload: spec.payload,
            tag: spec.tag,
            to: spec.to.clone(),
            enabled: spec.enabled,
        })
    }
}

impl From<&GroupSpec> for v1::Group {
    fn from(spec: &GroupSpec) -> Self {
        Self { name: spec.name.clone(), addresses: spec.addresses.clone() }
    }
}

impl TryFrom<&DestinationSpec> for v1::Destination {
    type Error = NotInProto;

    fn try_from(spec: &DestinationSpec) -> Result<Self, NotInProto> {
        let weight = |(place, word): (usize, &String)| {
            word.parse().map_err(|_| NotInProto { field: format!("weights[{place}]"), word: word.clone() })
        };
        Ok(Self {
            name: spec.name.clone(),
            r#type: choice("type", spec.kind.as_deref(), words::DESTINATION_TYPE)?,
            remote: spec.remote.clone(),
            local: spec.local.clone(),
            mac: spec.mac.clone(),
            port: spec.port.clone(),
            marking: choice("marking", spec.marking.as_deref(), words::MARKING)?,
            udp_port: spec.udp_port,
            udp_checksum: choice("udp_checksum", spec.udp_checksum.as_deref(), words::UDP_CHECKSUM)?,
            mtu: spec.mtu,
            oversize: choice("oversize", spec.oversize.as_deref(), words::OVERSIZE)?,
            inner_vlan: spec.inner_vlan,
            vlan_from: choice("vlan_from", spec.vlan_from.as_deref(), words::VLAN_FROM)?,
            file: spec.file.clone(),
            rate_mbps: spec.rate_mbps,
            rate_pps: spec.rate_pps,
            burst_ms: spec.burst_ms,
            members: spec.members.clone(),
            weights: spec.weights.iter().enumerate().map(weight).collect::<Result<_, _>>()?,
            hash: choice("hash", spec.hash.as_deref(), words::GROUP_HASH)?,
        })
    }
}

fn choice(field: &str, given: Option<&str>, words: &[(i32, &'static str)]) -> Result<i32, NotInProto> {
    number(given, words).map_err(|word| NotInProto { field: field.to_owned(), word: word.to_owned() })
}

/// The messages of a list; the path of an error begins with its element.
fn list<'s, S, M>(name: &str, specs: &'s [S]) -> Result<Vec<M>, NotInProto>
where
    M: TryFrom<&'s S, Error = NotInProto>,
{
    let message = |(place, spec): (usize, &'s S)| {
        let outer =
            |error: NotInProto| NotInProto { field: format!("{name}[{place}].{}", error.field), ..error };
        M::try_from(spec).map_err(outer)
    };
    specs.iter().enumerate().map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;
    use sluice_model::contract::policy_set;

    proptest! {
        #[test]
        fn a_policy_set_comes_back_as_it_was(set in policy_set()) {
            let spec = PolicySetSpec::from(&set);
            let message = v1::PolicySet::try_from(&spec).unwrap();
            let bytes = message.encode_to_vec();
            let received = v1::PolicySet::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(&received, &message);
            prop_assert_eq!(&PolicySetSpec::from(&received), &spec);
            prop_assert_eq!(validate(&received).unwrap().value, set);
        }
    }

    #[test]
    fn all_errors_are_told_with_their_paths() {
        let text = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let set = v1::PolicySet {
            destinations: vec![v1::Destination {
                name: "ids".into(),
                r#type: 77,
                weights: vec![0],
                ..v1::Destination::default()
            }],
            groups: vec![v1::Group { name: "g".into(), addresses: text(&["10.0.0.0/33", "@h"]) }],
            policies: vec![
                v1::Policy { name: "a".into(), to: text(&["ids"]), ..v1::Policy::default() },
                v1::Policy {
                    name: "a".into(),
                    peer: Some(v1::Side {
                        addresses: text(&["10.0.0.1", "::1/64"]),
                        ports: text(&["80", "x"]),
                    }),
                    headers: -1,
                    tag: Some(1 << 24),
                    to: text(&["ids", "idz"]),
                    ..v1::Policy::default()
                },
            ],
            ..v1::PolicySet::default()
        };
        let told: Vec<String> = validate(&set).unwrap_err().0.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "error: destinations[0].type: \"77\" is not one of the choices; known are vxlan, erspan2, erspan3, port, \
                 pcap, group",
                "error: groups[0].addresses[0]: bad CIDR \"10.0.0.0/33\": bad prefix length; the prefix length may be 0 \
                 to 32",
                "error: groups[0].addresses[1]: no group \"h\"; did you mean \"g\"?",
                "error: policies[1].headers: \"-1\" is not one of the choices; known are outer, inner",
                "error: policies[1].name: a second policy \"a\"; the first is in policies[0].name; give each its own \
                 name",
                "error: policies[1].peer.addresses[1]: bad CIDR \"::1/64\": bits are set after the prefix; write \
                 ::/64 for the network, or ::1 for the one host",
                "error: policies[1].peer.ports[1]: \"x\" is no number and no range; ports are numbers 0 to 65535 or \
                 ranges such as 10-20",
                "error: policies[1].tag: 16777216 is out of range; a tag has 24 bits and may be 0 to 16777215",
                "error: policies[1].to[1]: no destination \"idz\"; did you mean \"ids\"?",
            ]
        );
    }

    #[test]
    fn a_newer_revision_is_refused() {
        let set = v1::PolicySet { revision: POLICY_REVISION + 1, ..v1::PolicySet::default() };
        let told = validate(&set).unwrap_err().to_string();
        let newer = POLICY_REVISION + 1;
        let expected = format!("error: revision: the set is written in revision {newer}");
        assert!(told.starts_with(&expected), "{told}");
        assert!(validate(&v1::PolicySet { revision: POLICY_REVISION, ..set }).is_ok());
    }

    #[test]
    fn what_no_message_can_hold_is_told() {
        let spec =
            |policy| PolicySetSpec { policies: vec![PolicySpec::default(), policy], ..Default::default() };
        let policy = PolicySpec { action: Some("dorp".into()), ..PolicySpec::default() };
        let error = v1::PolicySet::try_from(&spec(policy)).unwrap_err();
        assert_eq!(error.to_string(), "policies[1].action: \"dorp\" is not one of the choices");
        let destination = DestinationSpec { weights: vec!["x".into()], ..DestinationSpec::default() };
        let spec = PolicySetSpec { destinations: vec![destination], ..Default::default() };
        assert_eq!(v1::PolicySet::try_from(&spec).unwrap_err().field, "destinations[0].weights[0]");
    }
}
