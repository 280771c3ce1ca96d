//! What do the segments of a connection say about delays, losses and windows?
//!
//! The definitions are those of the reference system with the deviations that docs/flow-records.md lists: no PSH is
//! needed to see a request, an acknowledgement of a part leaves the timer running, one of more than the request ends
//! it, and sequence numbers are compared as serial numbers.

use sluice_model::{Delay, TcpPerf};

use super::ranges::{NO_BLOCK, RangePool, Run, Seen, before};
use super::state::flags::{ACK, FIN, PSH, RST, SYN, URG};

/// Samples of handshake and application delays above this are discarded.
const MAX_DELAY_NS: u64 = 30_000_000_000;
/// The same for acknowledgement delays.
const MAX_SRT_NS: u64 = 10_000_000_000;
/// The longest run that is remembered: beyond, serial numbers could not be compared.
const MAX_RUN: u32 = 1 << 30;

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
struct Side {
    /// The highest run of sequence numbers that were seen.
    run: Run,
    /// Where the latest segment of this direction ended: what a segment that continues it starts at.
    next: u32,
    /// The runs below the highest one, in the pool.
    block: u32,
}

impl Default for Side {
    fn default() -> Self {
        Self { run: Run::default(), next: 0, block: NO_BLOCK }
    }
}

/// Bits of [`TcpTracker::marks`].
mod mark {
    /// A run of the client (and, one bit on, of the server) was begun.
    pub(super) const HAS_RUN: u16 = 1;
    /// A request waits for an acknowledgement.
    pub(super) const SRT: u16 = 4;
    /// A request waits for a response.
    pub(super) const ART: u16 = 8;
    /// SYN was seen, and not answered yet.
    pub(super) const SYN_OPEN: u16 = 16;
    /// SYN-ACK was seen, and not acknowledged yet.
    pub(super) const SYN_ACK_OPEN: u16 = 32;
    /// The client's first SYN was seen.
    pub(super) const SYN_SEEN: u16 = 64;
    /// A SYN-ACK was seen.
    pub(super) const SYN_ACK_SEEN: u16 = 128;
    /// The handshake's ACK was seen.
    pub(super) const ACK_SEEN: u16 = 256;
}

/// What is remembered of a connection between its segments: one cache line that each of them touches.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct TcpTracker {
    sides: [Side; 2],
    /// The time of the latest request segment (or datagram).
    request_ns: u64,
    /// Where it ended.
    request_end: u32,
    /// The acknowledgement number of the handshake's ACK, and its window.
    ack_number: u32,
    ack_window: u16,
    marks: u16,
}

const _: () = assert!(size_of::<TcpTracker>() == 64);

/// What is remembered of a handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// Times of the first and the latest SYN, and of the latest SYN-ACK; nanoseconds since the epoch.
    first_syn_ns: u64,
    latest_syn_ns: u64,
    syn_ack_ns: u64,
    /// The sequence number of the latest SYN.
    pub syn_seq: Option<u32>,
    /// The sequence number of the latest SYN-ACK.
    pub syn_ack_seq: Option<u32>,
}

/// The delays that any packet may add to: they lie beside what each packet reads, not with what is seldom written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Delays {
    /// Last request segment to the server's bare ACK.
    pub srt: Delay,
    /// Last request segment (or datagram) to the first of the response.
    pub art: Delay,
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
}

