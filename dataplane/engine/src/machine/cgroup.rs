//! What does the control group of this process allow? Version 1 (a hierarchy for each controller) and version 2.
//!
//! Limits hold for a group and everything below it, so the smallest one on the way up counts. Inside a container the
//! path of the group may be the host's, which is not visible: then the mount's root is the group.

use std::path::{Path, PathBuf};

/// A memory limit above this is none: version 1 says "no limit" by the largest number of pages.
const NO_LIMIT: u64 = 1 << 60;

/// What control groups allow; `None` = no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Thousandths of a CPU.
    pub cpu_milli: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// CPUs, ascending.
    pub cpus: Option<Vec<u16>>,
}

impl CgroupLimits {
    /// The limits of the calling process, read from `proc` and `sys` under `root`.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let mounts = mounts(&text("proc/self/mounts"));
        let mut limits = Self::default();
        for line in text("proc/self/cgroup").lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            for mount in mounts.iter().filter(|mount| mount.serves(controllers)) {
                limits.add_groups(&root.join(mount.point.trim_start_matches('/')), path, mount.version2);
            }
        }
        limits
    }

    /// Takes in the limits of the group `path` and of all groups above it, under `mount`.
    fn add_groups(&mut self, mount: &Path, path: &str, version2: bool) {
        let group = mount.join(path.trim_start_matches('/'));
        let group = if group.is_dir() { group } else { mount.to_owned() };
        for folder in group.ancestors().take_while(|folder| folder.starts_with(mount)) {
            let own = if version2 { version2_limits(folder) } else { version1_limits(folder) };
            self.cpu_milli = smaller(self.cpu_milli, own.cpu_milli);
            self.memory_bytes = smaller(self.memory_bytes, own.memory_bytes);
            // What is effective for a group already lies within those above.
            if self.cpus.is_none() {
                self.cpus = own.cpus;
            }
        }
    }
}

/// The group of this process in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnGroup {
    /// Its folder.
    pub folder: PathBuf,
    /// Whether the hierarchy is of version 2.
    pub version2: bool,
    /// The controllers that work there.
    pub controllers: Vec<String>,
}

/// The groups of the calling process whose folders are seen, read from `proc` and `sys` under `root`: version 1 first,
/// as a controller that it has is not in version 2.
#[must_use]
pub fn own_groups(root: &Path) -> Vec<OwnGroup> {
    let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let mounts = mounts(&text("proc/self/mounts"));
    let mut groups = Vec::new();
    for line in text("proc/self/cgroup").lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        for mount in mounts.iter().filter(|mount| mount.serves(names)) {
            let point = root.join(mount.point.trim_start_matches('/'));
            let own = point.join(path.trim_start_matches('/'));
            let folder = if own.is_dir() { own } else { point };
            let controllers = if mount.version2 {
                let list = read(&folder, "cgroup.controllers").unwrap_or_default();
                list.split_whitespace().map(str::to_owned).collect()
            } else {
                names.split(',').map(str::to_owned).collect()
            };
            groups.push(OwnGroup { folder, version2: mount.version2, controllers });
        }
    }
    groups.sort_by_key(|group| group.version2);
    groups
}

/// A mounted hierarchy.
struct Mount {
    point: String,
    version2: bool,
    options: String,
}

impl Mount {
    /// Whether it is the hierarchy of these controllers, as `/proc/self/cgroup` writes them.
    fn serves(&self, controllers: &str) -> bool {
        match controllers {
            "" => self.version2,
            _ => {
                !self.version2
                    && controllers.split(',').any(|name| self.options.split(',').any(|option| option == name))
            }
        }
    }
}

fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let mut words = line.split(' ');
        let (_device, point, kind, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let version2 = kind == "cgroup2";
        (version2 || kind == "cgroup").then(|| Mount {
            point: point.to_owned(),
            version2,
            options: options.to_owned(),
        })
    };
    text.lines().filter_map(mount).collect()
}

fn version1_limits(group: &Path) -> CgroupLimits {
    let number = |file: &str| read(group, file)?.trim().parse::<i64>().ok();
    let quota = number("cpu.cfs_quota_us").zip(number("cpu.cfs_period_us"));
    CgroupLimits {
        cpu_milli: quota.and_then(|(quota, period)| milli(quota, period)),
        memory_bytes: number("memory.limit_in_bytes").and_then(limited),
        cpus: read(group, "cpuset.effective_cpus")
            .or_else(|| read(group, "cpuset.cpus"))
            .map(|list| cpu_list(&list))
            .filter(|cpus| !cpus.is_empty()),
    }
}

fn version2_limits(group: &Path) -> CgroupLimits {
    let quota = read(group, "cpu.max").and_then(|text| {
        let (quota, period) = text.trim().split_once(' ')?;
        milli(quota.parse().ok()?, period.parse().ok()?)
    });
    CgroupLimits {
        cpu_milli: quota,
        memory_bytes: read(group, "memory.max").and_then(|text| limited(text.trim().parse().ok()?)),
        cpus: read(group, "cpuset.cpus.effective")
            .map(|list| cpu_list(&list))
            .filter(|cpus| !cpus.is_empty()),
    }
}

