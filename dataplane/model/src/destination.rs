//! Where copies go and how they are marked.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::{DestinationId, MacAddr, RateLimit};

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
    /// Whose tag and direction that is.
    pub vlan_from: VlanFrom,
    /// The largest outer IP packet (tunnels) or the largest frame without its Ethernet header (ports), in bytes;
    /// `None` = the MTU of the output port.
    pub mtu: Option<u16>,
    /// What happens to a copy that exceeds the MTU.
    pub oversize: Oversize,
    /// How much may leave for it; `None` = any.
    pub limit: Option<RateLimit>,
}

impl Destination {
    /// The group that it is, if it is one.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        match &self.kind {
            DestinationKind::Group(group) => Some(group),
            DestinationKind::Tunnel(_) | DestinationKind::Port { .. } | DestinationKind::Pcap { .. } => None,
        }
    }
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
    /// Several destinations that share the flows among them.
    Group(Group),
}

/// A group of destinations: each flow goes to one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The members, none of them a group or named twice; 1 to [`Group::MAX_MEMBERS`].
    pub members: Vec<Member>,
    /// Which headers say what a flow is.
    pub hash: GroupHash,
}

impl Group {
    /// The most members of a group.
    pub const MAX_MEMBERS: usize = 64;
    /// The greatest weight.
    pub const MAX_WEIGHT: u16 = 1_000;
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where its flows go.
    pub destination: DestinationId,
    /// Its share of the flows is in proportion to this, from 1.
    pub weight: u16,
}

/// Which headers say what a flow is, for a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GroupHash {
    /// The inner ones where tunnels are looked through, or some policy reads inner headers; else those of the packet as
    /// it is after tunnels were taken off.
    #[default]
    Auto,
    /// The outermost headers of the packet as it is after tunnels were taken off.
    Outer,
    /// The innermost headers that could be parsed.
    Inner,
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

impl Tunnel {
    /// Bytes of the outer IP packet before the copied frame: IP without options, then UDP and VXLAN (RFC 7348), or GRE
    /// with a sequence number (RFC 2890) and ERSPAN.
    #[must_use]
    pub const fn overhead_bytes(&self) -> u16 {
        let ip = if self.remote.is_ipv4() { 20 } else { 40 };
        let rest = match (self.kind, self.marking) {
            (TunnelKind::Vxlan { .. } | TunnelKind::Erspan2, _) => 8 + 8,
            (TunnelKind::Erspan3, Marking::Standard) => 8 + 12,
            // GRE has a key, too.
            (TunnelKind::Erspan3, Marking::Reference) => 12 + 12,
        };
        ip + rest
    }
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

/// Whose tag and direction an inserted 802.1Q tag shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VlanFrom {
    /// Those of the policy.
    #[default]
    Tag,
    /// Those of the tunnel that the packet came in: VNI, GRE key, or ERSPAN session. What came in none gets no tag.
    Tunnel,
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
