//! A source for benchmarks: packets come from templates in memory.

use dpdk::{Burst, Mempool};
use sluice_cpu::prefetch_index;

use crate::batch::{BATCH, RxInfo};

/// Templates that are fetched before they are copied, and how much of each.
const PREFETCH_AHEAD: usize = 8;
const PREFETCH_BYTES: usize = 256;

/// What differs from one visit of a template to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Advance {
    /// Nothing.
    #[default]
    Nothing,
    /// Conversations go on: the IPv4 identification counts up, and so do the sequence and acknowledgement numbers of
    /// TCP.
    Conversation {
        /// Where the (innermost) IPv4 header starts; it has no options, and nor has TCP.
        ip_offset: usize,
    },
    /// Each packet belongs to a flow of its own: source address and source port count up.
    NewFlow {
        /// Where the IPv4 header starts; it has no options.
        ip_offset: usize,
    },
    /// Recorded packets, each visit another recording: what tells a packet from its like counts up, and the numbers of
    /// TCP leap by a constant.
    Recording(Box<[Mark]>),
}

/// What can be changed in a recorded packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Where two bytes are that tell it from its like (IPv4 identification, IPv6 flow label); 0 = nowhere.
    pub id_offset: u8,
    /// Where the sequence number of TCP is; 0 = nowhere.
    pub seq_offset: u8,
}

/// Takes fresh mbufs from the pool and copies each packet's bytes from a template, as a NIC would write them.
#[derive(Debug)]
pub struct TemplateSource {
    pool: Mempool,
    /// All frames, each in a place of `stride` bytes.
    bytes: Box<[u8]>,
    lens: Box<[u16]>,
    stride: usize,
    next: usize,
    burst: usize,
    advance: Advance,
    /// Original lengths, where packets are sliced.
    wire_lens: Box<[u32]>,
    /// How often all templates were visited.
    round: u32,
    /// Packets made.
    made: u32,
}

impl TemplateSource {
    /// Cycles over `frames`, `burst` (at most 64) at a time. Each must fit one mbuf of `pool`.
    #[must_use]
    pub fn new(pool: Mempool, frames: &[Box<[u8]>], burst: usize, advance: Advance) -> Self {
        let longest = frames.iter().map(|frame| frame.len()).max().unwrap_or(0);
        let stride = longest.next_multiple_of(64).max(64);
        let mut bytes = vec![0; stride * frames.len()];
        for (place, frame) in bytes.chunks_exact_mut(stride).zip(frames) {
            place[..frame.len()].copy_from_slice(frame);
        }
        let lens = frames.iter().map(|frame| u16::try_from(frame.len()).unwrap_or(u16::MAX)).collect();
        Self {
            pool,
            bytes: bytes.into(),
            lens,
            stride,
            next: 0,
            burst: burst.clamp(1, BATCH),
            advance,
            wire_lens: Box::default(),
            round: 0,
            made: 0,
        }
    }

    /// The source with these original lengths, one for each frame.
    #[must_use]
    pub fn sliced(mut self, wire_lens: Box<[u32]>) -> Self {
        self.wire_lens = wire_lens;
        self
    }

    /// Sets the original lengths of the packets of the last burst.
    #[inline]
    pub(super) fn set_wire_lens(&self, infos: &mut [RxInfo]) {
        let total = self.wire_lens.len();
        if total == 0 {
            return;
        }
        let first = (self.next + total - infos.len() % total) % total;
        for (info, wire_len) in infos.iter_mut().zip(self.wire_lens.iter().cycle().skip(first)) {
            info.wire_len = *wire_len;
        }
    }

