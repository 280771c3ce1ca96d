//! The poll-mode worker: receives, decides and sends, and does nothing else.
//!
//! A worker owns its queues, tables and counters. Nothing in [`Worker::poll`] allocates, locks, logs or calls the
//! system (kernel interfaces need one call per transmitted burst, in their driver).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dpdk::{Burst, Mempool, Tsc};
use sluice_core::classify::FragmentTable;
use sluice_core::flow::Sink;
use sluice_model::DropReason;

use crate::batch::Batch;
use crate::clock::Clock;
use crate::control_queues::{ControlFrame, ControlQueues, PortRules, SPARE_PORTS};
use crate::deployment::Deployment;
use crate::flow_read::{BUSY_PLACES, FlowPage, QUIET_PLACES};
use crate::gate::Gate;
use crate::idle::{Doorbell, Idle, IdleSettings, Rest};
use crate::latency::{LatencyCell, Recorder};
use crate::ledger::{Ledger, LedgerCell};
use crate::output::Egress;
use crate::port::{Source, TxPort};
use crate::port_pairs::PortPairs;
use crate::shadow::Shadow;
use crate::stage::act::{Act, Context};
use crate::stage::decap::Decap;
use crate::stage::dedup::Dedup;
use crate::stage::flow::FlowStage;
use crate::stage::mirror::Mirror;
use crate::stage::{parse, rx};
use crate::stats::{Stage, WorkerStats};
use crate::tally::Books;
use crate::tap::Taps;
use crate::tap_rows::TapRows;
use crate::tunnels::TunnelRows;

/// How long the last records of a worker may wait for room.
const REPORT_PATIENCE: Duration = Duration::from_secs(5);
/// Verdicts whose counts go to policies and destinations after a poll that brought nothing, at most.
const IDLE_FOLDS: usize = 1024;
/// Polls between two looks at what the control thread wants.
pub(crate) const HOUSEKEEPING_POLLS: u32 = 64;
/// At the end, what was received is awaited: a kernel interface hands over a block that is not full after 1 ms.
pub(crate) const DRAIN_QUIET_NS: u64 = 5_000_000;
/// The longest time for that: not every device can be told to receive no more.
pub(crate) const DRAIN_MAX_NS: u64 = 1_000_000_000;

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerParts {
    /// Receive queues, polled in turn.
    pub sources: Vec<Source>,
    /// Output ports.
    pub ports: Vec<TxPort>,
    /// What is done by policy.
    pub deployment: Box<Deployment>,
    /// Flows: metering, and verdicts that are kept with them.
    pub flow: Option<FlowStage>,
    /// What is done with tunnels; `None` = nothing on any port.
    pub decap: Option<Decap>,
    /// Datagrams of which fragments were seen.
    pub fragments: FragmentTable,
    /// Small mbufs for headers and shares.
    pub headers: Mempool,
    /// Recognises duplicates; `None` = nobody looks.
    pub dedup: Option<Dedup>,
    /// The queues to and from the control thread.
    pub control: ControlQueues,
}

/// A worker: one lcore's share of the dataplane.
#[derive(Debug)]
pub struct Worker {
    parts: WorkerParts,
    batch: Box<Batch>,
    act: Act,
    ledger: Ledger,
    cell: Arc<LedgerCell>,
    stats: Arc<WorkerStats>,
    control_burst: Burst,
    /// Policies that are tried.
    shadow: Option<Box<Shadow>>,
    polls: u32,
    idle: Idle,
    recorder: Recorder,
    /// Flows that somebody wants to see.
    page: Option<Box<FlowPage>>,
    taps: Taps,
    /// Which tap packets come from; `None` = no tap has a name.
    mirror: Option<Mirror>,
    gate: Arc<Gate>,
}

