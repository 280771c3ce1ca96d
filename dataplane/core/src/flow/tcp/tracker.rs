//! What do the segments of a connection say about delays, losses and windows?
//!
//! The definitions are those of the reference system with the deviations that docs/flow-records.md lists: no PSH is
//! needed to see a request, an acknowledgement of a part leaves the timer running, one of more than the request ends
//! it, and sequence numbers are compared as serial numbers.

use sluice_model::{Delay, DelayLimits, TcpPerf};

use super::handshake::Handshake;
use super::ranges::{NO_BLOCK, RangePool, Run, Seen, before};
use super::state::flags::{ACK, FIN, MASK, RST, SYN};

/// Which way a packet goes: from the client, or from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Forward,
    /// Server to client.
    Backward,
}

impl Direction {
    /// 0 = from the client, 1 = from the server.
    #[inline(always)]
    #[must_use]
    pub const fn of_side(side: usize) -> Self {
        if side == 0 { Self::Forward } else { Self::Backward }
    }
}

/// The fields of a TCP segment (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSegment {
    /// Capture time, nanoseconds since the epoch.
    pub time_ns: u64,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Payload bytes by the IP header's length.
    pub payload_len: u32,
    /// The window as it stands in the header, not scaled.
    pub window: u16,
    /// Flags; ECN bits are ignored.
    pub flags: u8,
}

/// What is remembered of one direction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Side {
    /// The highest run of sequence numbers that were seen.
    pub(super) run: Run,
    /// Where the latest segment of this direction ended: what a segment that continues it starts at.
    pub(super) next: u32,
    /// The runs below the highest one, in the pool.
    block: u32,
}

impl Default for Side {
    fn default() -> Self {
        Self { run: Run::default(), next: 0, block: NO_BLOCK }
    }
}

/// Bits of [`TcpTracker::marks`].
pub(super) mod mark {
    /// A run of the client (and, one bit on, of the server) was begun.
    pub(crate) const HAS_RUN: u16 = 1;
    /// A request waits for an acknowledgement.
    pub(crate) const SRT: u16 = 4;
    /// A request waits for a response.
    pub(crate) const ART: u16 = 8;
    /// SYN was seen, and not answered yet.
    pub(crate) const SYN_OPEN: u16 = 16;
    /// SYN-ACK was seen, and not acknowledged yet.
    pub(crate) const SYN_ACK_OPEN: u16 = 32;
    /// The client's first SYN was seen.
    pub(crate) const SYN_SEEN: u16 = 64;
    /// A SYN-ACK was seen.
    pub(crate) const SYN_ACK_SEEN: u16 = 128;
    /// The handshake's ACK was seen.
    pub(crate) const ACK_SEEN: u16 = 256;
    /// Something was noted in [`super::Measured::perf`].
    pub(crate) const MEASURED: u16 = 512;
}

/// What is remembered of a connection between its segments: one cache line that each of them touches.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct TcpTracker {
    pub(super) sides: [Side; 2],
    /// The time of the latest request segment (or datagram).
    request_ns: u64,
    /// Where it ended.
    request_end: u32,
    /// The sequence number of the handshake's ACK, and its window.
    pub(super) ack_seq: u32,
    pub(super) ack_window: u16,
    pub(super) marks: u16,
}

const _: () = assert!(size_of::<TcpTracker>() == 64);

/// The delays that any packet may add to: they lie beside what each packet reads, not with what is seldom written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Delays {
    /// Last request segment to the server's bare ACK.
    pub srt: Samples,
    /// Last request segment (or datagram) to the first of the response.
    pub art: Samples,
}

/// Samples of a delay, as small as an entry needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Samples {
    sum_ns: u64,
    max_us: u32,
    count: u32,
}

impl Samples {
    /// Adds a sample, unless it is 0 or above `limit_ns`: such are artefacts, and discarded.
    #[inline]
    pub fn add(&mut self, sample_ns: u64, limit_ns: u64) {
        if sample_ns > 0 && sample_ns <= limit_ns {
            self.sum_ns += sample_ns;
            self.max_us = self.max_us.max(u32::try_from(sample_ns / 1000).unwrap_or(u32::MAX));
            self.count += 1;
        }
    }

