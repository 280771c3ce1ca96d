//! The families of metrics made of what is known at the moment of a scrape.

use sluice_model::{DropCounts, DropReason};

use crate::parquet::{Condition, SinkReport, TableStats};

use super::declare::Metric as M;
use super::family::{Families, Value};
use super::http_counts::HttpCounts;
use super::process::{self, float};
use super::view::{
    ApiView, Counts, Destination, EngineView, Flow, Histogram, LifeView, OvsView, Policy, Port, Tap, Thread,
    Tunnels,
};

/// Everything that a scrape shows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The version of the daemon.
    pub version: &'static str,
    /// The engine, once it runs.
    pub engine: Option<EngineView>,
    /// The Parquet files, where there are any.
    pub parquet: Option<SinkReport>,
    /// State and exceptions, once they are looked after.
    pub life: Option<LifeView>,
    /// The API, where it is served.
    pub api: Option<ApiView>,
    /// Open vSwitch, where names are learned from it.
    pub ovs: Option<OvsView>,
}

impl Snapshot {
    /// The samples, and those of this process and the server's.
    pub(super) fn families(&self, http: &HttpCounts) -> Families {
        let mut out = Families::default();
        out.add(M::Build, &[self.version], Value::Int(1));
        if let Some(life) = &self.life {
            life.add_to(&mut out);
        }
        if let Some(engine) = &self.engine {
            engine.add_to(&mut out);
        }
        if let Some(parquet) = &self.parquet {
            files(parquet, &mut out);
        }
        process::add_to(&mut out);
        if let Some(api) = &self.api {
            api.add_to(&mut out);
        }
        if let Some(ovs) = &self.ovs {
            ovs.add_to(&mut out);
        }
        for (page, status, requests) in http.pages().filter(|&(_, _, requests)| requests > 0) {
            out.add(M::HttpRequests, &[page, &status], Value::Int(requests));
        }
        for (why, connections) in http.lost() {
            out.add(M::HttpLostConnections, &[why], Value::Int(connections));
        }
        out
    }
}

impl LifeView {
    fn add_to(&self, out: &mut Families) {
        for (state, is_so) in &self.states {
            out.add(M::State, &[state], Value::Int((*is_so).into()));
        }
        for (code, count) in &self.exceptions {
            out.add(M::Exceptions, &[code], Value::Int(*count));
        }
        let cores = |millicores: u64| Value::Float(float(millicores) / 1e3);
        out.add(M::CpuCores, &[], cores(self.cpu_millicores));
        out.add(M::CpuLimitCores, &[], cores(self.cpu_limit_millicores));
        out.int(M::MemoryBytes, self.memory_bytes);
        out.int(M::MemoryLimitBytes, self.memory_limit_bytes);
    }
}

impl ApiView {
    fn add_to(&self, out: &mut Families) {
        for (transport, open, _) in &self.connections {
            out.add(M::ApiOpenConnections, &[transport], Value::Int(*open));
        }
        for (transport, _, all) in &self.connections {
            out.add(M::ApiConnections, &[transport], Value::Int(*all));
        }
        for (metric, rows) in [(M::ApiRequests, &self.requests), (M::ApiRefusals, &self.refused)] {
            for (label, count) in rows {
                out.add(metric, &[label], Value::Int(*count));
            }
        }
    }
}

impl OvsView {
    fn add_to(&self, out: &mut Families) {
        out.int(M::OvsConnected, self.connected.into());
        out.add(M::OvsAway, &[], Value::Float(float(self.away_ns) / 1e9));
        out.int(M::OvsConnects, self.connects);
        out.int(M::OvsUpdates, self.updates);
        for (metric, rows) in [(M::OvsNames, &self.names), (M::OvsApplies, &self.applies)] {
            for (label, count) in rows {
                out.add(metric, &[label], Value::Int(*count));
            }
        }
        out.int(M::OvsSilentNames, self.silent);
    }
}

impl EngineView {
    fn add_to(&self, out: &mut Families) {
        out.int(M::PolicyGeneration, self.generation);
        out.int(M::Policies, self.policies.len() as u64);
        out.int(M::Destinations, self.destinations.len() as u64);
        self.account(out);
        for pair in &self.dedup_pairs {
            out.add(M::DedupPairPackets, &[&pair.first, &pair.second], Value::Int(pair.packets));
        }
        ports(&self.ports, out);
        let mut taps = |metric, value: fn(&Tap) -> u64| each(out, &self.taps, |tap| &tap.name, metric, value);
        taps(M::TapPackets, |tap| tap.packets);
        taps(M::TapBytes, |tap| tap.bytes);
        taps(M::TapDuplicatePackets, |tap| tap.duplicates);
        policies(&self.policies, out);
        destinations(&self.destinations, out);
        tunnels(&self.tunnels, out);
        out.int(M::TunnelUnmeteredPackets, self.tunnels_full);
        threads(&self.threads, out);
        flows(&self.threads, out);
        out.int(M::Captures, self.captures);
        out.int(M::CapturePackets, self.capture_packets);
        out.int(M::CaptureLostPackets, self.capture_lost_packets);
        out.int(M::MbufsTaken, self.mbufs_taken);
        out.int(M::Mbufs, self.mbufs);
        out.int(M::ClockSteps, self.clock_steps);
        out.add(M::ClockError, &[], Value::Float(float(self.clock_error_ns) / 1e9));
    }

