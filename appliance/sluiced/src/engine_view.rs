//! A running engine as plain data, under the names of metrics.

use sluice_engine::counters::{DestinationTotals, PolicyTotals};
use sluice_engine::latency::Distribution;
use sluice_engine::ledger::Ledger;
use sluice_engine::output::BreakerReport;
use sluice_engine::port_pairs::PairTotals;
use sluice_engine::runtime::{
    Engine, FlowHandle, GenerationTotals, NamedDestination, PortReport, ThreadView,
};
use sluice_engine::stats::{self as engine_stats, WorkerStats};
use sluice_engine::tap_rows::TapTotals;
use sluice_engine::tunnels::TunnelTotals;
use sluice_export::prometheus::{
    Breaker, Counts, DedupPair, Destination, EngineView, Flow, Histogram, Policy, Port, Stage, Tap, Thread,
    Tunnels,
};
use sluice_model::{Generation, PortId};

/// Bounds of the histogram of delays: 1 us to 1 s.
const DELAY_BOUNDS_NS: [u64; 19] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];
/// Bounds of the histograms of packets that came at once.
const PACKET_BOUNDS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// The engine at this moment.
pub(crate) fn view(engine: &Engine) -> EngineView {
    let GenerationTotals { generation: Generation(generation), policies, destinations } =
        engine.generation_totals();
    let account = engine.account();
    let (tunnels, tunnels_full) = engine.tunnels();
    let (clock_steps, clock_error_ns) = engine.clock_quality();
    let captures = engine.capture_totals();
    let port_names = engine.port_names();
    let ports = engine.ports().into_iter().zip(engine.device_counters());
    EngineView {
        captures: captures.running,
        capture_packets: captures.packets,
        capture_lost_packets: captures.lost,
        generation,
        counts: counts(&account.ledger),
        held: account.held,
        lost_before_rx: account.lost_before_rx,
        threads: engine.thread_views().iter().map(thread).collect(),
        ports: ports.filter(|(port, _)| !port.removed).map(port).collect(),
        policies: policies.into_iter().map(policy).collect(),
        destinations: destinations.into_iter().map(destination).collect(),
        taps: engine.taps().into_iter().map(tap).collect(),
        dedup_pairs: engine.dedup_pairs().iter().map(|pair| dedup_pair(pair, &port_names)).collect(),
        tunnels: tunnels_by_kind(&tunnels),
        tunnels_full,
        mbufs_taken: engine.mbufs_in_use().into(),
        mbufs: engine.mbufs().into(),
        clock_steps,
        clock_error_ns,
    }
}

fn port((report, device): (PortReport, Vec<(String, u64)>)) -> Port {
    let breaker = |BreakerReport { open, opened, rate_bps }| Breaker { open, opened, rate_bps };
    Port {
        name: report.name,
        up: report.up,
        rx_packets: report.rx_packets,
        rx_bytes: report.rx_bytes,
        tx_packets: report.tx_packets,
        tx_bytes: report.tx_bytes,
        lost_before_rx: report.lost_before_rx,
        tx_errors: report.tx_errors,
        rx_cut: report.rx_cut,
        rx_super_frames: report.rx_super_frames,
        checksums_finished: report.checksums_finished,
        rx_unstamped: report.rx_unstamped,
        device,
        breaker: report.breaker.map(breaker),
    }
}

fn tap(totals: TapTotals) -> Tap {
    let TapTotals { name, packets, bytes, duplicates } = totals;
    Tap { name, packets, bytes, duplicates }
}

fn policy((name, totals): (String, PolicyTotals)) -> Policy {
    let PolicyTotals { matched_packets, matched_bytes, sent_packets, drops } = totals;
    Policy { name, matched_packets, matched_bytes, sent_packets, drops }
}

fn destination(named: NamedDestination) -> Destination {
    let DestinationTotals { packets, bytes, truncated, drops } = named.totals;
    let away = named.members.is_some().then_some(named.away.len() as u64);
    Destination { name: named.name, sent_packets: packets, sent_bytes: bytes, truncated, drops, away }
}

/// The ports without counters of their own have one name together; no port can have it.
fn dedup_pair(pair: &PairTotals, port_names: &[String]) -> DedupPair {
    let name = |port: Option<PortId>| {
        let name = port.and_then(|port| port_names.get(port.index()));
        name.map_or_else(|| "(others)".to_owned(), String::clone)
    };
    DedupPair { first: name(pair.first), second: name(pair.second), packets: pair.packets }
}

