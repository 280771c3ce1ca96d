//! Files of flow records and metrics, one JSON object per line.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use sluice_agent::{Code, Life};
use sluice_core::flow::Sink;
use sluice_engine::files::open_to_write;
use sluice_engine::runtime::{Engine, FlowHandle};
use sluice_export::parquet::{ParquetSettings, SinkReport, SinkStats};
use sluice_export::prometheus::EngineView;
use sluice_model::fields::{FLOW_FIELDS, Field, METRICS_FIELDS, write_json_line};
use sluice_model::{FlowRecord, MetricsRecord};

use crate::engine_view::view;
use crate::parquet_folder::ParquetFolder;
use crate::paths::identity;
use crate::say::complain;

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 18;

/// How often the rings of the workers are emptied.
const ROUND: Duration = Duration::from_millis(5);
/// How often lines that are collected are written out.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// What is done with what a file held before. Not earlier than the first write: a run that does not start leaves the file
/// alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Nothing, or it is done.
    Done,
    /// It goes.
    Empty,
    /// Its last line, which an earlier run left unfinished, is ended.
    EndLine,
}

/// A file of records. After the first failure it takes no more: a file with a gap would look whole.
pub(crate) struct RecordFile<R: 'static> {
    fields: &'static [Field<R>],
    path: PathBuf,
    file: File,
    first: First,
    /// Whole lines that are not written yet, and how many.
    buffer: String,
    pending: u64,
    /// Records that will never be in the file.
    unwritten: u64,
    failure: Option<io::Error>,
    /// Whether the failure was logged.
    told: bool,
}

impl<R> RecordFile<R> {
    /// Makes the file, or empties it. It must be none of `others`, by any name.
    pub(crate) fn create(path: &Path, fields: &'static [Field<R>], others: &[PathBuf]) -> Result<Self> {
        Ok(Self { first: First::Empty, ..Self::append(path, fields, others)? })
    }

    /// Makes the file, or goes on at its end. It must be none of `others`, by any name.
    pub(crate) fn append(path: &Path, fields: &'static [Field<R>], others: &[PathBuf]) -> Result<Self> {
        let found = identity(path);
        if others.iter().any(|other| other == path || (found.is_some() && identity(other) == found)) {
            bail!("{}: the records would overwrite another file of this run", path.display());
        }
        let file = open_to_write(path, OpenOptions::new().append(true).create(true))
            .with_context(|| format!("{}: cannot open the file of records", path.display()))?;
        Ok(Self {
            fields,
            path: path.to_owned(),
            file,
            first: if ends_within_a_line(path) { First::EndLine } else { First::Done },
            buffer: String::with_capacity(BUFFER_BYTES + BUFFER_BYTES / 8),
            pending: 0,
            unwritten: 0,
            failure: None,
            told: false,
        })
    }

    /// Appends a record.
    pub(crate) fn write(&mut self, record: &R) {
        if self.failure.is_some() {
            self.unwritten += 1;
            return;
        }
        write_json_line(self.fields, record, &mut self.buffer);
        self.pending += 1;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    /// Writes out what is collected. What fails is lost; the file keeps its whole lines.
    pub(crate) fn flush(&mut self) {
        if self.failure.is_some() || self.buffer.is_empty() && self.first == First::Done {
            return;
        }
        let written = self.begin().map_or_else(|error| (0, Some(error)), |()| self.write_out());
        if let (written, Some(error)) = written {
            let taken = self.buffer.as_bytes().get(..written).unwrap_or_default();
            let end = taken.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
            let lines = self.buffer.get(..end).unwrap_or_default().lines().count() as u64;
            self.cut((written - end) as u64);
            self.unwritten += self.pending.saturating_sub(lines);
            self.failure = Some(error);
        }
        self.buffer.clear();
        self.pending = 0;
    }

    /// Makes the file ready for its first line of this run.
    fn begin(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.first, First::Done) {
            // Devices and pipes hold nothing.
            First::Empty if self.file.metadata()?.is_file() => self.file.set_len(0)?,
            First::EndLine => self.file.write_all(b"\n")?,
            First::Empty | First::Done => {}
        }
        Ok(())
    }

    /// The bytes that the file system took, and why not all of them.
    fn write_out(&mut self) -> (usize, Option<io::Error>) {
        let mut written = 0;
        while let Some(rest) = self.buffer.as_bytes().get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }

