//! Do rate limits and the breaker let out what an obvious computation says, in captured time?
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code; lengths and times are small"
)]

use std::fs;
use std::path::{Path, PathBuf};

use sluice_tests::pcap_file::{self, Builder, ETHERNET, Record};
use sluice_tests::sluiced;

const START_NS: u64 = 1_700_000_000_000_000_000;

/// A frame of `len` bytes that is told apart by `number`.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame.resize(len, 0);
    frame
}

fn numbers(file: &[u8]) -> Vec<u32> {
    let number = |data: &[u8]| u32::from_be_bytes(data[14..18].try_into().unwrap());
    pcap_file::records(file).iter().map(|record| number(record.data)).collect()
}

/// A capture of frames with these lengths, at these times after the start.
fn capture(dir: &Path, name: &str, packets: &[(u64, usize)], start_ns: u64) -> PathBuf {
    let mut file = Builder::new(ETHERNET);
    for (number, &(at_ns, len)) in packets.iter().enumerate() {
        let data = frame(number as u32, len);
        file.push(Record { timestamp_ns: start_ns + at_ns, wire_len: len as u32, data: &data });
    }
    let path = dir.join(name);
    file.save(&path);
    path
}

fn destination(name: &str, keys: &str) -> String {
    format!("[[destination]]\nname = \"{name}\"\ntype = \"pcap\"\nfile = \"{name}\"\n{keys}\n")
}

fn replay(dir: &Path, policy: &str, boot: &str, inputs: &[PathBuf]) -> sluiced::Replayed {
    let config = dir.join("boot.toml");
    fs::write(&config, boot).unwrap();
    sluiced::run(dir, policy, inputs, &["--json", "--config", config.to_str().unwrap()])
}

/// The obvious token bucket, in units of 10^-9 tokens.
struct Bucket {
    per_s: u64,
    burst: u64,
    level: u64,
    at_ns: u64,
}

impl Bucket {
    fn new(per_s: u64, burst: u64) -> Self {
        Self { per_s, burst: burst * 1_000_000_000, level: burst * 1_000_000_000, at_ns: 0 }
    }

    fn has(&mut self, now_ns: u64, tokens: u64) -> bool {
        self.level = self.burst.min(self.level + (now_ns - self.at_ns) * self.per_s);
        self.at_ns = now_ns;
        self.level >= tokens * 1_000_000_000
    }

    fn take(&mut self, tokens: u64) {
        self.level -= tokens * 1_000_000_000;
    }
}

#[test]
fn copies_leave_as_the_obvious_buckets_say() {
    // Gaps are multiples of 100 us, in which every bucket earns whole tokens.
    let (mut at_ns, mut seed) = (0, 7_u64);
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let packets: Vec<(u64, usize)> = (0..20_000)
        .map(|_| {
            at_ns += [0, 0, 0, 100_000, 100_000, 300_000][next(6) as usize];
            (at_ns, 64 + next(1_400) as usize)
        })
        .collect();
    let mut bits = Bucket::new(8_000_000, 80_000);
    let mut pkts = Bucket::new(10_000, 10);
    let mut all = Bucket::new(40_000_000, 800_000);
    let mut expected = [const { Vec::new() }; 3];
    for (number, &(now, len)) in packets.iter().enumerate() {
        let size = len as u64 * 8;
        for (destination, list) in expected.iter_mut().enumerate() {
            let own = match destination {
                0 => bits.has(now, size),
                1 => pkts.has(now, 1),
                _ => true,
            };
            if own && all.has(now, size) {
                all.take(size);
                match destination {
                    0 => bits.take(size),
                    1 => pkts.take(1),
                    _ => {}
                }
                list.push(number as u32);
            }
        }
    }
    assert!(expected.iter().all(|list| list.len() > 500 && list.len() < 19_000), "the limits are used");

    let folder = tempfile::tempdir().unwrap();
    let input = capture(folder.path(), "in.pcap", &packets, START_NS);
    let policy = [
        destination("a", "rate_mbps = 8"),
        destination("b", "rate_pps = 10000\nburst_ms = 1"),
        destination("c", ""),
        "[[policy]]\nname = \"all\"\nto = [\"a\", \"b\", \"c\"]\n".to_owned(),
    ]
    .concat();
    let replayed = replay(folder.path(), &policy, "[limit]\nrate_mbps = 40\nburst_ms = 20\n", &[input]);
    let report = replayed.report();
    let mut sent = 0;
    for (name, expected) in ["a", "b", "c"].iter().zip(&expected) {
        let got = numbers(&replayed.output(name));
        let differs = got.iter().zip(expected).position(|(a, b)| a != b);
        assert!(differs.is_none() && got.len() == expected.len(), "{name}: differs at {differs:?}");
        let row =
            report.0["destinations"].as_array().unwrap().iter().find(|row| row["name"] == *name).unwrap();
        assert_eq!(row["drops"]["rate_limit"], packets.len() - expected.len(), "{name}");
        sent += expected.len();
    }
    let dropped = (3 * packets.len() - sent) as u64;
    assert_eq!(report.drops(), [("rate_limit".to_owned(), dropped)].into());
    assert_eq!(report.0["policies"][0]["drops"]["rate_limit"], dropped);
}

