//! How fast is one scenario? Runs it in this process, on one core, and checks that every packet is accounted for.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use dpdk::{
    Burst, Eal, EalConfig, Hugepages, LcoreThread, Mempool, MempoolConfig, Port, PortConfig, SocketId, Tsc,
    TxQueue,
};
use perf_event::Builder;
use perf_event::events::Hardware;
use serde::{Deserialize, Serialize};
use sluice_core::classify::{FragmentTable, FragmentTableConfig, Program};
use sluice_engine::clock::Clock;
use sluice_engine::counters::Tables;
use sluice_engine::ledger::Ledger;
use sluice_engine::output::{Egress, Output, TunnelEnds};
use sluice_engine::port::{Source, SourceKind, TxDriver, TxPort};
use sluice_engine::sequence::Sequences;
use sluice_engine::stage::decap::Decap;
use sluice_engine::stage::dedup::Dedup;
use sluice_engine::stage::flow::{FlowStage, meter_config};
use sluice_engine::stage::guard::LoopGuard;
use sluice_engine::stats::{Stage, WorkerStats};
use sluice_engine::{ControlQueues, Deployment, DeploymentParts, Worker, WorkerParts};
use sluice_model::{
    DecapMode, DecapSettings, DedupMode, DedupSettings, Destination, DestinationKind, FlowSettings,
    Generation, MacAddr, PolicySet, PortId,
};

use crate::scenario::{Scenario, Traffic};
use crate::templates::Templates;
use crate::thread_time::ThreadTime;

/// Packets per poll: a full batch.
const BURST: usize = 64;
/// Mbufs for packets, and how many the core keeps to itself.
const MBUFS: u32 = 8191;
const CACHE: u32 = 512;
/// Polls between two looks at the clock of the harness.
const POLLS: usize = 256;
/// Fingerprints that are remembered: those of 50 ms at 20 million packets a second.
const FINGERPRINTS: u32 = 1 << 20;
/// Records that wait for being drained; nobody does, so that most are lost.
const RECORDS: usize = 1024;
/// Flows from which on a sample takes a second at least.
const MANY_FLOWS: usize = 100_000;
/// The longest sample of a table that fills.
const FILLING: Duration = Duration::from_millis(40);
/// Memory for DPDK without hugepages, MB.
const MEMORY_MB: u32 = 128;

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The CPU of the worker.
    pub core: u16,
    /// The CPU of everything else.
    pub main_core: u16,
    /// Samples; the median counts.
    pub samples: usize,
    /// Length of a sample.
    pub sample: Duration,
    /// Whether mbufs lie in hugepages.
    pub hugepages: bool,
    /// Bytes of each packet, without FCS; 0 = the mix of sizes called IMIX.
    pub packet_bytes: usize,
}

/// What a scenario came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Packets of all samples.
    pub packets: u64,
    /// Seconds on the core, of all samples.
    pub seconds: f64,
    /// Median of the samples, million packets per second.
    pub mpps: f64,
    /// The slowest and the fastest sample.
    pub spread: (f64, f64),
    /// TSC cycles per packet at the median.
    pub cycles_per_packet: f64,
    /// Instructions per packet; none where there are no performance counters.
    pub instructions_per_packet: Option<f64>,
    /// The same harness with nothing between taking and freeing packets.
    pub source_mpps: f64,
    /// Distinct flows.
    pub flows: usize,
    /// Policies.
    pub policies: usize,
    /// Bytes of each packet, without FCS.
    pub packet_bytes: usize,
    /// Copies sent per packet.
    pub copies_per_packet: f64,
    /// Packets and copies dropped.
    pub drops: u64,
    /// TSC cycles per packet by stage.
    pub stages: Vec<(String, f64)>,
}

