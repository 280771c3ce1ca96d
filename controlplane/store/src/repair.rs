//! What was found wrong at a start, and done about it?

use std::fmt;

use sluice_model::Generation;

use crate::Damage;
use crate::error::advice;

/// Something that [`Store::open`](crate::Store::open) found, in words for an operator.
#[derive(Debug)]
pub enum Repair {
    /// A generation that was never acknowledged, because the process or the machine stopped in the middle.
    Unfinished {
        /// Its file, which is gone.
        file: String,
    },
    /// A generation that cannot be read. Its number is not used again.
    Damaged {
        /// Which one.
        generation: Generation,
        /// Its file.
        file: String,
        /// What is wrong with it.
        damage: Damage,
        /// The name that the file has now, to be looked at; `None` if it could not be renamed.
        kept_as: Option<String>,
    },
    /// The newest generation, which was in force, is among those that are damaged.
    NewestLost {
        /// The newest.
        lost: Generation,
        /// The newest one that is whole, which takes its place; `None` if there is none.
        instead: Option<Generation>,
    },
    /// Something that the store did not make, and did not touch.
    Stranger {
        /// Its name.
        file: String,
    },
    /// Something could not be put in order.
    Refused {
        /// The file.
        file: String,
        /// What was to be done with it.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Repair {
    /// Whether something is lost that was acknowledged: an operator should hear of it, whatever else is said.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::NewestLost { .. })
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished { file } => {
                write!(f, "{file}: removed; it is of a change that was cut off before it was in force")
            }
            Self::Damaged { generation: Generation(number), file, damage, kept_as } => {
                write!(f, "{file}: generation {number} is damaged: {damage}; ")?;
                match kept_as {
                    Some(name) => write!(f, "kept as {name} to be looked at; check the disk"),
                    None => write!(f, "left out; check the disk"),
                }
            }
            Self::NewestLost { lost: Generation(lost), instead: Some(Generation(instead)) } => write!(
                f,
                "generation {lost}, which was in force, cannot be read; generation {instead} takes its place; \
                 apply the newest policy again"
            ),
            Self::NewestLost { lost: Generation(lost), instead: None } => write!(
                f,
                "generation {lost}, which was in force, cannot be read, and no other is kept; apply the policy again"
            ),
            Self::Stranger { file } => {
                write!(f, "{file}: not of the store, left alone; move it elsewhere")
            }
            Self::Refused { file, action, source } => {
                write!(f, "{file}: cannot {action}: {source}; {}", advice(source))
            }
        }
    }
}
