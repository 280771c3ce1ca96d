//! Metrics: what is said of all flows of one (client, server, protocol, server port, tap) in a second or a minute.

use crate::{CloseType, Delay, Network, TapSide, TcpPerf};

/// What metrics are kept by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricsKey {
    /// Client and server in wire order, IPv4 in the first four bytes; zero without IP.
    pub addresses: [[u8; 16]; 2],
    /// Which columns of addresses are valid.
    pub network: Network,
    /// IP protocol; 0 without IP.
    pub protocol: u8,
    /// The server's port; `None` for protocols without ports, and where it is not known.
    pub server_port: Option<u16>,
    /// The tap.
    pub tap: u16,
    /// Where on the path the tap is.
    pub tap_side: TapSide,
}

/// How much one side sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throughput {
    /// Packets.
    pub packets: u64,
    /// Bytes: Ethernet header with tags and IP packet.
    pub bytes: u64,
    /// Bytes after the IP header.
    pub l3_bytes: u64,
    /// Bytes after the L4 header.
    pub l4_bytes: u64,
}

/// What can be added: over flows, and over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsCounters {
    /// What the client sent, and the server.
    pub sides: [Throughput; 2],
    /// What was measured; [`TcpPerf::rtt_ns`] is the longest handshake.
    pub perf: TcpPerf,
    /// Whole handshakes.
    pub rtt: Delay,
    /// Flows that began.
    pub new_flows: u32,
    /// Flows that ended.
    pub closed_flows: u32,
    /// TCP flows that ended, by the code of their close type.
    pub closes: [u32; CloseType::CODES],
}

impl MetricsCounters {
    /// Adds what was counted elsewhere: counters and sums add, of maxima the larger counts.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.sides.iter_mut().zip(&other.sides) {
            own.packets += other.packets;
            own.bytes += other.bytes;
            own.l3_bytes += other.l3_bytes;
            own.l4_bytes += other.l4_bytes;
        }
        self.perf.merge(&other.perf);
        self.rtt.merge(&other.rtt);
        self.new_flows += other.new_flows;
        self.closed_flows += other.closed_flows;
        for (own, other) in self.closes.iter_mut().zip(&other.closes) {
            *own += other;
        }
    }
}

/// How long a row of metrics covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// One second.
    #[default]
    Second,
    /// One natural minute.
    Minute,
}

impl Period {
    /// Seconds that it lasts.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
        }
    }
}

/// One row of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsRecord {
    /// When the period began, seconds since the epoch.
    pub begin_s: u32,
    /// How long it lasted.
    pub period: Period,
    /// What it is about; `None` = all that found no place in the table.
    pub key: Option<MetricsKey>,
    /// Flows that were open at any time in the period.
    pub flow_load: u32,
    /// What was counted.
    pub counters: MetricsCounters,
}
