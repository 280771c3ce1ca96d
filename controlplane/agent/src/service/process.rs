//! What does the daemon take of the machine?

/// At one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Resident memory and hugepages, bytes.
    pub(super) memory_bytes: u64,
}

/// By the kernel's account of this process; 0 where it does not tell.
pub(super) fn usage() -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    Usage { memory_bytes: (kb("VmRSS:") + kb("HugetlbPages:")) * 1024 }
}
