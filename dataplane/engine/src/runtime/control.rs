//! The thread beside the workers: neighbours, links, clock. It may block and allocate; workers never wait for it.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use dpdk::{Mempool, Tsc};
use sluice_af_packet::LinkState;
use sluice_core::neighbor::{Input, NeighborConfig, NeighborState, NeighborTable};
use sluice_model::{MacAddr, PortConfig, PortId, PortSpec};

use super::Shared;
use super::breaker::PortBreakers;
use super::deploy::ControlMessage;
use super::ports::{self, Device, OpenPort, PortState};
use super::routes::{self, Route};
use crate::control_queues::{ControlFrame, ControlQueues, Replacement};
use crate::feed_watch::{FeedJudge, FeedWatch, Judgement};
use crate::port::TxDriver;

/// Time between two rounds: the longest that a reply to ARP or ND waits.
const ROUND: Duration = Duration::from_millis(2);
/// Rounds between two looks at the links.
const LINK_ROUNDS: u32 = 25;
/// Rounds between two comparisons of the clock.
const CLOCK_ROUNDS: u32 = 500;

/// One port on the control side.
#[derive(Debug)]
struct ControlPort {
    id: PortId,
    setup: PortConfig,
    state: Arc<PortState>,
    /// The thread that receives it, by its place in the queues.
    receiver: usize,
    neighbors: Option<NeighborTable>,
    /// The interface came back, but could not be opened: said once.
    reopen_failed: Cell<bool>,
    /// Judges by traffic of others whether copies may leave by it.
    judge: FeedJudge,
}

/// The state of the control thread.
#[derive(Debug)]
pub(super) struct Control {
    ports: Vec<ControlPort>,
    routes: Vec<Route>,
    /// Of a generation that is not in force yet.
    prepared: Vec<Route>,
    /// Who waits for their next hops, and until when.
    waiting: Option<(Sender<Vec<IpAddr>>, Instant)>,
    inbox: Option<Receiver<ControlMessage>>,
    /// Of the workers, then of the distributors.
    queues: Vec<ControlQueues>,
    pool: Mempool,
    shared: Arc<Shared>,
    /// Frames to send, gathered during a round.
    out: Vec<Vec<u8>>,
    breakers: PortBreakers,
}

impl Control {
    pub(super) fn new(
        open: Vec<OpenPort>,
        receivers: &[usize],
        routes: Vec<Route>,
        queues: Vec<ControlQueues>,
        pool: Mempool,
        shared: Arc<Shared>,
    ) -> Self {
        let port = |port: OpenPort| ControlPort {
            neighbors: (!port.setup.addresses.is_empty()).then(|| {
                NeighborTable::new(routes::port_addresses(&port.setup, port.mac()), NeighborConfig::default())
            }),
            id: port.id(),
            state: port.state(),
            receiver: receivers.get(port.id().index()).copied().unwrap_or(0),
            setup: port.setup,
            reopen_failed: Cell::new(false),
            judge: FeedJudge::default(),
        };
        Self {
            ports: open.into_iter().map(port).collect(),
            routes,
            prepared: Vec::new(),
            waiting: None,
            inbox: None,
            queues,
            pool,
            shared,
            out: Vec::new(),
            breakers: PortBreakers::default(),
        }
    }

    /// Looks after these breakers, too.
    pub(super) fn with_breakers(self, breakers: PortBreakers) -> Self {
        Self { breakers, ..self }
    }

    /// Takes messages from this inbox.
    pub(super) fn with_inbox(self, inbox: Receiver<ControlMessage>) -> Self {
        Self { inbox: Some(inbox), ..self }
    }

