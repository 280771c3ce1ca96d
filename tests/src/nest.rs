//! Frames with tunnels in tunnels, of which each layer is known: an obvious model of what taking them off leaves.
#![expect(clippy::cast_possible_truncation, reason = "made-up packets are short")]

use sluice_core::decap::Unwrapped;
use sluice_core::wire::TunnelHeader;

/// A small generator of numbers (xorshift): the same on every machine.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// A generator; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(0x1234_5678_9abc).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    /// Yes or no.
    pub fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Drawn bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.below(256) as u8)
    }
}

/// A packet with or without an Ethernet header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// An Ethernet frame.
    Frame(Vec<u8>),
    /// An IP packet.
    Ip(Vec<u8>),
}

impl Packet {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(bytes) | Self::Ip(bytes) => bytes,
        }
    }
}

/// One tunnel of a nest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// What the parser calls it.
    pub kind: TunnelHeader,
    /// Its id.
    pub id: u32,
    /// The source address of its packet, 4 or 16 bytes; none for MPLS.
    pub source: Vec<u8>,
    /// The number that it gave the packet.
    pub number: Option<u32>,
}

/// A frame with tunnels, layer by layer from the outside.
#[derive(Clone, Debug)]
pub struct Nest {
    /// What is left after so many tunnels are taken off; the first is the whole frame.
    pub layers: Vec<Packet>,
    /// The tunnels from the outside, one less.
    pub tunnels: Vec<Tunnel>,
    /// The bytes of padding behind the frame.
    pub padding: usize,
}

impl Nest {
    /// So many tunnels around a packet, everything else drawn.
    pub fn draw(numbers: &mut Numbers, tunnels: usize) -> Self {
        let mut nest = Self { layers: Vec::new(), tunnels: Vec::new(), padding: 0 };
        let mut packet = innermost(numbers);
        for _ in 0..tunnels {
            if let Packet::Ip(ip) = &packet
                && numbers.flip()
            {
                packet = Packet::Frame(frame(numbers, ip_type(ip), ip));
            }
            let (wrapped, tunnel) = wrap(numbers, &packet);
            nest.layers.insert(0, packet);
            nest.tunnels.insert(0, tunnel);
            packet = wrapped;
        }
        if let Packet::Ip(ip) = &packet {
            packet = Packet::Frame(frame(numbers, ip_type(ip), ip));
        }
        nest.layers.insert(0, packet);
        nest.padding = if numbers.flip() { numbers.below(20) } else { 0 };
        nest
    }

    /// The frame with its padding.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = self.layers[0].bytes().to_vec();
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }

    /// The frame that is left after `depth` tunnels are taken off.
    pub fn left(&self, depth: usize) -> Vec<u8> {
        // The length of an IP packet ends what is inside it; MPLS has none.
        let padding =
            if self.tunnels[..depth].iter().all(|t| t.kind == TunnelHeader::Mpls) { self.padding } else { 0 };
        let mut left = match &self.layers[depth] {
            Packet::Frame(frame) => frame.clone(),
            Packet::Ip(ip) => {
                let around = self.layers[..depth].iter().rev().find_map(|layer| match layer {
                    Packet::Frame(frame) => Some(frame),
                    Packet::Ip(_) => None,
                });
                let addresses = &around.expect("the whole frame is one")[..12];
                [addresses, &ip_type(ip).to_be_bytes(), ip].concat()
            }
        };
        left.resize(left.len() + padding, 0xee);
        left
    }
}

/// What taking the tunnels off makes of the bytes of a frame, done slowly.
pub fn take_off(frame: &[u8], found: &Unwrapped) -> Vec<u8> {
    let end = frame.len().min(found.end as usize);
    let start = usize::from(found.start);
    match found.header {
        None => frame[start..end].to_vec(),
        Some(header) => {
            let from = usize::from(header.addresses_at);
            [&frame[from..from + 12], &header.ethertype.to_be_bytes(), &frame[start + 14..end]].concat()
        }
    }
}

