//! How do copies get into capture files? Workers hand frames over by a bounded queue; another thread writes them.
//!
//! A frame counts as sent when its bytes were accepted by the file system, not before; what a failed write loses is
//! counted as dropped, and the file is cut back to its last whole record.
//!
//! Numbers of policies and destinations mean something in one generation of policies only: each has queues and counters of
//! its own, a [book](BookId). A file that the next generation writes, too, stays open and goes on.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use dpdk::Mbuf;
use sluice_capture::PcapWriter;
use sluice_model::{DestinationId, DropReason, PolicyId};

use crate::counters::Tables;
use crate::ledger::{Ledger, LedgerCell};

/// Policies named in one queue entry.
const SHARERS: usize = 6;
/// The time between a failed write and the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes gathered before they go to the file.
const BUFFER: usize = 256 * 1024;

#[derive(Debug)]
enum Record {
    /// More policies that share the frame that follows.
    Sharers(ArrayVec<PolicyId, SHARERS>),
    /// A frame for a file.
    Frame(FrameRecord),
}

#[derive(Debug)]
struct FrameRecord {
    mbuf: Mbuf,
    timestamp_ns: u64,
    wire_len: u32,
    destination: DestinationId,
    group: Option<DestinationId>,
    sharers: ArrayVec<PolicyId, SHARERS>,
}

/// The entries that a queue needs for so many frames which count for so many policies, shared copies for each.
#[must_use]
pub(crate) const fn queue_entries(frames: usize, sharers: usize) -> usize {
    frames + sharers / SHARERS
}

/// What the writer needs to know of a frame besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct FileFrame<'a> {
    /// Capture time, nanoseconds since the epoch.
    pub timestamp_ns: u64,
    /// Original length in bytes.
    pub wire_len: u32,
    /// Where it goes.
    pub destination: DestinationId,
    /// The group that it is a member of for this copy.
    pub group: Option<DestinationId>,
    /// The policies that share the copy.
    pub sharers: &'a [PolicyId],
}

/// The worker's end of the queue to the file writer. One worker, one queue.
#[derive(Debug)]
pub struct FileProducer(Arc<ArrayQueue<Record>>);

impl FileProducer {
    /// Hands a frame over; gives it back when the queue is full. Never blocks, never allocates.
    ///
    /// # Errors
    /// The frame itself.
    pub fn push(&self, mbuf: Mbuf, frame: &FileFrame<'_>) -> Result<(), Mbuf> {
        let (more, own) = frame.sharers.split_at(frame.sharers.len().saturating_sub(SHARERS));
        // Only this worker pushes, so the room seen here can only grow.
        if self.0.capacity() - self.0.len() < more.len().div_ceil(SHARERS) + 1 {
            return Err(mbuf);
        }
        for chunk in more.chunks(SHARERS) {
            if self.0.push(Record::Sharers(chunk.iter().copied().collect())).is_err() {
                return Err(mbuf);
            }
        }
        let record = FrameRecord {
            mbuf,
            timestamp_ns: frame.timestamp_ns,
            wire_len: frame.wire_len,
            destination: frame.destination,
            group: frame.group,
            sharers: own.iter().copied().collect(),
        };
        self.0.push(Record::Frame(record)).map_err(|record| match record {
            Record::Frame(frame) => frame.mbuf,
            Record::Sharers(_) => unreachable!("the queue gives back what was pushed"),
        })
    }
}

/// A frame whose bytes are gathered but not yet accepted by the file system.
#[derive(Debug)]
struct Pending {
    /// Length of the frame.
    frame_bytes: u64,
    /// Where its record ends in the buffer.
    record_end: usize,
    /// Where its policies end in the list of all pending ones.
    sharers_end: usize,
    /// The generation that it is counted in.
    book: BookId,
    destination: DestinationId,
    /// The group that it came by.
    group: Option<DestinationId>,
}

/// Names the queues and counters of one generation of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookId(u64);

