//! How many nanoseconds does parsing a frame take, for a few kinds of frames?
//!
//! `cargo run --release -p sluice-core --example parse_speed [KIND [ROUNDS]]`. Compare only figures of one run: machines are noisy.
//! With a kind, `valgrind --tool=callgrind` counts instructions, which are not (6.4 million frames; give fewer rounds of
//! 320 frames as a second argument).

use std::hint::black_box;
use std::time::Instant;

use sluice_core::wire::{Parsed, parse_innermost, parse_into};

const ROUNDS: u32 = 20_000;

fn main() {
    let udp = frame(17, &[0xc0, 0, 0, 53, 0, 26, 0, 0]);
    let tcp = frame(6, &[0xc0, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    let vlan = [&udp[..12], &[0x81, 0, 0, 100], &udp[12..]].concat();
    let vxlan_header = [0xc0, 0, 0x12, 0xb5, 0, 76, 0, 0, 8, 0, 0, 0, 0, 0, 7, 0];
    let vxlan = frame(17, &[&vxlan_header[..], &tcp].concat());
    let mut ipv6 = [&tcp[..12], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64], &[0x20; 32]].concat();
    ipv6.extend_from_slice(&tcp[34..54]);

    let mixed: Vec<&[u8]> =
        (0..64u32).map(|i| if i.count_ones() % 2 == 0 { &udp[..] } else { &tcp[..] }).collect();
    report("udp", &[&udp[..]; 64], false);
    report("tcp", &[&tcp[..]; 64], false);
    report("udp and tcp, mixed", &mixed, false);
    report("vlan + udp", &[&vlan[..]; 64], false);
    report("ipv6 + tcp", &[&ipv6[..]; 64], false);
    report("vxlan, outer", &[&vxlan[..]; 64], false);
    report("vxlan, outer and inner", &[&vxlan[..]; 64], true);
}

/// An Ethernet and IPv4 frame with this L4 protocol and content, of at least 60 bytes.
fn frame(protocol: u8, l4: &[u8]) -> Vec<u8> {
    let total_len = u16::try_from(20 + l4.len()).unwrap_or(0).max(46).to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, total_len[0], total_len[1]];
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend(l4);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Parses batches as a worker does: from an array of frames into an array of results.
fn report(name: &str, frames: &[&[u8]], inner: bool) {
    if std::env::args().nth(1).is_some_and(|kind| kind != name) {
        return;
    }
    let rounds = std::env::args().nth(2).and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    let mut results = [Parsed::EMPTY; 64];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..rounds {
            for (result, frame) in results.iter_mut().zip(black_box(frames)) {
                parse_into(frame, result);
                if inner {
                    *result = parse_innermost(frame, result, 4);
                }
            }
            black_box(&mut results);
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds) / 64.0);
    }
    println!("{name:24} {best:6.2} ns");
}