    fn merge(&mut self, other: Self) {
        self.sum_ns += other.sum_ns;
        self.max_us = self.max_us.max(other.max_us);
        self.count += other.count;
    }
}

impl Delays {
    /// Adds the samples of another period.
    pub fn merge(&mut self, other: Self) {
        self.srt.merge(other.srt);
        self.art.merge(other.art);
    }
}

impl From<Samples> for Delay {
    /// The largest is that of whole microseconds: records have no finer ones.
    fn from(samples: Samples) -> Self {
        Self { sum_ns: samples.sum_ns, max_ns: u64::from(samples.max_us) * 1000, count: samples.count }
    }
}

/// Where a tracker puts what it measures.
#[derive(Debug)]
pub struct Measured<'a> {
    /// The delays of the current period.
    pub delays: &'a mut Delays,
    /// All else of the current period.
    pub perf: &'a mut TcpPerf,
    /// The handshake.
    pub handshake: &'a mut Handshake,
    /// Memory for holes.
    pub pool: &'a mut RangePool,
    /// Samples above these are discarded.
    pub limits: &'a DelayLimits,
}

impl TcpTracker {
    /// Follows a segment. Segments older than the latest one of either direction must be left out.
    #[inline(always)]
    pub fn segment(&mut self, direction: Direction, segment: &TcpSegment, measured: &mut Measured<'_>) {
        let side = direction as usize & 1;
        let flags = segment.flags & MASK;
        if segment.window == 0 && flags & RST == 0 {
            measured.perf.sides[side].zero_win += 1;
            self.marks |= mark::MEASURED;
        }
        // Data or a bare acknowledgement, continuing what was seen, is what nearly all segments are.
        if flags & (SYN | FIN | RST | ACK) != ACK {
            return self.unusual(direction, flags, segment, measured);
        }
        let end = segment.seq.wrapping_add(segment.payload_len);
        if segment.payload_len > 1 {
            let seen = self.enter(side, segment, measured);
            match direction {
                Direction::Forward => self.request(segment, seen),
                Direction::Backward => self.response(segment, seen, measured),
            }
        } else {
            let own = &mut self.sides[side];
            // A probe of a quiet connection repeats the number before the next one: nothing continues it.
            if segment.payload_len == 0 && segment.seq.wrapping_add(1) == own.next {
                return self.bare_ack(direction, segment, measured);
            }
            // A byte of its own may be a probe too: only in its place it counts as seen.
            if segment.payload_len == 1 && own.run.end == segment.seq && own.run.extend(end) {
                measured.pool.release(&mut own.block);
            }
            self.bare_ack(direction, segment, measured);
        }
        self.sides[side].next = end;
    }

    /// A packet that says nothing, or whose header was not captured: no delay is measured across it.
    #[inline]
    pub fn disarm(&mut self) {
        self.marks &= !(mark::SRT | mark::ART);
    }

    /// Gives the memory for holes back; the flow ends.
    pub fn release(&mut self, pool: &mut RangePool) {
        for side in &mut self.sides {
            pool.release(&mut side.block);
        }
    }

    /// Client and server were taken for each other: what waits for an answer waited for that of the wrong one.
    pub fn reverse(&mut self) {
        self.sides.swap(0, 1);
        let runs = self.marks & (mark::HAS_RUN | mark::HAS_RUN << 1);
        self.marks =
            (runs >> 1 | runs << 1) & (mark::HAS_RUN | mark::HAS_RUN << 1) | self.marks & mark::MEASURED;
    }

    /// Whether anything was measured since the last call of [`TcpTracker::take_measured`].
    #[must_use]
    pub fn has_measured(&self) -> bool {
        self.marks & mark::MEASURED != 0
    }

    /// Whether anything was noted in [`Measured::perf`] since this was asked last.
    pub fn take_measured(&mut self) -> bool {
        let measured = self.marks & mark::MEASURED != 0;
        self.marks &= !mark::MEASURED;
        measured
    }

