//! How much the daemon may take of its machine, and when it says that something runs out: `[protection]` of the boot
//! config.

/// Limits of the process. Zero in the file is `None` here: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectionSettings {
    /// Processor time in thousandths of a logical core.
    pub cpu_millicores: Option<u32>,
    /// Memory in MiB, hugepages included.
    pub memory_mb: Option<u32>,
    /// Packets that are taken in, in thousands per second, over all workers; the others are dropped.
    pub capture_kpps: Option<u32>,
    /// Threads of the process, above which an exception is raised.
    pub threads: Option<u32>,
    /// Free space of each folder that is written to, in MiB, below which an exception is raised.
    pub free_disk_mb: Option<u32>,
    /// Memory that the machine has left (`MemAvailable`), in MiB, below which an exception is raised.
    pub free_memory_mb: Option<u32>,
    /// Whether the kernel is to enforce the limits of processor time and memory, too.
    pub cgroup: CgroupMode,
    /// Over how long load is averaged, nanoseconds.
    pub interval_ns: u64,
}

/// Whether the daemon makes a control group for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// Where it has a limit, and may.
    #[default]
    Auto,
    /// Never: only its own accounting counts.
    Off,
}

impl ProtectionSettings {
    /// The most processor time that can be given: 1,024 cores.
    pub const MAX_CPU_MILLICORES: u32 = 1_024_000;
    /// The most memory that can be given, MiB.
    pub const MAX_MEMORY_MB: u32 = 1 << 24;
    /// The highest rate of capture, thousands of packets per second.
    pub const MAX_CAPTURE_KPPS: u32 = 1_000_000;
    /// The interval where none is given: 1 s.
    pub const DEFAULT_INTERVAL_NS: u64 = 1_000_000_000;
    /// The shortest interval: 100 ms.
    pub const MIN_INTERVAL_NS: u64 = 100_000_000;
    /// The longest interval: a minute.
    pub const MAX_INTERVAL_NS: u64 = 60_000_000_000;

    /// Packets per second that are taken in.
    #[must_use]
    pub fn capture_pps(&self) -> Option<u64> {
        self.capture_kpps.map(|kpps| u64::from(kpps) * 1_000)
    }
}

impl Default for ProtectionSettings {
    /// A dedicated appliance: nothing is limited unless somebody asks (requirements.md PRT-10), but what runs out is told.
    fn default() -> Self {
        Self {
            cpu_millicores: None,
            memory_mb: None,
            capture_kpps: None,
            threads: Some(500),
            free_disk_mb: Some(100),
            free_memory_mb: Some(100),
            cgroup: CgroupMode::Auto,
            interval_ns: Self::DEFAULT_INTERVAL_NS,
        }
    }
}
