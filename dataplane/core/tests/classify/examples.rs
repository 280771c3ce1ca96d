//! The worked examples E1 to E8 of the reference system's manual, and the union of policies, written out by hand.
//!
//! On a mirror there is no port per server, so each packet is seen once: a packet between two members of the collection
//! point is one copy, by its egress reading where that matches. In one point Sluice differs on purpose: with a port at the
//! collection point (E5), requests between members, which only the ingress reading matches, are copied too.

use std::net::IpAddr;

use sluice_core::classify::{Classifier, ClassifierConfig, Program};
use sluice_model::{MacAddr, PolicySet, spec::parse_policy};

use crate::packet::{self, Cut, L4, Layer, Net};
use crate::random::{Packets, compile, outcome};
use crate::reference::{Kept, Outcome, Place};

const HEAD: &str = r#"
    [[destination]]
    name = "ids"
    type = "vxlan"
    remote = "192.0.2.10"
    [[destination]]
    name = "recorder"
    type = "pcap"
    file = "recorder.pcap"
    [[group]]
    name = "vpc1"
    addresses = ["10.1.0.0/16", "2001:db8:1::/48"]
"#;

fn policies(text: &str) -> PolicySet {
    let text = format!("{HEAD}{text}");
    parse_policy("examples.toml", &text).unwrap_or_else(|errors| panic!("{errors}")).value
}

/// A policy by its predicates, with one destination.
fn policy(predicates: &str) -> PolicySet {
    policies(&format!("[[policy]]\nname = \"example\"\nto = [\"ids\"]\n{predicates}"))
}

/// `tcp vm1:80 > other:40000`: protocol, source and destination.
fn packet(text: &str) -> Layer {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [protocol, src, ">", dst] = words[..] else { panic!("{text}") };
    let end = |text: &str| -> (IpAddr, u16) {
        let (host, port) = text.rsplit_once(':').unwrap();
        let host = match host {
            "vm1" => "192.168.10.24",
            "vm2" => "192.168.10.25",
            "vm3" => "192.168.10.26",
            "vm4" => "192.168.10.27",
            "other" => "203.0.113.9",
            address => address,
        };
        (host.trim_matches(['[', ']']).parse().unwrap(), port.parse().unwrap())
    };
    let ((src, src_port), (dst, dst_port)) = (end(src), end(dst));
    let l4 = match protocol {
        "tcp" => L4::Tcp { src: src_port, dst: dst_port, flags: 0x10, cut: Cut::No },
        "udp" => L4::Udp { src: src_port, dst: dst_port },
        "sctp" => L4::Sctp { src: src_port, dst: dst_port },
        "icmp" => L4::Other(1),
        other => panic!("{other}"),
    };
    let net = Net::Ip { src, dst, place: Place::Whole, ident: 1, l4 };
    Layer { macs: Some((MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]))), vlans: Vec::new(), net }
}

fn verdict(program: &Program, layer: &Layer) -> Outcome {
    let mut packets = Packets::default();
    packets.push(packet::build(layer), 64, 0, 0);
    let mut classifier = Classifier::new(program, ClassifierConfig { cache_entries: 64, sets: 64 });
    let mut verdict = Outcome::default();
    packets.classify(program, &mut classifier, |_, set| verdict = outcome(program, set));
    verdict
}

/// The copy that is taken: `e`gress, `i`ngress or `-` for none.
fn check(example: &str, predicates: &str, expected: &[(&str, char)]) {
    let policies = policy(predicates);
    let program = compile(&policies);
    for &(text, reading) in expected {
        let verdict = verdict(&program, &packet(text));
        let taken = match &verdict.copies[..] {
            [] => '-',
            [copy] if copy.egress => 'e',
            [_] => 'i',
            copies => panic!("{example}: {text}: {copies:?}"),
        };
        assert_eq!(taken, reading, "{example}: {text}");
        assert_eq!(verdict.matched.is_empty(), reading == '-', "{example}: {text}");
    }
}

#[test]
fn e1_a_server() {
    check(
        "E1",
        r#"collect = { addresses = ["192.168.10.24"] }"#,
        &[
            ("tcp vm1:40000 > other:443", 'e'),
            ("tcp other:443 > vm1:40000", 'i'),
            ("icmp vm1:0 > other:0", 'e'),
            ("icmp other:0 > vm1:0", 'i'),
            ("tcp vm2:40000 > other:443", '-'),
            ("tcp other:443 > vm2:40000", '-'),
            ("tcp vm1:1 > vm1:2", 'e'),
            ("udp [2001:db8::24]:1 > [2001:db8::25]:2", '-'),
        ],
    );
}