impl Worker {
    /// A worker of these parts. All memory it will ever use is allocated here.
    #[must_use]
    pub fn new(mut parts: WorkerParts) -> Self {
        parts.sources.reserve(SPARE_PORTS);
        parts.ports.reserve(SPARE_PORTS);
        let mut worker = Self {
            act: Act::new(parts.headers.clone()),
            parts,
            batch: Box::default(),
            ledger: Ledger::default(),
            cell: Arc::default(),
            stats: Arc::default(),
            control_burst: Burst::new(),
            shadow: None,
            polls: 0,
            idle: Idle::new(IdleSettings::ALWAYS, &[]),
            recorder: Recorder::new(),
            page: None,
            taps: Taps::default(),
            mirror: None,
            gate: Arc::default(),
        };
        worker.housekeeping();
        worker
    }

    /// Lets the worker sleep when nothing comes; by default it polls without a pause.
    #[must_use]
    pub fn with_idle(mut self, settings: IdleSettings) -> Self {
        self.idle = Idle::new(settings, &self.parts.sources);
        self
    }

    /// Lets packets come in as `gate` says; by default all do.
    #[must_use]
    pub fn with_gate(self, gate: Arc<Gate>) -> Self {
        Self { gate, ..self }
    }

    /// Lets packets come from the taps of `mirror`; by default no tap has a name.
    #[must_use]
    pub fn with_mirror(self, mirror: Option<Mirror>) -> Self {
        Self { mirror, ..self }
    }

    /// What came from each tap, if taps have names.
    #[must_use]
    pub fn tap_rows(&self) -> Option<Arc<TapRows>> {
        self.mirror.as_ref().map(Mirror::counts)
    }

    /// What wakes the worker when packets are in its rings.
    #[must_use]
    pub fn doorbell(&self) -> Arc<Doorbell> {
        self.idle.doorbell()
    }

    /// How long packets are inside, as far as was handed over.
    #[must_use]
    pub fn latency(&self) -> Arc<LatencyCell> {
        self.recorder.cell()
    }

    /// The published ledger.
    #[must_use]
    pub fn ledger(&self) -> Arc<LedgerCell> {
        Arc::clone(&self.cell)
    }

    /// The queues to and from the control thread.
    #[must_use]
    pub fn control(&self) -> ControlQueues {
        self.parts.control.clone()
    }

    /// The flow stage, if there is one.
    #[must_use]
    pub fn flow(&self) -> Option<&FlowStage> {
        self.parts.flow.as_ref()
    }

    /// Ends and reports what of flows is due before the second of `now_ns`; see [`FlowStage::run_to`].
    pub fn run_flows_to(&mut self, now_ns: u64, sink: &mut impl Sink) {
        if let Some(flow) = &mut self.parts.flow {
            flow.run_to(now_ns, sink);
        }
    }

    /// Ends all flows, as if no packet came any more; see [`FlowStage::finish`].
    pub fn finish_flows(&mut self, sink: &mut impl Sink) {
        if let Some(flow) = &mut self.parts.flow {
            flow.finish(sink);
        }
    }

    /// The published stage statistics.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// The duplicates by the ports of both copies, if it looks for them.
    #[must_use]
    pub fn dedup_pairs(&self) -> Option<Arc<PortPairs>> {
        self.parts.dedup.as_ref().map(Dedup::pairs)
    }

    /// The numbered tunnels that come in, if tunnels are taken off.
    #[must_use]
    pub fn tunnels(&self) -> Option<Arc<TunnelRows>> {
        self.parts.decap.as_ref().and_then(Decap::rows)
    }

    /// Ends the worker and gives its output ports back.
    #[must_use]
    pub fn into_ports(self) -> Vec<TxPort> {
        self.parts.ports
    }

