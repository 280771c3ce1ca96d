//! How many records are not in a whole file yet?
//!
//! A file with one line of fixed length for each file that is not whole: the number of its records and its name. A line
//! is written by one small write at its place, which a killed process has made or has not. The start after a crash adds
//! up the lines whose files are not there. The first line says what all starts found, so that no crash is forgotten,
//! not even that of a start.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The name of the file in the folder of the sink.
pub(crate) const NAME: &str = ".sluice";
/// Bytes of a line.
const LINE_BYTES: usize = 256;
/// Stands in the first line in the place of a file.
const EVER: &str = "lost by all runs that were killed";
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
    /// Locks the folder; says how many records the run before took and did not bring into whole files, and how many all
    /// runs.
    pub(crate) fn open(folder: &Path) -> Result<(Self, [u64; 2]), JournalError> {
        let path = folder.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::InUse,
            TryLockError::Error(error) => JournalError::Io(error),
        })?;
        let mut lines = Vec::new();
        let most = u64::try_from(LINE_BYTES * MAX_LINES).unwrap_or(u64::MAX);
        (&file).take(most).read_to_end(&mut lines)?;
        let (mut before, mut lost) = (0, 0_u64);
        for (rows, target) in lines.chunks(LINE_BYTES).filter_map(parse) {
            if target == EVER {
                before = rows;
            } else if !folder.join(PathBuf::from(target)).is_file() {
                lost = lost.saturating_add(rows);
            }
        }
        let ever = lost.saturating_add(before);
        let journal = Self { file, used: vec![true] };
        // A start that is killed between the two makes the next one count these records twice: too many, never too few.
        journal.note(Slot(0), usize::try_from(ever).unwrap_or(usize::MAX), Path::new(EVER))?;
        journal.file.set_len(u64::try_from(LINE_BYTES).unwrap_or(u64::MAX))?;
        Ok((journal, [lost, ever]))
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
        note(&self.file, slot, rows, target)
    }

    /// A second handle of the file, for one who writes a line of his own.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
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

/// Writes a line.
pub(crate) fn note(file: &File, slot: Slot, rows: usize, target: &Path) -> io::Result<()> {
    let mut line = format!("{rows} {}", target.display()).into_bytes();
    line.resize(LINE_BYTES - 1, b' ');
    line.push(b'\n');
    file.write_all_at(&line, u64::try_from(slot.0 * LINE_BYTES).unwrap_or(u64::MAX))
}

/// What a line says: records, and their file.
fn parse(line: &[u8]) -> Option<(u64, &str)> {
    let line = std::str::from_utf8(line).ok()?;
    let (rows, target) = line.trim_end().split_once(' ')?;
    Some((rows.parse().ok()?, target))
}
