//! Which flow does each packet belong to, and is its verdict known already?

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use sluice_core::classify::{Classifier, Program, VerdictId};
use sluice_core::flow::metrics::MetricsConfig;
use sluice_core::flow::{FlowMeter, FlowRef, MeterConfig, Packet, Sink, TapPort, VlanKey};
use sluice_model::{FlowRecord, FlowSettings, MetricsRecord, PortId};

use crate::batch::{BATCH, Batch};
use crate::counters::Counter;
use crate::flow_read::FlowPage;
use crate::recent::RecentMetrics;

/// How often flows are looked at while no packets come.
const IDLE_NS: u64 = 1_000_000;

/// How many packets before its own a packet's entry is asked for; its bucket of the index twice as many.
const AHEAD: usize = 8;

/// What the stage did (worker: w, control: r).
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct FlowStats {
    /// Flows in the table.
    pub flows: Counter,
    /// Flows that were begun.
    pub created: Counter,
    /// Packets that got no entry because the table was full; they were forwarded, not metered.
    pub table_full: Counter,
    /// Packets whose verdict was kept with their flow.
    pub verdicts_kept: Counter,
    /// Records handed over.
    pub records: Counter,
    /// Records lost because the ring was full.
    pub records_lost: Counter,
    /// Rows of metrics handed over.
    pub metrics: Counter,
    /// Rows of metrics lost because the ring was full.
    pub metrics_lost: Counter,
    /// Times that something went to the metrics' row of the rest, because their table was full.
    pub metrics_overflows: Counter,
    /// Times that something came too late for its second of the metrics.
    pub metrics_late: Counter,
    /// Times that a flow with holes in its sequence numbers found no memory for them.
    pub ranges_exhausted: Counter,
}

/// The sums over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of FlowStats")]
pub struct FlowTotals {
    pub flows: u64,
    pub created: u64,
    pub table_full: u64,
    pub verdicts_kept: u64,
    pub records: u64,
    pub records_lost: u64,
    pub metrics: u64,
    pub metrics_lost: u64,
    pub metrics_overflows: u64,
    pub metrics_late: u64,
    pub ranges_exhausted: u64,
}

impl FlowTotals {
    /// The sums over `stats`; each field is read on its own.
    #[must_use]
    pub fn new<'a>(stats: impl IntoIterator<Item = &'a FlowStats>) -> Self {
        let mut totals = Self::default();
        for stats in stats {
            totals.flows += stats.flows.get();
            totals.created += stats.created.get();
            totals.table_full += stats.table_full.get();
            totals.verdicts_kept += stats.verdicts_kept.get();
            totals.records += stats.records.get();
            totals.records_lost += stats.records_lost.get();
            totals.metrics += stats.metrics.get();
            totals.metrics_lost += stats.metrics_lost.get();
            totals.metrics_overflows += stats.metrics_overflows.get();
            totals.metrics_late += stats.metrics_late.get();
            totals.ranges_exhausted += stats.ranges_exhausted.get();
        }
        totals
    }

    /// Each sum with its name in JSON and metrics.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("flows", self.flows),
            ("created", self.created),
            ("table_full", self.table_full),
            ("verdicts_kept", self.verdicts_kept),
            ("records", self.records),
            ("records_lost", self.records_lost),
            ("metrics", self.metrics),
            ("metrics_lost", self.metrics_lost),
            ("metrics_overflows", self.metrics_overflows),
            ("metrics_late", self.metrics_late),
            ("ranges_exhausted", self.ranges_exhausted),
        ]
    }
}

/// The rings that take records out of a worker.
#[derive(Clone, Debug)]
pub struct RecordRings {
    /// Flow records.
    pub flows: Arc<ArrayQueue<FlowRecord>>,
    /// Rows of metrics.
    pub metrics: Arc<ArrayQueue<MetricsRecord>>,
    /// What of the metrics was taken out lately.
    pub recent: Arc<RecentMetrics>,
}

