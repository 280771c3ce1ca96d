//! A mirror of an Open vSwitch bridge with a userspace datapath (OVS-DPDK): how is it set up, found again and taken away,
//! with nothing else of the switch touched?
//!
//! Everything goes through `ovs-vsctl`: a look at the tables first, then one transaction, or none. What was made bears
//! `external_ids:sluice=mirror`, and only what bears it is ever taken away. The transaction does not wait for
//! ovs-vswitchd (`--no-wait`): its counter of configurations stays as it was.

mod error;
mod need;
mod plan;
mod socket;
mod table;

use serde::Serialize;

pub use error::{OvsError, OvsErrorKind};
pub use need::{FreeHugepages, PoolNeed, free_hugepages};
pub use plan::{Select, Step, Wish, attach, detach, quoted};
pub use socket::is_joined;
pub use table::Snapshot;

use crate::Tools;

/// How a switch is spoken to.
#[derive(Clone, Copy)]
pub struct Switch<'a> {
    tools: &'a dyn Tools,
    db: Option<&'a str>,
}

impl std::fmt::Debug for Switch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switch").field("db", &self.db).finish_non_exhaustive()
    }
}

/// Seconds after which `ovs-vsctl` gives up.
const TIMEOUT: &str = "--timeout=10";

impl<'a> Switch<'a> {
    /// The switch whose database is at `db` (as `ovs-vsctl --db`), else the usual one of this machine.
    #[must_use]
    pub fn new(tools: &'a dyn Tools, db: Option<&'a str>) -> Self {
        Self { tools, db }
    }

    /// What is configured at this moment.
    ///
    /// # Errors
    /// That `ovs-vsctl` or its database cannot be reached, or what it prints cannot be understood.
    pub fn look(&self) -> Result<Snapshot, OvsError> {
        let printed = self.run(&table::QUERY.map(str::to_owned))?;
        Snapshot::parse(&printed)
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// As [`Switch::look`], or what `ovs-vsctl` refuses; then nothing is changed.
    pub fn change(&self, transaction: &[String]) -> Result<(), OvsError> {
        self.run(transaction).map(drop)
    }

    /// The command line of a transaction.
    #[must_use]
    pub fn command(&self, transaction: &[String]) -> Vec<String> {
        let mut command = vec!["ovs-vsctl".to_owned(), TIMEOUT.to_owned(), "--no-wait".to_owned()];
        command.extend(self.db.map(|db| format!("--db={db}")));
        command.extend_from_slice(transaction);
        command
    }

    fn run(&self, arguments: &[String]) -> Result<String, OvsError> {
        let command = self.command(arguments);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        self.tools.run(&words).map_err(|told| OvsError::told(&told))
    }
}

/// A mirror of ours on a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// The bridge.
    pub bridge: String,
    /// The port that copies go to; `None` = somebody took it away.
    pub port: Option<String>,
    /// The name of the mirror; `None` = somebody took it away.
    pub mirror: Option<String>,
    /// The socket that OVS connects to.
    pub socket: Option<String>,
    /// The MTU that the port was asked to have, bytes.
    pub mtu: Option<i64>,
    /// Whether all ports are mirrored.
    pub select_all: bool,
    /// The ports that are mirrored where not all are.
    pub select: Vec<String>,
    /// Whether Sluice listens and OVS is connected to it.
    pub connected: bool,
    /// Whether ovs-vswitchd has made the port.
    pub made: bool,
    /// Whether somebody is connected to the socket: OVS, which may still not serve the port. `None` = nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined: Option<bool>,
    /// What ovs-vswitchd says went wrong with the port.
    pub error: Option<String>,
    /// Packets mirrored so far, as far as OVS tells.
    pub mirrored_packets: Option<i64>,
}

impl Attached {
    /// Whether OVS is connected to Sluice, and does not serve the port. That is so for seconds after either of them
    /// started, and where OVS finds too few hugepages.
    #[must_use]
    pub const fn is_starved(&self) -> bool {
        self.made && matches!(self.joined, Some(true)) && !self.connected && self.error.is_none()
    }

    /// Whether nothing of it is missing.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.port.is_some() && self.mirror.is_some()
    }
}
