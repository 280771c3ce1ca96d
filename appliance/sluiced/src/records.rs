//! Files of flow records and metrics, one JSON object per line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_core::flow::Sink;
use sluice_engine::runtime::FlowHandle;
use sluice_model::fields::{FLOW_FIELDS, Field, METRICS_FIELDS, write_json_line};
use sluice_model::{FlowRecord, MetricsRecord};

use crate::paths::identity;

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 18;

/// How often the rings of the workers are emptied.
const ROUND: Duration = Duration::from_millis(5);
/// How often what is collected is written out.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

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
    /// Makes the file, or empties it. It must be none of `others`, by any name.
    pub(crate) fn create(path: &Path, fields: &'static [Field<R>], others: &[PathBuf]) -> Result<Self> {
        Self::open(path, fields, others, File::options().write(true).create(true).truncate(true))
    }

    /// Makes the file, or goes on at its end. It must be none of `others`, by any name.
    pub(crate) fn append(path: &Path, fields: &'static [Field<R>], others: &[PathBuf]) -> Result<Self> {
        let mut file = Self::open(path, fields, others, File::options().append(true).create(true))?;
        if ends_within_a_line(path) {
            file.failure = file.file.write_all(b"\n").err();
        }
        Ok(file)
    }

    fn open(
        path: &Path,
        fields: &'static [Field<R>],
        others: &[PathBuf],
        options: &OpenOptions,
    ) -> Result<Self> {
        let found = identity(path);
        if others.iter().any(|other| other == path || (found.is_some() && identity(other) == found)) {
            bail!("{}: the records would overwrite another file of this run", path.display());
        }
        let file = options
            .open(path)
            .with_context(|| format!("{}: cannot open the file of records", path.display()))?;
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

/// Whether the last line of a regular file has no end: an earlier run was cut off.
fn ends_within_a_line(path: &Path) -> bool {
    let last = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        let mut last = [b'\n'];
        if file.metadata()?.is_file() && file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(last[0])
    };
    last().is_ok_and(|last| last != b'\n')
}

/// The files that records go to; what has no file is dropped.
pub(crate) struct RecordFiles {
    flows: Option<RecordFile<FlowRecord>>,
    metrics: Option<RecordFile<MetricsRecord>>,
}

impl RecordFiles {
    /// New files, each none of `others`.
    pub(crate) fn create(flows: Option<&Path>, metrics: Option<&Path>, others: &[PathBuf]) -> Result<Self> {
        let mut others = others.to_vec();
        let flows = flows.map(|path| RecordFile::create(path, FLOW_FIELDS, &others)).transpose()?;
        others.extend(flows.as_ref().map(|file| file.path.clone()));
        let metrics = metrics.map(|path| RecordFile::create(path, METRICS_FIELDS, &others)).transpose()?;
        Ok(Self { flows, metrics })
    }

    /// Files that go on where they end, each none of `others`.
    pub(crate) fn append(flows: Option<&Path>, metrics: Option<&Path>, others: &[PathBuf]) -> Result<Self> {
        let mut others = others.to_vec();
        let flows = flows.map(|path| RecordFile::append(path, FLOW_FIELDS, &others)).transpose()?;
        others.extend(flows.as_ref().map(|file| file.path.clone()));
        let metrics = metrics.map(|path| RecordFile::append(path, METRICS_FIELDS, &others)).transpose()?;
        Ok(Self { flows, metrics })
    }

    /// Writes out what is collected.
    fn flush(&mut self) {
        self.flows.iter_mut().for_each(RecordFile::flush);
        self.metrics.iter_mut().for_each(RecordFile::flush);
    }

    /// The files that take no more.
    fn failed(&self) -> impl Iterator<Item = (&Path, &io::Error)> {
        let flows = self.flows.as_ref().and_then(|file| Some((&*file.path, file.failure.as_ref()?)));
        let metrics = self.metrics.as_ref().and_then(|file| Some((&*file.path, file.failure.as_ref()?)));
        flows.into_iter().chain(metrics)
    }

    /// Whether everything arrived.
    pub(crate) fn close(self) -> Result<()> {
        let flows = self.flows.map(RecordFile::close).transpose();
        self.metrics.map(RecordFile::close).transpose()?;
        flows.map(drop)
    }
}

impl Sink for RecordFiles {
    fn flow(&mut self, record: &FlowRecord) {
        if let Some(file) = &mut self.flows {
            file.write(record);
        }
    }

    fn metrics(&mut self, row: &MetricsRecord) {
        if let Some(file) = &mut self.metrics {
            file.write(row);
        }
    }
}

/// The thread that takes records out of the workers' rings.
pub(crate) struct Drain {
    rings: Sender<Vec<FlowHandle>>,
    thread: JoinHandle<Result<()>>,
}

impl Drain {
    /// Starts the thread; it waits for [`Drain::take_from`].
    pub(crate) fn start(files: RecordFiles) -> io::Result<Self> {
        let (rings, receiver) = channel();
        let thread = std::thread::Builder::new().name("sluice-records".to_owned());
        let thread = thread.spawn(move || drain(&receiver, files))?;
        Ok(Self { rings, thread })
    }

    /// From where to take records.
    pub(crate) fn take_from(&self, rings: Vec<FlowHandle>) {
        // Fails only when the thread has ended, which its join tells.
        drop(self.rings.send(rings));
    }

    /// Takes what is left, after the workers ended, and says whether everything was written.
    pub(crate) fn end(self) -> Result<()> {
        drop(self.rings);
        self.thread.join().unwrap_or_else(|_| bail!("the thread that writes records panicked"))
    }
}

/// Drains rings until there is nobody left who could name others.
fn drain(receiver: &Receiver<Vec<FlowHandle>>, mut files: RecordFiles) -> Result<()> {
    let mut rings: Vec<FlowHandle> = Vec::new();
    let mut written = Instant::now();
    let mut told = 0;
    loop {
        let end = match receiver.recv_timeout(ROUND) {
            Ok(named) => {
                rings = named;
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        for flow in &rings {
            flow.rings.drain(&mut files);
        }
        if end {
            return files.close();
        }
        if written.elapsed() >= WRITE_INTERVAL {
            written = Instant::now();
            files.flush();
        }
        for (path, error) in files.failed().skip(told) {
            tracing::error!(path = %path.display(), %error, "cannot write records any more");
        }
        told = files.failed().count();
    }
}
