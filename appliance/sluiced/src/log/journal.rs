//! Lines for systemd's journal, each with its fields, as one datagram (the native protocol of systemd-journald).
//!
//! `MESSAGE`, `PRIORITY`, `SYSLOG_IDENTIFIER` and `TARGET` are as everywhere; a field `x` of an event is `F_X`.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::Value;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::json::fields;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Bytes of one value, at most: larger datagrams than the kernel takes would be lost whole.
const MAX_VALUE: usize = 16 << 10;

/// The layer.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// Connects to the journal.
    pub(super) fn connect() -> io::Result<Self> {
        Self::connect_to(Path::new(SOCKET))
    }

    fn connect_to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A journal that does not read must not hold up the daemon.
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        // What the journal does not take, nobody can be told of.
        drop(self.0.send(&datagram(event)));
    }
}

fn datagram(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    let mut bytes = Vec::new();
    add(&mut bytes, "PRIORITY", priority(*metadata.level()));
    add(&mut bytes, "SYSLOG_IDENTIFIER", "sluiced");
    add(&mut bytes, "TARGET", metadata.target());
    for (name, value) in fields(event) {
        let text = match &value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if name == "message" {
            add(&mut bytes, "MESSAGE", &text);
        } else {
            add(&mut bytes, &format!("F_{}", key(&name)), &text);
        }
    }
    bytes
}

/// Priorities of syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// A name of letters, digits and underscores, as the journal wants it.
fn key(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(legal).take(60).collect()
}

/// Adds a field: a line, or, if there is a line end in it, its length first.
fn add(bytes: &mut Vec<u8>, key: &str, value: &str) {
    let value = value.as_bytes().get(..MAX_VALUE).unwrap_or(value.as_bytes());
    bytes.extend_from_slice(key.as_bytes());
    if value.contains(&b'\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code")]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn a_line_is_a_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::connect_to(&path).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "t", port = "tap0", up = 1_u64, text = "a\nb", "link down");
        });
        let mut bytes = [0; 1024];
        let len = journal.recv(&mut bytes).unwrap();
        let text = String::from_utf8(bytes[..len].to_vec()).unwrap();
        for line in [
            "PRIORITY=4\n",
            "SYSLOG_IDENTIFIER=sluiced\n",
            "TARGET=t\n",
            "MESSAGE=link down\n",
            "F_PORT=tap0\n",
            "F_UP=1\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(text.contains("F_TEXT\n\u{3}\0\0\0\0\0\0\0a\nb\n"), "{text:?}");
        assert!(Journal::connect_to(&folder.path().join("nobody")).is_err());
    }
}
