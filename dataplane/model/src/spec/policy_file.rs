//! What does a policy file say as a whole?

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::{Action, Destination, DestinationKind, Policy, PolicySet};

use super::contradiction::contradiction;
use super::destinations::destination;
use super::diagnostic::{Diagnostic, Diagnostics, Loaded, Severity};
use super::document::{self, Fields};
use super::groups::Groups;
use super::names::Names;
use super::plain::PolicySetSpec;
use super::policies::{Context, ReadPolicy};
use super::shadow::shadows;
use super::source::{Report, Span};
use super::tree::Table;

/// The most policies of a file, disabled ones counted.
pub const MAX_POLICIES: usize = 65_536;
/// The most groups of a file.
pub const MAX_GROUPS: usize = 16_384;
/// The most destinations of a file.
pub const MAX_DESTINATIONS: usize = 1_024;

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Reads and validates a policy file.
///
/// # Errors
///
/// Every error in the file in the order of the text, with the warnings between; or why the file could not be read.
pub fn load_policy(path: &Path) -> Result<Loaded<PolicySet>, Diagnostics> {
    let name = path.display().to_string();
    parse_policy(&name, &read_text(path, &name)?)
}

/// Validates the text of a policy file; `file_name` is what diagnostics call it.
///
/// ```
/// use sluice_model::spec::parse_policy;
///
/// let text = r#"
///     [[destination]]
///     name = "ids"
///     type = "vxlan"
///     remote = "192.0.2.10"
///
///     [[policy]]
///     name = "web"
///     collect = { addresses = ["10.0.0.0/8"], ports = "90-80" }
///     protocol = "tcp"
///     to = ["ids"]
/// "#;
/// let errors = parse_policy("policy.toml", text).unwrap_err();
/// assert_eq!(
///     errors.to_string(),
///     "policy.toml:9:54: error: policy \"web\": collect.ports: reversed range 90-80; write 80-90",
/// );
/// let loaded = parse_policy("policy.toml", &text.replace("90-80", "80-90")).unwrap();
/// assert_eq!(loaded.value.policies()[0].name, "web");
/// ```
///
/// # Errors
///
/// Every error in the text, in its order, with the warnings between.
pub fn parse_policy(file_name: &str, text: &str) -> Result<Loaded<PolicySet>, Diagnostics> {
    let report = Report::new(file_name, text);
    let text = document::intact(&report);
    let document = document::parse(&text);
    let set = policy_set(&document, &report);
    report.finish(set)
}

/// Reads a policy file as [`load_policy`], and gives it as it was written, too: with its groups and the policies that are
/// switched off.
///
/// # Errors
///
/// As [`load_policy`].
pub fn load_policy_spec(path: &Path) -> Result<Loaded<(PolicySetSpec, PolicySet)>, Diagnostics> {
    let name = path.display().to_string();
    parse_policy_spec(&name, &read_text(path, &name)?)
}

/// Validates a text as [`parse_policy`], and gives it as it was written, too.
///
/// # Errors
///
/// As [`parse_policy`].
pub fn parse_policy_spec(
    file_name: &str,
    text: &str,
) -> Result<Loaded<(PolicySetSpec, PolicySet)>, Diagnostics> {
    let Loaded { value, warnings } = parse_policy(file_name, text)?;
    let spec = PolicySetSpec::from_toml(file_name, text)?;
    Ok(Loaded { value: (spec, value), warnings })
}

/// Validates the tree of a policy file, or of plain values.
pub(super) fn policy_set<'d>(document: &'d Table<'d>, report: &'d Report<'d>) -> PolicySet {
    let mut top = Fields::new(document, 0..0, String::new(), report);
    let destinations = limited(top.tables("destination"), MAX_DESTINATIONS, "destinations", report);
    let groups = limited(top.tables("group"), MAX_GROUPS, "groups", report);
    let policies = limited(top.tables("policy"), MAX_POLICIES, "policies", report);
    top.finish();

    let groups = Groups::read(groups, report);
    let (names, destinations, places) = read_destinations(destinations, report);
    let context = Context { groups: &groups, destination_names: &names, destinations: &destinations, report };
    let mut policy_names = Names::new("policy");
    let mut read = Vec::with_capacity(policies.len());
    for (index, mut fields) in policies.into_iter().enumerate() {
        let name = policy_names.enter(&mut fields, index, report);
        read.push(context.policy(fields, name.as_ref()));
    }
    if report.errors() > 0 {
        return PolicySet::default();
    }
    if read.is_empty() {
        let suggestion = "every packet ends as the intentional drop no_policy".to_owned();
        report.warning(&(0..0), report.list("policy"), "no policies", suggestion);
    }
    groups.report_unused(report);
    let mut used = vec![false; destinations.len()];
    read.iter().flat_map(|p| &p.policy.to).for_each(|id| {
        if let Some(used) = used.get_mut(id.index()) {
            *used = true;
        }
    });
    // A group that is used uses its members.
    for group in
        destinations.iter().zip(used.clone()).filter(|(_, used)| *used).filter_map(|(to, _)| to.as_ref())
    {
        if let DestinationKind::Group(group) = &group.kind {
            for member in &group.members {
                if let Some(used) = used.get_mut(member.destination.index()) {
                    *used = true;
                }
            }
        }
    }
    for ((span, label), _) in places.iter().zip(&used).filter(|(_, used)| !**used) {
        report.warning(span, label, "nothing is sent to this destination", None);
    }
    report_idle(&read, report);
    let enabled = read.into_iter().filter(|p| p.enabled).map(|p| p.policy).collect();
    // Without errors every destination is there and every reference was resolved.
    PolicySet::new(enabled, destinations.into_iter().flatten().collect()).unwrap_or_default()
}

