//! How do the changes of a generation look in a file?
//!
//! They are what [`PolicySetSpec::diff`](sluice_model::spec::PolicySetSpec::diff) gives. The words here are on disks:
//! they stay when those of the model change.

use serde::{Deserialize, Serialize};
use sluice_model::spec::{Change, ChangeType, FieldChange, ObjectKind};

/// A change.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    kind: Kind,
    name: String,
    change: Type,
    fields: Vec<Difference>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Destination,
    Group,
    Policy,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    Added,
    Removed,
    Changed,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    field: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

impl From<&Change> for Line {
    fn from(change: &Change) -> Self {
        let field = |field: &FieldChange| Difference {
            field: field.field.clone(),
            before: field.before.clone(),
            after: field.after.clone(),
        };
        Self {
            kind: match change.kind {
                ObjectKind::Destination => Kind::Destination,
                ObjectKind::Group => Kind::Group,
                ObjectKind::Policy => Kind::Policy,
            },
            name: change.name.clone(),
            change: match change.change {
                ChangeType::Added => Type::Added,
                ChangeType::Removed => Type::Removed,
                ChangeType::Changed => Type::Changed,
            },
            fields: change.fields.iter().map(field).collect(),
        }
    }
}

impl From<Line> for Change {
    fn from(line: Line) -> Self {
        let field = |Difference { field, before, after }| FieldChange { field, before, after };
        Self {
            kind: match line.kind {
                Kind::Destination => ObjectKind::Destination,
                Kind::Group => ObjectKind::Group,
                Kind::Policy => ObjectKind::Policy,
            },
            name: line.name,
            change: match line.change {
                Type::Added => ChangeType::Added,
                Type::Removed => ChangeType::Removed,
                Type::Changed => ChangeType::Changed,
            },
            fields: line.fields.into_iter().map(field).collect(),
        }
    }
}
