//! Does each flow go to one member of a group, and every copy to just one?
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code; counts are small"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use sluice_tests::pcap_file::{self, Builder, ETHERNET, Record};
use sluice_tests::{captures, sluiced};

/// Frames sliced at 128 bytes with their original lengths kept, of 380 captures.
const MIXED: &str = "mix-open/mix-open.pcap.gz";
const MEMBERS: [&str; 3] = ["ids0", "ids1", "ids2"];

fn pcap(name: &str) -> String {
    format!("[[destination]]\nname = \"{name}\"\ntype = \"pcap\"\nfile = \"{name}\"\n")
}

fn group(keys: &str) -> String {
    format!(
        "[[destination]]\nname = \"pool\"\ntype = \"group\"\nmembers = [\"ids0\", \"ids1\", \"ids2\"]\n{keys}\n"
    )
}

fn members() -> String {
    MEMBERS.map(pcap).concat()
}

/// A UDP packet of a flow, either way, with a number in its payload.
fn udp(flow: u32, back: bool, number: u32) -> Vec<u8> {
    let ends = [([10, 0, (flow >> 8) as u8, flow as u8], 1024 + flow as u16), ([192, 0, 2, 1], 53)];
    let (from, to) = if back { (ends[1], ends[0]) } else { (ends[0], ends[1]) };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(from.0);
    frame.extend(to.0);
    frame.extend(from.1.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend([0, 26, 0, 0]);
    frame.extend(number.to_be_bytes());
    frame.resize(60, 0);
    frame
}

fn save(dir: &Path, frames: &[Vec<u8>]) -> std::path::PathBuf {
    let mut file = Builder::new(ETHERNET);
    for (at, data) in frames.iter().enumerate() {
        file.push(Record { timestamp_ns: at as u64 * 1_000, wire_len: data.len() as u32, data });
    }
    let path = dir.join("in.pcap");
    file.save(&path);
    path
}

/// What `group` was told to have sent: packets, then members' packets together.
fn group_counts(report: &sluiced::Report) -> (u64, u64) {
    let group = &report.0["groups"][0];
    assert_eq!(group["name"], "pool");
    let members = group["members"].as_array().unwrap().iter();
    let sent = members.map(|name| report.destination(name.as_str().unwrap()).0).sum();
    (group["packets"].as_u64().unwrap(), sent)
}

#[test]
fn both_directions_of_a_flow_have_one_member() {
    const FLOWS: u32 = 3_000;
    let folder = tempfile::tempdir().unwrap();
    let frames: Vec<_> = (0..4 * FLOWS).map(|n| udp(n % FLOWS, n / FLOWS % 2 == 1, n)).collect();
    let input = save(folder.path(), &frames);
    for (weights, shares) in [("", [1, 1, 1]), ("weights = [1, 2, 3]", [1, 2, 3])] {
        let policy = members() + &group(weights) + "[[policy]]\nname = \"all\"\nto = [\"pool\"]\n";
        let replayed = sluiced::replay(folder.path(), &policy, &[&input]);
        let report = replayed.report();
        assert_eq!(report.number("tx_packets"), u64::from(4 * FLOWS));
        assert_eq!(group_counts(&report), (u64::from(4 * FLOWS), u64::from(4 * FLOWS)));
        let mut of_flow = BTreeMap::new();
        let mut counts = [0_u32; 3];
        for (member, name) in MEMBERS.iter().enumerate() {
            for record in pcap_file::records(&replayed.output(name)) {
                let number = u32::from_be_bytes(record.data[42..46].try_into().unwrap());
                assert_eq!(
                    *of_flow.entry(number % FLOWS).or_insert(member),
                    member,
                    "flow of packet {number}"
                );
                counts[member] += 1;
            }
        }
        assert_eq!(of_flow.len() as u32, FLOWS);
        let total: u32 = shares.iter().sum();
        for (count, share) in counts.iter().zip(shares) {
            // Flows fall like drawn ones: within five standard deviations of their share.
            let expected = f64::from(FLOWS * share) / f64::from(total);
            let flows = f64::from(count / 4);
            assert!((flows - expected).abs() < 5.0 * expected.sqrt(), "{counts:?} {weights}");
        }
    }
}

#[test]
fn sequence_numbers_count_by_member_whatever_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let frames: Vec<_> = (0..2_000).map(|n| udp(n % 500, n / 500 % 2 == 1, n)).collect();
    let input = save(folder.path(), &frames);
    let tunnel = |(number, name): (usize, &str)| {
        format!(
            "[[destination]]\nname = \"{name}\"\ntype = \"erspan2\"\nremote = \"192.0.2.{}\"\n",
            number + 10
        )
    };
    let tunnels: String = MEMBERS.into_iter().enumerate().map(tunnel).collect();
    // Some packets go to one of the members directly, too, with the same tag.
    let policy = tunnels
        + &group("hash = \"outer\"")
        + "[[policy]]\nname = \"all\"\ntag = 7\nto = [\"pool\"]\n\
           [[policy]]\nname = \"some\"\ntag = 7\nto = [\"ids1\"]\ncollect = { ports = \"1024-1123\" }\n\
           [[policy]]\nname = \"other-tag\"\ntag = 8\nto = [\"pool\"]\ncollect = { ports = \"1200-1299\" }\n";
    let replayed = sluiced::replay(folder.path(), &policy, &[&input]);
    let report = replayed.report();
    assert_eq!(report.number("tx_packets"), 2_000 + 400 + 400);
    assert_eq!(group_counts(&report), (2_400, 2_800));
    assert_eq!(report.policy("some").sent_packets, 400);
    let mut total = 0;
    for name in MEMBERS {
        let mut next = BTreeMap::new();
        for record in pcap_file::records(&replayed.output(name)) {
            // Ethernet 14, IPv4 20, GRE flags 4, sequence number 4, then ERSPAN II with the session id.
            let word = |at: usize| u32::from_be_bytes(record.data[at..at + 4].try_into().unwrap());
            let (sequence, session) = (word(38), word(42) & 0x3ff);
            let next = next.entry(session).or_insert(0);
            assert_eq!(sequence, *next, "{name}, tag {session}");
            *next += 1;
            total += 1;
        }
        assert!(next.keys().all(|tag| [7, 8].contains(tag)), "{next:?}");
    }
    assert_eq!(total, 2_800);
}

