//! What the tracker makes of segments, rule by rule, and of any segments against a slow model.

use proptest::prelude::*;
use sluice_model::{Delay, DelayLimits, TcpPerf};

use super::flags::{ACK, FIN, PSH, RST, SYN, URG};
use super::{Delays, Direction, Handshake, Measured, RangePool, Samples, TcpSegment, TcpTracker};

const C: Direction = Direction::Forward;
const S: Direction = Direction::Backward;
const MS: u64 = 1_000_000;

/// A tracker with all that belongs to it.
struct Connection {
    tracker: TcpTracker,
    delays: Delays,
    perf: TcpPerf,
    handshake: Handshake,
    pool: RangePool,
    limits: DelayLimits,
}

impl Connection {
    fn new() -> Self {
        Self {
            tracker: TcpTracker::default(),
            delays: Delays::default(),
            perf: TcpPerf::default(),
            handshake: Handshake::default(),
            pool: RangePool::new(4),
            limits: DelayLimits::default(),
        }
    }

    /// SYN 1000 at 0 ms, SYN-ACK 5000 at 20 ms, ACK at 21 ms.
    fn open() -> Self {
        let mut connection = Self::new();
        connection.tcp(0, C, SYN, 1000, 0, 0);
        connection.tcp(20, S, SYN | ACK, 5000, 1001, 0);
        connection.tcp(21, C, ACK, 1001, 5001, 0);
        connection
    }

    fn tcp(&mut self, ms: u64, direction: Direction, flags: u8, seq: u32, ack: u32, payload_len: u32) {
        self.segment(direction, TcpSegment { time_ns: ms * MS, seq, ack, payload_len, window: 100, flags });
    }

    fn segment(&mut self, direction: Direction, segment: TcpSegment) {
        let mut measured = Measured {
            delays: &mut self.delays,
            perf: &mut self.perf,
            handshake: &mut self.handshake,
            pool: &mut self.pool,
            limits: &self.limits,
        };
        self.tracker.segment(direction, &segment, &mut measured);
    }

    fn retrans(&self) -> [u32; 2] {
        self.perf.sides.map(|side| side.retrans)
    }

    fn out_of_order(&self) -> [u32; 2] {
        self.perf.sides.map(|side| side.out_of_order)
    }

    /// Samples in milliseconds: SRT, ART.
    fn samples(&self) -> [Vec<u64>; 2] {
        [self.delays.srt, self.delays.art].map(|samples| ms_of(&samples.into()))
    }
}

/// The samples of a delay, if there are none or one.
fn ms_of(delay: &Delay) -> Vec<u64> {
    assert!(delay.count <= 1);
    vec![delay.sum_ns / MS; delay.count as usize]
}

#[test]
fn the_part_that_packets_touch_is_one_line() {
    assert_eq!((size_of::<TcpTracker>(), align_of::<TcpTracker>()), (64, 64));
    assert_eq!((size_of::<Delays>(), align_of::<Delays>()), (32, 8));
}

#[test]
fn keep_alives_are_no_retransmissions() {
    let mut c = Connection::open();
    c.tcp(30, C, PSH | ACK, 1001, 5001, 100);
    c.tcp(40, S, PSH | ACK, 5001, 1101, 200);
    c.tcp(41, C, ACK, 1101, 5201, 0);
    // Without a byte and with one, from both sides, each answered by a bare ACK, again and again.
    for at in 1..5 {
        for len in [0, 1] {
            c.tcp(at * 1000, C, ACK, 1100, 5201, len);
            c.tcp(at * 1000 + 1, S, ACK, 5201, 1101, 0);
            c.tcp(at * 1000 + 2, S, ACK, 5200, 1101, len);
            c.tcp(at * 1000 + 3, C, ACK, 1101, 5201, 0);
        }
    }
    assert_eq!((c.retrans(), c.out_of_order()), ([0, 0], [0, 0]));
    // And the next exchange is measured as if there had been none.
    c.delays = Delays::default();
    c.tcp(9000, S, ACK, 5200, 1101, 0);
    c.tcp(9001, C, PSH | ACK, 1101, 5201, 100);
    c.tcp(9011, S, PSH | ACK, 5201, 1201, 100);
    assert_eq!(c.samples(), [vec![], vec![10]]);
}

