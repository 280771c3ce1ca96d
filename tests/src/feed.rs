//! A capture file that a running daemon reads as a port, and whose packets come when the test says so: a named pipe.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// The writing end. The file ends when this is dropped.
#[derive(Debug)]
pub struct Feed {
    path: PathBuf,
    parts: Option<Sender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

impl Feed {
    /// A pipe in `folder`; whoever opens it reads `header` first.
    ///
    /// # Panics
    /// When there can be no pipe.
    pub fn new(folder: &Path, header: &[u8]) -> Self {
        let path = folder.join("feed.pcap");
        assert!(Command::new("mkfifo").arg(&path).status().is_ok_and(|status| status.success()));
        let (parts, receiver) = channel::<Vec<u8>>();
        let (header, pipe) = (header.to_vec(), path.clone());
        let writer = std::thread::spawn(move || {
            let Ok(mut file) = File::options().write(true).open(pipe) else { return };
            let mut next = Some(header);
            while let Some(part) = next {
                if file.write_all(&part).is_err() {
                    return;
                }
                next = receiver.recv().ok();
            }
        });
        Self { path, parts: Some(parts), writer: Some(writer) }
    }

    /// The port's spec.
    pub fn spec(&self) -> String {
        format!("pcap:{}", self.path.display())
    }

    /// Has these bytes follow. Does not wait for the reader.
    pub fn send(&self, bytes: &[u8]) {
        if let Some(parts) = &self.parts {
            drop(parts.send(bytes.to_vec()));
        }
    }

    /// Ends the file, and waits until all of it was read.
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.parts = None;
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // A daemon that never came would be waited for without end.
        self.parts = None;
    }
}