impl RecordRings {
    /// Takes everything out that is in the rings now.
    pub fn drain(&self, sink: &mut impl Sink) {
        for _ in 0..self.flows.capacity() {
            let Some(record) = self.flows.pop() else { break };
            sink.flow(&record);
        }
        for _ in 0..self.metrics.capacity() {
            let Some(row) = self.metrics.pop() else { break };
            self.recent.add(&row);
            sink.metrics(&row);
        }
    }
}

/// Hands records to the rings; what does not fit is lost, and counted.
#[derive(Debug)]
struct ToRings<'a> {
    rings: &'a RecordRings,
    stats: &'a FlowStats,
}

impl Sink for ToRings<'_> {
    fn metrics(&mut self, row: &MetricsRecord) {
        match self.rings.metrics.push(*row) {
            Ok(()) => self.stats.metrics.add(1),
            Err(_) => self.stats.metrics_lost.add(1),
        }
    }

    fn flow(&mut self, record: &FlowRecord) {
        match self.rings.flows.push(*record) {
            Ok(()) => self.stats.records.add(1),
            Err(_) => self.stats.records_lost.add(1),
        }
    }
}

/// Counts what goes straight to a sink.
#[derive(Debug)]
struct Counted<'a, S> {
    sink: &'a mut S,
    stats: &'a FlowStats,
}

impl<S: Sink> Sink for Counted<'_, S> {
    fn flow(&mut self, record: &FlowRecord) {
        self.stats.records.add(1);
        self.sink.flow(record);
    }

    fn metrics(&mut self, row: &MetricsRecord) {
        self.stats.metrics.add(1);
        self.sink.metrics(row);
    }
}

/// Hands records to the rings and waits while they are full.
#[derive(Debug)]
struct Patient<'a> {
    rings: &'a RecordRings,
    stats: &'a FlowStats,
    deadline: Instant,
}

impl Patient<'_> {
    fn push<T: Copy>(&self, ring: &ArrayQueue<T>, item: &T, done: &Counter, lost: &Counter) {
        while ring.push(*item).is_err() {
            if Instant::now() >= self.deadline {
                lost.add(1);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        done.add(1);
    }
}

impl Sink for Patient<'_> {
    fn flow(&mut self, record: &FlowRecord) {
        self.push(&self.rings.flows, record, &self.stats.records, &self.stats.records_lost);
    }

    fn metrics(&mut self, row: &MetricsRecord) {
        self.push(&self.rings.metrics, row, &self.stats.metrics, &self.stats.metrics_lost);
    }
}

/// The state of the stage.
#[derive(Debug)]
pub struct FlowStage {
    meter: FlowMeter,
    refs: Box<[Option<FlowRef>; BATCH]>,
    rings: RecordRings,
    stats: Arc<FlowStats>,
    vlan_in_key: bool,
    /// Whether the verdicts of the program hold for whole flows.
    keeps_verdicts: bool,
    now_ns: u64,
}

impl FlowStage {
    /// The stage with a table and a ring for `records` records. All memory is taken here.
    #[must_use]
    pub fn new(config: MeterConfig, records: usize, program: &Program) -> Self {
        let vlan_in_key = config.vlan == VlanKey::Ids;
        let recent = config.metrics.as_ref().map(|metrics| RecentMetrics::new(metrics.rows));
        Self {
            meter: FlowMeter::new(config),
            refs: Box::new([None; BATCH]),
            rings: RecordRings {
                flows: Arc::new(ArrayQueue::new(records.max(1))),
                metrics: Arc::new(ArrayQueue::new(records.max(1))),
                recent: Arc::new(recent.unwrap_or_default()),
            },
            stats: Arc::default(),
            vlan_in_key,
            keeps_verdicts: program.flow_decides(vlan_in_key),
            now_ns: 0,
        }
    }

