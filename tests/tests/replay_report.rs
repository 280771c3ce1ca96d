//! Do the numbers of `sluiced replay` say what became of every packet, in JSON and in the table?
//!
//! Expected counts are tshark's, by display filters on the outermost headers, over one capture of mixed traffic.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_tests::pcap_file;
use sluice_tests::{captures, sluiced};

/// Frames sliced at 128 bytes with their original lengths kept, of 380 captures.
const MIXED: &str = "mix-open/mix-open.pcap.gz";

const POLICY: &str = r#"
[[destination]]
name = "ids"
type = "vxlan"
remote = "192.0.2.10"

[[destination]]
name = "store"
type = "pcap"
file = "store.pcap"

[[destination]]
name = "narrow"
type = "erspan2"
remote = "2001:db8::a"
mtu = 1280
oversize = "drop"

[[policy]]
name = "tcp"
protocol = "tcp"
payload = 0
tag = 1
to = ["ids", "store"]

[[policy]]
name = "web"
protocol = "tcp"
peer = { ports = "80,443" }
payload = 64
tag = 1
to = ["ids"]

[[policy]]
name = "server"
protocol = "tcp"
collect = { ports = "80,443" }
tag = 2
to = ["ids", "narrow"]

[[policy]]
name = "ipv6"
ethertype = "ipv6"
to = ["store"]

[[policy]]
name = "no-dns"
protocol = "udp"
collect = { ports = "53" }
action = "drop"
"#;

fn mixed() -> Option<PathBuf> {
    captures::folder().map(|folder| folder.join(MIXED))
}

