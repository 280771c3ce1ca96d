//! Where does the daemon serve its API, to whom, and how much of it?

use std::net::SocketAddr;
use std::path::PathBuf;

/// The API, as the boot config says. Relative paths in the file were taken relative to its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// Whether it is served.
    pub enabled: bool,
    /// The Unix socket. `None` = the usual one, and no error if that cannot be made.
    pub socket: Option<PathBuf>,
    /// The rights of the socket's file.
    pub socket_mode: u32,
    /// The group of the socket's file, by name or number. `None` = the daemon's.
    pub socket_group: Option<String>,
    /// The folder of the store of policies (`[store] folder`); `None` = policies are not kept.
    pub store: Option<PathBuf>,
    /// TCP; `None` = only the socket.
    pub tcp: Option<ApiTcp>,
    /// Who has which role over TCP by the name in a certificate.
    pub clients: Vec<ApiClient>,
    /// Who has which role over TCP by a token.
    pub tokens: Vec<ApiToken>,
    /// The folder that files of destinations must be in when a client names them. `None` = clients name no files.
    pub pcap_folder: Option<PathBuf>,
    /// How much there may be.
    pub limits: ApiLimits,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            socket: None,
            socket_mode: 0o660,
            socket_group: None,
            store: None,
            tcp: None,
            clients: Vec::new(),
            tokens: Vec::new(),
            pcap_folder: None,
            limits: ApiLimits::default(),
        }
    }
}

/// What a caller of the API may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiRole {
    /// May look at state, policies, counters and flows, but not at payload.
    Viewer,
    /// May change policies and capture packets, too.
    Operator,
}

impl ApiRole {
    /// Names in files, logs and metrics.
    pub const NAMES: [(&'static str, Self); 2] = [("viewer", Self::Viewer), ("operator", Self::Operator)];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

/// The API on TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiTcp {
    /// Where to listen.
    pub listen: SocketAddr,
    /// `None` = plain TCP, which is for loopback only.
    pub tls: Option<ApiTls>,
    /// The role of everybody who shows no token, on plain TCP; `None` = nobody gets in without one.
    pub anonymous: Option<ApiRole>,
}

/// Files of mutual TLS, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiTls {
    /// The server's certificate, followed by those that lead to its CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CAs whose certificates clients may show.
    pub client_ca: PathBuf,
    /// Certificates that were revoked.
    pub client_crl: Option<PathBuf>,
}

/// A client that is known by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiClient {
    /// The common name of the certificate's subject, or one of its DNS names.
    pub name: String,
    /// What it may do.
    pub role: ApiRole,
}

/// A client that is known by a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// What history and logs call it.
    pub name: String,
    /// What it may do.
    pub role: ApiRole,
    /// What it is known by.
    pub secret: TokenSecret,
}

/// How a token is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSecret {
    /// A file holds the token.
    File(PathBuf),
    /// Its SHA-256.
    Sha256([u8; 32]),
}

/// How much the API takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiLimits {
    /// Connections at the same time, over TCP and over the socket each.
    pub connections: u32,
    /// Requests of one client in a second.
    pub requests_per_s: u32,
    /// Requests of all clients in a second.
    pub all_requests_per_s: u32,
    /// The longest that a request may take that is no stream, seconds.
    pub request_timeout_s: u32,
    /// The longest until a new connection speaks TLS and HTTP/2, seconds.
    pub handshake_timeout_s: u32,
    /// The longest that a connection may be without a request, seconds.
    pub idle_timeout_s: u32,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            connections: 64,
            requests_per_s: 500,
            all_requests_per_s: 2_000,
            request_timeout_s: 30,
            handshake_timeout_s: 5,
            idle_timeout_s: 300,
        }
    }
}
