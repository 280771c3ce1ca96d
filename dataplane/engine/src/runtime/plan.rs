//! How much memory does the engine take? Decided, and printed, before DPDK starts.

use sluice_model::{BootConfig, Hugepages, PortConfig, PortSpec};

use super::StartError;
use super::cores::{self, CorePlan};
use crate::machine::Machine;

/// Bytes of data in a header mbuf.
pub(super) const HEADER_ROOM: u16 = 256;
/// Bytes of an mbuf besides its data: structure, headroom, private data, mempool header.
const MBUF_OVERHEAD: u64 = 128 + 128 + 64 + 64;
/// What EAL takes for itself, MB.
const EAL_MB: u64 = 32;
/// Size of a hugepage, MB.
const HUGEPAGE_MB: u64 = 2;
/// Mbufs for packets, unless the boot config says otherwise or more are needed.
const MBUFS: u32 = 32_767;
/// Bytes of data in each: an Ethernet frame of ordinary size in one piece.
const DATA_ROOM: u16 = 2048;
/// Super-frames come in so many bytes at most.
const SUPER_FRAME: u32 = 65_536;
/// Descriptors of a receive and of a transmit queue.
const DESCRIPTORS: u16 = 1024;
/// Packets that may wait between a distributor and a worker.
const RING_SIZE: u32 = 2048;
/// Mbufs that a thread may hold: its caches of both pools, a batch in hand, and one in each port's burst.
const PER_THREAD: u32 = 512 + 64 * 4;

/// The memory that the engine will take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The NUMA nodes with pools of their own; `None` = one pool for all.
    pub nodes: Vec<Option<u16>>,
    /// Mbufs for packets, on each node.
    pub mbufs: u32,
    /// Of these, how many can be held by queues, rings and threads at once: with fewer, packets are lost early.
    pub needed: u32,
    /// Bytes of data in each.
    pub data_room: u16,
    /// Mbufs for headers and shares, on each node.
    pub headers: u32,
    /// Packets that may wait between a distributor and a worker.
    pub ring_size: u32,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// What the boot config wants DPDK to be given instead of what the pools need, MB.
    pub wanted_mb: Option<u32>,
}

impl MemoryPlan {
    /// The plan for `boot` with these cores on this machine.
    #[must_use]
    pub fn new(boot: &BootConfig, cores: &CorePlan, machine: &Machine) -> Self {
        let settings = &boot.worker;
        let rx_descriptors = settings.rx_descriptors.unwrap_or(DESCRIPTORS);
        let tx_descriptors = settings.tx_descriptors.unwrap_or(DESCRIPTORS);
        let ring_size = settings.ring_size.unwrap_or(RING_SIZE);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (workers, distributors) = (count(cores.workers.len()), count(cores.distributors.len()));

        // Every worker can hold a batch of super-frames for each kernel interface, beside its caches.
        let data_room = boot.memory.data_room_bytes.unwrap_or(DATA_ROOM);
        let ports = || boot.ports.iter().filter(|port| !port.is_removed());
        let kernel = ports().any(|port| matches!(port.spec, PortSpec::AfPacket(_)));
        let per_frame = if kernel { SUPER_FRAME.div_ceil(data_room.max(256).into()) } else { 1 };
        let least = 64 * per_frame * 2 + 1024;

        let is_dpdk = |port: &&PortConfig| {
            matches!(port.spec, PortSpec::Pci(_) | PortSpec::Devargs(_) | PortSpec::Vhost(_))
        };
        let dpdk = || ports().filter(is_dpdk);
        let rx_queues = count(dpdk().filter(|port| port.role.captures()).count()).saturating_mul(workers)
            + count(dpdk().filter(|port| !port.role.captures()).count());
        let tx_queues = count(dpdk().filter(|port| port.role.sends()).count()).saturating_mul(workers);
        let needed = [
            rx_queues.saturating_mul(rx_descriptors.into()),
            tx_queues.saturating_mul(tx_descriptors.into()),
            workers.saturating_mul(distributors).saturating_mul(ring_size),
            (workers + distributors).saturating_mul(PER_THREAD * per_frame),
        ];
        let needed = needed.into_iter().fold(0, u32::saturating_add).max(least);

        let nodes = nodes(boot, cores, machine);
        let mut plan = Self {
            mbufs: MBUFS.max(needed.saturating_add(needed / 4)),
            needed,
            data_room,
            headers: 0,
            ring_size,
            rx_descriptors,
            tx_descriptors,
            wanted_mb: boot.eal.memory_mb,
            nodes,
        };
        plan.headers = plan.mbufs.max(16_383);
        if machine.memory_limited {
            // Half of what the control group grants is for tables, files and everything else.
            while plan.bytes() > machine.memory_bytes / 2 && plan.mbufs / 2 > needed {
                plan.mbufs /= 2;
                plan.headers = plan.mbufs.max(4095);
            }
        }
        if let Some(mbufs) = boot.memory.mbufs {
            plan.mbufs = mbufs.max(least);
            plan.headers = plan.mbufs.max(16_383);
        }
        if let Some(headers) = boot.memory.headers {
            plan.headers = headers;
        }
        plan
    }

