//! Which worker has a packet? Packets that belong together have one.
//!
//! What is kept together, whatever the order of arrival:
//! - both directions of a flow, as the two ends count the same;
//! - every duplicate of a packet: MAC addresses, VLAN tags, TTL and outer headers do not count;
//! - by [`SpreadBy::Addresses`], all fragments of a datagram with the flow they belong to; by [`SpreadBy::Ports`] those
//!   that come after the first one, through a [`FragmentTable`](crate::classify::FragmentTable);
//! - ARP requests and their replies; of other frames without IP, all of one EtherType.
//!
//! Which headers are looked at (outermost, or innermost where tunnels are taken off or looked through) is the caller's
//! choice. A later fragment of a *tunnel* packet shows no inner headers, and goes by its outer addresses.

mod toeplitz;

pub use toeplitz::{MICROSOFT_KEY, SYMMETRIC_KEY, toeplitz};

use sluice_cpu::{hash_u64, hash_u64x2, hash_u64x5};
use sluice_model::SpreadBy;

use crate::flow::arp_addresses;
use crate::wire::{L3, Parsed};

/// Seed of the hash: another one than those of tables, or each worker would use a part of its tables only.
const SEED: u64 = 0x6a09_e667_f3bc_c908;

/// A number that is the same for all packets that have to be on one worker.
#[inline(always)]
#[must_use]
pub fn spread_hash(frame: &[u8], headers: &Parsed, by: SpreadBy) -> u64 {
    let (src_port, dst_port) = match by {
        SpreadBy::Addresses => (0, 0),
        SpreadBy::Ports => (headers.src_port, headers.dst_port),
    };
    if headers.l3 == L3::Ipv4 {
        let end = |address: &[u8; 16], port: u16| {
            u64::from(u32::from_be_bytes([address[0], address[1], address[2], address[3]])) << 16
                | u64::from(port)
        };
        let (src, dst) = (end(&headers.src_addr, src_port), end(&headers.dst_addr, dst_port));
        return hash_u64x2(&[src.min(dst), src.max(dst)], SEED);
    }
    long(frame, headers, src_port, dst_port)
}

/// The worker of `workers` that has the packets of this hash.
#[inline(always)]
#[must_use]
pub fn worker_of(hash: u64, workers: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "below `workers`, which is a usize")]
    let worker = ((u128::from(hash) * workers as u128) >> 64) as usize;
    worker
}

/// The same for what is not IPv4.
fn long(frame: &[u8], headers: &Parsed, src_port: u16, dst_port: u16) -> u64 {
    let (src, dst) = match headers.l3 {
        L3::Ipv6 => (u128::from_be_bytes(headers.src_addr), u128::from_be_bytes(headers.dst_addr)),
        L3::Arp | L3::None | L3::Ipv4 => match arp_addresses(frame, headers) {
            Some((sender, target)) => (sender, target),
            None => return hash_u64(headers.ethertype.into(), SEED),
        },
    };
    let (src, dst) = ((src, src_port), (dst, dst_port));
    let ((low, low_port), (high, high_port)) = (src.min(dst), src.max(dst));
    let ports = u64::from(low_port) << 16 | u64::from(high_port);
    hash_u64x5(&[upper(low), lower(low), upper(high), lower(high), ports], SEED)
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
    use crate::wire::{self, Fragment};
    use proptest::prelude::*;

    const BOTH: [SpreadBy; 2] = [SpreadBy::Addresses, SpreadBy::Ports];

    fn headers(ipv6: bool, src: [u8; 16], dst: [u8; 16], ports: (u16, u16)) -> Parsed {
        let cut = |mut address: [u8; 16]| {
            if !ipv6 {
                address[4..].fill(0);
            }
            address
        };
        let l3 = if ipv6 { L3::Ipv6 } else { L3::Ipv4 };
        Parsed {
            l3,
            src_addr: cut(src),
            dst_addr: cut(dst),
            src_port: ports.0,
            dst_port: ports.1,
            ..Parsed::EMPTY
        }
    }

    proptest! {
        #[test]
        fn both_directions_and_all_fragments_are_together(
            ipv6 in any::<bool>(), src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(),
            ports in any::<(u16, u16)>(), workers in 1_usize..64,
        ) {
            let there = headers(ipv6, src, dst, ports);
            let back = headers(ipv6, dst, src, (ports.1, ports.0));
            for by in BOTH {
                let hash = spread_hash(&[], &there, by);
                prop_assert_eq!(hash, spread_hash(&[], &back, by));
                prop_assert!(worker_of(hash, workers) < workers);
            }
            // A fragment whose ports are not known.
            let later = Parsed { fragment: Fragment::Later, ..headers(ipv6, dst, src, (0, 0)) };
            let by = SpreadBy::Addresses;
            prop_assert_eq!(spread_hash(&[], &there, by), spread_hash(&[], &later, by));
            // Tags, protocol and tunnel are those of one copy of the packet.
            let other = Parsed { vlan_count: 1, vlan_tci: 7, protocol: 6, tunnel_id: 9, ..there };
            prop_assert_eq!(spread_hash(&[], &there, by), spread_hash(&[], &other, by));
        }

        #[test]
        fn no_bytes_panic(frame in prop::collection::vec(any::<u8>(), 0..100)) {
            let outer = wire::parse(&frame);
            let inner = wire::parse_innermost(&frame, &outer, 8);
            for by in BOTH {
                let workers = [spread_hash(&frame, &outer, by), spread_hash(&frame, &inner, by)];
                prop_assert!(workers.iter().all(|&hash| worker_of(hash, 3) < 3));
            }
        }
    }

    #[test]
    fn arp_of_both_sides_is_together() {
        let arp = |operation: u8, sender: [u8; 4], target: [u8; 4]| {
            let mut frame = vec![0xff; 12];
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, operation]);
            frame.extend(sender);
            frame.extend([0; 6]);
            frame.extend(target);
            let parsed = wire::parse(&frame);
            spread_hash(&frame, &parsed, SpreadBy::Ports)
        };
        let (a, b) = ([192, 0, 2, 1], [192, 0, 2, 77]);
        assert_eq!(arp(1, a, b), arp(2, b, a));
        assert_ne!(arp(1, a, b), arp(1, a, [192, 0, 2, 78]));
    }

    #[test]
    fn neighbouring_addresses_spread_evenly() {
        for workers in [2, 3, 5, 8] {
            let mut counts = vec![0_u32; workers];
            for client in 0..200_u32 {
                for server in 0..50_u32 {
                    let mut headers = Parsed { l3: L3::Ipv4, ..Parsed::EMPTY };
                    headers.src_addr[..4].copy_from_slice(&(0x0a00_0000 + client).to_be_bytes());
                    headers.dst_addr[..4].copy_from_slice(&(0x0a00_0100 + server).to_be_bytes());
                    counts[worker_of(spread_hash(&[], &headers, SpreadBy::Addresses), workers)] += 1;
                }
            }
            let expected = 10_000 / workers as u32;
            assert!(counts.iter().all(|count| count.abs_diff(expected) < expected / 10), "{counts:?}");
        }
    }
}
