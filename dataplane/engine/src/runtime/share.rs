//! Which thread receives from which queue, and which ports can each worker send by?

use std::sync::Arc;

use dpdk::{Eal, RxQueue};
use sluice_model::{PortId, PortRole};

use super::StartError;
use super::cores::node_of;
use super::plan::MemoryPlan;
use super::pools::Pools;
use super::ports::{OpenPort, Rx};
use crate::port::{Source, SourceKind, TxPort};

/// How packets get from the capture ports to the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spreading {
    /// Each port has one worker.
    Apart,
    /// Each capture port spreads over queues, one for each worker.
    Rss,
    /// Distributors receive and hand on; the text says why.
    Distributors(String),
}

/// The sources and exits of all threads.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// By worker.
    pub(super) workers: Vec<(Vec<Source>, Vec<TxPort>)>,
    /// By distributor.
    pub(super) distributors: Vec<Vec<Source>>,
    /// By port: the number of the thread that receives it, workers first, then distributors. A port that spreads over
    /// several workers names the first one.
    pub(super) receivers: Vec<usize>,
}

/// Shares the ports out.
pub(super) fn share(
    open: &mut [OpenPort],
    spreading: &Spreading,
    [workers, distributors]: [usize; 2],
    pools: &Pools,
    burst_pkts: usize,
) -> Shares {
    let mut shares = Shares {
        workers: (0..workers).map(|_| (Vec::new(), Vec::new())).collect(),
        distributors: (0..distributors).map(|_| Vec::new()).collect(),
        receivers: Vec::with_capacity(open.len()),
    };
    let mut captures = 0;
    for (number, port) in open.iter_mut().enumerate() {
        let role = port.setup.role;
        let distributed =
            role.captures() && matches!(spreading, Spreading::Distributors(_)) && distributors > 0;
        let mut receiver = number % workers.max(1);
        if distributed {
            receiver = workers + captures % distributors;
        }
        captures += usize::from(role.captures());
        let spread = role.captures() && *spreading == Spreading::Rss;
        let kinds = kinds(port, pools);
        let one_each = spread && kinds.len() == workers;
        for (queue, kind) in kinds.into_iter().enumerate() {
            let source = source(port, role, kind, burst_pkts);
            let thread = if one_each { queue } else { receiver };
            let sources = match thread.checked_sub(workers) {
                Some(distributor) => shares.distributors.get_mut(distributor),
                None => shares.workers.get_mut(thread).map(|(sources, _)| sources),
            };
            if let Some(sources) = sources {
                sources.push(source);
            }
        }
        shares.receivers.push(if one_each { 0 } else { receiver });
        for (_, exits) in &mut shares.workers {
            exits.extend(port.next_exit());
        }
    }
    shares
}

/// The receive queues of a port, each once.
fn kinds(port: &mut OpenPort, pools: &Pools) -> Vec<SourceKind> {
    match port.rx.take() {
        Some(Rx::Dpdk(queues)) => queues.into_iter().map(|queue: RxQueue| SourceKind::Dpdk(queue)).collect(),
        Some(Rx::AfPacket(rx)) => {
            let pool = pools.packets(node_of(&port.setup)).cloned();
            pool.map(|pool| SourceKind::AfPacket(rx, pool)).into_iter().collect()
        }
        Some(Rx::Feed(queue, reader)) => {
            port.rx = Some(Rx::Feed(Arc::clone(&queue), reader));
            vec![SourceKind::Queue(queue)]
        }
        None => Vec::new(),
    }
}

fn source(port: &OpenPort, role: PortRole, kind: SourceKind, burst_pkts: usize) -> Source {
    let mut source = Source::new(port.id(), role.captures(), port.own_filter(), kind);
    source.snaplen = port.setup.snaplen_bytes.unwrap_or(u32::MAX);
    source.burst_pkts = burst_pkts;
    source.decap = port.setup.decap;
    source.feed = port.state().feed().map(|feed| (feed, port.mac()));
    source
}

/// The rings between every distributor and every worker: the producers of each distributor; the consumers become
/// sources of the workers, in front of their own.
pub(super) fn rings(
    eal: &Eal,
    shares: &mut Shares,
    plan: &MemoryPlan,
) -> Result<Vec<Vec<dpdk::RingProducer>>, StartError> {
    let mut producers = Vec::with_capacity(shares.distributors.len());
    for distributor in 0..shares.distributors.len() {
        let mut row = Vec::with_capacity(shares.workers.len());
        for (worker, (sources, _)) in shares.workers.iter_mut().enumerate() {
            let (producer, consumer) =
                dpdk::Ring::spsc(eal, &format!("distributor{distributor}-{worker}"), plan.ring_size)?;
            row.push(producer);
            // The packets name their own ports.
            let source = Source::new(PortId(u16::MAX), true, None, SourceKind::Ring(consumer));
            sources.insert(distributor, source);
        }
        producers.push(row);
    }
    Ok(producers)
}
