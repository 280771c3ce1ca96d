//! What is in the table now? Entries read one by one, without changing anything.

use sluice_model::{MacAddr, Network, PortId};

use super::entry::flag;
use super::key::FlowKey;
use super::meter::FlowMeter;
use super::tcp::FlowState;
use crate::decap::TunnelInfo;

/// A flow as it is in the table. Pairs are client first, server second; times are nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSnapshot {
    /// The same number as in its records.
    pub flow_id: u64,
    /// Which columns of addresses are valid.
    pub network: Network,
    /// IP addresses in wire order, IPv4 in the first four bytes; zero without IP.
    pub addresses: [[u8; 16]; 2],
    /// Ethernet addresses of the first packet.
    pub macs: [MacAddr; 2],
    /// EtherType after all tags.
    pub ethertype: u16,
    /// The VLAN id of the first packet, of two tags the inner one's; 0 = untagged.
    pub vlan: u16,
    /// IP protocol; 0 without IP.
    pub protocol: u8,
    /// L4 ports; `None` for protocols without ports, and where they are not known.
    pub ports: Option<[u16; 2]>,
    /// The latest tunnel of each direction.
    pub tunnels: [Option<TunnelInfo>; 2],
    /// The tap that the flow was seen at.
    pub tap: u16,
    /// The port that its first packet came in by.
    pub port: PortId,
    /// Its first packet.
    pub first_ns: u64,
    /// Its latest packet.
    pub latest_ns: u64,
    /// Packets of each side since the flow began.
    pub packets: [u64; 2],
    /// Bytes of each side since the flow began: Ethernet header with tags and IP packet.
    pub bytes: [u64; 2],
    /// TCP flags of each side since the flow began, united.
    pub tcp_flags: [u8; 2],
    /// The state of the TCP connection; [`FlowState::Established`] for others.
    pub state: FlowState,
    /// How sure the direction is: 255 = certain.
    pub direction_score: u8,
    /// From the first SYN to the ACK that completed the handshake, nanoseconds; `None` = not measured.
    pub rtt_ns: Option<u64>,
    /// Segments that each side sent again in the current interval.
    pub retransmissions: [u32; 2],
}

impl FlowMeter {
    /// Entries that were ever in use at the same time: all flows are below this place.
    #[must_use]
    pub fn places(&self) -> usize {
        self.used
    }

    /// The flow at this place; `None` when there is none.
    #[must_use]
    pub fn snapshot(&self, place: usize) -> Option<FlowSnapshot> {
        let entry = self.entries.get(place)?;
        let hot = &entry.hot;
        if hot.flags & flag::LIVE == 0 {
            return None;
        }
        let cold = self.cold.get(place)?;
        let key = FlowKey::decode(&hot.words, self.long.get(place)?);
        let client = usize::from(hot.flags & flag::CLIENT_IS_SECOND != 0);
        let sent = [0, 1].map(|side| cold.throughput(side, &entry.counts.sent[side]));
        let mut retransmissions = [0; 2];
        let measured = entry.tcp.has_measured().then_some(&cold.perf);
        let told = cold.head.has_perf_told.then_some(&cold.perf_told);
        for perf in measured.into_iter().chain(told) {
            for (sum, side) in retransmissions.iter_mut().zip(&perf.sides) {
                *sum += side.retrans;
            }
        }
        Some(FlowSnapshot {
            flow_id: cold.head.flow_id,
            network: key.network,
            addresses: [key.addresses[client], key.addresses[client ^ 1]],
            macs: cold.head.macs,
            ethertype: cold.head.ethertype,
            vlan: cold.head.vlan,
            protocol: key.protocol,
            ports: key.ports.map(|ports| [ports[client], ports[client ^ 1]]),
            tunnels: cold.tunnels,
            tap: key.tap,
            port: cold.head.port,
            first_ns: cold.head.first_ns,
            latest_ns: hot.last_ns,
            packets: [0, 1].map(|side| cold.before[side].packets + sent[side].packets),
            bytes: [0, 1].map(|side| cold.before[side].bytes + sent[side].bytes),
            tcp_flags: [0, 1].map(|side| cold.before[side].tcp_flags | hot.tcp_flags[side]),
            state: hot.state,
            direction_score: cold.head.direction_score,
            rtt_ns: (cold.handshake.rtt_ns > 0).then_some(cold.handshake.rtt_ns),
            retransmissions,
        })
    }
}
