//! How does an output port take part in its link: which addresses are its own, where are its next hops, what does it
//! answer?
//!
//! - [`PortAddresses`]: own addresses, networks and gateways; which neighbour a remote address is reached through.
//! - [`OwnFilter`]: for the workers: which received frames are for the control thread.
//! - [`NeighborTable`]: for the control thread: resolution by ARP (RFC 826, RFC 5227) and neighbour discovery
//!   (RFC 4861), answers for the own addresses, echo replies.
//!
//! No I/O and no clock. Router discovery, redirects, autoconfiguration and multicast listener reports are not part of
//! it: gateways are configured, and switches that snoop multicast listeners must be told of the port.

mod addresses;
mod emit;
mod entry;
mod filter;
mod limit;
mod receive;
mod table;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use sluice_model::MacAddr;

pub use addresses::{AddressError, MAX_ADDRESSES, NextHopError, PortAddresses};
pub use filter::OwnFilter;
pub use table::NeighborTable;

/// Limits and timers of a [`NeighborTable`]. The defaults are those of RFC 4861, section 10, where it has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighborConfig {
    /// The most next hops that are resolved.
    pub max_neighbors: usize,
    /// The MTU of the port in bytes: longer echo requests are not answered.
    pub mtu: u16,
    /// The time between two requests (RETRANS_TIMER).
    pub retrans_timer_ns: u64,
    /// Requests without an answer before a neighbour has failed; also unicast probes before all are asked
    /// (MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT).
    pub max_solicits: u32,
    /// The time between two requests for a neighbour that has failed.
    pub backoff_ns: u64,
    /// How long an answer is believed (REACHABLE_TIME).
    pub reachable_time_ns: u64,
    /// How long after a change of a MAC address another change is only probed, not believed.
    pub lock_time_ns: u64,
    /// Echo replies a second.
    pub echo_per_second: u32,
    /// ARP replies and neighbour advertisements a second.
    pub replies_per_second: u32,
}

impl Default for NeighborConfig {
    fn default() -> Self {
        Self {
            max_neighbors: 1_024,
            mtu: 1_500,
            retrans_timer_ns: 1_000_000_000,
            max_solicits: 3,
            backoff_ns: 5_000_000_000,
            reachable_time_ns: 30_000_000_000,
            lock_time_ns: 1_000_000_000,
            echo_per_second: 100,
            replies_per_second: 1_000,
        }
    }
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborState {
    /// Not wanted.
    Unknown,
    /// Being asked for.
    Unresolved {
        /// Requests sent.
        attempts: u32,
        /// Since when.
        since_ns: u64,
    },
    /// Its MAC address can be used.
    Resolved {
        /// The MAC address.
        mac: MacAddr,
        /// When it answered last; `None` = learned from what it sent itself, not confirmed yet.
        confirmed_ns: Option<u64>,
        /// Whether it is being asked again.
        probing: bool,
        /// Whether it calls itself a router (IPv6 only).
        router: bool,
    },
    /// Nobody answers; it is asked again from time to time.
    Failed {
        /// Requests sent.
        attempts: u32,
        /// Since when.
        since_ns: u64,
    },
}

/// Whether a frame was for the port itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Addressed to the port as a host of its link, and dealt with (ignored, when it was not valid).
    Consumed,
    /// Not for the port.
    NotOurs,
}

/// Somebody else uses an own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// Who uses it; zero when the message did not say.
    pub mac: MacAddr,
}

/// What a [`NeighborTable`] saw and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighborCounters {
    /// Frames consumed.
    pub received: u64,
    /// Of them, invalid: wrong checksum, hop limit, lengths, impossible addresses.
    pub invalid: u64,
    /// Requests and probes sent.
    pub requests: u64,
    /// ARP replies and advertisements sent.
    pub replies: u64,
    /// Echo replies sent.
    pub echo_replies: u64,
    /// Answers not sent, for the rate limits or because they exceed the MTU.
    pub limited: u64,
    /// Answers to questions that were never asked; not believed.
    pub unasked: u64,
    /// Resolved neighbours that changed to another MAC address.
    pub mac_changes: u64,
    /// Messages that showed somebody else using, or about to use, an own address.
    pub conflicts: u64,
    /// Next hops that were refused: the table is full, or they cannot be neighbours of the port.
    pub not_wanted: u64,
}
