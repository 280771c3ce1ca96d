//! The hand-checkable vectors of the reference system's flow states (V1 to V20) and timings (P1 to P10), as packets
//! through the meter.
#![allow(clippy::cast_possible_truncation, clippy::expect_used)]

use sluice_core::decap::TunnelInfo;
use sluice_core::flow::{FlowMeter, MeterConfig, Packet, Sink, VlanKey};
use sluice_core::wire;
use sluice_model::{DelayLimits, FlowRecord, FlowTimeouts, MetricsRecord, PortId};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

const MS: u64 = 1_000_000;
/// Ten seconds into a minute.
const START_NS: u64 = 1_700_000_050_000_000_000 - 1_700_000_050_000_000_000 % 60_000_000_000 + 10_000 * MS;

#[derive(Default)]
struct Records(Vec<FlowRecord>, Vec<MetricsRecord>);

impl Sink for Records {
    fn flow(&mut self, record: &FlowRecord) {
        self.0.push(*record);
    }

    fn metrics(&mut self, row: &MetricsRecord) {
        self.1.push(*row);
    }
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}
use Side::{Client as C, Server as S};

/// A packet: time in tenths of a millisecond, who sent it, flags, sequence number, acknowledgement number, payload
/// length, window.
#[derive(Clone, Copy)]
struct P(u64, Side, u8, u32, u32, u16, u16);

fn frame(from: Side, protocol: u8, l4: &[u8], payload: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let total = 20 + l4.len() as u16 + payload;
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    match from {
        C => frame.extend([client, server].concat()),
        S => frame.extend([server, client].concat()),
    }
    frame.extend(l4);
    frame.resize(frame.len() + usize::from(payload), 0);
    frame
}

fn ports(from: Side) -> [u8; 4] {
    let (client, server) = (40_000_u16.to_be_bytes(), 80_u16.to_be_bytes());
    match from {
        C => [client[0], client[1], server[0], server[1]],
        S => [server[0], server[1], client[0], client[1]],
    }
}

fn tcp(packet: &P) -> Vec<u8> {
    let &P(_, from, flags, seq, ack, payload, window) = packet;
    let mut l4 = ports(from).to_vec();
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags]);
    l4.extend(window.to_be_bytes());
    l4.extend([0; 4]);
    frame(from, 6, &l4, payload)
}

fn meter() -> FlowMeter {
    FlowMeter::new(MeterConfig {
        tap_sides: Vec::new(),
        flows: 64,
        vlan: VlanKey::Ids,
        timeouts: FlowTimeouts::default(),
        delay_limits: DelayLimits::default(),
        taps: Vec::new(),
        metrics: None,
        vtap_id: 1,
        worker: 0,
    })
}

