//! Do flow records agree with tshark: packets and bytes of conversations, zero windows, retransmissions?

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a damaged reference should stop the test"
)]

use std::collections::BTreeMap;
use std::process::Command;

use sluice_tests::captures;
use sluice_tests::flows::{self, Key};

/// Packets of both directions by key, of the section `title` of `tshark -z conv`.
fn conversations(text: &str, title: &str, protocol: u8) -> BTreeMap<Key, [u64; 2]> {
    let mut found: BTreeMap<Key, [u64; 2]> = BTreeMap::new();
    let section = text.split("====\n").find(|section| section.starts_with(title)).unwrap();
    for line in section.lines() {
        let Some((left, rest)) = line.split_once("<->") else { continue };
        let mut words = rest.split_whitespace();
        let end = |text: &str| {
            let (address, port) = text.rsplit_once(':')?;
            Some((address.parse().ok()?, port.parse().ok()?))
        };
        let (Some(a), Some(b)) = (end(left.trim()), words.next().and_then(end)) else { continue };
        // Frames and bytes from the right to the left, then from the left to the right; bytes are two words.
        let words: Vec<_> = words.collect();
        let [to_left, to_right] = [0, 3].map(|at| words[at].parse::<u64>().unwrap());
        let key = Key { ends: [a, b], protocol };
        let (key, turned) = if a > b { (key.reversed(), 1) } else { (key, 0) };
        let sum = found.entry(key).or_default();
        sum[turned] += to_right;
        sum[1 - turned] += to_left;
    }
    found
}

/// The mix of 380 captures. tshark counts a packet of a tunnel in the conversations of its inner and of its outer ports,
/// and puts fragments together.
#[test]
fn conversations_of_the_mix_agree() {
    let Some(folder) = captures::folder() else { return };
    let folder = folder.join("mix-open");
    let text = captures::unpacked(&folder.join("mix-open.tshark-conv.txt.gz"));
    let found = flows::replay(&folder.join("mix-open.pcap.gz"), &[]).unwrap();
    let (mut equal, mut packets_equal, mut packets) = (0, 0, 0);
    let (mut inside, mut different) = (0, Vec::new());
    for (title, protocol) in [("TCP Conversations", 6), ("UDP Conversations", 17)] {
        let expected = conversations(&text, title, protocol);
        assert!(expected.len() > 900, "{title}: {}", expected.len());
        for (key, expected) in expected {
            packets += expected[0] + expected[1];
            let own = flows::totals(&found, key).map(|[packets, ..]| packets);
            if own == Some(expected) {
                equal += 1;
                packets_equal += expected[0] + expected[1];
            } else if own.is_none() {
                inside += 1;
            } else {
                different.push(format!("{key:?}: {own:?} packets, not {expected:?}"));
            }
        }
    }
    eprintln!("{equal} conversations with {packets_equal} of {packets} packets are equal; different:");
    eprintln!("{}", different.join("\n"));
    // 36 are inside tunnels, which this replay leaves on; 10 have fragments, which it puts together, or are outside and
    // inside a tunnel at once.
    assert_eq!((equal, inside, different.len()), (2959, 36, 10));
    assert_eq!((packets_equal, packets), (106_971, 107_496));
}

/// What tshark finds in the segments of a capture, per capture: zero windows, retransmissions, segments out of order.
fn analysis(capture: &std::path::Path) -> [u64; 3] {
    let mut counts = [0; 3];
    let fields = ["tcp.analysis.zero_window", "tcp.analysis.retransmission", "tcp.analysis.out_of_order"];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(capture).args(["-Y", "tcp", "-T", "fields", "-E", "separator=,"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().unwrap();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        for (count, value) in counts.iter_mut().zip(line.split(',')) {
            *count += u64::from(!value.is_empty());
        }
    }
    counts
}

#[test]
fn losses_agree() {
    let Some(folder) = captures::folder() else { return };
    let mut zero_windows = (0, 0);
    for (name, expected) in LOSSES {
        let path = folder.join(name);
        let found = flows::replay(&path, &[]).unwrap();
        let all = || found.iter().filter(|(key, _)| key.protocol == 6).flat_map(|(_, flows)| flows);
        let sum =
            |columns: [&str; 2]| all().map(|flow| flow.sum(columns[0]) + flow.sum(columns[1])).sum::<u64>();
        let own = [
            sum(["zero_win_tx", "zero_win_rx"]),
            sum(["retrans_tx", "retrans_rx"]),
            sum(["ooo_tx", "ooo_rx"]),
        ];
        let theirs = analysis(&path);
        eprintln!("{name}: {own:?}, tshark {theirs:?}");
        assert_eq!((own, theirs), *expected, "{name}");
        zero_windows = (zero_windows.0 + own[0], zero_windows.1 + theirs[0]);
    }
    assert!(zero_windows.0 > 0);
}

/// Zero windows, retransmissions, segments out of order.
type Losses = [u64; 3];

/// Ours and tshark's. tshark also counts a repeated FIN without payload as a retransmission (edonkey, m57,
/// handshake-error), and calls data out of order that comes after a FIN without payload (aerospike) or that overlaps what
/// was seen in part (ovpn).
const LOSSES: &[(&str, (Losses, Losses))] = &[
    ("nDPI/tests/cfgs/default/pcap/edonkey.pcap", ([1, 6, 0], [1, 7, 0])),
    ("zeek/testing/btest/Traces/http/m57-long-49583-80.pcap", ([0, 82, 0], [0, 83, 0])),
    ("arkime/tests/pcap/aerospike.pcap", ([0, 0, 0], [0, 0, 1])),
    ("FlowTest/pcap/ovpn.pcap", ([0, 8, 0], [0, 8, 1])),
    ("FlowTest/pcap/tls_malformed_cert.pcap", ([0, 4, 0], [0, 4, 0])),
    ("deepflow/agent/resources/test/flow_generator/handshake-error.pcap", ([0, 3, 0], [0, 4, 0])),
];
