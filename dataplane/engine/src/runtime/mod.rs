//! The engine as a running whole: ports, workers, control thread and file writer, started and stopped in order.

mod breaker;
mod capture;
mod control;
mod cores;
mod dedup_plan;
mod deploy;
mod error;
mod examine;
mod feeder;
mod flow_read;
mod flows;
mod layers;
mod observe;
mod open;
mod plan;
mod pools;
mod ports;
mod routes;
mod share;
mod spread;
mod tables;
mod trial;

pub use capture::{Capture, CaptureError, CaptureTotals};
pub use cores::CorePlan;
pub use dedup_plan::{DedupPlan, finished_checksums};
pub use deploy::{DeployError, Deployed};
pub use error::StartError;
pub use examine::{Examination, ExamineError, ExaminedCopy, Fate, NextHop, Specimen};
pub use flow_read::{FlowReadError, FlowSelector, address};
pub use flows::FlowPlan;
pub use layers::{Layer, LayerView};
pub use observe::{GenerationTotals, NamedDestination, ThreadView};
pub use plan::MemoryPlan;
pub use ports::{PortReport, PortState};
pub use routes::Route;
pub use share::Spreading;
pub use spread::{RssRefusal, SpreadNeed, before as rss_before, test as rss_test};
pub use tables::{memory_fits, tables_fit};
pub use trial::{Trial, TrialCounts, TrialError, TrialRow};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dpdk::{Eal, EalConfig, Hugepages, LcoreThread, Mempool, Tsc};
use sluice_core::classify::{CompileReport, FragmentTable, FragmentTableConfig, Program};
use sluice_model::{BootConfig, DestinationId, Generation, MacAddr, PolicySet, Polling, PortSpec};

use crate::batch::BATCH;
use crate::clock::Clock;
use crate::counters::{DestinationTotals, PolicyTotals};
use crate::distributor::{Distributor, DistributorParts};
use crate::files::{FileError, FileSink};
use crate::gate::{CaptureLimit, Gate};
use crate::idle::{DEFAULT_MAX_SLEEP, IdleSettings};
use crate::latency::{Latency, LatencyCell};
use crate::ledger::{Account, Ledger, LedgerCell};
use crate::machine::Machine;
use crate::output::BreakerCell;
use crate::port::{Source, TxPort};
use crate::port_pairs::{PairTotals, PortPairs};
use crate::stage::balance::SharedGroups;
use crate::stage::decap::{Decap, TunnelMeter};
use crate::stage::dedup::Dedup;
use crate::stage::flow::{FlowStats, RecordRings};
use crate::stats::WorkerStats;
use crate::tunnels::{TunnelRows, TunnelTotals, tunnel_totals};
use crate::worker::{ControlQueues, Worker, WorkerParts};
use breaker::PortBreakers;
use capture::Captures;
use control::Control;
use deploy::{Deployer, FileMessage, InForce, OpenedFiles, Site};
use open::OpenPorts;
use pools::Pools;
use ports::OpenPort;
use routes::PortFacts;

/// Frames that wait between a worker and the control thread.
const CONTROL_QUEUE: usize = 256;
/// How long the file writer sleeps when nothing waits.
const FILE_IDLE: Duration = Duration::from_millis(1);
/// How long it sleeps where no destination is a file; it wakes at once when one comes.
const NO_FILES_IDLE: Duration = Duration::from_millis(20);

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    deployer: Mutex<Deployer>,
    /// Of the workers.
    queues: Vec<ControlQueues>,
    /// The number of the last request to read flows.
    flow_requests: Mutex<u64>,
    captures: Arc<Captures>,
    stop_receivers: Arc<AtomicBool>,
    stop_workers: Arc<AtomicBool>,
    stop_rest: Arc<AtomicBool>,
    /// What feeds the workers: readers of files, then distributors.
    receivers: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    files: Option<JoinHandle<()>>,
    pools: Vec<Mempool>,
    mbufs_kept: u32,
    // Last: the environment outlives everything above.
    _eal: Eal,
}

