//! What is remembered of the tunnels that a packet came in.

use crate::wire::{Parsed, TunnelHeader};

/// The outermost tunnel that was taken off (or looked through), and how many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelInfo {
    /// Its kind; [`TunnelHeader::None`] when the packet came without.
    pub kind: TunnelHeader,
    /// How many tunnels were taken off, one inside the other; 0 when the packet came without.
    pub depth: u8,
    /// Whether the outer IP header is IPv4.
    pub ipv4: bool,
    /// VNI, GRE key, ERSPAN session, TEID; 0 where the tunnel has none.
    pub id: u32,
    /// The outer source address in wire order; IPv4 in the first four bytes.
    pub src_addr: [u8; 16],
    /// The outer destination address in wire order; IPv4 in the first four bytes.
    pub dst_addr: [u8; 16],
    /// Whether it was taken off because it was sent to one of our own addresses: see [`Ends::Own`](super::Ends::Own).
    pub own: bool,
    /// The TCI of an 802.1Q tag that stands for it, by [`TunnelInfo::mark_of`]; 0 = there was no tunnel.
    pub mark: u16,
}

impl TunnelInfo {
    /// No tunnel.
    pub const NONE: Self = Self {
        kind: TunnelHeader::None,
        depth: 0,
        ipv4: false,
        id: 0,
        src_addr: [0; 16],
        dst_addr: [0; 16],
        own: false,
        mark: 0,
    };

    /// Shows the tunnel in the headers of what was left, as policies are given them: its id can still be asked for, if
    /// no tunnel is left. One that ended here is asked for even then, as it was meant for us, and the other one was not.
    #[inline(always)]
    pub fn show_in(&self, headers: &mut Parsed) {
        if self.depth > 0 && (headers.tunnel == TunnelHeader::None || self.own) {
            (headers.tunnel, headers.tunnel_id) = (self.kind, self.id);
        }
    }

    /// A TCI like that of [`inner_vlan_tag`](crate::encap::inner_vlan_tag): the low 12 bits of the tag, and a PCP with its
    /// top bit set and the direction as its lowest one. Never 0.
    #[inline(always)]
    #[must_use]
    pub fn mark_of(tag: u32, egress: bool) -> u16 {
        let [.., high, low] = tag.to_be_bytes();
        0x8000 | u16::from(egress) << 13 | u16::from_be_bytes([high, low]) & 0x0fff
    }

    /// What of the tunnel both directions of a flow share: its id, where that is not one of a direction. A GTP-U endpoint
    /// chooses its own TEID (TS 29.281 section 4.1), and so does an LSR its labels (RFC 3031 section 3.1).
    #[inline(always)]
    #[must_use]
    pub fn shared_id(&self) -> u32 {
        if matches!(self.kind, TunnelHeader::GtpU | TunnelHeader::Mpls) { 0 } else { self.id }
    }
}
