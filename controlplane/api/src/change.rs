//! How is a difference between two sets told to a client?

use sluice_model::spec::{Change, ChangeType, FieldChange, ObjectKind};

use crate::v1;

impl From<Vec<Change>> for v1::Diff {
    fn from(changes: Vec<Change>) -> Self {
        Self { changes: changes.into_iter().map(Into::into).collect() }
    }
}

impl From<Change> for v1::Change {
    fn from(change: Change) -> Self {
        let kind = match change.kind {
            ObjectKind::Destination => v1::ObjectKind::Destination,
            ObjectKind::Group => v1::ObjectKind::Group,
            ObjectKind::Policy => v1::ObjectKind::Policy,
        };
        let r#type = match change.change {
            ChangeType::Added => v1::ChangeType::Added,
            ChangeType::Removed => v1::ChangeType::Removed,
            ChangeType::Changed => v1::ChangeType::Changed,
        };
        Self {
            kind: kind.into(),
            name: change.name,
            r#type: r#type.into(),
            fields: change.fields.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<FieldChange> for v1::FieldChange {
    fn from(change: FieldChange) -> Self {
        Self {
            field: change.field,
            before: change.before.unwrap_or_default(),
            after: change.after.unwrap_or_default(),
        }
    }
}