    fn account(&self, out: &mut Families) {
        let counts = &self.counts;
        out.int(M::RxPackets, counts.rx_packets);
        out.int(M::RxBytes, counts.rx_bytes);
        out.int(M::TxPackets, counts.tx_packets);
        out.int(M::TxBytes, counts.tx_bytes);
        out.int(M::ReplicaPackets, counts.replicas);
        for (reason, packets) in counts.drops.iter() {
            let intentional = if reason.intentional() { "true" } else { "false" };
            out.add(M::DroppedPackets, &[reason.name(), intentional], Value::Int(packets));
        }
        out.int(M::HeldPackets, self.held);
        out.add(M::ImbalancePackets, &[], Value::Signed(self.imbalance()));
        out.int(M::LostBeforeRxPackets, self.lost_before_rx);
        out.int(M::FilePackets, counts.to_files);
        out.int(M::TruncatedPackets, counts.truncated);
        out.int(M::UnmatchedFragmentPackets, counts.fragments_unmatched);
        out.int(M::DecapsulatedPackets, counts.decapsulated);
        for (reason, packets) in &counts.not_decapsulated {
            out.add(M::NotDecapsulatedPackets, &[reason], Value::Int(*packets));
        }
        out.int(M::VlanStrippedPackets, counts.vlan_stripped);
        out.int(M::MarksStrippedPackets, counts.marks_stripped);
        out.int(M::MarksUnknownPackets, counts.marks_unknown);
        out.int(M::CtrlRxPackets, counts.ctrl_rx);
        out.int(M::CtrlTxPackets, counts.ctrl_tx);
        out.int(M::CtrlLostPackets, counts.ctrl_lost);
        out.int(M::DuplicatePackets, counts.duplicates);
        out.int(M::DuplicateBytes, counts.duplicate_bytes);
        out.int(M::DedupEvictedPackets, counts.dedup_evicted);
    }

    /// What is missing (or too much) on the right side of the identity, of the whole and of each thread: the largest
    /// by its amount.
    fn imbalance(&self) -> i64 {
        let difference = |counts: &Counts, held: u64| {
            let left = counts.rx_packets.wrapping_add(counts.replicas);
            let right = counts.tx_packets.wrapping_add(counts.drops.total()).wrapping_add(held);
            left.wrapping_sub(right).cast_signed()
        };
        let thread = |Thread { counts, .. }: &Thread| difference(counts, counts.to_files + counts.to_workers);
        let all = self.threads.iter().map(thread).chain([difference(&self.counts, self.held)]);
        all.max_by_key(|difference| difference.unsigned_abs()).unwrap_or(0)
    }
}

fn files(report: &SinkReport, out: &mut Families) {
    out.int(M::ParquetWriting, (report.condition == Condition::Writing).into());
    out.int(M::ParquetNoSpace, (report.condition == Condition::NoSpace).into());
    out.int(M::ParquetStops, report.exceptions);
    out.int(M::ParquetWriteErrors, report.write_errors);
    let mut each = |metric, value: fn(&TableStats) -> u64| {
        for (table, stats) in report.tables() {
            out.add(metric, &[table], Value::Int(value(stats)));
        }
    };
    each(M::ParquetTakenRecords, |table| table.taken);
    each(M::ParquetWrittenRecords, |table| table.written);
    each(M::ParquetSampledOutRecords, |table| table.sampled_out);
    each(M::ParquetLostRecords, |table| table.lost);
    each(M::ParquetPendingRecords, |table| table.pending);
    each(M::ParquetFiles, |table| table.files);
    each(M::ParquetWrittenBytes, |table| table.bytes);
    out.int(M::ParquetKeptBytes, report.kept_bytes);
    out.int(M::ParquetRemovedFiles, report.removed_files);
    out.int(M::ParquetRemovedBytes, report.removed_bytes);
    out.int(M::ParquetRemoveErrors, report.remove_errors);
    out.int(M::ParquetCrashLost, report.crash_lost);
}

