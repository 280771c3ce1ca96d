//! The columns of flow records.

use super::{
    Field, FieldValue, delay_max, delay_sum, fields, ipv4, ipv6, is_ipv4, micros, nonzero, number, optional,
};
use crate::{CloseType, FlowRecord, Network, TunnelRecord};

const TCP: u8 = 6;

/// The columns of flow records, in their order. `_0`, `tx`: client; `_1`, `rx`: server.
pub const FLOW_FIELDS: &[Field<FlowRecord>] = fields![FlowRecord:
    "mac_0" Mac "" "client's Ethernet address; zero where the frame has none" "" |r| FieldValue::Mac(r.macs[0]);
    "mac_1" Mac "" "server's Ethernet address" "" |r| FieldValue::Mac(r.macs[1]);
    "eth_type" U16 "" "EtherType after all tags" "" |r| number(r.ethertype);
    "vlan" U16 "" "VLAN id, the inner one of two; 0 = untagged" "" |r| number(r.vlan);
    "ip4_0" Ipv4 "" "client's address" "not IPv4 (or ARP)" |r| ipv4(r.network, &r.addresses[0]);
    "ip6_0" Ipv6 "" "client's address" "not IPv6" |r| ipv6(r.network, &r.addresses[0]);
    "ip4_1" Ipv4 "" "server's address" "not IPv4 (or ARP)" |r| ipv4(r.network, &r.addresses[1]);
    "ip6_1" Ipv6 "" "server's address" "not IPv6" |r| ipv6(r.network, &r.addresses[1]);
    "is_ipv4" U8 "" "1 = the IPv4 columns are valid, 0 = the IPv6 ones" "neither" |r| is_ipv4(r.network);
    "protocol" U8 "" "IP protocol; 0 without IP" "" |r| number(r.protocol);
    "tunnel_type" U8 "" "1 VXLAN, 2 IP in IP, 3 GRE, 4 GENEVE, 6 ERSPAN I, 7 TEB, 8 ERSPAN II, 9 ERSPAN III, 10 MPLS, 11 GTP-U" "no tunnel" |r| any_tunnel(r, |t| number(t.kind as u8));
    "tunnel_tier" U8 "" "tunnels taken off (or looked through), one inside the other" "" |r| number(r.tunnels.iter().flatten().map(|t| t.tier).max().unwrap_or(0));
    "tunnel_tx_id" U32 "" "VNI, key, session or TEID, client to server" "no tunnel, or its id is 0" |r| tunnel(r, 0, |t| nonzero(t.id));
    "tunnel_rx_id" U32 "" "the same, server to client" "no tunnel, or its id is 0" |r| tunnel(r, 1, |t| nonzero(t.id));
    "tunnel_tx_ip4_0" Ipv4 "" "outer source, client to server" "no tunnel over IPv4" |r| tunnel(r, 0, |t| ipv4(outer(t), &t.addresses[0]));
    "tunnel_tx_ip6_0" Ipv6 "" "outer source, client to server" "no tunnel over IPv6" |r| tunnel(r, 0, |t| ipv6(outer(t), &t.addresses[0]));
    "tunnel_tx_ip4_1" Ipv4 "" "outer destination, client to server" "no tunnel over IPv4" |r| tunnel(r, 0, |t| ipv4(outer(t), &t.addresses[1]));
    "tunnel_tx_ip6_1" Ipv6 "" "outer destination, client to server" "no tunnel over IPv6" |r| tunnel(r, 0, |t| ipv6(outer(t), &t.addresses[1]));
    "tunnel_rx_ip4_0" Ipv4 "" "outer source, server to client" "no tunnel over IPv4" |r| tunnel(r, 1, |t| ipv4(outer(t), &t.addresses[0]));
    "tunnel_rx_ip6_0" Ipv6 "" "outer source, server to client" "no tunnel over IPv6" |r| tunnel(r, 1, |t| ipv6(outer(t), &t.addresses[0]));
    "tunnel_rx_ip4_1" Ipv4 "" "outer destination, server to client" "no tunnel over IPv4" |r| tunnel(r, 1, |t| ipv4(outer(t), &t.addresses[1]));
    "tunnel_rx_ip6_1" Ipv6 "" "outer destination, server to client" "no tunnel over IPv6" |r| tunnel(r, 1, |t| ipv6(outer(t), &t.addresses[1]));
    "tunnel_is_ipv4" U8 "" "1 = the outer packets are IPv4" "no tunnel" |r| any_tunnel(r, |t| number(t.ipv4));
    "client_port" U16 "" "client's L4 port" "no ports: ICMP, later fragments, cut headers" |r| optional(r.ports.map(|ports| ports[0]));
    "server_port" U16 "" "server's L4 port" "no ports" |r| optional(r.ports.map(|ports| ports[1]));
    "tcp_flags_bit_0" U16 "bits" "TCP flags that the client sent in the interval, united: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32" "none" |r| nonzero(r.sides[0].tcp_flags);
    "tcp_flags_bit_1" U16 "bits" "the same of the server" "none" |r| nonzero(r.sides[1].tcp_flags);
    "close_type" U16 "" "why the record was made, see below" "" |r| number(r.close_type.code());
    "status" U8 "" "0 normal, 2 unknown, 3 server error, 4 client error: what the close type says" "" |r| number(status(r));
    "flow_source" U16 "" "0 = packets" "" |_| number(0_u8);
    "flow_id" U64 "" "the same in all records of a flow" "" |r| number(r.flow_id);
    "tap_type" U16 "" "number of the tap; 3 = virtual network" "" |r| number(r.tap);
    "tap_port" U32 "" "number of the ingress port of the flow's first packet" "" |r| number(r.port.0);
    "vtap_id" U16 "" "number of the appliance" "" |r| number(r.vtap_id);
    "tap_side" Text "" "where on the path the tap is, see below" "" |r| FieldValue::Name(r.tap_side.name());
    "is_new_flow" U8 "" "1 = the first record of its flow" "" |r| number(r.is_new_flow);
    "direction_score" U8 "" "how sure it is who the server is; 255 = certain" "" |r| number(r.direction_score);
    "start_time" Time "us" "first packet of the flow, or end of its record before" "" |r| micros(r.start_ns);
    "end_time" Time "us" "end of the minute; in the last record the packet that ended the flow, or the latest one and the timeout" "" |r| micros(r.end_ns);
    "duration" U64 "us" "first to latest packet of the flow" "" |r| micros(r.duration_ns);
    "packet_tx" U64 "packets" "from the client, in the interval" "" |r| number(r.sides[0].packets);
    "packet_rx" U64 "packets" "from the server, in the interval" "" |r| number(r.sides[1].packets);
    "byte_tx" U64 "bytes" "Ethernet header, tags and IP packet: no FCS, no padding" "" |r| number(r.sides[0].bytes);
    "byte_rx" U64 "bytes" "the same of the server" "" |r| number(r.sides[1].bytes);
    "l3_byte_tx" U64 "bytes" "after the IP header" "" |r| number(r.sides[0].l3_bytes);
    "l3_byte_rx" U64 "bytes" "the same of the server" "" |r| number(r.sides[1].l3_bytes);
    "l4_byte_tx" U64 "bytes" "after the L4 header" "" |r| number(r.sides[0].l4_bytes);
    "l4_byte_rx" U64 "bytes" "the same of the server" "" |r| number(r.sides[1].l4_bytes);
    "total_packet_tx" U64 "packets" "from the client since the flow began" "" |r| number(r.sides[0].total_packets);
    "total_packet_rx" U64 "packets" "from the server since the flow began" "" |r| number(r.sides[1].total_packets);
    "total_byte_tx" U64 "bytes" "from the client since the flow began" "" |r| number(r.sides[0].total_bytes);
    "total_byte_rx" U64 "bytes" "from the server since the flow began" "" |r| number(r.sides[1].total_bytes);
    "duplicate_tx" U64 "packets" "copies that deduplication found and let pass; they are in the counts above" "" |r| number(r.sides[0].duplicates);
    "duplicate_rx" U64 "packets" "the same of the server" "" |r| number(r.sides[1].duplicates);
    "rtt_client_sum" U64 "us" "SYN-ACK to the client's ACK" "no sample" |r| delay_sum(&r.perf.rtt_client);
    "rtt_client_count" U64 "samples" "how many of them" "" |r| number(r.perf.rtt_client.count);
    "rtt_client_max" U32 "us" "the largest of them" "no sample" |r| delay_max(&r.perf.rtt_client);
    "rtt_server_sum" U64 "us" "SYN to SYN-ACK" "no sample" |r| delay_sum(&r.perf.rtt_server);
    "rtt_server_count" U64 "samples" "how many of them" "" |r| number(r.perf.rtt_server.count);
    "rtt_server_max" U32 "us" "the largest of them" "no sample" |r| delay_max(&r.perf.rtt_server);
    "rtt" U64 "us" "the whole handshake: first SYN to ACK, the latest in the interval" "no whole handshake in the interval" |r| if r.perf.rtt_ns == 0 { FieldValue::Null } else { micros(r.perf.rtt_ns) };
    "srt_sum" U64 "us" "last request segment to the server's bare ACK" "no sample" |r| delay_sum(&r.perf.srt);
    "srt_count" U64 "samples" "how many of them" "" |r| number(r.perf.srt.count);
    "srt_max" U32 "us" "the largest of them" "no sample" |r| delay_max(&r.perf.srt);
    "art_sum" U64 "us" "last request segment (or datagram) to the first of the response" "no sample" |r| delay_sum(&r.perf.art);
    "art_count" U64 "samples" "how many of them" "" |r| number(r.perf.art.count);
    "art_max" U32 "us" "the largest of them" "no sample" |r| delay_max(&r.perf.art);
    "retrans_tx" U32 "packets" "retransmitted by the client, in the handshake too" "" |r| number(r.perf.sides[0].retrans);
    "retrans_rx" U32 "packets" "retransmitted by the server" "" |r| number(r.perf.sides[1].retrans);
    "retrans_byte_tx" U64 "bytes" "payload of them" "" |r| number(r.perf.sides[0].retrans_bytes);
    "retrans_byte_rx" U64 "bytes" "payload of them" "" |r| number(r.perf.sides[1].retrans_bytes);
    "zero_win_tx" U32 "packets" "from the client with a window of 0; RST left out" "" |r| number(r.perf.sides[0].zero_win);
    "zero_win_rx" U32 "packets" "from the server with a window of 0" "" |r| number(r.perf.sides[1].zero_win);
    "ooo_tx" U32 "packets" "from the client with data below data seen before, not seen itself" "" |r| number(r.perf.sides[0].out_of_order);
    "ooo_rx" U32 "packets" "the same of the server" "" |r| number(r.perf.sides[1].out_of_order);
    "syn_count" U32 "packets" "SYN without ACK, both sides" "" |r| number(r.perf.sides[0].syn + r.perf.sides[1].syn);
    "synack_count" U32 "packets" "SYN with ACK, both sides" "" |r| number(r.perf.sides[0].syn_ack + r.perf.sides[1].syn_ack);
    "fin_count" U32 "packets" "FIN, both sides" "" |r| number(r.perf.sides[0].fin + r.perf.sides[1].fin);
    "syn_seq" U32 "" "sequence number of the client's latest SYN" "none was seen" |r| optional(r.syn_seq);
    "syn_ack_seq" U32 "" "sequence number of the server's latest SYN-ACK" "none was seen" |r| optional(r.syn_ack_seq);
];