#[test]
fn an_earlier_capture_does_not_stop_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    // 1,000 bits a millisecond of 1 Mbit/s: each packet finds the bucket of 10 kbit full again.
    let packets: Vec<_> = (0..50_u64).map(|n| (n * 10_000_000, 1_250)).collect();
    let first = capture(folder.path(), "first.pcap", &packets, START_NS);
    let second = capture(folder.path(), "second.pcap", &packets[1..], START_NS - 86_400_000_000_000);
    let policy = destination("a", "rate_mbps = 1") + "[[policy]]\nname = \"all\"\nto = [\"a\"]\n";
    let replayed = replay(folder.path(), &policy, "", &[first, second]);
    // Only the first packet of the second capture comes too early: no time has passed since the last one of the first.
    assert_eq!(replayed.report().drops(), [("rate_limit".to_owned(), 1)].into());
}

#[test]
fn the_breaker_follows_captured_time() {
    let folder = tempfile::tempdir().unwrap();
    // 500 frames of 10 kbit in each second: 5 Mbit/s, at or above the threshold of 3.
    let packets: Vec<_> = (0..20_000_u64 / 2).map(|n| (n * 2_000_000, 1_250)).collect();
    let input = capture(folder.path(), "in.pcap", &packets, START_NS);
    let policy = destination("a", "") + "[[policy]]\nname = \"all\"\nto = [\"a\"]\n";
    let boot = "[limit]\nrate_mbps = 1\nburst_ms = 10000\n[breaker]\nthreshold_mbps = 3\ninterval = \"1s\"\n";
    let replayed = replay(folder.path(), &policy, boot, &[input]);
    let report = replayed.report();
    // Open after the first second; nothing leaves for five, which are quiet; then the same again.
    let expected: Vec<u32> = (0..10_000).filter(|n| n / 500 % 6 == 0).collect();
    assert_eq!(numbers(&replayed.output("a")), expected);
    assert_eq!(report.drops(), [("breaker".to_owned(), 10_000 - expected.len() as u64)].into());
    let breaker = &report.0["breakers"][0];
    assert_eq!((&breaker["opened"], &breaker["open"]), (&4.into(), &true.into()), "{breaker}");

    // With a rate just below the threshold it never opens.
    let slower: Vec<_> = (0..5_000_u64).map(|n| (n * 4_000_000, 1_499)).collect();
    let input = capture(folder.path(), "slow.pcap", &slower, START_NS);
    let boot =
        "[limit]\nrate_mbps = 1\nburst_ms = 10000\n[breaker]\nthreshold_mbps = 3\ninterval = \"500ms\"\n";
    let replayed = replay(folder.path(), &policy, boot, &[input]);
    let breaker = replayed.report().0["breakers"][0].clone();
    assert_eq!((&breaker["opened"], &breaker["open"]), (&0.into(), &false.into()), "{breaker}");
}
