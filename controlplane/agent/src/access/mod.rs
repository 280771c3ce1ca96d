//! Who is at the other end, and which role has it?
//!
//! The Unix socket's file rights decide who may connect there; whoever may is an operator. Over TCP the name in a
//! verified certificate has a role, or a token has. Nobody has one by default.

mod certificate;
mod files;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::http::HeaderValue;
use sha2::{Digest, Sha256};
use sluice_model::{ApiRole, ApiSettings};
use subtle::ConstantTimeEq;
use tokio_rustls::rustls::ServerConfig;
use tonic::Status;

pub(crate) use certificate::Certificate;
pub use files::AccessError;
pub(crate) use files::group;

use crate::refusals::{Refusal, Transport};

/// Who is connected.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// The user at the other end of the socket, as the kernel says.
    Unix { uid: Option<u32> },
    /// An address without a certificate.
    Plain { address: SocketAddr },
    /// An address with a certificate that was verified.
    Tls { address: SocketAddr, certificate: Arc<Certificate> },
}

impl Peer {
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Unix { .. } => Transport::Unix,
            Self::Plain { .. } | Self::Tls { .. } => Transport::Tcp,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid: Some(uid) } => write!(f, "uid {uid}"),
            Self::Unix { uid: None } => f.write_str("unknown"),
            Self::Plain { address } => write!(f, "{address}"),
            Self::Tls { address, certificate } => write!(f, "{address} certificate {}", certificate.shown()),
        }
    }
}

/// Who asks, for the history, the log and the limits: what was proved, never what a client claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) role: ApiRole,
}

/// Who may do what over TCP.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) tls: Option<Arc<ServerConfig>>,
    clients: HashMap<String, ApiRole>,
    tokens: Vec<Token>,
    anonymous: Option<ApiRole>,
}

#[derive(Debug)]
struct Token {
    name: String,
    role: ApiRole,
    digest: [u8; 32],
}

impl Access {
    /// Reads all files that the boot config names.
    pub(crate) fn load(settings: &ApiSettings) -> Result<Self, AccessError> {
        settings.pcap_folder.as_deref().map(files::pcap_folder).transpose()?;
        settings.socket_group.as_deref().map(group).transpose()?;
        let Some(tcp) = &settings.tcp else {
            return Ok(Self { tls: None, clients: HashMap::new(), tokens: Vec::new(), anonymous: None });
        };
        let tls = tcp.tls.as_ref().map(files::tls).transpose()?;
        let tokens = settings.tokens.iter().map(|token| {
            Ok(Token { name: token.name.clone(), role: token.role, digest: files::digest(&token.secret)? })
        });
        Ok(Self {
            tls: tls.map(Arc::new),
            clients: settings.clients.iter().map(|client| (client.name.clone(), client.role)).collect(),
            tokens: tokens.collect::<Result<_, AccessError>>()?,
            anonymous: tcp.anonymous,
        })
    }

    /// Who asks; otherwise why it is refused. A token decides before a certificate does.
    pub(crate) fn caller(
        &self,
        peer: &Peer,
        authorization: Option<&HeaderValue>,
    ) -> Result<Caller, (Refusal, Status)> {
        if let Peer::Unix { .. } = peer {
            return Ok(Caller { name: peer.to_string(), role: ApiRole::Operator });
        }
        if let Peer::Tls { certificate, .. } = peer
            && certificate.not_after_s < now_s()
        {
            let told = "the certificate has expired since the connection was made";
            return Err((Refusal::ExpiredCertificate, Status::unauthenticated(told)));
        }
        if let Some(authorization) = authorization {
            let token = bearer(authorization).and_then(|token| self.token(token));
            let caller =
                token.map(|token| Caller { name: format!("token {}", token.name), role: token.role });
            return caller
                .ok_or_else(|| (Refusal::WrongToken, Status::unauthenticated("the token is nobody's")));
        }
        match peer {
            Peer::Tls { certificate, .. } => {
                let known =
                    certificate.names.iter().find_map(|name| self.clients.get_key_value(name.as_str()));
                let caller =
                    known.map(|(name, role)| Caller { name: format!("certificate {name}"), role: *role });
                caller.ok_or_else(|| {
                    let told = format!(
                        "the certificate of {} has no role; add [[api.client]] for it, or use a token",
                        certificate.shown()
                    );
                    (Refusal::Role, Status::permission_denied(told))
                })
            }
            Peer::Plain { address } => {
                let caller =
                    self.anonymous.map(|role| Caller { name: format!("anonymous {}", address.ip()), role });
                let told = "a token is needed: authorization: Bearer TOKEN";
                caller.ok_or_else(|| (Refusal::NoToken, Status::unauthenticated(told)))
            }
            Peer::Unix { .. } => Err((Refusal::NoToken, Status::unauthenticated("no role"))),
        }
    }

    /// Whose token it is. The time that this takes tells nothing of the tokens: digests are compared, each of them whole.
    fn token(&self, token: &[u8]) -> Option<&Token> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for known in &self.tokens {
            if bool::from(known.digest.ct_eq(&digest)) {
                found = Some(known);
            }
        }
        found
    }
}

