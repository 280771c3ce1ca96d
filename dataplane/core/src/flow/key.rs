//! What makes two packets packets of one flow?
//!
//! Both directions give one key: the end with the lower (address, port) comes first, and the packet says whether its
//! source is the other one.

use sluice_cpu::{hash_u64x3, hash_u64x4};
use sluice_model::Network;

use crate::decap::TunnelInfo;
use crate::wire::{Fragment, L3, Parsed};

/// Seed of the hash; a table adds nothing secret, but collisions must not be those of other tables.
const SEED: u64 = 0x9d39_247e_3377_6d41;
/// EtherType and hardware type of the only ARP whose addresses are read (RFC 826): IPv4 over Ethernet.
const ARP_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// The identity of a flow: tap, VLAN, tunnel, protocol, addresses and ports (of both directions).
///
/// Frames without IP addresses are keyed by their EtherType and their Ethernet addresses; ARP for IPv4 by the protocol
/// addresses in it, so that a request and its reply are one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    /// IPv4: both addresses, the lower end's in the upper half; otherwise a hash of `long`. Then the ports and the tunnel
    /// id. Then tap, VLAN tag, second VLAN tag (without IP: EtherType), protocol and kind.
    pub(super) words: [u64; 3],
    /// IPv6 (or Ethernet) addresses, the lower end's first; zero for IPv4.
    pub(super) long: [u64; 4],
}

/// The fields of a key. Pairs are in the order of the key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoded {
    pub(super) network: Network,
    pub(super) addresses: [[u8; 16]; 2],
    pub(super) ports: Option<[u16; 2]>,
    pub(super) protocol: u8,
    pub(super) tap: u16,
}

/// A key with what else follows from the headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyedPacket {
    /// The key.
    pub key: FlowKey,
    /// Its hash.
    pub hash: u64,
    /// Whether the packet's source is the second end of the key.
    pub from_second: bool,
}

/// What of the VLAN tags is part of the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VlanKey {
    /// Nothing: tags that differ by direction do not split flows.
    Ignored,
    /// The ids of the first two tags.
    #[default]
    Ids,
}

impl FlowKey {
    /// Bits of the kind: the network layer, four bits of the tunnel's kind, and these. The addresses are in `long`.
    const LONG: u8 = 0x80;
    /// The ports are known; for ARP: its protocol addresses are.
    const KNOWN: u8 = 0x40;

    /// The key of a packet with these headers, which came in by `tap`. Its bytes are asked for only without IP.
    #[inline(always)]
    #[must_use]
    pub fn of<'a>(
        frame: impl FnOnce() -> &'a [u8],
        headers: &Parsed,
        tunnel: &TunnelInfo,
        tap: u16,
        vlan_key: VlanKey,
    ) -> KeyedPacket {
        let (src_port, dst_port) = (headers.src_port, headers.dst_port);
        // Packets whose ports are not known are not those of port 0.
        let kind =
            headers.l3 as u8 | (tunnel.kind as u8) << 2 | if headers.has_ports { Self::KNOWN } else { 0 };
        let mut third = u64::from(tap) << 48 | u64::from(headers.protocol) << 8;
        if vlan_key == VlanKey::Ids {
            // The count tells no tag from one with id 0.
            let count = u16::from(headers.vlan_count.min(2));
            third |= u64::from(count << 12 | headers.vlan_tci & 0xfff) << 32;
            third |= u64::from(headers.vlan_inner_tci & 0xfff) << 16;
        }
        let (key, from_second) = if headers.l3 == L3::Ipv4 {
            let src = u64::from(be32(&headers.src_addr)) << 16 | u64::from(src_port);
            let dst = u64::from(be32(&headers.dst_addr)) << 16 | u64::from(dst_port);
            let from_second = src > dst;
            let (low, high) = if from_second { (dst, src) } else { (src, dst) };
            third |= u64::from(kind);
            let addresses = (low >> 16) << 32 | high >> 16;
            let ports = (low & 0xffff) << 48 | (high & 0xffff) << 32 | u64::from(tunnel.shared_id());
            (FlowKey { words: [addresses, ports, third], long: [0; 4] }, from_second)
        } else {
            Self::long(frame, headers, tunnel.shared_id(), third | u64::from(kind))
        };
        KeyedPacket { key, hash: hash_u64x3(&key.words, SEED), from_second }
    }

    /// The key of a packet that is not IPv4.
    fn long<'a>(
        frame: impl FnOnce() -> &'a [u8],
        headers: &Parsed,
        tunnel_id: u32,
        mut third: u64,
    ) -> (Self, bool) {
        let (src, dst) = match headers.l3 {
            L3::Ipv6 => (u128::from_be_bytes(headers.src_addr), u128::from_be_bytes(headers.dst_addr)),
            L3::Arp | L3::None | L3::Ipv4 => {
                let frame = frame();
                third = third & !0xffff_0000 | u64::from(headers.ethertype) << 16;
                match arp_addresses(frame, headers) {
                    Some(addresses) => {
                        third |= u64::from(Self::KNOWN);
                        addresses
                    }
                    None => ethernet_addresses(frame, headers),
                }
            }
        };
        let src = (src, headers.src_port);
        let dst = (dst, headers.dst_port);
        let from_second = src > dst;
        let ((low, low_port), (high, high_port)) = if from_second { (dst, src) } else { (src, dst) };
        let ports = u64::from(low_port) << 48 | u64::from(high_port) << 32 | u64::from(tunnel_id);
        let long = [upper(low), lower(low), upper(high), lower(high)];
        let words = [hash_u64x4(&long, SEED), ports, third | u64::from(Self::LONG)];
        (Self { words, long }, from_second)
    }

    /// What the words say; `long` is read only if they ask for it.
    #[expect(clippy::cast_possible_truncation, reason = "the fields are taken apart")]
    pub(super) fn decode(words: &[u64; 3], long: &[u64; 4]) -> Decoded {
        let [first, ports, third] = *words;
        let kind = third as u8;
        let known = kind & Self::KNOWN != 0;
        let v4 = |address: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.to_be_bytes());
            bytes
        };
        let v6 = |upper: u64, lower: u64| (u128::from(upper) << 64 | u128::from(lower)).to_be_bytes();
        let (network, addresses) = match kind & 3 {
            1 => (Network::Ipv4, [v4((first >> 32) as u32), v4(first as u32)]),
            2 => (Network::Ipv6, [v6(long[0], long[1]), v6(long[2], long[3])]),
            3 if known => (Network::Ipv4, [v4(long[1] as u32), v4(long[3] as u32)]),
            _ => (Network::None, [[0; 16]; 2]),
        };
        Decoded {
            network,
            addresses,
            ports: (known && kind & 3 != 3).then_some([(ports >> 48) as u16, (ports >> 32) as u16]),
            protocol: (third >> 8) as u8,
            tap: tap(words),
        }
    }

    /// Whether the addresses are in [`FlowKey::long`].
    #[inline(always)]
    pub(super) fn is_long(words: &[u64; 3]) -> bool {
        words[2] & u64::from(Self::LONG) != 0
    }
}

