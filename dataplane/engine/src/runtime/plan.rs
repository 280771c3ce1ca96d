//! How much memory does the engine take? Decided, and printed, before DPDK starts.

use sluice_model::{BootConfig, Hugepages, PortSpec};

use super::StartError;

/// Bytes of data in a header mbuf.
pub(super) const HEADER_ROOM: u16 = 256;
/// Bytes of an mbuf besides its data: structure, headroom, private data, mempool header.
const MBUF_OVERHEAD: u64 = 128 + 128 + 64 + 64;
/// What EAL takes for itself, MB.
const EAL_MB: u64 = 32;
/// Size of a hugepage, MB.
const HUGEPAGE_MB: u64 = 2;
/// Mbufs for packets, unless the boot config says otherwise.
const MBUFS: u32 = 32_767;
/// Bytes of data in each: an Ethernet frame of ordinary size in one piece.
const DATA_ROOM: u16 = 2048;
/// Super-frames come in so many bytes at most.
const SUPER_FRAME: u32 = 65_536;

/// The memory that the engine will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Mbufs for packets.
    pub mbufs: u32,
    /// Bytes of data in each.
    pub data_room: u16,
    /// Mbufs for headers and shares.
    pub headers: u32,
    /// What the boot config wants DPDK to be given instead of what the pools need, MB.
    pub wanted_mb: Option<u32>,
}

impl MemoryPlan {
    /// The plan for `boot`.
    #[must_use]
    pub fn new(boot: &BootConfig) -> Self {
        // Every worker can hold a batch of super-frames for each kernel interface, beside its caches.
        let data_room = boot.memory.data_room_bytes.unwrap_or(DATA_ROOM);
        let kernel = boot.ports.iter().any(|port| matches!(port.spec, PortSpec::AfPacket(_)));
        let per_frame = if kernel { SUPER_FRAME.div_ceil(data_room.max(256).into()) } else { 1 };
        let least = 64 * per_frame * 2 + 1024;
        let mbufs = boot.memory.mbufs.unwrap_or(MBUFS).max(least);
        Self { mbufs, data_room, headers: mbufs.max(16_383), wanted_mb: boot.eal.memory_mb }
    }

    /// Bytes of all pools.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.mbufs) * (u64::from(self.data_room) + MBUF_OVERHEAD)
            + u64::from(self.headers) * (u64::from(HEADER_ROOM) + MBUF_OVERHEAD)
    }

    /// Memory to ask DPDK for, MB.
    #[must_use]
    pub fn memory_mb(&self) -> u32 {
        let needed = || u32::try_from(self.bytes() * 5 / 4 / 1_000_000 + EAL_MB).unwrap_or(u32::MAX);
        self.wanted_mb.unwrap_or_else(needed)
    }

    /// Whether hugepages are used, given what is free at the moment.
    ///
    /// # Errors
    /// When they are required and too few are free.
    pub fn use_hugepages(&self, wish: Hugepages) -> Result<bool, StartError> {
        let wanted_mb = u64::from(self.memory_mb());
        let free_mb = free_hugepages() * HUGEPAGE_MB;
        match wish {
            Hugepages::Never => Ok(false),
            Hugepages::Auto => Ok(free_mb >= wanted_mb && hugetlbfs_mounted()),
            Hugepages::Require if free_mb >= wanted_mb => Ok(true),
            Hugepages::Require => {
                Err(StartError::Hugepages { free_mb, wanted_mb, pages: wanted_mb.div_ceil(HUGEPAGE_MB) })
            }
        }
    }
}

/// Free hugepages of 2 MB.
fn free_hugepages() -> u64 {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether a hugetlbfs is mounted, which DPDK maps its files in.
fn hugetlbfs_mounted() -> bool {
    std::fs::read_to_string("/proc/mounts")
        .is_ok_and(|mounts| mounts.lines().any(|l| l.contains(" hugetlbfs ")))
}

/// The CPUs of the workers: as the boot config says, else the last one that this process may use.
#[must_use]
pub(super) fn lcores(boot: &BootConfig) -> Vec<u16> {
    if !boot.worker.lcores.is_empty() {
        return boot.worker.lcores.clone();
    }
    let last = dpdk::current_affinity().ok().and_then(|cpus| cpus.iter().last());
    vec![last.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_config_has_the_last_word() {
        let port = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";
        let plan = |text: String| {
            MemoryPlan::new(&sluice_model::spec::parse_boot("boot.toml", &text).unwrap().value)
        };
        assert!(plan(port.to_owned()).memory_mb() > 100);
        let plan = plan(format!("{port}[eal]\nmemory_mb = 777\n"));
        assert_eq!(plan.memory_mb(), 777, "what is checked and printed is what is asked of DPDK");
    }
}