#[test]
fn single_bytes_in_their_place_count_as_seen() {
    let mut c = Connection::open();
    for byte in 0..10 {
        c.tcp(30 + u64::from(byte), C, PSH | ACK, 1001 + byte, 5001, 1);
    }
    c.tcp(50, C, PSH | ACK, 1011, 5001, 10);
    assert_eq!((c.retrans(), c.out_of_order(), c.pool.in_use()), ([0, 0], [0, 0], 0));
    // All of them again, as one segment.
    c.tcp(60, C, PSH | ACK, 1001, 5001, 20);
    assert_eq!((c.retrans(), c.perf.sides[0].retrans_bytes), ([1, 0], 20));
}

#[test]
fn an_ack_is_a_repeated_one_only_if_all_of_it_is() {
    let same = TcpSegment { time_ns: 30 * MS, seq: 1001, ack: 5001, payload_len: 0, window: 100, flags: ACK };
    let retrans = |segment: TcpSegment| {
        let mut c = Connection::open();
        c.segment(C, segment);
        c.retrans()[0]
    };
    assert_eq!(retrans(same), 1);
    assert_eq!(retrans(TcpSegment { window: 101, ..same }), 0, "a window update");
    assert_eq!(retrans(TcpSegment { seq: 1000, ..same }), 0, "a keep-alive");
    assert_eq!(retrans(TcpSegment { ack: 5002, ..same }), 0);
    assert_eq!(retrans(TcpSegment { flags: PSH | ACK, ..same }), 0);
    // After data the same acknowledgement answers a keep-alive of the server.
    let mut c = Connection::open();
    c.tcp(30, C, PSH | ACK, 1001, 5001, 100);
    c.tcp(40, S, ACK, 5000, 1101, 0);
    c.tcp(41, C, ACK, 1101, 5001, 0);
    assert_eq!(c.retrans(), [0, 0]);
}

#[test]
fn a_handshake_that_ends_with_data_has_no_client_delay() {
    let mut c = Connection::new();
    c.tcp(0, C, SYN, 1000, 0, 0);
    c.tcp(20, S, SYN | ACK, 5000, 1001, 0);
    c.tcp(21, C, PSH | ACK, 1001, 5001, 100);
    c.tcp(500, C, ACK, 1101, 5001, 0);
    assert_eq!((c.perf.rtt_ns, c.perf.rtt_client.count, c.perf.rtt_server.count), (0, 0, 1));
}

#[test]
fn a_syn_ack_answers_the_syn_before_it() {
    let server = |seq, ack, len| {
        let mut c = Connection::new();
        c.tcp(0, C, SYN, seq, 0, 0);
        c.tcp(20, S, SYN | ACK, 5000, ack, len);
        ms_of(&c.perf.rtt_server)
    };
    assert_eq!(server(1000, 1001, 0), [20]);
    assert_eq!(server(u32::MAX, 0, 0), [20]);
    assert!(server(1000, 1000, 0).is_empty());
    assert!(server(1000, 1001, 5).is_empty());
}

#[test]
fn without_its_syn_a_handshake_has_no_whole() {
    let mut c = Connection::new();
    c.tcp(20, S, SYN | ACK, 5000, 1001, 0);
    c.tcp(21, C, ACK, 1001, 5001, 0);
    assert_eq!((c.perf.rtt_ns, ms_of(&c.perf.rtt_client)), (0, vec![1]));
    assert_eq!(c.handshake.syn_seq, None);
    assert_eq!(c.handshake.syn_ack_seq, Some(5000));
}

#[test]
fn another_connection_of_the_same_ports_starts_anew() {
    let mut c = Connection::open();
    c.tcp(30, C, PSH | ACK, 1001, 5001, 100);
    c.tcp(40, S, PSH | ACK, 5001, 1101, 100);
    c.tcp(50, C, RST, 1101, 0, 0);
    c.perf = TcpPerf::default();
    // Lower numbers than those of the first one.
    c.tcp(1000, C, SYN, 300, 0, 0);
    c.tcp(1020, S, SYN | ACK, 400, 301, 0);
    c.tcp(1021, C, ACK, 301, 401, 0);
    assert_eq!(
        (c.perf.rtt_ns / MS, ms_of(&c.perf.rtt_server), ms_of(&c.perf.rtt_client)),
        (21, vec![20], vec![1])
    );
    for segment in 0..10 {
        c.tcp(1030 + u64::from(segment), C, PSH | ACK, 301 + 100 * segment, 401, 100);
        c.tcp(1050 + u64::from(segment), S, PSH | ACK, 401 + 100 * segment, 1301, 100);
    }
    assert_eq!((c.retrans(), c.out_of_order()), ([0, 0], [0, 0]));
    c.tcp(1100, C, PSH | ACK, 301, 401, 100);
    assert_eq!(c.retrans(), [1, 0]);
}