impl TcpTracker {
    /// Follows a segment. Segments older than the latest one of either direction must be left out.
    #[inline(always)]
    pub fn segment(&mut self, direction: Direction, segment: &TcpSegment, measured: &mut Measured<'_>) {
        let side = direction as usize;
        let flags = segment.flags & super::state::flags::MASK;
        // Data or a bare acknowledgement, continuing what was seen, is what nearly all segments are.
        if segment.window == 0 && flags & RST == 0 {
            measured.perf.sides[side & 1].zero_win += 1;
        }
        if flags & (SYN | FIN | RST | URG) != 0 || flags & ACK == 0 {
            return self.unusual(direction, flags, segment, measured);
        }
        if segment.payload_len > 1 {
            let known = self.enter(side, segment, measured);
            match direction {
                Direction::Forward => self.request(segment, known),
                Direction::Backward => self.response(segment, known, &mut measured.delays.art),
            }
        } else {
            if segment.payload_len == 1 && self.sides[side & 1].run.end == segment.seq {
                self.advance(side, segment.seq.wrapping_add(1));
            }
            self.bare_ack(direction, segment, measured);
        }
        self.sides[side & 1].next = segment.seq.wrapping_add(segment.payload_len);
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

    /// Client and server were taken for each other.
    pub fn reverse(&mut self) {
        self.sides.swap(0, 1);
        let runs = self.marks & 3;
        let open = mark::SRT | mark::ART | mark::SYN_OPEN | mark::SYN_ACK_OPEN | mark::ACK_SEEN;
        self.marks &= !(3 | open);
        self.marks |= runs >> 1 | (runs & 1) << 1;
    }

    /// Follows a UDP datagram with `payload_len` bytes.
    #[inline]
    pub fn datagram(&mut self, direction: Direction, time_ns: u64, payload_len: u32, art: &mut Delay) {
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
                    art.add(time_ns.saturating_sub(self.request_ns), MAX_DELAY_NS);
                    self.marks &= !mark::ART;
                }
            }
        }
    }

    /// Enters the segment's payload into the runs of its direction.
    #[inline(always)]
    fn enter(&mut self, side: usize, segment: &TcpSegment, measured: &mut Measured<'_>) -> Seen {
        let end = segment.seq.wrapping_add(segment.payload_len);
        if self.sides[side & 1].run.end == segment.seq && self.marks & (mark::HAS_RUN << side) != 0 {
            self.advance(side, end);
            return Seen::New;
        }
        self.enter_out_of_line(side, Run { start: segment.seq, end }, measured)
    }

    #[inline(always)]
    fn advance(&mut self, side: usize, end: u32) {
        let run = &mut self.sides[side & 1].run;
        run.end = end;
        if end.wrapping_sub(run.start) > MAX_RUN {
            run.start = end.wrapping_sub(MAX_RUN);
        }
    }

    /// Enters payload that does not continue the highest run.
    #[inline(never)]
    fn enter_out_of_line(&mut self, side: usize, segment: Run, measured: &mut Measured<'_>) -> Seen {
        let len = segment.end.wrapping_sub(segment.start);
        let own = &mut self.sides[side & 1];
        let perf = &mut measured.perf.sides[side & 1];
        if self.marks & (mark::HAS_RUN << side) == 0 {
            self.marks |= mark::HAS_RUN << side;
            own.run = segment;
            return Seen::New;
        }
        if before(own.run.end, segment.start) {
            // A hole: what was the highest run is a lower one now.
            let lower = own.run;
            own.run = segment;
            if lower.start != lower.end {
                measured.pool.push(&mut own.block, lower);
            }
            return Seen::New;
        }
        let seen = if !before(segment.start, own.run.start) {
            if before(own.run.end, segment.end) { Seen::Partly } else { Seen::Contained }
        } else if before(own.run.start, segment.end) {
            let below = Run { start: segment.start, end: own.run.start };
            measured.pool.enter(&mut own.block, below, &mut own.run.start);
            Seen::Partly
        } else {
            measured.pool.enter(&mut own.block, segment, &mut own.run.start)
        };
        match seen {
            Seen::Contained => {
                perf.retrans += 1;
                perf.retrans_bytes += u64::from(len);
            }
            Seen::New => perf.out_of_order += 1,
            Seen::Partly => {
                if before(own.run.end, segment.end) {
                    own.run.end = segment.end;
                }
            }
        }
        seen
    }

    /// Data from the client.
    #[inline(always)]
    fn request(&mut self, segment: &TcpSegment, known: Seen) {
        if known == Seen::Partly {
            return self.disarm();
        }
        self.request_ns = segment.time_ns;
        self.request_end = segment.seq.wrapping_add(segment.payload_len);
        self.marks |= mark::SRT | mark::ART;
    }

    /// Data from the server.
    #[inline(always)]
    fn response(&mut self, segment: &TcpSegment, known: Seen, art: &mut Delay) {
        if self.marks & mark::ART != 0 && known != Seen::Partly && segment.seq == self.sides[1].next {
            art.add(segment.time_ns.saturating_sub(self.request_ns), MAX_DELAY_NS);
        }
        self.disarm();
    }

    /// A segment with an acknowledgement and no data (one byte is a probe).
    #[inline(always)]
    fn bare_ack(&mut self, direction: Direction, segment: &TcpSegment, measured: &mut Measured<'_>) {
        let is_pure = segment.payload_len == 0 && segment.flags & PSH == 0;
        match direction {
            Direction::Backward if is_pure => {
                if self.marks & mark::SRT != 0 && !before(segment.ack, self.request_end) {
                    let sample_ns = segment.time_ns.saturating_sub(self.request_ns);
                    measured.delays.srt.add(sample_ns, MAX_SRT_NS);
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

    /// An ACK of the client that may be that of the handshake.
    #[inline(never)]
    fn handshake_ack(&mut self, segment: &TcpSegment, measured: &mut Measured<'_>) {
        let handshake = &measured.handshake;
        if handshake.syn_ack_seq.map(|seq| seq.wrapping_add(1)) != Some(segment.ack) {
            // Data was acknowledged: the handshake is over.
            self.marks &= !(mark::SYN_ACK_OPEN | mark::ACK_SEEN);
            return;
        }
        let same = self.marks & mark::ACK_SEEN != 0
            && self.sides[0].next == segment.seq
            && self.ack_number == segment.ack
            && self.ack_window == segment.window;
        if same {
            measured.perf.sides[0].retrans += 1;
        }
        if self.marks & mark::SYN_ACK_OPEN != 0 {
            let since = |time_ns: u64| segment.time_ns.saturating_sub(time_ns);
            measured.perf.rtt_client.add(since(handshake.syn_ack_ns), MAX_DELAY_NS);
            let rtt_ns = since(handshake.first_syn_ns);
            if self.marks & mark::SYN_SEEN != 0 && rtt_ns > 0 && rtt_ns <= MAX_DELAY_NS {
                measured.perf.rtt_ns = rtt_ns;
            }
        }
        self.marks &= !mark::SYN_ACK_OPEN;
        self.marks |= mark::ACK_SEEN;
        (self.ack_number, self.ack_window) = (segment.ack, segment.window);
    }

    /// Segments with SYN, FIN, RST or URG, or without ACK.
    #[inline(never)]
    fn unusual(
        &mut self,
        direction: Direction,
        flags: u8,
        segment: &TcpSegment,
        measured: &mut Measured<'_>,
    ) {
        self.disarm();
        let side = direction as usize;
        if flags & FIN != 0 {
            measured.perf.sides[side & 1].fin += 1;
        }
        if flags & RST != 0 || flags & (SYN | ACK) == 0 || (flags & URG != 0 && flags & ACK == 0) {
            return;
        }
        if flags & SYN != 0 {
            return self.syn(direction, flags, segment, measured);
        }
        if segment.payload_len > 1 {
            self.enter(side, segment, measured);
        }
        let fin = u32::from(flags & FIN != 0);
        self.sides[side & 1].next = segment.seq.wrapping_add(segment.payload_len).wrapping_add(fin);
    }

    /// A segment with SYN.
    fn syn(&mut self, direction: Direction, flags: u8, segment: &TcpSegment, measured: &mut Measured<'_>) {
        let side = direction as usize;
        let time_ns = segment.time_ns;
        let perf = &mut measured.perf.sides[side & 1];
        let handshake = &mut *measured.handshake;
        if flags & ACK == 0 {
            perf.syn += 1;
            if direction == Direction::Forward {
                if self.marks & mark::SYN_SEEN == 0 {
                    handshake.first_syn_ns = time_ns;
                } else {
                    perf.retrans += 1;
                }
                handshake.latest_syn_ns = time_ns;
                handshake.syn_seq = Some(segment.seq);
                self.marks |= mark::SYN_SEEN | mark::SYN_OPEN;
            }
        } else {
            perf.syn_ack += 1;
            if direction == Direction::Backward {
                if self.marks & mark::SYN_ACK_SEEN != 0 {
                    perf.retrans += 1;
                }
                let answers = handshake.syn_seq.map(|seq| seq.wrapping_add(1)) == Some(segment.ack);
                if self.marks & mark::SYN_OPEN != 0 && answers && segment.payload_len == 0 {
                    let sample_ns = time_ns.saturating_sub(handshake.latest_syn_ns);
                    measured.perf.rtt_server.add(sample_ns, MAX_DELAY_NS);
                    self.marks &= !mark::SYN_OPEN;
                }
                handshake.syn_ack_ns = time_ns;
                handshake.syn_ack_seq = Some(segment.seq);
                self.marks |= mark::SYN_ACK_SEEN | mark::SYN_ACK_OPEN;
            }
        }
        // SYN takes one number; with it a run begins.
        let next = segment.seq.wrapping_add(1).wrapping_add(segment.payload_len);
        let own = &mut self.sides[side & 1];
        if self.marks & (mark::HAS_RUN << side) == 0 {
            self.marks |= mark::HAS_RUN << side;
            own.run = Run { start: segment.seq, end: next };
        }
        own.next = next;
    }
}
