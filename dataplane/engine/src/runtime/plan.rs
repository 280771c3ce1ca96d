//! How much memory does the engine take? Decided, and printed, before DPDK starts.

use super::{EngineConfig, HugepageUse, PortDriver, StartError};

/// Bytes of data in a header mbuf.
pub(super) const HEADER_ROOM: u16 = 256;
/// Bytes of an mbuf besides its data: structure, headroom, private data, mempool header.
const MBUF_OVERHEAD: u64 = 128 + 128 + 64 + 64;
/// What EAL takes for itself, MB.
const EAL_MB: u64 = 32;
/// Size of a hugepage, MB.
const HUGEPAGE_MB: u64 = 2;
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
}

impl MemoryPlan {
    /// The plan for `config`.
    #[must_use]
    pub fn new(config: &EngineConfig) -> Self {
        // Every worker can hold a batch of super-frames for each kernel interface, beside its caches.
        let kernel = config.ports.iter().any(|port| matches!(port.driver, PortDriver::AfPacket(_)));
        let per_frame = if kernel { SUPER_FRAME.div_ceil(config.data_room.max(256).into()) } else { 1 };
        let least = 64 * per_frame * 2 + 1024;
        let mbufs = config.mbufs.max(least);
        Self { mbufs, data_room: config.data_room, headers: mbufs.max(16_383) }
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
        u32::try_from(self.bytes() * 5 / 4 / 1_000_000 + EAL_MB).unwrap_or(u32::MAX)
    }

    /// Whether to use hugepages.
    pub(super) fn decide_hugepages(&self, wish: HugepageUse) -> Result<bool, StartError> {
        let wanted_mb = u64::from(self.memory_mb());
        let free_mb = free_hugepages() * HUGEPAGE_MB;
        match wish {
            HugepageUse::Never => Ok(false),
            HugepageUse::Auto => Ok(free_mb >= wanted_mb && std::path::Path::new("/dev/hugepages").exists()),
            HugepageUse::Require if free_mb >= wanted_mb => Ok(true),
            HugepageUse::Require => {
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
