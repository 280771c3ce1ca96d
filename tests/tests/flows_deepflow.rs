//! Do flow records agree with the results that the DeepFlow agent's own tests expect: close types, delays, losses?

#![allow(clippy::unwrap_used, reason = "a damaged reference should stop the test")]

use std::fs;
use std::path::{Path, PathBuf};

use sluice_tests::captures;
use sluice_tests::flows::{self, Flow};

/// Close types that the agent's `flow_state.rs` asserts for the last flow of the capture, by the codes of the records.
const CLOSE_TYPES: [(&str, u64); 7] = [
    ("client-no-response", 19),
    // The agent's later releases have code 20 for a client that gives up like this (health checks do); by the manual it
    // is 18, as in vector V4.
    ("client-syn-try-lack", 18),
    ("l4-source-port-reuse", 13),
    ("server-no-response", 18),
    ("server-reset", 15),
    ("syn-1", 13),
    ("tcp-one-syn", 7),
];

fn folder() -> Option<PathBuf> {
    captures::folder().map(|folder| folder.join("deepflow/agent/resources/test/flow_generator"))
}

/// The flows of a capture, in the order in which they began.
fn flows_of(folder: &Path, name: &str) -> Vec<Flow> {
    let flows = flows::replay(&folder.join(format!("{name}.pcap")), &[]).unwrap();
    let mut flows: Vec<_> = flows.into_values().flatten().collect();
    flows.sort_by_key(|flow| flow.records[0]["flow_id"].as_u64());
    flows
}

/// The last number of a field in a dump.
fn last(dump: &str, field: &str) -> u64 {
    let mut values = dump.lines().filter_map(|line| line.trim().strip_prefix(field)?.strip_prefix(": "));
    values.next_back().unwrap().trim_end_matches(',').parse().unwrap()
}

#[test]
fn close_types_agree() {
    let Some(folder) = folder() else { return };
    for (name, expected) in CLOSE_TYPES {
        let flows = flows_of(&folder, name);
        assert_eq!(flows.last().unwrap().close_type, expected, "{name}");
    }
}

#[test]
fn delays_of_a_whole_connection_agree() {
    let Some(folder) = folder() else { return };
    let flows = flows_of(&folder, "art-continues-payload-len-larger-than-1");
    let dump = fs::read_to_string(folder.join("report.result")).unwrap();
    let dump = dump.split("report after last packet:").nth(1).unwrap();
    let flow = &flows[0];
    for name in ["rtt_client", "rtt_server", "srt", "art"] {
        assert_eq!(flow.max(&format!("{name}_max")), Some(last(dump, &format!("{name}_max"))), "{name}");
        assert_eq!(flow.sum(&format!("{name}_sum")), last(dump, &format!("{name}_sum")), "{name}");
        assert_eq!(flow.sum(&format!("{name}_count")), last(dump, &format!("{name}_count")), "{name}");
    }
    assert_eq!(flow.max("rtt"), Some(last(dump, "rtt")));
    for name in ["syn_count", "synack_count", "fin_count"] {
        assert_eq!(flow.sum(name), last(dump, name), "{name}");
    }
    for name in ["retrans_tx", "retrans_rx", "zero_win_tx", "zero_win_rx", "ooo_tx", "ooo_rx"] {
        assert_eq!(flow.sum(name), 0, "{name}");
    }
}

/// The values that `flow_map.rs` asserts.
#[test]
fn asserted_values_agree() {
    let Some(folder) = folder() else { return };
    let http = &flows_of(&folder, "http")[0];
    assert_eq!(http.max("rtt_client_max"), Some(114));
    assert_eq!(http.max("rtt_server_max"), Some(44));
    assert_eq!(http.max("srt_max"), Some(12));
    let zero = &flows_of(&folder, "tcp-syn-ack-zerowin")[0];
    assert_eq!([zero.sum("zero_win_tx"), zero.sum("zero_win_rx")], [0, 1]);
}

/// What the agent measured up to the last packet of a capture.
#[test]
fn counts_at_the_last_packet_agree() {
    let Some(folder) = folder() else { return };
    for name in ["handshake-error", "client_request_timewait_and_syn_synack_count"] {
        let flow = &flows_of(&folder, name)[0];
        let dump = fs::read_to_string(folder.join(format!("{name}.result"))).unwrap();
        for (column, field) in [
            ("retrans_tx", "retrans_0"),
            ("retrans_rx", "retrans_1"),
            ("syn_count", "syn"),
            ("synack_count", "synack"),
            ("fin_count", "fin_count"),
            ("ooo_tx", "ooo_0"),
            ("ooo_rx", "ooo_1"),
            ("zero_win_tx", "zero_win_count_0"),
            ("zero_win_rx", "zero_win_count_1"),
        ] {
            assert_eq!(flow.sum(column), last(&dump, field), "{name}: {column}");
        }
    }
    let flow = &flows_of(&folder, "client_request_timewait_and_syn_synack_count")[0];
    assert_eq!(flow.max("rtt_client_max"), Some(193));
    assert_eq!(flow.max("rtt_server_max"), Some(477));
    assert_eq!(flow.max("rtt"), Some(670));
}

#[test]
fn udp_delay_is_that_of_the_first_answer() {
    let Some(folder) = folder() else { return };
    let flow = &flows_of(&folder, "udp_continuous_packet")[0];
    let dump = fs::read_to_string(folder.join("udp_continuous_packet.result")).unwrap();
    assert!(dump.trim_end().ends_with(
        "art_sum: 24.409ms, art_count: 1, last_pkt_direction: ServerToClient, data_update_flag: true }"
    ));
    assert_eq!((flow.sum("art_sum"), flow.sum("art_count")), (24_409, 1));
}

/// The packets of this capture were emptied: its IP headers say that there is no payload, the agent's test says how much
/// there was. Nothing was retransmitted by what the headers say.
#[test]
fn emptied_packets_are_no_retransmissions() {
    let Some(folder) = folder() else { return };
    let flow = &flows_of(&folder, "xiangdao-retrans")[0];
    assert_eq!((flow.packets, flow.l4_bytes), ([0, 13], [0, 0]));
    assert_eq!([flow.sum("retrans_tx"), flow.sum("retrans_rx")], [0, 0]);
}
