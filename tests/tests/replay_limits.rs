//! Does a replay keep its promises at the limits: nothing lost for lack of room, no identification used twice, no trust
//! in lengths?

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a broken promise should stop the test"
)]

use std::collections::HashSet;
use std::fmt::Write;

use sluice_engine::replay::{ReplayConfig, replay};
use sluice_tests::traffic;

/// Tunnels, beside one capture file.
const DESTINATIONS: usize = 63;
const POLICIES: usize = 4_000;

/// Every policy copies everything to every destination; the first destination may be fragmented on its way.
fn policy_file() -> String {
    let mut text = String::new();
    for index in 0..DESTINATIONS {
        let oversize = if index == 0 { "oversize = \"fragment\"\n" } else { "" };
        writeln!(
            text,
            "[[destination]]\nname = \"d{index}\"\ntype = \"vxlan\"\nremote = \"192.0.2.10\"\n{oversize}"
        )
        .unwrap();
    }
    let names: Vec<_> = (0..DESTINATIONS).map(|index| format!("\"d{index}\"")).collect();
    let to = format!("{},\"tagged\"", names.join(","));
    text += "[[destination]]\nname = \"tagged\"\ntype = \"pcap\"\nfile = \"unused\"\ninner_vlan = true\n";
    for index in 0..POLICIES {
        writeln!(text, "[[policy]]\nname = \"p{index}\"\npayload = {index}\nto = [{to}]").unwrap();
    }
    text
}

/// The outer IPv4 identification of each packet in a nanosecond pcap file.
fn identifications(pcap: &[u8]) -> Vec<u16> {
    let mut rest = &pcap[24..];
    let mut found = Vec::new();
    while let Some((record, after)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes([record[8], record[9], record[10], record[11]]) as usize;
        found.push(u16::from_be_bytes([after[18], after[19]]));
        rest = &after[len..];
    }
    found
}

#[test]
fn nothing_is_lost_and_identifications_differ() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.pcap");
    let mut writer = sluice_capture::PcapWriter::new(Vec::new()).unwrap();
    let frames: Vec<_> = traffic::sample().into_iter().take(100).collect();
    for (index, (timestamp_ns, frame)) in frames.iter().enumerate() {
        // A capture may claim any original length.
        let wire_len = if index == 50 { u32::MAX } else { frame.len() as u32 };
        writer.write(*timestamp_ns, wire_len, [&frame[..]]).unwrap();
    }
    std::fs::write(&input, writer.finish().unwrap()).unwrap();

    let policies = sluice_model::spec::parse_policy("limits.toml", &policy_file()).unwrap().value;
    let config = ReplayConfig {
        decap: Vec::new(),
        ends: sluice_engine::stage::ends::PortEnds::default(),
        policies,
        inputs: vec![input],
        out_dir: folder.path().to_owned(),
        loop_guard: false,
        flow: None,
        dedup: sluice_model::DedupSettings::default(),
        taps: Vec::new(),
        mirror: sluice_model::MirrorSettings::default(),
        limit: None,
        breaker: None,
    };
    let report = replay(&config, |_, _| {}, &mut ()).unwrap();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert!(report.account.balances() && report.mbufs_in_use == 0, "{:?}", report.account);
    assert_eq!(report.account.ledger.drops.total(), 0, "{:?}", report.account);
    let copies = (frames.len() * (DESTINATIONS + 1)) as u64;
    assert_eq!(report.account.ledger.tx_packets, copies);
    assert!(report.policies.iter().all(|totals| totals.sent_packets == copies));

    // Without DF, an identification must not come twice within a datagram's life (RFC 6864 section 4.2).
    let found = identifications(&std::fs::read(report.files[0].as_ref().unwrap()).unwrap());
    assert_eq!(found.len(), frames.len());
    assert_eq!(found.iter().collect::<HashSet<_>>().len(), found.len(), "{found:?}");
}
