//! Are the packets and bytes of metrics those that tshark finds in each natural second and minute, and do minutes say
//! what their seconds say?

#![allow(clippy::unwrap_used, reason = "a damaged reference should stop the test")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;
use sluice_tests::tshark::Tshark;
use sluice_tests::{captures, sluiced};

const POLICY: &str = "[[destination]]\nname = \"all\"\ntype = \"pcap\"\nfile = \"all.pcap\"\n\
                      [[policy]]\nname = \"none\"\nethertype = [0xffff]\nto = [\"all\"]\n";
/// Outermost headers only: no tunnel is taken off in these runs.
const PROTOCOLS: &[&str] = &[
    "frame",
    "eth",
    "ethertype",
    "vlan",
    "ip",
    "ipv6",
    "ipv6.hopopts",
    "ipv6.dstopts",
    "ipv6.routing",
    "ipv6.fraghdr",
    "mpls",
    "llc",
    "tcp",
    "udp",
    "sctp",
    "data",
];
const FIELDS: &[&str] = &[
    "frame.time_epoch",
    "frame.len",
    "frame.cap_len",
    "mpls.label",
    "vlan.id",
    "ip.src",
    "ip.dst",
    "ip.len",
    "ip.proto",
    "ip.id",
    "ip.frag_offset",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.plen",
    "ipv6.nxt",
    "ipv6.hopopts.nxt",
    "ipv6.routing.nxt",
    "ipv6.dstopts.nxt",
    "ipv6.dstopts.len",
    "ipv6.fraghdr.nxt",
    "ipv6.fraghdr.ident",
    "ipv6.fraghdr.offset",
    "icmpv6.type",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "sctp.srcport",
    "sctp.dstport",
];

/// Captures, and in how many of their packets tshark finds IP: some with a packet now and then, some with many at once.
const CAPTURES: &[(&str, u64)] = &[
    ("nDPI/tests/cfgs/default/pcap/anyconnect-vpn.pcap", 585),
    ("nDPI/tests/cfgs/default/pcap/wa_voice.pcap", 734),
    ("FlowTest/pcap/wg_udp_stream.pcap", 442),
    ("brimcap/cmd/brimcap/ztests/oneflow.pcap", 1087),
    ("mix-open/mix-open.pcap.gz", 109_468),
];

/// Both ends of a packet, the lower one first, and its protocol. Ports are 0 where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ends {
    ends: [(IpAddr, u16); 2],
    protocol: u8,
}

/// Packets and bytes.
type Sum = [u64; 2];

/// Protocol and ports of the first fragments that were seen, by addresses and identification.
type Fragments = HashMap<(String, String, u64), (u64, [u16; 2])>;

/// What tshark says of a packet of IP: when it came, between whom, and its bytes with Ethernet header and tags.
fn packet(values: &[&str], fragments: &mut Fragments) -> Option<(u64, Ends, u64)> {
    let all = |name: &str| values[FIELDS.iter().position(|field| *field == name).unwrap()];
    let first = |name: &str| all(name).split(',').next().filter(|value| !value.is_empty());
    let number = |name: &str| {
        let value = first(name)?;
        let hex = value.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
        Some(hex.unwrap_or_else(|| value.parse()).unwrap())
    };
    let port = |name: &str| number(name).map_or(0, |port| u16::try_from(port).unwrap());
    let (addresses, length, mut protocol, datagram, offset) = match (first("ip.src"), first("ipv6.src")) {
        (Some(src), _) => {
            let length = number("ip.len")?;
            ((src, first("ip.dst")?), length, number("ip.proto")?, number("ip.id"), "ip.frag_offset")
        }
        (None, Some(src)) => {
            // The chain of extension headers (RFC 8200 section 4.1).
            let mut protocol = number("ipv6.nxt")?;
            for (extension, name) in
                [(0, "hopopts"), (60, "dstopts"), (43, "routing"), (44, "fraghdr"), (60, "dstopts")]
            {
                // What follows in a later fragment is data, and what was not captured is not known.
                let is_later = protocol == 60 && number("ipv6.fraghdr.offset").is_some_and(|at| at > 0);
                let options = number("ipv6.dstopts.len").map_or(0, |words| 8 * (words + 1));
                let is_cut = protocol == 60 && options > number("frame.cap_len")?;
                if protocol == extension && !is_later && !is_cut {
                    protocol = number(&format!("ipv6.{name}.nxt")).unwrap_or(protocol);
                }
            }
            let (length, datagram) = (number("ipv6.plen")? + 40, number("ipv6.fraghdr.ident"));
            ((src, first("ipv6.dst")?), length, protocol, datagram, "ipv6.fraghdr.offset")
        }
        _ => return None,
    };
    let mut ports = match protocol {
        6 => [port("tcp.srcport"), port("tcp.dstport")],
        17 => [port("udp.srcport"), port("udp.dstport")],
        132 => [port("sctp.srcport"), port("sctp.dstport")],
        _ => [0; 2],
    };
    let (src, dst) = addresses;
    if let Some(datagram) = datagram {
        let datagram = (src.to_owned(), dst.to_owned(), datagram);
        if number(offset).is_none_or(|offset| offset == 0) {
            // Only datagrams with ports are remembered.
            if ports != [0; 2] {
                fragments.insert(datagram, (protocol, ports));
            }
        } else if let Some(found) = fragments.get(&datagram) {
            (protocol, ports) = *found;
        }
    }
    let mut ends = [(src.parse().unwrap(), ports[0]), (dst.parse().unwrap(), ports[1])];
    ends.sort_unstable();
    let count = |name: &str| all(name).split(',').filter(|value| !value.is_empty()).count() as u64;
    // A length that is larger than the frame lies.
    let bytes = number("frame.len")?.min(14 + 4 * (count("vlan.id") + count("mpls.label")) + length);
    let second = first("frame.time_epoch")?.split('.').next()?.parse().unwrap();
    let protocol = u8::try_from(protocol).unwrap();
    Some((second, Ends { ends, protocol }, bytes))
}