#[test]
fn e2_a_server_s_port() {
    let predicates = "collect = { addresses = [\"192.168.10.24\"], ports = \"80\" }\nprotocol = \"tcp\"";
    check(
        "E2",
        predicates,
        &[
            ("tcp vm1:80 > other:40000", 'e'),
            ("tcp other:40000 > vm1:80", 'i'),
            ("tcp vm1:40000 > other:80", '-'),
            ("tcp other:80 > vm1:40000", '-'),
            ("udp vm1:80 > other:40000", '-'),
            ("udp other:40000 > vm1:80", '-'),
            ("icmp vm1:0 > other:0", '-'),
            ("tcp vm2:80 > other:40000", '-'),
        ],
    );
}

#[test]
fn e3_a_server_and_its_peer() {
    let predicates =
        "collect = { addresses = [\"192.168.10.24\"] }\npeer = { addresses = [\"192.168.10.25\"] }";
    check(
        "E3",
        predicates,
        &[
            ("tcp vm1:1000 > vm2:2000", 'e'),
            ("tcp vm2:2000 > vm1:1000", 'i'),
            ("icmp vm2:0 > vm1:0", 'i'),
            ("tcp vm1:1000 > vm3:2000", '-'),
            ("tcp vm3:2000 > vm1:1000", '-'),
            ("tcp vm2:1000 > vm3:2000", '-'),
        ],
    );
}

#[test]
fn e4_a_peer_s_port() {
    let predicates = "collect = { addresses = [\"192.168.10.24\"] }\n\
        peer = { addresses = [\"192.168.10.25\"], ports = \"80\" }\nprotocol = \"tcp\"";
    check(
        "E4",
        predicates,
        &[
            ("tcp vm1:40000 > vm2:80", 'e'),
            ("tcp vm2:80 > vm1:40000", 'i'),
            ("tcp vm1:80 > vm2:40000", '-'),
            ("tcp vm2:40000 > vm1:80", '-'),
            ("udp vm1:40000 > vm2:80", '-'),
            ("tcp vm1:40000 > vm3:80", '-'),
            ("tcp vm3:80 > vm1:40000", '-'),
        ],
    );
}

#[test]
fn e5_a_range_with_a_port_also_copies_requests_between_members() {
    check(
        "E5",
        r#"collect = { addresses = ["192.168.10.24-192.168.10.26"], ports = "80" }"#,
        &[
            ("tcp vm1:80 > vm2:40000", 'e'),
            ("tcp vm1:80 > vm3:40000", 'e'),
            // The reference system loses these.
            ("tcp vm2:40000 > vm1:80", 'i'),
            ("tcp vm1:40000 > vm3:80", 'i'),
            // Both readings: one copy, egress.
            ("tcp vm1:80 > vm2:80", 'e'),
            ("tcp vm1:80 > other:40000", 'e'),
            ("tcp other:40000 > vm1:80", 'i'),
            ("tcp vm1:40000 > other:80", '-'),
            ("tcp other:80 > vm1:40000", '-'),
            ("tcp vm4:80 > other:40000", '-'),
            // Ports without a protocol mean TCP, UDP and SCTP.
            ("udp vm1:80 > other:40000", 'e'),
            ("sctp other:40000 > vm3:80", 'i'),
            ("icmp vm1:0 > vm2:0", '-'),
        ],
    );
}

#[test]
fn e6_a_network() {
    // 192.168.10.0/10 is the network 192.128.0.0 to 192.191.255.255.
    check(
        "E6",
        r#"collect = { addresses = ["192.128.0.0/10"] }"#,
        &[
            ("tcp vm1:1000 > vm2:2000", 'e'),
            ("tcp vm2:2000 > vm1:1000", 'e'),
            ("tcp vm1:1000 > other:2000", 'e'),
            ("tcp other:2000 > vm1:1000", 'i'),
            ("tcp 192.127.255.255:1 > 192.192.0.0:2", '-'),
            ("tcp 192.127.255.255:1 > 192.128.0.0:2", 'i'),
            ("tcp 192.191.255.255:1 > 192.192.0.0:2", 'e'),
        ],
    );
}

#[test]
fn e7_a_network_and_its_peers() {
    let predicates = "collect = { addresses = [\"192.128.0.0/10\"] }\n\
        peer = { addresses = [\"10.0.0.0/16\"] }\nprotocol = \"udp\"";
    check(
        "E7",
        predicates,
        &[
            ("udp vm1:1000 > 10.0.3.4:53", 'e'),
            ("udp 10.0.3.4:53 > vm1:1000", 'i'),
            ("tcp vm1:1000 > 10.0.3.4:53", '-'),
            ("tcp 10.0.3.4:53 > vm1:1000", '-'),
            ("udp vm1:1000 > 10.1.0.0:53", '-'),
            ("udp 10.1.0.0:53 > vm1:1000", '-'),
            ("udp vm1:1000 > vm2:53", '-'),
            ("udp 10.0.0.1:1 > 10.0.0.2:2", '-'),
        ],
    );
}