/// Runs `scenario` in this process, which must not have started EAL before.
pub fn run(scenario: &Scenario, settings: &Settings) -> Result<Measured> {
    let policies = scenario.policies()?;
    let cores = cores(scenario.workers, settings)?;
    let eal = Eal::init(&EalConfig {
        hugepages: if settings.hugepages { Hugepages::Use } else { Hugepages::Never },
        memory_mb: MEMORY_MB,
        vdevs: (0..cores.len()).map(|worker| format!("net_null{worker}")).collect(),
        main_lcore: Some(settings.main_core),
        ..EalConfig::default()
    })?;
    let pool = |name: &str, data_room| {
        let name = name.to_owned();
        Mempool::new(
            &eal,
            &MempoolConfig { name, mbufs: MBUFS, cache: CACHE, data_room, socket: SocketId::ANY },
        )
    };
    let traffic = Templates::of(scenario, settings.packet_bytes)?;
    let hz = Tsc::hz(&eal);
    let together = Barrier::new(cores.len());
    let (mut benches, mut pools, mut ports) = (Vec::new(), Vec::new(), Vec::new());
    for (worker, &core) in cores.iter().enumerate() {
        let packets = pool(&format!("packets{worker}"), 2048)?;
        let headers = pool(&format!("headers{worker}"), 128)?;
        pools.extend([packets.clone(), headers.clone()]);
        let (port, _rx, mut tx) = Port::by_name(&eal, &format!("net_null{worker}"))?
            .configure(&PortConfig::new(packets.clone()))?;
        ports.push(port);
        let queue = tx.pop().context("net_null has no transmit queue")?;
        let (eal, policies, together) = (&eal, &policies, &together);
        benches.push((Bench { eal, policies, packets, headers, settings, scenario, core, together }, queue));
    }
    let measured = std::thread::scope(|scope| {
        let traffic = &traffic;
        let workers: Vec<_> = benches
            .into_iter()
            .map(|(bench, queue)| scope.spawn(move || bench.run(traffic, queue, hz)))
            .collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Result<Measured>>| {
            worker.join().map_err(|_| anyhow!("a worker panicked"))?
        };
        workers.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    ensure!(pools.iter().all(|pool| pool.in_use() == 0), "mbufs were lost");
    drop(ports);
    Ok(Measured { flows: scenario.flows, ..sum(measured)? })
}

/// The CPUs of the workers: the measured one, then that of everything else, which sleeps meanwhile.
fn cores(workers: usize, settings: &Settings) -> Result<Vec<u16>> {
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(
        workers <= cpus,
        "{workers} workers need {workers} CPUs, and this process may use {cpus}: run it on a larger machine"
    );
    ensure!(
        workers == 1 || settings.core != settings.main_core,
        "{workers} workers need different CPUs: give different ones with --core and --main-core"
    );
    let cores: Vec<_> = [settings.core, settings.main_core].into_iter().take(workers).collect();
    ensure!(cores.len() == workers, "at most 2 workers can be measured");
    Ok(cores)
}

/// What workers that ran at the same time came to: rates and packets are summed, the rest is the mean of them.
fn sum(workers: Vec<Measured>) -> Result<Measured> {
    let count = as_f64(workers.len() as u64);
    let mean = |sum: f64| sum / count;
    let mut all = workers.into_iter();
    let mut sum = all.next().context("no worker")?;
    for other in all {
        sum.packets += other.packets;
        sum.seconds += other.seconds;
        sum.mpps += other.mpps;
        sum.spread = (sum.spread.0 + other.spread.0, sum.spread.1 + other.spread.1);
        sum.cycles_per_packet += other.cycles_per_packet;
        sum.instructions_per_packet =
            sum.instructions_per_packet.zip(other.instructions_per_packet).map(|(a, b)| a + b);
        sum.source_mpps += other.source_mpps;
        sum.copies_per_packet += other.copies_per_packet;
        sum.drops += other.drops;
        for ((_, cycles), (_, more)) in sum.stages.iter_mut().zip(other.stages) {
            *cycles += more;
        }
    }
    sum.seconds = mean(sum.seconds);
    sum.cycles_per_packet = mean(sum.cycles_per_packet);
    sum.instructions_per_packet = sum.instructions_per_packet.map(mean);
    sum.copies_per_packet = mean(sum.copies_per_packet);
    for (_, cycles) in &mut sum.stages {
        *cycles = mean(*cycles);
    }
    Ok(sum)
}

/// What the worker's thread is given.
struct Bench<'a> {
    eal: &'a Eal,
    policies: &'a PolicySet,
    /// Its own, as workers share nothing.
    packets: Mempool,
    headers: Mempool,
    settings: &'a Settings,
    scenario: &'a Scenario,
    core: u16,
    /// Where workers wait for each other, so that they run at the same time.
    together: &'a Barrier,
}

impl Bench<'_> {
    fn run(&self, traffic: &Templates, queue: TxQueue, hz: u64) -> Result<Measured> {
        // Whatever fails before, everyone comes to the barrier.
        let prepared = dpdk::pin_current_thread(self.core).map_err(anyhow::Error::from);
        let prepared = prepared.and_then(|()| Ok(LcoreThread::register(self.eal)?));
        let mut source = traffic.source(&self.packets, BURST);
        self.together.wait();

        let mut burst = Burst::new();
        let alone = self.sample(false, || {
            source.rx_burst(&mut burst);
            let taken = burst.len();
            burst.free_all();
            taken
        });

        let worker = self.worker(traffic, queue);
        self.together.wait();
        let (alone, mut worker) = (alone?, worker?);
        let _registered = prepared?;
        let clock = Clock::new(hz);
        let (ledger, stats) = (worker.ledger(), worker.stats());
        // Every flow is there before anything is measured, and a table that shall be full is.
        let before = match self.scenario.traffic {
            Traffic::Conversations => traffic.count(),
            Traffic::NewFlows if !self.scenario.until_full => self.scenario.table as usize,
            Traffic::NewFlows | Traffic::Same | Traffic::Tunnelled | Traffic::Mix => 0,
        };
        let mut begun = 0;
        while begun < before {
            begun += worker.poll(&clock);
        }
        let samples = self.sample(self.scenario.until_full, || worker.poll(&clock))?;
        let stages = stage_cycles(&stats);
        let instructions_per_packet = instructions(|| worker.poll(&clock));
        // What is counted is published with the batch, so the last one is in it.
        let ledger = ledger.snapshot();
        check(&ledger)?;

        let rx_packets = as_f64(ledger.rx_packets);
        Ok(Measured {
            packets: samples.packets,
            seconds: samples.seconds,
            mpps: samples.median() / 1e6,
            spread: (
                samples.rates.first().map_or(0.0, |r| r / 1e6),
                samples.rates.last().map_or(0.0, |r| r / 1e6),
            ),
            cycles_per_packet: as_f64(hz) / samples.median(),
            instructions_per_packet,
            source_mpps: alone.median() / 1e6,
            flows: 0,
            policies: self.policies.policies().len(),
            packet_bytes: traffic.mean_bytes(),
            copies_per_packet: as_f64(ledger.tx_packets) / rx_packets,
            drops: ledger.drops.total(),
            stages,
        })
    }

    fn worker(&self, traffic: &Templates, queue: TxQueue) -> Result<Worker> {
        let policies = self.policies;
        let (program, _report) = Program::compile(policies, &["in".to_owned()], Generation(1));
        let program = Arc::new(program);
        let up = Arc::new(AtomicBool::new(true));
        let source = traffic.source(&self.packets, BURST);
        let decap = self.decap_stage();
        let flow = self.flow_stage(&program);
        let deployment = DeploymentParts {
            outputs: policies.destinations().iter().map(output).collect::<Result<_>>()?,
            sequences: Sequences::new(Sequences::streams(program.streams().len())),
            program,
            limits: None,
            balance: None,
            files: None,
            guard: LoopGuard::new(policies, &[]),
            tables: Arc::new(Tables::new(policies.policies().len(), policies.destinations().len())),
        };
        Ok(Worker::new(WorkerParts {
            deployment: Deployment::new(deployment, decap.is_some()),
            sources: vec![Source::new(PortId(0), true, None, SourceKind::Template(source))],
            ports: vec![TxPort::new(PortId(1), TxDriver::Dpdk(queue), true, up)],
            flow,
            fragments: FragmentTable::new(&FragmentTableConfig::default()),
            headers: self.headers.clone(),
            dedup: self.dedup_stage(),
            decap,
            control: ControlQueues::new(16),
        }))
    }

    fn dedup_stage(&self) -> Option<Dedup> {
        let mode = if self.scenario.dedup { DedupMode::Drop } else { DedupMode::Off };
        Dedup::new(&DedupSettings { mode, ..DedupSettings::default() }, FINGERPRINTS, 1, true)
    }

    fn decap_stage(&self) -> Option<Decap> {
        let mode =
            if self.scenario.traffic == Traffic::Tunnelled { DecapMode::Strip } else { DecapMode::Off };
        Decap::new(&[DecapSettings { mode, ..DecapSettings::default() }])
    }

    fn flow_stage(&self, program: &Program) -> Option<FlowStage> {
        let table = self.scenario.table;
        let config = meter_config(&FlowSettings::default(), &[], table, 0);
        (table > 0).then(|| FlowStage::new(config, RECORDS, program))
    }

    /// Samples of `poll`, which returns how many packets it moved, after one that does not count. `fills`: only until as
    /// many packets came as the flow table has entries.
    fn sample(&self, fills: bool, mut poll: impl FnMut() -> usize) -> Result<Samples> {
        let time = ThreadTime::current();
        let mut samples = Samples { packets: 0, seconds: 0.0, rates: Vec::new() };
        // With many flows, what each of them does once a second is in every sample.
        let second = if self.scenario.flows >= MANY_FLOWS { Duration::from_secs(1) } else { Duration::ZERO };
        let mut sample = self.settings.sample.max(second);
        let mut left = u64::MAX;
        if fills {
            (sample, left) = (sample.min(FILLING), self.scenario.table.into());
        }
        for index in 0..=self.settings.samples {
            let (start, run_start) = (Instant::now(), time.run_ns()?);
            let mut packets = 0;
            while start.elapsed() < sample {
                for _ in 0..POLLS {
                    packets += poll() as u64;
                }
            }
            let seconds = as_f64(time.run_ns()? - run_start) / 1e9;
            if index > 0 {
                samples.packets += packets;
                samples.seconds += seconds;
                samples.rates.push(as_f64(packets) / seconds);
            }
            left = left.saturating_sub(packets);
            if left < packets {
                break;
            }
        }
        samples.rates.sort_by(f64::total_cmp);
        Ok(samples)
    }
}