#[derive(Debug)]
struct Book {
    id: BookId,
    queues: Vec<Arc<ArrayQueue<Record>>>,
    /// Sharers of the next frame, by queue.
    prefixes: Vec<Vec<PolicyId>>,
    /// Where the file of each destination is among the open ones; `None` for destinations that are no file.
    files: Vec<Option<usize>>,
    tables: Arc<Tables>,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    /// What the file begins with.
    header: Vec<u8>,
    file: File,
    writer: PcapWriter<Vec<u8>>,
    pending: Vec<Pending>,
    sharers: Vec<PolicyId>,
    /// Length of the file, all whole records.
    good_bytes: u64,
    failed: Option<io::Error>,
    /// Whether the failure was told, and nothing has been written since.
    reported: bool,
    /// When to try again; `None` = what failed cannot be taken up again.
    retry_at: Option<Instant>,
}

/// The files that cannot be written at the moment, and why: what anyone may read.
#[derive(Clone, Debug, Default)]
pub struct FailingFiles(Arc<Mutex<Vec<(PathBuf, String)>>>);

impl FailingFiles {
    /// All of them.
    #[must_use]
    pub fn get(&self) -> Vec<(PathBuf, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, path: &Path, error: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(known, _)| known != path);
        all.extend(error.map(|error| (path.to_owned(), error)));
    }
}

/// A capture file could not be made or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot write the capture file: {source}", path = path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// Whether there was no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Opens a file to write. A named pipe must have its reader: one waits for the other in silence otherwise.
///
/// # Errors
/// What the operating system said; of a named pipe without a reader, that it has none.
pub fn open_to_write(path: &Path, options: &OpenOptions) -> io::Result<File> {
    if !path.metadata().is_ok_and(|found| found.file_type().is_fifo()) {
        return options.open(path);
    }
    // Open until the other one is: the reader would take a pipe without writers for ended.
    let probe = options.clone().custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| {
        if error.raw_os_error() == Some(libc::ENXIO) {
            io::Error::other("nobody reads this named pipe; start its reader first")
        } else {
            error
        }
    })?;
    let file = options.open(path);
    drop(probe);
    file
}

/// What becomes of a file that can be made, while there is no room for anything in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenFull {
    /// It is an error.
    Refuse,
    /// It is as one that got full later: tried again, and begun as soon as there is room.
    Wait,
}

impl OpenFile {
    fn create(path: &Path, when_full: WhenFull) -> Result<Self, FileError> {
        let error = |source| FileError { path: path.to_owned(), source };
        let options = File::options().write(true).create(true).truncate(true).clone();
        let file = open_to_write(path, &options).map_err(error)?;
        let mut open = Self {
            path: path.to_owned(),
            header: Vec::new(),
            file,
            writer: PcapWriter::new(Vec::with_capacity(2 * BUFFER)).map_err(error)?,
            pending: Vec::new(),
            sharers: Vec::new(),
            good_bytes: 0,
            failed: None,
            reported: false,
            retry_at: None,
        };
        open.header.clone_from(open.writer.get_mut());
        open.writer.get_mut().clear();
        match open.begin() {
            Err(full) if when_full == WhenFull::Wait && is_full(&full) => {
                open.failed = Some(full);
                open.retry_at = Some(Instant::now() + RETRY);
            }
            begun => begun.map_err(error)?,
        }
        Ok(open)
    }

    /// Writes the header of a file that has none yet.
    fn begin(&mut self) -> io::Result<()> {
        if self.good_bytes == 0 {
            self.file.write_all(&self.header)?;
            self.good_bytes = self.header.len() as u64;
        }
        Ok(())
    }

    /// Takes up a file that failed, behind its last whole record.
    fn resume(&mut self) -> io::Result<()> {
        self.file.set_len(self.good_bytes)?;
        self.file.seek(SeekFrom::Start(self.good_bytes))?;
        self.begin()
    }

