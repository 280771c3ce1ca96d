//! Who may use a folder?
//!
//! One process at a time: it has a lock of the kernel on the file `lock`, which ends with the process however that ends.
//! What the file says is only for people.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::StoreError;

/// The name of the file.
pub(crate) const NAME: &str = "lock";

/// The right to use a folder, until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Who has a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process, if it could write it down.
    pub pid: Option<u32>,
    /// What it calls itself.
    pub program: Option<String>,
}

impl Lock {
    pub(crate) fn take(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = match options.open(&path) {
            // What was in force can be read, and put in force, from a file system that went read-only.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path),
            opened => opened,
        }
        .map_err(StoreError::io(&path, "open the lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: folder.to_owned(), holder: Holder::read(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io(&path, "lock")(error)),
        }
        // On a full disk the lock holds all the same.
        drop(write_holder(&mut file));
        Ok(Self { _file: file })
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default().display();
    file.seek(SeekFrom::Start(0))?;
    file.set_len(0)?;
    writeln!(file, "{} {program}", std::process::id())
}

impl Holder {
    fn read(file: &mut File) -> Self {
        let mut text = String::new();
        // Unreadable is unknown.
        drop(file.take(1_024).read_to_string(&mut text));
        let (pid, program) = text.trim_end().split_once(' ').unwrap_or((&text, ""));
        let program: String = program.chars().filter(|c| !c.is_control()).collect();
        Self { pid: pid.parse().ok(), program: Some(program).filter(|program| !program.is_empty()) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.program) {
            (Some(pid), Some(program)) => write!(f, "process {pid} ({program})"),
            (Some(pid), None) => write!(f, "process {pid}"),
            _ => f.write_str("another process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_hears_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let Err(StoreError::Locked { holder, .. }) = Lock::take(dir.path()) else { panic!("locked") };
        assert_eq!(holder.pid, Some(std::process::id()));
        assert!(holder.to_string().contains("(sluice_store-"), "{holder}");
        drop(lock);
        Lock::take(dir.path()).unwrap();
    }

    #[test]
    fn any_words_in_the_lock_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        for (words, shown) in [
            (&b"\xff\xfe"[..], "another process"),
            (b"", "another process"),
            (b"12", "process 12"),
            (b"12 a\x1b[0m b\n", "process 12 (a[0m b)"),
        ] {
            std::fs::write(&path, words).unwrap();
            assert_eq!(Holder::read(&mut File::open(&path).unwrap()).to_string(), shown);
        }
    }
}