#[test]
fn a_stray_syn_does_not_make_data_out_of_order() {
    let mut c = Connection::open();
    c.tcp(30, C, PSH | ACK, 1001, 5001, 100);
    c.tcp(31, C, SYN, 900_000, 0, 0);
    for segment in 0..10 {
        c.tcp(40, C, PSH | ACK, 1101 + 100 * segment, 5001, 100);
    }
    assert_eq!((c.retrans(), c.out_of_order(), c.pool.in_use()), ([0, 0], [0, 0], 0));
}

#[test]
fn repeated_syn_with_data_is_one_retransmission() {
    let mut c = Connection::new();
    c.tcp(0, C, SYN, 1000, 0, 50);
    c.tcp(1000, C, SYN, 1000, 0, 50);
    c.tcp(1020, S, SYN | ACK, 5000, 1001, 0);
    // The server did not take the data: it comes once more.
    c.tcp(1021, C, PSH | ACK, 1001, 5001, 50);
    assert_eq!((c.retrans(), c.perf.sides[0].retrans_bytes, c.perf.sides[0].syn), ([2, 0], 100, 2));
}

#[test]
fn windows_of_zero_count_unless_the_segment_resets() {
    let mut c = Connection::new();
    for flags in [SYN, ACK, PSH | ACK, FIN | ACK, URG | ACK, 0, RST, RST | ACK, RST | PSH | ACK] {
        let segment = TcpSegment { time_ns: MS, seq: 10, ack: 10, payload_len: 0, window: 0, flags };
        c.segment(C, segment);
        c.segment(S, TcpSegment { window: 1, ..segment });
    }
    assert_eq!(c.perf.sides.map(|side| side.zero_win), [6, 0]);
}

#[test]
fn syn_and_fin_are_counted_by_side() {
    let mut c = Connection::open();
    c.tcp(30, C, FIN | ACK, 1001, 5001, 0);
    c.tcp(31, C, FIN | ACK, 1001, 5001, 0);
    c.tcp(40, S, FIN | PSH | ACK, 5001, 1002, 10);
    let counts = c.perf.sides.map(|side| (side.syn, side.syn_ack, side.fin));
    assert_eq!(counts, [(1, 0, 2), (0, 1, 1)]);
    assert_eq!((c.handshake.syn_seq, c.handshake.syn_ack_seq), (Some(1000), Some(5000)));
}

/// The samples (SRT, ART) of a request at 30 ms, whatever `between` does, a bare ACK at 60 ms and a response at 70 ms.
fn exchange(between: impl FnOnce(&mut Connection)) -> [Vec<u64>; 2] {
    let mut c = Connection::open();
    c.tcp(30, C, PSH | ACK, 1001, 5001, 100);
    between(&mut c);
    c.tcp(60, S, ACK, 5001, 1101, 0);
    c.tcp(70, S, PSH | ACK, 5001, 1101, 100);
    c.samples()
}

#[test]
fn what_lies_between_a_request_and_its_answers() {
    let (both, none) = ([vec![30], vec![40]], [vec![], vec![]]);
    assert_eq!(exchange(|_| {}), both);
    assert_eq!(exchange(|c| c.tcp(40, S, ACK, 5001, 1100, 0)), both, "a part was acknowledged");
    assert_eq!(exchange(|c| c.tcp(40, S, ACK, 5001, 1001, 0)), both, "nothing was");
    assert_eq!(exchange(|c| c.tcp(40, C, ACK, 1101, 5001, 0)), none, "a bare ACK of the client");
    assert_eq!(exchange(|c| c.tcp(40, S, PSH | ACK, 5001, 1101, 0)), none, "PSH without data");
    assert_eq!(exchange(|c| c.tcp(40, S, ACK, 5000, 1101, 1)), none, "a probe");
    for flags in [RST, RST | ACK, SYN | RST, 0, PSH, URG, FIN, FIN | ACK, SYN] {
        for direction in [C, S] {
            assert_eq!(exchange(|c| c.tcp(40, direction, flags, 1, 1, 0)), none, "flags {flags:#x}");
        }
    }
    assert_eq!(exchange(|c| c.tracker.disarm()), none, "a header that was not captured");
    assert_eq!(exchange(|c| c.tcp(40, C, ACK, 1051, 5001, 100)), none, "overlaps what was seen in part");
    assert_eq!(exchange(|c| c.tcp(40, C, ACK, 1001, 5001, 100)), [vec![20], vec![30]], "sent again");
    assert_eq!(exchange(|c| c.tcp(40, S, ACK, 5001, 1200, 0)), [vec![10], vec![40]], "more was acknowledged");
    assert_eq!(exchange(|c| c.tcp(40, S, PSH | ACK, 5001, 1101, 9)), [vec![], vec![10]], "answered at once");
    assert_eq!(exchange(|c| c.tcp(40, S, PSH | ACK, 5101, 1101, 9)), none, "the response has a hole");
    assert_eq!(exchange(|c| c.tcp(40, S, URG | PSH | ACK, 5001, 1101, 9)), [vec![], vec![10]], "urgent data");
}

