//! Did somebody stop the appliance, so that it stays stopped when it starts again?
//!
//! A file beside the generations whose being there says so; what is in it is for people.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The name of the file.
pub(crate) const NAME: &str = "stopped";

/// The mark in the folder of a store.
#[derive(Clone, Debug)]
pub struct StopMark {
    folder: PathBuf,
}

impl StopMark {
    /// The mark of this folder, which is there.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Whether it is set. One that cannot be looked for counts as set: nothing is copied against anybody's will.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.path().try_exists().unwrap_or(true)
    }

    /// Sets it; `why` is for people. It outlasts a power cut when this returns.
    ///
    /// # Errors
    /// When it cannot be written; then it is not set.
    pub fn set(&self, why: &str) -> io::Result<()> {
        let written = || {
            let mut file = File::create(self.path())?;
            file.write_all(why.as_bytes())?;
            file.sync_all()?;
            self.sync()
        };
        written().inspect_err(|_| drop(std::fs::remove_file(self.path())))
    }

    /// Takes it away, for good when this returns.
    ///
    /// # Errors
    /// When it is still there, or may come back after a power cut.
    pub fn clear(&self) -> io::Result<()> {
        match std::fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_set_and_taken_away_and_no_stranger_to_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let mark = StopMark::of(folder.path());
        assert!(!mark.is_set());
        mark.clear().unwrap();
        mark.set("by root\n").unwrap();
        mark.set("by root again\n").unwrap();
        assert!(mark.is_set() && StopMark::of(folder.path()).is_set());
        assert_eq!(std::fs::read_to_string(mark.path()).unwrap(), "by root again\n");
        let (_store, repairs) = crate::Store::open(folder.path()).unwrap();
        assert!(repairs.is_empty(), "{repairs:?}");
        assert!(mark.is_set());
        mark.clear().unwrap();
        assert!(!mark.is_set());
        assert!(StopMark::of(&folder.path().join("missing")).set("").is_err());
    }
}
