//! The folder of Parquet files that records go to, and the thread that writes them.
//!
//! A row group takes a tenth of a second to encode, a full disk may take longer to answer: meanwhile another thread
//! empties the rings of the workers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Error, Result, anyhow};
use sluice_export::counters::CounterRows;
use sluice_export::parquet::{Condition, Now, ParquetSettings, ParquetSink, SinkStats, Table, WriteError};
use sluice_export::prometheus::EngineView;
use sluice_model::{CounterRecord, FlowRecord, MetricsRecord};

use crate::records::Written;

/// Records that are handed on together.
const BATCH: usize = 256;
/// Batches that wait for the thread: 32 MB. When there are more, records wait in the rings of the workers.
const QUEUE: usize = 256;
/// How often files that are due are ended.
const TICK: Duration = Duration::from_millis(100);

/// What the thread is to write.
enum Work {
    Flows(Vec<FlowRecord>),
    Metrics(Vec<MetricsRecord>),
    Counters(Vec<CounterRecord>),
}

/// The way to the thread, and the records that wait for their batch.
pub(crate) struct ParquetFolder {
    work: SyncSender<Work>,
    thread: JoinHandle<std::result::Result<(), WriteError>>,
    stats: Arc<SinkStats>,
    flows: Vec<FlowRecord>,
    metrics: Vec<MetricsRecord>,
    counters: CounterRows,
    /// Between rows of counters; `None` = there are none.
    interval: Option<Duration>,
    /// When the last rows were made.
    counted: Instant,
}

impl ParquetFolder {
    /// Takes over the folder, and starts the thread.
    pub(crate) fn open(settings: ParquetSettings) -> Result<Self> {
        let (folder, interval) = (settings.folder.clone(), settings.counters);
        let sink = ParquetSink::open(settings).context("cannot keep Parquet files")?;
        let stats = sink.stats();
        let (records, files) = (stats.crash_lost(), stats.crash_files());
        if records > 0 || files > 0 {
            let folder = folder.display();
            tracing::warn!(%folder, records, files, "the last run was killed: records are lost, files removed");
        }
        let (work, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("sluice-parquet".to_owned());
        let thread = thread.spawn(move || write(&receiver, sink));
        Ok(Self {
            work,
            thread: thread.context("cannot start the thread that writes Parquet files")?,
            stats,
            flows: Vec::with_capacity(BATCH),
            metrics: Vec::with_capacity(BATCH),
            counters: CounterRows::default(),
            interval,
            counted: Instant::now(),
        })
    }

    /// The counters of the sink, for any thread.
    pub(crate) fn stats(&self) -> Arc<SinkStats> {
        Arc::clone(&self.stats)
    }

    /// Gives the thread something to write; waits while it has too much. Fails only when the thread has ended, which
    /// its join tells.
    fn give(&self, work: Work) {
        drop(self.work.send(work));
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
        let rows = self.counters.rows(engine, Some(&self.stats.report()), time_ns, lasted);
        self.give(Work::Counters(rows));
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

    /// Gives the thread what waits.
    pub(crate) fn hand_on(&mut self) {
        if !self.flows.is_empty() {
            let flows = std::mem::replace(&mut self.flows, Vec::with_capacity(BATCH));
            self.give(Work::Flows(flows));
        }
        if !self.metrics.is_empty() {
            let metrics = std::mem::replace(&mut self.metrics, Vec::with_capacity(BATCH));
            self.give(Work::Metrics(metrics));
        }
    }

    /// Writes out everything, and says what arrived.
    pub(crate) fn close(mut self) -> Written {
        self.hand_on();
        drop(self.work);
        let failure = match self.thread.join() {
            Ok(result) => result.err().map(Error::from),
            Err(_) => Some(anyhow!("the thread that writes Parquet files panicked")),
        };
        let lost = |table| self.stats.table(table).lost;
        let (records_lost, metrics_lost) =
            (lost(Table::Flows), lost(Table::Metrics1s) + lost(Table::Metrics1m));
        let failure = failure.or_else(|| {
            (records_lost + metrics_lost > 0)
                .then(|| anyhow!("records could not be written to Parquet files"))
        });
        let failures = failure.into_iter().collect();
        Written { records_lost, metrics_lost, failures, parquet: Some(self.stats.report()) }
    }
}

/// Writes until there is nobody left who could have more.
fn write(receiver: &Receiver<Work>, mut sink: ParquetSink) -> std::result::Result<(), WriteError> {
    let mut condition = Condition::Writing;
    let mut ticked = Instant::now();
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(Work::Flows(records)) => sink.flows(&records, Now::read()),
            Ok(Work::Metrics(rows)) => sink.metrics(&rows, Now::read()),
            Ok(Work::Counters(rows)) => sink.counters(&rows, Now::read()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return sink.close(Now::read()),
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            sink.tick(Now::read());
            tell(&mut sink, &mut condition);
        }
    }
}

/// Logs when writing stops, and when it goes on.
fn tell(sink: &mut ParquetSink, condition: &mut Condition) {
    let failure = sink.take_failure();
    let now = sink.stats().condition();
    let before = std::mem::replace(condition, now);
    match failure {
        // A failure that is over within a round is told, too.
        Some(error) if before == Condition::Writing => {
            tracing::error!(%error, "export_failed: records are lost until they can be written again");
        }
        _ if before != Condition::Writing && now == Condition::Writing => {
            tracing::info!("export_failed is over: records are written again");
        }
        _ => {}
    }
}
