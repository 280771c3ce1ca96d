//! What is there to work with? The CPUs, NUMA nodes and memory that this process may use.
//!
//! Read once at start. Limits of control groups (version 1 and 2) count: a broker in a container must not plan with the
//! memory of its host.

mod cgroup;

use std::path::Path;

pub use cgroup::{CgroupLimits, OwnGroup, own_groups};
use sluice_model::ProtectionSettings;

/// What the process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The CPUs that this process may run on, ascending.
    pub cpus: Vec<u16>,
    /// The NUMA node of each of [`Machine::cpus`]; 0 where the machine does not say.
    pub nodes: Vec<u16>,
    /// Thousandths of a CPU that a quota allows; `None` = all of them.
    pub cpu_quota_milli: Option<u64>,
    /// Memory that may be used, in bytes: the machine's, or the limit of a control group.
    pub memory_bytes: u64,
    /// Whether `memory_bytes` is such a limit.
    pub memory_limited: bool,
}

impl Machine {
    /// The machine as this process sees it.
    #[must_use]
    pub fn detect() -> Self {
        let cpus = dpdk::current_affinity().map(|set| set.iter().collect()).unwrap_or_default();
        Self::read(Path::new("/"), cpus)
    }

    /// The machine whose files are under `root`, of which `cpus` may be used.
    #[must_use]
    pub fn read(root: &Path, mut cpus: Vec<u16>) -> Self {
        let limits = CgroupLimits::read(root);
        if let Some(set) = &limits.cpus {
            // The kernel keeps the affinity inside the set; a set that was just changed counts nevertheless.
            let both: Vec<u16> = cpus.iter().copied().filter(|cpu| set.contains(cpu)).collect();
            if !both.is_empty() {
                cpus = both;
            }
        }
        if cpus.is_empty() {
            cpus.push(0);
        }
        let total = memory_total(root);
        let memory_bytes = limits.memory_bytes.map_or(total, |limit| limit.min(total));
        Self {
            nodes: nodes(root, &cpus),
            cpus,
            cpu_quota_milli: limits.cpu_milli,
            memory_bytes,
            memory_limited: memory_bytes < total,
        }
    }

    /// The same with the limits that the daemon has of its own.
    #[must_use]
    pub fn limited(mut self, limits: &ProtectionSettings) -> Self {
        if let Some(bytes) = limits.memory_mb.map(|limit| u64::from(limit) << 20)
            && bytes < self.memory_bytes
        {
            (self.memory_bytes, self.memory_limited) = (bytes, true);
        }
        if let Some(milli) = limits.cpu_millicores.map(u64::from) {
            self.cpu_quota_milli = Some(self.cpu_quota_milli.map_or(milli, |quota| quota.min(milli)));
        }
        self
    }

    /// CPUs that can be kept busy: those allowed, or as many as the quota pays for; at least 1.
    #[must_use]
    pub fn busy_cpus(&self) -> usize {
        let quota = self.cpu_quota_milli.map_or(u64::MAX, |milli| milli / 1000);
        self.cpus.len().min(usize::try_from(quota).unwrap_or(usize::MAX)).max(1)
    }

    /// The NUMA node of a CPU.
    #[must_use]
    pub fn node_of(&self, cpu: u16) -> u16 {
        let place = self.cpus.iter().position(|&known| known == cpu);
        place.and_then(|place| self.nodes.get(place)).copied().unwrap_or(0)
    }

    /// Whether there is more than one NUMA node.
    #[must_use]
    pub fn is_numa(&self) -> bool {
        self.nodes.iter().any(|node| Some(node) != self.nodes.first())
    }
}

/// The node of each CPU (`/sys/devices/system/node/node*/cpulist`).
fn nodes(root: &Path, cpus: &[u16]) -> Vec<u16> {
    let mut nodes = vec![0; cpus.len()];
    let Ok(folders) = std::fs::read_dir(root.join("sys/devices/system/node")) else { return nodes };
    for folder in folders.flatten() {
        let name = folder.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
        let list = std::fs::read_to_string(folder.path().join("cpulist"));
        let (Some(number), Ok(list)) = (number, list) else { continue };
        let members = cgroup::cpu_list(&list);
        for (node, cpu) in nodes.iter_mut().zip(cpus) {
            if members.contains(cpu) {
                *node = number;
            }
        }
    }
    nodes
}

/// `MemTotal` of `/proc/meminfo`, in bytes; without it, as much as nothing is limited by.
fn memory_total(root: &Path) -> u64 {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let kilobytes = text.lines().find_map(|line| {
        let number = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
        number.trim().parse::<u64>().ok()
    });
    kilobytes.map_or(u64::MAX, |kilobytes| kilobytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_read() {
        let machine = Machine::detect();
        assert!(!machine.cpus.is_empty() && machine.nodes.len() == machine.cpus.len());
        assert!(machine.busy_cpus() >= 1 && machine.busy_cpus() <= machine.cpus.len());
        assert!(machine.memory_bytes > 1 << 26);
    }

    #[test]
    fn nodes_quota_and_memory_count() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/meminfo", "MemTotal:       24689188 kB\nMemFree:        22221612 kB\n");
        write("sys/devices/system/node/node0/cpulist", "0-3\n");
        write("sys/devices/system/node/node1/cpulist", "4-7\n");
        write("sys/devices/system/node/possible", "0-1\n");
        write("proc/self/cgroup", "0::/box\n");
        write("proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        write("sys/fs/cgroup/box/cpu.max", "250000 100000\n");
        write("sys/fs/cgroup/box/memory.max", "max\n");
        let machine = Machine::read(root.path(), (2..8).collect());
        assert_eq!(machine.nodes, [0, 0, 1, 1, 1, 1]);
        assert!(machine.is_numa());
        assert_eq!((machine.node_of(3), machine.node_of(4), machine.node_of(99)), (0, 1, 0));
        assert_eq!(machine.busy_cpus(), 2, "2.5 CPUs keep two busy");
        assert_eq!((machine.memory_bytes, machine.memory_limited), (24_689_188 * 1024, false));
    }
}
