//! What is wrong? One look at the machine, one at the engine; each finding says what to do.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sluice_engine::runtime::Engine;
use sluice_model::{BootConfig, DestinationKind, DropReason, PolicySet, PortSpec};

use super::exceptions::{Code, Finding};
use super::machine::{self, Process};

/// What a look at the machine finds.
pub(super) const MACHINE: [Code; 3] = [Code::DiskLow, Code::MemoryLow, Code::ThreadsLimit];
/// What a look at the engine finds.
pub(super) const ENGINE: [Code; 7] = [
    Code::BreakerOpen,
    Code::FeedGuard,
    Code::DistributionLimit,
    Code::CaptureLimit,
    Code::NextHopUnresolved,
    Code::PortDown,
    Code::FileFailed,
];
/// A limit counts as reached for so long after the last drop.
const HOLD: Duration = Duration::from_secs(5);
/// A next hop may be unknown for so long: it takes a moment to be asked for.
const GRACE: Duration = Duration::from_secs(1);

const MIB: u64 = 1 << 20;

fn finding(code: Code, subject: impl Into<String>, text: String) -> Finding {
    Finding { code, subject: subject.into(), text }
}

/// Looks at disks, memory and threads.
pub(super) fn machine(boot: &BootConfig, policies: &PolicySet) -> Vec<Finding> {
    let settings = &boot.protection;
    let mut found = Vec::new();
    if let Some(least) = settings.free_disk_mb {
        for folder in folders(boot, policies) {
            let Some(free) = machine::free_disk(&folder) else { continue };
            if free < u64::from(least) * MIB {
                let text = format!(
                    "{} MiB are left on the disk, less than free_disk_mb = {least}: delete what is not needed, or give \
                     it a larger disk",
                    free / MIB
                );
                found.push(finding(Code::DiskLow, folder.display().to_string(), text));
            }
        }
    }
    let process = Process::read();
    if let Some(available) = machine::available_memory() {
        let limit = settings.memory_mb.map(|limit| u64::from(limit) * MIB);
        let least = settings.free_memory_mb.map(|least| u64::from(least) * MIB);
        let text = if let Some(least) = least.filter(|least| available < *least) {
            Some(format!(
                "{} MiB of memory are left, less than free_memory_mb = {}: end other programs, or give the machine more",
                available / MIB,
                least / MIB
            ))
        } else {
            limit.filter(|limit| available.saturating_add(process.memory_bytes) < *limit).map(|limit| {
                format!(
                    "{} MiB of memory are left and {} are used, less than memory_mb = {} in all: end other programs, or \
                     lower the limit",
                    available / MIB,
                    process.memory_bytes / MIB,
                    limit / MIB
                )
            })
        };
        found.extend(text.map(|text| finding(Code::MemoryLow, "", text)));
    }
    if let Some(most) = settings.threads.filter(|most| process.threads > u64::from(*most)) {
        let text = format!(
            "the process has {} threads, more than threads = {most}: use fewer workers, or raise the limit",
            process.threads
        );
        found.push(finding(Code::ThreadsLimit, "", text));
    }
    found
}

/// The folders that the daemon writes to: the store, records, capture files.
fn folders(boot: &BootConfig, policies: &PolicySet) -> Vec<PathBuf> {
    let parent = |file: &Path| file.parent().map(Path::to_owned);
    let captures = policies.destinations().iter().filter_map(|destination| match &destination.kind {
        DestinationKind::Pcap { file } => parent(file),
        DestinationKind::Tunnel(_) | DestinationKind::Port { .. } | DestinationKind::Group(_) => None,
    });
    let flow = &boot.flow;
    let records = [&flow.jsonl, &flow.metrics_jsonl];
    let records = records.into_iter().filter_map(|file| parent(file.as_ref()?));
    let parquet = flow.parquet.iter().map(|output| output.folder.clone());
    let mut all: Vec<_> =
        boot.api.store.clone().into_iter().chain(parquet).chain(records).chain(captures).collect();
    all.sort();
    all.dedup();
    all
}

/// Looks at the engine again and again.
#[derive(Debug, Default)]
pub(super) struct EngineCheck {
    /// Drops by a limit so far, by code and subject, and when they last grew.
    limited: HashMap<(Code, String), (u64, Option<Instant>)>,
    /// Since when a destination has had no next hop.
    unresolved: HashMap<String, Instant>,
}