/// A metric with a sample for each item under its name.
fn each<T>(out: &mut Families, items: &[T], name: fn(&T) -> &str, metric: M, value: impl Fn(&T) -> u64) {
    for item in items {
        out.add(metric, &[name(item)], Value::Int(value(item)));
    }
}

/// The reasons that were ever counted: each name times each reason would be many lines of zeros.
fn drops<'a>(out: &mut Families, metric: M, rows: impl Iterator<Item = (&'a str, &'a DropCounts)>) {
    for (name, drops) in rows {
        let happened = drops.iter().filter(|&(_, packets)| packets > 0);
        for (reason, packets) in happened.map(|(reason, packets): (DropReason, u64)| (reason.name(), packets))
        {
            out.add(metric, &[name, reason], Value::Int(packets));
        }
    }
}

fn ports(ports: &[Port], out: &mut Families) {
    let mut each = |metric, value: fn(&Port) -> u64| each(out, ports, |port| &port.name, metric, value);
    each(M::PortUp, |port| port.up.into());
    each(M::PortRxPackets, |port| port.rx_packets);
    each(M::PortRxBytes, |port| port.rx_bytes);
    each(M::PortTxPackets, |port| port.tx_packets);
    each(M::PortTxBytes, |port| port.tx_bytes);
    each(M::PortLostBeforeRxPackets, |port| port.lost_before_rx);
    each(M::PortTxErrors, |port| port.tx_errors);
    each(M::PortRxCutPackets, |port| port.rx_cut);
    each(M::PortRxSuperFrames, |port| port.rx_super_frames);
    each(M::PortChecksumsFinished, |port| port.checksums_finished);
    each(M::PortRxUnstampedPackets, |port| port.rx_unstamped);
    for port in ports {
        for (counter, value) in port.device_counted() {
            out.add(M::PortDevice, &[&port.name, counter], Value::Int(*value));
        }
    }
    let breakers: Vec<_> = ports.iter().filter_map(|port| Some((&*port.name, port.breaker?))).collect();
    for (port, breaker) in &breakers {
        out.add(M::PortBreakerOpen, &[port], Value::Int(breaker.open.into()));
    }
    for (port, breaker) in &breakers {
        out.add(M::PortBreakerOpened, &[port], Value::Int(breaker.opened));
    }
    for (port, breaker) in &breakers {
        out.add(M::PortEgress, &[port], Value::Float(float(breaker.rate_bps) / 8.0));
    }
}

fn policies(policies: &[Policy], out: &mut Families) {
    let mut each = |metric, value: fn(&Policy) -> u64| each(out, policies, |p| &p.name, metric, value);
    each(M::PolicyMatchedPackets, |policy| policy.matched_packets);
    each(M::PolicyMatchedBytes, |policy| policy.matched_bytes);
    each(M::PolicySentPackets, |policy| policy.sent_packets);
    drops(out, M::PolicyDroppedPackets, policies.iter().map(|policy| (&*policy.name, &policy.drops)));
}

/// Destinations and groups apart: their sum would count a copy twice.
fn destinations(all: &[Destination], out: &mut Families) {
    let (groups, plain): (Vec<&Destination>, Vec<_>) = all.iter().partition(|d| d.away.is_some());
    for (rows, [packets, bytes, truncated, dropped]) in [
        (
            &plain,
            [
                M::DestinationSentPackets,
                M::DestinationSentBytes,
                M::DestinationTruncatedPackets,
                M::DestinationDroppedPackets,
            ],
        ),
        (&groups, [M::GroupSentPackets, M::GroupSentBytes, M::GroupTruncatedPackets, M::GroupDroppedPackets]),
    ] {
        let mut each = |metric, value: fn(&&Destination) -> u64| each(out, rows, |d| &d.name, metric, value);
        each(packets, |destination| destination.sent_packets);
        each(bytes, |destination| destination.sent_bytes);
        each(truncated, |destination| destination.truncated);
        drops(out, dropped, rows.iter().map(|destination| (&*destination.name, &destination.drops)));
    }
    each(out, &groups, |group| &group.name, M::GroupAwayMembers, |group| group.away.unwrap_or(0));
}

fn tunnels(tunnels: &[Tunnels], out: &mut Families) {
    let mut each = |metric, value: fn(&Tunnels) -> u64| each(out, tunnels, |t| t.kind, metric, value);
    each(M::Tunnels, |tunnels| tunnels.tunnels);
    each(M::TunnelRxPackets, |tunnels| tunnels.rx_packets);
    each(M::TunnelLostPackets, |tunnels| tunnels.lost);
    each(M::TunnelReorderedPackets, |tunnels| tunnels.reordered);
    each(M::TunnelDuplicatePackets, |tunnels| tunnels.duplicates);
    each(M::TunnelRestarts, |tunnels| tunnels.restarts);
}

