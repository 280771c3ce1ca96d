//! Which records go to which table, in which order, and how are their columns encoded?

use std::cmp::Ordering;

use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use sluice_model::fields::FieldKind;
use sluice_model::{CounterRecord, FlowRecord, MetricsRecord};

use super::encode::Form;
use super::stats::Table;

/// A record of a table.
pub(crate) trait Row: Clone + Send + 'static {
    /// What the rows of a row group are sorted by.
    type Key: Ord + Copy;

    /// When it was: this names its partition.
    fn time_us(&self) -> u64;

    /// Where it stands in its row group.
    fn key(&self) -> Self::Key;
}

impl Row for FlowRecord {
    type Key = (u64, u64);

    fn time_us(&self) -> u64 {
        self.start_ns / 1000
    }

    fn key(&self) -> Self::Key {
        (self.start_ns, self.flow_id)
    }
}

impl Row for MetricsRecord {
    type Key = (u32, Option<([u8; 16], [u8; 16])>);

    fn time_us(&self) -> u64 {
        u64::from(self.begin_s) * 1_000_000
    }

    fn key(&self) -> Self::Key {
        (
            self.begin_s,
            self.key.map(|key| {
                let [client, server] = key.addresses;
                (server, client)
            }),
        )
    }
}

impl Row for CounterRecord {
    type Key = u64;

    fn time_us(&self) -> u64 {
        self.time_ns / 1000
    }

    fn key(&self) -> Self::Key {
        self.time_ns
    }
}

/// The places of `rows` in the order of their keys; equal ones stay as they came.
pub(crate) fn order<R: Row>(rows: &[R]) -> Vec<(R::Key, u32)> {
    let mut order: Vec<_> = (0_u32..).zip(rows).map(|(place, row)| (row.key(), place)).collect();
    order.sort_unstable_by(|a, b| match a.0.cmp(&b.0) {
        Ordering::Equal => a.1.cmp(&b.1),
        other => other,
    });
    order
}

/// What the files of a table say of themselves.
pub(crate) fn properties(table: Table) -> WriterProperties {
    WriterProperties::builder()
        .set_created_by(concat!("sluice version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new("sluice.table".to_owned(), table.name().to_owned())]))
        .build()
}

/// How a column is written.
pub(crate) fn form(name: &str, kind: FieldKind) -> Form {
    let time = kind == FieldKind::Time;
    Form {
        filter: is_filter(name, kind),
        deltas: time || name == "flow_id",
        plain: matches!(name, "syn_seq" | "syn_ack_seq"),
        signed: time,
    }
}

/// Whether queries look for values of a column: each page says what is in it.
fn is_filter(name: &str, kind: FieldKind) -> bool {
    matches!(kind, FieldKind::Time | FieldKind::Ipv4 | FieldKind::Ipv6)
        || matches!(
            name,
            "protocol" | "client_port" | "server_port" | "flow_id" | "scope" | "name" | "metric"
        )
}
