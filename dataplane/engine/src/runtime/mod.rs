//! The engine as a running whole: ports, workers, control thread and file writer, started and stopped in order.

mod breaker;
mod capture;
mod changes;
mod control;
mod cores;
mod dedup_plan;
mod deploy;
mod error;
mod examine;
mod feeder;
mod file_thread;
mod flow_read;
mod flows;
mod layers;
mod observe;
mod open;
mod plan;
mod pools;
mod port_change;
mod port_state;
mod ports;
mod routes;
mod share;
mod spread;
mod start;
mod tables;
mod thread_times;
mod trial;
mod vhost;

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
pub use port_change::PortChangeError;
pub use port_state::{PortReport, PortState, StampedBy};
pub use routes::Route;
pub use share::Spreading;
pub use spread::{RssRefusal, SpreadNeed, before as rss_before, test as rss_test};
pub use tables::{memory_fits, tables_fit};
pub use thread_times::ThreadDoings;
pub use trial::{Trial, TrialCounts, TrialError, TrialRow};
pub use vhost::VhostError;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dpdk::{Eal, Mempool};
use sluice_core::classify::{CompileReport, Origins, Program};
use sluice_model::{BootConfig, DestinationId, Generation, MacAddr, PolicySet, PortConfig, PortId, Tap};

use crate::clock::Clock;
use crate::control_queues::ControlQueues;
use crate::counters::{DestinationTotals, PolicyTotals};
use crate::files::FailingFiles;
use crate::latency::{Latency, LatencyCell};
use crate::ledger::{Account, Ledger, LedgerCell};
use crate::port_pairs::{PairTotals, PortPairs};
use crate::stage::balance::SharedGroups;
use crate::stage::flow::{FlowStats, RecordRings};
use crate::stats::WorkerStats;
use crate::tap_rows::{TapRows, TapTotals};
use crate::tunnels::{TunnelRows, TunnelTotals, tunnel_totals};
use capture::Captures;
use deploy::{Deployer, InForce};
use port_change::PortStates;

/// How long an account waits for a thread to tell what it handed over.
const OVERTAKEN: Duration = Duration::from_millis(100);

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
    failing_files: FailingFiles,
    in_force: Mutex<InForce>,
    ports: PortStates,
    /// Ports that there is room for, those that were removed among them.
    port_room: usize,
    /// The taps that have names.
    taps: Vec<Tap>,
    /// Flows that all workers together have room for.
    flow_capacity: u64,
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
    /// The NUMA node of that CPU.
    pub numa_node: u16,
    /// Where its cycles went.
    pub stats: Arc<WorkerStats>,
}

