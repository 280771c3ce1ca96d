//! The thread beside the workers: neighbours, links, clock. It may block and allocate; workers never wait for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use dpdk::{Mempool, Tsc};
use sluice_af_packet::LinkState;
use sluice_core::neighbor::{Input, NeighborConfig, NeighborState, NeighborTable};
use sluice_model::{MacAddr, PortConfig, PortId};

use super::Shared;
use super::breaker::PortBreakers;
use super::changes::{Changes, Then};
use super::deploy::ControlMessage;
use super::open::Opener;
use super::port_state::{Device, PortState};
use super::ports::{self, OpenPort};
use super::routes::{self, Route};
use super::share;
use crate::control_queues::{ControlFrame, ControlQueues};
use crate::feed_watch::{FeedJudge, FeedWatch, Judgement};

/// Time between two rounds: the longest that a reply to ARP or ND waits.
const ROUND: Duration = Duration::from_millis(2);
/// Rounds between two looks at the links.
const LINK_ROUNDS: u32 = 25;
/// Rounds between two comparisons of the clock.
const CLOCK_ROUNDS: u32 = 500;
/// How often to look whether a device that is gone is back.
const RETURN_ROUND: Duration = Duration::from_secs(1);

/// One port on the control side.
#[derive(Debug)]
pub(super) struct ControlPort {
    id: PortId,
    setup: PortConfig,
    state: Arc<PortState>,
    /// Of the capture ports, how many come before it.
    captures: usize,
    neighbors: Option<NeighborTable>,
    /// The device came back, but could not be opened: said once.
    reopen_failed: bool,
    /// When a device that is gone was looked for.
    looked: Option<Instant>,
    /// Judges by traffic of others whether copies may leave by it.
    judge: FeedJudge,
}

impl ControlPort {
    /// What is left of a port when its queues are shared out; before it come so many capture ports.
    pub(super) fn new(port: OpenPort, captures: usize) -> Self {
        // Echo is for seeing whether the longest packets pass.
        let config = NeighborConfig { mtu: port.mtu(), ..NeighborConfig::default() };
        let addresses = || routes::port_addresses(&port.setup, port.mac());
        Self {
            neighbors: (!port.setup.addresses.is_empty()).then(|| NeighborTable::new(addresses(), config)),
            id: port.id(),
            state: port.state(),
            captures,
            setup: port.setup,
            reopen_failed: false,
            looked: None,
            judge: FeedJudge::default(),
        }
    }
}

/// What a look at a port has shown.
enum Look {
    /// The state of its link.
    Link(bool),
    /// The device went away: its queues are no good any more.
    Left,
    /// The device that went away may be back.
    Returned,
    /// Nothing.
    Unknown,
}

