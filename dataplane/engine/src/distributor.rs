//! Which worker decides a received packet? An lcore that receives and hands on, where ports cannot spread packets
//! themselves so that what belongs together stays together.
//!
//! It looks at headers only as far as the hash of [`sluice_core::spread`] needs, never changes a packet, and counts:
//! what it received is dropped here, or handed to a worker. Order inside a flow is kept: one port is received by one
//! distributor, and between it and each worker is one ring.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk::{Burst, Note, RingProducer, Tsc};
use sluice_core::classify::FragmentTable;
use sluice_core::decap::{self, Numbered, TunnelInfo, is_candidate};
use sluice_core::spread::{spread_hash, worker_of};
use sluice_core::wire::{self, Fragment, Parsed};
use sluice_model::{DecapMode, DecapSettings, DropReason, PortId, SpreadBy};

use crate::batch::{BATCH, Batch};
use crate::clock::Clock;
use crate::control_queues::{ControlFrame, ControlQueues, SPARE_PORTS};
use crate::gate::Gate;
use crate::idle::{Doorbell, Idle, IdleSettings, Rest};
use crate::ledger::{Ledger, LedgerCell};
use crate::port::Source;
use crate::stage::decap::{CONTIGUOUS_TUNNELS, TunnelMeter, gather};
use crate::stage::ends::PortEnds;
use crate::stage::parse::{DEPTH_LIMIT, PREFETCH_AHEAD};
use crate::stage::rx;
use crate::stats::{Stage, WorkerStats};
use crate::tunnels::TunnelRows;
use crate::worker::{DRAIN_MAX_NS, DRAIN_QUIET_NS, HOUSEKEEPING_POLLS};

/// What a distributor is made of.
#[derive(Debug)]
pub struct DistributorParts {
    /// Receive queues, polled in turn.
    pub sources: Vec<Source>,
    /// The rings, by worker number.
    pub rings: Vec<RingProducer>,
    /// What wakes each worker, where workers sleep; else empty.
    pub doorbells: Vec<Arc<Doorbell>>,
    /// Whether this core itself may sleep.
    pub idle: IdleSettings,
    /// What of a packet decides.
    pub by: SpreadBy,
    /// Whether the innermost headers decide for all ports, as policies match on them; else those that are left when
    /// the tunnels that the port opens are off (control: w, distributor: r).
    pub innermost: Arc<AtomicBool>,
    /// Where tunnels end, by port.
    pub ends: PortEnds,
    /// Counts what numbered tunnels lost, as each worker sees only a part of them.
    pub tunnels: Option<TunnelMeter>,
    /// Ports of datagrams of which the first fragment was seen; only asked by [`SpreadBy::Ports`].
    pub fragments: FragmentTable,
    /// The queues to and from the control thread.
    pub control: ControlQueues,
}

/// A distributor: one lcore that receives for the workers.
#[derive(Debug)]
pub struct Distributor {
    parts: DistributorParts,
    batch: Box<Batch>,
    /// What goes to each worker of the batch in hand.
    bursts: Box<[Burst]>,
    ledger: Ledger,
    cell: Arc<LedgerCell>,
    stats: Arc<WorkerStats>,
    polls: u32,
    idle: Idle,
    gate: Arc<Gate>,
}

impl Distributor {
    /// A distributor of these parts. All memory it will ever use is allocated here.
    #[must_use]
    pub fn new(mut parts: DistributorParts) -> Self {
        parts.sources.reserve(SPARE_PORTS);
        Self {
            idle: Idle::new(parts.idle, &parts.sources),
            bursts: parts.rings.iter().map(|_| Burst::new()).collect(),
            parts,
            batch: Box::default(),
            ledger: Ledger::default(),
            cell: Arc::default(),
            stats: Arc::default(),
            polls: 0,
            gate: Arc::default(),
        }
    }

    /// Lets packets come in as `gate` says; by default all do.
    #[must_use]
    pub fn with_gate(self, gate: Arc<Gate>) -> Self {
        Self { gate, ..self }
    }

    /// The numbered tunnels, published, if tunnels are opened.
    #[must_use]
    pub fn tunnels(&self) -> Option<Arc<TunnelRows>> {
        self.parts.tunnels.as_ref().map(TunnelMeter::rows)
    }

    /// Ends the distributor and gives its sources back.
    #[must_use]
    pub fn into_sources(self) -> Vec<Source> {
        self.parts.sources
    }