    /// Runs until `stop` is set.
    pub(super) fn run(mut self, stop: &AtomicBool) {
        self.check_links();
        let mut round = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            round = round.wrapping_add(1);
            if round.is_multiple_of(CLOCK_ROUNDS) {
                self.shared.clock.calibrate();
                // Gives the workers their boxes back, so that no sample gets old.
                for cell in self.shared.workers.iter().filter_map(|worker| worker.latency.as_ref()) {
                    let _latency = cell.read();
                }
            }
            if round.is_multiple_of(LINK_ROUNDS) {
                self.check_links();
            }
            self.receive();
            self.take_messages();
            self.resolve();
            self.answer();
            self.breakers.poll(self.shared.clock.monotonic_ns(Tsc::now()), &self.shared.ports);
            std::thread::sleep(ROUND);
        }
    }

    fn now_ns(&self) -> u64 {
        self.shared.clock.monotonic_ns(Tsc::now())
    }

    /// Takes what the workers received for us.
    fn receive(&mut self) {
        let now_ns = self.now_ns();
        let mut bytes = Vec::new();
        for queue in 0..self.queues.len() {
            while let Some(ControlFrame { port, mbuf }) = self.queues[queue].received.pop() {
                bytes.clear();
                mbuf.segment_slices().for_each(|part| bytes.extend_from_slice(part));
                let Some(table) = self.ports.get_mut(port.index()).and_then(|p| p.neighbors.as_mut()) else {
                    continue;
                };
                if table.input(&bytes, now_ns, &mut self.out) == Input::NotOurs {
                    tracing::trace!(port = port.0, "a frame for our address that needs no answer");
                }
                self.send(port);
            }
        }
    }

    /// Takes in what the deployer says.
    fn take_messages(&mut self) {
        while let Some(message) = self.inbox.as_ref().and_then(|inbox| inbox.try_recv().ok()) {
            match message {
                ControlMessage::Prepare { routes, patience, reply } => {
                    // What is known already needs no change to be told by.
                    for route in &routes {
                        if let (Some(cell), Some(mac)) = (&route.cell, self.known(route)) {
                            cell.set(Some(mac));
                        }
                    }
                    self.prepared = routes;
                    self.waiting = Some((reply, Instant::now() + patience));
                }
                ControlMessage::Commit => {
                    self.routes = std::mem::take(&mut self.prepared);
                    self.forget_neighbors();
                }
                ControlMessage::Breakers(settings) => self.breakers.change(settings),
                ControlMessage::Abort => {
                    self.prepared.clear();
                    self.forget_neighbors();
                }
            }
        }
    }

    /// The MAC address of a route's next hop, if it is resolved.
    fn known(&self, route: &Route) -> Option<MacAddr> {
        match self.ports.get(route.port?)?.neighbors.as_ref()?.lookup(route.next_hop?) {
            NeighborState::Resolved { mac, .. } => Some(mac),
            NeighborState::Unknown | NeighborState::Unresolved { .. } | NeighborState::Failed { .. } => None,
        }
    }

    /// Forgets the next hops that no route needs.
    fn forget_neighbors(&mut self) {
        for (index, port) in self.ports.iter_mut().enumerate() {
            let Some(table) = &mut port.neighbors else { continue };
            table.retain(|address| {
                self.routes.iter().any(|route| route.port == Some(index) && route.next_hop == Some(address))
            });
        }
    }

    /// Answers who waits for next hops, when all are resolved or the time is over.
    fn answer(&mut self) {
        let Some((_, deadline)) = &self.waiting else { return };
        let unresolved = || {
            let wanted = self.prepared.iter().filter(|route| route.next_hop.is_some());
            wanted.filter(|route| self.known(route).is_none())
        };
        // Those that the generation in force waits for in vain will not come any sooner.
        let is_new = |route: &Route| {
            let mut known = self.routes.iter();
            !known.any(|other| other.port == route.port && other.next_hop == route.next_hop)
        };
        if unresolved().any(is_new) && Instant::now() < *deadline {
            return;
        }
        let mut open: Vec<_> = unresolved().filter_map(|route| route.next_hop).collect();
        open.sort_unstable();
        open.dedup();
        if let Some((reply, _)) = self.waiting.take() {
            // Who asked may have gone.
            let _gone = reply.send(open);
        }
    }

    /// Keeps the next hops resolved and publishes what changed.
    fn resolve(&mut self) {
        let now_ns = self.now_ns();
        for index in 0..self.ports.len() {
            let ControlPort { id: port, state, neighbors: Some(table), .. } = &mut self.ports[index] else {
                continue;
            };
            let port = *port;
            for route in self.routes.iter().chain(&self.prepared).filter(|route| route.port == Some(index)) {
                if let Some(next_hop) = route.next_hop {
                    table.want(next_hop, now_ns);
                }
            }
            table.poll(now_ns, &mut self.out);
            for (next_hop, mac) in table.changes() {
                let name = state.name();
                match mac {
                    Some(mac) => {
                        tracing::info!(port = name, %next_hop, %mac, "next hop resolved");
                    }
                    None => {
                        tracing::warn!(port = name, %next_hop, "next hop lost: copies through it are dropped");
                    }
                }
                for route in self.routes.iter().chain(&self.prepared) {
                    if let Some(cell) = route
                        .cell
                        .as_ref()
                        .filter(|_| route.port == Some(index) && route.next_hop == Some(next_hop))
                    {
                        cell.set(mac);
                    }
                }
            }
            self.send(port);
        }
    }

    /// Hands the gathered frames to a worker, which owns the transmit queues.
    fn send(&mut self, port: PortId) {
        for frame in self.out.drain(..) {
            let sent = self
                .queues
                .first()
                .zip(self.pool.copy_from(&frame))
                .map(|(queue, mbuf)| queue.to_send.push(ControlFrame { port, mbuf }).is_ok());
            if sent != Some(true) {
                // Resolution repeats itself; a lost frame costs a second.
                tracing::debug!(port = port.0, "no room for a control frame");
            }
        }
    }

    /// Looks at every link, tells the workers, and takes back interfaces that returned.
    fn check_links(&mut self) {
        let now_ns = self.now_ns();
        for port in &mut self.ports {
            let mut returned = false;
            let up = match port.state.device() {
                Device::Dpdk(device) => !device.is_removed() && device.link().is_ok_and(|link| link.up),
                Device::AfPacket(device) => {
                    let link = device.lock().unwrap_or_else(std::sync::PoisonError::into_inner).link();
                    match link {
                        Ok(LinkState::Returned { .. }) => {
                            returned = reopen(port, &self.queues, self.shared.workers.len());
                            returned
                        }
                        Ok(state) => ports::is_up(state),
                        Err(error) => {
                            tracing::warn!(port = port.state.name(), %error, "the link cannot be watched");
                            continue;
                        }
                    }
                }
                // The feeder says when the file has ended.
                Device::File(_) | Device::Closed(_) => continue,
            };
            let changed = port.state.set_up(up);
            if changed {
                let name = port.state.name();
                if up {
                    tracing::info!(port = name, "link up");
                } else {
                    tracing::warn!(
                        port = name,
                        "link down: its packets are missed, copies to it are dropped as port_down"
                    );
                }
            }
            if let Some(watch) = port.state.feed() {
                tell(port.judge.look(&watch, up, now_ns), &watch, port.state.name());
            }
            // An interface may go and return between two looks.
            if let Some(table) = port.neighbors.as_mut().filter(|_| up && (changed || returned)) {
                table.link_up(now_ns);
            }
        }
    }
}