/// A row's client, server, protocol and server port.
type Key = (IpAddr, IpAddr, u8, u16);

fn number(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap_or(0)
}

fn address(row: &Value, end: u8) -> Option<IpAddr> {
    ["ip4", "ip6"].iter().find_map(|family| row[format!("{family}_{end}")].as_str()?.parse().ok())
}

fn key(row: &Value) -> Option<Key> {
    let protocol = u8::try_from(number(row, "protocol")).ok()?;
    let port = u16::try_from(number(row, "server_port")).ok()?;
    // ARP has addresses, too.
    (protocol != 0).then_some((address(row, 0)?, address(row, 1)?, protocol, port))
}

/// Packets and bytes of both directions, by the second or minute of rows and their keys.
type Sums = BTreeMap<(u64, Key), Sum>;

/// The rows of one length, but for those that only say that flows are open, or ended.
fn sums(rows: &[Value], interval: u64) -> Sums {
    let mut found = Sums::new();
    for row in rows.iter().filter(|row| number(row, "interval") == interval) {
        let Some(key) = key(row) else { continue };
        let time_us = number(row, "time");
        assert_eq!(time_us % (interval * 1_000_000), 0, "a natural period: {row}");
        let both = |name: &str| number(row, &format!("{name}_tx")) + number(row, &format!("{name}_rx"));
        let sum = [both("packet"), both("byte")];
        if sum != [0; 2] {
            let before = found.insert((time_us / 1_000_000, key), sum);
            assert_eq!(before, None, "two rows of one key: {row}");
        }
    }
    found
}

/// Which row of a second holds the packets between these ends? Which of them is the server is ours to say; when both are
/// in that second, by other connections, `clients` tells.
fn row_of(second: u64, ends: &Ends, found: &Sums, clients: &HashMap<Ends, IpAddr>) -> Key {
    let [a, b] = ends.ends;
    let keys = [(a, b), (b, a)].map(|(client, server)| (client.0, server.0, ends.protocol, server.1));
    let mut own: Vec<_> = keys.into_iter().filter(|key| found.contains_key(&(second, *key))).collect();
    own.dedup();
    if own.len() > 1 {
        own.retain(|key| clients.get(ends) == Some(&key.0));
    }
    assert_eq!(own.len(), 1, "no row of second {second} for {ends:?}: {own:?}");
    own[0]
}

/// Each packet that tshark saw is in exactly one row of a second and of a minute.
fn compare(rows: &[Value], seen: &BTreeMap<(u64, Ends), Sum>, clients: &HashMap<Ends, IpAddr>) {
    let [seconds, minutes] = [1, 60].map(|interval| sums(rows, interval));
    let (mut expected_seconds, mut expected_minutes) = (Sums::new(), Sums::new());
    for ((second, ends), [packets, bytes]) in seen {
        let key = row_of(*second, ends, &seconds, clients);
        // A flow that turns round changes its row within a minute.
        for (expected, begin) in
            [(&mut expected_seconds, *second), (&mut expected_minutes, second - second % 60)]
        {
            let sum = expected.entry((begin, key)).or_default();
            *sum = [sum[0] + packets, sum[1] + bytes];
        }
    }
    for (found, expected) in [(seconds, expected_seconds), (minutes, expected_minutes)] {
        let differs = |place: &&(u64, Key)| found.get(place) != expected.get(place);
        let different: Vec<_> = found.keys().chain(expected.keys()).filter(differs).collect();
        let text =
            different.iter().map(|at| format!("{at:?}: {:?}, not {:?}", found.get(at), expected.get(at)));
        assert!(different.is_empty(), "{}", text.collect::<Vec<_>>().join("\n"));
    }
}

/// Columns of metrics that are neither sums nor maxima over seconds.
const OTHERS: &[&str] = &["time", "interval", "is_other", "flow_load"];