    /// Polls until `stop` is set, then until nothing more comes, and returns.
    pub fn run(&mut self, stop: &AtomicBool, clock: &Clock) {
        while !stop.load(Ordering::Relaxed) {
            if self.poll(clock) > 0 {
                self.idle.busy();
                continue;
            }
            if let Some(flow) = &mut self.parts.flow {
                flow.idle(clock.now_ns(Tsc::now()));
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
        // The distributors have ended: what they left is all there is.
        while self.parts.sources.iter().any(Source::holds_packets) {
            self.poll(clock);
        }
        self.fold();
        self.housekeeping();
        if let Some(flow) = &mut self.parts.flow {
            flow.report_all(clock.now_ns(Tsc::now()), REPORT_PATIENCE);
        }
        self.recorder.end();
    }

    /// Receives one burst from each source and takes it all the way; returns how many packets came.
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
            let received = source.receive(&mut self.batch, clock, start);
            self.stats.poll(received);
            if received > 0 {
                packets += received;
                if let Some(limits) = &mut self.parts.deployment.limits {
                    limits.set_time(clock.monotonic_ns(start));
                }
                let (capture, filter) = (source.capture, source.own_filter);
                let source_waits = source.can_wait();
                if source.is_ring() {
                    self.ledger.from_distributors += received as u64;
                }
                if let Some(filter) = filter {
                    self.batch.take_own(&filter, &self.parts.control.received, &mut self.ledger);
                }
                if !capture {
                    if let Some((feed, mac)) = &self.parts.sources[index].feed {
                        feed.look(*mac, &self.batch);
                    }
                    self.drop_all(DropReason::NotCapturePort);
                } else if let Some(reason) = self.gate.closed() {
                    self.drop_all(reason);
                } else if let Some(limit) = &self.parts.deployment.capture_limit {
                    let live = u64::from(self.batch.live.count_ones());
                    let admitted = limit.admit(clock.monotonic_ns(start), live);
                    self.drop_after(admitted, DropReason::CaptureLimit);
                }
                // The times of a capture file are not those of its reception; what was dropped whole took none.
                let sampled = capture && !source_waits && self.batch.live != 0 && self.recorder.is_due();
                let first_ns = self.batch.info[0].timestamp_ns;
                self.process(start);
                if sampled {
                    let delay_ns = clock.now_ns(Tsc::now()).saturating_sub(first_ns);
                    self.recorder.record(delay_ns, received);
                }
            }
        }
        if packets == 0 {
            self.parts.deployment.fold(IDLE_FOLDS);
        }
        if self.page.is_some() {
            self.fill_page(if packets == 0 { QUIET_PLACES } else { BUSY_PLACES });
        }
        packets
    }

