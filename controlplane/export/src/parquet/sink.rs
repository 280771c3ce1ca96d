//! The sink: batches of records in, a folder of Parquet files out.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluice_model::fields::{BASIC_FLOW_FIELDS, COUNTER_FIELDS, FLOW_FIELDS, METRICS_FIELDS};
use sluice_model::{ColumnProfile, CounterRecord, FlowRecord, MetricsRecord, Period};

use super::base::{Base, WriteError};
use super::encode::Encoder;
use super::journal::{Journal, JournalError, Slot};
use super::part::TableWriter;
use super::retention::Shelf;
use super::sample::Sampler;
use super::settings::{Now, ParquetSettings};
use super::stats::{Condition, SinkStats, Table, add};
use super::waiting::Waiting;

/// How long after a failure writing is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a sink cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another sink writes to the folder.
    #[error("{folder}: in use: another process writes its records there", folder = .0.display())]
    InUse(PathBuf),
    /// The folder cannot be made, or not be looked through.
    #[error("{path}: cannot keep Parquet files there: {source}", path = path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl OpenError {
    /// Whether the disk cannot take the folder now and may later: it is full, read-only, or fails. Everything else is
    /// for the operator to mend.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
            || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
    }
}

impl From<OpenError> for WriteError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::InUse(path) => Self::Io { path, source: io::ErrorKind::ResourceBusy.into() },
            OpenError::Io { path, source } => Self::Io { path, source },
        }
    }
}

/// Writes records to a folder of Parquet files.
///
/// Nothing that goes wrong later is an error of a call: records that cannot be written are counted, [`SinkStats`] says
/// why, and writing begins again when it can. Call [`ParquetSink::tick`] at least once a second.
pub struct ParquetSink {
    base: Base,
    flows: TableWriter<FlowRecord>,
    seconds: TableWriter<MetricsRecord>,
    minutes: TableWriter<MetricsRecord>,
    counters: TableWriter<CounterRecord>,
    sampler: Option<(Sampler<FlowRecord>, Slot)>,
    /// When writing is tried again, after a failure.
    retry: Option<Instant>,
}

impl std::fmt::Debug for ParquetSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetSink").field("settings", &self.base.settings).finish_non_exhaustive()
    }
}

impl ParquetSink {
    /// Takes over the folder: no other sink may write to it. Removes what a killed run left, and counts it.
    pub fn open(settings: ParquetSettings) -> Result<Self, OpenError> {
        Self::open_with(settings, Arc::default(), &Waiting::default())
    }

    /// As [`Self::open`], with counters that are there already, and with records that are on their way.
    pub fn open_with(
        mut settings: ParquetSettings,
        stats: Arc<SinkStats>,
        waiting: &Waiting,
    ) -> Result<Self, OpenError> {
        let path = settings.folder.clone();
        let failed = |source| OpenError::Io { path: path.clone(), source };
        fs::create_dir_all(&path).map_err(failed)?;
        let (mut journal, [lost, ever]) = Journal::open(&path).map_err(|error| match error {
            JournalError::InUse => OpenError::InUse(path.clone()),
            JournalError::Io(source) => failed(source),
        })?;
        let (shelf, unfinished) = Shelf::scan(&path).map_err(failed)?;
        stats.crash_lost_now.store(lost, Ordering::Relaxed);
        stats.crash_lost.store(ever, Ordering::Relaxed);
        add(&stats.crash_files, unfinished);
        stats.kept_bytes.store(shelf.bytes(), Ordering::Relaxed);
        let (first, last) = (*ParquetSettings::FLOW_CAPS.start(), *ParquetSettings::FLOW_CAPS.end());
        settings.flow_cap = settings.flow_cap.map(|cap| cap.clamp(first, last));
        let sampler = settings.flow_cap.map(|cap| (Sampler::new(cap), journal.slot()));
        let basic = settings.profile == ColumnProfile::Basic;
        let fields =
            FLOW_FIELDS.iter().filter(move |field| !basic || BASIC_FLOW_FIELDS.contains(&field.name));
        waiting.note_at(journal.file().map_err(failed)?, journal.slot());
        let schema = |error| failed(io::Error::other(error));
        let encoder = Encoder::new().map_err(failed)?;
        stats.set_condition(Condition::Writing);
        Ok(Self {
            flows: TableWriter::new(Table::Flows, fields).map_err(schema)?,
            seconds: TableWriter::new(Table::Metrics1s, METRICS_FIELDS.iter()).map_err(schema)?,
            minutes: TableWriter::new(Table::Metrics1m, METRICS_FIELDS.iter()).map_err(schema)?,
            counters: TableWriter::new(Table::Counters, COUNTER_FIELDS.iter()).map_err(schema)?,
            base: Base { settings, journal, shelf, encoder, stats, failure: None, sequence: 0 },
            sampler,
            retry: None,
        })
    }

    /// The counters, for any thread.
    #[must_use]
    pub fn stats(&self) -> Arc<SinkStats> {
        Arc::clone(&self.base.stats)
    }

    /// What went wrong last; `None` when it was asked before, or nothing did.
    pub fn take_failure(&mut self) -> Option<WriteError> {
        self.base.failure.take()
    }

