//! Do flow records agree with the biflows of ipfixprobe: keys, packets, IP bytes, times, TCP flags, Ethernet addresses?
//!
//! Flows end after the silence of ipfixprobe here, and are compared one by one: a biflow and the flows of its key that
//! overlap with it in time, all put together, must say the same, to the microsecond.

#![allow(clippy::unwrap_used, reason = "a damaged reference should stop the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use sluice_tests::captures;
use sluice_tests::flows::{self, Flow, Flows, Key};

const SCTP: u8 = 132;
const FIN: u64 = 1;
const ARP: u64 = 0x0806;
/// The flags of TCP that records have: all but ECE and CWR.
const FLAGS: u64 = 0x3f;

/// References of the project's own tests: what its plugins say of its captures, and how it compares.
///
/// docs/flow-records.md has the reasons. Most plugins give only the biflows in which they found something, so that
/// there are flows without one; `mixed` has all biflows.
const REFERENCES: [(&str, &str, Counts); 14] = [
    ("basic", "mixed", Counts { own: 48, packets: 157, rows: 48, alone: 48, ..NONE }),
    ("phists", "mixed", Counts { own: 48, packets: 157, rows: 48, alone: 48, ..NONE }),
    ("pstats", "mixed", Counts { own: 48, packets: 157, rows: 48, alone: 48, ..NONE }),
    // Only biflows of more than one packet; the 28 others have one each.
    ("nettisa", "mixed", Counts { own: 48, packets: 157, rows: 20, alone: 20, beyond: 28, ..NONE }),
    // The same.
    ("bstats", "bstats", Counts { own: 10, packets: 417, rows: 5, alone: 5, beyond: 5, ..NONE }),
    // A biflow per message, by request of the plugin.
    ("dns", "dns", Counts { own: 8, packets: 16, rows: 16, joined: 8, joined_rows: 16, ..NONE }),
    // Only answers of addresses and names (A, AAAA, PTR); a row for each address.
    ("passivedns", "dns", Counts { own: 8, packets: 16, rows: 4, repeats: 2, alone: 4, beyond: 4, ..NONE }),
    // A row for each name.
    ("netbios", "netbios", Counts { own: 16, packets: 20, rows: 16, repeats: 4, alone: 16, ..NONE }),
    // A biflow per message, by request of the plugin.
    ("ntp", "ntp", Counts { own: 8, packets: 56, rows: 56, joined: 8, joined_rows: 56, ..NONE }),
    // One was captured in its middle: the end with the port below 32768 is the server here.
    (
        "ovpn",
        "ovpn",
        Counts { own: 3, packets: 339, rows: 2, alone: 2, turned: 1, turned_by_port: 1, beyond: 1, ..NONE },
    ),
    ("ssadetector", "ovpn", Counts { own: 3, packets: 339, rows: 1, alone: 1, beyond: 2, ..NONE }),
    ("quic", "quic_initial-sample", Counts { own: 1, packets: 1, rows: 1, alone: 1, ..NONE }),
    // The capture has packets twice, with a jump of five years between: flows have timed out here, and begin again.
    ("tls", "tls", Counts { own: 35, packets: 206, rows: 28, alone: 22, cut: 6, beyond: 1, ..NONE }),
    // The plugin ends a biflow when a peer changes its index.
    ("wg", "wg", Counts { own: 5, packets: 628, rows: 13, alone: 2, joined: 3, joined_rows: 11, ..NONE }),
];

/// The mix of 380 captures: 110,629 packets, 1,161 of them without IP.
const MIX: Counts = Counts {
    own: 3157,
    packets: 109_468,
    rows: 3054,
    alone: 2951,
    // The last ACK (or RST) after both FINs ends a flow at once here, and there SYN does, if one comes.
    cut: 97,
    cut_after_fins: 97,
    // A port that was used again within seconds: SYN on a connection belongs to its flow here. And directions with
    // VLANs of their own, which are two biflows there and two flows here.
    joined: 2,
    joined_rows: 4,
    // Captured in their middle, or late: the server here has the port below 32768, or (7) sent SYN-ACK in this or
    // another flow, or an echo reply.
    turned: 482,
    turned_by_port: 475,
    tagged: 30,
    missing: 2,
    beyond: 7,
    ..NONE
};