    /// The published ledger.
    #[must_use]
    pub fn ledger(&self) -> Arc<LedgerCell> {
        Arc::clone(&self.cell)
    }

    /// The published statistics: receiving, hashing, and handing over as the stages rx, parse and tx.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// The queues to and from the control thread.
    #[must_use]
    pub fn control(&self) -> ControlQueues {
        self.parts.control.clone()
    }

    /// Polls until `stop` is set, then until nothing more comes, and returns.
    pub fn run(&mut self, stop: &AtomicBool, clock: &Clock) {
        while !stop.load(Ordering::Relaxed) {
            if self.poll(clock) > 0 {
                self.idle.busy();
                continue;
            }
            match self.idle.rest(&mut self.parts.sources) {
                Rest::None => {}
                Rest::Nap => self.stats.sleeps.add(1),
                Rest::Long => {
                    self.stats.sleeps.add(1);
                    self.polls = HOUSEKEEPING_POLLS;
                }
            }
        }
        let begin_ns = clock.now_ns(Tsc::now());
        let (mut now_ns, mut last_ns) = (begin_ns, begin_ns);
        while now_ns < last_ns + DRAIN_QUIET_NS && now_ns < begin_ns + DRAIN_MAX_NS {
            let packets = self.poll(clock);
            now_ns = clock.now_ns(Tsc::now());
            if packets > 0 {
                last_ns = now_ns;
            }
        }
    }

    /// Receives one burst from each source and hands it on; returns how many packets came.
    #[inline]
    pub fn poll(&mut self, clock: &Clock) -> usize {
        self.polls += 1;
        if self.polls >= HOUSEKEEPING_POLLS {
            self.polls = 0;
            self.housekeeping();
        }
        let mut packets = 0;
        for index in 0..self.parts.sources.len() {
            let start = Tsc::now();
            let source = &mut self.parts.sources[index];
            if source.can_wait() && !has_room(&self.parts.rings) {
                continue;
            }
            let received = source.receive(&mut self.batch, clock, start);
            self.stats.poll(received);
            if received == 0 {
                continue;
            }
            packets += received;
            let (capture, filter, decap) = (source.capture, source.own_filter, source.decap);
            if let Some(filter) = filter {
                let received = &self.parts.control.received;
                self.batch.take_own(&filter, received, &mut self.ledger);
            }
            let end = self.stats.stage(Stage::Rx, start, received);
            if !capture {
                self.drop_all(DropReason::NotCapturePort);
            } else if let Some(reason) = self.gate.closed() {
                self.drop_all(reason);
            } else {
                self.distribute(end, decap);
            }
            self.batch.clear();
        }
        packets
    }

    /// Hands every packet of the batch to its worker.
    #[inline]
    fn distribute(&mut self, start: Tsc, decap: DecapSettings) {
        let packets = self.batch.len;
        let taken = u64::from(self.batch.live.count_ones());
        self.hash(decap);
        let hashed = self.stats.stage(Stage::Parse, start, packets);
        // Counted before it can be seen by a worker, so that no account shows a packet that was not received.
        self.ledger.rx_packets += taken;
        self.ledger.to_workers += taken;
        self.cell.publish(&self.ledger);
        let mut lost = false;
        for (burst, ring) in self.bursts.iter_mut().zip(&mut self.parts.rings) {
            if burst.is_empty() {
                continue;
            }
            ring.enqueue_burst(burst);
            if !burst.is_empty() {
                count_lost(burst, &mut self.ledger);
                lost = true;
            }
        }
        if lost {
            self.cell.publish(&self.ledger);
        }
        if !self.parts.doorbells.is_empty() {
            Doorbell::order();
            self.parts.doorbells.iter().for_each(|bell| bell.ring());
        }
        self.stats.stage(Stage::Tx, hashed, packets);
    }

