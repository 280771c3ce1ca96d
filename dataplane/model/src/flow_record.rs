//! The flow record: what is said of a flow each minute, and at its end.
//!
//! Times are nanoseconds since the epoch, delays nanoseconds. Pairs are client first, server second.

use crate::{CloseType, MacAddr, PortId, TapSide, TcpPerf};

/// One record of a flow. Counts without `total` cover its interval only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRecord {
    /// The same in all records of a flow.
    pub flow_id: u64,
    /// The first packet of the flow, or the begin of the minute.
    pub start_ns: u64,
    /// The end of the minute; for the last record the packet that closed the flow, or its latest one plus the timeout.
    pub end_ns: u64,
    /// From the first packet of the flow to the latest one.
    pub duration_ns: u64,
    /// Why it was emitted.
    pub close_type: CloseType,
    /// Whether it is the first record of the flow.
    pub is_new_flow: bool,
    /// Which columns of addresses are valid.
    pub network: Network,
    /// IP addresses in wire order, IPv4 in the first four bytes; zero without IP.
    pub addresses: [[u8; 16]; 2],
    /// Ethernet addresses of the first packet.
    pub macs: [MacAddr; 2],
    /// EtherType after all tags.
    pub ethertype: u16,
    /// The latest VLAN id that is not 0: of two tags the inner one's.
    pub vlan: u16,
    /// IP protocol; 0 without IP.
    pub protocol: u8,
    /// L4 ports; `None` for protocols without ports, and where they are not known.
    pub ports: Option<[u16; 2]>,
    /// The latest tunnel of each direction.
    pub tunnels: [Option<TunnelRecord>; 2],
    /// The tap that the flow was seen at.
    pub tap: u16,
    /// The port that its first packet came in by.
    pub port: PortId,
    /// Where on the path the tap is.
    pub tap_side: TapSide,
    /// The appliance.
    pub vtap_id: u16,
    /// How sure the direction is: 255 = certain.
    pub direction_score: u8,
    /// What each side sent.
    pub sides: [SideRecord; 2],
    /// What was measured.
    pub perf: TcpPerf,
    /// The sequence number of the client's latest SYN.
    pub syn_seq: Option<u32>,
    /// The sequence number of the server's latest SYN-ACK.
    pub syn_ack_seq: Option<u32>,
}

/// The network layer of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Network {
    /// Not IP.
    #[default]
    None,
    /// IPv4, and ARP for it.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What one side sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideRecord {
    /// Packets.
    pub packets: u64,
    /// Bytes: Ethernet header with tags and IP packet.
    pub bytes: u64,
    /// Bytes after the IP header.
    pub l3_bytes: u64,
    /// Bytes after the L4 header.
    pub l4_bytes: u64,
    /// Packets since the flow began.
    pub total_packets: u64,
    /// Bytes since the flow began.
    pub total_bytes: u64,
    /// Duplicates that deduplication marked and did not drop; they are in the counts above.
    pub duplicates: u64,
    /// TCP flags, united.
    pub tcp_flags: u8,
}

/// The tunnel of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelRecord {
    /// Its kind, by the codes of the reference system where it has one.
    pub kind: TunnelType,
    /// How many tunnels were taken off.
    pub tier: u8,
    /// VNI, GRE key, session, TEID.
    pub id: u32,
    /// Whether the outer addresses are IPv4.
    pub ipv4: bool,
    /// Outer source and outer destination of this direction.
    pub addresses: [[u8; 16]; 2],
}

/// The kinds of tunnels in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names of the encapsulations")]
pub enum TunnelType {
    Vxlan = 1,
    IpInIp = 2,
    Gre = 3,
    Geneve = 4,
    Erspan1 = 6,
    Teb = 7,
    Erspan2 = 8,
    Erspan3 = 9,
    Mpls = 10,
    GtpU = 11,
}
