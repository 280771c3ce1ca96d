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
        list_changes(
            ObjectKind::Destination,
            &self.destinations,
            &after.destinations,
            |d| &d.name,
            &mut changes,
        );
        list_changes(ObjectKind::Group, &self.groups, &after.groups, |g| &g.name, &mut changes);
        list_changes(ObjectKind::Policy, &self.policies, &after.policies, |p| &p.name, &mut changes);
        changes
    }
}

/// The fields of an object by their paths, and their values.
type Fields = BTreeMap<String, String>;

fn fields<T: Serialize>(object: &T) -> Fields {
    let mut fields = Fields::new();
    // Plain values always make a table; see PolicySetSpec::to_toml.
    flatten(&toml::Table::try_from(object).unwrap_or_default(), "", &mut fields);
    fields.remove("name");
    fields
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

fn list_changes<T: Serialize + PartialEq>(
    kind: ObjectKind,
    before: &[T],
    after: &[T],
    name: impl Fn(&T) -> &str,
    into: &mut Vec<Change>,
) {
    let mut objects: BTreeMap<&str, (Option<&T>, Option<&T>)> = BTreeMap::new();
    for object in before {
        objects.entry(name(object)).or_default().0 = Some(object);
    }
    for object in after {
        objects.entry(name(object)).or_default().1 = Some(object);
    }
    // Of large sets that are nearly the same, only what differs is looked at closely.
    for (name, (old, new)) in objects.into_iter().filter(|(_, (old, new))| old != new) {
        let change = match (old, new) {
            (None, _) => ChangeType::Added,
            (_, None) => ChangeType::Removed,
            (Some(_), Some(_)) => ChangeType::Changed,
        };
        let fields =
            field_changes(&old.map(fields).unwrap_or_default(), &new.map(fields).unwrap_or_default());
        into.push(Change { kind, name: name.to_owned(), change, fields });
    }
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
