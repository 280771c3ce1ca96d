//! What do the writers of all tables share: the folder, its journal and shelf, the counters, and the way errors go.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::errors::ParquetError;

use super::encode::Encoder;
use super::journal::Journal;
use super::place::{Hour, WHOLE_END};
use super::retention::Shelf;
use super::settings::{Now, ParquetSettings};
use super::stats::{Condition, SinkStats, Table, add, subtract};

/// Why records could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Less space is left than is to be kept free.
    #[error("{folder}: {free} bytes are left in the file system, {reserve} are kept free", folder = folder.display())]
    Reserve {
        /// The folder of the sink.
        folder: PathBuf,
        /// Bytes that are left.
        free: u64,
        /// [`ParquetSettings::reserve_bytes`].
        reserve: u64,
    },
    /// The file system refused.
    #[error("{path}: cannot write: {source}", path = path.display())]
    Io {
        /// What was written.
        path: PathBuf,
        /// Why it was refused.
        source: io::Error,
    },
    /// The records could not be encoded, or their file could not be written.
    #[error("{path}: cannot write: {source}", path = path.display())]
    Parquet {
        /// What was written.
        path: PathBuf,
        /// Why it was refused.
        source: ParquetError,
    },
}

impl WriteError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn parquet(path: &Path) -> impl FnOnce(ParquetError) -> Self {
        |source| Self::Parquet { path: path.to_owned(), source }
    }

    /// What it means for the sink.
    pub(crate) fn condition(&self) -> Condition {
        let full = |error: &io::Error| {
            use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
            matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
        };
        let full = match self {
            Self::Reserve { .. } => true,
            Self::Io { source, .. } => full(source),
            Self::Parquet { source: ParquetError::External(source), .. } => {
                source.downcast_ref::<io::Error>().is_some_and(full)
            }
            Self::Parquet { .. } => false,
        };
        if full { Condition::NoSpace } else { Condition::Failing }
    }
}

/// What the writers share.
pub(crate) struct Base {
    pub(crate) settings: ParquetSettings,
    pub(crate) journal: Journal,
    pub(crate) shelf: Shelf,
    pub(crate) encoder: Encoder,
    pub(crate) stats: Arc<SinkStats>,
    /// What went wrong last.
    pub(crate) failure: Option<WriteError>,
    /// Files that were begun.
    pub(crate) sequence: u64,
}

impl Base {
    /// A name that no file has, below the folder.
    pub(crate) fn target(&mut self, table: Table, hour: Hour, now: Now) -> PathBuf {
        loop {
            self.sequence += 1;
            let name = format!("{}-{}-{:06}{WHOLE_END}", table.name(), now.wall_us(), self.sequence);
            let target = hour.folder(table).join(name);
            if !self.settings.folder.join(&target).exists() {
                return target;
            }
        }
    }

    /// Fails when less space is left than is to be kept free.
    pub(crate) fn check_space(&self) -> Result<(), WriteError> {
        let folder = &self.settings.folder;
        let found = rustix::fs::statvfs(folder).map_err(|error| WriteError::io(folder)(error.into()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let reserve = self.settings.reserve_bytes;
        if free < reserve {
            return Err(WriteError::Reserve { folder: folder.clone(), free, reserve });
        }
        Ok(())
    }

    /// Counts records that cannot be written, and notes why.
    pub(crate) fn lose(&mut self, table: Table, rows: usize, error: WriteError) {
        self.stats.note_failure(&error);
        self.failure = Some(error);
        self.count_lost(table, rows);
    }

    /// Counts records that cannot be written.
    pub(crate) fn count_lost(&self, table: Table, rows: usize) {
        let counters = self.stats.of(table);
        subtract(&counters.pending, rows);
        add(&counters.lost, rows);
    }
}
