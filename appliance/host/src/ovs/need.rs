//! How much memory OVS takes for a port of some MTU.
//!
//! Packets for the port come out of a pool that ports of about the same MTU share (`netdev-dpdk.c` of OVS 3.1,
//! `dpdk_calculate_mbufs` and `dpdk_mp_create`; guide "DPDK Device Memory Models"): 262,144 buffers, or half as many, and
//! so on, until they fit, but at least 16,384. With `per-port-memory` it is somewhat more than the latter.

use serde::Serialize;

use crate::Machine;

const MOST: u64 = 4096 * 64;
const LEAST: u64 = 4096 * 4;
/// Two queues of 2,048 descriptors, a burst, and the least.
const PER_PORT: u64 = 2 * 2048 + 32 + LEAST;
/// Ethernet header, FCS and two VLAN tags.
const FRAME: u64 = 14 + 4 + 2 * 4;
/// Headroom, mbuf, OVS's own data of a packet, and the pool's header and place in its ring; the last three measured with
/// OVS 3.1 and DPDK 22.11.
const OVERHEAD: u64 = 128 + 128 + 584 + 72;

/// What OVS takes for a pool, in pages of the machine's hugepage size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PoolNeed {
    /// Pages of the pool that OVS tries first.
    pub most_pages: u64,
    /// Pages of the smallest pool that it puts up with.
    pub least_pages: u64,
    /// Size of a page, kilobytes.
    pub page_kb: u64,
}

impl PoolNeed {
    /// For a port of this MTU in bytes; `per_port` = each port has a pool of its own (`per-port-memory`).
    #[must_use]
    pub fn of(mtu: u16, per_port: bool, page_kb: u64) -> Self {
        let buffer = (u64::from(mtu) + FRAME).next_multiple_of(1024) + OVERHEAD;
        let pages = |buffers: u64| (buffers * buffer).div_ceil(page_kb.max(4) * 1024);
        let (most, least) = if per_port { (PER_PORT, PER_PORT) } else { (MOST, LEAST) };
        Self { most_pages: pages(most), least_pages: pages(least), page_kb }
    }
}

/// The hugepages of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FreeHugepages {
    /// Not in use.
    pub free: u64,
    /// In all.
    pub total: u64,
    /// Size of each, kilobytes.
    pub page_kb: u64,
}

/// The hugepages of the machine at this moment; `None` = the kernel has none, or does not say.
#[must_use]
pub fn free_hugepages(machine: &Machine<'_>) -> Option<FreeHugepages> {
    let of = |name| machine.kilobytes("/proc/meminfo", name);
    Some(FreeHugepages {
        free: of("HugePages_Free")?,
        total: of("HugePages_Total")?,
        page_kb: of("Hugepagesize")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_need_is_what_ovs_was_seen_to_take() {
        let need = PoolNeed::of(9000, false, 2048);
        // With 768 pages free, OVS 3.1 took 637 for half of what it wanted.
        let half = need.most_pages / 2;
        assert!((630..=645).contains(&half), "{need:?}");
        assert_eq!(need.least_pages, need.most_pages.div_ceil(16));
        assert!(PoolNeed::of(1500, false, 2048).most_pages < need.most_pages / 3);
        let own = PoolNeed::of(9000, true, 2048);
        assert_eq!(own.most_pages, own.least_pages);
        assert!(own.least_pages > need.least_pages);
        assert!(PoolNeed::of(9000, false, 1_048_576).most_pages <= 3);
    }
}