    /// Fills `out`; nothing when the pool is empty.
    #[inline]
    pub fn rx_burst(&mut self, out: &mut Burst) {
        if self.lens.is_empty() || !self.pool.alloc_burst(self.burst, out) {
            return;
        }
        for mbuf in out.iter_mut() {
            let (index, len) = (self.next, self.lens[self.next]);
            let from = index * self.stride;
            let Some(template) = self.bytes.get(from..from + self.stride) else { return };
            // The pipeline needs the caches for itself between two bursts.
            for line in (0..self.stride.min(PREFETCH_BYTES)).step_by(64) {
                prefetch_index(&self.bytes, from + PREFETCH_AHEAD * self.stride + line);
            }
            self.next += 1;
            let round = self.round;
            if self.next == self.lens.len() {
                self.next = 0;
                self.round = self.round.wrapping_add(1);
            }
            self.made = self.made.wrapping_add(1);
            let Some(bytes) = mbuf.append(len) else { continue };
            // The size that is measured most is copied in line.
            match (<&mut [u8; 64]>::try_from(&mut *bytes), template.first_chunk::<64>()) {
                (Ok(bytes), Some(template)) => *bytes = *template,
                _ => bytes.copy_from_slice(&template[..usize::from(len)]),
            }
            match &self.advance {
                Advance::Nothing => {}
                Advance::Conversation { ip_offset } => go_on(bytes, *ip_offset, round),
                Advance::NewFlow { ip_offset } => renew(bytes, *ip_offset, self.made),
                Advance::Recording(marks) => {
                    record_again(bytes, marks.get(index).copied().unwrap_or_default(), round);
                }
            }
        }
    }
}

/// Sets identification, sequence and acknowledgement numbers to those of visit `round`.
#[inline(always)]
fn go_on(bytes: &mut [u8], ip_offset: usize, round: u32) {
    /// Up to the end of the acknowledgement number.
    const LEN: usize = 32;
    let Some(ip) = bytes.get_mut(ip_offset..).and_then(|ip| ip.first_chunk_mut::<LEN>()) else { return };
    let [.., high, low] = round.to_be_bytes();
    [ip[4], ip[5]] = [high, low];
    // Other protocols stay as they are; without a branch, since traffic mixes them.
    let payload_len = u32::from(u16::from_be_bytes([ip[2], ip[3]])).wrapping_sub(40);
    let step = if ip[9] == 6 { round.wrapping_mul(payload_len) } else { 0 };
    for at in [24, 28] {
        let number = u32::from_be_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]).wrapping_add(step);
        [ip[at], ip[at + 1], ip[at + 2], ip[at + 3]] = number.to_be_bytes();
    }
}

/// Makes the packet of a recording that of recording `round`.
#[inline(always)]
fn record_again(bytes: &mut [u8], mark: Mark, round: u32) {
    /// More than a recorded connection sends.
    const LEAP: u32 = 1 << 26;
    let [.., high, low] = round.to_be_bytes();
    if let Some(id) = bytes.get_mut(usize::from(mark.id_offset)..).and_then(|id| id.first_chunk_mut::<2>())
        && mark.id_offset > 0
    {
        let [old_high, old_low] = *id;
        *id = [old_high ^ high, old_low ^ low];
    }
    if mark.seq_offset > 0
        && let Some(tcp) =
            bytes.get_mut(usize::from(mark.seq_offset)..).and_then(|seq| seq.first_chunk_mut::<8>())
    {
        for at in [0, 4] {
            let number = u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
            let number = number.wrapping_add(round.wrapping_mul(LEAP));
            [tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]] = number.to_be_bytes();
        }
    }
}

/// Sets source address and port to those of packet `made`.
#[inline(always)]
fn renew(bytes: &mut [u8], ip_offset: usize, made: u32) {
    /// Up to the end of the source port.
    const LEN: usize = 22;
    let Some(ip) = bytes.get_mut(ip_offset..).and_then(|ip| ip.first_chunk_mut::<LEN>()) else { return };
    let [high, upper, lower, low] = made.to_be_bytes();
    [ip[13], ip[14], ip[15]] = [upper, lower, low];
    [ip[20], ip[21]] = [0x80 | high, low];
}
