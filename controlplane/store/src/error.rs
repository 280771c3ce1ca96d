//! What can go wrong, and what should the operator do?

use std::io;
use std::path::{Path, PathBuf};

use sluice_model::Generation;

use crate::lock::Holder;

/// Why the store did not do what it was asked. Nothing has changed then, but for [`StoreError::InDoubt`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused something.
    #[error("{}: cannot {action}: {source}; {}", path.display(), advice(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was to be done with it.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error("{}: in use by {holder}; stop that process, or give this one a folder of its own", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who.
        holder: Holder,
    },
    /// A later version wrote the file. Nothing was touched.
    #[error(
        "{}: written in format {format}, and this version knows {known} and older; run the version that wrote it, \
         or move the folder away to start without history",
        path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The latest format known here.
        known: u32,
    },
    /// A generation cannot be read back.
    #[error("{}: damaged: {damage}; roll back to another generation, and check the disk", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        damage: Damage,
    },
    /// There is no such generation, or no more.
    #[error("generation {} is not kept; the history lists those that are", generation.0)]
    NotKept {
        /// The number.
        generation: Generation,
    },
    /// A text is longer than the store takes.
    #[error("{what} has {length} {unit}, and the most is {max}; shorten it")]
    TooLong {
        /// Which one.
        what: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        max: usize,
        /// Of what.
        unit: &'static str,
    },
    /// A number that was not handed out, or was used before.
    #[error("generation {} cannot be kept: its number was not reserved, or is used up; reserve a new one", generation.0)]
    Number {
        /// The number.
        generation: Generation,
    },
    /// There are no more numbers.
    #[error("{}: the numbers of generations are used up; move the folder away to start without history", path.display())]
    Exhausted {
        /// The folder.
        path: PathBuf,
    },
    /// The disk failed so that nobody can know which generation a start would find: the one before, or this one.
    #[error(
        "{}: cannot {action}: {source}; the generation is not in force, but may be after a power cut; {}, and restart",
        path.display(),
        advice(source)
    )]
    InDoubt {
        /// The file.
        path: PathBuf,
        /// What was to be done with it.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing is kept any more since an [`StoreError::InDoubt`].
    #[error("{}: the disk failed before, and changes are no longer kept; check the disk, and restart", path.display())]
    Closed {
        /// The folder.
        path: PathBuf,
    },
}

/// What is wrong with the bytes of a generation.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It does not begin as a generation does.
    #[error("not a generation: its first line is not \"# sluice generation, format N\"")]
    Magic,
    /// The last line is not there.
    #[error("its end is missing")]
    Cut,
    /// The bytes are not those that were written.
    #[error("its checksum is {computed:08x}, and was {stored:08x} when it was written")]
    Checksum {
        /// As its last line says.
        stored: u32,
        /// As its bytes are.
        computed: u32,
    },
    /// Not UTF-8.
    #[error("not a text")]
    Encoding(#[from] std::str::Utf8Error),
    /// A comment cannot be understood.
    #[error("line {line}: {source}")]
    Comment {
        /// Which line, from 1.
        line: u32,
        /// Why.
        source: serde_json::Error,
    },
    /// A later version wrote it.
    #[error("format {0} is newer than what this version knows")]
    NewerFormat(u32),
    /// It is another generation than its name says.
    #[error("it is generation {}, and has the name of {}", inside.0, named.0)]
    Name {
        /// By its name.
        named: Generation,
        /// By its content.
        inside: Generation,
    },
    /// Longer than any generation.
    #[error("longer than {max} bytes")]
    TooLong {
        /// The longest.
        max: u64,
    },
    /// The disk gave an error instead.
    #[error("the disk cannot read it: {0}")]
    Unreadable(#[from] io::Error),
}

impl StoreError {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}

/// What helps against an error of the system.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its file system",
        io::ErrorKind::PermissionDenied => "let the user that the daemon runs as read and write it",
        io::ErrorKind::ReadOnlyFilesystem => "mount its file system writable",
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
            "move away what is in the way"
        }
        _ => "check its file system and disk (dmesg)",
    }
}
