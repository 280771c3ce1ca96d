//! How fast do flow records get from a worker's ring into Parquet files, and how many bytes has a record there?
//!
//! `perf/run.sh ring-to-parquet CAPTURE [RECORDS [ROUNDS]]`. The flow records of a real capture are the patterns: each
//! record of the million is one of them with other clients, servers, ports, sequence numbers and times, and with bytes
//! and delays that differ by up to an eighth, at 10,000 records per second. The rate is that of the time that the thread
//! had the core while it emptied the ring, as the daemon does, and wrote; files go to a temporary folder (`TMPDIR`).
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crossbeam_queue::ArrayQueue;
use sluice_core::flow::Sink;
use sluice_engine::replay::{ReplayConfig, replay};
use sluice_engine::stage::flow::RecordRings;
use sluice_export::parquet::{Now, ParquetSettings, ParquetSink, Profile, Table};
use sluice_model::{Delay, FlowRecord, FlowSettings, MetricsRecord, PolicySet};
use sluice_perf::thread_time::ThreadTime;

/// Records that are handed over together, as the daemon does.
const BATCH: usize = 256;
/// Records that a ring holds.
const RING: usize = 16_384;
/// Nanoseconds between two records.
const SPACING_NS: u64 = 100_000;
/// When the first record ends: 2023-11-14 22:13:20 UTC.
const BEGIN_NS: u64 = 1_700_000_000_000_000_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let capture = arguments.next().context("parquet_speed CAPTURE [RECORDS [ROUNDS]]")?;
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (records, rounds) = (number(1_000_000)?, number(3)?);
    let patterns = patterns(Path::new(&capture))?;
    println!(
        "{} records of {capture} as patterns, {} bytes each in memory",
        patterns.len(),
        size_of::<FlowRecord>()
    );
    let records = generate(&patterns, records);
    for (name, profile) in Profile::NAMES {
        for _ in 0..rounds {
            let (seconds, bytes, files) = write(&records, profile)?;
            println!(
                "{name}: {:.3} M records/s, {:.1} bytes per record, {files} files",
                count(records.len()) / seconds / 1e6,
                count(bytes) / count(records.len())
            );
        }
        for rows in [100, 1_000, 10_000, 100_000] {
            let some = records.get(..rows.min(records.len())).unwrap_or(&records);
            let (seconds, bytes, _) = write(some, profile)?;
            println!(
                "{name}: a file of {} records: {bytes} bytes, {:.1} per record, {:.2} ms",
                some.len(),
                count(bytes) / count(some.len()),
                seconds * 1e3
            );
        }
        let (seconds, bytes, files) = write(&patterns, profile)?;
        println!(
            "{name}: the capture's own {} records: {:.1} bytes per record in {files} files, {:.2} ms",
            patterns.len(),
            count(bytes) / count(patterns.len()),
            seconds * 1e3
        );
    }
    Ok(())
}

/// Takes records out of a ring, in batches.
struct Drain {
    sink: ParquetSink,
    batch: Vec<FlowRecord>,
}

impl Drain {
    fn hand_on(&mut self) {
        self.sink.flows(&self.batch, Now::read());
        self.batch.clear();
    }
}

impl Sink for Drain {
    fn flow(&mut self, record: &FlowRecord) {
        self.batch.push(*record);
        if self.batch.len() >= BATCH {
            self.hand_on();
        }
    }

    fn metrics(&mut self, _row: &MetricsRecord) {}
}

