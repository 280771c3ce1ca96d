//! Which packets are the same? A keyed number over the part of a packet that stays as it is on its way.
//!
//! Of IP packets that is, by default, the IP header without TTL, TOS and checksum, and what follows it up to so many
//! payload bytes, but no padding. The total length is part of the header. Frames without IP count whole.

use sluice_cpu::hash_words;

use crate::wire::ipv4::protocol;
use crate::wire::{L3, Parsed};

/// The most bytes from the IP header on that can be part of a key, whatever headers claim.
pub const MAX_KEY_BYTES: usize = 2048;
/// Bytes hashed at once.
const BLOCK: usize = 64;
/// Half of it: nearly every packet has so many that count.
const HALF: usize = 32;
/// A quarter of it: what the header masks reach into.
const QUARTER: usize = 16;

/// Room to put the pieces of a scattered packet together.
pub type Scratch = [u8; MAX_KEY_BYTES];

/// What of an IP packet has to be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyProfile {
    /// Ethernet addresses.
    pub macs: bool,
    /// The ids of the first two VLAN tags, and how many tags there are.
    pub vlan: bool,
    /// TTL or hop limit.
    pub ttl: bool,
    /// TOS or traffic class, ECN included.
    pub tos: bool,
    /// The checksum of TCP, UDP and SCTP.
    pub l4_checksum: bool,
    /// Bytes after the last header.
    pub payload_bytes: u16,
}

impl Default for KeyProfile {
    fn default() -> Self {
        Self { macs: false, vlan: false, ttl: false, tos: false, l4_checksum: true, payload_bytes: 128 }
    }
}

/// Makes fingerprints by one profile and one secret.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprinter {
    seed: u64,
    profile: KeyProfile,
    /// What counts of the first 16 bytes of an IP header.
    ipv4_mask: [u64; 2],
    ipv6_mask: [u64; 2],
}

/// Spreads lengths over a word: odd, without structure.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Kinds of keys, so that a key of one kind is none of another.
const KIND_FRAME: u64 = 1;
const KIND_IPV4: u64 = 2;
const KIND_IPV6: u64 = 3;

/// The part of an IP packet that is hashed.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// From the IP header on.
    start: usize,
    len: usize,
    /// The length that the IP header does not say: of a super-frame whose length field is 0.
    unsaid: u32,
}