    /// The rings that records leave by.
    #[must_use]
    pub fn rings(&self) -> RecordRings {
        self.rings.clone()
    }

    /// The published counts.
    #[must_use]
    pub fn stats(&self) -> Arc<FlowStats> {
        Arc::clone(&self.stats)
    }

    /// Says what the verdicts of a new program depend on.
    pub fn set_program(&mut self, program: &Program) {
        self.keeps_verdicts = program.flow_decides(self.vlan_in_key);
    }

    /// Changes where packets of a port come from; see [`FlowMeter::set_tap`].
    pub(crate) fn set_tap(&mut self, port: PortId, tap: TapPort) {
        self.meter.set_tap(port, tap);
    }

    /// Counts every live packet of the batch in its flow, and sets the verdicts that are kept; returns the places of
    /// these, as bits.
    #[inline]
    pub fn run(&mut self, batch: &mut Batch, classifier: &Classifier) -> u64 {
        if batch.looked_through == 0 {
            self.run_over::<false>(batch, classifier)
        } else {
            self.run_over::<true>(batch, classifier)
        }
    }

    /// The same over the outermost headers, or over those inside tunnels that are looked through.
    #[inline(always)]
    fn run_over<const INNER: bool>(&mut self, batch: &mut Batch, classifier: &Classifier) -> u64 {
        let stamp = classifier.stamp();
        let mut sink = ToRings { rings: &self.rings, stats: &self.stats };
        // Each packet asks for memory that later ones need, while it works on its own: asked for all at once, lines
        // would wait for each other.
        let (mut keyed, mut fetched) = (batch.live_places(), batch.live_places());
        for place in keyed.by_ref().take(2 * AHEAD) {
            prepare::<INNER>(&mut self.meter, batch, place);
        }
        for place in fetched.by_ref().take(AHEAD) {
            self.meter.fetch(place);
        }
        let mut kept = 0_u64;
        let mut now_ns = self.now_ns;
        for place in batch.live_places() {
            if let Some(place) = keyed.next() {
                prepare::<INNER>(&mut self.meter, batch, place);
            }
            if let Some(place) = fetched.next() {
                self.meter.fetch(place);
            }
            let packet = packet::<INNER>(batch, place);
            now_ns = now_ns.max(packet.time_ns);
            let flow = self.meter.packet(place, &packet, &mut sink);
            self.refs[place] = flow;
            if let Some(verdict) = flow.and_then(|flow| self.meter.verdict(flow, stamp)) {
                kept |= 1 << place;
                batch.verdicts[place] = VerdictId::from_number(verdict);
            }
        }
        self.now_ns = now_ns;
        self.meter.sweep_on(now_ns, &mut sink);
        let counts = self.meter.counts();
        self.stats.flows.set(counts.flows);
        self.stats.created.set(counts.created);
        self.stats.table_full.set(counts.table_full);
        self.stats.ranges_exhausted.set(counts.ranges_exhausted);
        let metrics = self.meter.metrics_counts();
        self.stats.metrics_overflows.set(metrics.overflows);
        self.stats.metrics_late.set(metrics.late);
        if !self.keeps_verdicts {
            return 0;
        }
        self.stats.verdicts_kept.add(kept.count_ones().into());
        kept
    }

    /// Keeps the verdicts that the classifier just gave at `places`.
    #[inline]
    pub fn keep(&mut self, places: u64, batch: &Batch, classifier: &Classifier) {
        if !self.keeps_verdicts {
            return;
        }
        let stamp = classifier.stamp();
        for place in batch.live_places_of(places) {
            if let Some(flow) = self.refs[place] {
                self.meter.keep_verdict(place, flow, stamp, batch.verdicts[place].number());
            }
        }
    }

    /// Looks at flows when no packets come: those that are silent for too long end, minutes are reported.
    #[inline]
    pub fn idle(&mut self, now_ns: u64) {
        if now_ns < self.now_ns.saturating_add(IDLE_NS) {
            return;
        }
        self.now_ns = now_ns;
        self.meter.sweep_idle(now_ns, &mut ToRings { rings: &self.rings, stats: &self.stats });
        self.stats.flows.set(self.meter.counts().flows);
    }