    /// Follows a UDP datagram with `payload_len` bytes.
    #[inline]
    pub fn datagram(
        &mut self,
        direction: Direction,
        time_ns: u64,
        payload_len: u32,
        art: &mut Samples,
        limits: &DelayLimits,
    ) {
        if payload_len == 0 {
            return;
        }
        match direction {
            Direction::Forward => {
                self.request_ns = time_ns;
                self.marks |= mark::ART;
            }
            Direction::Backward => {
                if self.marks & mark::ART != 0 {
                    art.add(time_ns.saturating_sub(self.request_ns), limits.response_ns);
                    self.marks &= !mark::ART;
                }
            }
        }
    }

    /// Enters the segment's payload into the runs of its direction.
    #[inline(always)]
    pub(super) fn enter(&mut self, side: usize, segment: &TcpSegment, measured: &mut Measured<'_>) -> Seen {
        let own = &mut self.sides[side & 1];
        if own.run.end != segment.seq || self.marks & (mark::HAS_RUN << side) == 0 {
            return self.enter_elsewhere(side, segment, measured);
        }
        if own.run.extend(segment.seq.wrapping_add(segment.payload_len)) {
            measured.pool.release(&mut own.block);
        }
        Seen::Above
    }

    /// Enters payload that does not continue the highest run.
    #[inline(never)]
    fn enter_elsewhere(&mut self, side: usize, segment: &TcpSegment, measured: &mut Measured<'_>) -> Seen {
        self.marks |= mark::MEASURED;
        let own = &mut self.sides[side & 1];
        let perf = &mut measured.perf.sides[side & 1];
        let run = Run { start: segment.seq, end: segment.seq.wrapping_add(segment.payload_len) };
        if self.marks & (mark::HAS_RUN << side) == 0 {
            self.marks |= mark::HAS_RUN << side;
            measured.pool.release(&mut own.block);
            own.run = run;
            return Seen::Above;
        }
        let seen = measured.pool.enter(&mut own.block, &mut own.run, run);
        match seen {
            Seen::Contained => {
                perf.retrans += 1;
                perf.retrans_bytes += u64::from(segment.payload_len);
            }
            Seen::Below => perf.out_of_order += 1,
            Seen::Above | Seen::Partly => {}
        }
        seen
    }

    /// Data from the client.
    #[inline(always)]
    fn request(&mut self, segment: &TcpSegment, seen: Seen) {
        // Data also acknowledges the SYN-ACK, but not at once: it says nothing of the round trip.
        self.marks &= !mark::SYN_ACK_OPEN;
        if seen == Seen::Partly {
            return self.disarm();
        }
        self.request_ns = segment.time_ns;
        self.request_end = segment.seq.wrapping_add(segment.payload_len);
        self.marks |= mark::SRT | mark::ART;
    }

    /// Data from the server.
    #[inline(always)]
    fn response(&mut self, segment: &TcpSegment, seen: Seen, measured: &mut Measured<'_>) {
        if self.marks & mark::ART != 0 && seen != Seen::Partly && segment.seq == self.sides[1].next {
            let sample_ns = segment.time_ns.saturating_sub(self.request_ns);
            measured.delays.art.add(sample_ns, measured.limits.response_ns);
        }
        self.disarm();
    }

    /// A segment with an acknowledgement and no data (one byte is a probe).
    #[inline(always)]
    fn bare_ack(&mut self, direction: Direction, segment: &TcpSegment, measured: &mut Measured<'_>) {
        let is_pure = segment.payload_len == 0 && segment.flags & MASK == ACK;
        match direction {
            Direction::Backward if is_pure => {
                if self.marks & mark::SRT != 0 && !before(segment.ack, self.request_end) {
                    let sample_ns = segment.time_ns.saturating_sub(self.request_ns);
                    measured.delays.srt.add(sample_ns, measured.limits.ack_ns);
                    self.marks &= !mark::SRT;
                }
            }
            Direction::Backward => self.disarm(),
            Direction::Forward => {
                self.disarm();
                if is_pure && self.marks & (mark::SYN_ACK_OPEN | mark::ACK_SEEN) != 0 {
                    self.handshake_ack(segment, measured);
                }
            }
        }
    }
}
