//! Where are the real captures that tests read?
#![expect(clippy::missing_panics_doc, clippy::panic, reason = "only tests call these")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the captures: `SLUICE_CAPTURES`, or `shared/captures` beside the repository.
///
/// Without one it says so on stderr and gives `None`, for the test to return; with `CI=true` it panics instead.
pub fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures");
    let folder = env::var_os("SLUICE_CAPTURES").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    let ci = env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!ci, "no captures in {}", folder.display());
    crate::left_out(format_args!("no captures in {} (set SLUICE_CAPTURES)", folder.display()));
    None
}

/// Every file below the folder in the order of paths, captures and others.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// The text of a file that gzip packed.
pub fn unpacked(path: &Path) -> String {
    let output = Command::new("gzip").arg("-dc").arg(path).output();
    let output = output.unwrap_or_else(|error| panic!("gzip {}: {error}", path.display()));
    assert!(output.status.success(), "gzip {}", path.display());
    String::from_utf8(output.stdout).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
