//! Where the database of Open vSwitch is: the `[ovs]` section of the boot config.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What is asked of Open vSwitch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvsSettings {
    /// Where names of virtual machines and ports are learned from.
    pub database: OvsDatabase,
}

/// A database of Open vSwitch (ovsdb-server), as `ovs-vsctl --db` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OvsDatabase {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl fmt::Display for OvsDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}
