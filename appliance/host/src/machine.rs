//! The machine as files and commands, so that tests can make up one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs commands.
pub trait Tools {
    /// What a command prints.
    ///
    /// # Errors
    /// That it is not there, or what it complained of.
    fn run(&self, command: &[&str]) -> Result<String, String>;
}

/// The machine that this runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl Tools for Host {
    fn run(&self, command: &[&str]) -> Result<String, String> {
        let Some((program, arguments)) = command.split_first() else { return Err("no command".to_owned()) };
        let output = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .env("LC_ALL", "C")
            .output()
            .map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let told = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program}: {}", told.lines().next().unwrap_or("failed")))
    }
}

/// A machine whose files are below a folder.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    root: &'a Path,
    /// Its commands.
    pub tools: &'a dyn Tools,
}

impl std::fmt::Debug for Machine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("root", &self.root).finish_non_exhaustive()
    }
}

impl<'a> Machine<'a> {
    /// The machine with these files and commands; `/` and [`Host`] for the one that this runs on.
    #[must_use]
    pub fn new(root: &'a Path, tools: &'a dyn Tools) -> Self {
        Self { root, tools }
    }

    /// Where a file of the machine is.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file, without white space around it; `None` when it cannot be read.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    pub(crate) fn number(&self, path: impl AsRef<Path>) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// The last part of what a link points to.
    pub(crate) fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The names in a folder.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let names: BTreeSet<String> = names.collect();
        names.into_iter().collect()
    }

    /// A number of a file with lines such as `MemAvailable:  1024 kB`.
    pub(crate) fn line(&self, path: impl AsRef<Path>, name: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    pub(crate) fn kilobytes(&self, path: impl AsRef<Path>, name: &str) -> Option<u64> {
        self.line(path, name)?.split_whitespace().next()?.parse().ok()
    }

    /// CPUs in a file such as `0-3,8`; `None` when it is not there.
    pub(crate) fn cpus(&self, path: impl AsRef<Path>) -> Option<BTreeSet<u16>> {
        Some(list(&self.text(path)?))
    }
}

/// The numbers of `0-3,8`; what is none is left out.
fn list(text: &str) -> BTreeSet<u16> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            all.extend(first..=last);
        }
    }
    all
}

/// CPUs as the kernel writes them: `0-3,8`.
pub(crate) fn ranges(cpus: impl IntoIterator<Item = u16>) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(cpu) => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let texts = runs.iter().map(
        |(first, last)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        },
    );
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_those_of_the_kernel() {
        for text in ["0-3,8", "", "5", "0,2,4-6"] {
            assert_eq!(ranges(list(text)), text);
        }
        assert_eq!(list("x,3-,7-5,2"), [2].into());
    }
}