    /// Goes on behind what an earlier generation wrote; `None` = there is no such file any more.
    fn reopen(path: &Path) -> Option<Self> {
        if !path.metadata().ok()?.is_file() {
            return None;
        }
        let mut file = File::options().read(true).write(true).open(path).ok()?;
        let mut writer = PcapWriter::new(Vec::with_capacity(2 * BUFFER)).ok()?;
        let header = writer.get_mut().clone();
        writer.get_mut().clear();
        let mut found = vec![0; header.len()];
        file.read_exact(&mut found).ok()?;
        let good_bytes = file.seek(SeekFrom::End(0)).ok()?;
        (found == header).then(|| Self {
            path: path.to_owned(),
            header,
            file,
            writer,
            pending: Vec::new(),
            sharers: Vec::new(),
            good_bytes,
            failed: None,
            reported: false,
            retry_at: None,
        })
    }

    /// Writes what is gathered; returns how many of its bytes the file system took.
    fn write_out(&mut self) -> usize {
        let buffer = self.writer.get_mut();
        let mut written = 0;
        while written < buffer.len() && self.failed.is_none() {
            match self.file.write(&buffer[written..]) {
                Ok(0) => self.failed = Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.failed = Some(error),
            }
        }
        buffer.clear();
        written
    }
}

/// The other end: owns the files and writes what arrives.
#[derive(Debug)]
pub struct FileSink {
    /// The oldest first.
    books: Vec<Book>,
    next_book: u64,
    /// By place; `None` = closed, and free for the next file.
    files: Vec<Option<OpenFile>>,
    /// Files that were closed: what they hold is not to be lost when policies name them again.
    closed: HashSet<PathBuf>,
    ledger: Ledger,
    cell: Arc<LedgerCell>,
    failing: FailingFiles,
}

impl FileSink {
    /// Creates the files (`paths` by destination number) of a first generation, and no queue yet.
    ///
    /// # Errors
    /// The first file that cannot be made, or begun.
    pub fn create(paths: &[Option<PathBuf>], policies: usize) -> Result<Self, FileError> {
        Self::with(paths, policies, WhenFull::Refuse)
    }

    /// The same, but a full disk is only a file that fails: whatever else leaves is not to wait for room.
    ///
    /// # Errors
    /// The first file that cannot be made.
    pub fn create_or_wait(paths: &[Option<PathBuf>], policies: usize) -> Result<Self, FileError> {
        Self::with(paths, policies, WhenFull::Wait)
    }

    fn with(paths: &[Option<PathBuf>], policies: usize, when_full: WhenFull) -> Result<Self, FileError> {
        let mut sink = Self {
            books: Vec::new(),
            next_book: 0,
            files: Vec::new(),
            closed: HashSet::new(),
            ledger: Ledger::default(),
            cell: Arc::default(),
            failing: FailingFiles::default(),
        };
        sink.open(paths, policies, when_full)?;
        Ok(sink)
    }

    /// Begins a generation with these files (`paths` by destination number). Those that are open go on.
    ///
    /// # Errors
    /// The first file that cannot be made; then the generation is not begun, and files made for it are closed.
    pub fn open_book(&mut self, paths: &[Option<PathBuf>], policies: usize) -> Result<BookId, FileError> {
        self.open(paths, policies, WhenFull::Refuse)
    }

    fn open(
        &mut self,
        paths: &[Option<PathBuf>],
        policies: usize,
        when_full: WhenFull,
    ) -> Result<BookId, FileError> {
        let places =
            paths.iter().map(|path| path.as_deref().map(|path| self.open_file(path, when_full)).transpose());
        let places = places.collect::<Result<Vec<_>, _>>();
        let files = places.inspect_err(|_| self.close_unused())?;
        let id = BookId(self.next_book);
        self.next_book += 1;
        let tables = Arc::new(Tables::new(policies, files.len()));
        self.books.push(Book { id, queues: Vec::new(), prefixes: Vec::new(), files, tables });
        Ok(id)
    }

    /// Ends a generation whose workers have left it: what waits in its queues is written, and files that no other writes
    /// are closed.
    pub fn close_book(&mut self, id: BookId) {
        self.drain();
        self.flush();
        self.books.retain(|book| book.id != id);
        self.close_unused();
    }

