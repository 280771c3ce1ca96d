//! How do generations come, stay and go?

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use sluice_model::Generation;

use crate::disk::{Disk, OsDisk};
use crate::entry::{Entry, Stored, Summary};
use crate::error::{Damage, StoreError};
use crate::format::{FORMAT, MAX_FILE_BYTES, decode, encode};
use crate::lock::{self, Lock};
use crate::repair::Repair;
use crate::stop_mark;

/// So many generations are kept, the one in force included.
pub const KEPT: usize = 50;

/// The generations of one folder.
///
/// ```
/// use sluice_store::{Entry, Origin, Store};
///
/// let dir = tempfile::tempdir().unwrap();
/// let (mut store, repairs) = Store::open(dir.path()).unwrap();
/// assert!(repairs.is_empty() && store.last().unwrap().is_none());
/// let generation = store.reserve().unwrap();
/// // Compile and publish it under this number; then:
/// let entry = Entry {
///     applied_at_ns: 1_700_000_000_000_000_000,
///     applied_by: "root".into(),
///     comment: "first".into(),
///     origin: Origin::Apply,
///     policies: 0,
///     groups: 0,
///     destinations: 0,
///     changes: vec![],
///     policy_text: "# nothing\n".into(),
/// };
/// store.append(generation, &entry).unwrap();
/// assert_eq!(store.last().unwrap().unwrap().policy_text, "# nothing\n");
/// ```
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    disk: Box<dyn Disk>,
    /// Oldest first.
    kept: Vec<Summary>,
    /// The most that may be kept.
    max_kept: usize,
    /// The greatest number that a file has or had, or was tried for one.
    used: u64,
    /// The greatest number that was handed out.
    reserved: u64,
    /// After a failure that leaves open what the disk has.
    closed: bool,
    _lock: Option<Lock>,
}

impl Store {
    /// Opens a folder, makes it if it is not there, and puts it in order after a crash. What was found is for the log;
    /// see [`Repair::is_loss`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if another process has it, [`StoreError::NewerFormat`] if a later version wrote in it, [`StoreError::Io`]
    /// if it cannot be read. Nothing is changed then.
    pub fn open(folder: &Path) -> Result<(Self, Vec<Repair>), StoreError> {
        let disk = OsDisk::open(folder).map_err(StoreError::io(folder, "make the folder"))?;
        let lock = Lock::take(folder)?;
        Self::open_disk(folder, Box::new(disk), KEPT, Some(lock))
    }

    /// Opens a disk that nobody else has, because of the lock or because it is simulated.
    pub(crate) fn open_disk(
        folder: &Path,
        disk: Box<dyn Disk>,
        max_kept: usize,
        lock: Option<Lock>,
    ) -> Result<(Self, Vec<Repair>), StoreError> {
        let mut found = Found::default();
        for name in disk.names().map_err(StoreError::io(folder, "list"))? {
            found.sort(name);
        }
        // All is read before anything is changed, so that a folder of a later version stays as it is.
        let mut kept = Vec::new();
        let mut damaged = Vec::new();
        let mut surplus = Vec::new();
        for &number in found.generations.iter().rev() {
            let generation = Generation(number);
            let name = FileName::Whole(generation).to_string();
            if kept.len() == max_kept {
                surplus.push(name);
                continue;
            }
            match read(folder, &*disk, generation) {
                Ok(stored) => kept.push(stored.summary),
                Err(StoreError::Damaged { damage, .. }) => damaged.push((generation, name, damage)),
                Err(error) => return Err(error),
            }
        }
        kept.reverse();
        let newest = kept.last().map(|summary| summary.generation);
        let mut repairs = Vec::new();
        if let Some((lost, ..)) = damaged.first().filter(|(lost, ..)| Some(*lost) > newest) {
            repairs.push(Repair::NewestLost { lost: *lost, instead: newest });
        }
        for (generation, file, damage) in damaged {
            let name = FileName::Damaged(generation).to_string();
            let renamed = disk.rename(&file, &name);
            let kept_as = renamed.is_ok().then_some(name);
            repairs.push(Repair::Damaged { generation, file: file.clone(), damage, kept_as });
            if let Err(source) = renamed {
                repairs.push(Repair::Refused { file, action: "rename it", source });
            }
        }
        for file in found.unfinished {
            repairs.push(match disk.remove(&file) {
                Ok(()) => Repair::Unfinished { file },
                Err(source) => Repair::Refused { file, action: "remove it", source },
            });
        }
        for file in surplus {
            if let Err(source) = disk.remove(&file) {
                repairs.push(Repair::Refused { file, action: "remove it", source });
            }
        }
        // The process before may have ended between a new name and its synchronisation: what is in force from now on must
        // outlast a power cut, too.
        if let Err(source) = disk.sync() {
            let file = folder.display().to_string();
            repairs.push(Repair::Refused { file, action: "synchronise the folder", source });
        }
        repairs.extend(found.strangers.into_iter().map(|file| Repair::Stranger { file }));
        let folder = folder.to_owned();
        let used = found.used;
        let store = Self { folder, disk, kept, max_kept, used, reserved: used, closed: false, _lock: lock };
        Ok((store, repairs))
    }

