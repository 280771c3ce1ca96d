//! What is known about a generation?

use sluice_model::Generation;
use sluice_model::spec::Change;

use crate::StoreError;

/// The longest policy text, in bytes: that of a policy file.
pub const MAX_POLICY_BYTES: usize = 64 << 20;
/// The longest name of who applied a generation, in characters.
pub const MAX_WHO_CHARS: usize = 256;
/// The longest comment, in characters.
pub const MAX_COMMENT_CHARS: usize = 1_000;

/// What made a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The policy file of the boot config, when the store had none.
    Boot,
    /// A whole set was applied.
    Apply,
    /// A policy, group or destination was put.
    Put,
    /// A policy, group or destination was deleted.
    Delete,
    /// An earlier generation was rolled back to.
    Rollback {
        /// The one whose policy text this is.
        to: Generation,
    },
}

/// A policy set that comes into force, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When, in nanoseconds since 1970 (UTC).
    pub applied_at_ns: i64,
    /// Who; at most [`MAX_WHO_CHARS`] characters.
    pub applied_by: String,
    /// Why; at most [`MAX_COMMENT_CHARS`] characters.
    pub comment: String,
    /// What made it.
    pub origin: Origin,
    /// Policies in the set, those included that are switched off.
    pub policies: u32,
    /// Groups of addresses in the set.
    pub groups: u32,
    /// Destinations in the set.
    pub destinations: u32,
    /// What is different from the generation before; of the first one, from an empty set.
    pub changes: Vec<Change>,
    /// The set as a policy file; at most [`MAX_POLICY_BYTES`] bytes.
    pub policy_text: String,
}

/// What is known about a generation, without its policy text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its number.
    pub generation: Generation,
    /// The generation before it; `None` if it is the first.
    pub predecessor: Option<Generation>,
    /// When it was applied, in nanoseconds since 1970 (UTC).
    pub applied_at_ns: i64,
    /// Who applied it.
    pub applied_by: String,
    /// Why.
    pub comment: String,
    /// What made it.
    pub origin: Origin,
    /// Policies in the set, those included that are switched off.
    pub policies: u32,
    /// Groups of addresses in the set.
    pub groups: u32,
    /// Destinations in the set.
    pub destinations: u32,
    /// How many policies, groups and destinations differ from the generation before; `None` if that was not kept, as
    /// in format 1.
    pub changes: Option<usize>,
}

/// A generation, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What is known about it.
    pub summary: Summary,
    /// What is different from the generation before; `None` if that was not kept, as in format 1.
    pub changes: Option<Vec<Change>>,
    /// The set as a policy file, byte for byte as it was given.
    pub policy_text: String,
}

impl Entry {
    /// # Errors
    ///
    /// [`StoreError::TooLong`] for a field that is.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let fields = [
            ("the name of who applied it", self.applied_by.chars().count(), MAX_WHO_CHARS, "characters"),
            ("the comment", self.comment.chars().count(), MAX_COMMENT_CHARS, "characters"),
            ("the policy text", self.policy_text.len(), MAX_POLICY_BYTES, "bytes"),
        ];
        match fields.into_iter().find(|(_, length, max, _)| length > max) {
            Some((what, length, max, unit)) => Err(StoreError::TooLong { what, length, max, unit }),
            None => Ok(()),
        }
    }

    /// The generation that this becomes.
    pub(crate) fn stored(&self, generation: Generation, predecessor: Option<Generation>) -> Stored {
        let summary = Summary {
            generation,
            predecessor,
            applied_at_ns: self.applied_at_ns,
            applied_by: self.applied_by.clone(),
            comment: self.comment.clone(),
            origin: self.origin,
            policies: self.policies,
            groups: self.groups,
            destinations: self.destinations,
            changes: Some(self.changes.len()),
        };
        Stored { summary, changes: Some(self.changes.clone()), policy_text: self.policy_text.clone() }
    }
}