/// Biflows of the mix that differ.
const MIX_DIFFERENT: [&str; 4] = [
    // A damaged IP header says 29,492 bytes, the frame had 66: it counts the former, we what was on the wire.
    "10.1.1.1 53104 195.20.10.99 80 6",
    // It leaves out a packet whose TCP header is longer than the packet.
    "10.10.10.2 53104 10.20.10.99 80 6",
    // The same as the first, with 29,603 bytes.
    "10.10.10.2 53104 10.20.10.101 80 6",
    // It takes GRE off, and what was inside has the key of a flow outside.
    "10.20.0.1 44444 10.20.0.2 80 6",
];

/// It takes off PPPoE, which is no flow of IP here.
const MIX_MISSING: [&str; 2] = [
    "5.36.141.228 54935 66.22.242.132 50001 17",
    "2001:1670:8:40a6:a08e:332b:aa69:18dc 0 2a01:e34:ef6f:4340:94be:5dac:c20a:d2a0 0 50",
];

/// It has no flows of GRE, whether it takes it off or not, nor of packets whose options of IPv6 were cut at 128 bytes.
const MIX_BEYOND: [&str; 7] = [
    "0.235.239.74 0 60.95.207.235 0 47",
    "0.235.239.74 0 230.47.210.140 0 47",
    "7.7.7.7 0 9.9.9.9 0 47",
    "20.0.0.1 0 20.0.0.2 0 47",
    "192.0.2.1 0 198.51.100.1 0 47",
    "192.168.0.20 0 192.168.0.23 0 47",
    "2001:db8:1::1 0 2001:db8:2:0:8e16:45ff:fee5:5ba2 0 60",
];

const NONE: Counts = Counts {
    own: 0,
    packets: 0,
    rows: 0,
    repeats: 0,
    alone: 0,
    cut: 0,
    cut_after_fins: 0,
    joined: 0,
    joined_rows: 0,
    turned: 0,
    turned_by_port: 0,
    tagged: 0,
    missing: 0,
    beyond: 0,
};

/// How biflows and flows compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    /// Flows here, and the packets in them.
    own: usize,
    packets: u64,
    /// Biflows there, each once, and repetitions of them.
    rows: usize,
    repeats: usize,
    /// Biflows that are one flow here.
    alone: usize,
    /// Biflows that are several flows here, and those of them where all flows but the last had FIN of both sides.
    cut: usize,
    cut_after_fins: usize,
    /// Times that several biflows agree together only, and how many these are.
    joined: usize,
    joined_rows: usize,
    /// Biflows whose first sender is the server here, and those of them where only the server's port is below 32768.
    turned: usize,
    turned_by_port: usize,
    /// Biflows with VLAN tags or MPLS labels.
    tagged: usize,
    /// Biflows without a flow, and flows without a biflow.
    missing: usize,
    beyond: usize,
}

/// A biflow of ipfixprobe, or a flow of ours. The first sender, or the client, first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Biflow {
    key: Key,
    packets: [u64; 2],
    /// Of IP packets there, of frames here.
    bytes: [u64; 2],
    flags: [u64; 2],
    first_us: u64,
    last_us: u64,
    macs: [String; 2],
}

impl Biflow {
    /// The lower end of the key first.
    fn ordered(&self) -> Self {
        let mut ordered = self.clone();
        if ordered.key.ends[1] < ordered.key.ends[0] {
            ordered.key = ordered.key.reversed();
            ordered.packets.reverse();
            ordered.bytes.reverse();
            ordered.flags.reverse();
            ordered.macs.reverse();
        }
        ordered
    }
}

/// What `biflows` of one key say together.
fn together(biflows: &[&Biflow]) -> Biflow {
    let mut sum = biflows[0].ordered();
    for biflow in biflows[1..].iter().map(|biflow| biflow.ordered()) {
        for side in 0..2 {
            sum.packets[side] += biflow.packets[side];
            sum.bytes[side] += biflow.bytes[side];
            sum.flags[side] |= biflow.flags[side];
        }
        sum.first_us = sum.first_us.min(biflow.first_us);
        sum.last_us = sum.last_us.max(biflow.last_us);
    }
    sum
}

/// What was found: the counts, and the keys of what differs, what is missing here, what is missing there.
#[derive(Debug, PartialEq, Eq)]
struct Comparison {
    counts: Counts,
    different: Vec<String>,
    missing: Vec<String>,
    beyond: Vec<String>,
    /// What is different, in full.
    details: String,
}

