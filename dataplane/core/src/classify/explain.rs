//! Why does a policy match a packet, or not? Field by field, for people who ask; never on the packet's way.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use sluice_model::{MacAddr, Policy, PortId, Side};

use super::batch::Packet;
use super::dimension::{Scalar, has_ethernet};
use super::origins::Origins;
use crate::wire::{L3, Parsed};

/// What a packet has of one field of a policy that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The field as a policy file names it: `collect.ports`.
    pub field: &'static str,
    /// What the packet has.
    pub found: Found,
}

/// The value of a field of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The packet has no such header.
    None,
    /// A number: a port, a protocol, an id, a length.
    Number(u32),
    /// An EtherType.
    Ethertype(u32),
    /// TCP flags, FIN 0x01 to CWR 0x80 (RFC 9293 section 3.1).
    TcpFlags(u8),
    /// The port that it came in by.
    Ingress(PortId),
    /// The number of the tap that it came from.
    Tap(u16),
    /// `whole`, `first` or `later`.
    Fragment(&'static str),
    /// An address.
    Address(String),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Number(number) => number.fmt(f),
            Self::Ethertype(number) => write!(f, "0x{number:04x}"),
            Self::TcpFlags(0) => f.write_str("no flags"),
            Self::TcpFlags(flags) => {
                let names = tcp_flag_names(*flags).collect::<Vec<_>>();
                f.write_str(&names.join(" "))
            }
            Self::Ingress(PortId(port)) => write!(f, "port number {port}"),
            Self::Tap(tap) => write!(f, "tap number {tap}"),
            Self::Fragment(name) => f.write_str(name),
            Self::Address(text) => f.write_str(text),
        }
    }
}

/// The names of TCP flags, from FIN to CWR.
pub fn tcp_flag_names(flags: u8) -> impl Iterator<Item = &'static str> {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    NAMES.into_iter().enumerate().filter(move |(bit, _)| flags >> bit & 1 == 1).map(|(_, name)| name)
}

/// What one policy makes of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether source = collect and destination = peer fits.
    pub egress: bool,
    /// Whether destination = collect and source = peer fits.
    pub ingress: bool,
    /// Each predicate that does not hold, those of the sides by the nearer reading; none when the policy matches.
    pub mismatches: Vec<Mismatch>,
}

impl Explanation {
    /// Whether the policy matches.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.mismatches.is_empty()
    }
}

/// A packet as one policy reads it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The first segment of the frame.
    pub frame: &'a [u8],
    /// The headers that the policy reads: the outermost or the innermost ones.
    pub headers: &'a Parsed,
    /// Original length in bytes.
    pub wire_len: u32,
    /// Where it came in.
    pub ingress: PortId,
    /// The number of the tap that it came from.
    pub tap: u16,
}

/// Holds every predicate of `policy` against a packet, which may come from `origins`.
///
/// This is the slow way to what [`Classifier::classify`](super::Classifier::classify) finds by tables; it says why.
#[must_use]
pub fn explain(policy: &Policy, subject: &Subject<'_>, origins: &Origins<'_>) -> Explanation {
    let &Subject { frame, headers, wire_len, ingress, tap } = subject;
    let packet = Packet { frame, parsed: headers, wire_len, ingress, tap };
    let [src, dst] = [End::source(&packet), End::destination(&packet)];
    let reading = |collect: &End, peer: &End| {
        let mut found = Vec::new();
        collect.against(&policy.collect, ["collect.addresses", "collect.ports"], &mut found);
        peer.against(&policy.peer, ["peer.addresses", "peer.ports"], &mut found);
        found
    };
    let [egress, ingress] = [reading(&src, &dst), reading(&dst, &src)];
    let fits = [egress.is_empty(), ingress.is_empty()];
    let mut mismatches = if ingress.len() < egress.len() { ingress } else { egress };
    for scalar in Scalar::ALL {
        let Some(wanted) = scalar.wanted(policy, origins) else { continue };
        let value = scalar.value(&packet);
        let within = |value: u32| wanted.iter().any(|&(first, last)| (first..=last).contains(&value.into()));
        if !value.is_some_and(within) {
            mismatches.push(Mismatch { field: scalar.name(), found: found(scalar, value) });
        }
    }
    Explanation { egress: fits[0], ingress: fits[1], mismatches }
}

fn found(scalar: Scalar, value: Option<u32>) -> Found {
    let Some(value) = value else { return Found::None };
    match scalar {
        Scalar::Ethertype => Found::Ethertype(value),
        Scalar::TcpFlags => Found::TcpFlags(u8::try_from(value).unwrap_or(u8::MAX)),
        Scalar::Ingress => Found::Ingress(PortId(u16::try_from(value).unwrap_or(u16::MAX))),
        Scalar::Tap => Found::Tap(u16::try_from(value).unwrap_or(u16::MAX)),
        Scalar::Fragment => Found::Fragment(["whole", "first", "later"].get(value as usize).unwrap_or(&"")),
        Scalar::Protocol | Scalar::Vlan | Scalar::VlanInner | Scalar::TunnelId | Scalar::Length => {
            Found::Number(value)
        }
    }
}

/// One end of a packet.
struct End {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    mac: Option<MacAddr>,
    port: Option<u16>,
}

impl End {
    fn source(packet: &Packet<'_>) -> Self {
        Self::new(packet, &packet.parsed.src_addr, 6, packet.parsed.src_port)
    }

    fn destination(packet: &Packet<'_>) -> Self {
        Self::new(packet, &packet.parsed.dst_addr, 0, packet.parsed.dst_port)
    }

    fn new(packet: &Packet<'_>, address: &[u8; 16], mac_at: usize, port: u16) -> Self {
        let parsed = packet.parsed;
        let at = usize::from(parsed.l2_offset) + mac_at;
        let mac = packet.frame.get(at..).and_then(|rest| rest.first_chunk::<6>());
        let &[a, b, c, d, ..] = address;
        Self {
            ipv4: (parsed.l3 == L3::Ipv4).then(|| Ipv4Addr::new(a, b, c, d)),
            ipv6: (parsed.l3 == L3::Ipv6).then(|| Ipv6Addr::from(*address)),
            mac: mac.filter(|_| has_ethernet(parsed)).map(|&mac| MacAddr(mac)),
            port: parsed.has_ports.then_some(port),
        }
    }

    /// Adds what of `side` does not hold for this end.
    fn against(&self, side: &Side, [addresses, ports]: [&'static str; 2], mismatches: &mut Vec<Mismatch>) {
        let sets = || side.addresses.iter();
        let fits = sets().any(|set| {
            self.ipv4.is_some_and(|address| set.ipv4.contains(address.to_bits()))
                || self.ipv6.is_some_and(|address| set.ipv6.contains(address.to_bits()))
                || self.mac.is_some_and(|mac| set.macs.contains(&mac))
        });
        if !side.addresses.is_empty() && !fits {
            let mac = self.mac.filter(|_| sets().any(|set| !set.macs.is_empty()));
            let texts = [
                self.ipv4.map(|address| address.to_string()),
                self.ipv6.map(|address| address.to_string()),
                mac.map(|mac| mac.to_string()),
            ];
            let texts: Vec<String> = texts.into_iter().flatten().collect();
            let found = if texts.is_empty() { Found::None } else { Found::Address(texts.join(" ")) };
            mismatches.push(Mismatch { field: addresses, found });
        }
        if let Some(wanted) = &side.ports
            && !self.port.is_some_and(|port| wanted.contains(port))
        {
            let found = self.port.map_or(Found::None, |port| Found::Number(port.into()));
            mismatches.push(Mismatch { field: ports, found });
        }
    }
}
