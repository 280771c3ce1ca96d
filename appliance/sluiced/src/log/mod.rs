//! Where does the log go, how does a line look, and how many may there be?

mod journal;
mod json;
mod limit;

use std::os::unix::fs::MetadataExt;

use sluice_model::{LogFormat, LogLevel, LogSettings, LogTarget};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use journal::Journal;
use json::Json;
use limit::Limiter;

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    limiter: Limiter,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Tells what was kept back, now and then.
    pub(crate) fn report(&self) {
        self.limiter.report();
    }

    /// Logs as much as `level` says from now on, unless `RUST_LOG` says something.
    pub(crate) fn set_level(&self, level: LogLevel) {
        // An error: there is no log any more.
        drop(self.filter.modify(|current| *current = filter(level)));
    }
}

/// `RUST_LOG` overrides the boot config's level.
fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into())
}

/// Starts the log.
pub(crate) fn start(settings: &LogSettings, level: LogLevel) -> Log {
    let (filter, handle) = reload::Layer::new(filter(level));
    let limiter = Limiter::new(settings.lines_per_second);
    let to_journal = match settings.to {
        LogTarget::Auto => stderr_is_the_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()),
        LogTarget::Stderr => false,
        LogTarget::Journald => true,
    };
    let mut unreachable = None;
    let journal = to_journal
        .then(Journal::connect)
        .and_then(|journal| journal.map_err(|error| unreachable = Some(error)).ok());
    let stderr = journal.is_none().then(|| match settings.format {
        LogFormat::Json => Json.boxed(),
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            // What cannot be logged cannot be told on stderr either, and trying to would be a panic.
            fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).log_internal_errors(false).boxed()
        }
    });
    tracing_subscriber::registry().with(filter).with(limiter.clone()).with(journal).with(stderr).init();
    if let Some(error) = unreachable {
        tracing::warn!(%error, "the journal cannot be reached: the log goes to stderr");
    }
    Log { limiter, filter: handle }
}

/// Whether stderr is the stream that systemd has connected to the journal: `JOURNAL_STREAM` has its device and inode
/// (systemd.exec(5)).
fn stderr_is_the_journal(stream: Option<&str>) -> bool {
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    names(stream, stderr.dev(), stderr.ino())
}

fn names(stream: Option<&str>, device: u64, inode: u64) -> bool {
    let parts = stream.and_then(|stream| stream.split_once(':'));
    parts.is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn the_stream_has_to_be_the_same() {
        assert!(names(Some("9:4711"), 9, 4711));
        for other in [None, Some(""), Some("9"), Some("9:4712"), Some("8:4711"), Some("9:x")] {
            assert!(!names(other, 9, 4711), "{other:?}");
        }
    }
}
