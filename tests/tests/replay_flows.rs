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
