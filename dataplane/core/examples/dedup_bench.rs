//! What does deduplication cost per packet, with few and with many fingerprints in the window?
//!
//! `cargo run --release -p sluice-core --example dedup_bench`. Batches of 64 packets, each unlike any before: fingerprints
//! of all with their buckets prefetched, then the verdicts, as the worker does. The cost of making the packets is taken
//! off; parsing is not in it. Cycles are those of the time stamp counter, by /proc/cpuinfo. Compare only figures of one
//! run: machines are noisy.

use std::hint::black_box;
use std::time::Instant;

use sluice_core::dedup::{DedupTable, Fingerprinter, KeyProfile, Verdict, table_bytes};
use sluice_core::wire::{self, Parsed};

const BATCH: usize = 64;
/// Packets of each measurement.
const PACKETS: usize = 2 << 20;
/// Packets of one look at the clock.
const SLICE: u16 = 1 << 13;
const RUNS: usize = 8;
const WINDOW_NS: u64 = 50_000_000;

fn main() {
    let ghz = cpu_ghz();
    println!("TSC at {ghz:.2} GHz");
    for (name, payload, ipv6) in [
        ("64 bytes, IPv4 UDP", 18, false),
        ("1500 bytes, IPv4 UDP", 1458, false),
        ("78 bytes, IPv6 UDP", 12, true),
    ] {
        // The last line is a table that is far too small: every packet drives out another one.
        for (live, entries) in
            [(10_000_u32, 10_000), (100_000, 100_000), (1_000_000, 1_000_000), (1_000_000, 100_000)]
        {
            let mut frames = vec![frame(payload, ipv6); BATCH];
            let parsed: Vec<Parsed> = frames.iter().map(|frame| wire::parse(frame)).collect();
            let fingerprinter = Fingerprinter::new(KeyProfile::default(), 0x5eed);
            let mut table = DedupTable::new(entries, WINDOW_NS);
            let step = WINDOW_NS / u64::from(live);
            let mut number = 0;
            let mut clock = 1_700_000_000_000_000_000;
            let mut duplicates = 0;
            // The window fills first.
            let mut with = f64::INFINITY;
            let mut hashing = f64::INFINITY;
            let mut making = f64::INFINITY;
            for _ in 0..=RUNS {
                making = making.min(time(|| number = make(&mut frames, number)));
                hashing = hashing.min(time(|| {
                    number = make(&mut frames, number);
                    for (frame, parsed) in frames.iter().zip(&parsed) {
                        black_box(fingerprinter.fingerprint(frame, parsed, 60));
                    }
                }));
                with = with.min(time(|| {
                    number = make(&mut frames, number);
                    let mut fingerprints = [0; BATCH];
                    for ((slot, frame), parsed) in fingerprints.iter_mut().zip(&frames).zip(&parsed) {
                        *slot = fingerprinter.fingerprint(frame, parsed, 60);
                        table.prefetch(*slot);
                    }
                    for fingerprint in fingerprints {
                        duplicates += u64::from(table.offer(fingerprint, clock, 1) != Verdict::First);
                        clock += step;
                    }
                }));
            }
            println!(
                "{name}, {live:>9} live ({:>3} MB): {:5.1} cycles per packet, {:5.1} of them for the fingerprint; \
                 {duplicates} duplicates, {} evicted",
                table_bytes(entries).max(4 << 20) >> 20,
                (with - making) * ghz,
                (hashing - making) * ghz,
                table.evicted()
            );
        }
    }
}

/// Nanoseconds per packet: the median over short slices, most of which nobody interrupts.
fn time(mut batch: impl FnMut()) -> f64 {
    let mut slices = Vec::with_capacity(PACKETS / usize::from(SLICE));
    for _ in 0..PACKETS / usize::from(SLICE) {
        let start = Instant::now();
        for _ in 0..usize::from(SLICE) / BATCH {
            batch();
        }
        slices.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(SLICE));
    }
    slices.sort_by(f64::total_cmp);
    slices[slices.len() / 2]
}

/// Gives each frame a number of its own.
fn make(frames: &mut [Vec<u8>], mut number: u64) -> u64 {
    for frame in frames.iter_mut() {
        number += 1;
        let at = frame.len() - 8;
        if let Some(bytes) = frame.get_mut(at.min(62)..).and_then(<[u8]>::first_chunk_mut::<8>) {
            *bytes = number.to_le_bytes();
        }
    }
    black_box(number)
}

fn frame(payload: usize, ipv6: bool) -> Vec<u8> {
    let len = |extra: usize| u16::try_from(payload + extra).unwrap_or(0).to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if ipv6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, len(8)[0], len(8)[1], 17, 64]);
        frame.extend([0x20; 32]);
    } else {
        frame.extend([8, 0, 0x45, 0, len(28)[0], len(28)[1], 0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    }
    frame.extend([0xc0, 0, 0, 53, len(8)[0], len(8)[1], 0, 0]);
    frame.resize(frame.len() + payload, 0);
    frame
}

fn cpu_ghz() -> f64 {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz =
        cpuinfo.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse().ok());
    mhz.unwrap_or(1000.0) / 1000.0
}