/// The token in `Bearer TOKEN` (RFC 6750 section 2.1).
fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Reads the files that the boot config's API needs, as a start would.
///
/// # Errors
/// The first one that cannot be used, with what to do.
pub fn check_access(settings: &ApiSettings) -> Result<(), AccessError> {
    Access::load(settings).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use sluice_model::{ApiClient, ApiTcp, ApiToken, TokenSecret};

    use super::*;

    fn settings(tokens: Vec<ApiToken>) -> ApiSettings {
        let listen = "127.0.0.1:9465".parse().unwrap();
        let clients = vec![
            ApiClient { name: "alice".into(), role: ApiRole::Operator },
            ApiClient { name: "wall".into(), role: ApiRole::Viewer },
        ];
        let tcp = Some(ApiTcp { listen, tls: None, anonymous: None });
        ApiSettings { tcp, clients, tokens, ..ApiSettings::default() }
    }

    fn token(name: &str, role: ApiRole, secret: TokenSecret) -> ApiToken {
        ApiToken { name: name.to_owned(), role, secret }
    }

    fn tls(names: &[&str], not_after_s: i64) -> Peer {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let address = "192.0.2.7:4000".parse().unwrap();
        Peer::Tls { address, certificate: Arc::new(Certificate { names, not_after_s }) }
    }

    #[test]
    fn names_and_tokens_have_the_roles_that_they_were_given() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ci.token");
        fs::write(&file, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        // printf 'fedcba9876543210' | sha256sum
        let digest = Sha256::digest(b"fedcba9876543210").into();
        let access = Access::load(&settings(vec![
            token("ci", ApiRole::Operator, TokenSecret::File(file.clone())),
            token("nagios", ApiRole::Viewer, TokenSecret::Sha256(digest)),
        ]))
        .unwrap();
        let header = |text: &'static str| HeaderValue::from_static(text);
        let caller = |peer: &Peer, value: Option<HeaderValue>| {
            access.caller(peer, value.as_ref()).map_err(|(why, status)| (why, status.code()))
        };
        let is = |name: &str, role| Ok(Caller { name: name.to_owned(), role });
        let plain = Peer::Plain { address: "127.0.0.1:4000".parse().unwrap() };
        let (operator, viewer) = (ApiRole::Operator, ApiRole::Viewer);
        assert_eq!(caller(&Peer::Unix { uid: Some(7) }, None), is("uid 7", operator));
        assert_eq!(caller(&plain, Some(header("Bearer 0123456789abcdef"))), is("token ci", operator));
        assert_eq!(caller(&plain, Some(header("bearer fedcba9876543210"))), is("token nagios", viewer));
        assert_eq!(caller(&plain, None), Err((Refusal::NoToken, tonic::Code::Unauthenticated)));
        let wrong = Err((Refusal::WrongToken, tonic::Code::Unauthenticated));
        for text in
            ["Bearer 0123456789abcdeF", "Bearer ", "Bearer", "", "Basic 0123456789abcdef", "0123456789abcdef"]
        {
            assert_eq!(caller(&plain, Some(header(text))), wrong, "{text:?}");
        }
        let valid = i64::MAX;
        assert_eq!(caller(&tls(&["alice"], valid), None), is("certificate alice", operator));
        assert_eq!(caller(&tls(&["x", "wall"], valid), None), is("certificate wall", viewer));
        let stranger = tls(&["mallory"], valid);
        assert_eq!(caller(&stranger, None), Err((Refusal::Role, tonic::Code::PermissionDenied)));
        assert_eq!(caller(&tls(&[], valid), None), Err((Refusal::Role, tonic::Code::PermissionDenied)));
        assert_eq!(caller(&stranger, Some(header("Bearer fedcba9876543210"))), is("token nagios", viewer));
        let expired = Err((Refusal::ExpiredCertificate, tonic::Code::Unauthenticated));
        assert_eq!(caller(&tls(&["alice"], 1_000_000_000), None), expired);

        // Secrets that others may read, or that are none, are no secrets.
        for mode in [0o644, 0o602, 0o620] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let told = Access::load(&settings(vec![token("ci", operator, TokenSecret::File(file.clone()))]));
            assert!(told.unwrap_err().to_string().contains("chmod 600"), "{mode:o}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        for text in ["", "short\n", "with a blank in it it is none"] {
            fs::write(&file, text).unwrap();
            let told = Access::load(&settings(vec![token("ci", operator, TokenSecret::File(file.clone()))]));
            assert!(told.unwrap_err().to_string().contains("openssl rand"), "{text:?}");
        }
    }

    #[test]
    fn groups_are_found_by_name_and_number() {
        assert_eq!(group("root").unwrap(), 0);
        assert_eq!(group("12").unwrap(), 12);
        assert!(group("no-such-group").unwrap_err().to_string().contains("no-such-group"));
    }

    #[test]
    fn any_bytes_are_no_certificate() {
        for bytes in [&[][..], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0; 100]] {
            assert_eq!(Certificate::read(bytes), None);
        }
    }
}
