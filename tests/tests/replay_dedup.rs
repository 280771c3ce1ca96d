//! Does `sluiced` drop or count duplicates as its settings say, between ports and on one, and when its table is full?
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_tests::pcap_file::{self, Builder, ETHERNET, Record};
use sluice_tests::sluiced;

const POLICY: &str = r#"
[[destination]]
name = "store"
type = "pcap"
file = "store.pcap"

[[policy]]
name = "all"
to = ["store"]
"#;

const START_NS: u64 = 1_700_000_000_000_000_000;

/// A UDP packet with this identification, TTL and checksum.
fn packet(number: u32, ttl: u8, checksum: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46];
    frame.extend([number.to_be_bytes()[2], number.to_be_bytes()[3], 0x40, 0, ttl, 17, 0, 0]);
    frame.extend([192, 0, 2, 1, 192, 0, 2, 2, 0xc0, 0, 0, 53, 0, 26]);
    frame.extend(checksum.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.resize(60, 0);
    frame
}

fn capture<'a>(path: &Path, packets: impl IntoIterator<Item = (u64, &'a [u8])>) {
    let mut file = Builder::new(ETHERNET);
    for (after_ns, data) in packets {
        file.push(Record { timestamp_ns: START_NS + after_ns, wire_len: data.len() as u32, data });
    }
    file.save(path);
}

/// Two ports of a path: the second is a hop further, and sees one packet of three late.
fn two_ports(dir: &Path) -> [PathBuf; 2] {
    let ports = [dir.join("near.pcap"), dir.join("far.pcap")];
    let near: Vec<_> = (0..30).map(|n| packet(n, 64, 0x1234)).collect();
    let far: Vec<_> = (0..30).map(|n| packet(n, 63, 0x1234)).collect();
    capture(&ports[0], (0..).zip(&near).map(|(n, frame)| (n * 1000, &**frame)));
    let late = |n: u64| if n.is_multiple_of(3) { 2_000_001 } else { 2_000_000 };
    capture(&ports[1], (0..).zip(&far).map(|(n, frame)| (n * 1000 + late(n), &**frame)));
    ports
}

#[test]
fn duplicates_are_dropped_or_counted_between_ports() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = two_ports(dir.path());
    let config = dir.path().join("boot.toml");
    fs::write(&config, "[dedup]\nmode = \"drop\"\nwindow = \"2ms\"\n").unwrap();
    let config = ["--json", "--config", config.to_str().unwrap()];
    let expected = |mode: &str| {
        json!({
            "mode": mode, "duplicates": 20, "duplicate_bytes": 1200, "evicted": 0,
            "pairs": [{"first": "near", "second": "far", "packets": 20, "bytes": 1200}],
        })
    };

    let dropped = sluiced::run(dir.path(), POLICY, &inputs, &config);
    let report = dropped.report();
    assert_eq!(report.0["dedup"], expected("drop"));
    assert_eq!(report.drops().into_iter().collect::<Vec<_>>(), [("duplicate".to_owned(), 20)]);
    let output = dropped.output("store");
    let ttls: Vec<u8> = pcap_file::records(&output).iter().map(|record| record.data[22]).collect();
    assert_eq!(ttls, [vec![64; 30], vec![63; 10]].concat());

    // The command line has the last word about the mode.
    let report =
        sluiced::run(dir.path(), POLICY, &inputs, &[&config[..], &["--dedup", "count"]].concat()).report();
    assert_eq!(report.0["dedup"], expected("count"));
    assert!(report.drops().is_empty() && report.number("tx_packets") == 60, "{}", report.0);
    let report =
        sluiced::run(dir.path(), POLICY, &inputs, &[&config[..], &["--dedup", "off"]].concat()).report();
    assert_eq!((&report.0["dedup"], report.number("tx_packets")), (&Value::Null, 60));

    // Without a boot config the window is 50 ms: the late ones are duplicates, too.
    let report = sluiced::run(dir.path(), POLICY, &inputs, &["--json", "--dedup", "drop"]).report();
    assert_eq!((&report.0["dedup"]["duplicates"], report.drops()["duplicate"]), (&json!(30), 30));
    let table = sluiced::run(dir.path(), POLICY, &inputs, &["--dedup", "drop"]).stdout;
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let has = |wanted: &[&str]| table.lines().any(|line| cells(line) == wanted);
    assert!(has(&["duplicates", "30", "1800"]) && has(&["near", "far", "30", "1800"]), "{table}");
}

#[test]
fn the_key_says_what_is_equal() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("a.pcap");
    let frames = [packet(1, 64, 1), packet(1, 64, 2), packet(1, 63, 2)];
    capture(&input, (0..).zip(&frames).map(|(n, frame)| (n, &**frame)));
    let config = dir.path().join("boot.toml");
    for (key, duplicates) in [
        ("", 1),
        ("key = { ttl = true }", 0),
        ("key = { l4_checksum = true }", 1),
        ("key = { l4_checksum = false }", 2),
        ("key = { l4_checksum = false, ttl = true }", 1),
        ("key = { headers = \"outer\", macs = true, vlan = true, tos = true, payload_bytes = 0 }", 1),
    ] {
        fs::write(&config, format!("[dedup]\n{key}\n")).unwrap();
        let arguments = ["--json", "--config", config.to_str().unwrap()];
        let report = sluiced::run(dir.path(), POLICY, &[&input], &arguments).report();
        assert_eq!(report.0["dedup"]["duplicates"], duplicates, "{key}");
    }
}

