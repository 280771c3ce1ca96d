//! The folder of Parquet files that records go to.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Error, Result, anyhow};
use sluice_export::counters::CounterRows;
use sluice_export::parquet::{Condition, Now, ParquetSettings, ParquetSink, SinkStats, Table};
use sluice_export::prometheus::EngineView;
use sluice_model::{FlowRecord, MetricsRecord};

use crate::records::Written;

/// Records that are handed on together.
const BATCH: usize = 256;

/// A sink, and the records that wait for their batch.
pub(crate) struct ParquetFolder {
    sink: ParquetSink,
    flows: Vec<FlowRecord>,
    metrics: Vec<MetricsRecord>,
    counters: CounterRows,
    /// Between rows of counters; `None` = there are none.
    interval: Option<Duration>,
    /// When the last rows were made.
    counted: Instant,
    condition: Condition,
}

impl ParquetFolder {
    /// Takes over the folder.
    pub(crate) fn open(settings: ParquetSettings) -> Result<Self> {
        let (folder, interval) = (settings.folder.clone(), settings.counters);
        let sink = ParquetSink::open(settings).context("cannot keep Parquet files")?;
        let stats = sink.stats();
        let (records, files) = (stats.crash_lost(), stats.crash_files());
        if records > 0 || files > 0 {
            let folder = folder.display();
            tracing::warn!(%folder, records, files, "the last run was killed: records are lost, files removed");
        }
        Ok(Self {
            sink,
            flows: Vec::with_capacity(BATCH),
            metrics: Vec::with_capacity(BATCH),
            counters: CounterRows::default(),
            interval,
            counted: Instant::now(),
            condition: Condition::Writing,
        })
    }

    /// The counters of the sink, for any thread.
    pub(crate) fn stats(&self) -> Arc<SinkStats> {
        self.sink.stats()
    }

    /// Whether counters are due.
    pub(crate) fn wants_counters(&self) -> bool {
        self.interval.is_some_and(|interval| self.counted.elapsed() >= interval)
    }

    /// Takes what all counters say.
    pub(crate) fn counters(&mut self, engine: &EngineView) {
        if self.interval.is_none() {
            return;
        }
        let lasted = std::mem::replace(&mut self.counted, Instant::now()).elapsed();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let report = self.sink.stats().report();
        let rows = self.counters.rows(engine, Some(&report), time_ns, lasted);
        self.sink.counters(&rows, Now::read());
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

    /// Does what is due, and logs when writing stops, and when it goes on.
    pub(crate) fn tick(&mut self) {
        self.hand_on();
        self.sink.tick(Now::read());
        let failure = self.sink.take_failure();
        let condition = self.sink.stats().condition();
        let before = std::mem::replace(&mut self.condition, condition);
        match failure {
            // A failure that is over within a round is told, too.
            Some(error) if before == Condition::Writing => {
                tracing::error!(%error, "export_failed: records are lost until they can be written again");
            }
            _ if before != Condition::Writing && condition == Condition::Writing => {
                tracing::info!("export_failed is over: records are written again");
            }
            _ => {}
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
        let failures = failure.into_iter().collect();
        Written { records_lost, metrics_lost, failures, parquet: Some(stats.report()) }
    }
}
