//! Does the kernel hold the daemon to its limits? A control group of its own, below the one that it was started in.
//!
//! Version 1, version 2, or each for some controllers, as mounted. Only the group that the daemon is in gets a group
//! below it, `sluice-PID`; nothing else is touched, and at the end it is gone. Where that may not be, the daemon's own
//! accounting has to do, which it does anyway: a group that holds everything back keeps the daemon from harm to others,
//! protection keeps it from being held back at a bad moment.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sluice_engine::machine::{OwnGroup, own_groups};

/// The span over which the kernel enforces a share of a processor, microseconds.
const PERIOD_US: u64 = 100_000;
/// The least quota that the kernel takes, microseconds.
const LEAST_QUOTA_US: u64 = 1_000;

/// What to hold the process to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Thousandths of a core.
    pub cpu_millicores: Option<u32>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
}

/// The groups that were made. They go when this is dropped.
#[derive(Debug)]
pub struct CgroupLeaf {
    pid: u32,
    places: Vec<Place>,
    /// What is enforced, and why something is not: lines for the log.
    pub told: Vec<String>,
}

/// A group below our own.
#[derive(Debug)]
struct Place {
    parent: PathBuf,
    leaf: PathBuf,
    /// Of version 2: the controllers that were switched on for it.
    enabled: Vec<&'static str>,
}

impl CgroupLeaf {
    /// Puts the process `pid` into groups with these limits, as far as `root`'s `proc` and `sys` let it.
    #[must_use]
    pub fn enter(root: &Path, pid: u32, limits: Enforced) -> Self {
        let mut leaf = Self { pid, places: Vec::new(), told: Vec::new() };
        let groups = own_groups(root);
        for (controller, wanted) in
            [("cpu", limits.cpu_millicores.is_some()), ("memory", limits.memory_bytes.is_some())]
        {
            if !wanted {
                continue;
            }
            let group = groups.iter().find(|group| group.controllers.iter().any(|own| own == controller));
            let line = match group {
                None => format!("{controller}: no control group has this controller"),
                Some(group) => match leaf.limit(group, controller, limits) {
                    Ok(()) => {
                        let version = if group.version2 { 2 } else { 1 };
                        format!(
                            "{controller}: enforced by a control group (version {version}) in {}",
                            group.folder.display()
                        )
                    }
                    Err(error) => {
                        format!("{controller}: no control group in {}: {error}", group.folder.display())
                    }
                },
            };
            leaf.told.push(line);
        }
        leaf
    }

    /// Whether anything is enforced.
    #[must_use]
    pub fn is_entered(&self) -> bool {
        !self.places.is_empty()
    }

    fn limit(&mut self, group: &OwnGroup, controller: &'static str, limits: Enforced) -> io::Result<()> {
        let leaf = group.folder.join(format!("sluice-{}", self.pid));
        let known = self.places.iter().position(|place| place.leaf == leaf);
        let mut place = if let Some(place) = known {
            self.places.remove(place)
        } else {
            remove_old(&group.folder);
            fs::create_dir(&leaf)?;
            Place { parent: group.folder.clone(), leaf, enabled: Vec::new() }
        };
        let done = if group.version2 {
            place.limit2(self.pid, controller, limits)
        } else {
            place.limit1(self.pid, controller, limits)
        };
        if done.is_ok() || known.is_some() {
            self.places.push(place);
        } else {
            place.leave(self.pid);
        }
        done
    }
}

impl Drop for CgroupLeaf {
    fn drop(&mut self) {
        for place in self.places.drain(..) {
            place.leave(self.pid);
        }
    }
}

