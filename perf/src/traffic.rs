//! Which packets do the scenarios see? Made-up flows between clients and servers, the same for the same seed.

use std::net::Ipv4Addr;

use sluice_core::wire::checksum;

/// Bytes of the smallest packets, without FCS.
pub const PACKET_BYTES: usize = 64;

/// Where the IPv4 header of each packet starts.
pub const IP_OFFSET: usize = 14;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A service and how many of a hundred flows use it.
struct Service {
    protocol: u8,
    port: u16,
    share: u64,
}

/// The services of the servers.
const SERVICES: [Service; 8] = [
    Service { protocol: TCP, port: 443, share: 40 },
    Service { protocol: UDP, port: 443, share: 15 },
    Service { protocol: UDP, port: 53, share: 15 },
    Service { protocol: TCP, port: 80, share: 10 },
    Service { protocol: TCP, port: 8080, share: 5 },
    Service { protocol: TCP, port: 22, share: 5 },
    Service { protocol: TCP, port: 5432, share: 5 },
    Service { protocol: UDP, port: 5060, share: 5 },
];

/// A small generator of numbers (SplitMix64): the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; equal seeds give equal numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    fn byte(&mut self, end: u64) -> u8 {
        u8::try_from(self.below(end)).unwrap_or(u8::MAX)
    }
}

/// One packet of each of `flows` flows: clients in 10.0.0.0/12, servers in 172.16.0.0/20, half of the packets in each
/// direction, each of `bytes` bytes (0 = IMIX).
#[must_use]
pub fn packets(flows: usize, bytes: usize, seed: u64) -> Vec<Box<[u8]>> {
    let mut random = Random::new(seed);
    (0..flows).map(|flow| frame(&ends(&mut random), size(bytes, flow))).collect()
}

/// Both directions of each of `flows` flows in a random order; a packet acknowledges what its own visit sends.
#[must_use]
pub fn conversations(flows: usize, bytes: usize, seed: u64) -> Vec<Box<[u8]>> {
    let mut random = Random::new(seed);
    let mut all = Vec::with_capacity(flows * 2);
    for flow in 0..flows {
        let there = ends(&mut random);
        let back = Ends { src: there.dst, dst: there.src, ..there };
        all.push(frame(&there, size(bytes, flow)));
        all.push(frame(&back, size(bytes, flow)));
    }
    for last in (1..all.len()).rev() {
        all.swap(last, usize::try_from(random.below(last as u64 + 1)).unwrap_or(0));
    }
    all
}

/// The frame in VXLAN over IPv4, from one of many senders.
#[must_use]
pub fn in_vxlan(inner: &[u8]) -> Box<[u8]> {
    let len = |header: usize| u16::try_from(inner.len() + header).unwrap_or(u16::MAX).to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 0x08, 0x00];
    frame.extend([0x45, 0]);
    frame.extend(len(20 + 8 + 8));
    frame.extend([0, 0, 0, 0, 64, UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    let sum = checksum::finish(checksum::sum(&frame[14..34], 0));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    // RFC 7348: the source port from the inner flow, the VNI in the upper 24 bits.
    frame.extend([0xc0 | inner[29] & 0x3f, inner[33], 0x12, 0xb5]);
    frame.extend(len(8 + 8));
    frame.extend([0, 0, 8, 0, 0, 0, 0, 0, 7, 0]);
    frame.extend(inner);
    frame.into()
}

/// The size of the packets of a flow.
fn size(bytes: usize, flow: usize) -> usize {
    /// Seven small ones to four middle ones to one large one, without FCS.
    const IMIX: [usize; 12] = [64, 576, 64, 64, 576, 64, 1500, 64, 576, 64, 576, 64];
    if bytes == 0 { IMIX[flow % IMIX.len()] } else { bytes.max(PACKET_BYTES) }
}

/// The ends of a flow.
#[derive(Clone, Copy)]
struct Ends {
    protocol: u8,
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
}

fn ends(random: &mut Random) -> Ends {
    let client = Ipv4Addr::new(10, random.byte(16), random.byte(256), random.byte(254) + 1);
    let server = Ipv4Addr::new(172, 16, random.byte(16), random.byte(254) + 1);
    let client_port = 32_768 + u16::try_from(random.below(28_000)).unwrap_or(0);
    let mut drawn = random.below(100);
    let service = SERVICES.iter().find(|service| {
        let found = drawn < service.share;
        drawn = drawn.saturating_sub(service.share);
        found
    });
    let (protocol, port) = service.map_or((TCP, 443), |service| (service.protocol, service.port));
    let (client, server) = ((client, client_port), (server, port));
    if random.below(2) == 0 {
        Ends { protocol, src: client, dst: server }
    } else {
        Ends { protocol, src: server, dst: client }
    }
}

/// An Ethernet frame of `bytes` bytes, at least [`PACKET_BYTES`], with the least TCP or UDP header.
fn frame(ends: &Ends, bytes: usize) -> Box<[u8]> {
    let ip_len = u16::try_from(bytes - IP_OFFSET).unwrap_or(u16::MAX);
    let mut frame = vec![0; bytes];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip = &mut frame[14..34];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    ip[8] = 64;
    ip[9] = ends.protocol;
    ip[12..16].copy_from_slice(&ends.src.0.octets());
    ip[16..20].copy_from_slice(&ends.dst.0.octets());
    let sum = checksum::finish(checksum::sum(ip, 0));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame[34..36].copy_from_slice(&ends.src.1.to_be_bytes());
    frame[36..38].copy_from_slice(&ends.dst.1.to_be_bytes());
    if ends.protocol == TCP {
        // Both directions count from the same number; five words of header, ACK, a window.
        frame[38..46].copy_from_slice(&[0, 0, 1, 0, 0, 0, 1, 0]);
        frame[46..48].copy_from_slice(&[0x50, 0x10]);
        frame[48..50].copy_from_slice(&[0x20, 0]);
    } else {
        frame[38..40].copy_from_slice(&(ip_len - 20).to_be_bytes());
    }
    frame.into()
}

#[cfg(test)]
mod tests {
    use sluice_core::wire::{self, L3, Stop};

    use super::*;

    #[test]
    fn packets_parse_and_repeat() {
        let all = packets(1000, 64, 7);
        assert_eq!(all, packets(1000, 64, 7));
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 990);
        let tcp = all.iter().filter(|frame| {
            let parsed = wire::parse(frame);
            assert_eq!((parsed.l3, parsed.stop, parsed.has_ports), (L3::Ipv4, Stop::Complete, true));
            assert_eq!(checksum::finish(checksum::sum(&frame[14..34], 0)), 0);
            parsed.protocol == TCP
        });
        assert!((600..700).contains(&tcp.count()));
    }
}
