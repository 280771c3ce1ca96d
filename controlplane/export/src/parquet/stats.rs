//! What became of every record?

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the tables")]
pub enum Table {
    Flows,
    Metrics1s,
    Metrics1m,
    Counters,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Flows, Self::Metrics1s, Self::Metrics1m, Self::Counters];

    /// The name in paths and queries.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Metrics1s => "metrics_1s",
            Self::Metrics1m => "metrics_1m",
            Self::Counters => "counters",
        }
    }
}

/// Whether records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Condition {
    /// They are.
    #[default]
    Writing = 0,
    /// The file system is full, or nearly: they are counted as lost until there is room.
    NoSpace = 1,
    /// Writing failed: they are counted as lost until it works again.
    Failing = 2,
}

impl Condition {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::NoSpace => "no_space",
            Self::Failing => "failing",
        }
    }
}

/// What became of the records of one table: `taken = written + sampled_out + lost + pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Records that the sink was given.
    pub taken: u64,
    /// Records in whole files.
    pub written: u64,
    /// Records above the cap, left out by the sampling.
    pub sampled_out: u64,
    /// Records that could not be written.
    pub lost: u64,
    /// Records that wait for their file to be whole.
    pub pending: u64,
    /// Whole files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// All that a sink counted, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkReport {
    /// By table, in the order of [`Table::ALL`].
    pub tables: [TableStats; Table::ALL.len()],
    /// Whether records are written.
    pub condition: Condition,
    /// How often writing stopped.
    pub exceptions: u64,
    /// Attempts to write that failed.
    pub write_errors: u64,
    /// Records that killed runs took and did not bring into whole files, since the folder was made.
    pub crash_lost: u64,
    /// Unfinished files that were found at the start, and removed.
    pub crash_files: u64,
    /// Files removed for their age, or for the size of all.
    pub removed_files: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Attempts to remove a file that failed.
    pub remove_errors: u64,
    /// Bytes of all whole files in the folder.
    pub kept_bytes: u64,
}

impl SinkReport {
    /// The tables by name.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, &TableStats)> {
        Table::ALL.into_iter().map(Table::name).zip(&self.tables)
    }
}

/// Counters of a sink, for any thread (sink: w, all: r). Each is exact; together they are when the sink rests.
#[derive(Debug, Default)]
pub struct SinkStats {
    pub(crate) tables: [TableCounters; Table::ALL.len()],
    pub(crate) condition: AtomicU8,
    pub(crate) exceptions: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    /// Why writing stopped; kept when it goes on.
    pub(crate) failure: Mutex<Option<String>>,
    pub(crate) crash_lost_now: AtomicU64,
    pub(crate) crash_lost: AtomicU64,
    pub(crate) crash_files: AtomicU64,
    pub(crate) removed_files: AtomicU64,
    pub(crate) removed_bytes: AtomicU64,
    pub(crate) remove_errors: AtomicU64,
    pub(crate) kept_bytes: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct TableCounters {
    pub(crate) taken: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) sampled_out: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) pending: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Takes from a counter.
pub(crate) fn subtract(counter: &AtomicU64, count: usize) {
    counter.fetch_sub(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl SinkStats {
    /// What became of the records of `table`.
    #[must_use]
    pub fn table(&self, table: Table) -> TableStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = self.of(table);
        TableStats {
            taken: read(&counters.taken),
            written: read(&counters.written),
            sampled_out: read(&counters.sampled_out),
            lost: read(&counters.lost),
            pending: read(&counters.pending),
            files: read(&counters.files),
            bytes: read(&counters.bytes),
        }
    }

    pub(crate) fn of(&self, table: Table) -> &TableCounters {
        let [flows, seconds, minutes, counters] = &self.tables;
        match table {
            Table::Flows => flows,
            Table::Metrics1s => seconds,
            Table::Metrics1m => minutes,
            Table::Counters => counters,
        }
    }

    /// Whether records are written.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match self.condition.load(Ordering::Relaxed) {
            0 => Condition::Writing,
            1 => Condition::NoSpace,
            _ => Condition::Failing,
        }
    }

    /// Everything at this moment.
    #[must_use]
    pub fn report(&self) -> SinkReport {
        let (removed_files, removed_bytes) = self.removed();
        SinkReport {
            tables: Table::ALL.map(|table| self.table(table)),
            condition: self.condition(),
            exceptions: self.exceptions(),
            write_errors: self.write_errors(),
            crash_lost: self.crash_lost_ever(),
            crash_files: self.crash_files(),
            removed_files,
            removed_bytes,
            remove_errors: self.remove_errors.load(Ordering::Relaxed),
            kept_bytes: self.kept_bytes(),
        }
    }

    /// Why nothing is written at the moment; `None` = records are written.
    #[must_use]
    pub fn exception(&self) -> Option<String> {
        if self.condition() == Condition::Writing {
            return None;
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts records that came while there was no sink to take them.
    pub fn lose(&self, table: Table, records: usize) {
        let counters = self.of(table);
        add(&counters.taken, records);
        add(&counters.lost, records);
    }

    /// Notes a failure; [`Self::exception`] tells it as long as nothing is written.
    pub fn note_failure(&self, error: &super::WriteError) {
        add(&self.write_errors, 1);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        self.set_condition(error.condition());
    }

    pub(crate) fn set_condition(&self, condition: Condition) {
        if self.condition.swap(condition as u8, Ordering::Relaxed) == 0 && condition != Condition::Writing {
            add(&self.exceptions, 1);
        }
    }

    /// How often writing stopped.
    #[must_use]
    pub fn exceptions(&self) -> u64 {
        self.exceptions.load(Ordering::Relaxed)
    }

    /// Attempts to write that failed.
    #[must_use]
    pub fn write_errors(&self) -> u64 {
        self.write_errors.load(Ordering::Relaxed)
    }

    /// Records that the run before took and did not bring into a whole file: it was killed.
    #[must_use]
    pub fn crash_lost(&self) -> u64 {
        self.crash_lost_now.load(Ordering::Relaxed)
    }

    /// Such records of all runs since the folder was made.
    #[must_use]
    pub fn crash_lost_ever(&self) -> u64 {
        self.crash_lost.load(Ordering::Relaxed)
    }

    /// Unfinished files that were found at the start, and removed.
    #[must_use]
    pub fn crash_files(&self) -> u64 {
        self.crash_files.load(Ordering::Relaxed)
    }

    /// Files removed for their age or for the total size, and their bytes.
    #[must_use]
    pub fn removed(&self) -> (u64, u64) {
        (self.removed_files.load(Ordering::Relaxed), self.removed_bytes.load(Ordering::Relaxed))
    }

    /// Bytes of all whole files in the folder.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes.load(Ordering::Relaxed)
    }
}
