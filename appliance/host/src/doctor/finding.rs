//! What was found.

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing, or not to be seen from here.
    Note,
    /// It works, at a cost.
    Warning,
    /// It will not work.
    Error,
}

/// What mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// A line for a shell, to be run as root.
    pub command: String,
    /// Whether it may be run without a second thought: it stops nothing, and holds until the next boot at most.
    pub safe: bool,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a name for scripts, never changed.
    pub check: &'static str,
    /// Which one: a port, a CPU, a folder; empty = the machine.
    pub subject: String,
    /// How much it matters.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What it costs; empty when all is well.
    pub cost: String,
    /// What mends it; `None` = nothing has to, or no command does.
    pub remedy: Option<Remedy>,
}

impl Finding {
    /// Something that is as it should be.
    pub(crate) fn ok(check: &'static str, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            check,
            subject: subject.into(),
            level: Level::Ok,
            text: text.into(),
            cost: String::new(),
            remedy: None,
        }
    }

    /// Something worth knowing.
    pub(crate) fn note(check: &'static str, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Note, ..Self::ok(check, subject, text) }
    }

    /// Something that costs.
    pub(crate) fn warning(
        check: &'static str,
        subject: impl Into<String>,
        text: impl Into<String>,
        cost: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, cost: cost.into(), ..Self::ok(check, subject, text) }
    }

    /// Something that will not work.
    pub(crate) fn error(
        check: &'static str,
        subject: impl Into<String>,
        text: impl Into<String>,
        cost: impl Into<String>,
    ) -> Self {
        Self { level: Level::Error, ..Self::warning(check, subject, text, cost) }
    }

    /// With a command that may be run without a second thought.
    pub(crate) fn mended_by(self, command: impl Into<String>) -> Self {
        Self { remedy: Some(Remedy { command: command.into(), safe: true }), ..self }
    }

    /// With a command that somebody has to decide on.
    pub(crate) fn decided_by(self, command: impl Into<String>) -> Self {
        Self { remedy: Some(Remedy { command: command.into(), safe: false }), ..self }
    }
}