impl EngineCheck {
    /// What is wrong at `now`.
    pub(super) fn look(&mut self, engine: &Engine, boot: &BootConfig, now: Instant) -> Vec<Finding> {
        let mut found = Vec::new();
        for (port, setup) in engine.ports().iter().zip(&boot.ports) {
            // A capture file ends: that is nothing wrong.
            if !port.up && !port.removed && !matches!(setup.spec, PortSpec::Pcap(_)) {
                let text = match &setup.spec {
                    PortSpec::Vhost(socket) => format!(
                        "no switch is connected to {}: nothing comes in there, and copies to it are dropped; is \
                         ovs-vswitchd running, and attached (sluice ovs status)?",
                        socket.display()
                    ),
                    spec => format!(
                        "the link of {spec} is down or the interface is gone: nothing comes in there, and copies to it \
                         are dropped; check cable, switch and interface"
                    ),
                };
                found.push(finding(Code::PortDown, &*port.name, text));
            }
            if let Some(breaker) = port.breaker.filter(|breaker| breaker.open) {
                let text = format!(
                    "the interface carried {} Mbit/s, over the threshold of [breaker]: copies to it are dropped until it \
                     carries less; send less by it, or raise the threshold",
                    breaker.rate_bps / 1_000_000
                );
                found.push(finding(Code::BreakerOpen, &*port.name, text));
            }
            if let Some(feed) = port.feed.filter(|feed| feed.stopped) {
                let text = format!(
                    "{} frames between others came in: this is no port of a tool, and plain copies to it are dropped; \
                     connect it to a tool, which takes its link down and up, or write feed_guard = \"off\"",
                    feed.foreign
                );
                found.push(finding(Code::FeedGuard, &*port.name, text));
            }
        }
        let missing = engine.unresolved();
        self.unresolved.retain(|name, _| missing.iter().any(|(other, _)| other == name));
        for (destination, next_hop) in missing {
            let since = *self.unresolved.entry(destination.clone()).or_insert(now);
            if now.duration_since(since) < GRACE {
                continue;
            }
            let text = match next_hop {
                Some(next_hop) => format!(
                    "{next_hop} does not answer to ARP or ND: copies are dropped; check its address, VLAN and cabling"
                ),
                None => "no output port leads there: copies are dropped; give a port an address in its network, or a \
                         gateway"
                    .to_owned(),
            };
            found.push(finding(Code::NextHopUnresolved, destination, text));
        }
        for (path, error) in engine.failing_files() {
            let text = format!(
                "{error}; its copies are dropped as file_write until it can be written again: make room, or mend the folder"
            );
            found.push(finding(Code::FileFailed, path.display().to_string(), text));
        }
        let totals = engine.generation_totals();
        let mut rows: Vec<_> = totals
            .destinations
            .iter()
            .map(|row| {
                (Code::DistributionLimit, row.name.clone(), row.totals.drops.get(DropReason::RateLimit))
            })
            .collect();
        let captured = engine.account().ledger.drops.get(DropReason::CaptureLimit);
        rows.push((Code::CaptureLimit, String::new(), captured));
        found.extend(self.limits(rows, now));
        found
    }

    /// The limits whose drops grew a moment ago.
    fn limits(&mut self, rows: Vec<(Code, String, u64)>, now: Instant) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut next = HashMap::new();
        for (code, subject, drops) in rows {
            let key = (code, subject);
            let (before, mut grew) = self.limited.remove(&key).unwrap_or((0, None));
            if drops > before {
                grew = Some(now);
            }
            if grew.is_some_and(|at| now.duration_since(at) < HOLD) {
                let text = match code {
                    Code::CaptureLimit => {
                        "more packets come in than capture_kpps allows, and the others are dropped as capture_limit: \
                         raise it, or capture less"
                    }
                    _ => {
                        "copies exceed a rate limit and are dropped as rate_limit: raise the limit of the destination, \
                         its group or [limit], or copy less"
                    }
                };
                found.push(finding(code, key.1.clone(), text.to_owned()));
            }
            next.insert(key, (drops, grew));
        }
        self.limited = next;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_as_reached_for_a_while() {
        let mut check = EngineCheck::default();
        let begin = Instant::now();
        let mut look = |second: u64, drops: [u64; 2]| {
            let rows = vec![
                (Code::DistributionLimit, "tool".to_owned(), drops[0]),
                (Code::CaptureLimit, String::new(), drops[1]),
            ];
            let found = check.limits(rows, begin + Duration::from_secs(second));
            found.into_iter().map(|finding| (finding.code, finding.subject)).collect::<Vec<_>>()
        };
        let tool = || (Code::DistributionLimit, "tool".to_owned());
        let capture = || (Code::CaptureLimit, String::new());
        assert_eq!(look(0, [0, 0]), []);
        assert_eq!(look(1, [5, 0]), [tool()]);
        assert_eq!(look(5, [5, 0]), [tool()]);
        assert_eq!(look(6, [5, 1]), [capture()]);
        // A generation without the destination began to count anew.
        assert_eq!(look(7, [0, 1]), [capture()]);
        assert_eq!(look(20, [0, 1]), []);
    }

    #[test]
    fn limits_that_cannot_be_kept_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let text = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";
        let boot = |more: &str| {
            let name = folder.path().join("boot.toml").display().to_string();
            sluice_model::spec::parse_boot(&name, &format!("{text}{more}")).unwrap().value
        };
        let policies = sluice_model::spec::parse_policy("p", "").unwrap().value;
        let codes = |more: &str| {
            let found = machine(&boot(more), &policies);
            found.iter().map(|finding| (finding.code, finding.subject.clone())).collect::<Vec<_>>()
        };
        let kept = folder.path().join("kept").display().to_string();
        let store = "[store]\nfolder = \"kept\"\n[protection]\nthreads = 1\nmemory_mb = 16000000\n";
        assert_eq!(codes(store), [(Code::MemoryLow, String::new()), (Code::ThreadsLimit, String::new())]);
        let all = format!("{store}free_disk_mb = 1000000000\nfree_memory_mb = 16000000\n");
        assert_eq!(
            codes(&all),
            [(Code::DiskLow, kept), (Code::MemoryLow, String::new()), (Code::ThreadsLimit, String::new())]
        );
        assert_eq!(codes("[protection]\nthreads = 0\nfree_disk_mb = 0\nfree_memory_mb = 0\n"), []);
    }
}