/// Minutes are the sums of their seconds, their maxima the largest of them.
fn minutes_are_their_seconds(rows: &[Value]) {
    let identity = |row: &Value| {
        let names = ["ip4_0", "ip6_0", "ip4_1", "ip6_1", "protocol", "server_port", "tap_type", "tap_side"];
        names.map(|name| row[name].to_string()).join(" ")
    };
    let mut minutes: BTreeMap<(u64, String), (&Value, Vec<&Value>)> = BTreeMap::new();
    for row in rows.iter().filter(|row| number(row, "interval") == 60) {
        let before = minutes.insert((number(row, "time"), identity(row)), (row, Vec::new()));
        assert!(before.is_none(), "two rows of one key: {row}");
    }
    for row in rows.iter().filter(|row| number(row, "interval") == 1) {
        let begin_us = number(row, "time") / 60_000_000 * 60_000_000;
        minutes.get_mut(&(begin_us, identity(row))).unwrap().1.push(row);
    }
    let mut samples = 0;
    for (minute, seconds) in minutes.values() {
        for (name, value) in minute.as_object().unwrap() {
            let of_seconds = || seconds.iter().filter_map(|row| row[name].as_u64());
            if OTHERS.contains(&name.as_str()) || identity_column(name) {
                continue;
            }
            if name.ends_with("_max") {
                assert_eq!(value.as_u64(), of_seconds().max(), "{name}: {minute}");
            } else if name.ends_with("_sum") {
                // Each is cut to microseconds on its own.
                let sum: u64 = of_seconds().sum();
                let cut = value.as_u64().unwrap_or(0).checked_sub(sum);
                let most = of_seconds().count().saturating_sub(1) as u64;
                assert!(cut.is_some_and(|cut| cut <= most), "{name}: {sum} of seconds, {minute}");
                let has_samples = number(minute, &name.replace("_sum", "_count")) > 0;
                assert_eq!(value.is_null(), !has_samples, "{name}: {minute}");
                samples += u64::from(has_samples);
            } else {
                assert_eq!(value.as_u64(), Some(of_seconds().sum()), "{name}: {minute}");
            }
        }
        let load = seconds.iter().map(|row| number(row, "flow_load")).max().unwrap_or(0);
        assert!(number(minute, "flow_load") >= load, "{minute}");
    }
    assert!(samples > 0, "nothing was measured");
}

fn identity_column(name: &str) -> bool {
    name.starts_with("ip4_")
        || name.starts_with("ip6_")
        || ["is_ipv4", "protocol", "server_port", "tap_type", "tap_side"].contains(&name)
}

/// The client of each connection in flow records, for ports that serve and ask at once.
fn clients(lines: &str) -> HashMap<Ends, IpAddr> {
    let end = |record: &Value, number_of: u8, column: &str| {
        Some((address(record, number_of)?, u16::try_from(number(record, column)).ok()?))
    };
    let of = |line: &str| {
        let record: Value = serde_json::from_str(line).ok()?;
        let (client, server) = (end(&record, 0, "client_port")?, end(&record, 1, "server_port")?);
        let mut ends = [client, server];
        ends.sort_unstable();
        Some((Ends { ends, protocol: u8::try_from(number(&record, "protocol")).ok()? }, client.0))
    };
    lines.lines().filter_map(of).collect()
}

fn rows_agree(capture: &Path, packets: u64) {
    let folder = tempfile::tempdir().unwrap();
    let [flows, metrics] = ["flows.jsonl", "metrics.jsonl"].map(|name| folder.path().join(name));
    let arguments = ["--flows", flows.to_str().unwrap(), "--metrics", metrics.to_str().unwrap()];
    let replayed = sluiced::run(folder.path(), POLICY, &[capture], &arguments);
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    let rows: Vec<Value> = fs::read_to_string(&metrics)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();

    let mut seen: BTreeMap<(u64, Ends), Sum> = BTreeMap::new();
    let (mut all, mut latest, mut fragments) = (0, 0, Fragments::new());
    Tshark::with_protocols(PROTOCOLS).fields(capture, FIELDS, |at, values| {
        let Some((second, ends, bytes)) = packet(values, &mut fragments) else { return };
        assert!(second >= latest, "packet {at} is older than one before it");
        latest = second;
        all += 1;
        let sum = seen.entry((second, ends)).or_default();
        *sum = [sum[0] + 1, sum[1] + bytes];
    });
    assert_eq!(all, packets, "{}", capture.display());
    let clients = clients(&fs::read_to_string(&flows).unwrap());
    compare(&rows, &seen, &clients);
    minutes_are_their_seconds(&rows);
}

#[test]
fn every_packet_is_in_one_row() {
    let Some(folder) = captures::folder() else { return };
    for (name, packets) in CAPTURES {
        eprintln!("{name}");
        rows_agree(&folder.join(name), *packets);
    }
}
