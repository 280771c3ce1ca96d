//! Where on the path between client and server was a packet seen?

/// Where on the path between client and server a packet was seen. The code is 1 (client), 2 (server) or 4 (local) plus
/// eight times the place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it: client or server, and the place")]
pub enum TapSide {
    /// None of the others, or not known: the default behind mirrors.
    #[default]
    Rest = 0,
    Client = 1,
    Server = 2,
    /// Source and destination are the same machine.
    Local = 4,
    ClientNode = 9,
    ServerNode = 10,
    ClientHypervisor = 17,
    ServerHypervisor = 18,
    ClientGatewayHypervisor = 25,
    ServerGatewayHypervisor = 26,
    ClientGateway = 33,
    ServerGateway = 34,
    ClientProcess = 41,
    ServerProcess = 42,
    App = 48,
    ClientApp = 49,
    ServerApp = 50,
}

impl TapSide {
    /// All of them, by code.
    pub const ALL: [Self; 17] = [
        Self::Rest,
        Self::Client,
        Self::Server,
        Self::Local,
        Self::ClientNode,
        Self::ServerNode,
        Self::ClientHypervisor,
        Self::ServerHypervisor,
        Self::ClientGatewayHypervisor,
        Self::ServerGatewayHypervisor,
        Self::ClientGateway,
        Self::ServerGateway,
        Self::ClientProcess,
        Self::ServerProcess,
        Self::App,
        Self::ClientApp,
        Self::ServerApp,
    ];

    /// The name in configs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Client => "c",
            Self::Server => "s",
            Self::Local => "local",
            Self::ClientNode => "c-nd",
            Self::ServerNode => "s-nd",
            Self::ClientHypervisor => "c-hv",
            Self::ServerHypervisor => "s-hv",
            Self::ClientGatewayHypervisor => "c-gw-hv",
            Self::ServerGatewayHypervisor => "s-gw-hv",
            Self::ClientGateway => "c-gw",
            Self::ServerGateway => "s-gw",
            Self::ClientProcess => "c-p",
            Self::ServerProcess => "s-p",
            Self::App => "app",
            Self::ClientApp => "c-app",
            Self::ServerApp => "s-app",
        }
    }
}