/// The state of the control thread.
#[derive(Debug)]
pub(super) struct Control {
    /// By port number; `None` = it was removed.
    ports: Vec<Option<ControlPort>>,
    changes: Changes,
    opener: Arc<Opener>,
    /// Workers and distributors.
    threads: [usize; 2],
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
        opener: Arc<Opener>,
        routes: Vec<Route>,
        (queues, threads): (Vec<ControlQueues>, [usize; 2]),
        pool: Mempool,
        shared: Arc<Shared>,
    ) -> Self {
        let mut captures = 0;
        let port = |port: OpenPort| {
            let before = captures;
            captures += usize::from(port.setup.role.captures());
            Some(ControlPort::new(port, before))
        };
        Self {
            ports: open.into_iter().map(port).collect(),
            changes: Changes::default(),
            opener,
            threads,
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
                self.ports.iter().flatten().for_each(|port| port.state.calibrate());
                // Gives the workers their boxes back, so that no sample gets old.
                for cell in self.shared.workers.iter().filter_map(|worker| worker.latency.as_ref()) {
                    let _latency = cell.read();
                }
            }
            if round.is_multiple_of(LINK_ROUNDS) {
                self.check_links();
            }
            self.take_changes();
            self.receive();
            self.take_messages();
            self.resolve();
            self.answer();
            self.breakers.poll(self.now_ns());
            std::thread::sleep(ROUND);
        }
        self.changes.end(&self.queues);
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
                let own = self.ports.get_mut(port.index()).and_then(Option::as_mut);
                let Some(table) = own.and_then(|own| own.neighbors.as_mut()) else {
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
                ControlMessage::AddPort { port, changes, reply } => {
                    self.breakers.watch(port.id, &port.setup, &port.state);
                    self.changes.begin(port.id, changes, self.threads[0], Then::Tell(reply));
                    let place = port.id.index();
                    if self.ports.len() <= place {
                        self.ports.resize_with(place + 1, || None);
                    }
                    if let Some(own) = self.ports.get_mut(place) {
                        *own = Some(*port);
                    }
                }
                ControlMessage::RemovePort { port, setup, state, reply } => {
                    self.breakers.forget(port);
                    if let Some(own) = self.ports.get_mut(port.index()) {
                        *own = None;
                    }
                    let then = Then::Close { state, setup, reply: Some(reply) };
                    self.changes.begin(port, share::closing(port, self.threads), self.threads[0], then);
                }
                ControlMessage::Abort => {
                    self.prepared.clear();
                    self.forget_neighbors();
                }
            }
        }
    }

    /// The MAC address of a route's next hop, if it is resolved.
    fn known(&self, route: &Route) -> Option<MacAddr> {
        match self.ports.get(route.port?)?.as_ref()?.neighbors.as_ref()?.lookup(route.next_hop?) {
            NeighborState::Resolved { mac, .. } => Some(mac),
            NeighborState::Unknown | NeighborState::Unresolved { .. } | NeighborState::Failed { .. } => None,
        }
    }

    /// Forgets the next hops that no route needs.
    fn forget_neighbors(&mut self) {
        for (index, port) in self.ports.iter_mut().enumerate() {
            let Some(table) = port.as_mut().and_then(|port| port.neighbors.as_mut()) else { continue };
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
            let Some(ControlPort { id: port, state, neighbors: Some(table), .. }) = &mut self.ports[index]
            else {
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

    /// Looks at every link, tells the workers, gives up devices that are gone and takes back those that returned.
    fn check_links(&mut self) {
        let now_ns = self.now_ns();
        for port in self.ports.iter_mut().flatten() {
            if self.changes.is_pending(port.id) {
                continue;
            }
            let up = match port.look() {
                Look::Link(up) => up,
                Look::Unknown => continue,
                Look::Left => {
                    tracing::warn!(port = port.state.name(), "the interface is gone: it is looked for");
                    let (state, setup) = (Arc::clone(&port.state), Box::new(port.setup.clone()));
                    let then = Then::Close { state, setup, reply: None };
                    let closing = share::closing(port.id, self.threads);
                    self.changes.begin(port.id, closing, self.threads[0], then);
                    false
                }
                Look::Returned => {
                    port.reopen(&self.opener, self.threads, &mut self.changes);
                    false
                }
            };
            if port.state.set_up(up) {
                let name = port.state.name();
                if up {
                    tracing::info!(port = name, "link up");
                    if let Some(table) = &mut port.neighbors {
                        table.link_up(now_ns);
                    }
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
        }
    }

    /// Goes on with ports of which every thread has taken a change.
    fn take_changes(&mut self) {
        let mut returned = false;
        for (port, then) in self.changes.poll(&self.queues) {
            match then {
                // Who asked may have gone.
                Then::Tell(reply) => drop(reply.send(())),
                Then::Close { state, setup, reply } => {
                    state.close();
                    self.opener.forget(port, &setup);
                    reply.map(|reply| reply.send(()));
                }
                Then::Replace { state, device } => {
                    state.replace(*device);
                    returned = true;
                    tracing::info!(port = state.name(), "the interface is back");
                }
            }
        }
        if returned {
            self.check_links();
        }
    }
}

impl ControlPort {
    /// Looks at the device.
    fn look(&mut self) -> Look {
        match &*self.state.device() {
            Device::Dpdk(device, ..) if ports::is_gone(device, &self.setup.spec) => Look::Left,
            Device::Dpdk(device, ..) => Look::Link(device.link().is_ok_and(|link| link.up)),
            Device::AfPacket(device) => match device.link() {
                Ok(LinkState::Returned { .. }) => Look::Returned,
                Ok(state) => Look::Link(ports::is_up(state)),
                Err(error) => {
                    tracing::warn!(port = self.state.name(), %error, "the link cannot be watched");
                    Look::Unknown
                }
            },
            Device::Closed => {
                let now = Instant::now();
                let is_due = self.looked.is_none_or(|looked| now.duration_since(looked) >= RETURN_ROUND);
                if is_due {
                    self.looked = Some(now);
                }
                if is_due && ports::may_be_back(&self.setup.spec) { Look::Returned } else { Look::Unknown }
            }
            // The feeder says when the file has ended.
            Device::File => Look::Unknown,
        }
    }

    /// Opens a device that came back and hands its queues to the threads.
    fn reopen(&mut self, opener: &Opener, threads: [usize; 2], changes: &mut Changes) {
        match opener.reopen(self.id, &self.setup, &self.state) {
            Ok((mut port, device)) => {
                let all = share::changes(&mut port, opener, threads, self.captures);
                let (state, device) = (Arc::clone(&self.state), Box::new(device));
                changes.begin(self.id, all, threads[0], Then::Replace { state, device });
                self.reopen_failed = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.reopen_failed, true) {
                    tracing::warn!(port = self.state.name(), %error, "the interface is back but cannot be opened yet");
                }
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
