//! The columns of metrics.

use super::{Field, FieldValue, delay_max, delay_sum, fields, ipv4, ipv6, is_ipv4, number, optional};
use crate::{CloseType, MetricsKey, MetricsRecord};

/// The columns of metrics, in their order. `_0`, `tx`: client; `_1`, `rx`: server.
pub const METRICS_FIELDS: &[Field<MetricsRecord>] = fields![MetricsRecord:
    "time" Time "us" "when the period began" "" |r| number(u64::from(r.begin_s) * 1_000_000);
    "interval" U8 "s" "how long it lasted: 1 or 60" "" |r| number(r.period.seconds());
    "is_other" U8 "" "1 = the row of all that found no place in the table" "" |r| number(r.key.is_none());
    "ip4_0" Ipv4 "" "client's address" "not IPv4 (or ARP)" |r| key(r, |k| ipv4(k.network, &k.addresses[0]));
    "ip6_0" Ipv6 "" "client's address" "not IPv6" |r| key(r, |k| ipv6(k.network, &k.addresses[0]));
    "ip4_1" Ipv4 "" "server's address" "not IPv4 (or ARP)" |r| key(r, |k| ipv4(k.network, &k.addresses[1]));
    "ip6_1" Ipv6 "" "server's address" "not IPv6" |r| key(r, |k| ipv6(k.network, &k.addresses[1]));
    "is_ipv4" U8 "" "1 = the IPv4 columns are valid, 0 = the IPv6 ones" "neither" |r| key(r, |k| is_ipv4(k.network));
    "protocol" U8 "" "IP protocol; 0 without IP" "the row of the rest" |r| key(r, |k| number(k.protocol));
    "server_port" U16 "" "server's L4 port" "no ports" |r| key(r, |k| optional(k.server_port));
    "tap_type" U16 "" "number of the tap" "the row of the rest" |r| key(r, |k| number(k.tap));
    "tap_side" Text "" "where on the path the tap is, see below" "the row of the rest" |r| key(r, |k| FieldValue::Name(k.tap_side.name()));
    "packet_tx" U64 "packets" "from the client" "" |r| number(r.counters.sides[0].packets);
    "packet_rx" U64 "packets" "from the server" "" |r| number(r.counters.sides[1].packets);
    "byte_tx" U64 "bytes" "Ethernet header, tags and IP packet: no FCS, no padding" "" |r| number(r.counters.sides[0].bytes);
    "byte_rx" U64 "bytes" "the same of the server" "" |r| number(r.counters.sides[1].bytes);
    "l3_byte_tx" U64 "bytes" "after the IP header" "" |r| number(r.counters.sides[0].l3_bytes);
    "l3_byte_rx" U64 "bytes" "the same of the server" "" |r| number(r.counters.sides[1].l3_bytes);
    "l4_byte_tx" U64 "bytes" "after the L4 header" "" |r| number(r.counters.sides[0].l4_bytes);
    "l4_byte_rx" U64 "bytes" "the same of the server" "" |r| number(r.counters.sides[1].l4_bytes);
    "new_flow" U32 "flows" "that began" "" |r| number(r.counters.new_flows);
    "closed_flow" U32 "flows" "that ended: after their timeout, when they fell silent" "" |r| number(r.counters.closed_flows);
    "flow_load" U32 "flows" "open at any time in the period; see below for seconds" "" |r| number(r.flow_load);
    "rtt_sum" U64 "us" "whole handshakes: first SYN to ACK" "no sample" |r| delay_sum(&r.counters.rtt);
    "rtt_count" U64 "samples" "how many of them" "" |r| number(r.counters.rtt.count);
    "rtt_max" U32 "us" "the largest of them" "no sample" |r| delay_max(&r.counters.rtt);
    "rtt_client_sum" U64 "us" "SYN-ACK to the client's ACK" "no sample" |r| delay_sum(&r.counters.perf.rtt_client);
    "rtt_client_count" U64 "samples" "how many of them" "" |r| number(r.counters.perf.rtt_client.count);
    "rtt_client_max" U32 "us" "the largest of them" "no sample" |r| delay_max(&r.counters.perf.rtt_client);
    "rtt_server_sum" U64 "us" "SYN to SYN-ACK" "no sample" |r| delay_sum(&r.counters.perf.rtt_server);
    "rtt_server_count" U64 "samples" "how many of them" "" |r| number(r.counters.perf.rtt_server.count);
    "rtt_server_max" U32 "us" "the largest of them" "no sample" |r| delay_max(&r.counters.perf.rtt_server);
    "srt_sum" U64 "us" "last request segment to the server's bare ACK" "no sample" |r| delay_sum(&r.counters.perf.srt);
    "srt_count" U64 "samples" "how many of them" "" |r| number(r.counters.perf.srt.count);
    "srt_max" U32 "us" "the largest of them" "no sample" |r| delay_max(&r.counters.perf.srt);
    "art_sum" U64 "us" "last request segment (or datagram) to the first of the response" "no sample" |r| delay_sum(&r.counters.perf.art);
    "art_count" U64 "samples" "how many of them" "" |r| number(r.counters.perf.art.count);
    "art_max" U32 "us" "the largest of them" "no sample" |r| delay_max(&r.counters.perf.art);
    "retrans_tx" U32 "packets" "retransmitted by the client, in the handshake too" "" |r| number(r.counters.perf.sides[0].retrans);
    "retrans_rx" U32 "packets" "retransmitted by the server" "" |r| number(r.counters.perf.sides[1].retrans);
    "retrans_byte_tx" U64 "bytes" "payload of them" "" |r| number(r.counters.perf.sides[0].retrans_bytes);
    "retrans_byte_rx" U64 "bytes" "payload of them" "" |r| number(r.counters.perf.sides[1].retrans_bytes);
    "zero_win_tx" U32 "packets" "from the client with a window of 0; RST left out" "" |r| number(r.counters.perf.sides[0].zero_win);
    "zero_win_rx" U32 "packets" "from the server with a window of 0" "" |r| number(r.counters.perf.sides[1].zero_win);
    "ooo_tx" U32 "packets" "from the client with data below data seen before, not seen itself" "" |r| number(r.counters.perf.sides[0].out_of_order);
    "ooo_rx" U32 "packets" "the same of the server" "" |r| number(r.counters.perf.sides[1].out_of_order);
    "syn_count" U32 "packets" "SYN without ACK, both sides" "" |r| number(r.counters.perf.sides[0].syn + r.counters.perf.sides[1].syn);
    "synack_count" U32 "packets" "SYN with ACK, both sides" "" |r| number(r.counters.perf.sides[0].syn_ack + r.counters.perf.sides[1].syn_ack);
    "fin_count" U32 "packets" "FIN, both sides" "" |r| number(r.counters.perf.sides[0].fin + r.counters.perf.sides[1].fin);
    "client_source_port_reuse" U32 "flows" "TCP, close type 13" "" |r| closed(r, CloseType::ClientSourcePortReuse);
    "client_syn_repeat" U32 "flows" "TCP, close type 7" "" |r| closed(r, CloseType::ClientSynRepeat);
    "client_establish_other_rst" U32 "flows" "TCP, close type 18" "" |r| closed(r, CloseType::ClientEstablishOtherRst);
    "server_reset" U32 "flows" "TCP, close type 15" "" |r| closed(r, CloseType::ServerReset);
    "server_syn_ack_repeat" U32 "flows" "TCP, close type 10" "" |r| closed(r, CloseType::ServerSynAckRepeat);
    "server_establish_other_rst" U32 "flows" "TCP, close type 19" "" |r| closed(r, CloseType::ServerEstablishOtherRst);
    "client_rst_flow" U32 "flows" "TCP, close type 9" "" |r| closed(r, CloseType::TcpClientRst);
    "server_queue_lack" U32 "flows" "TCP, close type 17" "" |r| closed(r, CloseType::ServerQueueLack);
    "server_rst_flow" U32 "flows" "TCP, close type 2" "" |r| closed(r, CloseType::TcpServerRst);
    "client_half_close_flow" U32 "flows" "TCP, close type 11" "" |r| closed(r, CloseType::ClientHalfClose);
    "server_half_close_flow" U32 "flows" "TCP, close type 8" "" |r| closed(r, CloseType::ServerHalfClose);
    "tcp_timeout" U32 "flows" "TCP, close type 3" "" |r| closed(r, CloseType::Timeout);
];

fn key(record: &MetricsRecord, read: fn(&MetricsKey) -> FieldValue<'static>) -> FieldValue<'static> {
    record.key.as_ref().map_or(FieldValue::Null, read)
}

fn closed(record: &MetricsRecord, close_type: CloseType) -> FieldValue<'static> {
    optional(record.counters.closes.get(usize::from(close_type.code())).copied())
}
