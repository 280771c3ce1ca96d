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
use sluice_export::parquet::{
    Condition, Now, OpenError, ParquetSettings, ParquetSink, SinkStats, Table, Waiting, WriteError,
};
use sluice_export::prometheus::EngineView;
use sluice_model::{CounterRecord, FlowRecord, MetricsRecord, Period};

use crate::records::Written;

/// Records that are handed on together.
const BATCH: usize = 256;
/// Batches that wait for the thread: 32 MB. When there are more, records wait in the rings of the workers.
const QUEUE: usize = 256;
/// How often files that are due are ended.
const TICK: Duration = Duration::from_millis(100);
/// How often a folder is tried that its disk did not take.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread is to write.
enum Work {
    Flows(Vec<FlowRecord>),
    Metrics(Vec<MetricsRecord>),
    Counters(Vec<CounterRecord>),
}

impl Work {
    fn records(&self) -> usize {
        match self {
            Self::Flows(records) => records.len(),
            Self::Metrics(rows) => rows.len(),
            Self::Counters(rows) => rows.len(),
        }
    }
}

/// The way to the thread, and the records that wait for their batch.
pub(crate) struct ParquetFolder {
    work: SyncSender<Work>,
    thread: JoinHandle<std::result::Result<(), WriteError>>,
    stats: Arc<SinkStats>,
    waiting: Arc<Waiting>,
    flows: Vec<FlowRecord>,
    metrics: Vec<MetricsRecord>,
    counters: CounterRows,
    /// Between rows of counters; `None` = there are none.
    interval: Option<Duration>,
    /// When the last rows were made.
    counted: Instant,
}

impl ParquetFolder {
    /// Takes over the folder, and starts the thread. A disk that cannot take it now is tried again, so that packets are
    /// forwarded meanwhile.
    pub(crate) fn open(settings: ParquetSettings) -> Result<Self> {
        let interval = settings.counters;
        let (stats, waiting) = (Arc::<SinkStats>::default(), Arc::<Waiting>::default());
        let folder = Folder { settings, stats: Arc::clone(&stats), waiting: Arc::clone(&waiting) };
        let sink = match folder.open() {
            Ok(sink) => Some(sink),
            Err(error) if !error.may_pass() => return Err(error).context("cannot keep Parquet files"),
            Err(error) => {
                let error = WriteError::from(error);
                tracing::error!(%error, "export_failed: records are lost until they can be written");
                stats.note_failure(&error);
                None
            }
        };
        let (work, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("sluice-parquet".to_owned());
        let thread = thread.spawn(move || write(&receiver, &folder, sink));
        Ok(Self {
            work,
            thread: thread.context("cannot start the thread that writes Parquet files")?,
            stats,
            waiting,
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
        self.waiting.set_out(work.records());
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

/// What the thread opens.
struct Folder {
    settings: ParquetSettings,
    stats: Arc<SinkStats>,
    waiting: Arc<Waiting>,
}

impl Folder {
    /// Takes it over, and tells what a killed run left.
    fn open(&self) -> std::result::Result<ParquetSink, OpenError> {
        let sink = ParquetSink::open_with(self.settings.clone(), Arc::clone(&self.stats), &self.waiting)?;
        let (records, files) = (self.stats.crash_lost(), self.stats.crash_files());
        if records > 0 || files > 0 {
            let folder = self.settings.folder.display();
            tracing::warn!(%folder, records, files, "the last run was killed: records are lost, files removed");
        }
        Ok(sink)
    }

    /// Counts what came while there is no sink.
    fn lose(&self, work: &Work) {
        match work {
            Work::Flows(records) => self.stats.lose(Table::Flows, records.len()),
            Work::Metrics(rows) => {
                let seconds = rows.iter().filter(|row| row.period == Period::Second).count();
                self.stats.lose(Table::Metrics1s, seconds);
                self.stats.lose(Table::Metrics1m, rows.len() - seconds);
            }
            Work::Counters(rows) => self.stats.lose(Table::Counters, rows.len()),
        }
    }
}

/// Writes until there is nobody left who could have more.
fn write(
    receiver: &Receiver<Work>,
    folder: &Folder,
    mut sink: Option<ParquetSink>,
) -> std::result::Result<(), WriteError> {
    let mut condition = folder.stats.condition();
    let (mut ticked, mut tried) = (Instant::now(), Instant::now());
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(work) => {
                match (&mut sink, &work) {
                    (Some(sink), Work::Flows(records)) => sink.flows(records, Now::read()),
                    (Some(sink), Work::Metrics(rows)) => sink.metrics(rows, Now::read()),
                    (Some(sink), Work::Counters(rows)) => sink.counters(rows, Now::read()),
                    (None, _) => folder.lose(&work),
                }
                folder.waiting.arrived(work.records());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return sink.map_or(Ok(()), |sink| sink.close(Now::read()));
            }
        }
        if ticked.elapsed() < TICK {
            continue;
        }
        ticked = Instant::now();
        match &mut sink {
            Some(sink) => {
                sink.tick(Now::read());
                tell(sink, &mut condition);
            }
            None if tried.elapsed() >= RETRY => {
                tried = Instant::now();
                match folder.open() {
                    Ok(opened) => sink = Some(opened),
                    Err(error) => folder.stats.note_failure(&error.into()),
                }
            }
            None => {}
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
