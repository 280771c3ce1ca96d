//! Does decapsulation give back what went into a tunnel, count what was lost on the way, and keep to the ports' settings?
//!
//! Sluice's own copies of a real capture are its input here; the loss meter is held against a model that remembers every
//! number, read from the packets' bytes by their specified places.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_tests::nest::Numbers;
use sluice_tests::pcap_file::{self, Builder, ETHERNET, Record};
use sluice_tests::reference::{self, Frame};
use sluice_tests::traffic::{self, End};
use sluice_tests::{captures, sluiced};

const STORE: &str = "[[destination]]\nname = \"store\"\ntype = \"pcap\"\nfile = \"store.pcap\"\n\n";
const ALL: &str = "[[policy]]\nname = \"all\"\nto = [\"store\"]\n";

/// Destinations with numbers: name, settings, where the number stands in a packet over IPv4, how many bytes it has.
const NUMBERED: [(&str, &str, usize, usize); 4] = [
    ("vxlan", "type = \"vxlan\"\nmarking = \"reference\"", 14 + 20 + 8 + 1, 3),
    ("erspan2", "type = \"erspan2\"", 14 + 20 + 4, 4),
    ("erspan3", "type = \"erspan3\"", 14 + 20 + 4, 4),
    ("erspan3_ref", "type = \"erspan3\"\nmarking = \"reference\"", 14 + 20 + 8, 4),
];

fn frames_of(name: &str) -> Option<Vec<Frame>> {
    let folder = captures::folder()?;
    let mut taken = reference::captures(&folder).taken;
    taken.retain(|capture| capture.name == name);
    assert_eq!(taken.len(), 1, "{name}");
    Some(reference::frames(&taken))
}

fn save(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Builder::new(ETHERNET);
    for (index, data) in frames.iter().enumerate() {
        file.push(Record { timestamp_ns: index as u64 * 1000, wire_len: data.len() as u32, data });
    }
    file.save(path);
}

fn data(file: &[u8]) -> Vec<Vec<u8>> {
    pcap_file::records(file).iter().map(|record| record.data.to_vec()).collect()
}

/// The copies of `frames` to one destination, and the frames that were copied.
fn copies(dir: &Path, input: &Path, name: &str, settings: &str, ipv6: bool) -> Vec<Vec<u8>> {
    let remote = if ipv6 { "2001:db8::a" } else { "192.0.2.10" };
    let policy = format!(
        "[[destination]]\nname = \"{name}\"\n{settings}\nremote = \"{remote}\"\n\n[[policy]]\nname = \"all\"\ntag = 7\nto = [\"{name}\"]\n"
    );
    let replayed = sluiced::replay(dir, &policy, &[input]);
    replayed.report();
    data(&replayed.output(name))
}

#[test]
fn what_went_into_a_tunnel_comes_out() {
    let Some(frames) = frames_of("FlowTest/pcap/ovpn.pcap") else { return };
    let dir = tempfile::tempdir().unwrap();
    let original: Vec<_> = frames.iter().map(|frame| frame.data.clone()).collect();
    let input = dir.path().join("input.pcap");
    save(&input, &original);
    for (name, settings, ..) in NUMBERED.into_iter().chain([("plain", "type = \"vxlan\"", 0, 0)]) {
        for ipv6 in [false, true] {
            let tunnelled = dir.path().join("tunnelled.pcap");
            save(&tunnelled, &copies(dir.path(), &input, name, settings, ipv6));
            let policy = format!("{STORE}{ALL}");
            let replayed = sluiced::run(dir.path(), &policy, &[&tunnelled], &["--json", "--decap", "strip"]);
            let report = replayed.report();
            assert_eq!(data(&replayed.output("store")), original, "{name} {ipv6}");
            assert_eq!(report.number("decapsulated"), frames.len() as u64, "{name} {ipv6}");
            let tunnels = report.0["tunnels"].as_array().unwrap();
            assert_eq!(tunnels.len(), usize::from(name != "plain"), "{name} {ipv6}: {tunnels:?}");
            for tunnel in tunnels {
                assert_eq!(tunnel["received"], frames.len(), "{name} {ipv6}");
                assert_eq!(
                    (&tunnel["lost"], &tunnel["id"]),
                    (&Value::from(0), &Value::from(7)),
                    "{name} {ipv6}"
                );
                assert_eq!(tunnel["source"], if ipv6 { "2001:db8::1" } else { "192.0.2.1" });
            }
        }
    }
}

/// What a receiver that remembers every number would say.
#[derive(Default, Debug, PartialEq, Eq)]
struct Model {
    seen: BTreeSet<u64>,
    received: u64,
    reordered: u64,
    duplicates: u64,
}