    /// The place of the file with this path, which is made if it is not open.
    fn open_file(&mut self, path: &Path, when_full: WhenFull) -> Result<usize, FileError> {
        let open = |file: &Option<OpenFile>| file.as_ref().is_some_and(|file| file.path == path);
        if let Some(place) = self.files.iter().position(open) {
            return Ok(place);
        }
        let again = self.closed.contains(path).then(|| OpenFile::reopen(path)).flatten();
        let file = again.map_or_else(|| OpenFile::create(path, when_full), Ok)?;
        if let Some(error) = &file.failed {
            self.failing.set(path, Some(error.to_string()));
        }
        let file = Some(file);
        if let Some(place) = self.files.iter().position(Option::is_none) {
            self.files[place] = file;
            return Ok(place);
        }
        self.files.push(file);
        Ok(self.files.len() - 1)
    }

    fn close_unused(&mut self) {
        for (place, file) in self.files.iter_mut().enumerate() {
            if !self.books.iter().any(|book| book.files.contains(&Some(place)))
                && let Some(closed) = file.take()
            {
                self.failing.set(&closed.path, None);
                self.closed.insert(closed.path);
            }
        }
    }

    /// A queue for one more worker of the latest generation, with so many entries: one per frame, and one more for every
    /// six policies beyond six that share it.
    pub fn producer(&mut self, entries: usize) -> FileProducer {
        let queue = Arc::new(ArrayQueue::new(entries.max(1)));
        if let Some(book) = self.books.last_mut() {
            book.queues.push(Arc::clone(&queue));
            book.prefixes.push(Vec::new());
        }
        FileProducer(queue)
    }

    /// The latest generation.
    #[must_use]
    pub fn latest(&self) -> BookId {
        BookId(self.next_book - 1)
    }