    /// Takes the last bytes of a regular file away: the beginning of a line that did not fit.
    fn cut(&self, bytes: u64) {
        if let Ok(found) = self.file.metadata()
            && found.is_file()
            && bytes > 0
        {
            // Nothing more can be done if this fails; the next run ends the line.
            drop(self.file.set_len(found.len().saturating_sub(bytes)));
        }
    }

    /// Logs a failure and raises an exception for it, once: until the end nothing more is written.
    fn tell(&mut self, life: &Life) {
        if let Some(error) = self.failure.as_ref().filter(|_| !self.told) {
            self.told = true;
            let path = self.path.display().to_string();
            tracing::error!(path, %error, "cannot write records any more");
            let text = format!("{error}; the file takes no more records: make room, and restart the daemon");
            life.raise(Code::ExportFailed, &path, &text);
        }
    }

    /// Writes out what is collected, and says how many records did not arrive, and why.
    fn close(mut self) -> (u64, Option<Error>) {
        self.flush();
        let (path, lost) = (self.path.display(), self.unwritten);
        let failure = self.failure.map(|error| {
            let text = format!("{path}: cannot write: {lost} records are lost, the file ends before them");
            Error::new(error).context(text)
        });
        (lost, failure)
    }
}

/// Whether the last line of a regular file has no end: an earlier run was cut off.
fn ends_within_a_line(path: &Path) -> bool {
    let last = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(last[0])
    };
    path.is_file() && last().is_ok_and(|last| last != b'\n')
}

/// The files that records go to; what has no file is dropped.
pub(crate) struct RecordFiles {
    flows: Option<RecordFile<FlowRecord>>,
    metrics: Option<RecordFile<MetricsRecord>>,
    parquet: Option<ParquetFolder>,
}

impl RecordFiles {
    /// New files, each none of `others`.
    pub(crate) fn create(flows: Option<&Path>, metrics: Option<&Path>, others: &[PathBuf]) -> Result<Self> {
        let mut others = others.to_vec();
        let flows = flows.map(|path| RecordFile::create(path, FLOW_FIELDS, &others)).transpose()?;
        others.extend(flows.as_ref().map(|file| file.path.clone()));
        let metrics = metrics.map(|path| RecordFile::create(path, METRICS_FIELDS, &others)).transpose()?;
        Ok(Self { flows, metrics, parquet: None })
    }

    /// Files that go on where they end, each none of `others`.
    pub(crate) fn append(flows: Option<&Path>, metrics: Option<&Path>, others: &[PathBuf]) -> Result<Self> {
        let mut others = others.to_vec();
        let flows = flows.map(|path| RecordFile::append(path, FLOW_FIELDS, &others)).transpose()?;
        others.extend(flows.as_ref().map(|file| file.path.clone()));
        let metrics = metrics.map(|path| RecordFile::append(path, METRICS_FIELDS, &others)).transpose()?;
        Ok(Self { flows, metrics, parquet: None })
    }

    /// Parquet files besides.
    pub(crate) fn with_parquet(mut self, settings: ParquetSettings) -> Result<Self> {
        self.parquet = Some(ParquetFolder::open(settings)?);
        Ok(self)
    }

    /// Writes out what is collected.
    fn flush(&mut self) {
        self.flows.iter_mut().for_each(RecordFile::flush);
        self.metrics.iter_mut().for_each(RecordFile::flush);
    }

    /// Gives Parquet files what came since: a crash loses no record uncounted that was taken before.
    fn hand_on(&mut self) {
        self.parquet.iter_mut().for_each(ParquetFolder::hand_on);
    }

    /// Tells of the files that take no more, each once.
    fn tell(&mut self, life: &Life) {
        self.flows.iter_mut().for_each(|file| file.tell(life));
        self.metrics.iter_mut().for_each(|file| file.tell(life));
    }

    /// What became of the records.
    pub(crate) fn close(self) -> Written {
        let (records_lost, flows) = self.flows.map(RecordFile::close).unwrap_or_default();
        let (metrics_lost, metrics) = self.metrics.map(RecordFile::close).unwrap_or_default();
        let parquet = self.parquet.map(ParquetFolder::close).unwrap_or_default();
        Written {
            records_lost: records_lost + parquet.records_lost,
            metrics_lost: metrics_lost + parquet.metrics_lost,
            parquet: parquet.parquet,
            failures: flows.into_iter().chain(metrics).chain(parquet.failures).collect(),
        }
    }
}