/// Anybody can make up tunnels, so that there is no limit to them but the table's: they are summed by kind.
fn tunnels_by_kind(all: &[TunnelTotals]) -> Vec<Tunnels> {
    let mut kinds: Vec<Tunnels> = Vec::new();
    for tunnel in all {
        let kind = tunnel.kind.name();
        let place = kinds.iter().position(|known| known.kind == kind).unwrap_or(kinds.len());
        if place == kinds.len() {
            kinds.push(Tunnels { kind, ..Tunnels::default() });
        }
        if let Some(sum) = kinds.get_mut(place) {
            sum.tunnels += 1;
            sum.rx_packets += tunnel.received;
            sum.lost += tunnel.lost;
            sum.reordered += tunnel.reordered;
            sum.duplicates += tunnel.duplicates;
            sum.restarts += tunnel.restarts;
        }
    }
    kinds
}

fn thread(view: &ThreadView) -> Thread {
    let stats = &*view.stats;
    let latency = view.latency.as_ref();
    let distributions = latency.map(|cell| cell.distributions(&DELAY_BOUNDS_NS, &PACKET_BOUNDS));
    let (delays, batches) = distributions.map(|[delays, batches]| (delays, batches)).unzip();
    let stages = stats.stages.iter().zip(engine_stats::Stage::ALL);
    Thread {
        name: view.name.clone(),
        counts: counts(&view.ledger),
        sleeps: stats.sleeps.get(),
        idle_polls: stats.idle_polls.get(),
        stages: stages
            .map(|(counts, stage)| Stage {
                name: stage.name(),
                packets: counts.packets.get(),
                batches: counts.batches.get(),
                cycles: counts.cycles.get(),
            })
            .collect(),
        polls: polls(stats),
        batches: batches.map(|found| histogram(&found, &PACKET_BOUNDS, 1.0)),
        delays: delays.map(|found| histogram(&found, &DELAY_BOUNDS_NS, 1e9)),
        flow: view.flow.as_ref().map(flow),
    }
}

/// With bounds and sum divided by `scale`.
fn histogram(found: &Distribution, bounds: &[u64], scale: f64) -> Histogram {
    let scaled = |value: u64| float(value) / scale;
    Histogram {
        buckets: bounds.iter().map(|&bound| scaled(bound)).zip(found.counts.iter().copied()).collect(),
        count: found.count,
        sum: scaled(found.sum),
    }
}

/// How many packets polls brought, of those that brought some.
fn polls(stats: &WorkerStats) -> Histogram {
    let mut found = Distribution { counts: vec![0; PACKET_BOUNDS.len()], ..Distribution::default() };
    for (packets, polls) in (0_u64..).zip(&stats.burst_sizes).skip(1) {
        let polls = polls.get();
        let place = PACKET_BOUNDS.partition_point(|&bound| bound < packets);
        if let Some(cell) = found.counts.get_mut(place) {
            *cell += polls;
        }
        found.count += polls;
        found.sum += packets * polls;
    }
    histogram(&found, &PACKET_BOUNDS, 1.0)
}

fn flow(handle: &FlowHandle) -> Flow {
    let FlowHandle { rings, stats, capacity } = handle;
    Flow {
        entries: stats.flows.get(),
        table_entries: (*capacity).into(),
        created: stats.created.get(),
        table_full: stats.table_full.get(),
        verdicts_kept: stats.verdicts_kept.get(),
        records: stats.records.get(),
        records_lost: stats.records_lost.get(),
        metrics: stats.metrics.get(),
        metrics_lost: stats.metrics_lost.get(),
        metrics_overflows: stats.metrics_overflows.get(),
        metrics_late: stats.metrics_late.get(),
        ranges_exhausted: stats.ranges_exhausted.get(),
        rings: vec![
            ("records", rings.flows.len() as u64, rings.flows.capacity() as u64),
            ("metrics", rings.metrics.len() as u64, rings.metrics.capacity() as u64),
        ],
    }
}

/// A count as a float: exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "samples are floats for their reader anyway")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Every field of a ledger: one that is added there is missed here by the compiler.
fn counts(ledger: &Ledger) -> Counts {
    let Ledger {
        rx_packets,
        rx_bytes,
        tx_packets,
        tx_bytes,
        replicas,
        drops,
        to_files,
        ctrl_rx,
        ctrl_tx,
        truncated,
        fragments_unmatched,
        decapsulated,
        vlan_stripped,
        marks_stripped,
        marks_unknown,
        decap_obstacles,
        ctrl_lost,
        to_workers,
        from_distributors,
        duplicates,
        duplicate_bytes,
        dedup_evicted,
    } = *ledger;
    let not_decapsulated = decap_obstacles.iter().map(|(obstacle, packets)| (obstacle.name(), packets));
    Counts {
        rx_packets,
        rx_bytes,
        tx_packets,
        tx_bytes,
        replicas,
        drops,
        to_files,
        ctrl_rx,
        ctrl_tx,
        ctrl_lost,
        truncated,
        fragments_unmatched,
        decapsulated,
        vlan_stripped,
        marks_stripped,
        marks_unknown,
        not_decapsulated: not_decapsulated.collect(),
        to_workers,
        from_distributors,
        duplicates,
        duplicate_bytes,
        dedup_evicted,
    }
}
