//! The thread that writes capture files, and what it is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::deploy::{FileMessage, OpenedFiles};
use crate::files::{FileError, FileSink};

/// How long the file writer sleeps when nothing waits.
const FILE_IDLE: Duration = Duration::from_millis(1);
/// How long it sleeps where no destination is a file; it wakes at once when one comes.
const NO_FILES_IDLE: Duration = Duration::from_millis(20);

/// The file writer's thread.
pub(super) fn write_files(mut sink: FileSink, stop: &AtomicBool, inbox: &Receiver<FileMessage>) {
    loop {
        // Read before draining: what was queued before the stop is still written.
        let stopping = stop.load(Ordering::Relaxed);
        if sink.drain() == 0 {
            sink.flush();
            if stopping {
                break;
            }
            match inbox.recv_timeout(if sink.writes() { FILE_IDLE } else { NO_FILES_IDLE }) {
                Ok(message) => take_message(&mut sink, message),
                Err(RecvTimeoutError::Timeout) => {}
                // The engine is about to stop.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(FILE_IDLE),
            }
        } else if let Ok(message) = inbox.try_recv() {
            take_message(&mut sink, message);
        }
        for FileError { path, source } in sink.take_errors() {
            tracing::error!(path = %path.display(), %source, "capture file failed; its copies are dropped as file_write");
        }
        for path in sink.retry(Instant::now()) {
            tracing::info!(path = %path.display(), "the capture file goes on; it has a gap");
        }
    }
}

/// Begins or ends a generation. Whoever asked may have gone.
fn take_message(sink: &mut FileSink, message: FileMessage) {
    match message {
        FileMessage::Open { paths, policies, queues, entries, reply } => {
            let opened = sink.open_book(&paths, policies).map(|book| {
                let producers = (0..queues).map(|_| sink.producer(entries)).collect();
                OpenedFiles { book, producers, tables: sink.tables() }
            });
            let _gone = reply.send(opened);
        }
        FileMessage::Close { book, reply } => {
            sink.close_book(book);
            let _gone = reply.send(());
        }
    }
}
