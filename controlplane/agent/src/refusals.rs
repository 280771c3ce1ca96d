//! What did the API refuse, and how much did it take?
//!
//! Every refusal is counted by its reason and logged, the log only so many lines a second: whoever floods the API must
//! not flood the disk.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sluice_model::ApiRole;

/// Lines of the log for one reason within [`WINDOW`].
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);

macro_rules! refusals {
    ($($variant:ident $name:literal $meaning:literal;)+) => {
        /// Why a connection or a request was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $(#[doc = $meaning] $variant,)+
        }

        impl Refusal {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in metrics and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        const REASONS: usize = Refusal::ALL.len();
    };
}

refusals! {
    Connections "connections" "There were too many connections.";
    ConnectionRate "connection_rate" "There were too many new connections in a second.";
    NoTls "no_tls" "The peer does not speak TLS, or not as we do.";
    NoCertificate "no_certificate" "The client shows no certificate.";
    UntrustedCertificate "untrusted_certificate" "The client's certificate is none of its CA, or not for clients.";
    ExpiredCertificate "expired_certificate" "The client's certificate is not valid any more, or not yet.";
    RevokedCertificate "revoked_certificate" "The client's certificate was revoked.";
    SlowHandshake "slow_handshake" "The connection did not speak TLS and HTTP/2 in time.";
    Protocol "protocol" "What came is not HTTP/2.";
    Method "method" "There is no such method.";
    NoToken "no_token" "A token is needed, and there is none.";
    WrongToken "wrong_token" "The token is nobody's.";
    Role "role" "The caller's role does not allow it.";
    Rate "rate" "There were too many requests in a second.";
    Size "size" "The request was too large.";
    Slow "slow" "The request took too long, or its answer was not read.";
    Malformed "malformed" "The request cannot be decoded.";
}

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The Unix socket.
    Unix,
    /// TCP, with TLS or without.
    Tcp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Unix, Self::Tcp];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Tcp => "tcp",
        }
    }
}

/// Counts of the API, since the start.
#[derive(Debug)]
pub struct ApiCounts {
    refused: [AtomicU64; REASONS],
    requests: [AtomicU64; ApiRole::NAMES.len()],
    accepted: [AtomicU64; Transport::ALL.len()],
    open: [AtomicU64; Transport::ALL.len()],
    lines: Mutex<[Lines; REASONS]>,
}

/// The log of one reason.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Default for ApiCounts {
    fn default() -> Self {
        Self {
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: Default::default(),
            accepted: Default::default(),
            open: Default::default(),
            lines: Mutex::new([Lines::default(); REASONS]),
        }
    }
}

impl ApiCounts {
    /// Refusals by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Refusal::ALL.iter().zip(&self.refused).map(|(why, count)| (why.name(), count.load(Ordering::Relaxed)))
    }

    /// Requests that were let in, by role.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let names = ApiRole::NAMES.iter().map(|(name, _)| *name);
        names.zip(self.requests.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Connections by transport: open ones, and all that were let in.
    pub fn connections(&self) -> impl Iterator<Item = (&'static str, u64, u64)> + '_ {
        let counts = self.open.iter().zip(&self.accepted);
        let counts = counts.map(|(open, all)| (open.load(Ordering::Relaxed), all.load(Ordering::Relaxed)));
        Transport::ALL.iter().zip(counts).map(|(transport, (open, all))| (transport.name(), open, all))
    }

    /// Counts a refusal, and logs it if there is room. What `who` and `detail` take from the client is quoted.
    pub(crate) fn refuse(&self, why: Refusal, who: &dyn Display, detail: &dyn Display) {
        if let Some(count) = self.refused.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = lines.get_mut(why as usize) else { return };
        if line.since.is_none_or(|since| since.elapsed() >= WINDOW) {
            line.tell(why);
            *line = Lines { since: Some(Instant::now()), ..Lines::default() };
        }
        if line.written == LINES {
            line.left_out += 1;
            return;
        }
        line.written += 1;
        tracing::warn!(reason = why.name(), peer = %who, "the API refused: {detail}");
    }

    /// Tells what was left out of the log, once the flood is over.
    pub(crate) fn flush(&self) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for (line, why) in lines.iter_mut().zip(Refusal::ALL) {
            if line.since.is_some_and(|since| since.elapsed() >= WINDOW) {
                line.tell(*why);
                *line = Lines::default();
            }
        }
    }

    pub(crate) fn request(&self, role: ApiRole) {
        if let Some(count) = self.requests.get(role as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection that is let in, until what is given is dropped.
    pub(crate) fn connection(self: &std::sync::Arc<Self>, transport: Transport) -> Open {
        if let (Some(all), Some(open)) =
            (self.accepted.get(transport as usize), self.open.get(transport as usize))
        {
            all.fetch_add(1, Ordering::Relaxed);
            open.fetch_add(1, Ordering::Relaxed);
        }
        Open { counts: std::sync::Arc::clone(self), transport }
    }
}

impl Lines {
    fn tell(&self, why: Refusal) {
        if self.left_out > 0 {
            tracing::warn!(
                reason = why.name(),
                left_out = self.left_out,
                "the API refused more than is shown"
            );
        }
    }
}

/// An open connection is counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Open {
    counts: std::sync::Arc<ApiCounts>,
    transport: Transport,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(open) = self.counts.open.get(self.transport as usize) {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_few_are_logged() {
        let counts = ApiCounts::default();
        for _ in 0..1_000 {
            counts.refuse(Refusal::Role, &"a", &"b");
        }
        counts.refuse(Refusal::Size, &"a", &"b");
        let lines = *counts.lines.lock().unwrap();
        let role = lines[Refusal::Role as usize];
        assert_eq!(u64::from(role.written) + role.left_out, 1_000);
        assert_eq!(role.written, LINES);
        assert_eq!(lines[Refusal::Size as usize].written, 1);
        let refused: Vec<_> = counts.refused().filter(|(_, count)| *count > 0).collect();
        assert_eq!(refused, [("role", 1_000), ("size", 1)]);
        let counts = std::sync::Arc::new(counts);
        let open = counts.connection(Transport::Tcp);
        assert_eq!(counts.connections().collect::<Vec<_>>(), [("unix", 0, 0), ("tcp", 1, 1)]);
        drop(open);
        assert_eq!(counts.connections().collect::<Vec<_>>(), [("unix", 0, 0), ("tcp", 0, 1)]);
    }
}
