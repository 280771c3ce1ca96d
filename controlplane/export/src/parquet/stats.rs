//! What became of every record?

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

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

/// Counters of a sink, for any thread (sink: w, all: r). Each is exact; together they are when the sink rests.
#[derive(Debug, Default)]
pub struct SinkStats {
    pub(crate) tables: [TableCounters; Table::ALL.len()],
    pub(crate) condition: AtomicU8,
    pub(crate) exceptions: AtomicU64,
    pub(crate) crash_lost: AtomicU64,
    pub(crate) crash_files: AtomicU64,
    pub(crate) removed_files: AtomicU64,
    pub(crate) removed_bytes: AtomicU64,
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

    /// Records that the run before took and did not bring into a whole file: it was killed.
    #[must_use]
    pub fn crash_lost(&self) -> u64 {
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
