//! Which packets do the scenarios see? Made-up flows between clients and servers, the same for the same seed.

use std::net::Ipv4Addr;

use sluice_core::wire::checksum;

/// Bytes of each packet, without FCS.
pub const PACKET_BYTES: usize = 64;

/// Where the IPv4 header of each packet starts.
pub const IP_OFFSET: usize = 14;
/// Payload bytes of each TCP segment.
pub const PAYLOAD_LEN: u32 = 10;

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
/// direction.
#[must_use]
pub fn packets(flows: usize, seed: u64) -> Vec<Box<[u8]>> {
    let mut random = Random::new(seed);
    (0..flows).map(|_| packet(&mut random).into()).collect()
}

/// Both directions of each of `flows` flows in a random order, all with [`PAYLOAD_LEN`] bytes of payload; the
/// acknowledgement numbers of a visit are those of its data.
#[must_use]
pub fn conversations(flows: usize, seed: u64) -> Vec<Box<[u8]>> {
    let mut random = Random::new(seed);
    let mut all = Vec::with_capacity(flows * 2);
    for _ in 0..flows {
        let there = packet(&mut random);
        let (protocol, src, dst) = ends(&there);
        all.push(Box::from(there));
        all.push(Box::from(frame(protocol, dst, src)));
    }
    for last in (1..all.len()).rev() {
        all.swap(last, usize::try_from(random.below(last as u64 + 1)).unwrap_or(0));
    }
    all
}

/// Protocol, source and destination of a frame of this module.
fn ends(frame: &[u8; PACKET_BYTES]) -> (u8, (Ipv4Addr, u16), (Ipv4Addr, u16)) {
    let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (frame[23], (address(26), port(34)), (address(30), port(36)))
}

fn packet(random: &mut Random) -> [u8; PACKET_BYTES] {
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
    if random.below(2) == 0 {
        frame(protocol, (client, client_port), (server, port))
    } else {
        frame(protocol, (server, port), (client, client_port))
    }
}

/// An Ethernet frame of [`PACKET_BYTES`] bytes with the least TCP or UDP header.
fn frame(protocol: u8, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> [u8; PACKET_BYTES] {
    const IP_LEN: u16 = 50;
    let mut frame = [0; PACKET_BYTES];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip = &mut frame[14..34];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&IP_LEN.to_be_bytes());
    ip[8] = 64;
    ip[9] = protocol;
    ip[12..16].copy_from_slice(&src.0.octets());
    ip[16..20].copy_from_slice(&dst.0.octets());
    let sum = checksum::finish(checksum::sum(ip, 0));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame[34..36].copy_from_slice(&src.1.to_be_bytes());
    frame[36..38].copy_from_slice(&dst.1.to_be_bytes());
    if protocol == TCP {
        // Both directions count from the same number; five words of header, ACK, a window.
        frame[38..46].copy_from_slice(&[0, 0, 1, 0, 0, 0, 1, 0]);
        frame[46..48].copy_from_slice(&[0x50, 0x10]);
        frame[48..50].copy_from_slice(&[0x20, 0]);
    } else {
        frame[38..40].copy_from_slice(&(IP_LEN - 20).to_be_bytes());
    }
    frame
}

#[cfg(test)]
mod tests {
    use sluice_core::wire::{self, L3, Stop};

    use super::*;

    #[test]
    fn packets_parse_and_repeat() {
        let all = packets(1000, 7);
        assert_eq!(all, packets(1000, 7));
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
