//! What does a policy set say, in plain values that may be wrong?
//!
//! This is what a policy file and a message of the API have in common: the fields of `docs/policy.md`, as they were
//! written. [`PolicySetSpec::validate`] checks both alike.

use serde::{Deserialize, Deserializer, Serialize};

use super::diagnostic::{Diagnostic, Diagnostics, Loaded, Severity};
use super::policy_file::policy_set;
use super::source::Report;
use super::tree;
use crate::PolicySet;

/// Policies, the groups of addresses that they name, and the destinations.
///
/// Its serialized form is that of a policy file. An empty list or text, and `None`, mean that a field is not given.
///
/// ```
/// use sluice_model::spec::{PolicySetSpec, PolicySpec};
///
/// let policy = PolicySpec { name: "web".into(), to: vec!["ids".into()], ..PolicySpec::default() };
/// let errors = PolicySetSpec { policies: vec![policy], ..PolicySetSpec::default() }.validate().unwrap_err();
/// assert_eq!(
///     errors.to_string(),
///     "error: policies[0].to[0]: no destination \"ids\"; define it: [[destination]] with name = \"ids\"",
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySetSpec {
    /// Where copies go.
    #[serde(rename = "destination", skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<DestinationSpec>,
    /// Named sets of addresses.
    #[serde(rename = "group", skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupSpec>,
    /// What is copied.
    #[serde(rename = "policy", skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicySpec>,
}

/// A policy. Lists of numbers hold numbers (`"80"`, `"0x0800"`), ranges (`"8000-8100"`) and, where there are any, names
/// (`"tcp"`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySpec {
    /// The name, unique among the policies.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The collection point: who is observed.
    #[serde(skip_serializing_if = "SideSpec::is_empty")]
    pub collect: SideSpec,
    /// The other end.
    #[serde(skip_serializing_if = "SideSpec::is_empty")]
    pub peer: SideSpec,
    /// IP protocols.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub protocol: Vec<String>,
    /// Ids of the outermost VLAN tag.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub vlan: Vec<String>,
    /// Ids of the second VLAN tag.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub vlan_inner: Vec<String>,
    /// Tunnel ids.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub tunnel_id: Vec<String>,
    /// `outer` or `inner`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<String>,
    /// EtherTypes.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub ethertype: Vec<String>,
    /// TCP flags, with `!` those that must not be set.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub tcp_flags: Vec<String>,
    /// Frame lengths in bytes, without FCS.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub length: Vec<String>,
    /// `fragments`, `later` or `whole`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragment: Option<String>,
    /// Names of ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<String>,
    /// Names of taps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taps: Vec<String>,
    /// `copy` or `drop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Payload bytes kept after the headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<u32>,
    /// The tag of the copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<u32>,
    /// Names of destinations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// `Some(false)` switches the policy off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// One end of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SideSpec {
    /// Networks, hosts, ranges, MAC addresses, groups as `@name`, and `vm:name` and `port:name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Ports.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub ports: Vec<String>,
}

impl SideSpec {
    /// Whether nothing is asked of this end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty()
    }
}

/// A named set of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupSpec {
    /// The name, unique among the groups.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// As [`SideSpec::addresses`]; none are an empty group.
    pub addresses: Vec<String>,
}

/// A destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DestinationSpec {
    /// The name, unique among the destinations.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `vxlan`, `erspan2`, `erspan3`, `port`, `pcap` or `group`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The address of the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The outer source address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// A static next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The name of an output port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// `standard` or `reference`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marking: Option<String>,
    /// The UDP destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_port: Option<u32>,
    /// `auto`, `on` or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_checksum: Option<String>,
    /// The largest outer IP packet, or frame without its Ethernet header, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `truncate`, `fragment`, `segment` or `drop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oversize: Option<String>,
    /// Insert an 802.1Q tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inner_vlan: Option<bool>,
    /// `tag` or `tunnel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan_from: Option<String>,
    /// The file to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The highest rate, Mbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_mbps: Option<u32>,
    /// The highest rate, copies per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_pps: Option<u32>,
    /// So much of the rate may leave at once, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_ms: Option<u32>,
    /// Names of other destinations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// A number for each member.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub weights: Vec<String>,
    /// `auto`, `outer` or `inner`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

impl PolicySetSpec {
    /// Validates the set. Findings have the path to their field and no file, and else the words of those of a file.
    ///
    /// # Errors
    ///
    /// Every error in the set, in the order of destinations, groups and policies, with the warnings between.
    pub fn validate(&self) -> Result<Loaded<PolicySet>, Diagnostics> {
        let (table, paths) =
            tree::from_values(toml::Table::try_from(self).map_err(|error| unwritable(&error))?);
        let report = Report::of_values(paths);
        let set = policy_set(&table, &report);
        report.finish(set)
    }

    /// The set as the text of a policy file.
    ///
    /// # Errors
    ///
    /// None that is known of: every value that the fields can hold can be written.
    pub fn to_toml(&self) -> Result<String, Diagnostics> {
        toml::to_string(self).map_err(|error| unwritable(&error))
    }

    /// Reads the text of a policy file that [`parse_policy`](super::parse_policy) took.
    pub(super) fn from_toml(file_name: &str, text: &str) -> Result<Self, Diagnostics> {
        toml::from_str(text).map_err(|error| {
            let reason = error.message().to_owned();
            Diagnostics(vec![Diagnostic::about_file(Severity::Error, file_name, reason, None)])
        })
    }
}

fn unwritable(error: &toml::ser::Error) -> Diagnostics {
    Diagnostics(vec![Diagnostic::about_file(Severity::Error, "", error.to_string(), None)])
}

/// A number, a text with commas between its elements, or a list of these.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Number(u64),
    Text(String),
    List(Vec<Words>),
}

impl Words {
    fn flatten(self, into: &mut Vec<String>) {
        match self {
            Self::Number(number) => into.push(number.to_string()),
            Self::Text(text) => {
                into.extend(text.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned));
            }
            Self::List(list) => list.into_iter().for_each(|words| words.flatten(into)),
        }
    }
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let mut list = Vec::new();
    Words::deserialize(deserializer)?.flatten(&mut list);
    Ok(list)
}
