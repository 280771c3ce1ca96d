//! What stands before a copy on its way to a tunnel destination: the outer Ethernet, IP and tunnel headers?
//!
//! The parts that do not change are prebuilt once per destination; [`Encap::write`] copies them and patches lengths,
//! checksum and marks. It resolves no addresses and counts no sequence numbers: those are arguments.

use std::net::IpAddr;

use sluice_model::{MacAddr, Marking, Tunnel, TunnelKind, UdpChecksum};

use super::{CopyFields, MAX_IP_PACKET, len16, low16, tunnel};
use crate::wire::checksum;

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;

const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_GRE: u8 = 47;
/// TTL and hop limit of the outer packet.
const TTL: u8 = 64;

/// The link and network addresses of the two ends of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The address of the output port.
    pub src_mac: MacAddr,
    /// The address of the next hop.
    pub dst_mac: MacAddr,
    /// The outer source address.
    pub local: IpAddr,
    /// The outer destination address.
    pub remote: IpAddr,
}

/// Why there is no outer header for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncapError {
    /// The two ends are of different address families.
    #[error(
        "the tunnel from {local} to {remote} mixes IPv4 and IPv6: give a local address of the family of the remote one"
    )]
    Family {
        /// The source address.
        local: IpAddr,
        /// The destination address.
        remote: IpAddr,
    },
    /// ERSPAN type II has no place for the reference marking.
    #[error("ERSPAN type II cannot carry the reference marking: use type III, or the standard marking")]
    Erspan2Reference,
}

/// The outer header of one tunnel destination: plain data, two cache lines, of which IPv4 needs the first.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Encap {
    /// The sum of the IPv4 header without total length and identification; 0 for IPv6.
    ip_sum: u16,
    /// The sum of the UDP pseudo-header without the length.
    pseudo_sum: u16,
    /// The UDP destination port; 0 for GRE.
    udp_port: u16,
    shape: Shape,
    udp_checksum: bool,
    /// Ethernet and IP headers with the varying fields zero; IPv4 takes the first 34 bytes.
    template: [u8; ETHERNET_LEN + IPV6_LEN],
}

/// The tunnel headers over each of the IP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Shape {
    Vxlan4,
    VxlanReference4,
    Erspan2Over4,
    Erspan3Over4,
    Erspan3Reference4,
    Vxlan6,
    VxlanReference6,
    Erspan2Over6,
    Erspan3Over6,
    Erspan3Reference6,
}

impl Shape {
    const fn new(kind: TunnelKind, marking: Marking, ipv6: bool) -> Result<Self, EncapError> {
        Ok(match (kind, marking, ipv6) {
            (TunnelKind::Vxlan { .. }, Marking::Standard, false) => Self::Vxlan4,
            (TunnelKind::Vxlan { .. }, Marking::Reference, false) => Self::VxlanReference4,
            (TunnelKind::Vxlan { .. }, Marking::Standard, true) => Self::Vxlan6,
            (TunnelKind::Vxlan { .. }, Marking::Reference, true) => Self::VxlanReference6,
            (TunnelKind::Erspan2, Marking::Standard, false) => Self::Erspan2Over4,
            (TunnelKind::Erspan2, Marking::Standard, true) => Self::Erspan2Over6,
            (TunnelKind::Erspan2, Marking::Reference, _) => return Err(EncapError::Erspan2Reference),
            (TunnelKind::Erspan3, Marking::Standard, false) => Self::Erspan3Over4,
            (TunnelKind::Erspan3, Marking::Standard, true) => Self::Erspan3Over6,
            (TunnelKind::Erspan3, Marking::Reference, false) => Self::Erspan3Reference4,
            (TunnelKind::Erspan3, Marking::Reference, true) => Self::Erspan3Reference6,
        })
    }

    const fn ipv6(self) -> bool {
        matches!(
            self,
            Self::Vxlan6
                | Self::VxlanReference6
                | Self::Erspan2Over6
                | Self::Erspan3Over6
                | Self::Erspan3Reference6
        )
    }

    const fn vxlan(self) -> bool {
        matches!(self, Self::Vxlan4 | Self::VxlanReference4 | Self::Vxlan6 | Self::VxlanReference6)
    }

