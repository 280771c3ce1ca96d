//! The engine as a running whole: ports, workers, control thread and file writer, started and stopped in order.

mod control;
mod error;
mod feeder;
mod plan;
mod ports;
mod routes;

pub use error::StartError;
pub use plan::MemoryPlan;
pub use ports::{PortReport, PortState};
pub use routes::Route;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dpdk::{Eal, EalConfig, Hugepages, LcoreThread, Mempool, MempoolConfig, SocketId, Tsc};
use sluice_core::classify::{Classifier, ClassifierConfig, FragmentTable, FragmentTableConfig, Program};
use sluice_model::{DestinationKind, Generation, MacAddr, PolicySet};

use crate::clock::Clock;
use crate::counters::{DestinationTotals, PolicyTotals, Tables, destination_totals, policy_totals};
use crate::files::{FileError, FileSink};
use crate::ledger::{Account, LedgerCell};
use crate::sequence::Sequences;
use crate::stage::guard::LoopGuard;
use crate::stats::WorkerStats;
use crate::worker::{ControlQueues, Worker, WorkerParts};
use control::Control;
use ports::OpenPort;

/// Frames that wait for the file writer, per worker.
const FILE_QUEUE: usize = 4096;
/// Frames that wait between a worker and the control thread.
const CONTROL_QUEUE: usize = 256;
/// How long the file writer sleeps when nothing waits.
const FILE_IDLE: Duration = Duration::from_millis(1);

/// Whether hugepages are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugepageUse {
    /// When enough are free and may be used.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Or the engine does not start.
    Require,
}

/// What drives a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortDriver {
    /// A NIC at a PCI address.
    Pci(String),
    /// A virtual device by its DPDK devargs.
    Devargs(String),
    /// A kernel interface, by our own driver.
    AfPacket(String),
    /// A capture file, read once from beginning to end.
    PcapFile(PathBuf),
}

/// One port as the operator wants it.
#[derive(Clone, Debug)]
pub struct PortSetup {
    /// Its name.
    pub name: String,
    /// What drives it.
    pub driver: PortDriver,
    /// Whether its packets go through the policies.
    pub capture: bool,
    /// Whether copies may leave by it.
    pub output: bool,
    /// Largest frame without its Ethernet header, bytes; `None` = as the device has it.
    pub mtu: Option<u16>,
    /// Own addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routers, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Source MAC address; `None` = the device's.
    pub mac: Option<MacAddr>,
    /// Receive frames for others too.
    pub promiscuous: bool,
    /// Keep at most so many bytes of each frame.
    pub snaplen: Option<u32>,
}

/// Everything that the engine is started with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Hugepages.
    pub hugepages: HugepageUse,
    /// Memory for DPDK in MB; `None` = as planned from the pools.
    pub memory_mb: Option<u32>,
    /// Further EAL arguments.
    pub eal_args: Vec<String>,
    /// CPUs that the workers are pinned to, one worker each.
    pub lcores: Vec<u16>,
    /// Mbufs for packets.
    pub mbufs: u32,
    /// Bytes of packet data in each.
    pub data_room: u16,
    /// The ports.
    pub ports: Vec<PortSetup>,
    /// The policies.
    pub policies: PolicySet,
    /// Drop our own copies on capture ports.
    pub loop_guard: bool,
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    stop_workers: Arc<AtomicBool>,
    stop_rest: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    files: Option<JoinHandle<()>>,
    feeders: Vec<JoinHandle<()>>,
    pools: Vec<Mempool>,
    // Last: the environment outlives everything above.
    _eal: Eal,
}

/// What the threads publish and anyone may read.
#[derive(Debug)]
struct Shared {
    workers: Vec<WorkerHandle>,
    files: Arc<LedgerCell>,
    tables: Vec<Arc<Tables>>,
    ports: Vec<Arc<PortState>>,
    clock: Clock,
}

/// One worker as seen from outside.
#[derive(Debug)]
struct WorkerHandle {
    ledger: Arc<LedgerCell>,
    stats: Arc<WorkerStats>,
}

