//! What does the store ask of a file system?
//!
//! Few calls, each of which happens or fails: so tests put a simulated disk in their place that ends at any of them.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// One folder.
pub(crate) trait Disk: fmt::Debug + Send {
    /// The names in the folder, in any order.
    fn names(&self) -> io::Result<Vec<String>>;
    /// The first `max_bytes` of a file, or all of it.
    fn read(&self, name: &str, max_bytes: u64) -> io::Result<Vec<u8>>;
    /// An empty file, whatever had the name before.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, in the place of a file that had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file away.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when all names are as they are for good.
    fn sync(&self) -> io::Result<()>;
}

/// A file that is being written.
pub(crate) trait DiskFile {
    /// Adds to its end.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all of its content is there for good.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder of the operating system.
#[derive(Debug)]
pub(crate) struct OsDisk {
    folder: PathBuf,
}

impl OsDisk {
    /// The folder, made if it is not there. Only its owner can look into it: policies tell who is observed.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        if !folder.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            // A new folder is for good when the one above it is. One that may not be read keeps it in its own time.
            if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty())
                && let Ok(parent) = File::open(parent)
            {
                parent.sync_all()?;
            }
        }
        Ok(Self { folder: folder.to_owned() })
    }
}

impl Disk for OsDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.folder)?;
        names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&self, name: &str, max_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.folder.join(name))?.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        Ok(Box::new(options.open(self.folder.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

impl DiskFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