    /// The bytes after the IP header and before the copied frame.
    const fn upper_len(self) -> usize {
        match self {
            Self::Erspan3Over4 | Self::Erspan3Over6 => tunnel::ERSPAN3,
            Self::Erspan3Reference4 | Self::Erspan3Reference6 => tunnel::ERSPAN3_KEYED,
            _ => tunnel::SHORT,
        }
    }
}

impl Encap {
    /// The header of copies that go through `tunnel` between `ends` (whose `remote` counts, not the tunnel's).
    /// `dont_fragment` sets DF in IPv4; clear it where outer fragments are wanted.
    pub fn new(tunnel: &Tunnel, ends: Endpoints, dont_fragment: bool) -> Result<Self, EncapError> {
        let shape = Shape::new(tunnel.kind, tunnel.marking, ends.remote.is_ipv6())?;
        let (udp_port, udp_checksum) = match tunnel.kind {
            TunnelKind::Vxlan { udp_port, udp_checksum } => {
                let computed = match udp_checksum {
                    UdpChecksum::Auto => shape.ipv6(),
                    UdpChecksum::On => true,
                    UdpChecksum::Off => false,
                };
                (udp_port, computed)
            }
            TunnelKind::Erspan2 | TunnelKind::Erspan3 => (0, false),
        };
        let protocol = if shape.vxlan() { PROTOCOL_UDP } else { PROTOCOL_GRE };
        let mut template = [0; ETHERNET_LEN + IPV6_LEN];
        put(&mut template, 0, &ends.dst_mac.0);
        put(&mut template, 6, &ends.src_mac.0);
        match (ends.local, ends.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let flags = if dont_fragment { 0x40 } else { 0 };
                put(&mut template, 12, &[0x08, 0x00, 0x45, 0, 0, 0, 0, 0, flags, 0, TTL, protocol]);
                put(&mut template, 26, &local.octets());
                put(&mut template, 30, &remote.octets());
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                put(&mut template, 12, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, TTL]);
                put(&mut template, 22, &local.octets());
                put(&mut template, 38, &remote.octets());
            }
            (local, remote) => return Err(EncapError::Family { local, remote }),
        }
        let mut encap = Self { ip_sum: 0, pseudo_sum: 0, udp_port, shape, udp_checksum, template };
        encap.sum_template();
        Ok(encap)
    }

    /// Sets the address of the next hop, once it is resolved or when it changed.
    pub fn set_next_hop(&mut self, dst_mac: MacAddr) {
        put(&mut self.template, 0, &dst_mac.0);
    }

    /// Sets the addresses of the output port. `local` must be of the family of the remote address.
    pub fn set_source(&mut self, src_mac: MacAddr, local: IpAddr) -> Result<(), EncapError> {
        match (local, self.ipv6()) {
            (IpAddr::V4(local), false) => put(&mut self.template, 26, &local.octets()),
            (IpAddr::V6(local), true) => put(&mut self.template, 22, &local.octets()),
            (local, _) => return Err(EncapError::Family { local, remote: self.remote() }),
        }
        put(&mut self.template, 6, &src_mac.0);
        self.sum_template();
        Ok(())
    }

    /// The bytes before the copied frame: Ethernet + IP + (UDP + VXLAN or GRE + ERSPAN).
    #[inline]
    pub fn header_len(&self) -> usize {
        self.upper_offset() + self.shape.upper_len()
    }

    /// What the MTU must hold beside the copied frame: [`header_len`](Self::header_len) without Ethernet.
    #[inline]
    pub fn overhead(&self) -> usize {
        self.header_len() - ETHERNET_LEN
    }

    /// The longest copied frame that an outer IP packet of `mtu` bytes holds.
    #[inline]
    pub fn max_inner_len(&self, mtu: u16) -> usize {
        usize::from(mtu).saturating_sub(self.overhead())
    }

    /// The length of the outer Ethernet header, which is where the IP header starts (`l2_len` of an offload request).
    #[inline]
    pub fn l2_len(&self) -> usize {
        ETHERNET_LEN
    }

    /// Where the outer IP header starts.
    #[inline]
    pub fn ip_offset(&self) -> usize {
        ETHERNET_LEN
    }

    /// The length of the outer IP header (`l3_len` of an offload request).
    #[inline]
    pub fn l3_len(&self) -> usize {
        if self.ipv6() { IPV6_LEN } else { IPV4_LEN }
    }

    /// Where the outer UDP or GRE header starts.
    #[inline]
    pub fn upper_offset(&self) -> usize {
        ETHERNET_LEN + self.l3_len()
    }

    /// The bytes of UDP + VXLAN or GRE + ERSPAN.
    #[inline]
    pub fn upper_len(&self) -> usize {
        self.shape.upper_len()
    }

    /// Whether the outer packet is IPv6.
    #[inline]
    pub fn ipv6(&self) -> bool {
        self.shape.ipv6()
    }

    /// Whether the copies take sequence numbers: all but standard VXLAN.
    #[inline]
    pub fn uses_sequence(&self) -> bool {
        !matches!(self.shape, Shape::Vxlan4 | Shape::Vxlan6)
    }

    /// Whether a hash of the flow is written: to the VXLAN source port, or the IPv6 flow label.
    #[inline]
    pub fn uses_entropy(&self) -> bool {
        self.shape.vxlan() || self.shape.ipv6()
    }

    /// Whether the outer UDP checksum must be filled in after [`write`](Self::write), by
    /// [`write_udp_checksum`](Self::write_udp_checksum) or
    /// [`write_udp_pseudo_header`](Self::write_udp_pseudo_header) and the NIC.
    #[inline]
    pub fn needs_udp_checksum(&self) -> bool {
        self.udp_checksum
    }

    /// Writes the header of one copy to the first [`header_len`](Self::header_len) bytes of `out`; does nothing when
    /// `out` is shorter. The outer UDP checksum is left zero.
    ///
    /// `fields.inner_len` + [`overhead`](Self::overhead) must not exceed [`MAX_IP_PACKET`]: lengths beyond it cannot be
    /// expressed and are written as the largest.
    #[inline]
    pub fn write(&self, out: &mut [u8], fields: &CopyFields) {
        let (port, len) = (self.udp_port, self.upper_total(fields.inner_len));
        match self.shape {
            Shape::Vxlan4 => self.write4(out, fields, tunnel::vxlan(port, len, fields)),
            Shape::VxlanReference4 => {
                self.write4(out, fields, tunnel::vxlan_reference(port, len, fields));
            }
            Shape::Erspan2Over4 => self.write4(out, fields, tunnel::erspan2(fields)),
            Shape::Erspan3Over4 => self.write4(out, fields, tunnel::erspan3(fields)),
            Shape::Erspan3Reference4 => self.write4(out, fields, tunnel::erspan3_reference(fields)),
            Shape::Vxlan6 => self.write6(out, fields, tunnel::vxlan(port, len, fields)),
            Shape::VxlanReference6 => {
                self.write6(out, fields, tunnel::vxlan_reference(port, len, fields));
            }
            Shape::Erspan2Over6 => self.write6(out, fields, tunnel::erspan2(fields)),
            Shape::Erspan3Over6 => self.write6(out, fields, tunnel::erspan3(fields)),
            Shape::Erspan3Reference6 => self.write6(out, fields, tunnel::erspan3_reference(fields)),
        }
    }

    /// Fills in the outer UDP checksum of a header that [`write`](Self::write) wrote. `inner_sum` is the
    /// [`checksum::sum`] of the bytes that follow it (of several parts: [`PartsSum`](super::PartsSum)). Does nothing for
    /// GRE and for a header that is too short.
    #[inline]
    pub fn write_udp_checksum(&self, header: &mut [u8], inner_sum: u64) {
        let Some(upper) = self.udp_headers(header) else { return };
        let [.., len_high, len_low, _, _] = *upper.0;
        upper.0[6..].fill(0);
        let acc = u64::from(self.pseudo_sum)
            + u64::from(u16::from_be_bytes([len_high, len_low]))
            + u64::from(checksum::fold(inner_sum));
        let acc = checksum::sum(upper.1, checksum::sum(upper.0, acc));
        upper.0[6..].copy_from_slice(&checksum::finish_udp(acc).to_be_bytes());
    }

    /// Puts the sum of the pseudo-header alone, not inverted, into the outer UDP checksum field of a header that
    /// [`write`](Self::write) wrote, as NICs expect it that compute the rest (`RTE_MBUF_F_TX_UDP_CKSUM`). Not for
    /// copies that are going to be fragmented.
    #[inline]
    pub fn write_udp_pseudo_header(&self, header: &mut [u8]) {
        let Some(upper) = self.udp_headers(header) else { return };
        let [.., len_high, len_low, _, _] = *upper.0;
        let acc = u64::from(self.pseudo_sum) + u64::from(u16::from_be_bytes([len_high, len_low]));
        upper.0[6..].copy_from_slice(&checksum::fold(acc).to_be_bytes());
    }

    /// The UDP and VXLAN headers within a written header.
    #[inline]
    fn udp_headers<'a>(&self, header: &'a mut [u8]) -> Option<(&'a mut [u8; UDP_LEN], &'a mut [u8; 8])> {
        if !self.shape.vxlan() {
            return None;
        }
        let (udp, rest) = header.get_mut(self.upper_offset()..)?.split_first_chunk_mut::<UDP_LEN>()?;
        Some((udp, rest.first_chunk_mut::<8>()?))
    }

    /// The length of what follows the IP header.
    #[inline]
    fn upper_total(&self, inner_len: u32) -> u16 {
        let room = len16(MAX_IP_PACKET - self.overhead());
        let inner = inner_len.min(u32::from(room));
        low16(inner) + len16(self.shape.upper_len())
    }

    #[inline(always)]
    fn write4<const UPPER: usize>(&self, out: &mut [u8], fields: &CopyFields, upper: [u8; UPPER]) {
        let Some((head, rest)) = out.split_first_chunk_mut::<{ ETHERNET_LEN + IPV4_LEN }>() else { return };
        let Some(tail) = rest.first_chunk_mut::<UPPER>() else { return };
        let Some(template) = self.template.first_chunk() else { return };
        let total = self.upper_total(fields.inner_len) + len16(IPV4_LEN);
        *head = *template;
        head[16..18].copy_from_slice(&total.to_be_bytes());
        head[18..20].copy_from_slice(&fields.ip_id.to_be_bytes());
        // At most 3 * 0xffff: two folds.
        let sum = u32::from(self.ip_sum) + u32::from(total) + u32::from(fields.ip_id);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        head[24..26].copy_from_slice(&(!low16(sum)).to_be_bytes());
        *tail = upper;
    }

    #[inline(always)]
    fn write6<const UPPER: usize>(&self, out: &mut [u8], fields: &CopyFields, upper: [u8; UPPER]) {
        let Some((head, rest)) = out.split_first_chunk_mut::<{ ETHERNET_LEN + IPV6_LEN }>() else { return };
        let Some(tail) = rest.first_chunk_mut::<UPPER>() else { return };
        *head = self.template;
        // RFC 6438: tunnel entry points put the flow's entropy into the flow label, for GRE the only place for it.
        // The upper bits, as the VXLAN source port takes the lower ones.
        let flow = 0x6000_0000 | fields.entropy >> 12;
        head[14..18].copy_from_slice(&flow.to_be_bytes());
        head[18..20].copy_from_slice(&self.upper_total(fields.inner_len).to_be_bytes());
        *tail = upper;
    }

    /// Computes the sums of the constant parts anew.
    fn sum_template(&mut self) {
        let ip = &self.template[ETHERNET_LEN..];
        let (header_sum, addresses) = if self.ipv6() {
            (0, &ip[8..40])
        } else {
            (checksum::fold(checksum::sum(&ip[..IPV4_LEN], 0)), &ip[12..20])
        };
        self.ip_sum = header_sum;
        self.pseudo_sum = checksum::fold(checksum::sum(addresses, u64::from(PROTOCOL_UDP)));
    }

    fn remote(&self) -> IpAddr {
        let template = &self.template;
        let v6 = template.last_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
        let v4 = template[30..34].first_chunk::<4>().map(|bytes| IpAddr::from(*bytes));
        (if self.ipv6() { v6 } else { v4 }).unwrap_or(IpAddr::from([0; 4]))
    }
}

/// Writes `bytes` at a fixed place of a template.
fn put(template: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in template.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}
