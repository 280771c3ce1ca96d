//! `sluice policy`, `group` and `destination`: single objects of the set in force.

use std::path::{Path, PathBuf};

use sluice_api::v1;
use sluice_api::v1::policy_service_client::PolicyServiceClient;
use sluice_model::spec::{Loaded, PolicySetSpec, parse_policy, parse_policy_spec};

use crate::cli::Context;
use crate::connect::Wire;
use crate::failure::{Exit, Failure};
use crate::out::Out;
use crate::policy_file;
use crate::show;
use crate::table::table;
use crate::text::{counted, list, or_dash, safe};

use super::apply;

/// The most elements of a page.
const PAGE: u32 = 10_000;
/// The most pages: more objects than a set may have.
const PAGES: u32 = 1_000;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// A table of them.
    List {
        /// Only names that begin so.
        #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// One of them, as a policy file has it.
    Get {
        /// Its name.
        name: String,
    },
    /// Add those of a file, or replace those of the same names.
    Put {
        /// A policy file with nothing else in it; - is stdin. It may name what is in force.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        change: Change,
    },
    /// Remove one.
    Delete {
        /// Its name.
        name: String,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Change {
    /// What is said about it in the history.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    /// Refuse unless this generation is in force.
    #[arg(long, value_name = "N")]
    expect_generation: Option<u64>,
}

impl Change {
    fn delete(self, name: String) -> v1::DeleteRequest {
        v1::DeleteRequest { name, comment: self.comment, expected_generation: self.expect_generation }
    }
}

type Client = PolicyServiceClient<Wire>;

async fn client(context: &Context) -> Result<Client, Failure> {
    Ok(apply::client(context.connection.open().await?))
}

fn page(prefix: &str, page_token: String) -> v1::ListRequest {
    v1::ListRequest { prefix: prefix.to_owned(), page_size: PAGE, page_token }
}

/// All pages of a list, in one response.
macro_rules! all_pages {
    ($client:expr, $method:ident, $prefix:expr, $field:ident) => {{
        let mut all = $client.$method(page($prefix, String::new())).await?.into_inner();
        let mut pages = 1;
        while !all.next_page_token.is_empty() {
            pages += 1;
            if pages > PAGES {
                return Err(Failure::failed("the list does not end").help("is that a sluiced?"));
            }
            let token = std::mem::take(&mut all.next_page_token);
            let next = $client.$method(page($prefix, token.clone())).await?.into_inner();
            if next.generation != all.generation {
                return Err(Failure::new(Exit::Conflict, "the policies changed while they were listed")
                    .help("try again"));
            }
            all.$field.extend(next.$field);
            if next.next_page_token != token {
                all.next_page_token = next.next_page_token;
            }
        }
        all
    }};
}

pub(crate) async fn policy(action: Action, context: &Context) -> Result<Exit, Failure> {
    let out = context.out;
    match action {
        Action::List { prefix } => {
            let mut client = client(context).await?;
            let found = all_pages!(client, list_policies, &prefix, policies);
            if out.json {
                out.message("ListPoliciesResponse", &found)?;
                return Ok(Exit::Ok);
            }
            let mut rows = table(&["policy", "collect", "peer", "also", "action", "to", "tag", "payload"]);
            for policy in &found.policies {
                rows.add_row(policy_row(policy));
            }
            out.line(&rows.to_string())?;
            let policies = counted(found.policies.len(), "policy", "policies");
            out.line(&format!("{policies} of generation {}", found.generation))?;
            Ok(Exit::Ok)
        }
        Action::Get { name } => {
            let found = client(context).await?.get_policy(v1::GetRequest { name }).await?.into_inner();
            if out.json {
                out.message("Policy", &found)?;
                return Ok(Exit::Ok);
            }
            written(&PolicySetSpec { policies: vec![(&found).into()], ..PolicySetSpec::default() }, out)
        }
        Action::Put { file, change } => {
            let mut client = client(context).await?;
            let set = merged(&file, "policy", &mut client, out).await?;
            let mut expected = change.expect_generation;
            for policy in set.policies {
                let request = v1::PutPolicyRequest {
                    policy: Some(policy),
                    revision: set.revision,
                    comment: change.comment.clone(),
                    expected_generation: expected.take(),
                };
                show::change(&client.put_policy(request).await?.into_inner(), &[], out)?;
            }
            Ok(Exit::Ok)
        }
        Action::Delete { name, change } => {
            let response = client(context).await?.delete_policy(change.delete(name)).await?;
            show::change(&response.into_inner(), &[], out)
        }
    }
}

pub(crate) async fn group(action: Action, context: &Context) -> Result<Exit, Failure> {
    let out = context.out;
    match action {
        Action::List { prefix } => {
            let mut client = client(context).await?;
            let found = all_pages!(client, list_groups, &prefix, groups);
            if out.json {
                out.message("ListGroupsResponse", &found)?;
                return Ok(Exit::Ok);
            }
            let mut rows = table(&["group", "elements", "addresses"]);
            for group in &found.groups {
                rows.add_row([
                    safe(&group.name),
                    group.addresses.len().to_string(),
                    or_dash(shortened(&group.addresses)),
                ]);
            }
            out.line(&rows.to_string())?;
            let groups = counted(found.groups.len(), "group", "groups");
            out.line(&format!("{groups} of generation {}", found.generation))?;
            Ok(Exit::Ok)
        }
        Action::Get { name } => {
            let found = client(context).await?.get_group(v1::GetRequest { name }).await?.into_inner();
            if out.json {
                out.message("Group", &found)?;
                return Ok(Exit::Ok);
            }
            written(&PolicySetSpec { groups: vec![(&found).into()], ..PolicySetSpec::default() }, out)
        }
        Action::Put { file, change } => {
            let mut client = client(context).await?;
            let set = merged(&file, "group", &mut client, out).await?;
            let mut expected = change.expect_generation;
            for group in set.groups {
                let request = v1::PutGroupRequest {
                    group: Some(group),
                    revision: set.revision,
                    comment: change.comment.clone(),
                    expected_generation: expected.take(),
                };
                show::change(&client.put_group(request).await?.into_inner(), &[], out)?;
            }
            Ok(Exit::Ok)
        }
        Action::Delete { name, change } => {
            let response = client(context).await?.delete_group(change.delete(name)).await?;
            show::change(&response.into_inner(), &[], out)
        }
    }
}

pub(crate) async fn destination(action: Action, context: &Context) -> Result<Exit, Failure> {
    let out = context.out;
    match action {
        Action::List { prefix } => {
            let mut client = client(context).await?;
            let found = all_pages!(client, list_destinations, &prefix, destinations);
            if out.json {
                out.message("ListDestinationsResponse", &found)?;
                return Ok(Exit::Ok);
            }
            let mut rows = table(&["destination", "type", "where", "port", "limit"]);
            for destination in &found.destinations {
                rows.add_row(destination_row(destination));
            }
            out.line(&rows.to_string())?;
            let destinations = counted(found.destinations.len(), "destination", "destinations");
            out.line(&format!("{destinations} of generation {}", found.generation))?;
            Ok(Exit::Ok)
        }
        Action::Get { name } => {
            let found = client(context).await?.get_destination(v1::GetRequest { name }).await?.into_inner();
            if out.json {
                out.message("Destination", &found)?;
                return Ok(Exit::Ok);
            }
            written(&PolicySetSpec { destinations: vec![(&found).into()], ..PolicySetSpec::default() }, out)
        }
        Action::Put { file, change } => {
            let mut client = client(context).await?;
            let set = merged(&file, "destination", &mut client, out).await?;
            let mut expected = change.expect_generation;
            for destination in set.destinations {
                let request = v1::PutDestinationRequest {
                    destination: Some(destination),
                    revision: set.revision,
                    comment: change.comment.clone(),
                    expected_generation: expected.take(),
                };
                show::change(&client.put_destination(request).await?.into_inner(), &[], out)?;
            }
            Ok(Exit::Ok)
        }
        Action::Delete { name, change } => {
            let response = client(context).await?.delete_destination(change.delete(name)).await?;
            show::change(&response.into_inner(), &[], out)
        }
    }
}

/// Writes objects as the text of a policy file.
fn written(set: &PolicySetSpec, out: Out) -> Result<Exit, Failure> {
    let text = set.to_toml().map_err(|error| Failure::failed(error.to_string()))?;
    out.line(&text.trim_end().lines().map(safe).collect::<Vec<_>>().join("\n"))?;
    Ok(Exit::Ok)
}

/// The objects of a file that holds only those of one kind, checked together with what is in force.
///
/// What the file does not replace is set after its text: so findings have the lines of the file, and names that are in
/// force are known.
async fn merged(path: &Path, kind: &str, client: &mut Client, out: Out) -> Result<v1::PolicySet, Failure> {
    let name = if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() };
    let text = policy_file::text(path)?;
    let Ok(own) = toml::from_str::<PolicySetSpec>(&text) else {
        policy_file::take(parse_policy(&name, &text), out)?;
        return Err(Failure::failed(format!("{name}: not a policy file")));
    };
    let counts = [
        ("policy", own.policies.len()),
        ("group", own.groups.len()),
        ("destination", own.destinations.len()),
    ];
    if let Some((other, _)) = counts.iter().find(|(other, count)| *other != kind && *count > 0) {
        return Err(Failure::failed(format!("{name} has a [[{other}]]: this takes [[{kind}]] only"))
            .help("sluice apply -f puts a whole set in force"));
    }
    if counts.iter().all(|(_, count)| *count == 0) {
        return Err(Failure::failed(format!("{name} has no [[{kind}]]")));
    }
    let in_force =
        client.get_policy_set(v1::GetPolicySetRequest {}).await?.into_inner().set.unwrap_or_default();
    let mut rest = PolicySetSpec::from(&in_force);
    rest.policies.retain(|old| own.policies.iter().all(|new| new.name != old.name));
    rest.groups.retain(|old| own.groups.iter().all(|new| new.name != old.name));
    rest.destinations.retain(|old| own.destinations.iter().all(|new| new.name != old.name));
    let rest = rest.to_toml().map_err(|error| Failure::failed(error.to_string()))?;
    let lines = u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
    let loaded = parse_policy_spec(&name, &format!("{}\n{rest}", text.trim_end()));
    let about_file = |Loaded { value, mut warnings }: Loaded<_>| {
        warnings.retain(|warning: &sluice_model::spec::Diagnostic| warning.line <= lines && warning.line > 0);
        Loaded { value, warnings }
    };
    policy_file::take(loaded.map(about_file), out)?;
    policy_file::message(&own)
}

pub(crate) fn policy_row(policy: &v1::Policy) -> [String; 8] {
    let side = |side: &Option<v1::Side>| {
        let side = side.clone().unwrap_or_default();
        let ports =
            if side.ports.is_empty() { String::new() } else { format!(" port {}", shortened(&side.ports)) };
        let addresses = if side.addresses.is_empty() { "any".to_owned() } else { shortened(&side.addresses) };
        format!("{addresses}{ports}")
    };
    let mut also = Vec::new();
    for (name, words) in [
        ("", &policy.protocol),
        ("vlan ", &policy.vlan),
        ("inner vlan ", &policy.vlan_inner),
        ("tunnel ", &policy.tunnel_id),
        ("ethertype ", &policy.ethertype),
        ("flags ", &policy.tcp_flags),
        ("length ", &policy.length),
        ("from ", &policy.ingress),
        ("taps ", &policy.taps),
    ] {
        if !words.is_empty() {
            also.push(format!("{name}{}", shortened(words)));
        }
    }
    if policy.headers() == v1::HeaderView::Inner {
        also.push("inner headers".to_owned());
    }
    let action = if policy.action() == v1::Action::Drop { "drop" } else { "copy" };
    let off = if policy.enabled == Some(false) { " (off)" } else { "" };
    [
        safe(&policy.name),
        side(&policy.collect),
        side(&policy.peer),
        or_dash(also.join(", ")),
        format!("{action}{off}"),
        or_dash(list(&policy.to, ", ")),
        policy.tag.unwrap_or(0).to_string(),
        policy.payload.map_or_else(|| "all".to_owned(), |bytes| bytes.to_string()),
    ]
}

pub(crate) fn destination_row(destination: &v1::Destination) -> [String; 5] {
    let place = destination.remote.clone().or_else(|| destination.file.clone());
    let place = place.map_or_else(|| list(&destination.members, ", "), |place| safe(&place));
    let mut limits = Vec::new();
    limits.extend(destination.rate_mbps.map(|rate| format!("{rate} Mbit/s")));
    limits.extend(destination.rate_pps.map(|rate| format!("{rate} copies/s")));
    [
        safe(&destination.name),
        crate::text::word(destination.r#type().as_str_name(), "DESTINATION_TYPE_"),
        or_dash(place),
        or_dash(safe(destination.port.as_deref().unwrap_or_default())),
        or_dash(limits.join(", ")),
    ]
}

/// The first elements of a list.
fn shortened(elements: &[String]) -> String {
    let shown = list(elements.get(..elements.len().min(3)).unwrap_or_default(), ",");
    match elements.len() {
        0..=3 => shown,
        more => format!("{shown} and {} more", more - 3),
    }
}
