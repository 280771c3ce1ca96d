//! Did somebody stop the appliance, so that it stays stopped when it starts again?
//!
//! A file beside the generations whose being there says so; what is in it is for people.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The name of the file.
pub(crate) const NAME: &str = "stopped";
/// Its name while it is written.
pub(crate) const NEW: &str = "stopped.new";

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
    /// When it cannot be written; then it is as it was before, set or not.
    pub fn set(&self, why: &str) -> io::Result<()> {
        let (new, path) = (self.folder.join(NEW), self.path());
        let was_set = self.is_set();
        let written = || {
            let mut file = File::create(&new)?;
            file.write_all(why.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            self.sync()
        };
        written().inspect_err(|_| {
            drop(std::fs::remove_file(&new));
            if !was_set {
                drop(std::fs::remove_file(&path));
            }
        })
    }

    /// Takes it away. Where the disk does not confirm that, a power cut may bring it back: nothing is copied then, which
    /// everybody sees.
    ///
    /// # Errors
    /// When it is still there.
    pub fn clear(&self) -> io::Result<()> {
        match std::fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                drop(self.sync());
                Ok(())
            }
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
        // One that cannot be written leaves the one that is there.
        std::fs::create_dir(folder.path().join(NEW)).unwrap();
        assert!(mark.set("by nobody\n").is_err());
        assert_eq!(std::fs::read_to_string(mark.path()).unwrap(), "by root again\n");
        std::fs::remove_dir(folder.path().join(NEW)).unwrap();
        mark.clear().unwrap();
        assert!(!mark.is_set());
        assert!(StopMark::of(&folder.path().join("missing")).set("").is_err());
    }
}