fn compare(rows: &[Biflow], own: &[Biflow]) -> Comparison {
    let mut counts = Counts { own: own.len(), rows: rows.len(), ..NONE };
    let (mut different, mut missing, mut beyond) = (Vec::new(), Vec::new(), Vec::new());
    let mut details = String::new();
    counts.packets = own.iter().flat_map(|flow| flow.packets).sum();
    let mut by_key: BTreeMap<Key, Vec<(bool, &Biflow)>> = BTreeMap::new();
    for (is_own, biflow) in rows.iter().map(|row| (false, row)).chain(own.iter().map(|flow| (true, flow))) {
        by_key.entry(biflow.ordered().key).or_default().push((is_own, biflow));
    }
    for (key, mut biflows) in by_key {
        let [(a, a_port), (b, b_port)] = key.ends;
        let name = format!("{a} {a_port} {b} {b_port} {}", key.protocol);
        biflows.sort_by_key(|(_, biflow)| biflow.first_us);
        let mut last_us = 0;
        // What overlaps in time.
        let mut groups: Vec<[Vec<&Biflow>; 2]> = Vec::new();
        for (is_own, biflow) in biflows {
            if biflow.first_us > last_us || groups.is_empty() {
                groups.push([Vec::new(), Vec::new()]);
            }
            last_us = last_us.max(biflow.last_us);
            groups.last_mut().unwrap()[usize::from(is_own)].push(biflow);
        }
        for [rows, own] in groups {
            if rows.is_empty() || own.is_empty() {
                (counts.missing, counts.beyond) = (counts.missing + rows.len(), counts.beyond + own.len());
                missing.extend(rows.iter().map(|_| name.clone()));
                beyond.extend(own.iter().map(|_| name.clone()));
            } else if let Some(text) = difference(&mut counts, &rows, &own) {
                different.push(name.clone());
                details += &text;
            }
        }
    }
    Comparison { counts, different, missing, beyond, details }
}

/// Compares biflows with the flows of the same key and time; `None` when they agree.
fn difference(counts: &mut Counts, rows: &[&Biflow], own: &[&Biflow]) -> Option<String> {
    match (rows.len(), own.len()) {
        (1, 1) => counts.alone += 1,
        (1, _) => {
            counts.cut += 1;
            let has_ended = |flow: &&Biflow| flow.flags.iter().all(|flags| flags & FIN != 0);
            counts.cut_after_fins += usize::from(own[..own.len() - 1].iter().all(has_ended));
        }
        (several, _) => {
            counts.joined += 1;
            counts.joined_rows += several;
        }
    }
    let [client, server] = own[0].key.ends;
    if rows[0].key.ends != [client, server] {
        counts.turned += 1;
        counts.turned_by_port += usize::from(server.1 < 32768 && client.1 >= 32768);
    }
    let (expected, mut found) = (together(rows), together(own));
    let mut is_tagged = false;
    for side in 0..2 {
        let (bytes, packets) = (expected.bytes[side], expected.packets[side]);
        if flows::is_framed(found.bytes[side], bytes, packets) {
            is_tagged |= found.bytes[side] != bytes + 14 * packets;
            found.bytes[side] = bytes;
        }
    }
    counts.tagged += usize::from(is_tagged);
    (found != expected).then(|| format!("{expected:?}\n  here {found:?}\n"))
}