/// The id of the innermost of the first two VLAN tags; 0 = untagged.
#[inline(always)]
#[must_use]
pub fn vlan_id(headers: &Parsed) -> u16 {
    let tci = if headers.vlan_count > 1 { headers.vlan_inner_tci } else { headers.vlan_tci };
    tci & 0xfff
}

/// The IP protocol in the words of a key.
#[inline(always)]
pub(super) fn protocol(words: &[u64; 3]) -> u8 {
    let [.., protocol, _] = words[2].to_be_bytes();
    protocol
}

/// The tap in the words of a key.
#[inline(always)]
pub(super) fn tap(words: &[u64; 3]) -> u16 {
    let [high, low, ..] = words[2].to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The protocol addresses of an ARP packet for IPv4: sender and target.
pub(crate) fn arp_addresses(frame: &[u8], headers: &Parsed) -> Option<(u128, u128)> {
    if headers.l3 != L3::Arp || headers.fragment != Fragment::Whole {
        return None;
    }
    let arp = frame.get(usize::from(headers.l3_offset)..)?;
    if arp.get(..6)? != ARP_IPV4 {
        return None;
    }
    let sender: &[u8; 4] = arp.get(14..18)?.first_chunk()?;
    let target: &[u8; 4] = arp.get(24..28)?.first_chunk()?;
    Some((u32::from_be_bytes(*sender).into(), u32::from_be_bytes(*target).into()))
}

/// The Ethernet addresses of the headers, as numbers: source and destination; zero when they are not there.
pub(crate) fn ethernet_addresses(frame: &[u8], headers: &Parsed) -> (u128, u128) {
    let address = |offset: usize| {
        let bytes = frame.get(usize::from(headers.l2_offset) + offset..)?.first_chunk::<6>()?;
        Some(bytes.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte)))
    };
    (address(6).unwrap_or(0), address(0).unwrap_or(0))
}

#[inline(always)]
fn be32(address: &[u8; 16]) -> u32 {
    u32::from_be_bytes([address[0], address[1], address[2], address[3]])
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn lower(number: u128) -> u64 {
    number as u64
}

fn upper(number: u128) -> u64 {
    (number >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::TunnelHeader;

    /// The key of a packet from `src` to `dst` in such a tunnel.
    fn key(src: u8, dst: u8, l3: L3, tunnel: TunnelHeader, id: u32) -> FlowKey {
        let mut headers = Parsed { l3, protocol: 6, has_ports: true, ..Parsed::EMPTY };
        (headers.src_addr[3], headers.src_port) = (src, src.into());
        (headers.dst_addr[3], headers.dst_port) = (dst, dst.into());
        let tunnel = TunnelInfo { kind: tunnel, depth: 1, id, ..TunnelInfo::NONE };
        FlowKey::of(|| &[], &headers, &tunnel, 0, VlanKey::Ids).key
    }

    #[test]
    fn ids_of_one_direction_do_not_split_flows() {
        for l3 in [L3::Ipv4, L3::Ipv6] {
            let both = |kind, ids: [u32; 2]| key(1, 2, l3, kind, ids[0]) == key(2, 1, l3, kind, ids[1]);
            assert!(both(TunnelHeader::GtpU, [7, 8]) && both(TunnelHeader::Mpls, [7, 8]));
            assert!(both(TunnelHeader::Vxlan, [7, 7]) && !both(TunnelHeader::Vxlan, [7, 8]));
            assert!(!both(TunnelHeader::Gre, [7, 8]) && !both(TunnelHeader::Erspan2, [7, 8]));
            assert!(key(1, 2, l3, TunnelHeader::GtpU, 7) != key(1, 2, l3, TunnelHeader::Mpls, 7));
        }
    }
}