/// Warns about policies that never match, and about those that have no effect beside another.
fn report_idle(read: &[ReadPolicy], report: &Report<'_>) {
    let enabled: Vec<&ReadPolicy> = read.iter().filter(|p| p.enabled).collect();
    let mut idle = vec![false; enabled.len()];
    for (p, idle) in enabled.iter().zip(&mut idle) {
        if let Some((reason, suggestion)) = contradiction(&p.policy) {
            *idle = true;
            report.warning(&p.span, &p.label, format!("never matches: {reason}"), suggestion);
        }
    }
    let policies: Vec<&Policy> = enabled.iter().map(|p| &p.policy).collect();
    let shadows = shadows(&policies, |i| idle.get(i).copied().unwrap_or(false));
    for shadow in &shadows.found {
        let (Some(covered), Some(by)) = (enabled.get(shadow.covered), enabled.get(shadow.by)) else {
            continue;
        };
        let (place, name) = (report.place(&by.span), &by.policy.name);
        let reason = match by.policy.action {
            Action::Drop => {
                format!("has no effect: exclusion {name:?} ({place}) takes out all that it matches")
            }
            Action::Copy => {
                format!(
                    "adds nothing: policy {name:?} ({place}) sends the same copies of all that it matches"
                )
            }
        };
        report.warning(&covered.span, &covered.label, reason, format!("remove it, or narrow {name:?}"));
    }
    if shadows.ended_early {
        let reason = format!(
            "too many policies are alike: after {} comparisons, the search for idle ones ended",
            shadows.pairs
        );
        report.warning(&(0..0), report.list("policy"), reason, None);
    }
}

type Place = (Span, String);

fn read_destinations<'d>(
    tables: Vec<Fields<'d>>,
    report: &Report<'d>,
) -> (Names<'d>, Vec<Option<Destination>>, Vec<Place>) {
    let mut names = Names::new("destination");
    let mut destinations = Vec::with_capacity(tables.len());
    let mut places = Vec::with_capacity(tables.len());
    let mut groups = Vec::with_capacity(tables.len());
    let mut files = HashMap::new();
    for (index, mut fields) in tables.into_iter().enumerate() {
        let name = names.enter(&mut fields, index, report);
        let span = name.as_ref().map_or(fields.span.clone(), |name| name.span.clone());
        let label = fields.label.clone();
        let place_of_file = fields.place_of("file");
        let read = destination(fields, name.map(|name| name.value), report);
        if let (Some((Destination { kind: DestinationKind::Pcap { file }, .. }, _)), Some(place)) =
            (&read, place_of_file)
            && let Some(other) = files.insert(file.clone(), label.clone())
        {
            let reason = format!("{} is written by {other}, too", file.display());
            report.error(
                &place,
                format!("{label}{}file", report.separator()),
                reason,
                "give each its own file".to_owned(),
            );
        }
        let (read, group) = read.unzip();
        groups.push(group);
        destinations.push(read);
        places.push((span, label));
    }
    let is_group = |read: &Option<Destination>| {
        matches!(read, Some(Destination { kind: DestinationKind::Group(_), .. }))
    };
    let are_groups: Vec<bool> = destinations.iter().map(is_group).collect();
    for (read, group) in destinations.iter_mut().zip(&groups) {
        if let (Some(Destination { kind: DestinationKind::Group(kind), .. }), Some(group)) = (read, group) {
            let is_group = |index: usize| are_groups.get(index).copied().unwrap_or(false);
            kind.members = group.resolve(&names, is_group, report);
        }
    }
    (names, destinations, places)
}

/// Refuses what is beyond a limit.
fn limited<'d>(
    mut tables: Vec<Fields<'d>>,
    limit: usize,
    what: &str,
    report: &Report<'_>,
) -> Vec<Fields<'d>> {
    if let Some(first) = tables.get(limit) {
        let reason = format!("{} {what} are more than the {limit} that are possible", tables.len());
        report.error(&first.span, what, reason, "join policies that treat their copies alike".to_owned());
        tables.truncate(limit);
    }
    tables
}

/// Reads a text file of bounded size.
pub(super) fn read_text(path: &Path, name: &str) -> Result<String, Diagnostics> {
    let fail = |reason: String, suggestion: Option<&str>| {
        Diagnostics(vec![Diagnostic::about_file(
            Severity::Error,
            name,
            reason,
            suggestion.map(str::to_owned),
        )])
    };
    let cannot = |error: &std::io::Error| {
        let suggestion = match error.kind() {
            std::io::ErrorKind::NotFound => Some("check the path"),
            std::io::ErrorKind::PermissionDenied => Some("check who may read the file"),
            _ => None,
        };
        fail(format!("cannot be read: {error}"), suggestion)
    };
    let file = File::open(path).map_err(|error| cannot(&error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fail(format!("larger than {} MiB", MAX_FILE_BYTES >> 20), None));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count() + 1;
        fail(
            format!("no UTF-8 text: the byte at offset {at} (line {line}) is wrong"),
            Some("save the file as UTF-8"),
        )
    })
}