impl Engine {
    /// Opens the ports, makes the workers and starts all threads.
    ///
    /// # Errors
    /// What is missing, and what to do about it. Nothing is left running.
    pub fn start(config: &EngineConfig) -> Result<Self, StartError> {
        let plan = MemoryPlan::new(config);
        let use_hugepages = plan.decide_hugepages(config.hugepages)?;
        let devargs = |p: &PortSetup| match &p.driver {
            PortDriver::Devargs(args) => Some(args.clone()),
            PortDriver::Pci(_) | PortDriver::AfPacket(_) | PortDriver::PcapFile(_) => None,
        };
        let pci = |p: &PortSetup| match &p.driver {
            PortDriver::Pci(address) => Some(address.clone()),
            PortDriver::Devargs(_) | PortDriver::AfPacket(_) | PortDriver::PcapFile(_) => None,
        };
        let eal = Eal::init(&EalConfig {
            hugepages: if use_hugepages { Hugepages::Use } else { Hugepages::Never },
            memory_mb: config.memory_mb.unwrap_or(plan.memory_mb()),
            vdevs: config.ports.iter().filter_map(devargs).collect(),
            pci_allow: config.ports.iter().filter_map(pci).collect(),
            file_prefix: Some(format!("sluice-{}", std::process::id())),
            extra_args: config.eal_args.clone(),
            ..EalConfig::default()
        })?;
        let pool = |name: &str, mbufs, data_room| {
            let config =
                MempoolConfig { name: name.to_owned(), mbufs, cache: 256, data_room, socket: SocketId::ANY };
            Mempool::new(&eal, &config)
        };
        let packets = pool("packets", plan.mbufs, plan.data_room)?;
        let headers = pool("headers", plan.headers, plan::HEADER_ROOM)?;

        let worker_count = config.lcores.len().max(1);
        let mut open = Vec::with_capacity(config.ports.len());
        for (index, setup) in config.ports.iter().enumerate() {
            open.push(OpenPort::open(&eal, index, setup, &packets, worker_count)?);
        }
        let routes = routes::all(&config.policies, &config.ports, &open)?;

        let mut sink = FileSink::create(&file_paths(&config.policies), config.policies.policies().len())?;
        let names: Vec<_> = config.ports.iter().map(|port| port.name.clone()).collect();
        let (program, report) = Program::compile(&config.policies, &names, Generation(1));
        tracing::info!(bytes = report.bytes, dimensions = ?report.dimensions, "policies compiled");
        let program = Arc::new(program);
        let streams = Sequences::streams(program.streams().len());
        let own: Vec<IpAddr> = config
            .ports
            .iter()
            .flat_map(|p| p.addresses.iter().map(|a| a.0))
            .chain(routes::locals(&routes))
            .collect();
        let guard =
            if config.loop_guard { LoopGuard::new(&config.policies, &own) } else { LoopGuard::disabled() };

        let mut workers = Vec::with_capacity(worker_count);
        let mut tables = vec![sink.tables()];
        for index in 0..worker_count {
            let (sources, exits) = ports::share(&mut open, index, worker_count, &packets);
            let own_tables =
                Arc::new(Tables::new(config.policies.policies().len(), config.policies.destinations().len()));
            tables.push(Arc::clone(&own_tables));
            workers.push(Worker::new(WorkerParts {
                outputs: routes.iter().map(|route| route.output(&exits)).collect(),
                sources,
                ports: exits,
                classifier: Classifier::new(&program, ClassifierConfig::default()),
                program: Arc::clone(&program),
                fragments: FragmentTable::new(&FragmentTableConfig::default()),
                sequences: Sequences::new(Arc::clone(&streams)),
                headers: headers.clone(),
                files: Some(sink.producer(FILE_QUEUE)),
                guard: guard.clone(),
                control: ControlQueues::new(CONTROL_QUEUE),
                tables: own_tables,
            }));
        }

        let shared = Arc::new(Shared {
            workers: workers.iter().map(|w| WorkerHandle { ledger: w.ledger(), stats: w.stats() }).collect(),
            files: sink.ledger(),
            tables,
            ports: open.iter().map(OpenPort::state).collect(),
            clock: Clock::new(Tsc::hz(&eal)),
        });
        let stop_workers = Arc::new(AtomicBool::new(false));
        let stop_rest = Arc::new(AtomicBool::new(false));
        let mut engine = Self {
            shared: Arc::clone(&shared),
            stop_workers: Arc::clone(&stop_workers),
            stop_rest: Arc::clone(&stop_rest),
            workers: Vec::new(),
            control: None,
            files: None,
            feeders: Vec::new(),
            pools: vec![packets.clone(), headers],
            _eal: eal.clone(),
        };
        let queues = workers.iter().map(Worker::control).collect();
        engine.feeders = feeder::spawn_all(&mut open, &packets, &stop_workers)?;
        let control = Control::new(open, routes, queues, packets, Arc::clone(&shared));
        engine.control = Some(spawn("sluice-control", {
            let stop = Arc::clone(&stop_rest);
            move || control.run(&stop)
        })?);
        engine.files = Some(spawn("sluice-files", {
            let stop = Arc::clone(&stop_rest);
            move || write_files(sink, &stop)
        })?);
        for (index, mut worker) in workers.into_iter().enumerate() {
            let (stop, shared, eal) = (Arc::clone(&stop_workers), Arc::clone(&shared), eal.clone());
            let lcore = config.lcores.get(index).copied();
            let body = move || {
                let pinned = lcore.map_or(Ok(()), dpdk::pin_current_thread);
                if let Err(error) = pinned {
                    tracing::warn!(%error, "worker {index} is not pinned");
                }
                // Without the registration a worker works, but without a cache of mbufs.
                let _registered = LcoreThread::register(&eal)
                    .inspect_err(|error| tracing::warn!(%error, "worker {index} has no lcore id"));
                worker.run(&stop, &shared.clock);
            };
            engine.workers.push(spawn(&format!("sluice-worker{index}"), body)?);
        }
        Ok(engine)
    }

