//! Would a file be written that is something else of the same run, too?
//!
//! An output that is an input by another name empties it before it is read; two outputs in one file overwrite each other.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sluice_model::{BootConfig, DestinationKind, PolicySet, PortSpec};

/// What is wrong with the files of a run, one line for each that would be overwritten.
pub(crate) fn clashes(
    config: Option<&Path>,
    boot: Option<&BootConfig>,
    policy: &Path,
    policies: &PolicySet,
) -> Vec<String> {
    let mut known: Vec<(String, PathBuf)> = vec![("the policy file".to_owned(), policy.to_owned())];
    known.extend(config.map(|path| ("the boot config".to_owned(), path.to_owned())));
    for port in boot.iter().flat_map(|boot| &boot.ports) {
        if let PortSpec::Pcap(path) = &port.spec {
            known.push((format!("the capture of port \"{}\"", port.name), path.clone()));
        }
    }
    let mut written = Vec::new();
    for destination in policies.destinations() {
        if let DestinationKind::Pcap { file } = &destination.kind {
            written.push((format!("the file of destination \"{}\"", destination.name), file.clone()));
        }
    }
    if let Some(flow) = boot.map(|boot| &boot.flow).filter(|flow| flow.enabled) {
        let records = [("flow.jsonl", &flow.jsonl), ("flow.metrics_jsonl", &flow.metrics_jsonl)];
        let named = |(name, path): (&str, &Option<PathBuf>)| Some((name.to_owned(), path.clone()?));
        written.extend(records.into_iter().filter_map(named));
    }
    let mut found = Vec::new();
    for (what, path) in written {
        if let Some((other, _)) = known.iter().find(|(_, other)| same_file(other, &path)) {
            found.push(format!(
                "{what}: {} is {other}, too, and would be overwritten; choose another file",
                path.display()
            ));
        }
        known.push((what, path));
    }
    found
}

/// Whether two paths name one regular file, or the same file that is not there yet.
fn same_file(one: &Path, other: &Path) -> bool {
    match (identity(one), identity(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => place(one).is_some_and(|one| Some(one) == place(other)),
        _ => false,
    }
}

/// Which writing of a file this is: another one when it was written again, or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Writing {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    bytes: u64,
}

/// Which writing of the file is there; `None` when nothing can be told.
pub(crate) fn writing(path: &Path) -> Option<Writing> {
    let found = fs::metadata(path).ok()?;
    Some(Writing {
        device: found.dev(),
        inode: found.ino(),
        modified: (found.mtime(), found.mtime_nsec()),
        bytes: found.len(),
    })
}

/// Device and inode: the same for all names and links of a regular file; `None` for devices, pipes and what is not there.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    found.is_file().then(|| (found.dev(), found.ino()))
}

/// Folder and name of a file that is not there; `None` when there is something, or no such folder.
fn place(path: &Path) -> Option<(PathBuf, &OsStr)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let missing = fs::metadata(path).is_err();
    missing.then(|| Some((fs::canonicalize(folder).ok()?, path.file_name()?))).flatten()
}
