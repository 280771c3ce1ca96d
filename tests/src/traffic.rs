//! Made-up but well-formed traffic: for the quick start, for benchmarks, and for tests that must run without captures.
//!
//! Addresses are those set aside for documentation and private use (RFC 5737, RFC 3849, RFC 1918); checksums are right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_core::wire::checksum;

/// IP protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// One end of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// IP address.
    pub ip: IpAddr,
    /// TCP or UDP port.
    pub port: u16,
}

impl End {
    /// An end with an Ethernet address made from its IP address.
    #[must_use]
    pub fn new(ip: IpAddr, port: u16) -> Self {
        let last = match ip {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.octets();
                [a, b, c, d]
            }
        };
        Self { mac: [0x02, 0x00, last[0], last[1], last[2], last[3]], ip, port }
    }
}

/// An Ethernet frame around an IP packet of `protocol`, with the given VLAN tags (outermost first).
///
/// # Panics
/// When the ends are of different families or the packet exceeds 65,535 bytes.
#[must_use]
pub fn ip_frame(src: &End, dst: &End, vlans: &[(u16, u16)], protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(54 + l4.len());
    frame.extend(dst.mac);
    frame.extend(src.mac);
    for (tpid, tci) in vlans {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    match (src.ip, dst.ip) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([0x08, 0x00]);
            frame.extend(ipv4_header(src, dst, protocol, l4.len()));
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend([0x86, 0xdd]);
            frame.extend(ipv6_header(src, dst, protocol, l4.len()));
        }
        _ => panic!("both ends must be of one family"),
    }
    frame.extend(l4);
    frame
}

fn ipv4_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: usize) -> Vec<u8> {
    let total = u16::try_from(payload + 20).expect("an IPv4 packet has at most 65,535 bytes");
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    // Identification from the addresses: any value will do, a constant would look like duplicates.
    let ident = u16::from_be_bytes([src.octets()[3], dst.octets()[3]]).wrapping_add(total);
    header.extend(ident.to_be_bytes());
    header.extend([0x40, 0, 64, protocol, 0, 0]);
    header.extend(src.octets());
    header.extend(dst.octets());
    let sum = checksum::finish(checksum::sum(&header, 0));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn ipv6_header(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, payload: usize) -> Vec<u8> {
    let len = u16::try_from(payload).expect("an IPv6 packet has at most 65,535 bytes of payload");
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(len.to_be_bytes());
    header.extend([protocol, 64]);
    header.extend(src.octets());
    header.extend(dst.octets());
    header
}

/// Fills in the checksum at `offset` of an L4 packet.
fn with_checksum(src: &End, dst: &End, protocol: u8, offset: usize, mut l4: Vec<u8>) -> Vec<u8> {
    let len = u16::try_from(l4.len()).expect("an L4 packet has at most 65,535 bytes");
    let pseudo = match (src.ip, dst.ip) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            checksum::pseudo_ipv4(src.octets(), dst.octets(), protocol, len)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            checksum::pseudo_ipv6(src.octets(), dst.octets(), protocol, len.into())
        }
        _ => panic!("both ends must be of one family"),
    };
    let sum = checksum::finish(checksum::sum(&l4, pseudo));
    l4[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    l4
}

/// A TCP segment in a frame. `flags` as on the wire (SYN 0x02, ACK 0x10, ...).
#[must_use]
pub fn tcp(
    src: &End,
    dst: &End,
    vlans: &[(u16, u16)],
    flags: u8,
    seq: u32,
    ack: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut l4 = Vec::with_capacity(20 + payload.len());
    l4.extend(src.port.to_be_bytes());
    l4.extend(dst.port.to_be_bytes());
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend(payload);
    ip_frame(src, dst, vlans, TCP, &with_checksum(src, dst, TCP, 16, l4))
}

/// A UDP datagram in a frame.
#[must_use]
pub fn udp(src: &End, dst: &End, vlans: &[(u16, u16)], payload: &[u8]) -> Vec<u8> {
    let mut l4 = Vec::with_capacity(8 + payload.len());
    l4.extend(src.port.to_be_bytes());
    l4.extend(dst.port.to_be_bytes());
    l4.extend(
        u16::try_from(payload.len() + 8).expect("a UDP datagram has at most 65,535 bytes").to_be_bytes(),
    );
    l4.extend([0, 0]);
    l4.extend(payload);
    ip_frame(src, dst, vlans, UDP, &with_checksum(src, dst, UDP, 6, l4))
}

