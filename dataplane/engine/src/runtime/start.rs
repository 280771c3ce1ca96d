//! Everything that runs is made here, in order: environment, memory, ports, workers, threads.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dpdk::{Eal, EalConfig, Hugepages, LcoreThread};
use sluice_core::classify::{FragmentTable, FragmentTableConfig, Program};
use sluice_model::{BootConfig, DecapSettings, Generation, PolicySet, Polling, PortSpec};

use super::breaker::PortBreakers;
use super::control::Control;
use super::deploy::{self, Deployer, InForce, Site};
use super::file_thread::write_files;
use super::open::OpenPorts;
use super::pools::Pools;
use super::port_change::PortStates;
use super::routes::PortFacts;
use super::thread_times::worker_thread;
use super::vhost::VhostPorts;
use super::{
    CorePlan, DedupPlan, Engine, FlowHandle, FlowPlan, MemoryPlan, Shared, SpreadNeed, Spreading, StartError,
    WorkerHandle, feeder, finished_checksums, flows, memory_fits, share,
};
use crate::batch::BATCH;
use crate::clock::{Clock, TscRate};
use crate::control_queues::{ControlQueues, SPARE_PORTS};
use crate::distributor::{Distributor, DistributorParts};
use crate::files::FileSink;
use crate::gate::{CaptureLimit, Gate};
use crate::idle::{DEFAULT_MAX_SLEEP, IdleSettings};
use crate::machine::Machine;
use crate::port::{Source, TxPort};
use crate::stage::decap::{Decap, TunnelMeter};
use crate::stage::dedup::Dedup;
use crate::stage::ends::PortEnds;
use crate::stage::mirror::Mirror;
use crate::worker::{Worker, WorkerParts};

