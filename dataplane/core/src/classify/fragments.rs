//! Which ports has a later fragment? Those of the first fragment of the same datagram, for a short time.

use crate::wire::ipv6::{self, Extension, Ipv6Header};
use crate::wire::{Fragment, L3, Parsed};

/// Places per set.
const WAYS: usize = 4;

/// The size and life of a [`FragmentTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentTableConfig {
    /// Datagrams that are remembered at once; rounded up to a power of two.
    pub datagrams: usize,
    /// How long one is remembered, nanoseconds.
    pub life_ns: u64,
}

impl Default for FragmentTableConfig {
    fn default() -> Self {
        Self { datagrams: 16_384, life_ns: 10_000_000_000 }
    }
}

/// What the table did for a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentOutcome {
    /// Not a fragment, or a first fragment without ports: nothing to do.
    NotNeeded,
    /// A first fragment: its ports were noted.
    Noted,
    /// A later fragment whose first one was seen: its protocol, ports and flags were filled in.
    Resolved,
    /// A later fragment whose first one was not seen.
    Unknown,
}

/// The identity of a datagram (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Key {
    src_addr: [u8; 16],
    dst_addr: [u8; 16],
    ident: u32,
    protocol: u8,
    ipv6: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: Key,
    /// 0 = empty.
    seen_ns: u64,
    src_port: u16,
    dst_port: u16,
    protocol: u8,
    tcp_flags: u8,
}

/// Datagrams of which a first fragment was seen; bounded, the oldest of a set gives way.
#[derive(Debug)]
pub struct FragmentTable {
    sets: Box<[[Entry; WAYS]]>,
    life_ns: u64,
}

impl FragmentTable {
    /// An empty table; all memory is taken here.
    #[must_use]
    pub fn new(config: &FragmentTableConfig) -> Self {
        let sets = config.datagrams.div_ceil(WAYS).max(1).next_power_of_two();
        Self { sets: vec![[Entry::default(); WAYS]; sets].into(), life_ns: config.life_ns }
    }

    /// Notes the ports of a first fragment, or fills in those of a later one.
    pub fn resolve(&mut self, parsed: &mut Parsed, frame: &[u8], now_ns: u64) -> FragmentOutcome {
        let noted = match parsed.fragment {
            Fragment::Whole => return FragmentOutcome::NotNeeded,
            Fragment::First if !parsed.has_ports => return FragmentOutcome::NotNeeded,
            Fragment::First => true,
            Fragment::Later => false,
        };
        let Some(key) = key(parsed, frame) else { return FragmentOutcome::Unknown };
        let mask = self.sets.len() - 1;
        let life_ns = self.life_ns;
        let Some(set) = self.sets.get_mut(hash(&key) & mask) else { return FragmentOutcome::Unknown };
        // Captures may be replayed with time running backwards: only the distance counts.
        let found =
            set.iter_mut().find(|e| e.seen_ns != 0 && e.key == key && e.seen_ns.abs_diff(now_ns) <= life_ns);
        if noted {
            let entry = match found {
                Some(entry) => Some(entry),
                None => set.iter_mut().min_by_key(|entry| entry.seen_ns),
            };
            if let Some(entry) = entry {
                *entry = Entry {
                    key,
                    seen_ns: now_ns.max(1),
                    src_port: parsed.src_port,
                    dst_port: parsed.dst_port,
                    protocol: parsed.protocol,
                    tcp_flags: parsed.tcp_flags,
                };
            }
            return FragmentOutcome::Noted;
        }
        match found {
            Some(entry) => {
                parsed.src_port = entry.src_port;
                parsed.dst_port = entry.dst_port;
                // In IPv6 that of a later fragment may be an extension header of the first one.
                parsed.protocol = entry.protocol;
                parsed.tcp_flags = entry.tcp_flags;
                parsed.has_ports = true;
                FragmentOutcome::Resolved
            }
            None => FragmentOutcome::Unknown,
        }
    }
}

/// The identity of the datagram that a fragment belongs to.
fn key(parsed: &Parsed, frame: &[u8]) -> Option<Key> {
    let ident = match parsed.l3 {
        L3::Ipv4 => {
            let header = frame.get(usize::from(parsed.l3_offset)..)?.first_chunk::<20>()?;
            u32::from(u16::from_be_bytes([header[4], header[5]]))
        }
        L3::Ipv6 => ipv6_ident(frame.get(usize::from(parsed.l3_offset)..)?)?,
        L3::None | L3::Arp => return None,
    };
    Some(Key {
        src_addr: parsed.src_addr,
        dst_addr: parsed.dst_addr,
        ident,
        // In IPv6, what follows the fragment header is no part of the identity.
        protocol: if parsed.l3 == L3::Ipv4 { parsed.protocol } else { 0 },
        ipv6: parsed.l3 == L3::Ipv6,
    })
}

/// The identification in the fragment header of an IPv6 packet.
fn ipv6_ident(packet: &[u8]) -> Option<u32> {
    let (header, mut rest) = Ipv6Header::split(packet)?;
    let mut kind = header.next_header();
    while ipv6::is_extension(kind) {
        if kind == ipv6::extension::FRAGMENT {
            let [.., a, b, c, d] = *rest.first_chunk::<8>()?;
            return Some(u32::from_be_bytes([a, b, c, d]));
        }
        let extension = Extension::new(kind, rest)?;
        kind = extension.next_header();
        rest = rest.get(extension.header_len()..)?;
    }
    None
}

fn hash(key: &Key) -> usize {
    let mut hash = u128::from(key.ident) << 8 | u128::from(key.protocol);
    for half in [u128::from_be_bytes(key.src_addr), u128::from_be_bytes(key.dst_addr)] {
        hash = (hash ^ half).wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
        hash ^= hash >> 67;
    }
    usize::try_from(hash & u128::from(u32::MAX)).unwrap_or(0)
}
