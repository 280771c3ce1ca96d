//! Which thread receives from which queue, and which ports can each worker send by?

use std::sync::Arc;

use dpdk::{Eal, RxQueue};
use sluice_core::decap;
use sluice_core::flow::TapPort;
use sluice_model::{PortConfig, PortId, PortRole};

use super::StartError;
use super::cores::node_of;
use super::open::Opener;
use super::plan::MemoryPlan;
use super::pools::Pools;
use super::ports::{OpenPort, Rx};
use crate::control_queues::{PortChange, PortRules, SPARE_PORTS};
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
}

/// One port's part of them: by thread, workers first, then distributors.
#[derive(Debug)]
struct PortShare {
    sources: Vec<Vec<Source>>,
    /// By worker; fewer than workers where only some send.
    exits: Vec<TxPort>,
}

/// Shares the ports out to so many workers and distributors.
pub(super) fn share(
    open: &mut [OpenPort],
    opener: &Opener,
    threads @ [workers, distributors]: [usize; 2],
) -> Shares {
    // Ports may come that have a queue for each worker, all at one.
    let room = || Vec::with_capacity(open.len() + SPARE_PORTS * workers.max(1));
    let mut shares = Shares {
        workers: (0..workers).map(|_| (room(), Vec::with_capacity(open.len() + SPARE_PORTS))).collect(),
        distributors: (0..distributors).map(|_| room()).collect(),
    };
    let mut captures = 0;
    for port in open {
        let share = share_port(port, opener, threads, captures);
        captures += usize::from(port.setup.role.captures());
        let own = shares.workers.iter_mut().map(|(sources, _)| sources).chain(&mut shares.distributors);
        for (own, sources) in own.zip(share.sources) {
            own.extend(sources);
        }
        for ((_, exits), exit) in shares.workers.iter_mut().zip(share.exits) {
            exits.push(exit);
        }
    }
    shares
}

/// Shares one port out; before it come so many capture ports.
fn share_port(
    port: &mut OpenPort,
    opener: &Opener,
    [workers, distributors]: [usize; 2],
    captures: usize,
) -> PortShare {
    let role = port.setup.role;
    let distributed =
        role.captures() && matches!(opener.spreading, Spreading::Distributors(_)) && distributors > 0;
    let receiver =
        if distributed { workers + captures % distributors } else { port.id().index() % workers.max(1) };
    let spread = role.captures() && opener.spreading == Spreading::Rss;
    let kinds = kinds(port, &opener.pools);
    let one_each = spread && kinds.len() == workers;
    let mut sources: Vec<Vec<Source>> = (0..workers + distributors).map(|_| Vec::new()).collect();
    for (queue, kind) in kinds.into_iter().enumerate() {
        if let Some(own) = sources.get_mut(if one_each { queue } else { receiver }) {
            own.push(source(port, role, kind, opener.burst_pkts));
        }
    }
    let exits = (0..workers).map_while(|_| port.next_exit()).collect();
    PortShare { sources, exits }
}

/// What every thread has to change for a port that comes or came back, workers first, then distributors.
pub(super) fn changes(
    port: &mut OpenPort,
    opener: &Opener,
    threads: [usize; 2],
    captures: usize,
) -> Vec<PortChange> {
    let share = share_port(port, opener, threads, captures);
    let [workers, _] = threads;
    let mut exits = share.exits.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let change = |(sources, exit)| {
        let change = PortChange::new(port.id(), sources, exit, workers);
        change.with_rules(rules(&port.setup))
    };
    share.sources.into_iter().zip(&mut exits).map(change).collect()
}

/// What every thread has to change for a port that goes.
pub(super) fn closing(port: PortId, [workers, distributors]: [usize; 2]) -> Vec<PortChange> {
    (0..workers + distributors).map(|_| PortChange::new(port, Vec::new(), None, workers)).collect()
}

fn rules(setup: &PortConfig) -> PortRules {
    PortRules {
        decap: setup.decap,
        ends: setup.addresses.iter().map(|own| decap::end(own.address)).collect(),
        tap: tap(setup),
    }
}

/// Where packets of a port come from.
pub(super) fn tap(setup: &PortConfig) -> TapPort {
    TapPort { tap: setup.tap, side: setup.tap_side }
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
    source.nic_clock = port.nic_clock();
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
