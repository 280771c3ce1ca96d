//! How do the records of a table become files: buffered, sorted, encoded, renamed?

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parquet::errors::Result as ParquetResult;
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::SerializedFileWriter;
use sluice_model::fields::Field;

use super::base::{Base, WriteError};
use super::columns::Columns;
use super::journal::Slot;
use super::place::{Hour, hidden};
use super::settings::Now;
use super::stats::{Table, add, subtract};
use super::table::{Row, form, order, properties};

/// Hours of a table that may have an open file: records come late, and replays may be out of order.
const MAX_OPEN: usize = 3;

/// Writes the records of one table.
pub(crate) struct TableWriter<R: Row> {
    table: Table,
    columns: Columns<R>,
    properties: WriterPropertiesPtr,
    parts: BTreeMap<Hour, Part<R>>,
    /// The memory of a part that ended, for the next one.
    spare: Vec<R>,
    /// Batches that came: what says which part was not touched for the longest time.
    batches: u64,
}

/// A file that is not whole yet.
struct Part<R> {
    /// Records that are not encoded yet.
    rows: Vec<R>,
    file: Option<SerializedFileWriter<File>>,
    /// Records in the file.
    in_file: usize,
    /// Its name when it is whole, below the folder.
    target: PathBuf,
    began: Instant,
    touched: u64,
    slot: Slot,
}

impl<R: Row> TableWriter<R> {
    pub(crate) fn new(table: Table, fields: impl Iterator<Item = &'static Field<R>>) -> ParquetResult<Self> {
        let columns = Columns::new(fields, form)?;
        let properties = Arc::new(properties(table));
        Ok(Self { table, columns, properties, parts: BTreeMap::new(), spare: Vec::new(), batches: 0 })
    }

    /// Takes records that are counted as pending.
    pub(crate) fn write(&mut self, base: &mut Base, rows: &[R], now: Now) {
        self.batches += 1;
        for run in rows.chunk_by(|a, b| Hour::of(a.time_us()) == Hour::of(b.time_us())) {
            let Some(first) = run.first() else { continue };
            let mut rest = run;
            while !rest.is_empty() {
                rest = self.extend(base, Hour::of(first.time_us()), rest, now);
            }
        }
    }

    /// Takes records of one hour; gives back those that found no place yet.
    fn extend<'a>(&mut self, base: &mut Base, hour: Hour, rows: &'a [R], now: Now) -> &'a [R] {
        if !self.parts.contains_key(&hour) && self.parts.len() >= MAX_OPEN {
            let oldest = self.parts.iter().min_by_key(|(_, part)| part.touched).map(|(hour, _)| *hour);
            if let Some(oldest) = oldest {
                self.finish(base, oldest);
            }
        }
        let part = self.parts.entry(hour).or_insert_with(|| Part {
            rows: std::mem::take(&mut self.spare),
            file: None,
            in_file: 0,
            target: base.target(self.table, hour, now),
            began: now.at,
            touched: 0,
            slot: base.journal.slot(),
        });
        part.touched = self.batches;
        let group_rows = base.settings.group_rows.max(1);
        let room = group_rows.saturating_sub(part.rows.len());
        let (taken, rest) = rows.split_at_checked(room).unwrap_or((rows, &[]));
        part.rows.extend_from_slice(taken);
        let noted = base.journal.note(part.slot, part.in_file + part.rows.len(), &part.target);
        if let Err(error) = noted {
            self.lose(base, hour, WriteError::io(&base.settings.folder)(error));
            return rest;
        }
        if part.rows.len() >= group_rows {
            match part.encode(base, &mut self.columns, &self.properties) {
                Ok(bytes) if bytes >= base.settings.file_bytes => self.finish(base, hour),
                Ok(_) => {}
                Err(error @ WriteError::Reserve { .. }) => {
                    let rows = std::mem::take(&mut part.rows).len();
                    base.lose(self.table, rows, error);
                    self.finish(base, hour);
                }
                Err(error) => self.lose(base, hour, error),
            }
        }
        rest
    }

    /// Ends the files that began so long ago that they are due.
    pub(crate) fn finish_due(&mut self, base: &mut Base, now: Now) {
        let due: Vec<_> = (self.parts.iter())
            .filter(|(_, part)| now.at.saturating_duration_since(part.began) >= base.settings.flush)
            .map(|(hour, _)| *hour)
            .collect();
        for hour in due {
            self.finish(base, hour);
        }
    }

    /// Ends all files.
    pub(crate) fn finish_all(&mut self, base: &mut Base) {
        while let Some((hour, _)) = self.parts.first_key_value() {
            let hour = *hour;
            self.finish(base, hour);
        }
    }

    /// Ends the file of an hour.
    fn finish(&mut self, base: &mut Base, hour: Hour) {
        let Some(part) = self.parts.get_mut(&hour) else { return };
        match part.encode(base, &mut self.columns, &self.properties) {
            Ok(_) => {}
            // What is in the file already needs but a little more.
            Err(error @ WriteError::Reserve { .. }) => {
                let rows = std::mem::take(&mut part.rows).len();
                base.lose(self.table, rows, error);
            }
            Err(error) => return self.lose(base, hour, error),
        }
        match part.publish(&base.settings.folder) {
            Ok(bytes) => {
                let Some(mut part) = self.parts.remove(&hour) else { return };
                self.keep(std::mem::take(&mut part.rows));
                base.journal.free(part.slot);
                if part.in_file > 0 {
                    base.shelf.add(hour, part.target, bytes);
                    let counters = base.stats.of(self.table);
                    subtract(&counters.pending, part.in_file);
                    add(&counters.written, part.in_file);
                    add(&counters.files, 1);
                    counters.bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
                }
            }
            Err(error) => self.lose(base, hour, error),
        }
    }

    /// Keeps the memory of a part that ended.
    fn keep(&mut self, mut rows: Vec<R>) {
        rows.clear();
        if rows.capacity() > self.spare.capacity() {
            self.spare = rows;
        }
    }

    /// Gives up the file of an hour.
    fn lose(&mut self, base: &mut Base, hour: Hour, error: WriteError) {
        let Some(part) = self.parts.remove(&hour) else { return };
        if part.file.is_some() {
            // When it cannot be removed, the next start does it.
            drop(fs::remove_file(base.settings.folder.join(hidden(&part.target))));
        }
        base.lose(self.table, part.in_file + part.rows.len(), error);
        base.journal.free(part.slot);
        self.keep(part.rows);
    }
}

