//! Does a running daemon write flow records and metrics of everything it received, and go on where an earlier run ended?

#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::Lab;
use sluice_tests::tap::Tap;

const BOOT: &str = r#"
[flow]
jsonl = "flows.jsonl"
metrics_jsonl = "metrics.jsonl"

[[port]]
name = "tap0"
spec = "af_packet:tap0"
role = "capture"
tap = 7
tap_side = "c"

[[port]]
name = "out0"
spec = "af_packet:out0"
role = "output"
addresses = ["192.0.2.1/24"]
"#;

const POLICY: &str = r#"
[[destination]]
name = "file"
type = "pcap"
file = "copies.pcap"

[[policy]]
name = "all"
to = ["file"]
"#;

/// What the account of a run says of packets received: the flood, and what neighbours say by themselves.
fn received_in(text: &str) -> u64 {
    let account = text.split_once("\nrx ").unwrap().1;
    account.split(' ').next().unwrap().parse().unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn packets(rows: &[Value], of: impl Fn(&Value) -> bool) -> u64 {
    let both = |row: &Value| row["packet_tx"].as_u64().unwrap() + row["packet_rx"].as_u64().unwrap();
    rows.iter().filter(|row| of(row)).map(both).sum()
}

#[test]
fn everything_received_is_in_records_and_metrics() {
    let Some(mut lab) = Lab::new("records") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let mut received = 0;
    for run in 1..=2 {
        let mut daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
        tap.flood(5000, 300);
        daemon.signal(Signal::TERM);
        let (status, text) = daemon.wait();
        assert!(status.success(), "{status}\n{text}{}", daemon.log());
        received += received_in(&text);
        assert!(received >= 5000 * run, "{text}");
        let records = lines(&lab.dir().join("flows.jsonl"));
        assert_eq!(packets(&records, |_| true), received);
        assert!(records.iter().all(|record| record["tap_type"] == 7 && record["tap_side"] == "c"));
        let metrics = lines(&lab.dir().join("metrics.jsonl"));
        for interval in [1, 60] {
            assert_eq!(packets(&metrics, |row| row["interval"] == interval), received, "{interval} s");
        }
    }
}

#[test]
fn records_that_cannot_be_written_are_an_error() {
    let Some(mut lab) = Lab::new("norecords") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let boot = BOOT.replace("\"flows.jsonl\"", "\"/dev/full\"");
    let mut daemon = Daemon::start(&lab, &tap.broker, &boot, POLICY);
    tap.flood(100, 300);
    daemon.signal(Signal::TERM);
    let (status, text) = daemon.wait();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(received_in(&text) >= 100, "{text}");
    assert!(daemon.log().contains("/dev/full"), "{}", daemon.log());
}
