//! Does a running daemon write the records of the flows that crossed its tap, and count in them what tcpdump saw?

#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;

use serde_json::Value;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::Lab;
use sluice_tests::tap::{SERVER, Tap, pattern};
use sluice_tests::tcpdump::{Tcpdump, tshark};

const BOOT: &str = r#"
[flow]
flows = 4096
jsonl = "flows.jsonl"
metrics_jsonl = "metrics.jsonl"

[[port]]
name = "tap0"
spec = "af_packet:tap0"
role = "capture"
tap = 3
tap_side = "c"
"#;
const POLICY: &str = "[[destination]]\nname = \"nowhere\"\ntype = \"pcap\"\nfile = \"/dev/null\"\n\
    [[policy]]\nname = \"none\"\nprotocol = 254\nto = [\"nowhere\"]\n";

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sum(rows: &[&Value], field: &str) -> u64 {
    rows.iter().map(|row| row[field].as_u64().unwrap()).sum()
}

#[test]
fn records_hold_what_crossed_the_tap() {
    let Some(mut lab) = Lab::new("flows") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
    let at_tap = Tcpdump::start(&lab, &tap.broker, "tap0");
    tap.tcp(SERVER[0], &pattern(200_000, 1), &pattern(300_000, 2));
    tap.tcp(SERVER[1], &pattern(50_000, 3), &pattern(10, 4));
    let file = at_tap.file().to_owned();
    let tapped = at_tap.stop();
    let summary = daemon.stop();

    let flows = lines(&std::fs::read_to_string(lab.dir().join("flows.jsonl")).unwrap());
    let metrics = lines(&std::fs::read_to_string(lab.dir().join("metrics.jsonl")).unwrap());
    let all: Vec<_> = flows.iter().collect();
    assert_eq!(sum(&all, "packet_tx") + sum(&all, "packet_rx"), tapped.len() as u64);
    for interval in [1, 60] {
        let rows: Vec<_> = metrics.iter().filter(|row| row["interval"] == interval).collect();
        assert_eq!(sum(&rows, "packet_tx") + sum(&rows, "packet_rx"), tapped.len() as u64, "{interval} s");
    }

    // By connection: what tshark adds up of the capture, from the side that sent SYN.
    let mut seen: BTreeMap<(String, String), [u64; 2]> = BTreeMap::new();
    let fields = ["tcp.srcport", "tcp.dstport", "tcp.len"];
    for line in tshark(&file, "tcp", &fields, &[]) {
        let [src, dst, len]: [&str; 3] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        // Clients of the tap have ports above those of its servers.
        let from_client = src.parse::<u16>().unwrap() > dst.parse::<u16>().unwrap();
        let key =
            if from_client { (src.to_owned(), dst.to_owned()) } else { (dst.to_owned(), src.to_owned()) };
        seen.entry(key).or_default()[usize::from(!from_client)] += len.parse::<u64>().unwrap();
    }
    assert_eq!(seen.len(), 2);
    for ((client, server), bytes) in seen {
        let is = |row: &&Value| {
            [("client_port", &client), ("server_port", &server)]
                .iter()
                .all(|(field, port)| row[*field].as_u64() == port.parse().ok())
        };
        let rows: Vec<_> = flows.iter().filter(is).collect();
        assert_eq!([sum(&rows, "l4_byte_tx"), sum(&rows, "l4_byte_rx")], bytes, "{client} to {server}");
        // An ACK that the tap shows after the last one of the connection is a flow of its own.
        assert!(rows.iter().any(|row| row["close_type"] == 1), "{rows:?}");
        assert!(rows.iter().all(|row| row["tap_type"] == 3 && row["tap_side"] == "c"), "{rows:?}");
        assert!(rows.iter().any(|row| row["rtt"].as_u64().is_some()), "{rows:?}");
    }
    assert_eq!(summary.get("flow metering", "records lost", 0), 0);
    assert_eq!(summary.get("flow metering", "records", 0), flows.len() as u64);
    assert_eq!(summary.get("flow metering", "metrics", 0), metrics.len() as u64);
}
