//! Does tshark read every frame that an output port sends about itself as it was meant, without a complaint?
//!
//! The frames of a whole life of a `NeighborTable`: announcements, requests, probes, answers, defence, echo replies.
//! Without tshark the test is skipped, loudly; with `CI=true` it fails.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::net::IpAddr;
use std::process::Command;

use sluice_core::neighbor::{Input, NeighborConfig, NeighborTable, PortAddresses};
use sluice_core::wire::checksum;

const SECOND: u64 = 1_000_000_000;
const FIELDS: [&str; 19] = [
    "frame.protocols",
    "eth.src",
    "eth.dst",
    "arp.opcode",
    "arp.src.proto_ipv4",
    "arp.dst.proto_ipv4",
    "arp.isannouncement",
    "ip.checksum.status",
    "icmp.checksum.status",
    "icmp.type",
    "data.data",
    "icmpv6.checksum.status",
    "icmpv6.type",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.hlim",
    "icmpv6.opt.linkaddr",
    "icmpv6.nd.na.flag.s",
    "icmpv6.nd.na.flag.o",
];

fn port(host: u8) -> NeighborTable {
    let addresses = PortAddresses {
        mac: sluice_model::MacAddr([2, 0, 0, 0, 0, host]),
        ipv4: vec![([192, 0, 2, host].into(), 24)],
        ipv6: vec![([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)].into(), 64)],
        ..PortAddresses::default()
    };
    assert_eq!(addresses.check(), []);
    NeighborTable::new(addresses, NeighborConfig::default())
}

fn input(port: &mut NeighborTable, frame: &[u8], now_ns: u64) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    assert_eq!(port.input(frame, now_ns, &mut out), Input::Consumed);
    out
}

fn poll(port: &mut NeighborTable, now_ns: u64) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    port.poll(now_ns, &mut out);
    out
}