/// Original lengths of the packets of each filter.
fn lengths(capture: &Path, filter: &str) -> Vec<u64> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-r"]).arg(capture);
    command.args(["-Y", filter, "-T", "fields", "-e", "frame.len"]);
    let output =
        command.output().unwrap_or_else(|error| panic!("tshark: {error}: install the package tshark"));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn counters_agree_with_each_other_and_with_the_outputs() {
    let Some(capture) = mixed() else { return };
    let dir = tempfile::tempdir().unwrap();
    let replayed = sluiced::replay(dir.path(), POLICY, &[&capture]);
    let report = replayed.report();
    let told = Command::new("capinfos").args(["-T", "-r", "-M", "-c", "-d"]).arg(&capture).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let [_, packets, bytes] = told.trim().split('\t').collect::<Vec<_>>()[..] else {
        panic!("capinfos: {told}")
    };
    assert_eq!(report.number("rx_packets").to_string(), packets);
    assert_eq!(report.number("rx_bytes").to_string(), bytes);

    // matched x destinations = sent + drops, for each policy; a shared copy counts for each.
    let names = [("tcp", 2), ("web", 1), ("server", 2), ("ipv6", 1), ("no-dns", 0)];
    for (name, destinations) in names {
        let policy = report.policy(name);
        let drops =
            report.0["policies"].as_array().unwrap().iter().find(|policy| policy["name"] == name).unwrap();
        let drops: u64 = drops["drops"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        if destinations > 0 {
            assert_eq!(
                policy.matched_packets * destinations,
                policy.sent_packets + drops,
                "{name}: {}",
                report.0
            );
        }
    }
    let (web, tcp, server) = (report.policy("web"), report.policy("tcp"), report.policy("server"));
    assert!(web.matched_packets > 1_000 && server.matched_packets > 1_000, "{}", report.0);
    assert!(web.matched_packets <= tcp.matched_packets, "{}", report.0);
    // "web" and "tcp" share their copy to "ids", which has one tag: it is sent once.
    assert_eq!(report.destination("ids").0, tcp.matched_packets + server.matched_packets, "{}", report.0);
    assert_eq!(report.drops()["excluded"], report.policy("no-dns").matched_packets);
    assert!(report.drops()["no_policy"] > 0, "{}", report.0);

    // The files hold what the counters say.
    for destination in ["ids", "store", "narrow"] {
        let output = replayed.output(destination);
        let records = pcap_file::records(&output);
        let bytes: usize = records.iter().map(|record| record.data.len()).sum();
        assert_eq!(report.destination(destination), (records.len() as u64, bytes as u64), "{destination}");
    }
}

#[test]
fn matches_are_those_of_tshark() {
    let Some(capture) = mixed() else { return };
    let dir = tempfile::tempdir().unwrap();
    // Without fragments, tunnels and ICMP errors, a display filter sees one header of each kind.
    let plain = "!(ip.flags.mf == 1) && !(ip.frag_offset > 0) && !ipv6.fraghdr && !gre && !gtp && !pppoes && !geneve && !erspan && \
                 !cfp && !teredo && !l2tp && !capwap && !(ip.proto == 4) && !(ip.proto == 41) && !(ipv6.nxt == 4) && !(ipv6.nxt == 41) && !icmp && !icmpv6 && !vxlan && !mpls";
    let cases = [
        (
            "udp-dns",
            "protocol = \"udp\"\npeer = { ports = \"53\" }",
            "udp.dstport == 53 || udp.srcport == 53",
        ),
        ("syn", "tcp_flags = \"syn,!ack\"", "tcp.flags.syn == 1 && tcp.flags.ack == 0"),
        ("net10", "collect = { addresses = [\"10.0.0.0/8\"] }", "ip.addr == 10.0.0.0/8"),
        ("arp", "ethertype = \"arp\"", "arp && eth.type == 0x0806"),
        ("vlan", "vlan = \"1-4095\"", "vlan || ieee8021ad"),
        ("long", "length = \"1000-65535\"", "frame.len >= 1000"),
        ("v6", "ethertype = \"ipv6\"", "eth.type == 0x86dd || vlan.etype == 0x86dd"),
    ];
    let mut policy =
        "[[destination]]\nname = \"store\"\ntype = \"pcap\"\nfile = \"store.pcap\"\n\n".to_owned();
    for (name, predicates, _) in cases {
        policy += "[[policy]]\nname = \"";
        policy += name;
        policy += "\"\n";
        policy += predicates;
        policy += "\nto = [\"store\"]\n\n";
    }
    let clean = dir.path().join("clean.pcap");
    let written = Command::new("tshark")
        .args(["-n", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-F", "nsecpcap"])
        // Enough to meet every case.
        .args(["-c", "30000", "-r"])
        .arg(&capture)
        .args(["-Y", plain, "-w"])
        .arg(&clean)
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let report = sluiced::replay(dir.path(), &policy, &[&clean]).report();
    for (name, _, filter) in cases {
        let lengths = lengths(&clean, filter);
        let counts = report.policy(name);
        let expected = (lengths.len() as u64, lengths.iter().sum::<u64>());
        assert!(expected.0 > 0, "{name}: no packet matches {filter}");
        assert_eq!((counts.matched_packets, counts.matched_bytes), expected, "{name}: {filter}");
    }
}

#[test]
fn the_table_has_the_numbers_of_the_json_object() {
    let Some(capture) = mixed() else { return };
    let dir = tempfile::tempdir().unwrap();
    let report = sluiced::replay(dir.path(), POLICY, &[&capture]).report();
    let table = sluiced::run(dir.path(), POLICY, &[&capture], &[]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);

    // Rows by their first cell: words up to the first number.
    let mut rows: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in table.stdout.lines() {
        let words: Vec<_> = line.split([' ', '│', '|']).filter(|word| !word.is_empty()).collect();
        let first = words.iter().position(|word| word.parse::<u64>().is_ok()).unwrap_or(words.len());
        let numbers: Vec<u64> = words[first..].iter().filter_map(|word| word.parse().ok()).collect();
        if first > 0 && !numbers.is_empty() && numbers.len() == words.len() - first {
            rows.insert(words[..first].join(" "), numbers);
        }
    }
    let row = |name: &str| rows.get(name).unwrap_or_else(|| panic!("{name} in\n{}", table.stdout)).clone();
    assert_eq!(row("received"), [report.number("rx_packets"), report.number("rx_bytes")]);
    assert_eq!(row("sent")[0], report.number("tx_packets"));
    assert_eq!(row("replicas"), [report.number("replicas")]);
    for (reason, packets) in report.drops() {
        assert_eq!(row(&reason), [packets], "{reason}");
    }
    for name in ["tcp", "web", "server", "ipv6", "no-dns"] {
        let policy = report.policy(name);
        assert_eq!(row(name), [policy.matched_packets, policy.matched_bytes, policy.sent_packets], "{name}");
    }
    for name in ["ids", "store", "narrow"] {
        let (packets, bytes) = report.destination(name);
        assert_eq!(row(name)[..2], [packets, bytes], "{name}");
    }
}
