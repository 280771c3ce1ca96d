//! Where copies go and how they are marked.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::MacAddr;

/// A validated destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The name: `[A-Za-z0-9_.-]{1,63}`.
    pub name: String,
    /// What kind of place it is.
    pub kind: DestinationKind,
    /// Insert an 802.1Q tag after the addresses of the copied frame: VID = low 12 bits of the tag,
    /// PCP = top bit 1, lowest bit = direction.
    pub inner_vlan: bool,
    /// The largest outer IP packet (tunnels) or the largest frame without its Ethernet header (ports), in bytes;
    /// `None` = the MTU of the output port.
    pub mtu: Option<u16>,
    /// What happens to a copy that exceeds the MTU.
    pub oversize: Oversize,
}

/// The kinds of destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationKind {
    /// An encapsulating tunnel over IPv4 or IPv6.
    Tunnel(Tunnel),
    /// An output port: the frame as it was, no tunnel.
    Port {
        /// The name of the port in the boot config.
        port: String,
    },
    /// A capture file.
    Pcap {
        /// The file to write.
        file: PathBuf,
    },
}

/// A tunnel to a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The encapsulation.
    pub kind: TunnelKind,
    /// How tag, direction and sequence number are written.
    pub marking: Marking,
    /// The address of the tool; its family is the outer header's.
    pub remote: IpAddr,
    /// The outer source address; `None` = the address of the output port. Same family as `remote`.
    pub local: Option<IpAddr>,
    /// A static next hop; `None` = resolved by ARP or ND.
    pub mac: Option<MacAddr>,
    /// The name of the output port; `None` = the port whose network holds `remote`, else the one with a gateway.
    pub port: Option<String>,
}

/// The encapsulations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// VXLAN (RFC 7348).
    Vxlan {
        /// UDP destination port, 4789 by default.
        udp_port: u16,
        /// Whether the outer UDP checksum is computed.
        udp_checksum: UdpChecksum,
    },
    /// ERSPAN type II over GRE (draft-foschiano-erspan-03).
    Erspan2,
    /// ERSPAN type III over GRE (draft-foschiano-erspan-03).
    Erspan3,
}

/// Whether an outer UDP checksum is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UdpChecksum {
    /// Zero over IPv4, computed over IPv6 (RFC 7348 section 5, RFC 6936).
    #[default]
    Auto,
    /// Always computed.
    On,
    /// Always zero.
    Off,
}

/// How the tunnel header carries tag, direction and sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Marking {
    /// As the RFC or draft has it; reserved bits zero.
    #[default]
    Standard,
    /// As the reference system has it: VXLAN flags 0xff with sequence and direction in the reserved bits; ERSPAN III
    /// with GRE key = tag and a 48-bit time stamp.
    Reference,
}

/// What happens to a copy that exceeds the MTU of its destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oversize {
    /// Cut to fit and marked as truncated.
    #[default]
    Truncate,
    /// Outer IP fragments.
    Fragment,
    /// A TCP super-frame is cut into wire-sized segments; anything else is truncated.
    Segment,
    /// Dropped as [`DropReason::Oversize`](crate::DropReason::Oversize).
    Drop,
}
