//! The number of a flow, for sharing flows out.

use sluice_cpu::{hash_u64x2, hash_u64x5};

use crate::flow::{arp_addresses, ethernet_addresses};
use crate::wire::{L3, Parsed};

/// Seed of the hash: another one than those of tables and of spreading over workers.
const SEED: u64 = 0xbb67_ae85_84ca_a73b;

/// A number that is the same for all packets of a flow, in both directions and on every worker: addresses, ports and
/// protocol of `headers`, parsed from `frame`.
///
/// Later fragments have the ports of their datagram when these are known; when they are not, the addresses and the
/// protocol alone decide. ARP for IPv4 goes by the protocol addresses in it, other frames by EtherType and Ethernet
/// addresses.
#[inline]
#[must_use]
pub fn flow_hash(frame: &[u8], headers: &Parsed) -> u64 {
    let (src_port, dst_port) = (u64::from(headers.src_port), u64::from(headers.dst_port));
    let protocol = u64::from(headers.protocol);
    if headers.l3 == L3::Ipv4 {
        let end = |address: &[u8; 16], port: u64| {
            u64::from(u32::from_be_bytes([address[0], address[1], address[2], address[3]])) << 16 | port
        };
        let (src, dst) = (end(&headers.src_addr, src_port), end(&headers.dst_addr, dst_port));
        return hash_u64x2(&[src.min(dst), src.max(dst)], SEED ^ protocol << 56);
    }
    let (src, dst, rest) = match headers.l3 {
        L3::Ipv6 => (u128::from_be_bytes(headers.src_addr), u128::from_be_bytes(headers.dst_addr), protocol),
        L3::Arp | L3::None | L3::Ipv4 => {
            let (src, dst) =
                arp_addresses(frame, headers).unwrap_or_else(|| ethernet_addresses(frame, headers));
            (src, dst, u64::from(headers.ethertype) << 8)
        }
    };
    let (src, dst) = ((src, src_port), (dst, dst_port));
    let ((low, low_port), (high, high_port)) = (src.min(dst), src.max(dst));
    let rest = rest << 32 | low_port << 16 | high_port;
    hash_u64x5(&[upper(low), lower(low), upper(high), lower(high), rest], SEED)
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
    use crate::wire;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_directions_have_one_number(
            ipv6 in any::<bool>(), src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(),
            ports in any::<(u16, u16)>(), protocol in any::<u8>(),
        ) {
            let l3 = if ipv6 { L3::Ipv6 } else { L3::Ipv4 };
            let there = Parsed {
                l3, src_addr: src, dst_addr: dst, src_port: ports.0, dst_port: ports.1, protocol, ..Parsed::EMPTY
            };
            let back = Parsed {
                src_addr: dst, dst_addr: src, src_port: ports.1, dst_port: ports.0, ..there
            };
            let hash = flow_hash(&[], &there);
            prop_assert_eq!(hash, flow_hash(&[], &back));
            // What is not part of a flow's identity does not count.
            let tagged = Parsed { vlan_count: 1, vlan_tci: 7, tcp_flags: 2, header_end: 99, ..there };
            prop_assert_eq!(hash, flow_hash(&[], &tagged));
            let others = [
                Parsed { src_port: ports.0 ^ 1, ..there },
                Parsed { dst_port: ports.1 ^ 1, ..there },
                Parsed { protocol: protocol ^ 1, ..there },
            ];
            for other in others {
                let turned = (other.src_addr, other.src_port) == (dst, ports.1)
                    && (other.dst_addr, other.dst_port) == (src, ports.0);
                prop_assert!(turned || hash != flow_hash(&[], &other), "{:?}", other);
            }
        }

        #[test]
        fn no_bytes_panic(frame in prop::collection::vec(any::<u8>(), 0..100)) {
            let outer = wire::parse(&frame);
            let inner = wire::parse_innermost(&frame, &outer, 8);
            let _ = flow_hash(&frame, &outer) ^ flow_hash(&frame, &inner);
        }
    }

    #[test]
    fn frames_without_ip_go_by_their_addresses() {
        let frame = |dst: u8, src: u8, ethertype: u16| {
            let mut frame = vec![2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src];
            frame.extend(ethertype.to_be_bytes());
            frame.extend([0; 46]);
            let parsed = wire::parse(&frame);
            flow_hash(&frame, &parsed)
        };
        assert_eq!(frame(1, 2, 0x88b5), frame(2, 1, 0x88b5));
        assert_ne!(frame(1, 2, 0x88b5), frame(1, 3, 0x88b5));
        assert_ne!(frame(1, 2, 0x88b5), frame(1, 2, 0x88b6));
    }
}
