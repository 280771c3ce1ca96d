//! How fast does a distributor hand packets to workers? A template source, a distributor on one core, and workers on
//! another that free what they take.
//!
//! `cargo run --release -p sluice-perf --example distributor_speed [WORKERS [CORE [OTHER_CORE]]]`. The distributor waits
//! while the rings are nearly full, which does not count: one core frees less than another can hand over. So the rate
//! is that of the cycles spent on packets, its source included; the source alone, packets taken and freed with nothing
//! between, stands beside it.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use dpdk::{
    Burst, Eal, EalConfig, Hugepages, LcoreThread, Mempool, MempoolConfig, Ring, RingConsumer, RingProducer,
    SocketId, Tsc,
};
use sluice_core::classify::{FragmentTable, FragmentTableConfig};
use sluice_engine::clock::Clock;
use sluice_engine::idle::IdleSettings;
use sluice_engine::port::{Advance, Source, SourceKind, TemplateSource};
use sluice_engine::stats::Stage;
use sluice_engine::{ControlQueues, Distributor, DistributorParts};
use sluice_model::{PortId, SpreadBy};
use sluice_perf::thread_time::ThreadTime;
use sluice_perf::traffic;

/// Distinct flows.
const FLOWS: usize = 10_000;
/// Packets that a ring holds.
const RING: u32 = 2048;
/// Samples; the median counts.
const SAMPLES: usize = 15;
/// Length of a sample.
const SAMPLE: Duration = Duration::from_millis(200);
/// What a distributor does: receives, hashes, hands over.
const PARTS: [Stage; 3] = [Stage::Rx, Stage::Parse, Stage::Tx];
/// Polls of the distributor that are measured.
const POLLS: usize = 100_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u16>());
    let mut next = |default: u16| arguments.next().unwrap_or(Ok(default));
    let (workers, core, other) = (next(2)?, next(1)?, next(0)?);
    let eal = Eal::init(&EalConfig {
        hugepages: if free_hugepages() > 100 { Hugepages::Use } else { Hugepages::Never },
        memory_mb: 192,
        main_lcore: Some(other),
        ..EalConfig::default()
    })?;
    let pool = MempoolConfig {
        name: "packets".into(),
        mbufs: 32_767,
        cache: 512,
        data_room: 2048,
        socket: SocketId::ANY,
    };
    let pool = Mempool::new(&eal, &pool)?;
    for (by, apart) in [(SpreadBy::Addresses, true), (SpreadBy::Ports, true), (SpreadBy::Addresses, false)] {
        let mut rings = Vec::new();
        let mut ends = Vec::new();
        for worker in 0..workers {
            let (producer, consumer) = Ring::spsc(&eal, &format!("{by:?}{apart}{worker}"), RING)?;
            rings.push(producer);
            ends.push(consumer);
        }
        let stop = AtomicBool::new(false);
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let (far, own) = if apart { (ends, None) } else { (Vec::new(), Some(ends)) };
            let sink = scope.spawn(|| take(&eal, other, far, &stop, &taken));
            let measured = scope.spawn(|| measure(&eal, core, &pool, rings, by, &taken, own));
            let measured = measured.join();
            stop.store(true, Ordering::Relaxed);
            sink.join().map_err(|_| anyhow!("the sink panicked"))??;
            let (text, handed) = measured.map_err(|_| anyhow!("the distributor panicked"))??;
            let taken = taken.load(Ordering::Relaxed);
            anyhow::ensure!(taken == handed, "{handed} packets were handed over, {taken} taken");
            let place = if apart { "on another core" } else { "on the same core" };
            println!("by {by:?}, {workers} workers {place}: {text}");
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

/// The workers of all rings: frees what comes, until nothing does after the stop, and counts it.
fn take(
    eal: &Eal,
    core: u16,
    mut rings: Vec<RingConsumer>,
    stop: &AtomicBool,
    taken: &AtomicU64,
) -> Result<()> {
    dpdk::pin_current_thread(core)?;
    let _registered = LcoreThread::register(eal)?;
    let mut burst = Burst::new();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let mut packets = 0;
        for ring in &mut rings {
            packets += drain(ring, &mut burst);
        }
        taken.fetch_add(packets, Ordering::Relaxed);
        if stopping && packets == 0 {
            return Ok(());
        }
    }
}

/// Frees one burst of a ring; returns how many.
fn drain(ring: &mut RingConsumer, burst: &mut Burst) -> u64 {
    let packets = ring.dequeue_burst(burst) as u64;
    burst.free_all();
    packets
}

