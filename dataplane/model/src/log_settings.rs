//! Where logs go, how they look and how many there may be: `[log]` of the boot config.

/// The log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Where lines go.
    pub to: LogTarget,
    /// How lines on stderr look.
    pub format: LogFormat,
    /// The most lines per second from one place in the code; the others are counted. `None` = any number.
    pub lines_per_second: Option<u32>,
}

/// Where the log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// To the journal where systemd has connected stderr to it, else to stderr.
    #[default]
    Auto,
    /// To stderr.
    Stderr,
    /// To systemd's journal, with fields.
    Journald,
}

/// How a line on stderr looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl LogSettings {
    /// The lines per second where none are given (requirements.md COL-16).
    pub const DEFAULT_LINES_PER_SECOND: u32 = 300;
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            to: LogTarget::Auto,
            format: LogFormat::Text,
            lines_per_second: Some(Self::DEFAULT_LINES_PER_SECOND),
        }
    }
}
