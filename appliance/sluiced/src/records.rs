//! Files of flow records and metrics, one JSON object per line.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sluice_model::fields::{Field, write_json_line};

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 18;

/// A file of records. After the first failure it takes no more: a file with a gap would look whole.
pub(crate) struct RecordFile<R: 'static> {
    fields: &'static [Field<R>],
    path: PathBuf,
    file: BufWriter<File>,
    line: String,
    written: u64,
    failure: Option<io::Error>,
}

impl<R> RecordFile<R> {
    /// Makes the file, or empties it. It must be none of `inputs`, by any name.
    pub(crate) fn create(path: &Path, fields: &'static [Field<R>], inputs: &[PathBuf]) -> Result<Self> {
        if let Some(found) = identity(path)
            && inputs.iter().any(|input| identity(input) == Some(found))
        {
            bail!("{}: the records would overwrite another file of this run", path.display());
        }
        let file = File::create(path)
            .with_context(|| format!("{}: cannot make the file of records", path.display()))?;
        Ok(Self {
            fields,
            path: path.to_owned(),
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            line: String::new(),
            written: 0,
            failure: None,
        })
    }

    /// Appends a record.
    pub(crate) fn write(&mut self, record: &R) {
        if self.failure.is_some() {
            return;
        }
        self.line.clear();
        write_json_line(self.fields, record, &mut self.line);
        match self.file.write_all(self.line.as_bytes()) {
            Ok(()) => self.written += 1,
            Err(error) => self.failure = Some(error),
        }
    }

    /// Writes out what is collected.
    pub(crate) fn flush(&mut self) {
        if self.failure.is_none() {
            self.failure = self.file.flush().err();
        }
    }

    /// Writes out what is collected, and says whether all of it arrived, and how many records there are.
    pub(crate) fn close(mut self) -> Result<u64> {
        self.flush();
        match self.failure.take() {
            None => Ok(self.written),
            Some(error) => Err(error)
                .with_context(|| format!("{}: cannot write; the file ends early", self.path.display())),
        }
    }
}

/// Device and inode: the same for all names and links of a regular file; `None` for devices, pipes and what is not there.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    found.is_file().then(|| (found.dev(), found.ino()))
}