impl Place {
    /// Version 1: the limit first, then the process.
    fn limit1(&self, pid: u32, controller: &str, limits: Enforced) -> io::Result<()> {
        if let (Some(cpu), "cpu") = (limits.cpu_millicores, controller) {
            self.write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
            self.write("cpu.cfs_quota_us", &quota_us(cpu).to_string())?;
        }
        if let (Some(memory), "memory") = (limits.memory_bytes, controller) {
            self.write("memory.limit_in_bytes", &memory.to_string())?;
        }
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Version 2: a group with processes gives no controllers to groups below it; so the process goes first.
    fn limit2(&mut self, pid: u32, controller: &'static str, limits: Enforced) -> io::Result<()> {
        let file = if controller == "cpu" { "cpu.max" } else { "memory.max" };
        self.write("cgroup.procs", &pid.to_string())?;
        if !self.leaf.join(file).exists() {
            // Only the root of all groups has no type: what is switched on there is switched on for others.
            if !self.parent.join("cgroup.type").exists() {
                return Err(io::Error::other("it is the root of all groups"));
            }
            fs::write(self.parent.join("cgroup.subtree_control"), format!("+{controller}"))?;
            self.enabled.push(controller);
        }
        match (controller, limits) {
            ("cpu", Enforced { cpu_millicores: Some(cpu), .. }) => {
                self.write(file, &format!("{} {PERIOD_US}", quota_us(cpu)))
            }
            ("memory", Enforced { memory_bytes: Some(memory), .. }) => self.write(file, &memory.to_string()),
            _ => Ok(()),
        }
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let path = self.leaf.join(file);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{file}: {error}"));
        // Never makes a file: what is not there cannot be set.
        let mut file = fs::OpenOptions::new().write(true).open(path).map_err(named)?;
        io::Write::write_all(&mut file, text.as_bytes()).map_err(named)
    }

    /// Takes the process back to where it was, and the group away. What fails, fails: the kernel has no more to offer.
    fn leave(&self, pid: u32) {
        if !self.enabled.is_empty() {
            let off = self.enabled.iter().fold(String::new(), |mut off, controller| {
                let _written = write!(off, "-{controller} ");
                off
            });
            drop(fs::write(self.parent.join("cgroup.subtree_control"), off.trim_end()));
        }
        drop(fs::write(self.parent.join("cgroup.procs"), pid.to_string()));
        if let Err(error) = fs::remove_dir(&self.leaf) {
            tracing::warn!(group = %self.leaf.display(), %error, "the control group stays behind");
        }
    }
}

fn quota_us(millicores: u32) -> u64 {
    (u64::from(millicores) * PERIOD_US / 1_000).max(LEAST_QUOTA_US)
}

/// Removes what daemons left behind that were killed: groups by our name without processes.
fn remove_old(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("sluice-")?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // A group with processes cannot be removed.
            drop(fs::remove_dir(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree that looks like mounted control groups. Files that the kernel makes in a new group are not made there, so
    /// that version 1 cannot be limited here: the live test does it with the kernel.
    struct Root(tempfile::TempDir);

    impl Root {
        fn new(cgroup: &str, mounts: &str) -> Self {
            let root = Self(tempfile::tempdir().unwrap());
            root.write("proc/self/cgroup", cgroup);
            root.write("proc/self/mounts", mounts);
            root
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn enter(&self) -> CgroupLeaf {
            let limits = Enforced { cpu_millicores: Some(1500), memory_bytes: Some(1 << 30) };
            CgroupLeaf::enter(self.0.path(), 4_000_001, limits)
        }
    }

    #[test]
    fn where_nothing_may_be_made_nothing_is_and_it_is_told() {
        let none = Root::new("", "").enter();
        assert!(!none.is_entered());
        assert_eq!(none.told.len(), 2);
        assert!(none.told.iter().all(|line| line.contains("no control group has this controller")));

        let root = Root::new("0::/a\n", "c /sys/fs/cgroup cgroup2 rw 0 0\n");
        root.write("sys/fs/cgroup/a/cgroup.controllers", "cpu io\n");
        root.write("sys/fs/cgroup/a/sluice-4000002/x", "");
        fs::create_dir(root.0.path().join("sys/fs/cgroup/a/sluice-4000003")).unwrap();
        fs::create_dir(root.0.path().join("sys/fs/cgroup/a/other")).unwrap();
        let leaf = root.enter();
        assert!(!leaf.is_entered(), "{:?}", leaf.told);
        assert!(leaf.told[0].contains("cgroup.procs") && leaf.told[1].contains("no control group has"));
        let left = |name: &str| root.0.path().join("sys/fs/cgroup/a").join(name).exists();
        assert!(!left("sluice-4000001"), "what was begun is taken back");
        assert!(!left("sluice-4000003"), "what a killed daemon left is removed");
        assert!(left("sluice-4000002") && left("other"), "what is in use, or not ours, stays");
    }

    #[test]
    fn quotas() {
        assert_eq!([1, 10, 1000, 2500].map(quota_us), [1_000, 1_000, 100_000, 250_000]);
    }
}