/// Microseconds since the epoch of a time like `2016-10-28T17:07:52.625696`.
fn time_us(text: &str) -> u64 {
    let numbers: Vec<u64> = text.split(['-', 'T', ':', '.']).map(|number| number.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second, us] = <[u64; 7]>::try_from(numbers).unwrap();
    assert_eq!(text.rsplit_once('.').unwrap().1.len(), 6, "{text:?}");
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let of_month = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum::<u64>()
        + (1..month).map(|month| of_month[usize::try_from(month).unwrap() - 1]).sum::<u64>()
        + day
        - 1;
    (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + us
}

/// The rows of a plugin: the columns that all have are before those of text.
fn plugin_rows(text: &str) -> Vec<Biflow> {
    let names =
        text.lines().find(|line| line.starts_with("ipaddr DST_IP") || line.starts_with("ipaddr DNS_IP"));
    let names: Vec<_> = names.unwrap().split(',').map(|name| name.rsplit(' ').next().unwrap()).collect();
    let rows = text.lines().filter(|line| !line.starts_with("ipaddr "));
    rows.map(|line| {
        let fields: Vec<_> = line.split(',').collect();
        let field = |name: &str| fields[names.iter().position(|known| *known == name).unwrap()];
        let number = |name: &str| field(name).parse::<u64>().unwrap();
        let both = |name: &str| [number(name), number(&format!("{name}_REV"))];
        let port = |name: &str| field(name).parse().unwrap();
        Biflow {
            key: Key::new(
                (field("SRC_IP"), port("SRC_PORT")),
                (field("DST_IP"), port("DST_PORT")),
                field("PROTOCOL").parse().unwrap(),
            ),
            packets: both("PACKETS"),
            bytes: both("BYTES"),
            flags: both("TCP_FLAGS").map(|flags| flags & FLAGS),
            first_us: time_us(field("TIME_FIRST")),
            last_us: time_us(field("TIME_LAST")),
            macs: ["SRC_MAC", "DST_MAC"].map(|name| field(name).to_owned()),
        }
    })
    .collect()
}

/// The rows of its output as text: `mac->mac protocol@address:port->address:port packets->packets bytes->bytes
/// flags->flags time->time`.
fn text_rows(text: &str) -> Vec<Biflow> {
    let rows = text.lines().skip(1);
    rows.map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let pair = |at: usize| words[at].split_once("->").unwrap();
        let numbers = |at: usize| <[&str; 2]>::from(pair(at)).map(|number| number.parse::<u64>().unwrap());
        let (protocol, ends) = words[1].split_once('@').unwrap();
        let (client, server) = ends.split_once("->").unwrap();
        let [client, server] = [client, server].map(|end| {
            let (address, port) = end.rsplit_once(':').unwrap();
            (address.trim_matches(['[', ']']), port.parse().unwrap())
        });
        let (first, last) = pair(5);
        Biflow {
            key: Key::new(client, server, protocol.parse().unwrap()),
            packets: numbers(2),
            bytes: numbers(3),
            flags: numbers(4).map(|flags| flags & FLAGS),
            first_us: time_us(first),
            last_us: time_us(last),
            macs: <[&str; 2]>::from(pair(0)).map(str::to_owned),
        }
    })
    .collect()
}

/// Our flows of IP packets, in the order in which they began.
fn own(flows: &Flows) -> Vec<Biflow> {
    let of_ip = |flow: &&Flow| flow.records[0]["eth_type"] != ARP;
    let mut own: Vec<_> = flows
        .iter()
        .flat_map(|(key, flows)| flows.iter().filter(of_ip).map(move |flow| (key, flow)))
        .map(|(key, flow)| {
            let number = |column: &str| flow.records[0][column].as_u64().unwrap();
            let flags = |column: &str| {
                flow.records
                    .iter()
                    .filter_map(|record| record[column].as_u64())
                    .fold(0, |all, flags| all | flags)
            };
            let mut key = *key;
            if key.protocol == SCTP {
                // It does not know the ports of SCTP.
                key.ends = key.ends.map(|(address, _)| (address, 0));
            }
            let biflow = Biflow {
                key,
                packets: flow.packets,
                bytes: flow.bytes,
                flags: ["tcp_flags_bit_0", "tcp_flags_bit_1"].map(flags),
                first_us: number("start_time"),
                last_us: number("start_time") + flow.duration_us,
                macs: ["mac_0", "mac_1"].map(|name| flow.records[0][name].as_str().unwrap().to_owned()),
            };
            (number("flow_id"), biflow)
        })
        .collect();
    own.sort_by_key(|(id, _)| *id);
    own.into_iter().map(|(_, biflow)| biflow).collect()
}

/// The rows, each once, and how many were repetitions.
fn once(rows: Vec<Biflow>) -> (Vec<Biflow>, usize) {
    let all = rows.len();
    let mut once: Vec<Biflow> = Vec::new();
    for row in rows {
        if !once.contains(&row) {
            once.push(row);
        }
    }
    let repeats = all - once.len();
    (once, repeats)
}

/// A boot config with which all flows end after so many seconds of silence, as those of ipfixprobe.
fn config(folder: &Path, seconds: u32) -> String {
    let path = folder.join("boot.toml");
    let timeouts = ["opening", "established", "closing", "reset", "one_way", "other"]
        .map(|state| format!("{state} = {seconds}"));
    fs::write(&path, format!("[flow]\ntimeouts = {{ {} }}\n", timeouts.join(", "))).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A reference of a plugin, and our flows of its capture.
struct Reference {
    output: &'static str,
    expected: Counts,
    /// Each once.
    rows: Vec<Biflow>,
    repeats: usize,
    own: Vec<Biflow>,
}

/// All references; read once, for all tests.
fn references() -> Option<&'static [Reference]> {
    static READ: OnceLock<Option<Vec<Reference>>> = OnceLock::new();
    READ.get_or_init(read_references).as_deref()
}