/// One worker as seen from outside.
#[derive(Debug)]
struct WorkerHandle {
    lcore: u16,
    numa_node: u16,
    ledger: Arc<LedgerCell>,
    stats: Arc<WorkerStats>,
    latency: Option<Arc<LatencyCell>>,
    flow: Option<FlowHandle>,
    tunnels: Option<Arc<TunnelRows>>,
    dedup_pairs: Option<Arc<PortPairs>>,
    tap_rows: Option<Arc<TapRows>>,
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
        let lost = self.shared.ports.lost_before_rx();
        let begin = Instant::now();
        loop {
            let threads = self.shared.workers.iter().chain(&self.shared.distributors);
            let account = Account::new(&files, threads.map(|thread| thread.ledger.snapshot()), lost);
            // A thread tells of what it handed over at the end of its batch. One that has to wait for its CPU just before
            // that may be overtaken by whoever takes the packets and tells of them first.
            if account.balances() || begin.elapsed() > OVERTAKEN {
                return account;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
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

    /// Puts the limits of `boot` in force, which are its rate limit of all destinations, its breakers and its rate of
    /// capture, as [`Engine::deploy`] does with policies; `policies` are those in force.
    ///
    /// # Errors
    /// What is wrong; then the limits before are in force.
    pub fn limit(&self, boot: &BootConfig, policies: &PolicySet) -> Result<Deployed, DeployError> {
        let mut deployer = self.deployer.lock().unwrap_or_else(PoisonError::into_inner);
        deployer.limit(boot, policies, &self.shared.in_force)
    }

    /// What `policies` would compile to, and how long that takes.
    #[must_use]
    pub fn compile(&self, policies: &PolicySet) -> (CompileReport, Duration) {
        let begin = Instant::now();
        let names = self.deployer.lock().unwrap_or_else(PoisonError::into_inner).site.boot.port_names();
        let origins = Origins { ports: &names, taps: &self.shared.taps };
        let (_program, report) = Program::compile_for(policies, &origins, Generation::default());
        (report, begin.elapsed())
    }

    /// By port number: its MAC address, and its MTU as it was opened.
    #[must_use]
    pub fn links(&self) -> Vec<(MacAddr, u16)> {
        self.shared.ports.all().iter().map(|port| port.link()).collect()
    }

    /// The names of the ports by number, those that were removed among them.
    #[must_use]
    pub fn port_names(&self) -> Vec<String> {
        self.shared.ports.all().iter().map(|port| port.name().to_owned()).collect()
    }

    /// Ports that there is room for, those that were removed among them.
    #[must_use]
    pub fn port_room(&self) -> usize {
        self.shared.port_room
    }

    /// Adds a port while packets flow, with a number that no port has, or one that was removed; `policies` are those in
    /// force. To be called from one thread that may wait.
    ///
    /// # Errors
    /// What is wrong; then all is as it was.
    pub fn add_port(
        &self,
        number: PortId,
        setup: &PortConfig,
        policies: &PolicySet,
    ) -> Result<Deployed, PortChangeError> {
        let mut deployer = self.deployer.lock().unwrap_or_else(PoisonError::into_inner);
        deployer.add_port(number, setup, policies, &self.shared.ports, &self.shared.in_force)
    }

    /// Removes a port while packets flow; `policies` are those in force, which do without it. What it received by then is
    /// treated, what it counted stays counted.
    ///
    /// # Errors
    /// What is wrong; then all is as it was.
    pub fn remove_port(&self, number: PortId, policies: &PolicySet) -> Result<Deployed, PortChangeError> {
        let mut deployer = self.deployer.lock().unwrap_or_else(PoisonError::into_inner);
        deployer.remove_port(number, policies, &self.shared.ports, &self.shared.in_force)
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

    /// What came from each tap that has a name, and from all others together; empty when none has.
    #[must_use]
    pub fn taps(&self) -> Vec<TapTotals> {
        let rows: Vec<_> =
            self.shared.workers.iter().filter_map(|worker| worker.tap_rows.as_deref()).collect();
        TapRows::totals(&rows, self.shared.taps.iter().map(|tap| tap.name.as_str()))
    }

    /// The numbered tunnels that come in where tunnels are taken off, and how many of their packets were not counted
    /// because there were too many tunnels.
    #[must_use]
    pub fn tunnels(&self) -> (Vec<TunnelTotals>, u64) {
        let threads = self.shared.workers.iter().chain(&self.shared.distributors);
        tunnel_totals(&threads.filter_map(|thread| thread.tunnels.as_deref()).collect::<Vec<_>>())
    }

    /// Every port with its link state and counters, by number; those that were removed among them.
    #[must_use]
    pub fn ports(&self) -> Vec<PortReport> {
        self.shared.ports.all().iter().map(|port| port.report()).collect()
    }

    /// By port number: what its device counts beyond the report, by the names of its driver.
    #[must_use]
    pub fn device_counters(&self) -> Vec<Vec<(String, u64)>> {
        self.shared.ports.all().iter().map(|port| port.device_counters()).collect()
    }

    /// By port number: its receive and transmit queues.
    #[must_use]
    pub fn port_queues(&self) -> Vec<[u16; 2]> {
        self.shared.ports.all().iter().map(|port| port.queues()).collect()
    }

    /// The capture files that cannot be written at the moment, and why.
    #[must_use]
    pub fn failing_files(&self) -> Vec<(PathBuf, String)> {
        self.shared.failing_files.get()
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
            numa_node: thread.numa_node,
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
        self.shared.ports.all().iter().for_each(|port| port.end_receive());
        // With the stream: each thread empties what the one before it has left.
        self.stop_receivers.store(true, Ordering::Relaxed);
        report_panics(self.receivers.drain(..).map(JoinHandle::join));
        self.stop_workers.store(true, Ordering::Relaxed);
        report_panics(self.workers.drain(..).map(JoinHandle::join));
        self.stop_rest.store(true, Ordering::Relaxed);
        report_panics(self.control.take().into_iter().chain(self.files.take()).map(JoinHandle::join));
        // The threads held all other queues.
        self.shared.ports.all().iter().for_each(|port| port.close());
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

fn report_panics(ended: impl Iterator<Item = std::thread::Result<()>>) {
    for result in ended {
        if result.is_err() {
            tracing::error!("a thread ended by a panic");
        }
    }
}