    /// Whether any file is open.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.files.iter().any(Option::is_some)
    }

    /// The account of what was written: `tx` and `drops`.
    #[must_use]
    pub fn ledger(&self) -> Arc<LedgerCell> {
        Arc::clone(&self.cell)
    }

    /// The writer's counters by policy and destination, in the latest generation.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        self.books.last().map_or_else(|| Arc::new(Tables::new(0, 0)), |book| Arc::clone(&book.tables))
    }

    /// Takes everything that waits in the queues; returns how many frames.
    pub fn drain(&mut self) -> usize {
        let mut frames = 0;
        for book in 0..self.books.len() {
            for queue in 0..self.books[book].queues.len() {
                while let Some(record) = self.books[book].queues[queue].pop() {
                    match record {
                        Record::Sharers(more) => self.books[book].prefixes[queue].extend(more),
                        Record::Frame(frame) => {
                            frames += 1;
                            let prefix = std::mem::take(&mut self.books[book].prefixes[queue]);
                            self.gather(book, &frame, &prefix);
                            self.books[book].prefixes[queue] = prefix;
                            self.books[book].prefixes[queue].clear();
                        }
                    }
                }
            }
        }
        frames
    }

    /// Hands everything gathered to the file system.
    pub fn flush(&mut self) {
        for index in 0..self.files.len() {
            self.flush_file(index);
        }
    }

    /// The files that cannot be written at the moment.
    #[must_use]
    pub fn failing(&self) -> FailingFiles {
        self.failing.clone()
    }

    /// Takes files up again that failed a while ago, behind their last whole record; gives those that can be written
    /// again, and were told to have failed.
    pub fn retry(&mut self, now: Instant) -> Vec<PathBuf> {
        let mut back = Vec::new();
        for file in self.files.iter_mut().flatten() {
            if file.failed.is_some() && file.retry_at.is_some_and(|at| now >= at) {
                match file.resume() {
                    Ok(()) => file.failed = None,
                    Err(_) => file.retry_at = Some(now + RETRY),
                }
            } else if file.failed.is_none() && file.retry_at.is_none() && file.reported {
                file.reported = false;
                self.failing.set(&file.path, None);
                back.push(file.path.clone());
            }
        }
        back
    }

    /// The files that failed since the last call.
    pub fn take_errors(&mut self) -> Vec<FileError> {
        let new = self.files.iter_mut().flatten().filter(|file| file.failed.is_some() && !file.reported);
        let report = |file: &mut OpenFile| {
            file.reported = true;
            let error = file.failed.as_ref()?;
            Some(FileError {
                path: file.path.clone(),
                source: io::Error::new(error.kind(), error.to_string()),
            })
        };
        new.filter_map(report).collect()
    }

    /// Takes a frame from a queue of the generation at this place.
    fn gather(&mut self, book: usize, frame: &FrameRecord, prefix: &[PolicyId]) {
        let sharers = prefix.iter().chain(&frame.sharers).copied();
        let Book { id, files, tables, .. } = &self.books[book];
        let place = files.get(frame.destination.index()).copied().flatten();
        let file = place.and_then(|place| self.files.get_mut(place)?.as_mut());
        let (Some(place), Some(file)) = (place, file.filter(|file| file.failed.is_none())) else {
            let sharers: Vec<_> = sharers.collect();
            account(&mut self.ledger, tables, [Some(frame.destination), frame.group], &sharers, None);
            self.cell.publish(&self.ledger);
            return;
        };
        file.sharers.extend(sharers);
        if let Err(error) = file.writer.write(frame.timestamp_ns, frame.wire_len, frame.mbuf.segment_slices())
        {
            // Only a frame that the format cannot hold gets here: the buffer itself never refuses.
            file.failed = Some(error);
        }
        file.pending.push(Pending {
            frame_bytes: u64::from(frame.mbuf.pkt_len()),
            record_end: file.writer.get_mut().len(),
            sharers_end: file.sharers.len(),
            book: *id,
            destination: frame.destination,
            group: frame.group,
        });
        if file.writer.get_mut().len() >= BUFFER || file.failed.is_some() {
            self.flush_file(place);
        }
    }

    fn flush_file(&mut self, index: usize) {
        let Some(file) = self.files[index].as_mut().filter(|f| !f.pending.is_empty()) else { return };
        let written = file.write_out();
        let pending = std::mem::take(&mut file.pending);
        let sharers = std::mem::take(&mut file.sharers);
        let whole = pending.iter().take_while(|p| p.record_end <= written).last().map_or(0, |p| p.record_end);
        file.good_bytes += whole as u64;
        if file.failed.is_some() {
            // The tail of a record would make the file unreadable from there on; nothing more can be done if this fails.
            drop(file.file.set_len(file.good_bytes));
            // What was written to a pipe is gone.
            let regular = file.file.metadata().is_ok_and(|found| found.is_file());
            file.retry_at = regular.then(|| Instant::now() + RETRY);
            self.failing.set(&file.path, file.failed.as_ref().map(ToString::to_string));
        } else if written > 0 {
            file.retry_at = None;
        }
        let mut first = 0;
        for record in &pending {
            let bytes = (record.record_end <= whole).then_some(record.frame_bytes);
            if let Some(book) = self.books.iter().find(|book| book.id == record.book) {
                let destinations = [Some(record.destination), record.group];
                let sharers = &sharers[first..record.sharers_end];
                account(&mut self.ledger, &book.tables, destinations, sharers, bytes);
            }
            first = record.sharers_end;
        }
        self.cell.publish(&self.ledger);
        if let Some(file) = self.files[index].as_mut() {
            (file.pending, file.sharers) = (pending, sharers);
            file.pending.clear();
            file.sharers.clear();
        }
    }
}

/// Counts one frame as written (with its length) or dropped, for its destination and its group.
fn account(
    ledger: &mut Ledger,
    tables: &Tables,
    destinations: [Option<DestinationId>; 2],
    sharers: &[PolicyId],
    written_bytes: Option<u64>,
) {
    let reason = DropReason::FileWrite;
    let rows = destinations.into_iter().flatten().map(|id| &tables.destinations[id.index()]);
    let policies = sharers.iter().map(|policy| &tables.policies[policy.index()]);
    if let Some(bytes) = written_bytes {
        ledger.tx_packets += 1;
        ledger.tx_bytes += bytes;
        rows.for_each(|row| {
            row.packets.add(1);
            row.bytes.add(bytes);
        });
        policies.for_each(|policy| policy.sent_packets.add(1));
    } else {
        ledger.drops.add(reason, 1);
        rows.for_each(|row| row.drops[reason as usize].add(1));
        policies.for_each(|policy| policy.drops[reason as usize].add(1));
    }
}