impl Model {
    fn observe(&mut self, number: u64) {
        self.received += 1;
        let behind = self.seen.last().is_some_and(|last| number < *last);
        if !self.seen.insert(number) {
            self.duplicates += 1;
        } else if behind {
            self.reordered += 1;
        }
    }

    fn counts(&self) -> [u64; 4] {
        let lost = self.seen.last().unwrap() - self.seen.first().unwrap() + 1 - self.seen.len() as u64;
        [self.received, lost, self.reordered, self.duplicates]
    }
}

#[test]
fn loss_is_counted_as_a_model_counts_it() {
    let Some(frames) = frames_of("FlowTest/pcap/ovpn.pcap") else { return };
    let dir = tempfile::tempdir().unwrap();
    let original: Vec<_> = frames.iter().map(|frame| frame.data.clone()).collect();
    let input = dir.path().join("input.pcap");
    save(&input, &original);
    let mut numbers = Numbers::new(3);
    for (name, settings, at, len) in NUMBERED {
        let sent = copies(dir.path(), &input, name, settings, false);
        for round in 0..4 {
            // From four senders, one of which is about to wrap around; lost, held back, twice.
            let mut arrivals: BTreeMap<(usize, usize), Vec<u8>> = BTreeMap::new();
            for (index, packet) in sent.iter().enumerate() {
                let sender = numbers.below(4) as u8;
                let mut packet = packet.clone();
                packet[26 + 3] = sender;
                if sender == 3 {
                    let first = (1_u64 << (8 * len)) - 40 + index as u64;
                    packet[at..at + len].copy_from_slice(&first.to_be_bytes()[8 - len..]);
                }
                if round > 0 && numbers.below(10) == 0 {
                    continue;
                }
                for copy in 0..=usize::from(round > 1 && numbers.below(8) == 0) {
                    let delay = if round > 2 && numbers.below(5) == 0 { numbers.below(150) } else { 0 };
                    arrivals.insert((index + delay, index * 2 + copy), packet.clone());
                }
            }
            let arrivals: Vec<_> = arrivals.into_values().collect();
            let mut models: BTreeMap<u8, Model> = BTreeMap::new();
            for packet in &arrivals {
                let number = packet[at..at + len].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
                // The numbers of a short capture that wrapped around are small.
                let wrapped = packet[29] == 3 && number < 1 << 20;
                let number = if wrapped { number + (1 << (8 * len)) } else { number };
                models.entry(packet[29]).or_default().observe(number);
            }
            let tunnelled = dir.path().join("tunnelled.pcap");
            save(&tunnelled, &arrivals);
            for mode in ["strip", "look-through"] {
                let policy = format!("{STORE}{ALL}");
                let replayed = sluiced::run(dir.path(), &policy, &[&tunnelled], &["--json", "--decap", mode]);
                let report = replayed.report();
                let tunnels = report.0["tunnels"].as_array().unwrap();
                assert_eq!(tunnels.len(), models.len(), "{name} {round}: {tunnels:?}");
                for (tunnel, (sender, model)) in tunnels.iter().zip(&models) {
                    assert_eq!(tunnel["source"], format!("192.0.2.{sender}"), "{name} {round}");
                    let counts =
                        ["received", "lost", "reordered", "duplicates"].map(|c| tunnel[c].as_u64().unwrap());
                    assert_eq!(counts, model.counts(), "{name} {round} {mode} sender {sender}");
                    assert_eq!(tunnel["restarts"], 0);
                }
            }
        }
    }
}

/// FlowTest's VXLAN capture holds eight echo packets.
#[test]
fn policies_see_the_inner_packet_as_the_port_says() {
    let Some(frames) = frames_of("FlowTest/pcap/vxlan.pcap") else { return };
    let dir = tempfile::tempdir().unwrap();
    let original: Vec<_> = frames.iter().map(|frame| frame.data.clone()).collect();
    let input = dir.path().join("tap0.pcap");
    save(&input, &original);
    let inner: Vec<_> = original.iter().map(|frame| frame[50..].to_vec()).collect();
    let policy = format!(
        "{STORE}[[destination]]\nname = \"cut\"\ntype = \"pcap\"\nfile = \"cut.pcap\"\n\n\
         [[policy]]\nname = \"ping\"\nprotocol = \"icmp\"\ncollect = {{ addresses = [\"10.0.0.1\"] }}\nto = [\"store\"]\n\n\
         [[policy]]\nname = \"head\"\nprotocol = \"icmp\"\npayload = 4\nto = [\"cut\"]\n\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\nto = [\"store\"]\n"
    );
    for (arguments, stored, cut_at, udp) in [
        (vec!["--decap", "off"], &original, 0, 8),
        (vec!["--decap", "strip"], &inner, 14 + 20 + 8 + 4, 0),
        (vec!["--decap", "look-through"], &original, 50 + 14 + 20 + 8 + 4, 0),
    ] {
        let replayed = sluiced::run(dir.path(), &policy, &[&input], &[&["--json"], &arguments[..]].concat());
        let report = replayed.report();
        assert_eq!(&data(&replayed.output("store")), stored, "{arguments:?}");
        let cut: Vec<_> = stored
            .iter()
            .map(|frame| frame[..cut_at].to_vec())
            .filter(|frame| cut_at > 0 && !frame.is_empty())
            .collect();
        assert_eq!(data(&replayed.output("cut")), cut, "{arguments:?}");
        assert_eq!(report.policy("udp").matched_packets, udp, "{arguments:?}");
        assert_eq!(report.number("decapsulated"), 8 - udp, "{arguments:?}");
    }
}