/// An echo request from 192.0.2.2 or 2001:db8::2 to port 1.
fn echo_request(ipv6: bool, data: &[u8]) -> Vec<u8> {
    let mut message = vec![if ipv6 { 128 } else { 8 }, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend(data);
    let len = message.len() as u16;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let pseudo = if ipv6 {
        let [src, dst] = [2, 1].map(|host| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([58, 64]);
        frame.extend([src, dst].concat());
        checksum::pseudo_ipv6(src, dst, 58, len.into())
    } else {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((len + 20).to_be_bytes());
        frame.extend([0, 1, 0, 0, 64, 1, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1]);
        let sum = checksum::finish(checksum::sum(&frame[14..], 0));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        0
    };
    let sum = checksum::finish(checksum::sum(&message, pseudo));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame.extend(message);
    frame
}

/// tshark's fields and their values.
type Expected = Vec<(&'static str, &'static str)>;

/// The frames that port 1 sends, and what tshark must say of each: fields and values.
fn life_of_a_port() -> Vec<(Vec<u8>, Expected)> {
    const MAC: &str = "02:00:00:00:00:01";
    const PEER_MAC: &str = "02:00:00:00:00:02";
    const ALL: &str = "ff:ff:ff:ff:ff:ff";
    let (mut own, mut peer) = (port(1), port(2));
    let mut frames = Vec::new();
    let mut add = |sent: Vec<Vec<u8>>, expected: &[&[(&'static str, &'static str)]]| {
        assert_eq!(sent.len(), expected.len());
        for (frame, expected) in sent.iter().zip(expected) {
            frames.push((frame.clone(), expected.to_vec()));
        }
        sent
    };
    let advertised: [(&str, &str); 6] = [
        ("icmpv6.type", "136"),
        ("ipv6.src", "2001:db8::1"),
        ("ipv6.dst", "ff02::1"),
        ("eth.dst", "33:33:00:00:00:01"),
        ("icmpv6.opt.linkaddr", MAC),
        ("icmpv6.nd.na.flag.s", "0"),
    ];

    // At start: announcements.
    add(
        poll(&mut own, 0),
        &[
            &[
                ("arp.opcode", "1"),
                ("arp.isannouncement", "1"),
                ("eth.dst", ALL),
                ("arp.src.proto_ipv4", "192.0.2.1"),
            ],
            &advertised,
        ],
    );
    poll(&mut own, 2 * SECOND);

    // Resolution.
    let remotes: [IpAddr; 2] = ["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    for remote in remotes {
        assert!(own.want(remote, 3 * SECOND));
    }
    let asked = add(
        poll(&mut own, 3 * SECOND),
        &[
            &[
                ("arp.opcode", "1"),
                ("eth.dst", ALL),
                ("arp.src.proto_ipv4", "192.0.2.1"),
                ("arp.dst.proto_ipv4", "192.0.2.2"),
            ],
            &[
                ("icmpv6.type", "135"),
                ("eth.dst", "33:33:ff:00:00:02"),
                ("ipv6.dst", "ff02::1:ff00:2"),
                ("ipv6.src", "2001:db8::1"),
                ("icmpv6.opt.linkaddr", MAC),
            ],
        ],
    );
    for question in asked {
        for answer in input(&mut peer, &question, 3 * SECOND) {
            input(&mut own, &answer, 3 * SECOND);
        }
    }
    assert_eq!(own.changes().count(), 2);

    // Refresh: probes to the known address.
    add(
        poll(&mut own, 33 * SECOND),
        &[
            &[("arp.opcode", "1"), ("eth.dst", PEER_MAC), ("arp.dst.proto_ipv4", "192.0.2.2")],
            &[("icmpv6.type", "135"), ("eth.dst", PEER_MAC), ("ipv6.dst", "2001:db8::2")],
        ],
    );

    // Answers.
    poll(&mut peer, 0);
    for local in ["192.0.2.1", "2001:db8::1"] {
        assert!(peer.want(local.parse().unwrap(), SECOND));
    }
    let questions = poll(&mut peer, SECOND);
    add(
        input(&mut own, &questions[0], 40 * SECOND),
        &[&[
            ("arp.opcode", "2"),
            ("eth.dst", PEER_MAC),
            ("arp.src.proto_ipv4", "192.0.2.1"),
            ("arp.dst.proto_ipv4", "192.0.2.2"),
        ]],
    );
    add(
        input(&mut own, &questions[1], 40 * SECOND),
        &[&[
            ("icmpv6.type", "136"),
            ("eth.dst", PEER_MAC),
            ("ipv6.dst", "2001:db8::2"),
            ("icmpv6.opt.linkaddr", MAC),
            ("icmpv6.nd.na.flag.s", "1"),
            ("icmpv6.nd.na.flag.o", "1"),
        ]],
    );

    // Defence.
    let mut thief = questions[0].clone();
    thief[28..32].copy_from_slice(&[192, 0, 2, 1]);
    add(input(&mut own, &thief, 41 * SECOND), &[&[("arp.isannouncement", "1"), ("eth.dst", ALL)]]);

    // Echo, with data of odd and even length.
    for (data, text) in [(&b"sluice!"[..], "736c7569636521"), (b"even", "6576656e")] {
        add(
            input(&mut own, &echo_request(false, data), 42 * SECOND),
            &[&[
                ("icmp.type", "0"),
                ("eth.dst", PEER_MAC),
                ("data.data", text),
                ("icmp.checksum.status", "1"),
            ]],
        );
        add(
            input(&mut own, &echo_request(true, data), 42 * SECOND),
            &[&[("icmpv6.type", "129"), ("eth.dst", PEER_MAC), ("data.data", text), ("ipv6.hlim", "64")]],
        );
    }
    let long = vec![0x5a; 1_472];
    add(input(&mut own, &echo_request(false, &long), 44 * SECOND), &[&[("icmp.type", "0")]]);
    frames
}

#[test]
fn every_frame_dissects_cleanly() {
    let frames = life_of_a_port();
    let mut capture = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0002_0004, 0, 0, 0x0004_0000, 1] {
        capture.extend(word.to_be_bytes());
    }
    for (index, (frame, _)) in frames.iter().enumerate() {
        for word in [index, 0, frame.len(), frame.len()] {
            capture.extend((word as u32).to_be_bytes());
        }
        capture.extend(frame);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("neighbor.pcap");
    std::fs::write(&path, capture).unwrap();
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-T", "fields", "-E", "separator=|", "-o", "ip.check_checksum:TRUE", "-r"])
        .arg(&path);
    // The same address at two stations is what the defence is about, and an echo without its request is meant.
    for field in FIELDS.iter().chain(&["_ws.malformed", "_ws.expert.severity", "_ws.expert.message"]) {
        command.args(["-e", field]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "tshark does not start: {error}");
            sluice_tests::left_out(format_args!(
                "tshark does not start ({error}); install the package tshark"
            ));
            return;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('|').collect()).collect();
    assert_eq!(rows.len(), frames.len());
    for (number, (row, (_, expected))) in rows.iter().zip(&frames).enumerate() {
        let context = format!("frame {}: {row:?}", number + 1);
        let get = |name: &str| row[FIELDS.iter().position(|field| *field == name).unwrap()];
        for (field, value) in expected {
            assert_eq!(get(field), *value, "{field}: {context}");
        }
        assert_eq!(get("eth.src"), "02:00:00:00:00:01", "{context}");
        for field in ["ip.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status"] {
            assert!(["", "1"].contains(&get(field)), "{field}: {context}");
        }
        if ["135", "136"].contains(&get("icmpv6.type")) {
            assert_eq!(get("ipv6.hlim"), "255", "{context}");
        }
        assert_eq!(row[FIELDS.len()], "", "malformed: {context}");
        assert_eq!(row[FIELDS.len() + 1], "", "expert: {context}");
    }
}