/// What the threads publish and anyone may read.
#[derive(Debug)]
struct Shared {
    workers: Vec<WorkerHandle>,
    distributors: Vec<WorkerHandle>,
    files: Arc<LedgerCell>,
    in_force: Mutex<InForce>,
    ports: Vec<Arc<PortState>>,
    /// By port number: its MAC address, and its MTU as it was opened.
    links: Vec<(MacAddr, u16)>,
    /// Flows that all workers together have room for.
    flow_capacity: u64,
    /// By port number.
    breakers: Vec<Option<Arc<BreakerCell>>>,
    clock: Clock,
    tsc_hz: u64,
}

/// What one thread that moves packets did.
#[derive(Clone, Debug)]
pub struct ThreadReport {
    /// `worker` or `distributor`, and its number.
    pub name: String,
    /// Its own account.
    pub ledger: Ledger,
    /// Times that it slept, as nothing came.
    pub sleeps: u64,
    /// Polls that brought nothing.
    pub idle_polls: u64,
    /// How long packets were inside; `None` of a distributor.
    pub latency: Option<Latency>,
    /// The CPU it runs on.
    pub lcore: u16,
    /// Where its cycles went.
    pub stats: Arc<WorkerStats>,
}

/// One worker as seen from outside.
#[derive(Debug)]
struct WorkerHandle {
    lcore: u16,
    ledger: Arc<LedgerCell>,
    stats: Arc<WorkerStats>,
    latency: Option<Arc<LatencyCell>>,
    flow: Option<FlowHandle>,
    tunnels: Option<Arc<TunnelRows>>,
    dedup_pairs: Option<Arc<PortPairs>>,
}

/// The flow stage of a worker as seen from outside.
#[derive(Clone, Debug)]
pub struct FlowHandle {
    /// Where its records leave: to be drained, or they are lost.
    pub rings: RecordRings,
    /// What it did.
    pub stats: Arc<FlowStats>,
    /// The flows that its table holds at most.
    pub capacity: u32,
}

impl Engine {
    /// Opens the ports, makes the workers and starts all threads.
    ///
    /// # Errors
    /// What is missing, and what to do about it. Nothing is left running.
    pub fn start(
        boot: &BootConfig,
        policies: &PolicySet,
        generation: Generation,
    ) -> Result<Self, StartError> {
        Self::start_behind(boot, policies, generation, &Arc::default())
    }

