//! What is wrong now, since when, and what is to be done about it? (requirements.md COL-3)

/// The exceptions that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A disk that is written to is nearly full.
    DiskLow,
    /// The machine has too little memory left.
    MemoryLow,
    /// A distribution breaker is open.
    BreakerOpen,
    /// An output port leads into a network that is in use.
    FeedGuard,
    /// Copies were dropped because of a rate limit.
    DistributionLimit,
    /// Packets were dropped because of the limit of capture.
    CaptureLimit,
    /// The next hop of a destination does not answer.
    NextHopUnresolved,
    /// The link of a port is down.
    PortDown,
    /// Records do not reach where they should.
    ExportFailed,
    /// The process has more threads than it should.
    ThreadsLimit,
    /// A capture file cannot be written.
    FileFailed,
    /// The database of Open vSwitch is away.
    OvsDatabase,
    /// Policies do not follow the names of virtual machines and ports.
    OvsNames,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 13] = [
        Self::DiskLow,
        Self::MemoryLow,
        Self::BreakerOpen,
        Self::FeedGuard,
        Self::DistributionLimit,
        Self::CaptureLimit,
        Self::NextHopUnresolved,
        Self::PortDown,
        Self::ExportFailed,
        Self::ThreadsLimit,
        Self::FileFailed,
        Self::OvsDatabase,
        Self::OvsNames,
    ];

    /// The name in the API, logs and metrics; never changed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DiskLow => "disk_low",
            Self::MemoryLow => "memory_low",
            Self::BreakerOpen => "breaker_open",
            Self::FeedGuard => "feed_guard",
            Self::DistributionLimit => "distribution_limit",
            Self::CaptureLimit => "capture_limit",
            Self::NextHopUnresolved => "next_hop_unresolved",
            Self::PortDown => "port_down",
            Self::ExportFailed => "export_failed",
            Self::ThreadsLimit => "threads_limit",
            Self::FileFailed => "file_failed",
            Self::OvsDatabase => "ovs_database",
            Self::OvsNames => "ovs_names",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// What kind of thing.
    pub code: Code,
    /// Which one: the name of a port or destination, a path; empty = the whole appliance.
    pub subject: String,
    /// What is wrong and what to do, in a sentence.
    pub text: String,
    /// Since when, nanoseconds since 1970 (UTC).
    pub since_ns: i64,
}

/// Something that is wrong, as it was just found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) code: Code,
    pub(crate) subject: String,
    pub(crate) text: String,
}

/// Everything that is wrong now, in the order of codes and subjects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exceptions(Vec<Exception>);

impl Exceptions {
    /// What is wrong now.
    pub(crate) fn all(&self) -> &[Exception] {
        &self.0
    }

    /// Raises one, or renews its text; says whether it is new.
    pub(crate) fn raise(&mut self, finding: Finding, now_ns: i64) -> bool {
        let Finding { code, subject, text } = finding;
        let place = self.0.binary_search_by(|own| (own.code, &*own.subject).cmp(&(code, &*subject)));
        match place {
            Ok(place) => {
                if let Some(own) = self.0.get_mut(place) {
                    own.text = text;
                }
            }
            Err(place) => {
                tracing::warn!(code = code.name(), subject, text, "exception raised");
                self.0.insert(place, Exception { code, subject, text, since_ns: now_ns });
            }
        }
        place.is_err()
    }

    /// Clears one; says whether it was there.
    pub(crate) fn clear(&mut self, code: Code, subject: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|own| own.code != code || own.subject != subject || cleared(own));
        self.0.len() != before
    }

    /// Makes those of `codes` exactly what was found; says whether any came or went.
    pub(crate) fn observe(&mut self, codes: &[Code], found: Vec<Finding>, now_ns: i64) -> bool {
        let before = self.0.len();
        self.0.retain(|own| {
            let still = |finding: &Finding| finding.code == own.code && finding.subject == own.subject;
            !codes.contains(&own.code) || found.iter().any(still) || cleared(own)
        });
        let mut changed = self.0.len() != before;
        for finding in found {
            changed |= self.raise(finding, now_ns);
        }
        changed
    }
}

/// Tells that one is over; it is not kept.
fn cleared(exception: &Exception) -> bool {
    tracing::info!(code = exception.code.name(), subject = exception.subject, "exception cleared");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(code: Code, subject: &str) -> Finding {
        Finding { code, subject: subject.to_owned(), text: "text".to_owned() }
    }

    fn subjects(exceptions: &Exceptions) -> Vec<(Code, &str, i64)> {
        exceptions.all().iter().map(|own| (own.code, &*own.subject, own.since_ns)).collect()
    }

    #[test]
    fn they_come_stay_and_go() {
        let mut all = Exceptions::default();
        let codes = [Code::PortDown, Code::DiskLow];
        assert!(all.observe(&codes, vec![finding(Code::PortDown, "b"), finding(Code::PortDown, "a")], 1));
        assert!(all.raise(finding(Code::ExportFailed, "/x"), 2));
        assert!(!all.raise(finding(Code::ExportFailed, "/x"), 3));
        let expected = [(Code::PortDown, "a", 1), (Code::PortDown, "b", 1), (Code::ExportFailed, "/x", 2)];
        assert_eq!(subjects(&all), expected);
        // What others raised is not theirs to clear.
        assert!(all.observe(&codes, vec![finding(Code::PortDown, "b"), finding(Code::DiskLow, "")], 4));
        let expected = [(Code::DiskLow, "", 4), (Code::PortDown, "b", 1), (Code::ExportFailed, "/x", 2)];
        assert_eq!(subjects(&all), expected);
        assert!(!all.observe(&codes, vec![finding(Code::PortDown, "b"), finding(Code::DiskLow, "")], 5));
        assert!(all.clear(Code::ExportFailed, "/x") && !all.clear(Code::ExportFailed, "/x"));
        assert!(all.observe(&codes, vec![], 6));
        assert!(all.all().is_empty());
    }

    #[test]
    fn codes_are_those_of_the_api() {
        let proto = include_str!("../../../api/proto/sluice/v1/status_service.proto");
        for code in Code::ALL {
            assert!(proto.contains(&format!("\"{}\"", code.name())), "{code:?}");
        }
    }
}
