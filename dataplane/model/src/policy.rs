//! Validated policies: what is matched, and what is done with a copy.

use std::sync::Arc;

use crate::{Destination, DestinationId, GuestName, MacAddr, PolicyId, RangeSet, Tag};

/// A whole validated set: policies, and the destinations they name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    policies: Vec<Policy>,
    destinations: Vec<Destination>,
}

impl PolicySet {
    /// A set of policies and destinations; `None` if a policy or a group names a destination that is not there, or a
    /// group another group.
    #[must_use]
    pub fn new(policies: Vec<Policy>, destinations: Vec<Destination>) -> Option<Self> {
        let known = policies.iter().flat_map(|p| &p.to).all(|id| id.index() < destinations.len());
        let members = destinations.iter().filter_map(Destination::group).flat_map(|group| &group.members);
        let plain = members
            .map(|member| destinations.get(member.destination.index()))
            .all(|member| member.is_some_and(|member| member.group().is_none()));
        (known && plain).then_some(Self { policies, destinations })
    }

    /// The policies; [`PolicyId`] numbers them.
    #[must_use]
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The destinations; [`DestinationId`] numbers them.
    #[must_use]
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// Each policy with its number.
    pub fn iter(&self) -> impl Iterator<Item = (PolicyId, &Policy)> {
        (0..).map(PolicyId).zip(&self.policies)
    }
}

/// One validated policy. Every predicate is optional; all of them must hold.
///
/// A packet matches by its *egress* reading when its source is in `collect` and its destination in `peer`, and by its
/// *ingress* reading when its destination is in `collect` and its source in `peer`; ports follow the side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The name, unique in its set.
    pub name: String,
    /// The collection point: who is observed.
    pub collect: Side,
    /// The other end.
    pub peer: Side,
    /// IP protocol numbers; `None` = any packet, IP or not (but see [`Side::ports`]).
    pub protocol: Option<ProtocolSet>,
    /// Outermost VLAN ids.
    pub vlan: Option<RangeSet<u16>>,
    /// VLAN ids of the second tag.
    pub vlan_inner: Option<RangeSet<u16>>,
    /// Tunnel ids: VXLAN and GENEVE VNI, GRE key, GTP TEID, ERSPAN session.
    pub tunnel_id: Option<RangeSet<u32>>,
    /// Which headers addresses, ports, protocol, flags, EtherType, VLANs and MACs are read from.
    pub headers: HeaderView,
    /// EtherTypes, after all VLAN tags; 0 = frames with a length instead (802.3).
    pub ethertype: Option<RangeSet<u16>>,
    /// TCP flags; implies TCP.
    pub tcp_flags: Option<TcpFlagsMatch>,
    /// Original frame lengths in bytes, without FCS, of the whole frame.
    pub length: Option<RangeSet<u16>>,
    /// Fragments or whole datagrams only.
    pub fragment: Option<FragmentMatch>,
    /// Names of the ingress ports; empty = any.
    pub ingress: Vec<String>,
    /// Names of the taps that the packet may come from; empty = any.
    pub taps: Vec<String>,
    /// Copy, or take out.
    pub action: Action,
    /// Payload bytes kept after the L4 header; `None` = the whole packet.
    pub payload: Option<u16>,
    /// The tag of the copies.
    pub tag: Tag,
    /// Where copies go; empty for [`Action::Drop`]. No destination twice.
    pub to: Vec<DestinationId>,
}

/// One end of a conversation, as a policy sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// The address sets that are united; empty = any address, and frames that have none.
    pub addresses: Vec<Arc<AddressSet>>,
    /// The ports; `None` = any. With ports, only TCP, UDP and SCTP match (all three when the policy has no protocol).
    pub ports: Option<PortSet>,
}

/// A set of addresses: what a group, or the inline list of a policy, holds. IP and MAC members are united.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// IPv4 addresses as host-order numbers.
    pub ipv4: RangeSet<u32>,
    /// IPv6 addresses as host-order numbers.
    pub ipv6: RangeSet<u128>,
    /// Ethernet addresses, compared with the frame's source or destination; sorted, no duplicates.
    pub macs: Vec<MacAddr>,
    /// Virtual machines and ports by name; sorted, no duplicates. They hold no address by themselves: see
    /// [`PolicySet::resolved`].
    pub guests: Vec<GuestName>,
}

/// TCP, UDP or SCTP ports.
pub type PortSet = RangeSet<u16>;

/// IP protocol numbers (the last next-header value for IPv6).
pub type ProtocolSet = RangeSet<u8>;

/// Which headers a policy reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HeaderView {
    /// The outermost headers.
    #[default]
    Outer,
    /// The innermost headers that could be parsed; the outer ones for a packet without a tunnel.
    Inner,
}

/// TCP flags: of the bits in `mask`, exactly those of `value` are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpFlagsMatch {
    /// The bits that are looked at (RFC 9293: FIN 0x01 to CWR 0x80).
    pub mask: u8,
    /// Their wanted values.
    pub value: u8,
}

impl TcpFlagsMatch {
    /// Whether `flags` fit.
    #[inline]
    #[must_use]
    pub const fn matches(self, flags: u8) -> bool {
        flags & self.mask == self.value
    }
}

/// What a policy asks of IP fragmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FragmentMatch {
    /// Only fragments, first or later.
    Fragments,
    /// Only later fragments (offset above zero).
    Later,
    /// Only packets that are not fragments.
    Whole,
}

/// What a matching policy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a copy to each destination.
    #[default]
    Copy,
    /// Take the packet out: no copy at all, whatever other policies say.
    Drop,
}
