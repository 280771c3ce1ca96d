//! Do flow records agree with the connection logs of Zeek: packets and IP bytes of both ends, states, durations?

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a damaged reference should stop the test"
)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use sluice_tests::captures;
use sluice_tests::flows::{self, Differences, Flow, Key};

/// What differs, by capture, with the number of connections; docs/flow-records.md has the same reasons.
const DIFFERENCES: &[(&str, usize)] = &[
    // It knows which ports are servers' and turns flows round that were captured in their middle; we go by who was
    // seen first, and by the lower port where the other is 32768 or more.
    ("dhcp.pcap", 2),
    // The same (3 and 2), and Teredo itself, which we do not take off.
    ("Teredo.pcap", 4),
    ("teredo_bubble_with_payload.pcap", 3),
    // Tunnels that we do not take off: AYIYA, Aruba's GRE, GRE over UDP, PPTP, PBB, PPPoE.
    ("ayiya-large-identity.pcap", 1),
    ("gre-aruba-amsdu.pcap", 1),
    ("gre-over-udp-4754.pcap", 2),
    ("gre-pptp.pcap", 1),
    ("pbb.pcap", 1),
    ("pppoe-over-qinq.pcap", 1),
    ("pppoe.pcap", 2),
    // It has connections for the outer packets as well.
    ("geneve-47101.pcap", 1),
    ("geneve-vxlan-dns-truncated.pcap", 2),
    ("gtp6_gtp_0x32.pcap", 1),
    ("vxlan-encapsulated-http.pcap", 1),
    ("vxlan-encapsulated-igmp-v2.pcap", 3),
    ("vxlan.pcap", 4),
    // It puts fragments of the outer packets together before it takes the tunnel off.
    ("gtp1_gn_normal_incl_fragmentation.pcap", 2),
    // The server resets after both FINs: code 2, as in vector V19.
    ("imap-starttls.pcap", 1),
    // The index names a baseline that belongs to another capture.
    ("single-conn.pcap", 1),
];

/// Which close types fit the state that Zeek gives a connection (its documentation of `conn_state`).
const STATES: &[(&str, &[u64])] = &[
    ("S0", &[7]),
    ("S1", &[3]),
    ("SF", &[1]),
    ("REJ", &[15]),
    ("S2", &[8]),
    ("S3", &[11]),
    ("RSTO", &[9]),
    ("RSTR", &[2]),
    ("RSTOS0", &[18]),
    ("RSTRH", &[19]),
    ("SH", &[8]),
    ("OTH", &[3]),
];

type Row = HashMap<String, String>;

/// The rows of a log by key; `None` when it has no packets.
fn log(text: &str) -> Option<BTreeMap<Key, Vec<Row>>> {
    let mut names = None;
    let mut rows: BTreeMap<Key, Vec<Row>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(fields) = line.strip_prefix("#fields\t") {
            names = Some(fields.split('\t').map(str::to_owned).collect::<Vec<_>>());
        }
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let row: Row = names.clone()?.into_iter().zip(line.split('\t').map(str::to_owned)).collect();
        row.get("orig_pkts")?;
        let protocol = match row["proto"].as_str() {
            "tcp" => 6,
            "udp" => 17,
            // Types and codes stand for the ports of ICMP, and nothing for other protocols.
            _ => continue,
        };
        let port = |name: &str| row[name].parse().unwrap();
        let key = Key::new(
            (&row["id.orig_h"], port("id.orig_p")),
            (&row["id.resp_h"], port("id.resp_p")),
            protocol,
        );
        rows.entry(key).or_default().push(row);
    }
    Some(rows)
}

/// Captures with the `conn.log` of a plain run over them, as the index of the captures names them.
fn references(folder: &Path) -> Vec<(String, BTreeMap<Key, Vec<Row>>)> {
    let index = fs::read_to_string(folder.join("INDEX.md")).unwrap();
    let mut found = Vec::new();
    for line in index.lines().filter(|line| line.starts_with("| OPEN | testing/btest/Traces/")) {
        let file = line.split(" | ").nth(1).unwrap().trim();
        let name = file.rsplit('/').next().unwrap();
        for reference in line.split("Zeek Baseline/").skip(1) {
            let Some((baseline, rest)) = reference.split_once(": ") else { continue };
            let other_input = rest.contains("$TRACES") && !rest.contains(name);
            if !rest.contains("conn.log: ") || other_input {
                continue;
            }
            let path = folder.join("zeek/testing/btest/Baseline").join(baseline).join("conn.log");
            if let Some(rows) = fs::read_to_string(path).ok().and_then(|text| log(&text)) {
                found.push((file.to_owned(), rows));
            }
        }
    }
    found
}

