//! How long does following a TCP segment take, with state, delays, losses and windows?
//!
//! `cargo run --release -p sluice-core --example tcp_bench`. Each connection sends a request, which is acknowledged and
//! answered by two segments that are acknowledged in turn; connections take turns. Compare only figures of one run:
//! machines are noisy. The time to make the segments up is measured alone and taken off.

use std::hint::black_box;
use std::time::Instant;

use sluice_core::flow::tcp::flags::{ACK, PSH};
use sluice_core::flow::tcp::{
    Delays, Direction, FlowState, Handshake, Measured, RangePool, TcpSegment, TcpTracker,
};
use sluice_model::{DelayLimits, TcpPerf};

/// One connection as an exchange makes it up, and as it is followed.
struct Connection {
    seq: [u32; 2],
    state: FlowState,
    tracker: TcpTracker,
    delays: Delays,
    perf: TcpPerf,
    handshake: Handshake,
    /// Data segments that were sent, and one that comes late.
    sent: u32,
    withheld: Option<u32>,
}

/// Side, payload length and flags of the segments of an exchange.
type Exchange = &'static [(usize, u32, u8)];

const WEB: Exchange =
    &[(0, 300, PSH | ACK), (1, 0, ACK), (1, 1448, ACK), (1, 900, PSH | ACK), (0, 0, ACK), (0, 0, ACK)];
const BULK: Exchange = &[(1, 1448, ACK), (1, 1448, ACK), (0, 0, ACK)];
const ECHO: Exchange = &[(0, 64, PSH | ACK), (1, 64, PSH | ACK)];

fn main() {
    for connections in [64, 1024] {
        report("requests and responses", WEB, connections, 0);
        report("a download", BULK, connections, 0);
        report("echoes", ECHO, connections, 0);
        report("a download, 1 of 100 late", BULK, connections, 100);
    }
}

fn report(name: &str, exchange: Exchange, connections: usize, lost: u32) {
    let made = best(exchange, connections, lost, false);
    let followed = best(exchange, connections, lost, true);
    println!("{connections:5} connections, {name}: {:.1} ns a segment", followed - made);
}

fn best(exchange: Exchange, connections: usize, lost: u32, follow: bool) -> f64 {
    (0..7).map(|_| run(exchange, connections, lost, follow)).fold(f64::INFINITY, f64::min)
}

/// Nanoseconds a segment.
fn run(exchange: Exchange, connections: usize, lost: u32, follow: bool) -> f64 {
    let mut flows: Vec<_> = (0..connections)
        .map(|_| Connection {
            seq: [7; 2],
            state: FlowState::Established,
            tracker: TcpTracker::default(),
            delays: Delays::default(),
            perf: TcpPerf::default(),
            handshake: Handshake::default(),
            sent: 0,
            withheld: None,
        })
        .collect();
    let (mut pool, limits) = (RangePool::new(connections * 2), DelayLimits::default());
    let rounds = 2_000_000 / connections / exchange.len();
    let (mut time_ns, mut segments) = (1_700_000_000_000_000_000, 0_u32);
    let start = Instant::now();
    for _ in 0..rounds {
        for &(side, len, flags) in exchange {
            for flow in &mut flows {
                time_ns += 100;
                segments += 1;
                let mut seq = flow.seq[side];
                if lost > 0 && len > 0 {
                    flow.sent += 1;
                    if let Some(late) = flow.withheld.take() {
                        // The hole is filled.
                        flow.seq[side] = seq.wrapping_sub(len);
                        seq = late;
                    } else if flow.sent.is_multiple_of(lost) {
                        // A hole is left.
                        flow.withheld = Some(seq);
                        seq = seq.wrapping_add(len);
                        flow.seq[side] = seq;
                    }
                }
                let segment = TcpSegment {
                    time_ns,
                    seq,
                    ack: flow.seq[side ^ 1],
                    payload_len: len,
                    window: 1000,
                    flags,
                };
                flow.seq[side] = flow.seq[side].wrapping_add(len);
                let segment = black_box(segment);
                if follow {
                    flow.state = flow.state.next(side == 1, segment.flags);
                    let mut measured = Measured {
                        delays: &mut flow.delays,
                        perf: &mut flow.perf,
                        handshake: &mut flow.handshake,
                        pool: &mut pool,
                        limits: &limits,
                    };
                    flow.tracker.segment(Direction::of_side(side), &segment, &mut measured);
                }
            }
        }
    }
    let nanoseconds = start.elapsed().as_nanos();
    black_box(&flows);
    assert!(!follow || pool.in_use() <= connections, "holes were filled");
    #[expect(clippy::cast_precision_loss, reason = "a measurement of seconds at most")]
    let nanoseconds = nanoseconds as f64;
    nanoseconds / f64::from(segments)
}