/// What it came to, for people, and the packets handed over.
fn measure(
    eal: &Eal,
    core: u16,
    pool: &Mempool,
    rings: Vec<RingProducer>,
    by: SpreadBy,
    taken: &AtomicU64,
    mut own: Option<Vec<RingConsumer>>,
) -> Result<(String, u64)> {
    dpdk::pin_current_thread(core)?;
    let _registered = LcoreThread::register(eal)?;
    let frames = traffic::packets(FLOWS, 64, 1);
    let mut source = TemplateSource::new(pool.clone(), &frames, 64, Advance::Nothing);
    let mut burst = Burst::new();
    let alone = rate(|| {
        source.rx_burst(&mut burst);
        let taken = burst.len();
        burst.free_all();
        taken
    })?;
    let source = SourceKind::Template(TemplateSource::new(pool.clone(), &frames, 64, Advance::Nothing));
    let mut distributor = Distributor::new(DistributorParts {
        sources: vec![Source::new(PortId(0), true, None, source)],
        rings,
        doorbells: Vec::new(),
        idle: IdleSettings::ALWAYS,
        by,
        innermost: std::sync::Arc::new(false.into()),
        ends: sluice_engine::stage::ends::PortEnds::default(),
        tunnels: None,
        fragments: FragmentTable::new(&FragmentTableConfig::default()),
        control: ControlQueues::new(16),
    });
    let clock = Clock::new(Tsc::hz(eal));
    let ledger = distributor.ledger();
    let room = u64::from(RING) - 128;
    let mut handed = 0;
    // Polls that were interrupted by other work on the machine must not count: the median of all does not see them.
    let mut costs = Vec::with_capacity(POLLS);
    let mut parts = PARTS.map(|_| Vec::with_capacity(POLLS));
    let stats = distributor.stats();
    let cycles = |stage: Stage| stats.stages.get(stage as usize).map_or(0, |row| row.cycles.get());
    let begin = Instant::now();
    while costs.len() < POLLS {
        // However unevenly the packets in flight are spread, each ring has room for a batch.
        if handed - taken.load(Ordering::Relaxed) > room {
            if let Some(own) = &mut own {
                let packets = own.iter_mut().map(|ring| drain(ring, &mut burst)).sum::<u64>();
                taken.fetch_add(packets, Ordering::Relaxed);
            }
            std::hint::spin_loop();
            continue;
        }
        let before = PARTS.map(cycles);
        let start = Tsc::now();
        let packets = distributor.poll(&clock) as u64;
        costs.extend(Tsc::now().cycles_since(start).checked_div(packets));
        for ((part, stage), before) in parts.iter_mut().zip(PARTS).zip(before) {
            part.extend((cycles(stage) - before).checked_div(packets));
        }
        handed += packets;
    }
    let seconds = begin.elapsed().as_secs_f64();
    for ring in own.iter_mut().flatten() {
        while !ring.is_empty() {
            taken.fetch_add(drain(ring, &mut burst), Ordering::Relaxed);
        }
    }
    let ledger = ledger.snapshot();
    anyhow::ensure!(ledger.balances(), "{ledger:?}");
    anyhow::ensure!(ledger.drops.total() == 0, "a ring was full");
    let [rx, hash, rings] = parts.map(|mut part| at(&mut part, 50));
    let (cost, tenth) = (at(&mut costs, 50), at(&mut costs, 10));
    let mhz = as_f64(Tsc::hz(eal)) / 1e6;
    let text = format!(
        "{:.1} Mpps, {:.1} without the source ({cost} cycles a packet: source {rx}, hash {hash}, rings {rings}); \
         the best tenth of polls {:.1} Mpps; source alone {alone:.1}; the sink took {:.1}",
        mhz / as_f64(cost),
        mhz / as_f64(hash + rings),
        mhz / as_f64(tenth),
        as_f64(handed) / seconds / 1e6,
    );
    Ok((text, ledger.to_workers))
}

/// A percentile of some costs; at least 1.
fn at(costs: &mut [u64], percent: usize) -> u64 {
    costs.sort_unstable();
    costs.get(costs.len() * percent / 100).copied().unwrap_or(1).max(1)
}

/// The median rate of `poll`, million packets per second of CPU.
fn rate(mut poll: impl FnMut() -> usize) -> Result<f64> {
    let time = ThreadTime::current();
    let mut rates = Vec::new();
    for _ in 0..SAMPLES {
        let (start, run_start) = (Instant::now(), time.run_ns()?);
        let mut packets = 0;
        while start.elapsed() < SAMPLE {
            packets += (0..256).map(|_| poll() as u64).sum::<u64>();
        }
        rates.push(as_f64(packets) * 1e3 / as_f64(time.run_ns()? - run_start));
    }
    rates.sort_by(f64::total_cmp);
    rates.get(SAMPLES / 2).copied().context("no samples")
}

fn free_hugepages() -> u64 {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "rates need no more than 52 bits")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
