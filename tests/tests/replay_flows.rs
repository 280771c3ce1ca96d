//! Does `sluiced replay --flows` write what it promises, and never what it must not?

#![allow(clippy::unwrap_used, reason = "a broken promise should stop the test")]

use std::fs;
use std::path::{Path, PathBuf};

use sluice_tests::{flows, sluiced, traffic};

const POLICY: &str = "[[destination]]\nname = \"all\"\ntype = \"pcap\"\nfile = \"all.pcap\"\n\
                      [[policy]]\nname = \"all\"\nto = [\"all\"]\n";

/// A capture of the sample traffic.
fn capture(folder: &Path) -> PathBuf {
    capture_of(folder, traffic::sample())
}

fn capture_of(folder: &Path, frames: impl IntoIterator<Item = (u64, Vec<u8>)>) -> PathBuf {
    let path = folder.join("in.pcap");
    let mut writer = sluice_capture::PcapWriter::new(Vec::new()).unwrap();
    for (timestamp_ns, frame) in frames {
        let wire_len = u32::try_from(frame.len()).unwrap();
        writer.write(timestamp_ns, wire_len, [&frame[..]]).unwrap();
    }
    fs::write(&path, writer.finish().unwrap()).unwrap();
    path
}

#[test]
fn every_packet_is_in_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let input = capture(folder.path());
    let records = folder.path().join("flows.jsonl");
    let arguments = ["--json", "--flows", records.to_str().unwrap()];
    let replayed = sluiced::run(folder.path(), POLICY, &[&input], &arguments);
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    let lines = fs::read_to_string(&records).unwrap();
    drop(flows::read(&lines));
    let packets: u64 = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| record["packet_tx"].as_u64().unwrap() + record["packet_rx"].as_u64().unwrap())
        .sum();
    assert_eq!(packets, traffic::sample().len() as u64);
}

/// Every packet comes twice, and both are counted.
#[test]
fn duplicates_that_pass_are_counted_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let twice = traffic::sample()
        .into_iter()
        .flat_map(|(time_ns, frame)| [(time_ns, frame.clone()), (time_ns + 1000, frame)]);
    let input = capture_of(folder.path(), twice);
    let records = folder.path().join("flows.jsonl");
    let arguments = ["--dedup", "count", "--flows", records.to_str().unwrap()];
    let replayed = sluiced::run(folder.path(), POLICY, &[&input], &arguments);
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    let lines = fs::read_to_string(&records).unwrap();
    let mut duplicates = 0;
    for line in lines.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        for side in ["tx", "rx"] {
            let [packets, copies] =
                ["packet", "duplicate"].map(|name| record[format!("{name}_{side}")].as_u64().unwrap());
            // The copy of a connection's last ACK is a flow of its own.
            assert!(record["protocol"] == 6 || packets == 2 * copies, "{line}");
            duplicates += copies;
        }
    }
    assert_eq!(duplicates, traffic::sample().len() as u64);
}

/// A capture with a packet now and then: each counts in its own second and minute, silent flows end in between.
#[test]
fn seconds_of_a_slow_capture_are_those_of_its_packets() {
    const PACKETS: u64 = 60;
    const BEGIN_S: u64 = 1_700_000_000;
    let folder = tempfile::tempdir().unwrap();
    let [client, server] =
        [(1, 40_000), (2, 53)].map(|(host, port)| traffic::End::new([10, 0, 0, host].into(), port));
    // 7 s apart: one flow after the other, as each ends after 5 s without an answer.
    let packet = |number| {
        let time_ns = (BEGIN_S + 7 * number) * 1_000_000_000 + 500_000_000;
        (time_ns, traffic::udp(&client, &server, &[], b"?"))
    };
    let input = capture_of(folder.path(), (0..PACKETS).map(packet));
    let [flows, metrics] = ["flows.jsonl", "metrics.jsonl"].map(|name| folder.path().join(name));
    let arguments = ["--json", "--flows", flows.to_str().unwrap(), "--metrics", metrics.to_str().unwrap()];
    let replayed = sluiced::run(folder.path(), POLICY, &[&input], &arguments);
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    let parse = |text: String| -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let rows = parse(fs::read_to_string(&metrics).unwrap());
    let seconds_with = |column: &str| -> Vec<u64> {
        let rows = rows.iter().filter(|row| row["interval"] == 1 && row[column] == 1);
        rows.map(|row| row["time"].as_u64().unwrap() / 1_000_000 - BEGIN_S).collect()
    };
    let expected: Vec<_> = (0..PACKETS).map(|number| 7 * number).collect();
    assert_eq!(seconds_with("packet_tx"), expected);
    assert_eq!(seconds_with("new_flow"), expected);
    assert_eq!(seconds_with("closed_flow"), expected.iter().map(|second| second + 5).collect::<Vec<_>>());
    for record in parse(fs::read_to_string(&flows).unwrap()) {
        let [start, end] = ["start_time", "end_time"].map(|name| record[name].as_u64().unwrap());
        // One that lives across the end of a minute has two records.
        let is_whole = end - start == 5_000_000;
        assert!(is_whole || start % 60_000_000 == 0 || end % 60_000_000 == 0, "{record}");
    }
}

#[test]
fn records_never_overwrite_other_files_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let input = capture(folder.path());
    let before = fs::read(&input).unwrap();
    let link = folder.path().join("another-name");
    fs::hard_link(&input, &link).unwrap();
    let policy = folder.path().join("policy.toml");
    for target in [&input, &link, &policy] {
        let arguments = ["--flows", target.to_str().unwrap()];
        let replayed = sluiced::run(folder.path(), POLICY, &[&input], &arguments);
        assert_eq!(replayed.code, Some(1), "{}", target.display());
        assert!(replayed.stderr.contains(target.to_str().unwrap()), "{}", replayed.stderr);
        assert!(replayed.stderr.contains("overwrite"), "{}", replayed.stderr);
    }
    assert_eq!(fs::read(&input).unwrap(), before);
    assert_eq!(fs::read_to_string(&policy).unwrap(), POLICY);
}

#[test]
fn a_full_disk_and_a_missing_folder_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let input = capture(folder.path());
    for target in ["/dev/full", "/no/such/folder/flows.jsonl"] {
        let replayed = sluiced::run(folder.path(), POLICY, &[&input], &["--flows", target]);
        assert_eq!(replayed.code, Some(1), "{target}");
        assert!(replayed.stderr.contains(target), "{}", replayed.stderr);
    }
}