/// The columns of the `basic` profile, in the order of [`FLOW_FIELDS`]: who with whom, when, how much, how fast, how well.
pub const BASIC_FLOW_FIELDS: [&str; 24] = [
    "ip4_0",
    "ip6_0",
    "ip4_1",
    "ip6_1",
    "protocol",
    "client_port",
    "server_port",
    "close_type",
    "flow_id",
    "tap_port",
    "is_new_flow",
    "start_time",
    "end_time",
    "packet_tx",
    "packet_rx",
    "byte_tx",
    "byte_rx",
    "rtt",
    "srt_sum",
    "srt_count",
    "art_sum",
    "art_count",
    "retrans_tx",
    "retrans_rx",
];

/// `read` off the tunnel of side `side`, if there is one.
fn tunnel(
    record: &FlowRecord,
    side: usize,
    read: fn(&TunnelRecord) -> FieldValue<'static>,
) -> FieldValue<'static> {
    record.tunnels.get(side).and_then(Option::as_ref).map_or(FieldValue::Null, read)
}

/// `read` off the client's tunnel, or else the server's.
fn any_tunnel(record: &FlowRecord, read: fn(&TunnelRecord) -> FieldValue<'static>) -> FieldValue<'static> {
    record.tunnels.iter().flatten().next().map_or(FieldValue::Null, read)
}

fn outer(tunnel: &TunnelRecord) -> Network {
    if tunnel.ipv4 { Network::Ipv4 } else { Network::Ipv6 }
}

/// What the close type says of the flow, by the codes of the reference system's later releases.
fn status(record: &FlowRecord) -> u8 {
    match record.close_type {
        CloseType::Timeout if record.protocol != TCP => 0,
        CloseType::TcpFin
        | CloseType::ForcedReport
        | CloseType::ServerHalfClose
        | CloseType::ClientHalfClose => 0,
        CloseType::TcpServerRst
        | CloseType::Timeout
        | CloseType::ClientSynRepeat
        | CloseType::ServerReset
        | CloseType::ServerQueueLack
        | CloseType::ServerEstablishOtherRst => 3,
        CloseType::TcpClientRst
        | CloseType::ServerSynAckRepeat
        | CloseType::ClientSourcePortReuse
        | CloseType::ClientEstablishOtherRst => 4,
        CloseType::Unknown => 2,
    }
}
