//! Do marked frames belong to the tap that their mark names, with their policies, flows, counters and duplicates?
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_tests::pcap_file::{self, Builder, ETHERNET, Record};
use sluice_tests::sluiced::{self, Report};
use sluice_tests::traffic::{End, udp};

/// The PCP of the marks.
const PCP: u16 = 5;

const BOOT: &str = r#"
[mirror]
pcp = 5

[[tap]]
name = "core"
number = 4
vlan = 101

[[tap]]
name = "edge"
number = 65535
vlan = 102

[[tap]]
name = "wire"
number = 6
ports = ["b"]

[[port]]
name = "a"

[[port]]
name = "b"
"#;

const POLICY: &str = r#"
[[destination]]
name = "core"
type = "pcap"
file = "core.pcap"

[[destination]]
name = "edge"
type = "pcap"
file = "edge.pcap"

[[destination]]
name = "wires"
type = "pcap"
file = "wires.pcap"

[[policy]]
name = "core"
taps = ["core"]
to = ["core"]

[[policy]]
name = "edge"
taps = ["edge"]
to = ["edge"]

[[policy]]
name = "wires"
taps = ["wire", "edge"]
to = ["wires"]
"#;

/// The frame as a TAP switch sends it on.
fn marked(frame: &[u8], tpid: u16, pcp: u16, id: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let tag = u32::from(tpid) << 16 | u32::from(pcp << 13 | id);
    frame.splice(12..12, tag.to_be_bytes());
    frame
}

/// Packet `number` of one flow.
fn packet(number: u8) -> Vec<u8> {
    let (client, server) = (End::new([10, 0, 0, 1].into(), 4000), End::new([10, 0, 0, 2].into(), 53));
    udp(&client, &server, &[], &[number; 40])
}

fn save(dir: &Path, name: &str, frames: &[Vec<u8>]) -> PathBuf {
    let mut file = Builder::new(ETHERNET);
    for (index, data) in frames.iter().enumerate() {
        file.push(Record { timestamp_ns: index as u64 * 1000, wire_len: data.len() as u32, data });
    }
    let path = dir.join(name);
    file.save(&path);
    path
}

/// Frames by destination.
type Copies = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// The report, the copies by destination, and the packets of flow records by tap type.
fn run(dir: &Path, boot: &str, inputs: &[PathBuf]) -> (Report, Copies, BTreeMap<u64, u64>) {
    let (config, flows) = (dir.join("boot.toml"), dir.join("flows.jsonl"));
    fs::write(&config, boot).unwrap();
    let arguments = ["--json", "--config", config.to_str().unwrap(), "--flows", flows.to_str().unwrap()];
    let replayed = sluiced::run(dir, POLICY, inputs, &arguments);
    let report = replayed.report();
    let copies = ["core", "edge", "wires"].map(|name| {
        let bytes = replayed.output(name);
        (name, pcap_file::records(&bytes).iter().map(|record| record.data.to_vec()).collect())
    });
    (report, copies.into(), types(&flows))
}

/// The packets of flow records by tap type.
fn types(flows: &Path) -> BTreeMap<u64, u64> {
    let mut types = BTreeMap::new();
    for line in fs::read_to_string(flows).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let packets = record["packet_tx"].as_u64().unwrap() + record["packet_rx"].as_u64().unwrap();
        *types.entry(record["tap_type"].as_u64().unwrap()).or_default() += packets;
    }
    types
}

/// Packets, bytes and duplicates by tap.
fn taps(report: &Report) -> BTreeMap<String, [u64; 3]> {
    let row = |row: &Value| {
        let count = |name: &str| row[name].as_u64().unwrap();
        (row["name"].as_str().unwrap().to_owned(), [count("packets"), count("bytes"), count("duplicates")])
    };
    report.0["taps"].as_array().unwrap().iter().map(row).collect()
}

/// One flow over three taps and a port, the packets of all of them mixed; and marks of nobody.
fn inputs(dir: &Path) -> [PathBuf; 2] {
    let mut a = Vec::new();
    for number in 0..50 {
        a.push(marked(&packet(number), 0x8100, PCP, 101));
        a.push(marked(&packet(number), 0x8100, PCP, 102));
        a.push(marked(&packet(number), 0x88a8, PCP, 101));
        a.push(packet(number));
        // Another PCP, another VLAN, no VLAN.
        a.push(marked(&packet(number), 0x8100, 4, 101));
        a.push(marked(&packet(number), 0x8100, PCP, 103));
        a.push(marked(&packet(number), 0x8100, PCP, 0));
        // A tag of its own inside the mark.
        a.push(marked(&marked(&packet(number), 0x8100, 0, 7), 0x8100, PCP, 102));
    }
    let b: Vec<_> =
        (100..140).flat_map(|number| [packet(number), marked(&packet(number), 0x8100, PCP, 101)]).collect();
    [save(dir, "a.pcap", &a), save(dir, "b.pcap", &b)]
}

#[test]
fn the_mark_says_the_tap_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let (report, copies, types) = run(dir.path(), BOOT, &inputs);
    let bytes = packet(0).len() as u64;
    let expected = [
        ("core", [140, 140 * (bytes + 4), 0]),
        ("edge", [100, 50 * (bytes + 4) + 50 * (bytes + 8), 0]),
        ("wire", [40, 40 * bytes, 0]),
        ("(others)", [200, 50 * bytes + 150 * (bytes + 4), 0]),
    ];
    assert_eq!(taps(&report), expected.map(|(name, row)| (name.to_owned(), row)).into());
    assert_eq!((report.number("marks_stripped"), report.number("marks_unknown")), (240, 100));
    assert_eq!(report.number("rx_bytes"), expected.iter().map(|(_, row)| row[1]).sum::<u64>());
    assert_eq!(report.drops()["no_policy"], 200);
    assert_eq!(types, [(4, 140), (65_535, 100), (6, 40), (1, 200)].into());
    // As they were before they were marked, whatever of the flow other taps saw between.
    let core: Vec<_> = (0..50).flat_map(|n| [packet(n), packet(n)]).chain((100..140).map(packet)).collect();
    let edge: Vec<_> = (0..50).flat_map(|n| [packet(n), marked(&packet(n), 0x8100, 0, 7)]).collect();
    let wires: Vec<_> = edge.iter().cloned().chain((100..140).map(packet)).collect();
    assert_eq!(copies, [("core", core), ("edge", edge), ("wires", wires)].into());
}