/// The frame in VXLAN over UDP and IPv4.
fn in_vxlan(frame: &[u8], identification: u8) -> Vec<u8> {
    let len = |extra: usize| ((frame.len() + extra) as u16).to_be_bytes();
    let mut outer = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0];
    outer.extend(len(36));
    outer.extend([0, identification, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
    outer.extend([0xc0, 0, 0x12, 0xb5]);
    outer.extend(len(16));
    outer.extend([0, 0, 8, 0, 0, 0, 0, 0, 7, 0]);
    outer.extend(frame);
    outer
}

#[test]
fn tunnelled_copies_are_known_by_what_is_inside() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = [dir.path().join("bare.pcap"), dir.path().join("tunnel.pcap")];
    let frames: Vec<_> = (0..10).map(|n| packet(n, 64, 7)).collect();
    let tunnelled: Vec<_> = frames.iter().zip(0..).map(|(frame, n)| in_vxlan(frame, n)).collect();
    capture(&inputs[0], (0..).zip(&frames).map(|(n, frame)| (n, &**frame)));
    capture(&inputs[1], (0..).zip(&tunnelled).map(|(n, frame)| (n + 1000, &**frame)));
    let config = dir.path().join("boot.toml");
    fs::write(&config, "[dedup]\nkey = { headers = \"outer\" }\n").unwrap();
    let outer = ["--config", config.to_str().unwrap()];
    for (arguments, duplicates) in [
        (&["--dedup", "drop", "--decap", "strip"][..], 10),
        (&["--dedup", "drop", "--decap", "look-through"], 10),
        (&["--dedup", "drop"], 0),
        (&[outer[0], outer[1], "--decap", "look-through"], 0),
        (&[outer[0], outer[1], "--decap", "strip"], 10),
    ] {
        let report = sluiced::run(dir.path(), POLICY, &inputs, &[arguments, &["--json"]].concat()).report();
        let dedup = &report.0["dedup"];
        assert_eq!(dedup["duplicates"], duplicates, "{arguments:?}");
        if duplicates > 0 {
            assert_eq!(
                (&dedup["pairs"][0]["first"], &dedup["pairs"][0]["second"]),
                (&json!("bare"), &json!("tunnel"))
            );
        }
        assert_eq!(report.number("tx_packets"), 20 - duplicates, "{arguments:?}");
    }
}

#[test]
fn a_full_table_lets_packets_pass_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("many.pcap");
    // The smallest table has 65,536 entries, and places for four times as many.
    let frames: Vec<_> = (0..300_000).map(|n| packet(n, 64, 0)).collect();
    let again = frames.iter().rev().take(1000);
    capture(&input, (0..).zip(frames.iter().chain(again)).map(|(n, frame)| (n, &**frame)));
    let config = dir.path().join("boot.toml");
    fs::write(&config, "[dedup]\nwindow = \"10s\"\nentries = 1024\n").unwrap();
    let arguments = ["--json", "--config", config.to_str().unwrap()];
    let report = sluiced::run(dir.path(), POLICY, &[&input], &arguments).report();
    let dedup = &report.0["dedup"];
    assert_eq!(report.number("rx_packets"), 301_000);
    let evicted = dedup["evicted"].as_u64().unwrap();
    assert!(evicted > 30_000, "{dedup}");
    // What was forgotten passes; what came last is still known, nearly all of it.
    let duplicates = dedup["duplicates"].as_u64().unwrap();
    assert!((900..=1000).contains(&duplicates), "{dedup}");
    assert_eq!(report.drops()["duplicate"], duplicates);
    assert_eq!(report.number("tx_packets"), 301_000 - duplicates);
}

#[test]
fn the_check_says_how_sure_and_how_much() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("boot.toml");
    let port = "policy = \"policy.toml\"\n[[port]]\nname = \"a\"\nspec = \"SPEC\"\nrole = \"capture\"\n";
    fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
    for (spec, checksum) in [("net_null0", "part of the key"), ("af_packet:lo", "left out of the key")] {
        let dedup = "[worker]\nlcores = [0]\n[dedup]\nwindow = \"100ms\"\nentries = 4_194_304\n";
        fs::write(&config, port.replace("SPEC", spec) + dedup).unwrap();
        let told = sluiced::plain(&["check", "--config", config.to_str().unwrap()]).stdout;
        // 2^22 entries: 2^22 x 64 bytes, 2^22 / 0.1 s, 2^22 x 2^-64; 2^42 packets at that rate are 29.1 hours.
        for wanted in ["drop within 100 ms", checksum, "268 MB", "41943040 packets/s", "2.3e-13", "29 hours"]
        {
            assert!(told.contains(wanted), "{wanted} in\n{told}");
        }
    }
    let mut wrong = port.replace("SPEC", "net_null0");
    wrong += "[dedup]\nwindow = \"1 min\"\n";
    fs::write(&config, wrong).unwrap();
    let told = sluiced::plain(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!(told.code, Some(1));
    assert!(told.stderr.contains("boot.toml:7") && told.stderr.contains("\"50ms\""), "{}", told.stderr);
}
