//! From which memory do packets and headers come? Pools beside the NUMA nodes of ports and workers.

use dpdk::{Eal, Mempool, MempoolConfig, MempoolError, SocketId};

use super::plan::{self, MemoryPlan};

/// The pools of the engine.
#[derive(Debug)]
pub(super) struct Pools(Vec<NodePools>);

#[derive(Debug)]
struct NodePools {
    node: Option<u16>,
    packets: Mempool,
    headers: Mempool,
}

impl Pools {
    /// Makes them; `local` = on the nodes of the plan, else wherever there is memory.
    pub(super) fn new(eal: &Eal, plan: &MemoryPlan, local: bool) -> Result<Self, MempoolError> {
        let pool = |name: &str, node: Option<u16>, mbufs, data_room| {
            let name = node.map_or(name.to_owned(), |node| format!("{name}{node}"));
            let socket = node.filter(|_| local).map_or(SocketId::ANY, SocketId::new);
            Mempool::new(eal, &MempoolConfig { name, mbufs, cache: 256, data_room, socket })
        };
        let of_node = |&node: &Option<u16>| {
            Ok(NodePools {
                node,
                packets: pool("packets", node, plan.mbufs, plan.data_room)?,
                headers: pool("headers", node, plan.headers, plan::HEADER_ROOM)?,
            })
        };
        plan.nodes.iter().map(of_node).collect::<Result<_, _>>().map(Self)
    }

    /// Packets for a port or a thread at `node`.
    pub(super) fn packets(&self, node: Option<u16>) -> Option<&Mempool> {
        self.at(node).map(|pools| &pools.packets)
    }

    /// Headers for a worker at `node`.
    pub(super) fn headers(&self, node: u16) -> Option<&Mempool> {
        self.at(Some(node)).map(|pools| &pools.headers)
    }

    fn at(&self, node: Option<u16>) -> Option<&NodePools> {
        self.0.iter().find(|pools| node.is_some() && pools.node == node).or_else(|| self.0.first())
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Mempool> {
        self.0.iter().flat_map(|pools| [pools.packets.clone(), pools.headers.clone()]).collect()
    }

    /// Mbufs for packets that are out of their pools.
    pub(super) fn packets_in_use(&self) -> u32 {
        self.0.iter().map(|pools| pools.packets.in_use()).sum()
    }
}