    /// Looks at so many places of the table at most, and puts their flows into `page`.
    pub fn fill(&self, page: &mut FlowPage, places: usize) {
        let end = self.meter.places();
        for _ in 0..places {
            if page.next >= end {
                page.is_last = true;
                return;
            }
            if page.is_full() {
                return;
            }
            page.flows.extend(self.meter.snapshot(page.next));
            page.next += 1;
        }
    }

    /// Reports what every flow did since its last report, when the worker ends. Waits for room in the rings, but no
    /// longer than `patience` in all.
    pub fn report_all(&mut self, now_ns: u64, patience: Duration) {
        let mut sink =
            Patient { rings: &self.rings, stats: &self.stats, deadline: Instant::now() + patience };
        self.meter.report_all(now_ns, &mut sink);
    }

    /// Ends and reports everything that was due before the second of `now_ns`, however long ago that was; records go to
    /// `sink`, not to the rings.
    pub fn run_to(&mut self, now_ns: u64, sink: &mut impl Sink) {
        self.meter.run_to(now_ns, &mut Counted { sink, stats: &self.stats });
        self.stats.flows.set(self.meter.counts().flows);
        self.stats.metrics_late.set(self.meter.metrics_counts().late);
    }

    /// Lets time run on until every flow has ended; records go to `sink`, not to the rings.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        self.meter.finish(&mut Counted { sink, stats: &self.stats });
        self.stats.flows.set(self.meter.counts().flows);
    }
}

/// The meter's configuration of a worker: `flows` unless the settings say, `taps` by port number.
#[must_use]
pub fn meter_config(settings: &FlowSettings, taps: &[TapPort], flows: u32, worker: u8) -> MeterConfig {
    MeterConfig {
        flows: settings.flows.unwrap_or(flows),
        vlan: if settings.vlan_in_key { VlanKey::Ids } else { VlanKey::Ignored },
        timeouts: settings.timeouts,
        metrics: settings.metrics.then(|| metrics_config(settings)),
        delay_limits: settings.delay_limits,
        taps: taps.to_vec(),
        tap_sides: Vec::new(),
        vtap_id: settings.vtap_id,
        worker,
    }
}

/// How large the table of metrics is.
#[must_use]
pub fn metrics_config(settings: &FlowSettings) -> MetricsConfig {
    let default = MetricsConfig::default();
    MetricsConfig {
        keys: settings.metrics_rows.unwrap_or(default.keys),
        rows: settings.metrics_rows.unwrap_or(default.rows),
        ..default
    }
}

/// The first step of the meter for a packet.
#[inline(always)]
fn prepare<const INNER: bool>(meter: &mut FlowMeter, batch: &Batch, place: usize) {
    let headers = batch.view_if::<INNER>(place);
    let (tunnel, tap) = (&batch.tunnel[place], batch.tapped.then_some(batch.tap[place]));
    meter.prepare(place, headers, tunnel, batch.ingress[place], tap, || frame(batch, place));
}

/// A packet as the meter sees it.
#[inline(always)]
fn packet<const INNER: bool>(batch: &Batch, place: usize) -> Packet<'_> {
    Packet {
        frame: frame(batch, place),
        headers: batch.view_if::<INNER>(place),
        tunnel: &batch.tunnel[place],
        wire_len: batch.info[place].wire_len,
        time_ns: batch.info[place].timestamp_ns,
        port: batch.ingress[place],
        is_duplicate: batch.duplicates >> place & 1 != 0,
    }
}

#[inline(always)]
fn frame(batch: &Batch, place: usize) -> &[u8] {
    batch.mbufs[place].as_ref().map_or(&[], dpdk::Mbuf::data)
}