    /// Puts every packet of the batch into the burst of its worker, with its note.
    #[inline]
    fn hash(&mut self, decap: DecapSettings) {
        let workers = self.bursts.len();
        let batch = &mut *self.batch;
        let mut headers = Parsed::EMPTY;
        for place in 0..batch.len {
            if let Some(Some(ahead)) = batch.mbufs.get(place + PREFETCH_AHEAD) {
                ahead.prefetch_data();
            }
            let Some(mut mbuf) = batch.take(place) else { continue };
            if mbuf.segments() > 1 {
                // As the worker will: both must see the same headers.
                let bytes = if decap.mode == DecapMode::Off { rx::CONTIGUOUS } else { CONTIGUOUS_TUNNELS };
                gather(&mut mbuf, bytes);
            }
            let info = batch.info[place];
            let port = batch.ingress[place];
            let opened = (port, decap);
            let hash = hash_of(mbuf.data(), &mut headers, &mut self.parts, opened, info.timestamp_ns);
            mbuf.set_note(Note {
                timestamp_ns: info.timestamp_ns,
                wire_len: info.wire_len,
                gso_size: info.gso_size,
                port: port.0,
            });
            if let Some(burst) = self.bursts.get_mut(worker_of(hash, workers)) {
                // A burst holds a whole batch.
                drop(burst.push(mbuf));
            }
        }
    }

    /// Counts every live packet as received and ends it.
    fn drop_all(&mut self, reason: DropReason) {
        for place in self.batch.live_places() {
            self.ledger.rx_packets += 1;
            self.ledger.rx_bytes += u64::from(self.batch.info[place].wire_len);
            self.ledger.drops.add(reason, 1);
            drop(self.batch.take(place));
        }
    }

    #[cold]
    fn housekeeping(&mut self) {
        // What was there before goes back, if there is room: nobody else pushes.
        while !self.parts.control.ports_back.is_full()
            && let Some(mut change) = self.parts.control.ports.pop()
        {
            if let Some(rules) = &mut change.rules {
                rules.ends = self.parts.ends.set(change.port, std::mem::take(&mut rules.ends));
            }
            if change.exchange_sources(&mut self.parts.sources) {
                self.idle.watch(&self.parts.sources);
            }
            drop(self.parts.control.ports_back.push(change));
        }
        // Distributors have no exits.
        while let Some(ControlFrame { mbuf, .. }) = self.parts.control.to_send.pop() {
            drop(mbuf);
            self.ledger.ctrl_lost += 1;
        }
        self.cell.publish(&self.ledger);
    }
}

#[inline(always)]
fn hash_of(
    frame: &[u8],
    headers: &mut Parsed,
    parts: &mut DistributorParts,
    opened @ (_, decap): (PortId, DecapSettings),
    now_ns: u64,
) -> u64 {
    wire::parse_into(frame, headers);
    let by_ports = parts.by == SpreadBy::Ports;
    if by_ports && headers.fragment != Fragment::Whole {
        let _outcome = parts.fragments.resolve(headers, frame, now_ns);
    }
    if decap.mode != DecapMode::Off && is_candidate(headers)
        || headers.inner_offset != 0 && parts.innermost.load(Ordering::Relaxed)
    {
        go_inside(frame, headers, parts, opened);
        if by_ports && headers.fragment != Fragment::Whole {
            let _outcome = parts.fragments.resolve(headers, frame, now_ns);
        }
    }
    spread_hash(frame, headers, parts.by)
}

/// Replaces the headers of a tunnel packet by those that decide about it.
fn go_inside(
    frame: &[u8],
    headers: &mut Parsed,
    parts: &mut DistributorParts,
    (port, decap): (PortId, DecapSettings),
) {
    let outer = *headers;
    if decap.mode != DecapMode::Off {
        let (mut tunnel, meter) = (TunnelInfo::NONE, &mut parts.tunnels);
        let mut on_number = |number: &Numbered<'_>| {
            if let Some(meter) = meter {
                meter.count(number);
            }
        };
        let ends = parts.ends.ends(port, decap);
        let found = decap::unwrap_at(frame, decap, ends, headers, &mut tunnel, &mut on_number);
        if found.depth > 0 {
            found.look_through(headers);
        }
    }
    if parts.innermost.load(Ordering::Relaxed) {
        *headers = wire::parse_innermost(frame, &outer, DEPTH_LIMIT);
    }
}

/// Whether a batch fits every ring, whichever worker it is for.
fn has_room(rings: &[RingProducer]) -> bool {
    rings.iter().all(|ring| ring.len() as usize + BATCH <= ring.capacity() as usize)
}

/// Counts what a full ring did not take as dropped, and frees it.
#[cold]
fn count_lost(burst: &mut Burst, ledger: &mut Ledger) {
    let packets = burst.len() as u64;
    ledger.to_workers -= packets;
    ledger.drops.add(DropReason::DistributorFull, packets);
    ledger.rx_bytes += burst.iter().map(|mbuf| u64::from(mbuf.note().wire_len)).sum::<u64>();
    burst.free_all();
}
