//! Which columns do flow records, metrics and counters have, by name, and how do they become JSON lines?
//!
//! The list of fields is the one place that names them: the JSON lines, the columns of Parquet files and the tables of
//! docs/flow-records.md come from it. Times are microseconds since the epoch, delays microseconds, both cut to whole ones. A value that was not
//! measured, or that does not exist for this protocol, is `null`: it is never 0.

mod counters;
mod flow;
mod metrics;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

pub use counters::COUNTER_FIELDS;
pub use flow::{BASIC_FLOW_FIELDS, FLOW_FIELDS};
pub use metrics::METRICS_FIELDS;

use crate::{Delay, MacAddr, Network};

/// A value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// Not measured, or not there.
    Null,
    /// A number.
    Number(u64),
    /// An Ethernet address.
    Mac(MacAddr),
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A name out of a fixed list: it needs no escapes.
    Name(&'static str),
    /// Any text.
    Text(&'a str),
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A number below 2^8.
    U8,
    /// A number below 2^16.
    U16,
    /// A number below 2^32.
    U32,
    /// A number below 2^64.
    U64,
    /// A point in time: whole microseconds since the epoch.
    Time,
    /// An Ethernet address.
    Mac,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// Text.
    Text,
}

impl FieldKind {
    /// Its name in docs/flow-records.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::Time => "time",
            Self::Mac => "mac",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Text => "text",
        }
    }
}

/// One column of a record.
#[derive(Clone, Copy, Debug)]
pub struct Field<R: 'static> {
    /// Its name.
    pub name: &'static str,
    /// Its type: numbers and times are JSON numbers, the others are JSON text.
    pub kind: FieldKind,
    /// Its unit; empty when it has none.
    pub unit: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// When it is null; empty = never.
    pub null: &'static str,
    /// How to read it off a record.
    pub value: fn(&R) -> FieldValue<'_>,
}

/// Appends `record` as one line of JSON, with all `fields` in their order.
pub fn write_json_line<R>(fields: &[Field<R>], record: &R, out: &mut String) {
    let mut separator = '{';
    for field in fields {
        out.push(separator);
        separator = ',';
        out.push('"');
        out.push_str(field.name);
        out.push_str("\":");
        // Writing to a string cannot fail.
        let _written = match (field.value)(record) {
            FieldValue::Null => write!(out, "null"),
            FieldValue::Number(number) => write!(out, "{number}"),
            FieldValue::Mac(mac) => write!(out, "\"{mac}\""),
            FieldValue::Ipv4(address) => write!(out, "\"{address}\""),
            FieldValue::Ipv6(address) => write!(out, "\"{address}\""),
            FieldValue::Name(name) => write!(out, "\"{name}\""),
            FieldValue::Text(text) => write_json_text(text, out),
        };
    }
    out.push_str("}\n");
}

/// Appends `text` in quotes, escaped (RFC 8259, section 7).
fn write_json_text(text: &str, out: &mut String) -> std::fmt::Result {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\0'..='\x1f' => write!(out, "\\u{:04x}", u32::from(character))?,
            _ => out.push(character),
        }
    }
    out.push('"');
    Ok(())
}

/// The fields as a table for docs/flow-records.md.
#[must_use]
pub fn markdown_table<R>(fields: &[Field<R>]) -> String {
    let mut table =
        String::from("| field | type | unit | meaning | null |\n| --- | --- | --- | --- | --- |\n");
    for Field { name, kind, unit, meaning, null, .. } in fields {
        let null = if null.is_empty() { "never" } else { null };
        let kind = kind.name();
        let _written = writeln!(table, "| `{name}` | {kind} | {unit} | {meaning} | {null} |");
    }
    table
}

/// A table of fields: name, type, unit, meaning, when null, and an expression that reads it.
macro_rules! fields {
    ($record:ty: $($name:literal $kind:ident $unit:literal $meaning:literal $null:literal $value:expr;)*) => {
        &[$($crate::fields::Field::<$record> {
            name: $name,
            kind: $crate::fields::FieldKind::$kind,
            unit: $unit,
            meaning: $meaning,
            null: $null,
            value: $value,
        }),*]
    };
}
use fields;

fn number(value: impl Into<u64>) -> FieldValue<'static> {
    FieldValue::Number(value.into())
}

fn optional(value: Option<impl Into<u64>>) -> FieldValue<'static> {
    value.map_or(FieldValue::Null, number)
}

/// A number of which 0 says that there is none.
fn nonzero(value: impl Into<u64>) -> FieldValue<'static> {
    let value = value.into();
    if value == 0 { FieldValue::Null } else { FieldValue::Number(value) }
}

/// Nanoseconds as microseconds.
fn micros(value_ns: u64) -> FieldValue<'static> {
    FieldValue::Number(value_ns / 1000)
}

fn delay_sum(delay: &Delay) -> FieldValue<'static> {
    if delay.count == 0 { FieldValue::Null } else { micros(delay.sum_ns) }
}

fn delay_max(delay: &Delay) -> FieldValue<'static> {
    if delay.count == 0 { FieldValue::Null } else { micros(delay.max_ns) }
}

fn ipv4(network: Network, address: &[u8; 16]) -> FieldValue<'static> {
    let [a, b, c, d, ..] = *address;
    match network {
        Network::Ipv4 => FieldValue::Ipv4(Ipv4Addr::new(a, b, c, d)),
        Network::Ipv6 | Network::None => FieldValue::Null,
    }
}

fn ipv6(network: Network, address: &[u8; 16]) -> FieldValue<'static> {
    match network {
        Network::Ipv6 => FieldValue::Ipv6(Ipv6Addr::from(*address)),
        Network::Ipv4 | Network::None => FieldValue::Null,
    }
}