impl<R: Row> Part<R> {
    /// Writes what is buffered as one row group; says how many bytes the file has.
    fn encode(
        &mut self,
        base: &mut Base,
        columns: &mut Columns<R>,
        properties: &WriterPropertiesPtr,
    ) -> Result<u64, WriteError> {
        let path = base.settings.folder.join(hidden(&self.target));
        if !self.rows.is_empty() {
            base.check_space()?;
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(begin(&path, columns, properties)?),
            };
            let order = order(&self.rows);
            let written = columns.write(&self.rows, &order, &mut base.encoder, file);
            written.map_err(WriteError::parquet(&path))?;
            self.in_file += self.rows.len();
            self.rows.clear();
        }
        let bytes = self.file.as_ref().map_or(0, SerializedFileWriter::bytes_written);
        Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// Makes the file whole, and gives it its name; says how many bytes it has.
    fn publish(&mut self, folder: &Path) -> Result<u64, WriteError> {
        let Some(file) = &mut self.file else { return Ok(0) };
        let target = folder.join(&self.target);
        let path = hidden(&target);
        file.finish().map_err(WriteError::parquet(&path))?;
        // The name must not reach the disk before the content.
        file.inner().sync_all().map_err(WriteError::io(&path))?;
        let bytes = file.inner().metadata().map_err(WriteError::io(&path))?.len();
        fs::rename(&path, &target).map_err(WriteError::io(&target))?;
        if let Some(parent) = target.parent() {
            // Its rows are there for readers now. What a power cut would do to the name cannot be mended here.
            drop(File::open(parent).and_then(|parent| parent.sync_all()));
        }
        Ok(bytes)
    }
}

/// Makes a file, hidden, and the folders that it needs.
fn begin<R: Row>(
    path: &Path,
    columns: &Columns<R>,
    properties: &WriterPropertiesPtr,
) -> Result<SerializedFileWriter<File>, WriteError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(WriteError::io(parent))?;
    }
    let file = File::options().write(true).create_new(true).open(path).map_err(WriteError::io(path))?;
    let (schema, properties) = (Arc::clone(columns.schema()), Arc::clone(properties));
    SerializedFileWriter::new(file, schema, properties).map_err(WriteError::parquet(path))
}