fn read_references() -> Option<Vec<Reference>> {
    let folder = captures::folder()?.join("ipfixprobe/tests/functional");
    let boot = tempfile::tempdir().unwrap();
    let config = config(boot.path(), 30);
    let arguments = ["--config", config.as_str()];
    let names: Vec<_> = BTreeSet::from(REFERENCES.map(|(_, capture, _)| capture)).into_iter().collect();
    let inputs: Vec<_> =
        names.iter().map(|name| (folder.join(format!("inputs/{name}.pcap")), &arguments[..])).collect();
    let flows = flows::replay_all(&inputs).into_iter().map(|found| own(&found.unwrap()));
    let flows: BTreeMap<_, _> = names.into_iter().zip(flows).collect();
    let references = REFERENCES.map(|(output, capture, expected)| {
        let text = fs::read(folder.join("outputs").join(output)).unwrap();
        let (rows, repeats) = once(plugin_rows(&String::from_utf8_lossy(&text)));
        Reference { output, expected, rows, repeats, own: flows[capture].clone() }
    });
    Some(Vec::from(references))
}

#[test]
fn biflows_of_the_plugins_agree() {
    let Some(references) = references() else { return };
    let mut compared = 0;
    for Reference { output, expected, rows, repeats, own } in references {
        let found = compare(rows, own);
        assert!(found.different.is_empty(), "{output}: {}", found.details);
        assert!(found.missing.is_empty(), "{output}: {:?}", found.missing);
        assert_eq!(Counts { repeats: *repeats, ..found.counts }, *expected, "{output}");
        compared += rows.len();
    }
    eprintln!("{compared} biflows of {} references", references.len());
}

#[test]
fn biflows_of_the_mix_agree() {
    let Some(folder) = captures::folder() else { return };
    let folder = folder.join("mix-open");
    let boot = tempfile::tempdir().unwrap();
    let found = flows::replay(&folder.join("mix-open.pcap.gz"), &["--config", &config(boot.path(), 65)]);
    let (rows, repeats) = once(text_rows(&captures::unpacked(&folder.join("mix-open.ipfixprobe.txt.gz"))));
    let found = compare(&rows, &own(&found.unwrap()));
    eprintln!("{:?}\ndifferent:\n{}", found.counts, found.details);
    assert_eq!(found.different, MIX_DIFFERENT, "biflows that differ");
    assert_eq!(found.missing, MIX_MISSING, "biflows without a flow");
    assert_eq!(found.beyond, MIX_BEYOND, "flows without a biflow");
    assert_eq!(Counts { repeats, ..found.counts }, MIX);
}

/// What is made wrong in a flow, and how.
type Error = (&'static str, fn(&mut Biflow));

/// Would the comparison find an error of ours? A flow is left out, counted twice, or wrong by one.
#[test]
fn no_error_goes_unnoticed() {
    let Some(references) = references() else { return };
    let errors: [Error; 9] = [
        ("a packet of the client", |flow| flow.packets[0] += 1),
        ("a packet of the server", |flow| flow.packets[1] += 1),
        ("a byte of the client", |flow| flow.bytes[0] += 1),
        ("a byte of the server", |flow| flow.bytes[1] += 1),
        ("a flag", |flow| flow.flags[1] ^= 1),
        ("the begin", |flow| flow.first_us -= 1),
        ("the end", |flow| flow.last_us += 1),
        ("the Ethernet addresses", |flow| flow.macs[0].push('0')),
        ("who is the client", |flow| {
            flow.key = flow.key.reversed();
            flow.packets.reverse();
            flow.bytes.reverse();
            flow.flags.reverse();
            flow.macs.reverse();
        }),
    ];
    for Reference { output, rows, own, .. } in references {
        let right = compare(rows, own);
        for index in 0..own.len() {
            let mut missing = own.clone();
            let flow = missing.remove(index);
            assert_ne!(compare(rows, &missing), right, "{output}: {flow:?} is missing");
            let doubled = [own.as_slice(), &[flow]].concat();
            assert_ne!(compare(rows, &doubled), right, "{output}: {:?} comes twice", own[index]);
            // Of what has no biflow, or only together with others, not everything is known.
            let known = if *output == "basic" { &errors[..] } else { &errors[..2] };
            for (name, error) in known {
                let mut wrong = own.clone();
                error(&mut wrong[index]);
                assert_ne!(compare(rows, &wrong), right, "{output}: {name} of {:?}", own[index]);
            }
        }
    }
}