fn is_ipv4(network: Network) -> FieldValue<'static> {
    match network {
        Network::None => FieldValue::Null,
        Network::Ipv4 => FieldValue::Number(1),
        Network::Ipv6 => FieldValue::Number(0),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;
    use crate::{
        CounterRecord, CounterScope, FlowRecord, MetricsKey, MetricsRecord, SidePerf, TunnelRecord,
        TunnelType,
    };

    fn line<R>(fields: &[Field<R>], record: &R) -> Value {
        let mut line = String::new();
        write_json_line(fields, record, &mut line);
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = FLOW_FIELDS.iter().map(|field| field.name).collect();
        assert_eq!(names.len(), FLOW_FIELDS.len());
        let names: HashSet<_> = METRICS_FIELDS.iter().map(|field| field.name).collect();
        assert_eq!(names.len(), METRICS_FIELDS.len());
        let names: HashSet<_> = COUNTER_FIELDS.iter().map(|field| field.name).collect();
        assert_eq!(names.len(), COUNTER_FIELDS.len());
    }

    #[test]
    fn the_basic_columns_are_columns_in_their_order() {
        let all: Vec<_> = FLOW_FIELDS.iter().map(|field| field.name).collect();
        let places = BASIC_FLOW_FIELDS.map(|name| all.iter().position(|known| *known == name).unwrap());
        assert!(places.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn any_text_is_escaped() {
        let name = "a\"b\\c\n\u{1f}ü";
        let record = CounterRecord {
            time_ns: 1_700_000_000_123_456_789,
            interval_ms: 1000,
            scope: CounterScope::Port,
            name: name.into(),
            metric: "rx_packets".into(),
            value: 7,
            total: None,
        };
        let line = line(COUNTER_FIELDS, &record);
        assert_eq!((&line["name"], &line["scope"]), (&name.into(), &"port".into()));
        assert_eq!((&line["time"], &line["total"]), (&1_700_000_000_123_456_u64.into(), &Value::Null));
    }

    #[test]
    fn what_is_not_there_is_null() {
        let flow = line(FLOW_FIELDS, &FlowRecord::default());
        for name in ["ip4_0", "ip6_1", "is_ipv4", "client_port", "tunnel_type", "tunnel_tx_id", "rtt"] {
            assert_eq!(flow[name], Value::Null, "{name}");
        }
        for name in ["srt_sum", "srt_max", "art_sum", "rtt_client_sum", "syn_seq", "tcp_flags_bit_0"] {
            assert_eq!(flow[name], Value::Null, "{name}");
        }
        for name in ["packet_tx", "srt_count", "retrans_rx", "vlan", "tunnel_tier", "duration"] {
            assert_eq!(flow[name], 0, "{name}");
        }
        let metrics = line(METRICS_FIELDS, &MetricsRecord::default());
        assert_eq!(metrics["is_other"], 1);
        assert_eq!(metrics["protocol"], Value::Null);
        assert_eq!(metrics["rtt_max"], Value::Null);
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let mut outer = [[0; 16]; 2];
        outer[0][..4].copy_from_slice(&[192, 0, 2, 7]);
        outer[1][..4].copy_from_slice(&[192, 0, 2, 8]);
        let mut record = FlowRecord {
            start_ns: 1_700_000_000_123_456_789,
            network: Network::Ipv6,
            macs: [MacAddr([2, 0, 0, 0, 0, 0xab]), MacAddr::default()],
            protocol: 6,
            ports: Some([40_000, 0]),
            ..FlowRecord::default()
        };
        record.addresses[0] = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets();
        let kind = TunnelType::Vxlan;
        record.tunnels[1] = Some(TunnelRecord { kind, tier: 2, id: 77, ipv4: true, addresses: outer });
        record.perf.srt.add(2_500, 1_000_000);
        record.perf.sides[1] = SidePerf { retrans: 3, syn_ack: 2, ..SidePerf::default() };
        let line = line(FLOW_FIELDS, &record);
        assert_eq!(line["mac_0"], "02:00:00:00:00:ab");
        assert_eq!(line["ip6_0"], "2001:db8::1");
        assert_eq!(line["ip4_0"], Value::Null);
        assert_eq!(line["is_ipv4"], 0);
        assert_eq!(line["start_time"], 1_700_000_000_123_456_u64);
        assert_eq!(line["server_port"], 0);
        assert_eq!(line["tunnel_type"], 1);
        assert_eq!(line["tunnel_tier"], 2);
        assert_eq!(line["tunnel_tx_ip4_0"], Value::Null);
        assert_eq!(line["tunnel_rx_id"], 77);
        assert_eq!(line["tunnel_rx_ip4_1"], "192.0.2.8");
        assert_eq!(line["tunnel_rx_ip6_1"], Value::Null);
        assert_eq!(line["srt_sum"], 2);
        assert_eq!(line["srt_count"], 1);
        assert_eq!((&line["retrans_rx"], &line["synack_count"]), (&3.into(), &2.into()));
        assert_eq!(line["tap_side"], "rest");
    }

    #[test]
    fn metrics_name_their_key() {
        let mut record =
            MetricsRecord { begin_s: 60, key: Some(MetricsKey::default()), ..Default::default() };
        record.counters.closes[7] = 4;
        let line = line(METRICS_FIELDS, &record);
        assert_eq!(line["time"], 60_000_000);
        assert_eq!(line["interval"], 1);
        assert_eq!(line["protocol"], 0);
        assert_eq!(line["client_syn_repeat"], 4);
    }
}