    /// The same, behind a gate, which is asked from the first packet on.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_behind(
        boot: &BootConfig,
        policies: &PolicySet,
        generation: Generation,
        gate: &Arc<Gate>,
    ) -> Result<Self, StartError> {
        let machine = Machine::detect().limited(&boot.protection);
        let cores = CorePlan::new(boot, &machine);
        memory_fits(boot, &cores, &machine)?;
        let plan = MemoryPlan::new(boot, &cores, &machine);
        let use_hugepages = plan.use_hugepages(boot.eal.hugepages)?;
        for port in boot.ports.iter().filter(|port| waits_for_peer(&port.spec)) {
            tracing::warn!(port = port.name, "this driver waits for its peer before anything else starts");
        }
        let eal = Eal::init(&EalConfig {
            hugepages: if use_hugepages { Hugepages::Use } else { Hugepages::Never },
            memory_mb: plan.memory_mb(),
            vdevs: devices(boot, |spec| matches!(spec, PortSpec::Devargs(_))),
            pci_allow: devices(boot, |spec| matches!(spec, PortSpec::Pci(_))),
            file_prefix: Some(format!("sluice-{}", std::process::id())),
            extra_args: boot.eal.args.clone(),
            ..EalConfig::default()
        })?;
        let pools = Pools::new(&eal, &plan, use_hugepages)?;
        let names: Vec<_> = boot.ports.iter().map(|port| port.name.clone()).collect();
        let reads_inner = Program::compile(policies, &names, generation).0.needs_inner();

        let worker_count = cores.workers.len();
        let opened = boot.ports.iter().any(|port| port.role.captures() && !port.decap.is_off());
        let need =
            SpreadNeed { workers: worker_count, by: boot.worker.spread, innermost: opened || reads_inner };
        let OpenPorts { mut ports, spreading, mbufs_kept } =
            OpenPorts::open(&eal, boot, &pools, &plan, &need)?;
        let distributor_count = match &spreading {
            Spreading::Distributors(reason) => {
                tracing::info!(reason, lcores = ?cores.distributors, "packets go through distributors");
                if cores.shared {
                    tracing::warn!(lcores = ?cores.distributors, "a distributor shares its CPU with a worker");
                }
                cores.distributors.len()
            }
            Spreading::Rss => {
                tracing::info!(queues = worker_count, "ports spread packets by RSS");
                0
            }
            Spreading::Apart => 0,
        };
        let decap: Vec<_> = boot.ports.iter().map(|port| port.decap).collect();
        let burst_pkts = boot.worker.burst_pkts.map_or(BATCH, |burst| usize::from(burst).min(BATCH));
        let dedup_plan = DedupPlan::of(&boot.dedup, worker_count, &machine);
        let flow_plan = FlowPlan::of(&boot.flow, worker_count, &machine);
        let idle = IdleSettings {
            adaptive: boot.worker.polling == Polling::Adaptive,
            max_sleep: boot
                .worker
                .max_sleep_us
                .map_or(DEFAULT_MAX_SLEEP, |microseconds| Duration::from_micros(microseconds.into())),
        };
        // Behind distributors a worker sees a part of each tunnel's packets only.
        let decap_stage = || {
            let stage = Decap::new(&decap);
            if distributor_count > 0 { stage.map(Decap::without_meter) } else { stage }
        };
        let breakers = PortBreakers::new(boot);
        let capture_limit = boot.protection.capture_pps().map(CaptureLimit::new);
        let mut workers = Vec::with_capacity(worker_count);
        let counts = [worker_count, distributor_count];
        let facts = ports.iter().map(PortFacts::of).collect();
        let mut shares = share::share(&mut ports, &spreading, counts, &pools, burst_pkts);
        let producers = share::rings(&eal, &mut shares, &plan)?;
        let exits = |(_, exits): &(Vec<Source>, Vec<TxPort>)| exits.iter().map(|exit| exit.id).collect();
        let site = Site {
            boot: boot.clone(),
            ports: facts,
            breakers: breakers.cells(),
            exits: shares.workers.iter().map(exits).collect(),
            decapsulates: decap_stage().is_some(),
        };
        let draft = site.draft(policies, generation, None)?;
        tracing::info!(bytes = draft.report.bytes, dimensions = ?draft.report.dimensions, "policies compiled");
        let paths = deploy::file_paths(policies);
        let mut sink = FileSink::create(&paths, policies.policies().len())?;
        let mut tables = vec![sink.tables()];
        for (index, ((sources, exits), &cpu)) in shares.workers.into_iter().zip(&cores.workers).enumerate() {
            let headers = pools.headers(machine.node_of(cpu)).ok_or(StartError::NoPool)?.clone();
            let files = sink.producer(deploy::file_queue(policies));
            let deployment = site.deployment(&draft, index, Some(files));
            tables.push(Arc::clone(&deployment.tables));
            let worker = Worker::new(WorkerParts {
                flow: flows::stage(boot, flow_plan.as_ref(), &draft.program, index),
                deployment,
                sources,
                ports: exits,
                decap: decap_stage(),
                fragments: FragmentTable::new(&FragmentTableConfig::default()),
                headers,
                dedup: dedup_plan.and_then(|plan| {
                    Dedup::new(&boot.dedup, plan.entries, boot.ports.len(), finished_checksums(boot))
                }),
                control: ControlQueues::new(CONTROL_QUEUE),
            });
            workers.push(worker.with_idle(idle).with_gate(Arc::clone(gate), capture_limit.clone()));
        }
        let doorbells =
            if idle.adaptive { workers.iter().map(Worker::doorbell).collect() } else { Vec::new() };
        let innermost = Arc::new(AtomicBool::new(draft.program.needs_inner()));
        let distribute = |(sources, rings)| {
            Distributor::new(DistributorParts {
                sources,
                rings,
                doorbells: doorbells.clone(),
                idle,
                by: need.by,
                innermost: Arc::clone(&innermost),
                tunnels: TunnelMeter::new(&decap),
                fragments: FragmentTable::new(&FragmentTableConfig::default()),
                control: ControlQueues::new(CONTROL_QUEUE),
            })
            .with_gate(Arc::clone(gate))
        };
        let distributors: Vec<_> = shares.distributors.into_iter().zip(producers).map(distribute).collect();

        let shared = Arc::new(Shared {
            workers: workers
                .iter()
                .zip(&cores.workers)
                .map(|(w, &lcore)| WorkerHandle {
                    lcore,
                    tunnels: w.tunnels(),
                    ledger: w.ledger(),
                    stats: w.stats(),
                    latency: Some(w.latency()),
                    flow: w.flow().map(|flow| FlowHandle {
                        rings: flow.rings(),
                        stats: flow.stats(),
                        capacity: flow_plan.map_or(0, |plan| plan.flows),
                    }),
                    dedup_pairs: w.dedup_pairs(),
                })
                .collect(),
            distributors: distributors
                .iter()
                .zip(&cores.distributors)
                .map(|(d, &lcore)| WorkerHandle {
                    lcore,
                    ledger: d.ledger(),
                    stats: d.stats(),
                    latency: None,
                    flow: None,
                    dedup_pairs: None,
                    tunnels: d.tunnels(),
                })
                .collect(),
            files: sink.ledger(),
            in_force: Mutex::new(InForce::new(
                generation,
                policies,
                draft.shared.groups.clone(),
                tables,
                &draft.routes,
            )),
            ports: ports.iter().map(OpenPort::state).collect(),
            links: ports.iter().map(|port| (port.mac(), port.mtu())).collect(),
            flow_capacity: flow_plan.map_or(0, |plan| u64::from(plan.flows) * worker_count as u64),
            breakers: breakers.cells(),
            clock: Clock::new(Tsc::hz(&eal)),
            tsc_hz: Tsc::hz(&eal),
        });
        let stop_receivers = Arc::new(AtomicBool::new(false));
        let stop_workers = Arc::new(AtomicBool::new(false));
        let stop_rest = Arc::new(AtomicBool::new(false));
        let (to_control, control_inbox) = channel();
        let (to_files, file_inbox) = channel();
        let deployer = Deployer {
            site: Arc::new(site),
            routes: draft.routes.clone(),
            trial: Arc::default(),
            current: draft.shared,
            book: Some(sink.latest()),
            spreading,
            innermost,
            queues: workers.iter().map(Worker::control).collect(),
            control: to_control,
            files: to_files,
        };
        let mut engine = Self {
            shared: Arc::clone(&shared),
            queues: deployer.queues.clone(),
            flow_requests: Mutex::new(0),
            captures: Arc::default(),
            deployer: Mutex::new(deployer),
            stop_receivers: Arc::clone(&stop_receivers),
            stop_workers: Arc::clone(&stop_workers),
            stop_rest: Arc::clone(&stop_rest),
            receivers: Vec::new(),
            workers: Vec::new(),
            control: None,
            files: None,
            pools: pools.all(),
            mbufs_kept,
            _eal: eal.clone(),
        };
        let queues: Vec<_> = workers
            .iter()
            .map(Worker::control)
            .chain(distributors.iter().map(Distributor::control))
            .collect();
        let packets = pools.packets(None).ok_or(StartError::NoPool)?;
        engine.receivers = feeder::spawn_all(&mut ports, packets, &stop_receivers)?;
        let control = Control::new(
            ports,
            &shares.receivers,
            draft.routes,
            queues,
            packets.clone(),
            Arc::clone(&shared),
        )
        .with_breakers(breakers)
        .with_inbox(control_inbox);
        engine.control = Some(spawn("sluice-control", {
            let stop = Arc::clone(&stop_rest);
            move || control.run(&stop)
        })?);
        engine.files = Some(spawn("sluice-files", {
            let stop = Arc::clone(&stop_rest);
            move || write_files(sink, &stop, &file_inbox)
        })?);
        let thread = |name: String, lcore: u16, stop: &Arc<AtomicBool>, mut body: Box<dyn Polled>| {
            let (stop, shared, eal) = (Arc::clone(stop), Arc::clone(&shared), eal.clone());
            spawn(&name.clone(), move || {
                if let Err(error) = dpdk::pin_current_thread(lcore) {
                    tracing::warn!(%error, "{name} is not pinned");
                }
                if let Err(error) = dpdk::set_timer_slack(Duration::from_micros(1)) {
                    tracing::debug!(%error, "{name} sleeps up to 50 us longer than it is told");
                }
                // Without the registration a worker works, but without a cache of mbufs.
                let _registered = LcoreThread::register(&eal)
                    .inspect_err(|error| tracing::warn!(%error, "{name} has no lcore id"));
                body.run(&stop, &shared.clock);
            })
        };
        for (index, (worker, &cpu)) in workers.into_iter().zip(&cores.workers).enumerate() {
            let name = format!("sluice-worker{index}");
            engine.workers.push(thread(name, cpu, &stop_workers, Box::new(worker))?);
        }
        for (index, (distributor, &cpu)) in distributors.into_iter().zip(&cores.distributors).enumerate() {
            let name = format!("sluice-distr{index}");
            engine.receivers.push(thread(name, cpu, &stop_receivers, Box::new(distributor))?);
        }
        Ok(engine)
    }

    /// The flow stages of the workers that have one.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowHandle> {
        self.shared.workers.iter().filter_map(|worker| worker.flow.clone()).collect()
    }

    /// The account at this moment.
    #[must_use]
    pub fn account(&self) -> Account {
        // Against the stream, so that what a later thread finished was handed over before.
        let files = self.shared.files.snapshot();
        let lost = self.shared.ports.iter().map(|port| port.lost_before_rx()).sum();
        let threads = self.shared.workers.iter().chain(&self.shared.distributors);
        Account::new(&files, threads.map(|thread| thread.ledger.snapshot()), lost)
    }

    /// Puts another generation of policies in force without losing a packet: each packet is treated by the one or by the
    /// other. Policies and destinations that keep their names go on counting, streams of a destination and a tag go on
    /// with their numbers, capture files that stay are not begun anew. To be called from one thread that may wait.
    ///
    /// # Errors
    /// What is wrong; then the generation before is in force.
    pub fn deploy(&self, policies: &PolicySet, generation: Generation) -> Result<Deployed, DeployError> {
        let mut deployer = self.deployer.lock().unwrap_or_else(PoisonError::into_inner);
        deployer.deploy(policies, generation, &self.shared.in_force)
    }

    /// What `policies` would compile to, and how long that takes.
    #[must_use]
    pub fn compile(&self, policies: &PolicySet) -> (CompileReport, Duration) {
        let begin = Instant::now();
        let names: Vec<_> = self.shared.ports.iter().map(|port| port.name().to_owned()).collect();
        let (_program, report) = Program::compile(policies, &names, Generation::default());
        (report, begin.elapsed())
    }

    /// By port number: its MAC address, and its MTU as it was opened.
    #[must_use]
    pub fn links(&self) -> &[(MacAddr, u16)] {
        &self.shared.links
    }

    /// Flows that all workers together have room for; 0 when flows are not metered.
    #[must_use]
    pub fn flow_capacity(&self) -> u64 {
        self.shared.flow_capacity
    }

    /// The generation of policies that all workers use.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.in_force().generation
    }

    /// The sums by policy number of the generation in force.
    #[must_use]
    pub fn policy_totals(&self) -> Vec<PolicyTotals> {
        self.in_force().policy_totals()
    }

    /// The sums by destination number of the generation in force.
    #[must_use]
    pub fn destination_totals(&self) -> Vec<DestinationTotals> {
        self.in_force().destination_totals()
    }

    /// The duplicates by the ports of both copies.
    #[must_use]
    pub fn dedup_pairs(&self) -> Vec<PairTotals> {
        let pairs: Vec<_> =
            self.shared.workers.iter().filter_map(|worker| worker.dedup_pairs.as_deref()).collect();
        PortPairs::totals(&pairs)
    }

    /// The numbered tunnels that come in where tunnels are taken off, and how many of their packets were not counted
    /// because there were too many tunnels.
    #[must_use]
    pub fn tunnels(&self) -> (Vec<TunnelTotals>, u64) {
        let threads = self.shared.workers.iter().chain(&self.shared.distributors);
        tunnel_totals(&threads.filter_map(|thread| thread.tunnels.as_deref()).collect::<Vec<_>>())
    }

    /// Every port with its link state and counters.
    #[must_use]
    pub fn ports(&self) -> Vec<PortReport> {
        let breaker = |port: usize| Some(self.shared.breakers.get(port)?.as_ref()?.report());
        let ports = self.shared.ports.iter().enumerate();
        ports.map(|(number, port)| PortReport { breaker: breaker(number), ..port.report() }).collect()
    }

    /// The members of groups that are away, by destination number of the group.
    #[must_use]
    pub fn away(&self) -> Vec<Vec<DestinationId>> {
        self.in_force().groups.as_ref().map(SharedGroups::away).unwrap_or_default()
    }

    /// The statistics of every worker.
    #[must_use]
    pub fn worker_stats(&self) -> Vec<Arc<WorkerStats>> {
        self.shared.workers.iter().map(|worker| Arc::clone(&worker.stats)).collect()
    }

    /// Every worker, then every distributor.
    #[must_use]
    pub fn threads(&self) -> Vec<ThreadReport> {
        let shared = &self.shared;
        let workers = shared.workers.iter().enumerate().map(|(index, thread)| ("worker", index, thread));
        let distributors =
            shared.distributors.iter().enumerate().map(|(index, thread)| ("distributor", index, thread));
        let report = |(kind, index, thread): (&str, usize, &WorkerHandle)| ThreadReport {
            name: format!("{kind}{index}"),
            ledger: thread.ledger.snapshot(),
            sleeps: thread.stats.sleeps.get(),
            idle_polls: thread.stats.idle_polls.get(),
            latency: thread.latency.as_ref().map(|cell| cell.read()),
            lcore: thread.lcore,
            stats: Arc::clone(&thread.stats),
        };
        workers.chain(distributors).map(report).collect()
    }

    /// Of [`Engine::mbufs_in_use`], those that drivers took at the start and by a fault of theirs keep to the end.
    #[must_use]
    pub fn mbufs_kept(&self) -> u32 {
        self.mbufs_kept
    }

    /// How often the system clock was found more than a second away from ours, and the last difference in nanoseconds.
    #[must_use]
    pub fn clock_quality(&self) -> (u64, u64) {
        self.shared.clock.quality()
    }

    /// Mbufs taken from the pools at the moment: after [`Engine::stop`], those that were lost.
    #[must_use]
    pub fn mbufs_in_use(&self) -> u32 {
        self.pools.iter().map(Mempool::in_use).sum()
    }

    /// Stops receiving, lets everything that is held go out, ends all threads and closes the ports.
    pub fn stop(&mut self) {
        self.shared.ports.iter().for_each(|port| port.end_receive());
        // With the stream: each thread empties what the one before it has left.
        self.stop_receivers.store(true, Ordering::Relaxed);
        report_panics(self.receivers.drain(..).map(JoinHandle::join));
        self.stop_workers.store(true, Ordering::Relaxed);
        report_panics(self.workers.drain(..).map(JoinHandle::join));
        self.stop_rest.store(true, Ordering::Relaxed);
        report_panics(self.control.take().into_iter().chain(self.files.take()).map(JoinHandle::join));
        // The threads held all other handles.
        let ports = Arc::get_mut(&mut self.shared).map(|shared| shared.ports.as_mut_slice());
        for port in ports.unwrap_or_default().iter_mut().filter_map(Arc::get_mut) {
            port.close();
        }
    }

    fn in_force(&self) -> MutexGuard<'_, InForce> {
        self.shared.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A thread that moves packets.
