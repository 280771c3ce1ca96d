//! Is there room for what is kept?

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use sluice_model::DestinationKind;

use super::Case;
use super::finding::Finding;
use crate::Machine;

/// What the writer of Parquet files leaves free, unless the boot config says otherwise, megabytes.
const RESERVE_MB: u32 = 256;
/// Less than this is worth a look, bytes.
const LITTLE: u64 = 1 << 30;

/// Looks at every folder that files are written to.
pub(crate) fn folders(machine: &Machine<'_>, case: &Case<'_>, findings: &mut Vec<Finding>) {
    const CHECK: &str = "disk";
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut reserved: Option<(&Path, u64)> = None;
    if let Some(boot) = case.boot {
        if let Some(parquet) = &boot.flow.parquet {
            let reserve_mb = parquet.reserve_mb.unwrap_or(RESERVE_MB);
            reserved = Some((&parquet.folder, u64::from(reserve_mb) * 1_000_000));
        }
        folders.extend(boot.api.pcap_folder.clone());
        folders.extend(boot.flow.parquet.iter().map(|parquet| parquet.folder.clone()));
        folders.extend(boot.api.store.clone());
        let files = [&boot.flow.jsonl, &boot.flow.metrics_jsonl];
        folders.extend(files.into_iter().flatten().filter_map(|file| Some(file.parent()?.to_owned())));
    }
    let kinds = case.policies.map_or(&[][..], |policies| policies.destinations()).iter().map(|d| &d.kind);
    folders.extend(kinds.filter_map(|kind| match kind {
        DestinationKind::Pcap { file } => Some(file.parent()?.to_owned()),
        DestinationKind::Tunnel(_) | DestinationKind::Port { .. } | DestinationKind::Group(_) => None,
    }));
    let protection = case.boot.map_or_else(Default::default, |boot| boot.protection);
    let least = protection.free_disk_mb.map_or(0, |mb| u64::from(mb) << 20);
    folders.sort();
    folders.dedup();
    for folder in folders {
        let reserve = reserved.filter(|(parquet, _)| *parquet == folder).map_or(0, |(_, bytes)| bytes);
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let subject = folder.display().to_string();
        // A folder that is not there is made in the nearest one that is.
        let there = folder.ancestors().find(|folder| machine.path(folder).is_dir());
        let Ok(found) = statvfs(machine.path(there.unwrap_or(Path::new("/")))) else {
            findings.push(Finding::error(
                CHECK,
                subject,
                "it cannot be looked at",
                "nothing can be written there",
            ));
            continue;
        };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let text = format!("{} MB are free", free >> 20);
        findings.push(if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            let cost = "nothing can be written there";
            Finding::error(CHECK, subject, "the file system is mounted to be read only", cost)
        } else if free < reserve {
            let text = format!("{text}, and reserve_mb = {} are kept free", reserve / 1_000_000);
            Finding::error(CHECK, subject, text, "no records are written; they are lost and counted")
        } else if free < least {
            let text = format!("{text}, less than free_disk_mb = {}", least >> 20);
            Finding::warning(CHECK, subject, text, "the daemon raises disk_low, and writes until it is full")
        } else if free < LITTLE {
            Finding::warning(
                CHECK,
                subject,
                text,
                "it may soon be full; what cannot be written is lost and counted",
            )
        } else {
            Finding::ok(CHECK, subject, text)
        });
    }
}