    /// Takes flow records.
    pub fn flows(&mut self, records: &[FlowRecord], now: Now) {
        if !ready(&self.base, self.retry, Table::Flows, records.len()) {
            return;
        }
        let Some((sampler, slot)) = &mut self.sampler else {
            self.flows.write(&mut self.base, records, now);
            return self.settle(now);
        };
        if sampler.is_due(now.at) {
            let came = came(sampler, now);
            let kept = sampler.take();
            self.flows.write(&mut self.base, &kept, came);
            sampler.give_back(kept);
        }
        let left_out = sampler.offer(records, now.at);
        let counters = self.base.stats.of(Table::Flows);
        add(&counters.sampled_out, left_out);
        super::stats::subtract(&counters.pending, left_out);
        let target = std::path::Path::new("-");
        if let Err(error) = self.base.journal.note(*slot, sampler.held(), target) {
            let lost = sampler.take().len();
            let folder = self.base.settings.folder.clone();
            self.base.lose(Table::Flows, lost, WriteError::io(&folder)(error));
        }
        self.settle(now);
    }

    /// Takes metrics of seconds and minutes.
    pub fn metrics(&mut self, records: &[MetricsRecord], now: Now) {
        for run in records.chunk_by(|a, b| a.period == b.period) {
            let second = run.first().is_some_and(|record| record.period == Period::Second);
            let (table, writer) = if second {
                (Table::Metrics1s, &mut self.seconds)
            } else {
                (Table::Metrics1m, &mut self.minutes)
            };
            if ready(&self.base, self.retry, table, run.len()) {
                writer.write(&mut self.base, run, now);
            }
        }
        self.settle(now);
    }

    /// Takes counters.
    pub fn counters(&mut self, records: &[CounterRecord], now: Now) {
        if ready(&self.base, self.retry, Table::Counters, records.len()) {
            self.counters.write(&mut self.base, records, now);
            self.settle(now);
        }
    }

    /// Does what is due: ends samples and files, removes old files, tries again after a failure.
    pub fn tick(&mut self, now: Now) {
        if self.retry.is_some_and(|at| now.at >= at) {
            match self.probe() {
                Ok(()) => {
                    self.retry = None;
                    self.base.stats.set_condition(Condition::Writing);
                }
                Err(error) => {
                    self.base.stats.note_failure(&error);
                    self.retry = Some(now.at + RETRY);
                }
            }
        }
        if self.sampler.as_ref().is_some_and(|(sampler, _)| sampler.is_due(now.at)) {
            self.end_sample(now);
        }
        self.flows.finish_due(&mut self.base, now);
        self.seconds.finish_due(&mut self.base, now);
        self.minutes.finish_due(&mut self.base, now);
        self.counters.finish_due(&mut self.base, now);
        let ParquetSettings { folder, keep, keep_bytes, .. } = &self.base.settings;
        let removed = self.base.shelf.retain(folder, now, *keep, *keep_bytes);
        add(&self.base.stats.removed_files, removed.files);
        add(&self.base.stats.remove_errors, removed.refused);
        self.base.stats.removed_bytes.fetch_add(removed.bytes, Ordering::Relaxed);
        self.base.stats.kept_bytes.store(self.base.shelf.bytes(), Ordering::Relaxed);
        self.settle(now);
    }

    /// Writes out everything. Fails with what went wrong last, unless [`ParquetSink::take_failure`] told it before.
    pub fn close(mut self, now: Now) -> Result<(), WriteError> {
        self.end_sample(now);
        self.flows.finish_all(&mut self.base);
        self.seconds.finish_all(&mut self.base);
        self.minutes.finish_all(&mut self.base);
        self.counters.finish_all(&mut self.base);
        self.base.stats.kept_bytes.store(self.base.shelf.bytes(), Ordering::Relaxed);
        self.base.failure.map_or(Ok(()), Err)
    }

    /// Writes what the sample holds.
    fn end_sample(&mut self, now: Now) {
        let Some((sampler, slot)) = &mut self.sampler else { return };
        let came = came(sampler, now);
        let kept = sampler.take();
        self.flows.write(&mut self.base, &kept, came);
        sampler.give_back(kept);
        // When it fails, the next start counts these records twice: too many, never too few.
        drop(self.base.journal.note(*slot, 0, std::path::Path::new("-")));
    }

    /// After a failure: when to try again.
    fn settle(&mut self, now: Now) {
        if self.retry.is_none() && self.base.stats.condition() != Condition::Writing {
            self.retry = Some(now.at + RETRY);
        }
    }

    /// Whether a file can be written.
    fn probe(&self) -> Result<(), WriteError> {
        self.base.check_space()?;
        let path = self.base.settings.folder.join(".sluice-probe");
        let written = File::create(&path).and_then(|file| {
            use std::io::Write as _;
            (&file).write_all(&[0; 4096])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&path);
        written.and(removed).map_err(WriteError::io(&path))
    }
}

/// When the first record of the sample came: the time in the sample is part of the flush interval.
fn came(sampler: &Sampler<FlowRecord>, now: Now) -> Now {
    Now { at: sampler.begin().unwrap_or(now.at), ..now }
}

/// Counts records that come, and says whether they can be taken.
fn ready(base: &Base, retry: Option<Instant>, table: Table, records: usize) -> bool {
    let counters = base.stats.of(table);
    add(&counters.taken, records);
    if retry.is_some() {
        add(&counters.lost, records);
        return false;
    }
    add(&counters.pending, records);
    true
}