fn threads(threads: &[Thread], out: &mut Families) {
    let mut each = |metric, value: fn(&Thread) -> u64| each(out, threads, |t| &t.name, metric, value);
    each(M::ThreadRxPackets, |thread| thread.counts.rx_packets);
    each(M::ThreadRxBytes, |thread| thread.counts.rx_bytes);
    each(M::ThreadTxPackets, |thread| thread.counts.tx_packets);
    each(M::ThreadTxBytes, |thread| thread.counts.tx_bytes);
    each(M::ThreadReplicaPackets, |thread| thread.counts.replicas);
    each(M::ThreadFilePackets, |thread| thread.counts.to_files);
    each(M::ThreadToWorkersPackets, |thread| thread.counts.to_workers);
    each(M::ThreadFromDistributorsPackets, |thread| thread.counts.from_distributors);
    each(M::ThreadDuplicatePackets, |thread| thread.counts.duplicates);
    each(M::ThreadDedupEvictedPackets, |thread| thread.counts.dedup_evicted);
    each(M::ThreadCtrlLostPackets, |thread| thread.counts.ctrl_lost);
    each(M::ThreadSleeps, |thread| thread.sleeps);
    each(M::ThreadIdlePolls, |thread| thread.idle_polls);
    drops(out, M::ThreadDroppedPackets, threads.iter().map(|thread| (&*thread.name, &thread.counts.drops)));
    let mut histogram = |metric, of: fn(&Thread) -> Option<&Histogram>| {
        for (thread, histogram) in threads.iter().filter_map(|thread| Some((thread, of(thread)?))) {
            out.add(metric, &[&thread.name], histogram.value());
        }
    };
    histogram(M::ThreadPollPackets, |thread| Some(&thread.polls));
    histogram(M::ThreadBatchPackets, |thread| thread.batches.as_ref());
    histogram(M::ThreadDelay, |thread| thread.delays.as_ref());
    let stages =
        || threads.iter().flat_map(|t| t.stages.iter().map(move |stage| ([&*t.name, stage.name], stage)));
    for (labels, stage) in stages() {
        out.add(M::StagePackets, &labels, Value::Int(stage.packets));
    }
    for (labels, stage) in stages() {
        out.add(M::StageBatches, &labels, Value::Int(stage.batches));
    }
    for (labels, stage) in stages() {
        out.add(M::StageCycles, &labels, Value::Int(stage.cycles));
    }
}

impl Histogram {
    /// With the bucket of everything above the last bound.
    fn value(&self) -> Value {
        let below: u64 = self.buckets.iter().map(|(_, count)| count).sum();
        let above = (f64::INFINITY, self.count.saturating_sub(below));
        let buckets = self.buckets.iter().copied().chain([above]).collect();
        // The last bucket and the count are the same, whenever each was read.
        Value::Histogram { sum: self.sum, count: self.count.max(below), buckets }
    }
}

fn flows(threads: &[Thread], out: &mut Families) {
    let flows: Vec<(&str, &Flow)> =
        threads.iter().filter_map(|thread| Some((&*thread.name, thread.flow.as_ref()?))).collect();
    let mut each = |metric, value: fn(&Flow) -> u64| {
        for (thread, flow) in &flows {
            out.add(metric, &[thread], Value::Int(value(flow)));
        }
    };
    each(M::FlowEntries, |flow| flow.entries);
    each(M::FlowTableEntries, |flow| flow.table_entries);
    each(M::FlowsCreated, |flow| flow.created);
    each(M::FlowTableFullPackets, |flow| flow.table_full);
    each(M::FlowVerdictsKept, |flow| flow.verdicts_kept);
    each(M::FlowRecords, |flow| flow.records);
    each(M::FlowRecordsLost, |flow| flow.records_lost);
    each(M::FlowMetrics, |flow| flow.metrics);
    each(M::FlowMetricsLost, |flow| flow.metrics_lost);
    each(M::FlowMetricsOverflows, |flow| flow.metrics_overflows);
    each(M::FlowMetricsLate, |flow| flow.metrics_late);
    each(M::FlowRangesExhausted, |flow| flow.ranges_exhausted);
    for (thread, flow) in &flows {
        for (ring, entries, _) in &flow.rings {
            out.add(M::RingEntries, &[thread, ring], Value::Int(*entries));
        }
    }
    for (thread, flow) in &flows {
        for (ring, _, slots) in &flow.rings {
            out.add(M::RingSlots, &[thread, ring], Value::Int(*slots));
        }
    }
}