/// What became of the records of a run.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Flow records that their files did not take.
    pub(crate) records_lost: u64,
    /// Rows of metrics that their files did not take.
    pub(crate) metrics_lost: u64,
    /// What became of Parquet files.
    pub(crate) parquet: Option<SinkReport>,
    /// What went wrong.
    pub(crate) failures: Vec<Error>,
}

impl Written {
    /// Tells what went wrong; says whether everything arrived.
    pub(crate) fn complain(&self) -> bool {
        for error in &self.failures {
            complain!("sluiced: error: {}", crate::describe(error));
        }
        self.failures.is_empty()
    }
}

impl Sink for RecordFiles {
    fn flow(&mut self, record: &FlowRecord) {
        if let Some(file) = &mut self.flows {
            file.write(record);
        }
        if let Some(folder) = &mut self.parquet {
            folder.flow(record);
        }
    }

    fn metrics(&mut self, row: &MetricsRecord) {
        if let Some(file) = &mut self.metrics {
            file.write(row);
        }
        if let Some(folder) = &mut self.parquet {
            folder.metrics(row);
        }
    }
}

/// Where records and counters come from.
enum News {
    /// An engine that has begun.
    Engine { engine: Weak<Engine>, rings: Vec<FlowHandle> },
    /// What it showed at its end.
    Last(Box<EngineView>),
}

/// The thread that takes records out of the workers' rings.
pub(crate) struct Drain {
    news: Sender<News>,
    parquet: Option<Arc<SinkStats>>,
    thread: JoinHandle<Written>,
}

impl Drain {
    /// Starts the thread; it waits for [`Drain::take_from`]. `life` is told what cannot be written.
    pub(crate) fn start(files: RecordFiles, life: Arc<Life>) -> io::Result<Self> {
        let (news, receiver) = channel();
        let parquet = files.parquet.as_ref().map(ParquetFolder::stats);
        let thread = std::thread::Builder::new().name("sluice-records".to_owned());
        let thread = thread.spawn(move || drain(&receiver, files, &life))?;
        Ok(Self { news, parquet, thread })
    }

    /// What becomes of Parquet files, where there are any; for any thread.
    pub(crate) fn parquet(&self) -> Option<Arc<SinkStats>> {
        self.parquet.clone()
    }

    /// From where to take records.
    pub(crate) fn take_from(&self, engine: &Arc<Engine>) {
        // Fails only when the thread has ended, which its join tells.
        drop(self.news.send(News::Engine { engine: Arc::downgrade(engine), rings: engine.flows() }));
    }

    /// Takes what is left, after the workers ended, and says what was written.
    pub(crate) fn end(self, engine: &Engine) -> Written {
        drop(self.news.send(News::Last(Box::new(view(engine)))));
        drop(self.news);
        let panicked = anyhow!("the thread that writes records panicked");
        self.thread.join().unwrap_or_else(|_| Written { failures: vec![panicked], ..Written::default() })
    }
}

/// Drains rings until there is nobody left who could name others.
fn drain(receiver: &Receiver<News>, mut files: RecordFiles, life: &Life) -> Written {
    let mut rings: Vec<FlowHandle> = Vec::new();
    let mut running = Weak::new();
    let mut last = None;
    let mut written = Instant::now();
    loop {
        let end = match receiver.recv_timeout(ROUND) {
            Ok(News::Engine { engine, rings: named }) => {
                (running, rings) = (engine, named);
                false
            }
            Ok(News::Last(view)) => {
                last = Some(view);
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        for flow in &rings {
            flow.rings.drain(&mut files);
        }
        files.hand_on();
        if let Some(folder) = &mut files.parquet {
            if let Some(last) = last.as_ref().filter(|_| end) {
                folder.counters(last);
            } else if folder.wants_counters()
                && let Some(engine) = running.upgrade()
            {
                folder.counters(&view(&engine));
            }
        }
        if end {
            return files.close();
        }
        if written.elapsed() >= WRITE_INTERVAL {
            written = Instant::now();
            files.flush();
        }
        files.tell(life);
    }
}