fn innermost(numbers: &mut Numbers) -> Packet {
    let payload = vec![0x5a; numbers.below(200)];
    let packet = match numbers.below(4) {
        0 => {
            let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &numbers.bytes::<20>()].concat();
            return Packet::Frame(frame(numbers, 0x0806, &arp));
        }
        1 => ip(numbers, 17, &udp(3000, 53, &payload)).0,
        2 => {
            let mut tcp =
                [&[0x10, 0, 0, 80][..], &numbers.bytes::<8>(), &[0x50, 0x18, 1, 0, 0, 0, 0, 0]].concat();
            tcp.extend(&payload);
            ip(numbers, 6, &tcp).0
        }
        _ => ip(numbers, 1, &[&[8, 0, 0, 0, 0, 1, 0, 1][..], &payload].concat()).0,
    };
    if numbers.flip() { Packet::Ip(packet) } else { Packet::Frame(frame(numbers, ip_type(&packet), &packet)) }
}

fn ip_type(ip: &[u8]) -> u16 {
    if ip[0] >> 4 == 4 { 0x0800 } else { 0x86dd }
}

/// An Ethernet frame, sometimes with tags.
fn frame(numbers: &mut Numbers, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2];
    frame.extend(numbers.bytes::<5>());
    frame.push(2);
    frame.extend(numbers.bytes::<5>());
    for tag in 0..[0, 0, 0, 1, 2][numbers.below(5)] {
        frame.extend([[0x81, 0x00], [0x88, 0xa8]][tag]);
        frame.extend(numbers.bytes::<2>());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() + 8) as u16;
    [&src.to_be_bytes()[..], &dst.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

/// An IP packet of either version, sometimes with options or extension headers; and its source.
fn ip(numbers: &mut Numbers, protocol: u8, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    if numbers.flip() {
        let options = [0, 0, 4, 12][numbers.below(4)];
        let len = (20 + options + payload.len()) as u16;
        let source = [10, 0, numbers.below(256) as u8, 1];
        let mut packet = vec![0x45 + (options / 4) as u8, 0];
        packet.extend(len.to_be_bytes());
        packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        packet.extend(source);
        packet.extend([10, 1, 2, 3]);
        packet.extend(vec![1; options]);
        packet.extend(payload);
        return (packet, source.to_vec());
    }
    let extension = if numbers.below(4) == 0 { vec![protocol, 0, 1, 4, 0, 0, 0, 0] } else { Vec::new() };
    let next = if extension.is_empty() { protocol } else { 0 };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(((extension.len() + payload.len()) as u16).to_be_bytes());
    packet.extend([next, 64]);
    let source = [[0x20, 1, 0x0d, 0xb8].as_slice(), &numbers.bytes::<12>()].concat();
    packet.extend(&source);
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    packet.extend(extension);
    packet.extend(payload);
    (packet, source)
}

/// The packet in a tunnel of a kind that carries such packets.
fn wrap(numbers: &mut Numbers, packet: &Packet) -> (Packet, Tunnel) {
    let inner = packet.bytes();
    let [_, a, b, c] = numbers.bytes::<4>();
    let id24 = u32::from_be_bytes([0, a, b, c]);
    let number = numbers.bytes::<4>();
    let source_port = 50_000 + numbers.below(1000) as u16;
    let over_udp = |numbers: &mut Numbers, port, header: &[u8]| {
        ip(numbers, 17, &udp(source_port, port, &[header, inner].concat()))
    };
    let made = |kind, id, number, (packet, source)| (Packet::Ip(packet), Tunnel { kind, id, source, number });
    let is_frame = matches!(packet, Packet::Frame(_));
    match (numbers.below(if is_frame { 7 } else { 5 }), is_frame) {
        (0, _) => {
            let words = numbers.below(4);
            let protocol = if is_frame { 0x6558 } else { ip_type(inner) };
            let [high, low] = protocol.to_be_bytes();
            let header = [&[words as u8, 0, high, low, a, b, c, 0][..], &vec![0; words * 4]].concat();
            let packet = over_udp(numbers, 6081, &header);
            made(TunnelHeader::Geneve, id24, None, packet)
        }
        (1, _) => {
            let (key, numbered, checksum) = (numbers.flip(), numbers.flip(), numbers.flip());
            let protocol = if is_frame { 0x6558 } else { ip_type(inner) };
            let flags = u8::from(checksum) << 7 | u8::from(key) << 5 | u8::from(numbered) << 4;
            let mut gre = vec![flags, 0];
            gre.extend(protocol.to_be_bytes());
            gre.extend(if checksum { vec![0; 4] } else { Vec::new() });
            gre.extend(if key { vec![0, a, b, c] } else { Vec::new() });
            gre.extend(if numbered { number.to_vec() } else { Vec::new() });
            gre.extend(inner);
            let kind = if is_frame { TunnelHeader::GreTeb } else { TunnelHeader::Gre };
            let number = numbered.then_some(u32::from_be_bytes(number));
            made(kind, if key { id24 } else { 0 }, number, ip(numbers, 47, &gre))
        }
        (2, _) => {
            let mut stack = Vec::new();
            for _ in 0..numbers.below(4) {
                let [x, y] = numbers.bytes::<2>();
                stack.extend([x, y, 0x10, 64]);
            }
            let label = id24 >> 4;
            stack.extend((label << 12 | 0x100 | 64).to_be_bytes());
            if is_frame && numbers.flip() {
                stack.extend([0, 0, number[0], number[1]]);
            }
            stack.extend(inner);
            let ethertype = if numbers.flip() { 0x8847 } else { 0x8848 };
            let wrapped = frame(numbers, ethertype, &stack);
            let tunnel = Tunnel { kind: TunnelHeader::Mpls, id: label, source: Vec::new(), number: None };
            (Packet::Frame(wrapped), tunnel)
        }
        (3, true) => {
            let reference = numbers.flip();
            let [_, x, y, z] = number;
            let header = if reference { [0xff, x, y, z, a, b, c, 0] } else { [0x08, 0, 0, 0, a, b, c, 0] };
            let number = reference.then_some(u32::from_be_bytes([0, x, y, z]));
            let packet = over_udp(numbers, 4789, &header);
            made(TunnelHeader::Vxlan, id24, number, packet)
        }
        (4, true) => {
            made(TunnelHeader::Erspan1, 0, None, ip(numbers, 47, &[&[0, 0, 0x88, 0xbe][..], inner].concat()))
        }
        (kind, true) => {
            let session = id24 & 0x3ff;
            let version: u32 = if kind == 5 { 1 } else { 2 };
            let protocol: u16 = if kind == 5 { 0x88be } else { 0x22eb };
            let mut gre = vec![0x10, 0];
            gre.extend(protocol.to_be_bytes());
            gre.extend(number);
            gre.extend((version << 28 | session).to_be_bytes());
            gre.extend(numbers.bytes::<4>());
            if kind == 6 {
                let sub_header = numbers.flip();
                gre.extend([0, 0, 0, u8::from(sub_header)]);
                gre.extend(vec![0; if sub_header { 8 } else { 0 }]);
            }
            gre.extend(inner);
            let kind = if kind == 5 { TunnelHeader::Erspan2 } else { TunnelHeader::Erspan3 };
            made(kind, session, Some(u32::from_be_bytes(number)), ip(numbers, 47, &gre))
        }
        (3, false) => {
            let extensions = numbers.below(3);
            let mut header = vec![if extensions > 0 { 0x34 } else { 0x30 }, 255];
            let optional = if extensions > 0 { 4 + 4 * extensions } else { 0 };
            header.extend(((inner.len() + optional) as u16).to_be_bytes());
            header.extend([0, a, b, c]);
            if extensions > 0 {
                header.extend([0, 0, 0, 0x85]);
                for left in (0..extensions).rev() {
                    header.extend([1, 0, 0, if left > 0 { 0x85 } else { 0 }]);
                }
            }
            let packet = over_udp(numbers, 2152, &header);
            made(TunnelHeader::GtpU, id24, None, packet)
        }
        (_, false) => {
            let protocol = if ip_type(inner) == 0x0800 { 4 } else { 41 };
            made(TunnelHeader::IpInIp, 0, None, ip(numbers, protocol, inner))
        }
    }
}