/// Frames that wait between a worker and the control thread.
const CONTROL_QUEUE: usize = 256;

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
        let tsc_rate = TscRate::begin();
        let machine = Machine::detect().limited(&boot.protection);
        let cores = CorePlan::new(boot, &machine);
        memory_fits(boot, &cores, &machine)?;
        let plan = MemoryPlan::new(boot, &cores, &machine);
        let use_hugepages = plan.use_hugepages(boot.eal.hugepages)?;
        for port in boot.ports.iter().filter(|port| waits_for_peer(&port.spec)) {
            tracing::warn!(port = port.name, "this driver waits for its peer before anything else starts");
        }
        let mut vhost = VhostPorts::prepare(boot, plan.rx_descriptors)?;
        let mut vdevs = devices(boot, |spec| matches!(spec, PortSpec::Devargs(_)));
        vdevs.append(&mut vhost.devargs);
        let mut extra_args = vhost.eal_args(use_hugepages);
        extra_args.extend_from_slice(&boot.eal.args);
        let eal = Eal::init(&EalConfig {
            hugepages: if use_hugepages { Hugepages::Use } else { Hugepages::Never },
            memory_mb: plan.memory_mb(),
            vdevs,
            pci_allow: devices(boot, |spec| matches!(spec, PortSpec::Pci(_))),
            // Files in a hugetlbfs outlive the process, and keep their hugepages.
            file_prefix: None,
            extra_args,
            ..EalConfig::default()
        })?;
        let pools = Arc::new(Pools::new(&eal, &plan, use_hugepages)?);
        let names: Vec<_> = boot.ports.iter().map(|port| port.name.clone()).collect();
        let reads_inner = Program::compile(policies, &names, generation).0.needs_inner();

        let worker_count = cores.workers.len();
        let opened = boot.ports.iter().any(|port| port.role.captures() && !port.decap.is_off());
        let need =
            SpreadNeed { workers: worker_count, by: boot.worker.spread, innermost: opened || reads_inner };
        let burst_pkts = boot.worker.burst_pkts.map_or(BATCH, |burst| usize::from(burst).min(BATCH));
        let OpenPorts { mut ports, opener, mbufs_kept } =
            OpenPorts::open(&eal, boot, &pools, (plan, cores.clone()), need, burst_pkts)?;
        vhost.leave();
        let distributor_count = match &opener.spreading {
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
        let decap = boot.ports.iter().map(|port| port.decap);
        let decap: Vec<_> = decap.chain(std::iter::repeat_n(DecapSettings::default(), SPARE_PORTS)).collect();
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
            let stage =
                Decap::new(&decap).map(|stage| stage.with_ends(PortEnds::of(&boot.ports, SPARE_PORTS)));
            if distributor_count > 0 { stage.map(Decap::without_meter) } else { stage }
        };
        let mut workers = Vec::with_capacity(worker_count);
        let threads = [worker_count, distributor_count];
        let facts = ports.iter().map(PortFacts::of).collect();
        let mut breakers = PortBreakers::new(boot.breaker);
        for port in &ports {
            breakers.watch(port.id(), &port.setup, &port.state());
        }
        let mut shares = share::share(&mut ports, &opener, threads);
        let producers = share::rings(&eal, &mut shares, &opener.plan)?;
        let exits = |(_, exits): &(Vec<Source>, Vec<TxPort>)| exits.iter().map(|exit| exit.id).collect();
        let site = Site {
            boot: boot.clone(),
            capture_limit: boot.protection.capture_pps().map(CaptureLimit::new),
            ports: facts,
            breakers: ports.iter().map(|port| port.state().breaker()).collect(),
            feeds: ports.iter().map(|port| port.state().feed()).collect(),
            exits: shares.workers.iter().map(exits).collect(),
            decapsulates: decap_stage().is_some(),
        };
        let draft = site.draft(policies, generation, None)?;
        tracing::info!(bytes = draft.report.bytes, dimensions = ?draft.report.dimensions, "policies compiled");
        let paths = deploy::file_paths(policies);
        let mut sink = FileSink::create_or_wait(&paths, policies.policies().len())?;
        let mut tables = vec![sink.tables()];
        for (index, ((sources, exits), &cpu)) in shares.workers.into_iter().zip(&cores.workers).enumerate() {
            let headers = pools.headers(machine.node_of(cpu)).ok_or(StartError::NoPool)?.clone();
            let files = sink.producer(deploy::file_queue(policies));
            let deployment = site.deployment(&draft, index, Some(files));
            tables.push(Arc::clone(&deployment.tables));
            let worker = Worker::new(WorkerParts {
                flow: flows::stage(boot, flow_plan.as_ref(), &draft.program, index, SPARE_PORTS),
                deployment,
                sources,
                ports: exits,
                decap: decap_stage(),
                fragments: FragmentTable::new(&FragmentTableConfig::default()),
                headers,
                dedup: dedup_plan.and_then(|plan| {
                    let ports = boot.ports.len() + SPARE_PORTS;
                    Dedup::new(&boot.dedup, plan.entries, ports, finished_checksums(boot))
                }),
                control: ControlQueues::new(CONTROL_QUEUE),
            });
            let worker = worker.with_mirror(Mirror::of(boot, SPARE_PORTS)).with_idle(idle);
            workers.push(worker.with_gate(Arc::clone(gate)));
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
                by: opener.need.by,
                innermost: Arc::clone(&innermost),
                tunnels: TunnelMeter::new(&decap),
                ends: PortEnds::of(&boot.ports, SPARE_PORTS),
                fragments: FragmentTable::new(&FragmentTableConfig::default()),
                control: ControlQueues::new(CONTROL_QUEUE),
            })
            .with_gate(Arc::clone(gate))
        };
        let distributors: Vec<_> = shares.distributors.into_iter().zip(producers).map(distribute).collect();

        let tsc_hz = tsc_rate.hz();
        let shared = Arc::new(Shared {
            workers: workers
                .iter()
                .zip(&cores.workers)
                .map(|(w, &lcore)| WorkerHandle {
                    lcore,
                    numa_node: machine.node_of(lcore),
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
                    tap_rows: w.tap_rows(),
                })
                .collect(),
            distributors: distributors
                .iter()
                .zip(&cores.distributors)
                .map(|(d, &lcore)| WorkerHandle {
                    lcore,
                    numa_node: machine.node_of(lcore),
                    ledger: d.ledger(),
                    stats: d.stats(),
                    latency: None,
                    flow: None,
                    dedup_pairs: None,
                    tap_rows: None,
                    tunnels: d.tunnels(),
                })
                .collect(),
            files: sink.ledger(),
            failing_files: sink.failing(),
            in_force: Mutex::new(InForce::new(
                generation,
                policies,
                draft.shared.groups.clone(),
                tables,
                &draft.routes,
            )),
            ports: PortStates::new(&ports),
            port_room: ports.len() + SPARE_PORTS,
            taps: boot.mirror.taps.clone(),
            flow_capacity: flow_plan.map_or(0, |plan| u64::from(plan.flows) * worker_count as u64),
            clock: Clock::new(tsc_hz),
            tsc_hz,
        });
        let stop_receivers = Arc::new(AtomicBool::new(false));
        let stop_workers = Arc::new(AtomicBool::new(false));
        let stop_rest = Arc::new(AtomicBool::new(false));
        let (to_control, control_inbox) = channel();
        let (to_files, file_inbox) = channel();
        let opener = Arc::new(opener);
        let deployer = Deployer {
            site: Arc::new(site),
            routes: draft.routes.clone(),
            trial: Arc::default(),
            current: draft.shared,
            book: Some(sink.latest()),
            opener: Arc::clone(&opener),
            threads,
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
            opener,
            draft.routes,
            (queues, threads),
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
            let name = worker_thread(index);
            engine.workers.push(thread(name, cpu, &stop_workers, Box::new(worker))?);
        }
        for (index, (distributor, &cpu)) in distributors.into_iter().zip(&cores.distributors).enumerate() {
            let name = format!("sluice-distr{index}");
            engine.receivers.push(thread(name, cpu, &stop_receivers, Box::new(distributor))?);
        }
        Ok(engine)
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

pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
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
        PortSpec::Pcap(_) | PortSpec::AfPacket(_) | PortSpec::Vhost(_) => None,
    };
    boot.ports.iter().filter(|port| wanted(&port.spec)).filter_map(|port| name(&port.spec)).collect()
}
