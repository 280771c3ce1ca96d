//! What is remembered of the tunnels that a packet came in.

use crate::wire::TunnelHeader;

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
}

impl TunnelInfo {
    /// No tunnel.
    pub const NONE: Self =
        Self { kind: TunnelHeader::None, depth: 0, ipv4: false, id: 0, src_addr: [0; 16], dst_addr: [0; 16] };

    /// What of the tunnel both directions of a flow share: its id, where that is not one of a direction. A GTP-U endpoint
    /// chooses its own TEID (TS 29.281 section 4.1), and so does an LSR its labels (RFC 3031 section 3.1).
    #[inline(always)]
    #[must_use]
    pub fn shared_id(&self) -> u32 {
        if matches!(self.kind, TunnelHeader::GtpU | TunnelHeader::Mpls) { 0 } else { self.id }
    }
}