    /// The account at this moment.
    #[must_use]
    pub fn account(&self) -> Account {
        // The writer first: what it finished was handed over before.
        let files = self.shared.files.snapshot();
        let lost = self.shared.ports.iter().map(|port| port.lost_before_rx()).sum();
        Account::new(&files, self.shared.workers.iter().map(|worker| worker.ledger.snapshot()), lost)
    }

    /// The sums by policy number.
    #[must_use]
    pub fn policy_totals(&self) -> Vec<PolicyTotals> {
        policy_totals(&self.tables())
    }

    /// The sums by destination number.
    #[must_use]
    pub fn destination_totals(&self) -> Vec<DestinationTotals> {
        destination_totals(&self.tables())
    }

    /// Every port with its link state and counters.
    #[must_use]
    pub fn ports(&self) -> Vec<PortReport> {
        self.shared.ports.iter().map(|port| port.report()).collect()
    }

    /// The statistics of every worker.
    #[must_use]
    pub fn worker_stats(&self) -> Vec<Arc<WorkerStats>> {
        self.shared.workers.iter().map(|worker| Arc::clone(&worker.stats)).collect()
    }

    /// Mbufs taken from the pools at the moment.
    #[must_use]
    pub fn mbufs_in_use(&self) -> u32 {
        self.pools.iter().map(Mempool::in_use).sum()
    }

    /// Stops receiving, lets everything that is held go out, and ends all threads.
    pub fn stop(&mut self) {
        self.stop_workers.store(true, Ordering::Relaxed);
        let ended = self.feeders.drain(..).chain(self.workers.drain(..)).map(JoinHandle::join);
        report_panics(ended);
        self.stop_rest.store(true, Ordering::Relaxed);
        report_panics(self.control.take().into_iter().chain(self.files.take()).map(JoinHandle::join));
    }

    fn tables(&self) -> Vec<&Tables> {
        self.shared.tables.iter().map(|table| &**table).collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
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

/// The files of `pcap` destinations, by destination number.
fn file_paths(policies: &PolicySet) -> Vec<Option<PathBuf>> {
    let path = |kind: &DestinationKind| match kind {
        DestinationKind::Pcap { file } => Some(file.clone()),
        DestinationKind::Tunnel(_) | DestinationKind::Port { .. } => None,
    };
    policies.destinations().iter().map(|destination| path(&destination.kind)).collect()
}

/// The file writer's thread.
fn write_files(mut sink: FileSink, stop: &AtomicBool) {
    loop {
        // Read before draining: what was queued before the stop is still written.
        let stopping = stop.load(Ordering::Relaxed);
        if sink.drain() == 0 {
            sink.flush();
            if stopping {
                break;
            }
            std::thread::sleep(FILE_IDLE);
        }
        for FileError { path, source } in sink.take_errors() {
            tracing::error!(path = %path.display(), %source, "capture file failed; its copies are dropped as file_write");
        }
    }
}