/// The network of a tunnel can be asked for after it came off, too; and where another tunnel is left, that one's is.
#[test]
fn tunnel_ids_stay_known() {
    let Some(frames) = frames_of("FlowTest/pcap/vxlan.pcap") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut original: Vec<_> = frames.iter().map(|frame| frame.data.clone()).collect();
    let id = u32::from_be_bytes([0, original[0][46], original[0][47], original[0][48]]);
    for frame in &mut original[4..] {
        frame[46..49].copy_from_slice(&[0, 77, 0]);
    }
    let input = dir.path().join("tap0.pcap");
    save(&input, &original);
    let policy = |headers: &str| {
        let one = |name: &str, id: u32| {
            format!(
                "[[policy]]\nname = \"{name}\"\nprotocol = \"icmp\"\nheaders = \"{headers}\"\ntunnel_id = {id}\nto = [\"store\"]\n\n"
            )
        };
        format!("{STORE}{}{}", one("first", id), one("second", 77 << 8))
    };
    for (mode, headers, matched) in [
        ("off", "outer", 0),
        ("off", "inner", 4),
        ("strip", "outer", 4),
        ("strip", "inner", 4),
        ("look-through", "outer", 4),
        ("look-through", "inner", 4),
    ] {
        let replayed = sluiced::run(dir.path(), &policy(headers), &[&input], &["--json", "--decap", mode]);
        let report = replayed.report();
        for name in ["first", "second"] {
            assert_eq!(report.policy(name).matched_packets, matched, "{mode} {headers} {name}");
        }
    }
}

/// Takes so many tags off each frame, slowly.
fn without_tags(frames: &[Vec<u8>], most: usize) -> Vec<Vec<u8>> {
    let strip = |frame: &Vec<u8>| {
        let mut frame = frame.clone();
        for _ in 0..most {
            if matches!(frame[12..14], [0x81 | 0x91, 0] | [0x88, 0xa8]) {
                frame.drain(12..16);
            }
        }
        frame
    };
    frames.iter().map(strip).collect()
}

#[test]
fn tags_come_off_as_the_port_says() {
    let Some(frames) = frames_of("FlowTest/pcap/802.1Q_tunneling.pcap") else { return };
    let dir = tempfile::tempdir().unwrap();
    let original: Vec<_> = frames.iter().map(|frame| frame.data.clone()).collect();
    let inputs: Vec<PathBuf> =
        ["tap0", "tap1", "tap2"].iter().map(|name| dir.path().join(format!("{name}.pcap"))).collect();
    for path in &inputs {
        save(path, &original);
    }
    let config = dir.path().join("boot.toml");
    std::fs::write(
        &config,
        "strip_vlan = \"all\"\n[[port]]\nname = \"tap0\"\nstrip_vlan = \"none\"\n[[port]]\nname = \"tap1\"\nstrip_vlan = \"outer\"\n",
    )
    .unwrap();
    let config = config.display().to_string();
    let policy = format!("{STORE}{ALL}");
    let replayed = sluiced::run(dir.path(), &policy, &inputs, &["--json", "--config", &config]);
    let report = replayed.report();
    let expected = [original.clone(), without_tags(&original, 1), without_tags(&original, 8)].concat();
    assert_eq!(data(&replayed.output("store")), expected);
    assert_eq!(report.number("vlan_stripped"), 2 * original.len() as u64);
    assert_eq!(report.number("decapsulated"), 0);
    // The original lengths are those of what is left.
    for record in pcap_file::records(&replayed.output("store")) {
        assert_eq!(record.wire_len as usize, record.data.len());
    }
}

