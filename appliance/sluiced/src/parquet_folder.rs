//! The folder of Parquet files that records go to.

use anyhow::{Context, Error, Result, anyhow};
use sluice_export::parquet::{Now, ParquetSettings, ParquetSink, Table};
use sluice_model::{FlowRecord, MetricsRecord};

use crate::records::Written;

/// Records that are handed on together.
const BATCH: usize = 256;

/// A sink, and the records that wait for their batch.
pub(crate) struct ParquetFolder {
    sink: ParquetSink,
    flows: Vec<FlowRecord>,
    metrics: Vec<MetricsRecord>,
}

impl ParquetFolder {
    /// Takes over the folder.
    pub(crate) fn open(settings: ParquetSettings) -> Result<Self> {
        let sink = ParquetSink::open(settings).context("cannot keep Parquet files")?;
        Ok(Self { sink, flows: Vec::with_capacity(BATCH), metrics: Vec::with_capacity(BATCH) })
    }

    pub(crate) fn flow(&mut self, record: &FlowRecord) {
        self.flows.push(*record);
        if self.flows.len() >= BATCH {
            self.hand_on();
        }
    }

    pub(crate) fn metrics(&mut self, row: &MetricsRecord) {
        self.metrics.push(*row);
        if self.metrics.len() >= BATCH {
            self.hand_on();
        }
    }

    /// Gives the sink what waits.
    pub(crate) fn hand_on(&mut self) {
        let now = Now::read();
        if !self.flows.is_empty() {
            self.sink.flows(&self.flows, now);
            self.flows.clear();
        }
        if !self.metrics.is_empty() {
            self.sink.metrics(&self.metrics, now);
            self.metrics.clear();
        }
    }

    /// Does what is due, and logs what went wrong.
    pub(crate) fn tick(&mut self) {
        self.hand_on();
        self.sink.tick(Now::read());
        if let Some(error) = self.sink.take_failure() {
            tracing::error!(%error, "records are lost until they can be written again");
        }
    }

    /// Writes out everything, and says what arrived.
    pub(crate) fn close(mut self) -> Written {
        self.hand_on();
        let stats = self.sink.stats();
        let failure = self.sink.close(Now::read()).err();
        let lost = |table| stats.table(table).lost;
        let (records_lost, metrics_lost) =
            (lost(Table::Flows), lost(Table::Metrics1s) + lost(Table::Metrics1m));
        let failure = failure.map(Error::from).or_else(|| {
            (records_lost + metrics_lost > 0)
                .then(|| anyhow!("records could not be written to Parquet files"))
        });
        Written { records_lost, metrics_lost, failures: failure.into_iter().collect() }
    }
}