impl Fingerprinter {
    /// A fingerprinter by `profile`. Whoever does not know `seed` cannot make packets that collide.
    #[must_use]
    pub fn new(profile: KeyProfile, seed: u64) -> Self {
        let mask = |kept: [u8; 16]| {
            let [a, b, c, d, e, f, g, h, rest @ ..] = kept;
            [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest)]
        };
        let (ttl, tos) = (u8::from(profile.ttl).wrapping_neg(), u8::from(profile.tos).wrapping_neg());
        let mut ipv4 = [0xff; 16];
        (ipv4[1], ipv4[8], ipv4[10], ipv4[11]) = (tos, ttl, 0, 0);
        let mut ipv6 = [0xff; 16];
        (ipv6[0], ipv6[1], ipv6[7]) = (0xf0 | tos, 0x0f | tos, ttl);
        Self { seed, profile, ipv4_mask: mask(ipv4), ipv6_mask: mask(ipv6) }
    }

    /// The fingerprint of a frame whose captured bytes are all in `frame`, with the headers that count, and its
    /// original length.
    #[inline(always)]
    #[must_use]
    pub fn fingerprint(&self, frame: &[u8], headers: &Parsed, wire_len: u32) -> u64 {
        let Some(part) = self.part(frame, headers, frame.len(), wire_len) else {
            return self.whole(std::iter::once(frame), headers, wire_len);
        };
        let bytes = frame.get(part.start..part.start + part.len).unwrap_or(&[]);
        self.finish(bytes, part, frame, headers)
    }

    /// The same for a frame in several segments, the first of which holds all headers that were parsed.
    #[must_use]
    pub fn fingerprint_segments<'f>(
        &self,
        segments: impl Iterator<Item = &'f [u8]> + Clone,
        headers: &Parsed,
        wire_len: u32,
        scratch: &mut Scratch,
    ) -> u64 {
        let first = segments.clone().next().unwrap_or(&[]);
        let cap_len = segments.clone().map(<[u8]>::len).sum();
        let Some(part) = self.part(first, headers, cap_len, wire_len) else {
            return self.whole(segments, headers, wire_len);
        };
        let mut skip = part.start;
        let mut filled = 0;
        for segment in segments {
            let bytes = segment.get(skip..).unwrap_or(&[]);
            skip = skip.saturating_sub(segment.len());
            let room = scratch.get_mut(filled..part.len).unwrap_or(&mut []);
            let take = bytes.len().min(room.len());
            room[..take].copy_from_slice(&bytes[..take]);
            filled += take;
        }
        let bytes = scratch.get(..part.len).unwrap_or(&[]);
        self.finish(bytes, part, first, headers)
    }

    /// Which bytes count; `None` when it is no IP packet.
    #[inline(always)]
    fn part(&self, frame: &[u8], headers: &Parsed, cap_len: usize, wire_len: u32) -> Option<Part> {
        let start = usize::from(headers.l3_offset);
        let field = match headers.l3 {
            L3::Ipv4 => frame.get(start + 2..)?.first_chunk::<2>(),
            L3::Ipv6 => frame.get(start + 4..)?.first_chunk::<2>(),
            L3::Arp | L3::None => return None,
        };
        let stated = usize::from(u16::from_be_bytes(*field?));
        let fixed = if headers.l3 == L3::Ipv6 { 40 } else { 0 };
        // A length of 0: a super-frame, or a jumbogram (as the parser takes it).
        let (ip_len, unsaid) = if stated == 0 {
            (cap_len, wire_len.saturating_sub(headers.l3_offset.into()))
        } else {
            (stated + fixed, 0)
        };
        let headers_len = usize::from(headers.header_end - headers.l3_offset);
        let wanted = headers_len + usize::from(self.profile.payload_bytes);
        let len = wanted.min(ip_len).min(cap_len.saturating_sub(start)).min(MAX_KEY_BYTES);
        Some(Part { start, len, unsaid })
    }

    /// The number of an IP packet of which `bytes` count.
    #[inline(always)]
    fn finish(&self, bytes: &[u8], part: Part, frame: &[u8], headers: &Parsed) -> u64 {
        let (kind, mask) = match headers.l3 {
            L3::Ipv6 => (KIND_IPV6, &self.ipv6_mask),
            L3::Ipv4 | L3::Arp | L3::None => (KIND_IPV4, &self.ipv4_mask),
        };
        let sum = match bytes.first_chunk::<HALF>() {
            Some(first) if self.profile.l4_checksum => self.overlapping(bytes, first, mask),
            _ => self.padded(bytes, mask, headers),
        };
        let lengths = kind | (part.len as u64) << 8 | u64::from(part.unsaid) << 32;
        if !self.profile.macs && !self.profile.vlan {
            return sum ^ lengths.wrapping_mul(SPREAD);
        }
        let (mut dst, mut src) = (0, 0);
        if self.profile.macs && headers.l2_offset < headers.l3_offset {
            let macs = frame.get(headers.l2_offset.into()..).and_then(<[u8]>::first_chunk::<12>);
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *macs.unwrap_or(&[0; 12]);
            dst = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
            src = u64::from_le_bytes([g, h, i, j, k, l, 0, 0]);
        }
        if self.profile.vlan {
            dst |= u64::from(headers.vlan_tci & 0xfff | u16::from(headers.vlan_count) << 12) << 48;
            src |= u64::from(headers.vlan_inner_tci & 0xfff) << 48;
        }
        hash_words(&[sum, lengths, dst, src], self.seed)
    }

    /// The sum over at least 32 bytes, the last of which may be read twice: nothing is copied, and hardly a branch
    /// depends on the length, which the caller adds. What the mask hides lies in the first 16 bytes: these are read once.
    #[inline(always)]
    fn overlapping(&self, bytes: &[u8], first: &[u8; HALF], mask: &[u64; 2]) -> u64 {
        let [a, b, c, d] = words_of::<HALF, 4>(first);
        let (a, b) = (a & mask[0], b & mask[1]);
        let [y, z] = bytes.last_chunk::<QUARTER>().map_or([0; 2], words_of);
        let Some((block, mut left)) = bytes.split_first_chunk::<BLOCK>() else {
            let middle =
                bytes.get(HALF.min(bytes.len() - QUARTER)..).and_then(<[u8]>::first_chunk::<QUARTER>);
            let [w, x] = middle.map_or([0; 2], words_of);
            return hash_words(&[a, b, c, d, w, x, y, z], self.seed);
        };
        let [_, _, c, d, e, f, g, h] = words_of::<BLOCK, 8>(block);
        let mut sum = hash_words(&[a, b, c, d, e, f, g, h], self.seed);
        while let Some((block, after)) = left.split_first_chunk::<BLOCK>() {
            sum = hash_words(&words_of::<BLOCK, 8>(block), sum);
            left = after;
        }
        if left.is_empty() {
            return sum;
        }
        if left.len() <= QUARTER {
            return hash_words(&[y, z], sum);
        }
        hash_words(&bytes.last_chunk::<BLOCK>().map_or([0; 8], words_of::<BLOCK, 8>), sum)
    }

    /// The sum over any bytes, zeros behind the end, without the L4 checksum unless it counts.
    #[inline(never)]
    fn padded(&self, bytes: &[u8], mask: &[u64; 2], headers: &Parsed) -> u64 {
        let checksum = if self.profile.l4_checksum { None } else { checksum_word(headers) };
        let mut words = words(bytes);
        words[0] &= mask[0];
        words[1] &= mask[1];
        if let Some((word, mask)) = checksum
            && let Some(word) = words.get_mut(word)
        {
            *word &= mask;
        }
        more_blocks(bytes, checksum, hash_words(&words, self.seed))
    }

    /// The number of a frame all of whose captured bytes count, from the Ethernet header of the view on.
    #[inline(never)]
    fn whole<'f>(&self, segments: impl Iterator<Item = &'f [u8]>, headers: &Parsed, wire_len: u32) -> u64 {
        let mut skip = usize::from(headers.l2_offset);
        let mut block = [0; BLOCK];
        let (mut filled, mut len) = (0, 0_u64);
        let mut sum = self.seed;
        for segment in segments {
            let mut bytes = segment.get(skip..).unwrap_or(&[]);
            skip = skip.saturating_sub(segment.len());
            len += bytes.len() as u64;
            while !bytes.is_empty() {
                let take = bytes.len().min(BLOCK - filled);
                block[filled..filled + take].copy_from_slice(&bytes[..take]);
                filled += take;
                bytes = &bytes[take..];
                if filled == BLOCK {
                    sum = hash_words(&words(&block), sum);
                    filled = 0;
                }
            }
        }
        sum = hash_words(&words(&block[..filled]), sum);
        let wire_len = wire_len.saturating_sub(headers.l2_offset.into());
        hash_words(&[sum, KIND_FRAME | len << 8, u64::from(wire_len), 0], self.seed)
    }
}