fn run(frames: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Vec<FlowRecord> {
    let (mut meter, mut records) = (meter(), Records::default());
    for (time_ns, frame) in frames {
        let headers = wire::parse(&frame);
        let packet = Packet {
            frame: &frame,
            headers: &headers,
            tunnel: &TunnelInfo::NONE,
            wire_len: frame.len() as u32,
            time_ns,
            port: PortId(0),
            is_duplicate: false,
        };
        meter.prepare(0, packet.headers, packet.tunnel, packet.port, None, || packet.frame);
        meter.fetch(0);
        meter.packet(0, &packet, &mut records);
    }
    meter.finish(&mut records);
    assert_eq!(meter.counts().flows, 0);
    records.0
}

fn run_tcp(packets: &[P]) -> Vec<FlowRecord> {
    run(packets.iter().map(|packet| (START_NS + packet.0 * MS / 10, tcp(packet))))
}

/// The base handshake, milliseconds 0, 20 and 21.
const HS: [P; 3] = [
    P(0, C, SYN, 1000, 0, 0, 100),
    P(200, S, SYN | ACK, 5000, 1001, 0, 100),
    P(210, C, ACK, 1001, 5001, 0, 100),
];

/// The handshake, then these.
fn hs(packets: &[P]) -> Vec<P> {
    [&HS[..], packets].concat()
}

/// A packet of a V vector: nothing but flags matters.
fn v(packets: &[(Side, u8)]) -> Vec<P> {
    let packet = |(at, &(from, flags)): (usize, &(Side, u8))| {
        let (seq, ack) = match from {
            C => (1001, 5001),
            S => (5001, 1001),
        };
        P(300 + 10 * at as u64, from, flags, seq, ack, 0, 100)
    };
    packets.iter().enumerate().map(packet).collect()
}

fn code(packets: &[P]) -> u8 {
    let records = run_tcp(packets);
    let last = records.last().expect("a record");
    assert_eq!(u32::from(last.ports.expect("ports")[1]), 80, "the server");
    last.close_type.code()
}

#[test]
fn close_vectors() {
    let data = [(C, PSH | ACK), (S, PSH | ACK)];
    let after = |packets: &[(Side, u8)]| code(&hs(&v(packets)));
    let after_data = |packets: &[(Side, u8)]| after(&[&data[..], packets].concat());
    let alone = |packets: &[(Side, u8)]| code(&v(packets));
    let got = [
        alone(&[(C, SYN)]),
        alone(&[(C, SYN), (S, RST | ACK)]),
        alone(&[(C, SYN), (S, SYN | ACK)]),
        alone(&[(C, SYN), (S, SYN | ACK), (C, RST)]),
        alone(&[(C, SYN), (S, SYN | ACK), (S, RST | ACK)]),
        alone(&[(C, SYN), (S, ACK), (C, RST)]),
        alone(&[(C, SYN), (C, RST)]),
        after_data(&[(C, FIN | ACK), (S, FIN | ACK), (C, ACK)]),
        after(&[(S, FIN | ACK), (C, FIN | ACK), (S, ACK)]),
        after(&[(C, FIN | ACK), (S, ACK)]),
        after(&[(S, FIN | ACK), (C, ACK)]),
        after_data(&[(C, RST | ACK)]),
        after_data(&[(S, RST | ACK)]),
        after(&[(S, SYN | ACK), (C, ACK), (S, SYN | ACK)]),
        after(&[(S, SYN | ACK), (C, ACK), (S, SYN | ACK), (C, ACK), (S, SYN | ACK), (S, RST)]),
        after(&[(S, SYN | ACK), (S, RST)]),
        after(&[]),
        alone(&[(C, PSH | ACK), (C, PSH | ACK)]),
        after(&[(C, FIN | ACK), (S, FIN | ACK), (C, RST)]),
        after(&[(C, SYN)]),
    ];
    assert_eq!(got, [7, 15, 10, 18, 19, 13, 18, 1, 1, 8, 11, 9, 2, 17, 17, 9, 3, 3, 9, 3]);
    assert_eq!(alone(&[(C, SYN), (S, ACK)]), 13, "V6 without the RST");
}

#[test]
fn silent_flows_end_after_their_timeout() {
    let timeout_s = |packets: &[P]| {
        let records = run_tcp(packets);
        let last = records.last().expect("a record");
        let packet_ns = START_NS + packets.last().expect("a packet").0 * MS / 10;
        (last.end_ns - packet_ns) / 1_000_000_000
    };
    assert_eq!(timeout_s(&v(&[(C, SYN)])), 5);
    assert_eq!(timeout_s(&hs(&[])), 300);
    assert_eq!(timeout_s(&v(&[(C, PSH | ACK), (C, PSH | ACK)])), 5, "one way");
    assert_eq!(timeout_s(&hs(&v(&[(C, FIN | ACK), (S, ACK)]))), 35);
    assert_eq!(timeout_s(&hs(&v(&[(C, RST)]))), 5);
    assert_eq!(timeout_s(&hs(&v(&[(C, FIN | ACK), (S, FIN | ACK), (C, ACK)]))), 0, "closed at once");
}

/// What a P vector says, in microseconds: sums (and counts where there are several samples).
#[derive(Debug, Default, PartialEq)]
struct Expect {
    rtt: u64,
    rtt_server: (u64, u32),
    rtt_client: (u64, u32),
    srt: (u64, u32),
    art: (u64, u32),
    retrans: [u32; 2],
    zero_win: [u32; 2],
    out_of_order: [u32; 2],
}

fn measured(record: &FlowRecord) -> Expect {
    let perf = &record.perf;
    let delay = |delay: &sluice_model::Delay| (delay.sum_ns / 1000, delay.count);
    Expect {
        rtt: perf.rtt_ns / 1000,
        rtt_server: delay(&perf.rtt_server),
        rtt_client: delay(&perf.rtt_client),
        srt: delay(&perf.srt),
        art: delay(&perf.art),
        retrans: perf.sides.map(|side| side.retrans),
        zero_win: perf.sides.map(|side| side.zero_win),
        out_of_order: perf.sides.map(|side| side.out_of_order),
    }
}

/// What the handshake alone gives.
fn expect_hs() -> Expect {
    Expect { rtt: 21_000, rtt_server: (20_000, 1), rtt_client: (1_000, 1), ..Expect::default() }
}

#[test]
fn timing_vectors() {
    let p = |packets: &[P]| measured(run_tcp(packets).first().expect("a record"));
    assert_eq!(
        p(&hs(&[
            P(220, C, PSH | ACK, 1001, 5001, 100, 100),
            P(420, S, ACK, 5001, 1101, 0, 100),
            P(620, S, PSH | ACK, 5001, 1101, 500, 100),
            P(630, C, ACK, 1101, 5501, 0, 100),
        ])),
        Expect { srt: (20_000, 1), art: (40_000, 1), ..expect_hs() },
        "P1"
    );
    assert_eq!(
        p(&[
            P(0, C, SYN, 1000, 0, 0, 100),
            P(10_000, C, SYN, 1000, 0, 0, 100),
            P(10_200, S, SYN | ACK, 5000, 1001, 0, 100),
            P(10_210, C, ACK, 1001, 5001, 0, 100),
        ]),
        Expect {
            rtt: 1_021_000,
            rtt_server: (20_000, 1),
            rtt_client: (1_000, 1),
            retrans: [1, 0],
            ..Expect::default()
        },
        "P2"
    );
    assert_eq!(
        p(&[
            P(0, C, SYN, 1000, 0, 0, 100),
            P(200, S, SYN | ACK, 5000, 1001, 0, 100),
            P(10_200, S, SYN | ACK, 5000, 1001, 0, 100),
            P(10_500, C, ACK, 1001, 5001, 0, 100),
            P(10_600, C, ACK, 1001, 5001, 0, 100),
        ]),
        Expect {
            rtt: 1_050_000,
            rtt_server: (20_000, 1),
            rtt_client: (30_000, 1),
            retrans: [1, 1],
            ..Expect::default()
        },
        "P3"
    );
    assert_eq!(
        p(&hs(&[P(10_200, S, SYN | ACK, 5000, 1001, 0, 100), P(10_210, C, ACK, 1001, 5001, 0, 100),])),
        Expect {
            rtt: 1_021_000,
            rtt_server: (20_000, 1),
            rtt_client: (2_000, 2),
            retrans: [1, 1],
            ..Expect::default()
        },
        "P4"
    );
    assert_eq!(
        p(&hs(&[
            P(300, C, ACK, 1001, 5001, 1400, 100),
            P(310, C, PSH | ACK, 2401, 5001, 600, 100),
            P(550, S, PSH | ACK, 5001, 3001, 300, 100),
        ])),
        Expect { art: (24_000, 1), ..expect_hs() },
        "P5"
    );
    assert_eq!(
        p(&hs(&[
            P(300, C, ACK, 1001, 5001, 100, 100),
            P(500, S, ACK, 5001, 1101, 0, 100),
            P(600, S, PSH | ACK, 5001, 1101, 200, 100),
        ])),
        Expect { srt: (20_000, 1), art: (30_000, 1), ..expect_hs() },
        "P6"
    );
    assert_eq!(
        p(&hs(&[
            P(300, C, PSH | ACK, 1001, 5001, 100, 100),
            P(305, C, PSH | ACK, 1101, 5001, 50, 100),
            P(500, S, ACK, 5001, 1101, 0, 0),
            P(501, S, ACK, 5001, 1151, 0, 0),
            P(800, S, ACK, 5001, 1151, 0, 100),
            P(900, S, PSH | ACK, 5001, 1151, 200, 100),
        ])),
        Expect { srt: (19_600, 1), art: (59_500, 1), zero_win: [0, 2], ..expect_hs() },
        "P7"
    );
    assert_eq!(
        p(&hs(&[
            P(300, S, PSH | ACK, 5001, 1001, 100, 100),
            P(310, S, PSH | ACK, 5201, 1001, 100, 100),
            P(320, S, PSH | ACK, 5101, 1001, 100, 100),
            P(330, S, PSH | ACK, 5101, 1001, 100, 100),
            P(340, S, PSH | ACK, 5001, 1001, 250, 100),
        ])),
        Expect { retrans: [0, 2], out_of_order: [0, 1], ..expect_hs() },
        "P8"
    );
    assert_eq!(
        p(&hs(&[
            P(300, C, PSH | ACK, 1001, 5001, 100, 100),
            P(500, S, PSH | ACK, 5001, 1101, 200, 100),
            P(510, C, ACK, 1101, 5201, 0, 100),
            P(1000, C, PSH | ACK, 1101, 5201, 80, 100),
            P(3000, C, PSH | ACK, 1101, 5201, 80, 100),
            P(3200, S, PSH | ACK, 5201, 1181, 90, 100),
        ])),
        Expect { art: (40_000, 2), retrans: [1, 0], ..expect_hs() },
        "P9"
    );
}

#[test]
fn udp_answers_count_from_the_latest_request() {
    let udp = |time: u64, from: Side, payload: u16| {
        let mut l4 = ports(from).to_vec();
        l4.extend((8 + payload).to_be_bytes());
        l4.extend([0, 0]);
        (START_NS + time * MS, frame(from, 17, &l4, payload))
    };
    // P10: the last gap is above 30 s.
    let records = run([
        udp(0, C, 40),
        udp(5, C, 40),
        udp(30, S, 90),
        udp(31, S, 90),
        udp(40, C, 40),
        udp(31_000, S, 90),
    ]);
    let art: Vec<_> = records.iter().map(|r| r.perf.art).filter(|art| art.count > 0).collect();
    assert_eq!(art.len(), 1);
    assert_eq!((art[0].sum_ns, art[0].count), (25 * MS, 1));
}

#[test]
fn udp_delays_are_reported_once_and_wait_across_reports() {
    let udp = |ms: u64, from: Side| {
        let mut l4 = ports(from).to_vec();
        l4.extend([0, 48, 0, 0]);
        (START_NS + ms * MS, frame(from, 17, &l4, 40))
    };
    // START_NS is 10 s into a minute: the second request is answered in the next minute, and in the one after that there
    // is nothing to measure.
    let seconds = |s: u64| s * 1000;
    let records = run([
        udp(0, C),
        udp(20, S),
        udp(seconds(20), C),
        udp(seconds(45), C),
        udp(seconds(49) + 990, C),
        udp(seconds(50) + 30, S),
        udp(seconds(80), S),
        udp(seconds(110), C),
    ]);
    let art: Vec<_> = records
        .iter()
        .map(|record| (record.perf.art.sum_ns / MS, record.perf.art.max_ns / MS, record.perf.art.count))
        .collect();
    assert_eq!(art, [(20, 20, 1), (40, 40, 1), (0, 0, 0)]);
}

/// The client's port and the score of the server by the last record.
fn client_port(frames: impl IntoIterator<Item = Vec<u8>>) -> u16 {
    let frames = frames.into_iter().enumerate().map(|(at, frame)| (START_NS + at as u64 * MS, frame));
    run(frames).last().and_then(|record| record.ports).expect("ports")[0]
}

#[test]
fn who_is_the_client() {
    // C has the high port, S the low one: whoever sends first, the low port serves.
    let data = |from| tcp(&P(0, from, PSH | ACK, 1, 1, 10, 100));
    assert_eq!(client_port([data(C)]), 40_000);
    assert_eq!(client_port([data(S)]), 40_000);
    // SYN and SYN-ACK say more than ports.
    let flags = |from, flags| tcp(&P(0, from, flags, 1, 1, 0, 100));
    assert_eq!(client_port([flags(S, SYN)]), 80);
    assert_eq!(client_port([flags(C, SYN | ACK)]), 80);
    assert_eq!(client_port([flags(C, PSH | ACK), flags(S, SYN)]), 80);
    assert_eq!(
        client_port([flags(C, SYN), flags(S, SYN | ACK), flags(S, SYN)]),
        40_000,
        "SYN-ACK is certain"
    );
    assert_eq!(client_port([flags(C, SYN), flags(S, SYN)]), 80, "the last SYN without an answer");
}

#[test]
fn an_answer_that_is_seen_first_is_one_of_the_server() {
    // SYN-ACK, ACK and FINs: the records are those of a flow whose SYN was seen.
    let packets = [
        P(0, S, SYN | ACK, 5000, 1001, 0, 100),
        P(10, C, ACK, 1001, 5001, 0, 100),
        P(20, C, FIN | ACK, 1001, 5001, 0, 100),
    ];
    assert_eq!(code(&packets), 8);
    let records = run_tcp(&packets);
    assert_eq!(records[0].sides.map(|side| side.packets), [2, 1]);
    assert_eq!((records[0].perf.rtt_client.sum_ns, records[0].perf.rtt_ns), (MS, 0));
    assert_eq!(records[0].direction_score, 255);
    assert_eq!((records[0].syn_seq, records[0].syn_ack_seq), (None, Some(5000)));
}

#[test]
fn records_are_cut_at_natural_minutes() {
    // First packet at :30.500, a packet in every minute, last ACK of a clean close at 2:10.200.
    let at = |ms: u64| ms * 10 + 200_000;
    let packets = [
        P(at(500), C, SYN, 1000, 0, 0, 100),
        P(at(520), S, SYN | ACK, 5000, 1001, 0, 100),
        P(at(521), C, ACK, 1001, 5001, 0, 100),
        P(at(60_000), C, ACK, 1001, 5001, 10, 100),
        P(at(100_000), C, FIN | ACK, 1011, 5001, 0, 100),
        P(at(100_100), S, FIN | ACK, 5001, 1012, 0, 100),
        P(at(100_200), C, ACK, 1012, 5002, 0, 100),
    ];
    let records = run_tcp(&packets);
    let minute_ns = START_NS - 10_000 * MS;
    let rows: Vec<_> = records
        .iter()
        .map(|r| {
            let packets = r.sides.map(|side| side.packets);
            let ms = |ns: u64| (ns - minute_ns) / MS;
            (ms(r.start_ns), ms(r.end_ns), r.close_type.code(), packets, r.duration_ns / MS, r.is_new_flow)
        })
        .collect();
    assert_eq!(
        rows,
        [
            (30_500, 60_000, 5, [2, 1], 21, true),
            (60_000, 120_000, 5, [1, 0], 59_500, false),
            (120_000, 130_200, 1, [2, 1], 99_700, false),
        ]
    );
    assert_eq!(records[2].sides[0].total_packets, 5);
    assert!(records.iter().all(|record| record.flow_id == records[0].flow_id));
    // Without the close: minutes without packets give no record; 300 s later there is one without packets.
    let records = run_tcp(&packets[..4]);
    let last = records.last().expect("a record");
    assert_eq!(records.len(), 3);
    let at_ms = 90_000 + 300_000;
    assert_eq!((last.end_ns - minute_ns) / MS, at_ms);
    assert_eq!((last.start_ns - minute_ns) / MS, at_ms - at_ms % 60_000);
    assert_eq!((last.close_type.code(), last.sides[0].packets, last.duration_ns / MS), (3, 0, 59_500));
}

#[test]
fn a_flow_that_follows_a_silent_one_is_cut_like_any() {
    let udp = |ms: u64| {
        let l4 = [&ports(C)[..], &[0; 4]].concat();
        (START_NS + ms * MS, frame(C, 17, &l4, 40))
    };
    // At :10, :16, :20 and so on up to 1:00: the first flow has timed out at :15.
    let times =
        [0, 6_000, 10_000, 14_000, 18_000, 22_000, 26_000, 30_000, 34_000, 38_000, 42_000, 46_000, 50_000];
    let records = run(times.map(udp));
    let minute_ns = START_NS - 10_000 * MS;
    let ms = |ns: u64| (ns - minute_ns) / MS;
    let row = |r: &FlowRecord| (ms(r.start_ns), ms(r.end_ns), r.close_type.code(), r.sides[0].packets);
    let rows: Vec<_> = records.iter().map(row).collect();
    let expected = [(10_000, 15_000, 3, 1), (16_000, 60_000, 5, 11), (60_000, 65_000, 3, 1)];
    assert_eq!(rows, expected);
}
