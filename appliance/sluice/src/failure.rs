//! What went wrong, what to do about it, and which exit code says so?

use std::error::Error as _;
use std::process::ExitCode;

use tonic::Code;

use crate::connect::causes;
use crate::text::safe_lines;

/// What the exit code says; documented in docs/cli.md, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Refused, or failed.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// The daemon cannot be reached.
    Unreachable = 3,
    /// The caller may not do this.
    NotAllowed = 4,
    /// There is no such thing.
    NotFound = 5,
    /// Somebody else changed the policies in between.
    Conflict = 6,
    /// `diff --exit-code`: there are differences.
    Different = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What went wrong; empty when there is nothing to tell, or all was told.
    pub(crate) text: String,
    /// What to do.
    pub(crate) help: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into(), help: None }
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(Exit::Failed, text)
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// Everything was told already.
    pub(crate) fn told(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// The reader of stdout has gone: it wanted no more, which is no error.
    pub(crate) fn closed() -> Self {
        Self::told(Exit::Ok)
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let mut message = safe_lines(status.message());
        if let Some(source) = status.source() {
            // What is below the call, such as TLS, says more than the call does.
            let causes = causes(source);
            if causes.contains("CertificateRequired") {
                return Self::new(
                    Exit::NotAllowed,
                    "the daemon wants a certificate, and we showed none".to_owned(),
                )
                .help("give one that it knows: --cert FILE --key FILE");
            }
            if causes.contains("fatal alert") {
                let text = format!("the daemon refuses our certificate: {causes}");
                return Self::new(Exit::NotAllowed, text)
                    .help("give one that it knows and that is still valid: --cert FILE --key FILE");
            }
            if matches!(status.code(), Code::Unknown | Code::Internal) {
                let text = format!("the connection broke: {causes}");
                return Self::new(Exit::Unreachable, text).help(
                    "is sluiced still running there? With TLS it also ends connections whose certificate it does not \
                     take: --cert FILE --key FILE",
                );
            }
            if !message.contains(&causes) {
                message = format!("{message}: {causes}");
            }
        }
        let told =
            |what: &str| if message.is_empty() { what.to_owned() } else { format!("{what}: {message}") };
        match status.code() {
            Code::Unavailable => Self::new(Exit::Unreachable, told("the daemon does not serve now"))
                .help("it may be starting or stopping; try again, and look at its log"),
            Code::PermissionDenied => Self::new(Exit::NotAllowed, told("not allowed")).help(
                "use a certificate or token whose role may do this (operator may do all), or the Unix socket",
            ),
            Code::Unauthenticated => Self::new(Exit::NotAllowed, told("not known to the daemon"))
                .help("give a certificate (--cert, --key) or a token (--token-file) that it knows"),
            Code::NotFound => Self::new(Exit::NotFound, told("not found")),
            Code::Aborted => Self::new(Exit::Conflict, told("changed in between"))
                .help("look at what is in force now (sluice diff -f FILE, sluice history), and decide again"),
            Code::InvalidArgument => Self::usage(told("the daemon refuses the request")),
            Code::FailedPrecondition => Self::failed(told("not possible now")),
            Code::Unimplemented => Self::failed(told("this daemon cannot do that"))
                .help("it is older than this sluice: see sluice status and sluice --version"),
            Code::DeadlineExceeded | Code::Cancelled => {
                Self::new(Exit::Unreachable, told("no answer in time")).help("wait longer with --timeout")
            }
            Code::ResourceExhausted => Self::failed(told("beyond a limit of the daemon")),
            _ => Self::failed(told("the call failed")).help("is that a sluiced? Its log may say more"),
        }
    }
}