#[test]
fn real_conversations_stay_together() {
    let Some(folder) = captures::folder() else { return };
    let dir = tempfile::tempdir().unwrap();
    let policy =
        members() + &pcap("every") + &group("") + "[[policy]]\nname = \"all\"\nto = [\"pool\", \"every\"]\n";
    let replayed = sluiced::replay(dir.path(), &policy, &[folder.join(MIXED)]);
    let report = replayed.report();
    let every = replayed.output("every");
    let outputs = MEMBERS.map(|name| replayed.output(name));
    let mut parts: Vec<_> = outputs.iter().flat_map(|file| pcap_file::records(file)).collect();
    let mut all = pcap_file::records(&every);
    assert_eq!(group_counts(&report).0, all.len() as u64);
    let order = |r: &Record<'_>| (r.timestamp_ns, r.wire_len, r.data.to_vec());
    parts.sort_by_cached_key(order);
    all.sort_by_cached_key(order);
    assert!(parts == all, "each packet has gone to one member, as it was");

    let conversations = MEMBERS.map(|name| conversations(&replayed.out.join(format!("{name}.pcap"))));
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let both: Vec<_> = conversations[one].intersection(&conversations[other]).collect();
        assert!(both.is_empty(), "in {} and {}: {both:?}", MEMBERS[one], MEMBERS[other]);
    }
    let sizes = conversations.each_ref().map(BTreeSet::len);
    let mean = sizes.iter().sum::<usize>() / 3;
    assert!(mean > 100 && sizes.iter().all(|size| size.abs_diff(mean) < mean / 4), "{sizes:?}");
}

/// The TCP and UDP conversations of a file, directly in IP directly in Ethernet, as tshark sees them.
fn conversations(file: &Path) -> BTreeSet<[String; 3]> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-r"]).arg(file);
    command.args(["-Y", "frame.protocols matches \"^eth:ethertype:(ip|ipv6):(tcp|udp)\"", "-T", "fields"]);
    command.args(["-E", "occurrence=f", "-E", "separator=|"]);
    for field in [
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
        "tcp.srcport",
        "tcp.dstport",
        "udp.srcport",
        "udp.dstport",
    ] {
        command.args(["-e", field]);
    }
    let output =
        command.output().unwrap_or_else(|error| panic!("tshark: {error}: install the package tshark"));
    let text = String::from_utf8(output.stdout).unwrap();
    let conversation = |line: &str| {
        let fields: Vec<_> = line.split('|').collect();
        let [v4, v4_to, v6, v6_to, tcp, tcp_to, udp, udp_to] = fields[..] else { panic!("{line}") };
        // A tunnel over UDP may hold TCP: the first header is UDP then.
        let (from, to) = if v4.is_empty() { (v6, v6_to) } else { (v4, v4_to) };
        let (kind, port, port_to) = if udp.is_empty() { ("tcp", tcp, tcp_to) } else { ("udp", udp, udp_to) };
        let mut ends = [format!("{from} {port}"), format!("{to} {port_to}")];
        ends.sort();
        let [low, high] = ends;
        [kind.to_owned(), low, high]
    };
    text.lines().filter(|line| !line.is_empty()).map(conversation).collect()
}