/// Writes records; says how long the thread ran, and how many bytes and files there are.
fn write(records: &[FlowRecord], profile: Profile) -> Result<(f64, usize, u64)> {
    let folder = tempfile::tempdir()?;
    let defaults = ParquetSettings::new(folder.path().to_owned());
    let settings =
        ParquetSettings { profile, flow_cap: None, flush: Duration::MAX, reserve_bytes: 0, ..defaults };
    let sink = ParquetSink::open(settings)?;
    let stats = sink.stats();
    let mut drain = Drain { sink, batch: Vec::with_capacity(BATCH) };
    let rings = RecordRings {
        flows: Arc::new(ArrayQueue::new(RING)),
        metrics: Arc::new(ArrayQueue::new(1)),
        recent: Arc::default(),
    };
    let time = ThreadTime::current();
    let mut taken = 0;
    for part in records.chunks(RING) {
        // What a worker does on its own core.
        let full = part.iter().any(|record| rings.flows.push(*record).is_err());
        ensure!(!full, "the ring is full");
        let before = time.run_ns()?;
        rings.drain(&mut drain);
        drain.hand_on();
        taken += time.run_ns()? - before;
    }
    let before = time.run_ns()?;
    drain.sink.close(Now::read())?;
    taken += time.run_ns()? - before;
    let table = stats.table(Table::Flows);
    ensure!(table.written == u64::try_from(records.len())?, "{table:?}");
    Ok((Duration::from_nanos(taken).as_secs_f64(), usize::try_from(table.bytes)?, table.files))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(count: usize) -> f64 {
    count as f64
}

/// The flow records of a capture.
fn patterns(capture: &Path) -> Result<Vec<FlowRecord>> {
    struct Collect(Vec<FlowRecord>);
    impl Sink for Collect {
        fn flow(&mut self, record: &FlowRecord) {
            self.0.push(*record);
        }
        fn metrics(&mut self, _row: &MetricsRecord) {}
    }
    let out = tempfile::tempdir()?;
    let config = ReplayConfig {
        policies: PolicySet::default(),
        inputs: vec![PathBuf::from(capture)],
        out_dir: out.path().to_owned(),
        loop_guard: false,
        decap: Vec::new(),
        ends: sluice_engine::stage::ends::PortEnds::default(),
        flow: Some(FlowSettings { enabled: true, metrics: false, ..FlowSettings::default() }),
        taps: Vec::new(),
        mirror: sluice_model::MirrorSettings::default(),
        dedup: sluice_model::DedupSettings::default(),
        limit: None,
        breaker: None,
    };
    let mut collect = Collect(Vec::new());
    replay(&config, |_, _| {}, &mut collect)?;
    ensure!(!collect.0.is_empty(), "{}: no flows", capture.display());
    Ok(collect.0)
}

/// Records like the patterns.
fn generate(patterns: &[FlowRecord], records: usize) -> Vec<FlowRecord> {
    let mut random = Random(0x5eed);
    let mut end_ns = BEGIN_NS;
    let patterns = patterns.iter().cycle().take(records).enumerate();
    patterns
        .map(|(number, pattern)| {
            end_ns += random.below(2 * SPACING_NS);
            vary(pattern, u64::try_from(number).unwrap_or(0), end_ns, &mut random)
        })
        .collect()
}

fn vary(pattern: &FlowRecord, number: u64, end_ns: u64, random: &mut Random) -> FlowRecord {
    let mut record = *pattern;
    let lasted_ns = random.about(pattern.end_ns.saturating_sub(pattern.start_ns));
    record.end_ns = end_ns;
    record.start_ns = end_ns.saturating_sub(lasted_ns);
    record.duration_ns = random.about(pattern.duration_ns);
    record.flow_id = (record.start_ns >> 30) << 32 | (number & 0xff_ffff);
    // 4,096 times as many clients, 16 times as many servers.
    let (client, server) = (random.below(1 << 12), random.below(1 << 4));
    for (address, bits) in record.addresses.iter_mut().zip([client, server]) {
        let host = if matches!(record.network, sluice_model::Network::Ipv4) { 2..4 } else { 14..16 };
        for (byte, bits) in address[host].iter_mut().zip(bits.to_be_bytes().into_iter().skip(6)) {
            *byte ^= bits;
        }
    }
    if let Some([client, _]) = &mut record.ports
        && *client > 1024
    {
        *client = u16::try_from(32_768 + random.below(28_232)).unwrap_or(0);
    }
    for sequence in [&mut record.syn_seq, &mut record.syn_ack_seq].into_iter().flatten() {
        *sequence = u32::try_from(random.below(1 << 32)).unwrap_or(0);
    }
    for side in &mut record.sides {
        let more = random.about(side.l4_bytes).saturating_sub(side.l4_bytes);
        for bytes in [&mut side.bytes, &mut side.l3_bytes, &mut side.l4_bytes, &mut side.total_bytes] {
            *bytes += more;
        }
    }
    let perf = &mut record.perf;
    perf.rtt_ns = random.about(perf.rtt_ns);
    for delay in [&mut perf.rtt_client, &mut perf.rtt_server, &mut perf.srt, &mut perf.art] {
        let Delay { sum_ns, max_ns, count } = delay;
        *max_ns = random.about(*max_ns);
        *sum_ns = if *count == 1 { *max_ns } else { random.about(*sum_ns) };
    }
    record
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        u64::try_from((u128::from(bits) * u128::from(end)) >> 64).unwrap_or(0)
    }

    /// A value that is up to an eighth larger; 0 stays 0.
    fn about(&mut self, value: u64) -> u64 {
        value + self.below(value / 8 + 1)
    }
}