#[test]
fn samples_beyond_the_limits_or_of_nothing_are_discarded() {
    let samples = |ack: u64, answer: u64| {
        let mut c = Connection::open();
        c.tcp(1000, C, PSH | ACK, 1001, 5001, 100);
        c.tcp(1000 + ack, S, ACK, 5001, 1101, 0);
        c.tcp(1000 + answer, S, PSH | ACK, 5001, 1101, 100);
        c.samples()
    };
    assert_eq!(samples(10_000, 30_000), [vec![10_000], vec![30_000]]);
    assert_eq!(samples(10_001, 30_001), [vec![], vec![]]);
    assert_eq!(samples(0, 0), [vec![], vec![]]);
    let mut c = Connection::new();
    c.limits = DelayLimits { handshake_ns: 5 * MS, ack_ns: 6 * MS, response_ns: 7 * MS };
    c.tcp(0, C, SYN, 1000, 0, 0);
    c.tcp(5, S, SYN | ACK, 5000, 1001, 0);
    c.tcp(9, C, ACK, 1001, 5001, 0);
    assert_eq!((ms_of(&c.perf.rtt_server), ms_of(&c.perf.rtt_client), c.perf.rtt_ns), (vec![5], vec![4], 0));
    c.tcp(20, C, ACK, 1001, 5001, 100);
    c.tcp(27, S, ACK, 5001, 1101, 0);
    c.tcp(28, S, ACK, 5001, 1101, 100);
    assert_eq!(c.samples(), [vec![], vec![]]);
}

#[test]
fn requests_may_end_where_numbers_wrap() {
    for start in [u32::MAX - 99, u32::MAX - 50, 0] {
        let mut c = Connection::new();
        c.tcp(10, S, ACK, 5001, start, 0);
        c.tcp(30, C, PSH | ACK, start, 5001, 100);
        c.tcp(40, S, ACK, 5001, start.wrapping_add(99), 0);
        c.tcp(50, S, ACK, 5001, start.wrapping_add(100), 0);
        c.tcp(60, S, PSH | ACK, 5001, start.wrapping_add(100), 100);
        c.tcp(90, C, PSH | ACK, start, 5001, 100);
        assert_eq!((c.samples(), c.retrans()), ([vec![20], vec![30]], [1, 0]), "from {start}");
    }
}

#[test]
fn reversed_sides_keep_their_numbers_and_forget_their_timers() {
    let mut c = Connection::open();
    c.tcp(30, C, PSH | ACK, 1001, 5001, 100);
    c.tracker.reverse();
    c.perf.reverse();
    c.tcp(40, S, PSH | ACK, 1001, 5001, 100);
    c.tcp(50, C, PSH | ACK, 5001, 1101, 100);
    c.tcp(60, S, ACK, 1101, 5101, 0);
    assert_eq!(c.retrans(), [0, 1]);
    assert_eq!(c.samples(), [vec![10], vec![]]);
}

#[test]
fn datagrams_answer_the_latest_request() {
    let (mut tracker, limits) = (TcpTracker::default(), DelayLimits::default());
    let mut art = Samples::default();
    let mut datagram = |ms: u64, direction, len| tracker.datagram(direction, ms * MS, len, &mut art, &limits);
    datagram(0, S, 10);
    datagram(1, C, 40);
    datagram(2, C, 40);
    datagram(3, C, 0);
    datagram(4, S, 0);
    datagram(12, S, 90);
    datagram(13, S, 90);
    assert_eq!(Delay::from(art), Delay { sum_ns: 10 * MS, max_ns: 10 * MS, count: 1 });
}