/// Padding of the frame around a tunnel, and what an inner length claims beyond it, are no part of the inner packet; a
/// capture that was cut keeps its original length, less what came off.
#[test]
fn lengths_that_lie_and_captures_that_are_cut() {
    let Some(frames) = frames_of("FlowTest/pcap/vxlan.pcap") else { return };
    let dir = tempfile::tempdir().unwrap();
    let whole = &frames[0].data;
    let inner = whole[50..].to_vec();
    let mut padded = whole.clone();
    padded.extend([0xee; 17]);
    let mut lying = whole.clone();
    // The inner IPv4 header claims 1500 bytes.
    lying[50 + 14 + 2..50 + 14 + 4].copy_from_slice(&1500_u16.to_be_bytes());
    let mut short = whole.clone();
    // The outer packet ends inside the inner Ethernet header.
    short[16..18].copy_from_slice(&(20_u16 + 8 + 8 + 10).to_be_bytes());
    let mut file = Builder::new(ETHERNET);
    let cases: [(&[u8], u32); 5] = [
        (&padded, padded.len() as u32),
        (&lying, lying.len() as u32),
        (&short, short.len() as u32),
        (&whole[..80], whole.len() as u32),
        (&whole[..55], whole.len() as u32),
    ];
    for (data, wire_len) in cases {
        file.push(Record { timestamp_ns: 0, wire_len, data });
    }
    let input = dir.path().join("input.pcap");
    file.save(&input);
    let policy = format!("{STORE}{ALL}");
    let replayed = sluiced::run(dir.path(), &policy, &[&input], &["--json", "--decap", "strip"]);
    let report = replayed.report();
    let output = replayed.output("store");
    let left: Vec<_> = pcap_file::records(&output).iter().map(|r| (r.data.to_vec(), r.wire_len)).collect();
    let expected: Vec<(Vec<u8>, u32)> = vec![
        (inner.clone(), inner.len() as u32),
        (lying[50..].to_vec(), inner.len() as u32),
        (short.clone(), short.len() as u32),
        (whole[50..80].to_vec(), inner.len() as u32),
        (whole[..55].to_vec(), whole.len() as u32),
    ];
    assert_eq!(left, expected);
    assert_eq!(report.0["not_decapsulated"], serde_json::json!({ "malformed": 1, "truncated": 1 }));
}

/// A capture of a node's port, read again: what was sent to the node is opened, whoever sent it.
#[test]
fn tunnels_to_the_addresses_of_a_port_end_there() {
    let end = |address: [u8; 4], port| End::new(IpAddr::from(address), port);
    let inner = traffic::udp(&end([10, 0, 0, 1], 5), &end([10, 0, 0, 2], 53), &[], b"inner");
    let tunnel = |to| {
        // With the marking that the loop guard knows copies by.
        let payload = [&[0xff, 0, 0, 1, 0, 0, 7, 0][..], &inner].concat();
        traffic::udp(&end([192, 0, 2, 1], 5000), &end(to, 4789), &[], &payload)
    };
    let frames = [tunnel([192, 0, 2, 2]), tunnel([192, 0, 2, 3])];
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("net.pcap");
    save(&input, &frames);
    let config = dir.path().join("boot.toml");
    let replay = |boot: &str| {
        std::fs::write(&config, boot).unwrap();
        let arguments = ["--json", "--loop-guard", "--config", config.to_str().unwrap()];
        sluiced::run(dir.path(), &format!("{STORE}{ALL}"), &[&input], &arguments)
    };
    let node =
        "decap = \"strip\"\ndecap_to = \"own\"\n[[port]]\nname = \"net\"\naddresses = [\"192.0.2.2/24\"]\n";
    let replayed = replay(node);
    let report = replayed.report();
    assert_eq!(data(&replayed.output("store")), [inner]);
    assert_eq!((report.number("decapsulated"), report.drops()["loop_guard"]), (1, 1), "{}", replayed.stdout);

    // What goes to another port of ours is no copy of ours, either: the node has no business with it, that is all.
    let other = format!("{node}[[port]]\nname = \"out\"\naddresses = [\"192.0.2.3/24\"]\n");
    let report = replay(&other).report();
    assert_eq!((report.number("decapsulated"), &report.drops()["not_tunnelled"]), (1, &1));

    // Without addresses nothing could end there: that is a mistake in the config, not an empty capture.
    for (boot, rest) in [
        (node.replace("\"net\"", "\"other\""), "everything would be dropped"),
        (
            "decap = \"strip\"\ndecap_rest = \"pass\"\ndecap_to = \"own\"\n".to_owned(),
            "nothing would be opened",
        ),
        ("decap = \"look_through\"\ndecap_to = \"own\"\n".to_owned(), "nothing would be opened"),
    ] {
        let sluiced::Replayed { code, stderr, .. } = replay(&boot);
        assert_eq!(code, Some(1), "{boot}: {stderr}");
        for part in
            ["net.pcap: decap_to = \"own\"", rest, "write [[port]] with name = \"net\" and its addresses"]
        {
            assert!(stderr.contains(part), "{boot}: {stderr}");
        }
    }
}