#[test]
fn e8_a_virtual_network_or_everyone() {
    check(
        "E8, by a group",
        r#"collect = { addresses = ["@vpc1"] }"#,
        &[
            ("tcp 10.1.0.1:1 > 10.1.0.2:2", 'e'),
            ("tcp 10.1.0.2:2 > 10.1.0.1:1", 'e'),
            ("tcp 10.1.0.1:1 > other:2", 'e'),
            ("tcp other:2 > 10.1.0.1:1", 'i'),
            ("udp [2001:db8:1::1]:1 > [2001:db8:2::1]:2", 'e'),
            ("udp [2001:db8:2::1]:1 > [2001:db8:1:ffff::1]:2", 'i'),
            ("udp [2001:db8:2::1]:1 > [2001:db8::1]:2", '-'),
        ],
    );
    check(
        "E8, 0.0.0.0/0",
        r#"collect = { addresses = ["0.0.0.0/0"] }"#,
        &[
            ("tcp 10.1.0.1:1 > 10.1.0.2:2", 'e'),
            ("icmp 255.255.255.255:0 > 0.0.0.0:0", 'e'),
            ("udp [2001:db8:1::1]:1 > [2001:db8:2::1]:2", '-'),
        ],
    );
}

#[test]
fn frames_that_are_not_ip() {
    let macs = Some((MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])));
    let arp = Layer { macs, vlans: vec![100], net: Net::Arp };
    let lldp = Layer { macs, vlans: Vec::new(), net: Net::Other(0x88cc) };
    let spanning_tree = Layer { macs, vlans: Vec::new(), net: Net::Llc };
    for (predicates, expected) in [
        ("", "eee"),
        ("collect = { addresses = [\"0.0.0.0/0\", \"::/0\"] }", "---"),
        ("collect = { addresses = [\"02:00:00:00:00:01\"] }", "eee"),
        ("collect = { addresses = [\"02:00:00:00:00:02\"] }", "iii"),
        ("collect = { addresses = [\"02:00:00:00:00:01\"] }\npeer = { addresses = [\"10.0.0.0/8\"] }", "---"),
        ("ethertype = \"0x0806\"", "e--"),
        ("ethertype = \"0\"", "--e"),
        ("vlan = \"100\"", "e--"),
        ("protocol = \"0-255\"", "---"),
        ("collect = { ports = \"0-65535\" }", "---"),
    ] {
        let program = compile(&policy(predicates));
        let taken: String = [&arp, &lldp, &spanning_tree]
            .map(|layer| match &verdict(&program, layer).copies[..] {
                [] => '-',
                [copy] if copy.egress => 'e',
                _ => 'i',
            })
            .iter()
            .collect();
        assert_eq!(taken, expected, "{predicates}");
    }
}

#[test]
fn copies_are_united_by_destination_and_tag() {
    let policies = policies(
        r#"
        [[policy]]
        name = "thirty"
        collect = { addresses = ["192.168.10.24"] }
        payload = 30
        tag = 7
        to = ["ids"]
        [[policy]]
        name = "twenty"
        peer = { addresses = ["192.168.10.24"] }
        payload = 20
        tag = 7
        to = ["ids", "recorder"]
        [[policy]]
        name = "other_tag"
        collect = { addresses = ["192.168.10.24"] }
        tag = 8
        to = ["ids"]
        [[policy]]
        name = "not_backups"
        collect = { ports = "873" }
        action = "drop"
        "#,
    );
    let program = compile(&policies);
    let taken = |text| {
        let verdict = verdict(&program, &packet(text));
        let copies: Vec<_> = verdict
            .copies
            .iter()
            .map(|c| (c.destination.0, c.tag.get(), c.egress, c.outer, c.sharers.clone()))
            .collect();
        (verdict.excluded, verdict.matched, copies)
    };
    // From vm1: "thirty" by its source reading; "twenty" by its ingress reading, for vm1 is the peer.
    assert_eq!(
        taken("tcp vm1:1 > other:2"),
        (
            false,
            vec![0, 1, 2],
            vec![
                (0, 7, true, Kept::Bytes(30), vec![0, 1]),
                (0, 8, true, Kept::Whole, vec![2]),
                (1, 7, false, Kept::Bytes(20), vec![1]),
            ]
        )
    );
    // To vm1: the shared copy is egress, since "twenty" matched by its source reading.
    assert_eq!(
        taken("tcp other:2 > vm1:1"),
        (
            false,
            vec![0, 1, 2],
            vec![
                (0, 7, true, Kept::Bytes(30), vec![0, 1]),
                (0, 8, false, Kept::Whole, vec![2]),
                (1, 7, true, Kept::Bytes(20), vec![1]),
            ]
        )
    );
    assert_eq!(taken("tcp other:2 > vm2:1"), (false, vec![], vec![]));
    assert_eq!(taken("tcp other:873 > vm1:1"), (true, vec![3], vec![]));
    assert_eq!(taken("tcp vm1:1 > other:873"), (true, vec![3], vec![]));
}