trait Polled: Send {
    fn run(&mut self, stop: &AtomicBool, clock: &Clock);
}

impl Polled for Worker {
    fn run(&mut self, stop: &AtomicBool, clock: &Clock) {
        Worker::run(self, stop, clock);
    }
}

impl Polled for Distributor {
    fn run(&mut self, stop: &AtomicBool, clock: &Clock) {
        Distributor::run(self, stop, clock);
    }
}

fn report_panics(ended: impl Iterator<Item = std::thread::Result<()>>) {
    for result in ended {
        if result.is_err() {
            tracing::error!("a thread ended by a panic");
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(body).map_err(|source| StartError::Thread { name: name.to_owned(), source })
}

/// Whether the driver blocks inside EAL until somebody connects.
fn waits_for_peer(spec: &PortSpec) -> bool {
    matches!(spec, PortSpec::Devargs(args) if args.starts_with("net_virtio_user") && args.contains("server=1"))
}

/// The devices of one kind, as DPDK wants to hear of them.
fn devices(boot: &BootConfig, wanted: fn(&PortSpec) -> bool) -> Vec<String> {
    let name = |spec: &PortSpec| match spec {
        PortSpec::Pci(device) | PortSpec::Devargs(device) => Some(device.clone()),
        PortSpec::Pcap(_) | PortSpec::AfPacket(_) => None,
    };
    boot.ports.iter().filter(|port| wanted(&port.spec)).filter_map(|port| name(&port.spec)).collect()
}

/// The file writer's thread.
fn write_files(mut sink: FileSink, stop: &AtomicBool, inbox: &Receiver<FileMessage>) {
    loop {
        // Read before draining: what was queued before the stop is still written.
        let stopping = stop.load(Ordering::Relaxed);
        if sink.drain() == 0 {
            sink.flush();
            if stopping {
                break;
            }
            match inbox.recv_timeout(if sink.writes() { FILE_IDLE } else { NO_FILES_IDLE }) {
                Ok(message) => take_message(&mut sink, message),
                Err(RecvTimeoutError::Timeout) => {}
                // The engine is about to stop.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(FILE_IDLE),
            }
        } else if let Ok(message) = inbox.try_recv() {
            take_message(&mut sink, message);
        }
        for FileError { path, source } in sink.take_errors() {
            tracing::error!(path = %path.display(), %source, "capture file failed; its copies are dropped as file_write");
        }
    }
}

/// Begins or ends a generation. Whoever asked may have gone.
fn take_message(sink: &mut FileSink, message: FileMessage) {
    match message {
        FileMessage::Open { paths, policies, queues, entries, reply } => {
            let opened = sink.open_book(&paths, policies).map(|book| {
                let producers = (0..queues).map(|_| sink.producer(entries)).collect();
                OpenedFiles { book, producers, tables: sink.tables() }
            });
            let _gone = reply.send(opened);
        }
        FileMessage::Close { book, reply } => {
            sink.close_book(book);
            let _gone = reply.send(());
        }
    }
}
