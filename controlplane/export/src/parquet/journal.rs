//! How many records are not in a whole file yet?
//!
//! A file with one line of fixed length for each file that is not whole: the number of its records and its name. A line
//! is written by one small write at its place, which a killed process has made or has not. The start after a crash adds
//! up the lines whose files are not there.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The name of the file in the folder of the sink.
pub(crate) const NAME: &str = ".sluice";
/// Bytes of a line.
const LINE_BYTES: usize = 256;
/// The most lines that are read.
const MAX_LINES: usize = 256;

/// The file, locked.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    used: Vec<bool>,
}

/// Why there is no journal.
#[derive(Debug)]
pub(crate) enum JournalError {
    InUse,
    Io(io::Error),
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

impl Journal {
    /// Locks the folder; says how many records a run before took and did not bring into whole files.
    pub(crate) fn open(folder: &Path) -> Result<(Self, u64), JournalError> {
        let path = folder.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::InUse,
            TryLockError::Error(error) => JournalError::Io(error),
        })?;
        let mut lines = Vec::new();
        let most = u64::try_from(LINE_BYTES * MAX_LINES).unwrap_or(u64::MAX);
        (&file).take(most).read_to_end(&mut lines)?;
        let lost = lines.chunks(LINE_BYTES).filter_map(|line| missing(line, folder)).sum();
        file.set_len(0)?;
        Ok((Self { file, used: Vec::new() }, lost))
    }

    /// A line that is free.
    pub(crate) fn slot(&mut self) -> Slot {
        let slot = self.used.iter().position(|used| !used).unwrap_or(self.used.len());
        match self.used.get_mut(slot) {
            Some(used) => *used = true,
            None => self.used.push(true),
        }
        Slot(slot)
    }

    /// `rows` records go to `target`, below the folder, and are not in it yet.
    pub(crate) fn note(&self, slot: Slot, rows: usize, target: &Path) -> io::Result<()> {
        let mut line = format!("{rows} {}", target.display()).into_bytes();
        line.resize(LINE_BYTES - 1, b' ');
        line.push(b'\n');
        self.file.write_all_at(&line, u64::try_from(slot.0 * LINE_BYTES).unwrap_or(u64::MAX))
    }

    /// The file of the line is whole, or counted as lost.
    pub(crate) fn free(&mut self, slot: Slot) {
        // When it fails, the next start counts the records as lost though their file is not there: too many, never too
        // few. A file that is there is never counted.
        drop(self.note(slot, 0, Path::new("-")));
        if let Some(used) = self.used.get_mut(slot.0) {
            *used = false;
        }
    }
}

/// The records of a line whose file is not there.
fn missing(line: &[u8], folder: &Path) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?;
    let (rows, target) = line.trim_end().split_once(' ')?;
    let rows: u64 = rows.parse().ok()?;
    let whole = !folder.join(PathBuf::from(target)).is_file();
    whole.then_some(rows)
}
