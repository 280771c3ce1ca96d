//! What is different between two sets?

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::plain::PolicySetSpec;

/// A destination, group or policy that two sets do not have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// What was done.
    pub change: ChangeType,
    /// The fields that differ; of one that was added or removed, all that are given. In the order of their names.
    pub fields: Vec<FieldChange>,
}

/// What a change is about, in the order of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A destination.
    Destination,
    /// A group of addresses.
    Group,
    /// A policy.
    Policy,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeType {
    /// It was not there before.
    Added,
    /// It is not there any more.
    Removed,
    /// Some of its fields are different.
    Changed,
}

/// A field that is different. Values are as a policy file has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    /// Its path in the object: `collect.ports`.
    pub field: String,
    /// Before; `None` = not given.
    pub before: Option<String>,
    /// After; `None` = not given.
    pub after: Option<String>,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Destination => "destination",
            Self::Group => "group",
            Self::Policy => "policy",
        })
    }
}

impl PolicySetSpec {
    /// What is different in `after`: destinations first, then groups, then policies, in the order of their names. The
    /// order of policies has no meaning and makes no difference; of several with one name, which is an error, the last
    /// one counts.
    #[must_use]
    pub fn diff(&self, after: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let lists = [
            (
                ObjectKind::Destination,
                fields(&self.destinations, |d| &d.name),
                fields(&after.destinations, |d| &d.name),
            ),
            (ObjectKind::Group, fields(&self.groups, |g| &g.name), fields(&after.groups, |g| &g.name)),
            (ObjectKind::Policy, fields(&self.policies, |p| &p.name), fields(&after.policies, |p| &p.name)),
        ];
        for (kind, before, after) in lists {
            changes.extend(list_changes(kind, &before, &after));
        }
        changes
    }
}

/// The fields of an object by their paths, and their values.
type Fields = BTreeMap<String, String>;

fn fields<'s, T: Serialize>(list: &'s [T], name: impl Fn(&'s T) -> &'s str) -> BTreeMap<&'s str, Fields> {
    let object = |object| {
        let mut fields = Fields::new();
        // Plain values always make a table; see PolicySetSpec::to_toml.
        flatten(&toml::Table::try_from(object).unwrap_or_default(), "", &mut fields);
        fields.remove("name");
        (name(object), fields)
    };
    list.iter().map(object).collect()
}

fn flatten(table: &toml::Table, prefix: &str, into: &mut Fields) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(inner, &format!("{prefix}{key}."), into),
            value => {
                into.insert(format!("{prefix}{key}"), value.to_string());
            }
        }
    }
}

fn list_changes(
    kind: ObjectKind,
    before: &BTreeMap<&str, Fields>,
    after: &BTreeMap<&str, Fields>,
) -> Vec<Change> {
    let none = Fields::new();
    let mut names: Vec<&str> = before.keys().chain(after.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    let change = |name: &str| {
        let (old, new) = (before.get(name), after.get(name));
        let change = match (old, new) {
            (None, _) => ChangeType::Added,
            (_, None) => ChangeType::Removed,
            (Some(old), Some(new)) if old == new => return None,
            (Some(_), Some(_)) => ChangeType::Changed,
        };
        let fields = field_changes(old.unwrap_or(&none), new.unwrap_or(&none));
        Some(Change { kind, name: name.to_owned(), change, fields })
    };
    names.into_iter().filter_map(change).collect()
}

fn field_changes(before: &Fields, after: &Fields) -> Vec<FieldChange> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    changed
        .map(|name| FieldChange {
            field: name.clone(),
            before: before.get(name).cloned(),
            after: after.get(name).cloned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::policy_set;
    use crate::spec::parse_policy_spec;
    use proptest::prelude::*;

    const BEFORE: &str = "[[destination]]\nname = \"ids\"\ntype = \"pcap\"\nfile = \"a\"\n\
                          [[group]]\nname = \"g\"\naddresses = [\"10.0.0.0/8\"]\n\
                          [[policy]]\nname = \"web\"\ncollect = { addresses = [\"@g\"], ports = 80 }\nto = [\"ids\"]\n\
                          [[policy]]\nname = \"old\"\nprotocol = \"udp\"\nto = [\"ids\"]\n";

    fn spec(text: &str) -> PolicySetSpec {
        parse_policy_spec("p", text).unwrap().value.0
    }

    #[test]
    fn changes_are_told_field_by_field() {
        let before = spec(BEFORE);
        let after = BEFORE.replace("ports = 80", "ports = \"80,443\"").replace("\"old\"", "\"new\"");
        let after = spec(&after.replace("protocol = \"udp\"\n", ""));
        let field = |field: &str, before: Option<&str>, after: Option<&str>| FieldChange {
            field: field.into(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let change = |name: &str, change, fields| Change {
            kind: ObjectKind::Policy,
            name: name.into(),
            change,
            fields,
        };
        assert_eq!(
            before.diff(&after),
            [
                change("new", ChangeType::Added, vec![field("to", None, Some("[\"ids\"]"))]),
                change(
                    "old",
                    ChangeType::Removed,
                    vec![field("protocol", Some("[\"udp\"]"), None), field("to", Some("[\"ids\"]"), None)],
                ),
                change(
                    "web",
                    ChangeType::Changed,
                    vec![field("collect.ports", Some("[\"80\"]"), Some("[\"80\", \"443\"]"))],
                ),
            ]
        );
    }

    proptest! {
        #[test]
        fn equal_sets_have_none(set in policy_set()) {
            let spec = PolicySetSpec::from(&set);
            let mut turned = spec.clone();
            turned.policies.reverse();
            prop_assert_eq!(spec.diff(&turned), []);
            let all = spec.destinations.len() + spec.groups.len() + spec.policies.len();
            prop_assert_eq!(PolicySetSpec::default().diff(&spec).len(), all);
        }
    }
}