/// Samples of a rate, ascending.
struct Samples {
    packets: u64,
    seconds: f64,
    rates: Vec<f64>,
}

impl Samples {
    fn median(&self) -> f64 {
        self.rates.get(self.rates.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn output(destination: &Destination) -> Result<Output> {
    const MTU: u16 = 1500;
    match &destination.kind {
        DestinationKind::Tunnel(tunnel) => {
            let ends = TunnelEnds {
                local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
                local_mac: MacAddr([2, 0, 0, 0, 0, 1]),
                next_hop_mac: tunnel.mac.unwrap_or_default(),
            };
            Ok(Output::tunnel(destination, tunnel, ends, MTU, Egress::Port(0))?)
        }
        DestinationKind::Port { .. } | DestinationKind::Pcap { .. } | DestinationKind::Group(_) => {
            Ok(Output::plain(destination, MTU, Egress::Port(0)))
        }
    }
}

/// Every packet must have ended somewhere, and as nothing is in the way, all must have been sent.
fn check(ledger: &Ledger) -> Result<()> {
    ensure!(ledger.balances(), "the account does not balance: {ledger:?}");
    ensure!(ledger.rx_packets > 0, "no packet was received");
    Ok(())
}

/// Instructions per packet over a while of `poll`, where the machine counts them.
fn instructions(mut poll: impl FnMut() -> usize) -> Option<f64> {
    let mut counter = Builder::new().kind(Hardware::INSTRUCTIONS).build().ok()?;
    counter.enable().ok()?;
    let packets: usize = (0..20_000).map(|_| poll()).sum();
    counter.disable().ok()?;
    let count = counter.read().ok()?;
    (count > 0 && packets > 0).then(|| as_f64(count) / as_f64(packets as u64))
}

fn stage_cycles(stats: &WorkerStats) -> Vec<(String, f64)> {
    let row = |stage: Stage| {
        let row = stats.stages.get(stage as usize).filter(|row| row.packets.get() > 0)?;
        Some((stage.name().to_owned(), as_f64(row.cycles.get()) / as_f64(row.packets.get())))
    };
    Stage::ALL.into_iter().filter_map(row).collect()
}

/// Counts as a floating number, for rates.
#[expect(clippy::cast_precision_loss, reason = "rates need no more than 52 bits")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}