/// `BYTES` bytes as words.
#[inline(always)]
fn words_of<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u64; WORDS] {
    const { assert!(BYTES == 8 * WORDS) };
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

/// The blocks after the first one; `checksum` is in one of them, perhaps.
fn more_blocks(bytes: &[u8], checksum: Option<(usize, u64)>, mut sum: u64) -> u64 {
    let mut first_word = BLOCK / 8;
    for block in bytes.chunks(BLOCK).skip(1) {
        let mut words = words(block);
        if let Some((word, mask)) = checksum
            && let Some(word) = word.checked_sub(first_word).and_then(|word| words.get_mut(word))
        {
            *word &= mask;
        }
        sum = hash_words(&words, sum);
        first_word += BLOCK / 8;
    }
    sum
}

/// The word, counted from the IP header on, that holds the L4 checksum, and what else of it counts.
#[inline(always)]
fn checksum_word(headers: &Parsed) -> Option<(usize, u64)> {
    let (offset, bits) = match headers.protocol {
        protocol::TCP => (16, 0xffff_u64),
        protocol::UDP => (6, 0xffff),
        protocol::SCTP => (8, 0xffff_ffff),
        _ => return None,
    };
    // IP headers are multiples of four bytes long, so no checksum spans two words.
    let at = usize::from(headers.l4_offset.checked_sub(headers.l3_offset)?) + offset;
    Some((at / 8, !(bits << (at % 8 * 8))))
}

/// The first 64 of these bytes as words, zeros behind the end.
#[inline(always)]
fn words(bytes: &[u8]) -> [u64; BLOCK / 8] {
    let mut words = [0; BLOCK / 8];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    let (full, rest) = (bytes.len() / 8, bytes.len() % 8);
    if let (Some(word), true) = (words.get_mut(full), rest > 0) {
        *word = match bytes.last_chunk::<8>() {
            Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest),
            None => bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
    }
    words
}
