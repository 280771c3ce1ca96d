//! What goes to stdout and stderr, whoever reads it.
//!
//! `println!` panics when its reader has gone: `sluice flows | head` must end quietly.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use prost::Message;

use crate::failure::Failure;
use crate::json;

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On terminals, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The colours that mean something.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tone {
    Good,
    Warn,
    Bad,
}

/// How results are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    /// JSON instead of tables.
    pub(crate) json: bool,
    color: bool,
    error_color: bool,
}

impl Out {
    pub(crate) fn new(json: bool, choice: ColorChoice) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let on = |terminal: bool| match choice {
            ColorChoice::Auto => terminal && !plain,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Self { json, color: on(io::stdout().is_terminal()), error_color: on(io::stderr().is_terminal()) }
    }

    /// Whether colours are wanted on stdout.
    pub(crate) const fn color(self) -> bool {
        self.color
    }

    /// Writes text and ends the line.
    #[expect(clippy::unused_self, reason = "all results go through Out")]
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")))
    }

    /// Writes a message of the type `name` as JSON, over several lines.
    pub(crate) fn message<M: Message>(self, name: &str, message: &M) -> Result<(), Failure> {
        self.line(&json::text(name, message, true)?)
    }

    /// Writes a message as one line of JSON, for streams.
    pub(crate) fn message_line<M: Message>(self, name: &str, message: &M) -> Result<(), Failure> {
        self.line(&json::text(name, message, false)?)
    }

    /// Text in a colour, where colours are wanted on stdout.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        paint(self.color, tone, text)
    }

    /// Writes a line to stderr, its beginning in a colour. When nobody reads it, there is nobody to tell.
    pub(crate) fn complain(self, tone: Tone, label: &str, text: &str) {
        let label = paint(self.error_color, tone, label);
        drop(writeln!(io::stderr().lock(), "{label}: {text}"));
    }

    /// Shows where something is, on a line of a terminal that the next call replaces; "" takes it away.
    #[expect(clippy::unused_self, reason = "all messages go through Out")]
    pub(crate) fn progress(self, text: &str) {
        let mut stderr = io::stderr().lock();
        if stderr.is_terminal() {
            drop(write!(stderr, "\r\u{1b}[K{text}").and_then(|()| stderr.flush()));
        }
    }

    /// Writes a line to stderr.
    #[expect(clippy::unused_self, reason = "all messages go through Out")]
    pub(crate) fn note(self, text: &str) {
        drop(writeln!(io::stderr().lock(), "{text}"));
    }
}

/// What became of a write to stdout.
pub(crate) fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::closed(),
        _ => Failure::failed(format!("cannot write to stdout: {error}")),
    })
}

fn paint(color: bool, tone: Tone, text: &str) -> String {
    if !color {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => 32,
        Tone::Warn => 33,
        Tone::Bad => 31,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}
