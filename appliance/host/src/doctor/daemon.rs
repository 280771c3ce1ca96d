//! Which process is the daemon that the boot config is for, and what does it hold?

use std::path::Path;

use super::Case;
use crate::Machine;

/// The number of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daemon(pub(crate) String);

impl Daemon {
    /// The one that runs with the boot config of `case`; without a boot config, any.
    pub(crate) fn of(machine: &Machine<'_>, case: &Case<'_>) -> Option<Self> {
        let numbers =
            machine.names("/proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
        numbers.map(Self).find(|daemon| {
            machine.text(daemon.file("comm")).as_deref() == Some("sluiced")
                && machine.text(daemon.file("cmdline")).is_some_and(|line| {
                    let words: Vec<&str> = line.split('\0').collect();
                    words.contains(&"run") && case.config.is_none_or(|config| names(&words, config))
                })
        })
    }

    /// A file of the kernel about it.
    pub(crate) fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0)
    }

    /// Hugepages that it holds, kilobytes.
    pub(crate) fn hugepages_kb(&self, machine: &Machine<'_>) -> u64 {
        machine.kilobytes(self.file("status"), "HugetlbPages").unwrap_or(0)
    }
}

/// Whether a command line of `sluiced` names this boot config. What is relative to a folder of its own is known by the
/// name of the file.
pub(crate) fn names(words: &[&str], config: &Path) -> bool {
    let mut given = words.iter().zip(words.iter().skip(1)).filter(|(option, _)| **option == "--config");
    let given = given.next().map(|(_, path)| *path);
    let given = given.or_else(|| words.iter().find_map(|word| word.strip_prefix("--config=")));
    given.map(Path::new).is_some_and(|given| {
        if given.is_absolute() && config.is_absolute() {
            given == config
        } else {
            given.file_name() == config.file_name()
        }
    })
}
