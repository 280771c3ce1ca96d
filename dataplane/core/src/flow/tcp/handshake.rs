//! What do the segments of a handshake say? SYN and SYN-ACK, and the ACK that completes it.

use sluice_model::DelayLimits;

use super::ranges::Run;
use super::state::flags::{ACK, FIN, PSH, RST, SYN, URG};
use super::tracker::{Direction, Measured, TcpSegment, TcpTracker, mark};

/// What is remembered of a handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// Times of the first and the latest SYN, and of the latest SYN-ACK; nanoseconds since the epoch.
    first_syn_ns: u64,
    latest_syn_ns: u64,
    syn_ack_ns: u64,
    /// From the first SYN to the ACK that completed the latest handshake; 0 = not measured.
    pub rtt_ns: u64,
    /// The sequence number of the latest SYN.
    pub syn_seq: Option<u32>,
    /// The sequence number of the latest SYN-ACK.
    pub syn_ack_seq: Option<u32>,
}

/// Whether `number` acknowledges a segment without data that has the sequence number `seq`.
fn answers(number: u32, seq: Option<u32>) -> bool {
    seq.is_some_and(|seq| seq.wrapping_add(1) == number)
}

impl TcpTracker {
    /// A bare ACK of the client while the handshake may not be over.
    #[inline(never)]
    pub(super) fn handshake_ack(&mut self, segment: &TcpSegment, measured: &mut Measured<'_>) {
        let handshake = &measured.handshake;
        if !answers(segment.ack, handshake.syn_ack_seq) {
            // Data was acknowledged: the handshake is over.
            self.marks &= !(mark::SYN_ACK_OPEN | mark::ACK_SEEN);
            return;
        }
        self.marks |= mark::MEASURED;
        // With another window it is a window update, with another sequence number the answer to a keep-alive.
        let is_same = (self.ack_seq, self.ack_window) == (segment.seq, segment.window);
        if self.marks & mark::ACK_SEEN != 0 && is_same {
            measured.perf.sides[0].retrans += 1;
        }
        if self.marks & mark::SYN_ACK_OPEN == 0 {
            if self.marks & mark::ACK_SEEN != 0 && segment.seq == self.ack_seq {
                self.ack_window = segment.window;
            }
            return;
        }
        let since = |time_ns: u64| segment.time_ns.saturating_sub(time_ns);
        let DelayLimits { handshake_ns: limit_ns, .. } = *measured.limits;
        measured.perf.rtt_client.add(since(handshake.syn_ack_ns), limit_ns);
        let rtt_ns = since(handshake.first_syn_ns);
        if self.marks & mark::SYN_SEEN != 0 && rtt_ns > 0 && rtt_ns <= limit_ns {
            measured.perf.rtt_ns = rtt_ns;
            measured.handshake.rtt_ns = rtt_ns;
        }
        self.marks = self.marks & !mark::SYN_ACK_OPEN | mark::ACK_SEEN;
        (self.ack_seq, self.ack_window) = (segment.seq, segment.window);
    }

    /// Segments with SYN, FIN or RST, or without ACK.
    #[inline(never)]
    pub(super) fn unusual(
        &mut self,
        direction: Direction,
        flags: u8,
        segment: &TcpSegment,
        measured: &mut Measured<'_>,
    ) {
        self.disarm();
        self.marks |= mark::MEASURED;
        let side = direction as usize & 1;
        let perf = &mut measured.perf.sides[side];
        if flags & FIN != 0 {
            perf.fin += 1;
        }
        if flags & RST != 0 || flags & (SYN | ACK) == 0 || (flags & ACK == 0 && flags & (PSH | URG) != 0) {
            return;
        }
        match flags & (SYN | ACK) {
            SYN => {
                perf.syn += 1;
                if direction == Direction::Forward && flags & FIN == 0 {
                    self.syn(segment, measured);
                }
            }
            ACK => {
                // FIN, and the last data perhaps.
                if segment.payload_len > 1 {
                    self.enter(side, segment, measured);
                }
                if direction == Direction::Forward {
                    self.marks &= !mark::SYN_ACK_OPEN;
                }
                self.sides[side].next = segment.seq.wrapping_add(segment.payload_len).wrapping_add(1);
            }
            _ => {
                perf.syn_ack += 1;
                if direction == Direction::Backward && flags & FIN == 0 {
                    self.syn_ack(segment, measured);
                }
            }
        }
    }

    /// SYN of the client.
    fn syn(&mut self, segment: &TcpSegment, measured: &mut Measured<'_>) {
        let handshake = &mut *measured.handshake;
        if self.marks & mark::SYN_SEEN != 0 && handshake.syn_seq == Some(segment.seq) {
            self.count_repeated(0, segment, measured);
        } else {
            // The first, or that of another connection.
            handshake.first_syn_ns = segment.time_ns;
            self.marks &= !(mark::SYN_ACK_SEEN | mark::SYN_ACK_OPEN | mark::ACK_SEEN);
            self.begin_run(0, segment);
        }
        measured.handshake.latest_syn_ns = segment.time_ns;
        measured.handshake.syn_seq = Some(segment.seq);
        self.marks |= mark::SYN_SEEN | mark::SYN_OPEN;
    }

    /// SYN-ACK of the server.
    fn syn_ack(&mut self, segment: &TcpSegment, measured: &mut Measured<'_>) {
        if self.marks & mark::SYN_ACK_SEEN != 0 && measured.handshake.syn_ack_seq == Some(segment.seq) {
            self.count_repeated(1, segment, measured);
        } else {
            self.begin_run(1, segment);
        }
        let handshake = &mut *measured.handshake;
        let is_answer = answers(segment.ack, handshake.syn_seq) && segment.payload_len == 0;
        if self.marks & mark::SYN_OPEN != 0 && is_answer {
            let sample_ns = segment.time_ns.saturating_sub(handshake.latest_syn_ns);
            measured.perf.rtt_server.add(sample_ns, measured.limits.handshake_ns);
            self.marks &= !mark::SYN_OPEN;
        }
        handshake.syn_ack_ns = segment.time_ns;
        handshake.syn_ack_seq = Some(segment.seq);
        self.marks |= mark::SYN_ACK_SEEN | mark::SYN_ACK_OPEN;
    }

    fn count_repeated(&mut self, side: usize, segment: &TcpSegment, measured: &mut Measured<'_>) {
        let perf = &mut measured.perf.sides[side & 1];
        perf.retrans += 1;
        perf.retrans_bytes += u64::from(segment.payload_len);
        self.sides[side & 1].next = after_syn(segment);
    }

    /// With the first SYN of a direction its run of sequence numbers begins. Another one may be that of a new connection,
    /// or a stray one: what was known is forgotten, and data begins a run.
    fn begin_run(&mut self, side: usize, segment: &TcpSegment) {
        let own = &mut self.sides[side & 1];
        own.next = after_syn(segment);
        if self.marks & (mark::HAS_RUN << side) == 0 {
            // Data that comes with SYN (RFC 7413) has the number after that of SYN.
            own.run = Run { start: segment.seq.wrapping_add(1), end: own.next };
            self.marks |= mark::HAS_RUN << side;
        } else {
            self.marks &= !(mark::HAS_RUN << side);
        }
    }
}

/// The sequence number after a segment with SYN, which takes one itself (RFC 9293 section 3.4).
fn after_syn(segment: &TcpSegment) -> u32 {
    segment.seq.wrapping_add(1).wrapping_add(segment.payload_len)
}