fn read(group: &Path, file: &str) -> Option<String> {
    let path: PathBuf = group.join(file);
    std::fs::read_to_string(path).ok()
}

/// Thousandths of a CPU; -1 and nonsense are no quota.
fn milli(quota_us: i64, period_us: i64) -> Option<u64> {
    let (quota, period) = (u64::try_from(quota_us).ok()?, u64::try_from(period_us).ok()?);
    (quota > 0).then(|| quota.saturating_mul(1000).checked_div(period)).flatten()
}

fn limited(bytes: i64) -> Option<u64> {
    u64::try_from(bytes).ok().filter(|&bytes| bytes > 0 && bytes < NO_LIMIT)
}

fn smaller(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

/// The kernel's list format: `0-3,8,10-11`. What cannot be read is left out.
pub(super) fn cpu_list(text: &str) -> Vec<u16> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            cpus.extend(first..=last);
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn limits(&self) -> CgroupLimits {
            CgroupLimits::read(self.0.path())
        }
    }

    /// As a Debian 12 machine with version 1 shows it; version 2 beside it has no controllers.
    const V1_CGROUP: &str = "5:memory:/services/sluice\n4:cpu,cpuacct:/services\n3:cpuset:/\n0::/\n";
    const V1_MOUNTS: &str = "proc /proc proc rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
        cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n\
        cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";

    #[test]
    fn version_1() {
        let root = Root::new(V1_CGROUP, V1_MOUNTS);
        let memory = "sys/fs/cgroup/memory";
        root.write(&format!("{memory}/services/sluice/memory.limit_in_bytes"), "9223372036854771712\n");
        root.write(&format!("{memory}/services/memory.limit_in_bytes"), "536870912\n");
        root.write(&format!("{memory}/memory.limit_in_bytes"), "9223372036854771712\n");
        root.write("sys/fs/cgroup/cpu,cpuacct/services/cpu.cfs_quota_us", "150000\n");
        root.write("sys/fs/cgroup/cpu,cpuacct/services/cpu.cfs_period_us", "100000\n");
        root.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
        root.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        root.write("sys/fs/cgroup/cpuset/cpuset.cpus", "0-1,4\n");
        let limits = root.limits();
        assert_eq!(limits.memory_bytes, Some(512 << 20), "that of the group above");
        assert_eq!(limits.cpu_milli, Some(1500));
        assert_eq!(limits.cpus, Some(vec![0, 1, 4]));
    }

    #[test]
    fn version_2() {
        let root = Root::new("0::/a/b\n", "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
        root.write("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
        root.write("sys/fs/cgroup/a/b/memory.max", "1073741824\n");
        root.write("sys/fs/cgroup/a/b/cpuset.cpus.effective", "2-3\n");
        root.write("sys/fs/cgroup/a/cpu.max", "400000 100000\n");
        root.write("sys/fs/cgroup/a/memory.max", "max\n");
        root.write("sys/fs/cgroup/cpuset.cpus.effective", "0-7\n");
        let expected =
            CgroupLimits { cpu_milli: Some(4000), memory_bytes: Some(1 << 30), cpus: Some(vec![2, 3]) };
        assert_eq!(root.limits(), expected);
    }

    #[test]
    fn a_container_sees_its_group_as_the_root() {
        let root = Root::new("0::/docker/4f2a\n", "cgroup /sys/fs/cgroup cgroup2 rw 0 0\n");
        root.write("sys/fs/cgroup/cpu.max", "50000 100000\n");
        root.write("sys/fs/cgroup/memory.max", "134217728\n");
        assert_eq!(
            root.limits(),
            CgroupLimits { cpu_milli: Some(500), memory_bytes: Some(128 << 20), cpus: None }
        );
    }

    #[test]
    fn nothing_is_no_limit() {
        assert_eq!(Root::new("", "").limits(), CgroupLimits::default());
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(CgroupLimits::read(empty.path()), CgroupLimits::default());
        assert_eq!(cpu_list("0-2,8,x,9-\n"), [0, 1, 2, 8]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_text_panics(cgroup in "[0-9]{0,2}:[a-z,]{0,8}:[/a-z.]{0,10}\n", quota in any::<i64>(), period in any::<i64>(),
                          list in "[0-9,-]{0,12}", memory in any::<i64>()) {
            let root = Root::new(&cgroup, "cgroup /c cgroup2 rw 0 0\nc /d cgroup rw,cpu,memory,cpuset 0 0\n");
            for folder in ["c", "d"] {
                root.write(&format!("{folder}/cpu.max"), &format!("{quota} {period}"));
                root.write(&format!("{folder}/cpu.cfs_quota_us"), &quota.to_string());
                root.write(&format!("{folder}/cpu.cfs_period_us"), &period.to_string());
                root.write(&format!("{folder}/memory.max"), &memory.to_string());
                root.write(&format!("{folder}/cpuset.cpus"), &list);
            }
            root.limits();
        }
    }
}
