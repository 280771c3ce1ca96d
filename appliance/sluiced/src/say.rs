//! Lines for people and scripts on stdout and stderr, whoever reads them.
//!
//! `println!` panics when its line does not arrive: `| head` or a full disk would end a daemon that moves traffic.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};

/// What goes to stdout. The first failure is kept for the end.
#[derive(Debug, Default)]
pub(crate) struct Out {
    failure: Option<io::Error>,
}

impl Out {
    /// Writes a line.
    pub(crate) fn line(&mut self, text: impl Display) {
        if self.failure.is_none() {
            self.failure = writeln!(io::stdout().lock(), "{text}").err();
        }
    }

    /// Writes what is made in one piece, and whether it arrived.
    pub(crate) fn text(text: &[u8]) -> Result<()> {
        Self { failure: io::stdout().lock().write_all(text).err() }.end()
    }

    /// Whether all of it arrived. A reader that has gone wanted no more: that is no error.
    pub(crate) fn end(self) -> Result<()> {
        match self.failure {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("cannot write to stdout; the report ends early")
            }
            _ => Ok(()),
        }
    }
}

/// Writes a line to stderr. When nobody reads that, there is nobody to tell.
pub(crate) fn error(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// [`Out::line`] with a format.
macro_rules! say {
    ($out:expr, $($arg:tt)*) => { $out.line(format_args!($($arg)*)) };
}
/// [`error`] with a format.
macro_rules! complain {
    ($($arg:tt)*) => { $crate::say::error(format_args!($($arg)*)) };
}
pub(crate) use {complain, say};
