//! Which files are there, and which have to go?

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::place::{HIDDEN_END, Hour, WHOLE_END};
use super::settings::Now;
use super::stats::Table;

/// Files that are removed at a time: the caller waits.
const MAX_REMOVED: usize = 1000;

/// How long a file that could not be removed is left alone.
const RETRY: Duration = Duration::from_secs(60);

/// The whole files of a folder, the oldest hour first.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    files: BTreeMap<(Hour, PathBuf), u64>,
    /// Those that could not be removed; neither their age nor their bytes may cost others their place.
    refused: BTreeMap<(Hour, PathBuf), u64>,
    /// When these are tried again.
    retry: Option<Instant>,
    /// Of `files`.
    bytes: u64,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// Files that could not be removed.
    pub(crate) refused: usize,
}

impl Shelf {
    /// Looks through a folder: finds whole files, and removes unfinished ones, which it counts.
    ///
    /// It sees nothing but files of our names in folders of our names.
    pub(crate) fn scan(folder: &Path) -> io::Result<(Self, usize)> {
        let mut shelf = Self::default();
        let mut unfinished = 0;
        for table in Table::ALL {
            let table_folder = PathBuf::from(format!("table={}", table.name()));
            for date in names(&folder.join(&table_folder))? {
                for hour in names(&folder.join(&table_folder).join(&date))? {
                    let Some(found) = Hour::parse(&date, &hour) else { continue };
                    let place = table_folder.join(&date).join(&hour);
                    for name in names(&folder.join(&place))? {
                        let path = folder.join(&place).join(&name);
                        if is_unfinished(&name, table) {
                            fs::remove_file(&path)?;
                            unfinished += 1;
                        } else if is_whole(&name, table) {
                            shelf.add(found, place.join(&name), fs::metadata(&path)?.len());
                        }
                    }
                }
            }
        }
        Ok((shelf, unfinished))
    }

    /// A new whole file, by its path below the folder.
    pub(crate) fn add(&mut self, hour: Hour, path: PathBuf, bytes: u64) {
        let before = self.files.insert((hour, path), bytes).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(bytes).saturating_sub(before);
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.saturating_add(self.refused.values().sum())
    }

    /// Removes what is too old, or too much. What cannot be removed is tried again later.
    pub(crate) fn retain(
        &mut self,
        folder: &Path,
        now: Now,
        keep: Option<Duration>,
        keep_bytes: Option<u64>,
    ) -> Removed {
        if self.retry.is_some_and(|at| now.at >= at) {
            self.retry = None;
            for ((hour, path), bytes) in std::mem::take(&mut self.refused) {
                self.add(hour, path, bytes);
            }
        }
        let oldest_us = keep.map_or(0, |keep| {
            now.wall_us().saturating_sub(u64::try_from(keep.as_micros()).unwrap_or(u64::MAX))
        });
        let mut removed = Removed::default();
        while removed.files + removed.refused < MAX_REMOVED {
            let Some(first) = self.files.first_entry() else { break };
            let (hour, path) = first.key();
            let old = hour.end_us() <= oldest_us;
            if !old && keep_bytes.is_none_or(|most| self.bytes <= most) {
                break;
            }
            let path = folder.join(path);
            let gone = fs::remove_file(&path);
            let (key, bytes) = first.remove_entry();
            self.bytes = self.bytes.saturating_sub(bytes);
            match gone {
                Ok(()) => {
                    removed.files += 1;
                    removed.bytes += bytes;
                }
                // Somebody else did it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // It must not stop the others.
                Err(_) => {
                    removed.refused += 1;
                    self.refused.insert(key, bytes);
                    self.retry.get_or_insert(now.at + RETRY);
                    continue;
                }
            }
            remove_empty(&path);
        }
        removed
    }
}

/// Removes the folders of hour and date when nothing is left in them.
fn remove_empty(path: &Path) {
    for folder in path.ancestors().skip(1).take(2) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

/// The names in a folder; none when it is not there.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

fn is_whole(name: &str, table: Table) -> bool {
    name.starts_with(&format!("{}-", table.name())) && name.ends_with(WHOLE_END)
}

fn is_unfinished(name: &str, table: Table) -> bool {
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(HIDDEN_END));
    inner.is_some_and(|name| is_whole(name, table))
}