#[test]
fn a_mark_that_stays_is_a_tag_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let boot = BOOT.replace("pcp = 5", "pcp = 5\nstrip_mark = false");
    let (report, copies, types) = run(dir.path(), &boot, &inputs);
    assert_eq!((report.number("marks_stripped"), report.number("marks_unknown")), (0, 100));
    assert_eq!(types, [(4, 140), (65_535, 100), (6, 40), (1, 200)].into());
    let mark = |number: u8, id| marked(&packet(number), 0x8100, PCP, id);
    let core: Vec<_> = (0..50)
        .flat_map(|n| [mark(n, 101), marked(&packet(n), 0x88a8, PCP, 101)])
        .chain((100..140).map(|n| mark(n, 101)))
        .collect();
    assert_eq!(copies["core"], core);
    let both = |number| marked(&marked(&packet(number), 0x8100, 0, 7), 0x8100, PCP, 102);
    assert_eq!(copies["edge"], (0..50).flat_map(|n| [mark(n, 102), both(n)]).collect::<Vec<_>>());
}

#[test]
fn duplicates_are_found_across_taps_with_and_without_marks() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    for strip in [true, false] {
        // The inputs are one after the other, each from the epoch on.
        let boot = BOOT.replace("pcp = 5", &format!("pcp = 5\nstrip_mark = {strip}"))
            + "[dedup]\nmode = \"drop\"\nwindow = \"10s\"\n";
        let (report, copies, types) = run(dir.path(), &boot, &inputs);
        assert_eq!(report.drops()["duplicate"], 7 * 50 + 40, "{strip}");
        let found = taps(&report);
        let duplicates = |tap: &str| found[tap][2];
        // The first copy came from "core", of the second input by its port.
        assert_eq!(["core", "edge", "wire", "(others)"].map(duplicates), [90, 100, 0, 200], "{strip}");
        assert_eq!(types, [(4, 50), (6, 40)].into());
        assert_eq!((copies["core"].len(), copies["edge"].len(), copies["wires"].len()), (50, 0, 40));
    }
}

/// The most taps that a broker has.
const MOST: u16 = 250;

#[test]
fn as_many_taps_as_there_may_be_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    // The last ones are told by ids and numbers at their ends.
    let vlan = |tap: u16| if tap == MOST { 4094 } else { tap };
    let number = |tap: u16| u64::from(if tap == MOST { 65_535 } else { 3000 + tap });
    let (mut boot, mut policy) = ("[mirror]\npcp = 5\n".to_owned(), String::new());
    policy += "[[destination]]\nname = \"all\"\ntype = \"pcap\"\nfile = \"all.pcap\"\n";
    for tap in 1..=MOST {
        writeln!(boot, "[[tap]]\nname = \"t{tap}\"\nnumber = {}\nvlan = {}", number(tap), vlan(tap)).unwrap();
        writeln!(policy, "[[policy]]\nname = \"p{tap}\"\ntaps = [\"t{tap}\"]\nto = [\"all\"]").unwrap();
    }
    // Another count of each of eleven in a row, one after the other with what the others sent in between; one flow.
    let count = |tap: u16| u64::from(tap % 11 + 1);
    let rounds = (0..11).flat_map(|round| (1..=MOST).filter(move |&tap| round < count(tap)));
    let senders: Vec<u16> = rounds.collect();
    let frames: Vec<_> = (senders.iter().zip(0_u32..))
        .map(|(&tap, at)| marked(&packet((at % 251) as u8), 0x8100, PCP, vlan(tap)))
        .collect();
    let input = save(dir.path(), "in.pcap", &frames);
    let (config, flows) = (dir.path().join("boot.toml"), dir.path().join("flows.jsonl"));
    fs::write(&config, boot).unwrap();
    let arguments = ["--json", "--config", config.to_str().unwrap(), "--flows", flows.to_str().unwrap()];
    let replayed = sluiced::run(dir.path(), &policy, &[input], &arguments);

    let report = replayed.report();
    let bytes = packet(0).len() as u64;
    let mut found = taps(&report);
    assert_eq!(found.remove("(others)").unwrap_or_default(), [0; 3]);
    let expected =
        (1..=MOST).map(|tap| (format!("t{tap}"), [count(tap), count(tap) * (bytes + 4), 0])).collect();
    assert_eq!(found, expected);
    for tap in 1..=MOST {
        let policy = report.policy(&format!("p{tap}"));
        assert_eq!((policy.matched_packets, policy.sent_packets), (count(tap), count(tap)), "t{tap}");
    }
    assert_eq!(report.number("marks_stripped"), senders.len() as u64);
    assert_eq!(types(&flows), (1..=MOST).map(|tap| (number(tap), count(tap))).collect());
    let copies = replayed.output("all");
    let copies: Vec<_> = pcap_file::records(&copies).iter().map(|record| record.data.to_vec()).collect();
    let bare: Vec<_> = (0..senders.len()).map(|at| packet((at % 251) as u8)).collect();
    assert!(copies == bare, "what comes is not what was marked");
}