    /// A number for the next generation, to compile and publish it under. Numbers grow, and none is handed out twice; one
    /// that is not used is left out. Only one under which nothing was kept may come again after a restart.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exhausted`] after 2^64 - 1.
    pub fn reserve(&mut self) -> Result<Generation, StoreError> {
        let exhausted = || StoreError::Exhausted { path: self.folder.clone() };
        self.reserved = self.reserved.checked_add(1).ok_or_else(exhausted)?;
        Ok(Generation(self.reserved))
    }

    /// Keeps a generation under a number that was reserved. When this returns, the generation is what a start finds,
    /// whatever happens. What the answer tells went wrong afterwards: the oldest generation could not be removed.
    ///
    /// # Errors
    ///
    /// The generation is not kept, and the one before is still the last one; to try again, reserve a new number. After
    /// [`StoreError::InDoubt`] only a new start can tell which one is the last, and nothing more is kept until then.
    pub fn append(&mut self, generation: Generation, entry: &Entry) -> Result<Vec<Repair>, StoreError> {
        if self.closed {
            return Err(StoreError::Closed { path: self.folder.clone() });
        }
        if generation.0 <= self.used || generation.0 > self.reserved {
            return Err(StoreError::Number { generation });
        }
        entry.check()?;
        let stored = entry.stored(generation, self.kept.last().map(|summary| summary.generation));
        let name = FileName::Whole(generation).to_string();
        let path = self.folder.join(&name);
        let bytes = encode(&stored).map_err(|error| StoreError::io(&path, "encode it")(error.into()))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let max = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
            return Err(StoreError::TooLong {
                what: "the generation",
                length: bytes.len(),
                max,
                unit: "bytes",
            });
        }
        self.used = generation.0;
        self.write(generation, &name, &bytes)?;
        self.kept.push(stored.summary);
        Ok(self.prune())
    }

    /// Puts a file in its place, so that it is there whole or not at all.
    fn write(&mut self, generation: Generation, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let unfinished = FileName::Unfinished(generation).to_string();
        let path = self.folder.join(&unfinished);
        let written = || -> Result<(), (&'static str, io::Error)> {
            let mut file = self.disk.create(&unfinished).map_err(|error| ("create it", error))?;
            file.write(bytes).map_err(|error| ("write it", error))?;
            file.sync().map_err(|error| ("synchronise it", error))
        };
        if let Err((action, source)) = written() {
            // What cannot be removed now is removed at the next start.
            drop(self.disk.remove(&unfinished));
            return Err(StoreError::Io { path, action, source });
        }
        let renamed = self.disk.rename(&unfinished, name).map_err(|error| ("rename it", error));
        let Err((action, source)) = renamed
            .and_then(|()| self.disk.sync().map_err(|error| ("synchronise the folder that has it", error)))
        else {
            return Ok(());
        };
        // It may have its name, for now or for good: take it away for good, or nobody knows.
        drop(self.disk.remove(&unfinished));
        let path = self.folder.join(name);
        let removed = match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.disk.sync(),
        };
        if removed.is_ok() {
            return Err(StoreError::Io { path, action, source });
        }
        self.closed = true;
        Err(StoreError::InDoubt { path, action, source })
    }

    /// Removes what is too old. What cannot be removed now is tried again at the next start.
    fn prune(&mut self) -> Vec<Repair> {
        let surplus = self.kept.len().saturating_sub(self.max_kept);
        let mut refused = Vec::new();
        for summary in self.kept.drain(..surplus) {
            let file = FileName::Whole(summary.generation).to_string();
            if let Err(source) = self.disk.remove(&file) {
                refused.push(Repair::Refused { file, action: "remove it", source });
            }
        }
        refused
    }

    /// The generation that was applied last, whole.
    ///
    /// # Errors
    ///
    /// As [`Store::get`].
    pub fn last(&self) -> Result<Option<Stored>, StoreError> {
        self.kept.last().map(|summary| self.get(summary.generation)).transpose()
    }

    /// One generation, whole.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotKept`], or [`StoreError::Damaged`] if it was damaged since the start.
    pub fn get(&self, generation: Generation) -> Result<Stored, StoreError> {
        let index = self.kept.binary_search_by_key(&generation, |summary| summary.generation);
        index.map_err(|_| StoreError::NotKept { generation })?;
        read(&self.folder, &*self.disk, generation)
    }

    /// What is known about the generations that are kept, oldest first. The last one is in force.
    #[must_use]
    pub fn history(&self) -> &[Summary] {
        &self.kept
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn read(folder: &Path, disk: &dyn Disk, generation: Generation) -> Result<Stored, StoreError> {
    let name = FileName::Whole(generation).to_string();
    let path = folder.join(&name);
    let damaged = |damage| StoreError::Damaged { path: path.clone(), damage };
    let bytes = match disk.read(&name, MAX_FILE_BYTES + 1) {
        Ok(bytes) => bytes,
        // The disk is broken here; anything else is about this process, and other generations would fare alike.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EUCLEAN | libc::EBADMSG)) => {
            return Err(damaged(Damage::Unreadable(error)));
        }
        Err(error) => return Err(StoreError::io(&path, "read it")(error)),
    };
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(damaged(Damage::TooLong { max: MAX_FILE_BYTES }));
    }
    match decode(&bytes) {
        Ok(stored) if stored.summary.generation == generation => Ok(stored),
        Ok(stored) => Err(damaged(Damage::Name { named: generation, inside: stored.summary.generation })),
        Err(Damage::NewerFormat(format)) => Err(StoreError::NewerFormat { path, format, known: FORMAT }),
        Err(damage) => Err(damaged(damage)),
    }
}