    /// The batch, to be filled by a caller that is its own source; [`Worker::process`] then decides it.
    #[must_use]
    pub fn batch_mut(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Takes the packets of the batch through all stages; none is left in it.
    #[inline]
    pub fn process(&mut self, start: Tsc) {
        let batch = &mut *self.batch;
        let packets = batch.len;
        self.ledger.rx_packets += u64::from(batch.live.count_ones());
        rx::run(batch);
        if self.taps.watches_received() {
            self.taps.received(batch);
        }
        let received = self.stats.stage(Stage::Rx, start, packets);
        if let Some(mirror) = &mut self.mirror {
            mirror.run(batch, &mut self.ledger);
        }

        let with_inner = self.parts.deployment.program.needs_inner();
        let first_inner = with_inner && self.parts.decap.is_none();
        // Most of what a decapsulating node receives needs no look at its outer headers.
        let parts = &mut self.parts;
        let done = match &mut parts.decap {
            Some(decap) if !with_inner => decap.run_first(batch, &parts.deployment.guard, &mut self.ledger),
            _ => 0,
        };
        self.ledger.fragments_unmatched += parse::run(batch, &mut parts.fragments, first_inner, done);
        for place in batch.live_places() {
            self.ledger.rx_bytes += u64::from(batch.info[place].wire_len);
        }
        self.drop_own_copies(done);
        let mut parsed = self.stats.stage(Stage::Parse, received, packets);
        if let Some(decap) = &mut self.parts.decap {
            let fragments = &mut self.parts.fragments;
            let rest = decap.run(&mut self.batch, done, fragments, with_inner, &mut self.ledger);
            for place in self.batch.live_places_of(rest) {
                self.drop_packet(place, DropReason::NotTunnelled);
            }
            parsed = self.stats.stage(Stage::Decap, parsed, packets);
        }

        if let Some(dedup) = &mut self.parts.dedup {
            let duplicates = dedup.run(&mut self.batch, &mut self.ledger);
            if let Some(mirror) = &self.mirror {
                mirror.count_duplicates(&self.batch);
            }
            for place in self.batch.live_places_of(duplicates) {
                self.drop_packet(place, DropReason::Duplicate);
            }
            parsed = self.stats.stage(Stage::Dedup, parsed, packets);
        }

        let mut decided = 0;
        let mut metered = parsed;
        if let Some(flow) = &mut self.parts.flow {
            decided = flow.run(&mut self.batch, &self.parts.deployment.classifier);
            metered = self.stats.stage(Stage::Flow, parsed, packets);
        }
        let undecided = self.batch.live & !decided;
        if undecided != 0 {
            let mut places = undecided;
            if self.parts.deployment.classifier.is_full() {
                // All verdicts are about to be forgotten, those of the other packets, too.
                self.fold();
                places = self.batch.live;
            }
            let Deployment { classify, program, classifier, .. } = &mut *self.parts.deployment;
            classify.run(places, &mut self.batch, program, classifier);
            if let Some(flow) = &mut self.parts.flow {
                flow.keep(places, &self.batch, classifier);
            }
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.run(&mut self.batch, with_inner, self.parts.decap.as_ref());
        }
        let tapped = self.taps.watches_sent();
        if tapped {
            self.taps.decided(&self.batch, with_inner);
        }
        let classified = self.stats.stage(Stage::Classify, metered, packets);

        let WorkerParts { deployment, ports, .. } = &mut self.parts;
        let Deployment {
            classifier,
            tables,
            tallies,
            outputs,
            numbered,
            sequences,
            files,
            balance,
            limits,
            names,
            ..
        } = &mut **deployment;
        let mut ctx = Context {
            books: Books { classifier, tables, tallies, ledger: &mut self.ledger },
            outputs,
            numbered: *numbered,
            sequences,
            ports,
            files: files.as_ref(),
            balance: balance.as_mut(),
            limits: limits.as_mut(),
            taps: tapped.then_some((&mut self.taps, &**names)),
        };
        self.act.run(&mut self.batch, with_inner, &mut ctx);
        self.batch.clear();
        let acted = self.stats.stage(Stage::Act, classified, packets);

        let mut books = Books { classifier, tables, tallies, ledger: &mut self.ledger };
        for port in ports {
            port.flush(&mut books);
        }
        tallies.fold_share(classifier, tables);
        self.cell.publish(&self.ledger);
        self.stats.stage(Stage::Tx, acted, packets);
    }

    /// Adds what was counted by verdict to the counters of policies and destinations. The worker does so for a share of
    /// the verdicts with each batch, and whenever a poll brings nothing; who calls [`Worker::process`] does it before
    /// reading them.
    #[inline]
    pub fn fold(&mut self) {
        self.parts.deployment.fold(usize::MAX);
    }

    /// Ends the packets that are our own copies come back, but for those of `done`, which cannot be.
    #[inline]
    fn drop_own_copies(&mut self, done: u64) {
        let candidates = self.parts.deployment.guard.candidates(&self.batch.outer[..self.batch.len]);
        for place in self.batch.live_places_of(candidates & !done) {
            let Some(mbuf) = &self.batch.mbufs[place] else { continue };
            if self.parts.deployment.guard.is_own_copy(mbuf.data(), &self.batch.outer[place]) {
                self.drop_packet(place, DropReason::LoopGuard);
            }
        }
    }

    /// Counts every live packet as received and ends it.
    #[inline]
    fn drop_all(&mut self, reason: DropReason) {
        self.drop_after(0, reason);
    }

    /// The same, of those after the first `kept` live ones.
    fn drop_after(&mut self, kept: u64, reason: DropReason) {
        for place in self.batch.live_places().skip(usize::try_from(kept).unwrap_or(usize::MAX)) {
            self.ledger.rx_packets += 1;
            self.ledger.rx_bytes += u64::from(self.batch.info[place].wire_len);
            self.drop_packet(place, reason);
        }
    }

    fn drop_packet(&mut self, place: usize, reason: DropReason) {
        if let Some(mbuf) = self.batch.take(place) {
            self.ledger.drops.add(reason, 1);
            self.act.end(mbuf);
        }
    }

    /// Looks which destinations are ready, and which members of groups are there. Housekeeping does it; who calls
    /// [`Worker::process`] does it when a breaker changed its state.
    pub fn refresh_outputs(&mut self) {
        let Deployment { outputs, balance, .. } = &mut *self.parts.deployment;
        for output in outputs.iter_mut() {
            let up = match output.egress {
                Egress::Port(port) => self.parts.ports.get(port).is_some_and(TxPort::is_up),
                Egress::File | Egress::None => true,
            };
            output.refresh(up);
        }
        if let Some(balance) = balance {
            balance.refresh(outputs);
        }
    }

    /// Goes over to what it has of ports from now on, while what it had can be given back.
    fn take_ports(&mut self) {
        while !self.parts.control.ports_back.is_full()
            && let Some(mut change) = self.parts.control.ports.pop()
        {
            let parts = &mut self.parts;
            let port = change.port;
            if let Some(rules) = &mut change.rules {
                let PortRules { tap, .. } = *rules;
                if let Some(decap) = &mut parts.decap {
                    decap.set_port(port, rules);
                }
                if let Some(mirror) = &mut self.mirror {
                    mirror.set_port(port, tap.tap);
                }
                if let Some(flow) = &mut parts.flow {
                    flow.set_tap(port, tap);
                }
            }
            if change.exchange_sources(&mut parts.sources) {
                self.idle.watch(&parts.sources);
            }
            change.exchange_exit(&mut parts.ports);
            // There is room: nobody else pushes.
            drop(parts.control.ports_back.push(change));
        }
    }

    /// Goes over to the next generation of policies, if there is one: between two batches, so that nothing of the one
    /// before is on its way, and only when that one can be given back, as it must not be freed here.
    fn take_deployment(&mut self) {
        let ControlQueues { deploy, retired, .. } = &self.parts.control;
        if retired.is_full() {
            return;
        }
        let Some(mut next) = deploy.pop() else { return };
        self.parts.deployment.fold(usize::MAX);
        next.succeed(&self.parts.deployment);
        if let Some(flow) = &mut self.parts.flow {
            flow.set_program(&next.program);
        }
        let before = std::mem::replace(&mut self.parts.deployment, next);
        // There is room: nobody else pushes.
        drop(retired.push(before));
    }

    /// Looks at so many places of the flow table for who wants to see flows.
    #[inline(never)]
    fn fill_page(&mut self, places: usize) {
        let Some(page) = &mut self.page else { return };
        match &self.parts.flow {
            Some(flow) => flow.fill(page, places),
            None => page.is_last = true,
        }
        if page.is_full() || page.is_last {
            // Without room: nobody waits for it any more, and who asks next takes it out.
            let filled = &self.parts.control.pages.filled;
            if !filled.is_full()
                && let Some(page) = self.page.take()
            {
                drop(filled.push(page));
            }
        }
    }

    /// Begins to try policies, or ends it, when the ones before can be given back.
    fn take_shadow(&mut self) {
        let ControlQueues { shadow, shadow_back, .. } = &self.parts.control;
        if shadow.is_empty() || shadow_back.is_full() {
            return;
        }
        // Given back first: whoever sees that the message is gone finds it there.
        if let Some(before) = self.shadow.take() {
            drop(shadow_back.push(before));
        }
        self.shadow = shadow.pop().flatten();
    }

    /// Takes in what the control thread published, and sends what it has to send.
    #[cold]
    fn housekeeping(&mut self) {
        self.recorder.hand_over();
        self.take_ports();
        self.take_deployment();
        self.take_shadow();
        self.refresh_outputs();
        self.taps.housekeeping(&self.parts.control.taps);
        if self.page.is_none() {
            self.page = self.parts.control.pages.wanted.pop();
        }
        let parts = &mut self.parts;
        while let Some(ControlFrame { port, mbuf }) = parts.control.to_send.pop() {
            let Some(exit) = parts.ports.iter_mut().find(|exit| exit.id == port) else { continue };
            if self.control_burst.push(mbuf).is_ok() {
                self.ledger.ctrl_tx += exit.send_control(&mut self.control_burst) as u64;
            }
        }
        self.cell.publish(&self.ledger);
    }
}