/// An ICMP echo request or reply in a frame.
#[must_use]
pub fn ping(src: &End, dst: &End, reply: bool, sequence: u16) -> Vec<u8> {
    let mut l4 = vec![if reply { 0 } else { 8 }, 0, 0, 0, 0x12, 0x34];
    l4.extend(sequence.to_be_bytes());
    l4.extend(0_u8..56);
    let sum = checksum::finish(checksum::sum(&l4, 0));
    l4[2..4].copy_from_slice(&sum.to_be_bytes());
    ip_frame(src, dst, &[], ICMP, &l4)
}

/// An ARP request: who has `dst`?
#[must_use]
pub fn arp_request(src: &End, dst: Ipv4Addr) -> Vec<u8> {
    let IpAddr::V4(own) = src.ip else { panic!("ARP is for IPv4") };
    let mut frame = vec![0xff; 6];
    frame.extend(src.mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(src.mac);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(dst.octets());
    frame
}

/// A whole TCP conversation: handshake, a request, an answer in segments of `mss` bytes, and the close.
#[must_use]
pub fn conversation(
    client: &End,
    server: &End,
    vlans: &[(u16, u16)],
    request: &[u8],
    answer: &[u8],
    mss: usize,
) -> Vec<Vec<u8>> {
    const FIN_ACK: u8 = 0x11;
    const SYN: u8 = 0x02;
    const PSH_ACK: u8 = 0x18;
    const ACK: u8 = 0x10;
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a short conversation");
    let (mut c, mut s) = (0x1000_0000_u32 + u32::from(client.port), 0x7000_0000_u32 + u32::from(server.port));
    let mut frames = vec![
        tcp(client, server, vlans, SYN, c, 0, &[]),
        tcp(server, client, vlans, SYN | ACK, s, c + 1, &[]),
    ];
    (c, s) = (c + 1, s + 1);
    frames.push(tcp(client, server, vlans, ACK, c, s, &[]));
    frames.push(tcp(client, server, vlans, PSH_ACK, c, s, request));
    c += len(request);
    for part in answer.chunks(mss.max(1)) {
        frames.push(tcp(server, client, vlans, PSH_ACK, s, c, part));
        s += len(part);
        frames.push(tcp(client, server, vlans, ACK, c, s, &[]));
    }
    frames.push(tcp(client, server, vlans, FIN_ACK, c, s, &[]));
    frames.push(tcp(server, client, vlans, FIN_ACK, s, c + 1, &[]));
    frames.push(tcp(client, server, vlans, ACK, c + 1, s + 1, &[]));
    frames
}

/// A mixed capture of a few seconds: web, DNS, ping, ARP, IPv6, VLAN tags, a jumbo frame. Frames with their times in
/// nanoseconds since the epoch.
#[must_use]
pub fn sample() -> Vec<(u64, Vec<u8>)> {
    let server = End::new(Ipv4Addr::new(192, 0, 2, 80).into(), 80);
    let resolver = End::new(Ipv4Addr::new(192, 0, 2, 53).into(), 53);
    let mut frames = Vec::new();
    for host in 1..=20_u8 {
        let ip = Ipv4Addr::new(10, 0, 0, host);
        let end = |port: u16| End::new(ip.into(), port);
        frames.push(arp_request(&end(0), Ipv4Addr::new(10, 0, 0, 254)));
        let query =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03com\x00\x00\x01\x00\x01";
        let mut answer = query.to_vec();
        answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x50");
        frames.push(udp(&end(40_000 + u16::from(host)), &resolver, &[], query));
        frames.push(udp(&resolver, &end(40_000 + u16::from(host)), &[], &answer));
        let request = format!("GET /page/{host} HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
        let body = "x".repeat(100 * usize::from(host));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let vlans: &[(u16, u16)] = if host % 5 == 0 { &[(0x8100, 100)] } else { &[] };
        let client = end(50_000 + u16::from(host));
        frames.extend(conversation(&client, &server, vlans, request.as_bytes(), answer.as_bytes(), 1448));
        frames.push(ping(&end(0), &server, false, host.into()));
        frames.push(ping(&server, &end(0), true, host.into()));
    }
    for host in 1..=5_u16 {
        let client = End::new(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, host).into(), 51_000 + host);
        let server = End::new(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x443).into(), 443);
        frames.extend(conversation(&client, &server, &[], &[0x16; 200], &[0x17; 3000], 1428));
    }
    let (from, to) =
        (End::new(Ipv4Addr::new(10, 0, 1, 1).into(), 2049), End::new(Ipv4Addr::new(10, 0, 1, 2).into(), 900));
    frames.push(udp(&from, &to, &[(0x88a8, 200), (0x8100, 300)], &[0xab; 8_900]));
    let start_ns = 1_700_000_000_000_000_000;
    frames.into_iter().zip(0_u64..).map(|(frame, n)| (start_ns + n * 1_234_567, frame)).collect()
}