/// A segment of the model: side, start and length in a window of sequence numbers.
type Piece = (bool, usize, usize);

/// Sequence numbers that the model has bits for.
const BYTES: usize = 4000;

/// What the counts must be, by looking at each byte: retransmissions, their bytes, out of order. `None`: one side had
/// more runs than are kept.
fn by_bytes(pieces: &[Piece]) -> Option<[(u32, u64, u32); 2]> {
    let mut seen = [[false; BYTES]; 2];
    let mut counts = [(0, 0, 0); 2];
    for &(from_server, start, len) in pieces {
        let (seen, count) = (&mut seen[usize::from(from_server)], &mut counts[usize::from(from_server)]);
        let known = seen[start..start + len].iter().filter(|seen| **seen).count();
        if known == len {
            *count = (count.0 + 1, count.1 + len as u64, count.2);
        } else if known == 0 && seen[start + len..].contains(&true) {
            count.2 += 1;
        }
        seen[start..start + len].fill(true);
        let begins = |place: usize| seen[place] && (place == 0 || !seen[place - 1]);
        if (0..BYTES).filter(|place| begins(*place)).count() > 16 {
            return None;
        }
    }
    Some(counts)
}

proptest! {
    /// Data of both sides, cut into segments that come in any order, once or often, wherever numbers wrap.
    #[test]
    fn losses_are_those_of_a_bit_for_each_byte(
        bases in any::<[u32; 2]>(),
        wraps in any::<bool>(),
        pieces in prop::collection::vec((any::<bool>(), 0..40_usize, 0..3_usize, 1..4_usize), 1..80),
    ) {
        // Mostly on the borders of segments of 90 bytes, as they are when sent again.
        let piece = |(side, place, off, len): (bool, usize, usize, usize)| {
            (side, place * 90 + [0, 0, 7][off], [90, 90, 180, 45][len])
        };
        let pieces: Vec<Piece> = pieces.into_iter().map(piece).collect();
        let Some(expected) = by_bytes(&pieces) else { return Ok(()) };
        let mut c = Connection::new();
        let base = |side: usize| if wraps { bases[side] % 4000 + (u32::MAX - 3999) } else { bases[side] };
        for (at, &(from_server, start, len)) in pieces.iter().enumerate() {
            let seq = base(usize::from(from_server)).wrapping_add(start as u32);
            let direction = if from_server { S } else { C };
            c.tcp(at as u64, direction, if at % 3 == 0 { PSH | ACK } else { ACK }, seq, 1, len as u32);
        }
        let counted = c.perf.sides.map(|side| (side.retrans, side.retrans_bytes, side.out_of_order));
        prop_assert_eq!(counted, expected);
        c.tracker.release(&mut c.pool);
        prop_assert_eq!(c.pool.in_use(), 0);
    }

    /// Nothing that a header may say leads to a panic, to samples beyond the limits, or to memory that stays taken.
    #[test]
    fn takes_any_segment(
        segments in prop::collection::vec(
            (any::<[bool; 3]>(), any::<u8>(), any::<[u32; 3]>(), any::<u16>(), 0..40_000_000_000_u64), 0..200,
        ),
    ) {
        let mut c = Connection::open();
        let mut time_ns = 0;
        let near = |any: u32, near: bool| if near { 1000 + any % 50 } else { any };
        for ([from_server, is_near, reverse], flags, [seq, ack, len], window, passed_ns) in segments {
            time_ns += passed_ns;
            let direction = if from_server { S } else { C };
            let payload_len = if is_near { len % 20 } else { len };
            let (seq, ack) = (near(seq, is_near), near(ack, is_near));
            c.segment(direction, TcpSegment { time_ns, seq, ack, payload_len, window, flags });
            c.tracker.datagram(direction, time_ns, len % 3, &mut c.delays.art, &c.limits);
            if reverse && flags == 0 {
                c.tracker.reverse();
            }
        }
        let [srt, art] = [c.delays.srt, c.delays.art].map(Delay::from);
        prop_assert!(srt.max_ns <= c.limits.ack_ns && art.max_ns <= c.limits.response_ns);
        prop_assert!(c.perf.rtt_client.max_ns <= c.limits.handshake_ns);
        prop_assert!(c.pool.in_use() <= 2);
        c.tracker.release(&mut c.pool);
        prop_assert_eq!(c.pool.in_use(), 0);
    }
}