/// What a folder has.
#[derive(Default)]
struct Found {
    generations: BTreeSet<u64>,
    unfinished: BTreeSet<String>,
    strangers: BTreeSet<String>,
    used: u64,
}

impl Found {
    fn sort(&mut self, name: String) {
        if name == lock::NAME || name == stop_mark::NAME || name == stop_mark::NEW {
            return;
        }
        match FileName::parse(&name) {
            Some(file) => {
                self.used = self.used.max(file.generation().0);
                match file {
                    FileName::Whole(generation) => drop(self.generations.insert(generation.0)),
                    FileName::Unfinished(_) => drop(self.unfinished.insert(name)),
                    FileName::Damaged(_) => {}
                }
            }
            None => drop(self.strangers.insert(name)),
        }
    }
}

/// The names of the store's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileName {
    /// `00000042.toml`
    Whole(Generation),
    /// `00000042.tmp`: never was in force.
    Unfinished(Generation),
    /// `00000042.damaged`: only its number counts.
    Damaged(Generation),
}

impl FileName {
    const fn parts(self) -> (Generation, &'static str) {
        match self {
            Self::Whole(generation) => (generation, "toml"),
            Self::Unfinished(generation) => (generation, "tmp"),
            Self::Damaged(generation) => (generation, "damaged"),
        }
    }

    const fn generation(self) -> Generation {
        self.parts().0
    }

    fn parse(name: &str) -> Option<Self> {
        let (number, _) = name.split_once('.')?;
        let generation = Generation(number.parse().ok()?);
        let names = [Self::Whole(generation), Self::Unfinished(generation), Self::Damaged(generation)];
        names.into_iter().find(|file| file.to_string() == name)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Generation(number), kind) = self.parts();
        write!(f, "{number:08}.{kind}")
    }
}