/// What a connection and the flow of the same key say differently of its end and its duration.
fn end_differs(row: &Row, flow: &Flow) -> Option<String> {
    let state = row["conn_state"].as_str();
    let fitting = STATES.iter().find(|(known, _)| *known == state);
    if !fitting.is_some_and(|(_, types)| types.contains(&flow.close_type)) {
        return Some(format!("{state} ({}), close type {}", row["history"], flow.close_type));
    }
    let duration: Option<f64> = row["duration"].parse().ok();
    // Zeek does not count what comes after both FINs.
    let limit = flow.duration_us as f64 / 1e6 + 2e-6;
    let is_longer = duration.is_some_and(|duration| duration > limit);
    is_longer.then(|| format!("{duration:?} s against {} us", flow.duration_us))
}

#[test]
fn connections_agree() {
    let Some(folder) = captures::folder() else { return };
    let references = references(&folder);
    let mut names: Vec<_> = references.iter().map(|(file, _)| file.clone()).collect();
    names.sort();
    names.dedup();
    let inputs: Vec<_> = names
        .iter()
        .map(|file| {
            let arguments: &[&str] = if file.contains("/tunnels/") { &["--decap", "strip"] } else { &[] };
            (folder.join("zeek").join(file), arguments)
        })
        .collect();
    let found: HashMap<_, _> = names.iter().zip(flows::replay_all(&inputs)).collect();
    let mut differences = Differences::default();
    let (mut compared, mut ends, mut unsupported) = (0, 0, Vec::new());
    let mut seen: Vec<(String, Key, String)> = Vec::new();
    for (file, rows) in &references {
        let name = file.rsplit('/').next().unwrap();
        let Some(found) = &found[file] else {
            unsupported.push(name);
            continue;
        };
        for (key, rows) in rows {
            let sum = |field: &str| rows.iter().map(|row| row[field].parse::<u64>().unwrap()).sum::<u64>();
            let packets = [sum("orig_pkts"), sum("resp_pkts")];
            let ip_bytes = [sum("orig_ip_bytes"), sum("resp_ip_bytes")];
            // Several baselines come from one capture.
            let what = (name.to_owned(), *key, format!("{packets:?} {}", rows[0]["history"]));
            if seen.contains(&what) {
                continue;
            }
            seen.push(what);
            compared += 1;
            let Some([own_packets, own_bytes, _]) = flows::totals(found, *key) else {
                differences.add(name, format!("{key:?}: {packets:?} are missing"));
                continue;
            };
            if own_packets != packets {
                differences.add(name, format!("{key:?}: {own_packets:?} packets, not {packets:?}"));
                continue;
            }
            for side in 0..2 {
                let framed = flows::is_framed(own_bytes[side], ip_bytes[side], packets[side]);
                assert!(framed, "{name}: {key:?}: {own_bytes:?} against {ip_bytes:?}");
            }
            let [same, turned] =
                [*key, key.reversed()].map(|key| found.get(&key).map_or(&[][..], Vec::as_slice));
            if same.is_empty() {
                differences.add(name, format!("{key:?} is turned round ({})", rows[0]["history"]));
            } else if let ([row], [flow], []) = (rows.as_slice(), same, turned)
                && key.protocol == 6
            {
                ends += 1;
                if let Some(text) = end_differs(row, flow) {
                    differences.add(name, format!("{key:?}: {text}"));
                }
            }
        }
    }
    eprintln!("{compared} connections, {ends} ends, of {} captures", names.len());
    assert_eq!(unsupported, ["radiotap.pcap"], "captures with unsupported link types");
    assert!(compared > 100 && ends > 60, "{compared} connections, {ends} ends");
    differences.expect(DIFFERENCES);
}
