//! Do flow records agree with the sessions of Arkime: packets of both directions, payload of TCP and UDP?

#![allow(clippy::unwrap_used, reason = "a damaged reference should stop the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use sluice_tests::captures;
use sluice_tests::flows::{self, Differences, Flows, Key};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What differs, by capture, with the number of keys; docs/flow-records.md has the same reasons.
const DIFFERENCES: &[(&str, usize)] = &[
    // Its dissector of GRE takes PPP off, ours does not.
    ("6-4-gre-ppp-udp-4-dns", 1),
    // Payload that a retransmission or a hole makes doubtful: it counts what it could put together, we count packets.
    ("dcerpc_synthetic", 1),
    ("http-100-continue", 1),
    ("http-tcp-seq-issue", 1),
    ("socks5-smtp-503", 1),
    ("websocket", 1),
    ("wireshark-smb-on-windows10", 1),
    // Payload of TCP without SYN: it counts none.
    ("ospf", 3),
    ("y2038-bgp", 1),
    // The same, and one packet of a server that it books on the client.
    ("single-packets", 9),
    // Outer packets have sessions of their own as well.
    ("gre-erspan", 1),
    ("vxlan", 1),
    // PPPoE is not decapsulated.
    ("pppoe", 1),
    // The fragments of a datagram are one packet for it.
    ("socks5-http-302-frag", 1),
    // It pairs requests to a group address with the answers of a server.
    ("wireshark-dhcp", 1),
    ("wireshark-dhcpv6", 1),
    // Its sessions of IGMP and PIM leave the group address out of the key.
    ("igmp", 1),
    ("ospf-groups", 2),
];

/// Packets and payload by key.
fn sessions(text: &str) -> BTreeMap<Key, [[u64; 2]; 2]> {
    let json: Value = serde_json::from_str(text).unwrap();
    let mut sums: BTreeMap<Key, [[u64; 2]; 2]> = BTreeMap::new();
    for session in json["sessions3"].as_array().unwrap() {
        let body = &session["body"];
        let end = |name: &str| {
            let end = &body[name];
            let port = u16::try_from(end["port"].as_u64().unwrap_or(0)).unwrap();
            Some((end["ip"].as_str()?, port, end["packets"].as_u64().unwrap()))
        };
        let (Some(client), Some(server)) = (end("source"), end("destination")) else { continue };
        let protocol = u8::try_from(body["ipProtocol"].as_u64().unwrap_or(0)).unwrap();
        let (key, turned) = ordered(Key::new((client.0, client.1), (server.0, server.1), protocol));
        let sum = sums.entry(key).or_default();
        sum[0][turned] += client.2;
        sum[0][1 - turned] += server.2;
        sum[1][turned] += body["client"]["bytes"].as_u64().unwrap_or(0);
        sum[1][1 - turned] += body["server"]["bytes"].as_u64().unwrap_or(0);
    }
    sums
}

/// The key with the lower end first, and whether that turned it round.
fn ordered(key: Key) -> (Key, usize) {
    if key.ends[1] < key.ends[0] { (key.reversed(), 1) } else { (key, 0) }
}

/// `ospf` also has sessions of groups.
fn place(name: &str, key: &Key) -> String {
    if name == "ospf" && key.protocol != TCP { "ospf-groups".to_owned() } else { name.to_owned() }
}

fn compare(
    name: &str,
    expected: &BTreeMap<Key, [[u64; 2]; 2]>,
    found: &Flows,
    differences: &mut Differences,
) {
    for (key, [packets, payload]) in expected {
        let place = place(name, key);
        let Some([own_packets, _, own_payload]) = flows::totals(found, *key) else {
            differences.add(&place, format!("{key:?}: {packets:?} are missing"));
            continue;
        };
        // Its payload of other protocols has the L4 header in it, or is left out.
        let has_payload = matches!(key.protocol, TCP | UDP);
        if own_packets != *packets {
            differences.add(&place, format!("{key:?}: {own_packets:?} packets, not {packets:?}"));
        } else if has_payload && own_payload != *payload {
            differences.add(&place, format!("{key:?}: payload {own_payload:?}, not {payload:?}"));
        }
    }
}

#[test]
fn sessions_agree() {
    let Some(folder) = captures::folder() else { return };
    let files = captures::files(&folder.join("arkime/tests/pcap"));
    let is_reference = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "test");
    let mut inputs = Vec::new();
    let mut references = Vec::new();
    for reference in files.iter().filter(is_reference) {
        let capture = ["pcap", "pcapng", "cap"].map(|extension| reference.with_extension(extension));
        let Some(capture) = capture.into_iter().find(|path| path.is_file()) else { continue };
        inputs.push((capture, &["--decap", "strip"][..]));
        references.push(reference);
    }
    assert_eq!(references.len(), 126, "captures with references");
    let mut differences = Differences::default();
    let (mut compared, mut unsupported) = (0, Vec::new());
    for (reference, found) in references.iter().zip(flows::replay_all(&inputs)) {
        let name = reference.file_stem().unwrap().to_str().unwrap();
        let Some(found) = found else {
            unsupported.push(name);
            continue;
        };
        let expected = sessions(&fs::read_to_string(reference).unwrap());
        compared += expected.len();
        compare(name, &expected, &found, &mut differences);
    }
    eprintln!("{compared} sessions of {} captures", references.len());
    assert_eq!(unsupported, ["nflog"], "captures with unsupported link types");
    assert!(compared > 340, "{compared} sessions");
    differences.expect(DIFFERENCES);
}