/// Says what traffic of others on an output port means.
fn tell(judgement: Judgement, watch: &FeedWatch, port: &str) {
    let frames = watch.report().foreign;
    match judgement {
        Judgement::Unchanged => {}
        Judgement::Stopped => tracing::error!(
            port,
            frames,
            "frames between others come in: this is no port of a tool; plain copies to it are dropped as feed_guard until \
             its link was down or the daemon starts anew"
        ),
        Judgement::InUse => tracing::warn!(
            port,
            frames,
            "frames between others come in: plain copies leave into a network that is in use"
        ),
    }
}

/// Opens an interface that came back and hands its queues to the threads, of which the first are workers; says whether
/// it works.
fn reopen(port: &ControlPort, queues: &[ControlQueues], workers: usize) -> bool {
    let PortSpec::AfPacket(interface) = &port.setup.spec else { return false };
    let mac = port.neighbors.as_ref().map(|table| table.addresses().mac).or(port.setup.mac);
    match ports::open_interface(&port.setup, interface, workers, mac) {
        Ok((device, mut rx, tx)) => {
            let mut tx = tx.into_iter();
            for (index, queue) in queues.iter().enumerate() {
                let source = if index == port.receiver { rx.take() } else { None };
                let replacement = Replacement {
                    port: port.id,
                    source: source.map(Box::new),
                    exit: if index < workers { tx.next().map(TxDriver::AfPacket) } else { None },
                };
                if queue.replace.push(replacement).is_err() {
                    tracing::error!(
                        port = port.state.name(),
                        "a worker does not take the returned interface"
                    );
                }
            }
            port.state.replace(device);
            port.reopen_failed.set(false);
            tracing::info!(port = port.state.name(), "the interface is back");
            true
        }
        Err(error) => {
            if !port.reopen_failed.replace(true) {
                tracing::warn!(port = port.state.name(), %error, "the interface is back but cannot be opened yet");
            }
            false
        }
    }
}
