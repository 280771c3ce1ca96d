//! Which records go to which table, in which order, and how are their columns encoded?

use std::cmp::Ordering;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sluice_model::fields::FieldKind;
use sluice_model::{CounterRecord, FlowRecord, MetricsRecord};

use super::columns::Columns;
use super::stats::Table;

/// Rows of a page: the least that a filter reads of a column.
const PAGE_ROWS: usize = 8192;
/// Bytes of distinct values of a column in a row group before it is written without dictionary.
const DICTIONARY_BYTES: usize = 2 << 20;

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

/// How the columns of a table are written.
pub(crate) fn properties<R: Clone>(
    table: Table,
    columns: &Columns<R>,
    group_rows: usize,
) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("sluice version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(group_rows))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(Some(vec![KeyValue::new(
            "sluice.table".to_owned(),
            table.name().to_owned(),
        )]));
    for field in columns.fields() {
        let path = ColumnPath::from(field.name);
        if is_filter(field.name, field.kind) {
            properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        if field.kind == FieldKind::Time || is_spread(field.name) {
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    properties.build()
}

/// Whether queries look for values of a column: each page says what is in it.
fn is_filter(name: &str, kind: FieldKind) -> bool {
    matches!(kind, FieldKind::Time | FieldKind::Ipv4 | FieldKind::Ipv6)
        || matches!(
            name,
            "protocol" | "client_port" | "server_port" | "flow_id" | "scope" | "name" | "metric"
        )
}

/// Whether nearly every record has another value: a dictionary would only be in the way.
fn is_spread(name: &str) -> bool {
    matches!(name, "flow_id" | "syn_seq" | "syn_ack_seq")
}