    /// Bytes of all pools.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let node = u64::from(self.mbufs) * (u64::from(self.data_room) + MBUF_OVERHEAD)
            + u64::from(self.headers) * (u64::from(HEADER_ROOM) + MBUF_OVERHEAD);
        node * self.nodes.len() as u64
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
            Hugepages::Auto => Ok(free_mb >= wanted_mb),
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

/// The NUMA nodes that get pools: those of the ports and of the workers, where there is more than one.
fn nodes(boot: &BootConfig, cores: &CorePlan, machine: &Machine) -> Vec<Option<u16>> {
    if !machine.is_numa() {
        return vec![None];
    }
    let ports = boot.ports.iter().filter_map(cores::node_of);
    let mut nodes: Vec<u16> = ports.chain(cores.workers.iter().map(|&cpu| machine.node_of(cpu))).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes.into_iter().map(Some).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, machine: &Machine) -> MemoryPlan {
        let port = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"both\"\n";
        let boot = sluice_model::spec::parse_boot("boot.toml", &format!("{port}{text}")).unwrap().value;
        MemoryPlan::new(&boot, &CorePlan::new(&boot, machine), machine)
    }

    fn machine(memory_mb: u64, memory_limited: bool) -> Machine {
        Machine {
            cpus: (0..8).collect(),
            nodes: vec![0; 8],
            cpu_quota_milli: None,
            memory_bytes: memory_mb << 20,
            memory_limited,
        }
    }

    #[test]
    fn the_boot_config_has_the_last_word() {
        let large = machine(8192, false);
        assert!(plan("", &large).memory_mb() > 100);
        let given = plan("[eal]\nmemory_mb = 777\n", &large);
        assert_eq!(given.memory_mb(), 777, "what is checked and printed is what is asked of DPDK");
        assert_eq!(plan("[memory]\nmbufs = 8191\n", &machine(256, true)).mbufs, 8191);
    }

    #[test]
    fn queues_and_rings_can_be_full_at_once() {
        let one = plan("", &machine(8192, false));
        assert_eq!((one.mbufs, one.rx_descriptors, one.ring_size), (32_767, 1024, 2048));
        let many = plan(
            "[worker]\nlcores = [\"1-7\"]\nring_size = 8192\nrx_descriptors = 4096\n",
            &machine(8192, false),
        );
        // Seven queues each way, two distributors' worth at most of rings.
        assert!(many.needed > 7 * (4096 + 1024) + 7 * 8192, "{many:?}");
        assert!(many.mbufs > many.needed && many.headers >= many.mbufs);
    }

    #[test]
    fn a_memory_limit_makes_pools_smaller_down_to_what_is_needed() {
        let limited = plan("", &machine(128, true));
        assert!(limited.bytes() <= 64 << 20, "{limited:?}");
        assert!(limited.mbufs > limited.needed);
        let tiny = plan("", &machine(8, true));
        assert!(tiny.mbufs > tiny.needed, "{tiny:?}");
    }

    #[test]
    fn each_node_has_pools() {
        let numa = Machine { nodes: vec![0, 0, 0, 0, 1, 1, 1, 1], ..machine(8192, false) };
        let both = plan("[worker]\nlcores = [1, 5]\n", &numa);
        assert_eq!(both.nodes, [Some(0), Some(1)]);
        let one = plan("[worker]\nlcores = [1]\n", &numa);
        assert_eq!(one.nodes, [Some(0)]);
        assert_eq!(one.bytes() * 2, MemoryPlan { mbufs: one.mbufs, headers: one.headers, ..both }.bytes());
    }
}
