//! What did every counter say at the end of an interval? The rows of the table `counters`.
//!
//! One row for each counter, not one column: what is counted differs between ports, policies and workers, and grows with
//! new versions; a query picks by `scope` and `metric`, and old files keep their schema. A counter that never counted
//! anything has no row: absent is 0.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sluice_model::{CounterRecord, CounterScope as Scope};

use crate::parquet::SinkReport;
use crate::prometheus::{Counts, Destination, EngineView, Flow, Policy, Port, Tap, Thread};

/// A counter's name, and where it is found.
type Named<T> = (&'static str, fn(&T) -> u64);

/// Of the appliance, and of each worker and distributor.
const COUNTS: [Named<Counts>; 19] = [
    ("rx_packets", |counts| counts.rx_packets),
    ("rx_bytes", |counts| counts.rx_bytes),
    ("tx_packets", |counts| counts.tx_packets),
    ("tx_bytes", |counts| counts.tx_bytes),
    ("replicas", |counts| counts.replicas),
    ("drops", |counts| counts.drops.total()),
    ("to_files", |counts| counts.to_files),
    ("truncated", |counts| counts.truncated),
    ("fragments_unmatched", |counts| counts.fragments_unmatched),
    ("decapsulated", |counts| counts.decapsulated),
    ("vlan_stripped", |counts| counts.vlan_stripped),
    ("marks_stripped", |counts| counts.marks_stripped),
    ("marks_unknown", |counts| counts.marks_unknown),
    ("duplicates", |counts| counts.duplicates),
    ("duplicate_bytes", |counts| counts.duplicate_bytes),
    ("dedup_evicted", |counts| counts.dedup_evicted),
    ("ctrl_rx", |counts| counts.ctrl_rx),
    ("ctrl_tx", |counts| counts.ctrl_tx),
    ("ctrl_lost", |counts| counts.ctrl_lost),
];

const PORT: [Named<Port>; 10] = [
    ("rx_packets", |port| port.rx_packets),
    ("rx_bytes", |port| port.rx_bytes),
    ("tx_packets", |port| port.tx_packets),
    ("tx_bytes", |port| port.tx_bytes),
    ("lost_before_rx", |port| port.lost_before_rx),
    ("tx_errors", |port| port.tx_errors),
    ("rx_cut", |port| port.rx_cut),
    ("rx_super_frames", |port| port.rx_super_frames),
    ("checksums_finished", |port| port.checksums_finished),
    ("rx_unstamped", |port| port.rx_unstamped),
];

const TAP: [Named<Tap>; 3] =
    [("packets", |tap| tap.packets), ("bytes", |tap| tap.bytes), ("duplicates", |tap| tap.duplicates)];

const THREAD: [Named<Thread>; 4] = [
    ("to_workers", |thread| thread.counts.to_workers),
    ("from_distributors", |thread| thread.counts.from_distributors),
    ("sleeps", |thread| thread.sleeps),
    ("idle_polls", |thread| thread.idle_polls),
];

const POLICY: [Named<Policy>; 4] = [
    ("matched_packets", |policy| policy.matched_packets),
    ("matched_bytes", |policy| policy.matched_bytes),
    ("sent_packets", |policy| policy.sent_packets),
    ("drops", |policy| policy.drops.total()),
];

const DESTINATION: [Named<Destination>; 4] = [
    ("sent_packets", |destination| destination.sent_packets),
    ("sent_bytes", |destination| destination.sent_bytes),
    ("truncated", |destination| destination.truncated),
    ("drops", |destination| destination.drops.total()),
];

/// Of each worker that meters flows.
const FLOW: [Named<Flow>; 10] = [
    ("flows_created", |flow| flow.created),
    ("flow_table_full", |flow| flow.table_full),
    ("verdicts_kept", |flow| flow.verdicts_kept),
    ("records", |flow| flow.records),
    ("records_lost", |flow| flow.records_lost),
    ("metrics", |flow| flow.metrics),
    ("metrics_lost", |flow| flow.metrics_lost),
    ("metrics_overflows", |flow| flow.metrics_overflows),
    ("metrics_late", |flow| flow.metrics_late),
    ("ranges_exhausted", |flow| flow.ranges_exhausted),
];

type Key = (Scope, Arc<str>, Cow<'static, str>);

/// Turns what an engine shows into rows; remembers the totals of the interval before.
#[derive(Debug, Default)]
pub struct CounterRows {
    totals: HashMap<Key, u64>,
}

impl CounterRows {
    /// The rows of the interval that ends at `time_ns` (nanoseconds since the epoch).
    pub fn rows(
        &mut self,
        engine: &EngineView,
        files: Option<&SinkReport>,
        time_ns: u64,
        interval: Duration,
    ) -> Vec<CounterRecord> {
        let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        let mut rows =
            Rows { time_ns, interval_ms, before: &self.totals, now: HashMap::new(), out: Vec::new() };
        let whole: Arc<str> = Arc::from("");
        rows.all(Scope::Appliance, &whole, &COUNTS, &engine.counts);
        rows.count(Scope::Appliance, &whole, "lost_before_rx", engine.lost_before_rx);
        rows.count(Scope::Appliance, &whole, "tunnels_unmetered", engine.tunnels_full);
        rows.count(Scope::Appliance, &whole, "clock_steps", engine.clock_steps);
        rows.gauge(Scope::Appliance, &whole, "generation", engine.generation);
        rows.gauge(Scope::Appliance, &whole, "held", engine.held);
        rows.gauge(Scope::Appliance, &whole, "mbufs_taken", engine.mbufs_taken);
        rows.gauge(Scope::Appliance, &whole, "clock_error_ns", engine.clock_error_ns);
        for (reason, packets) in engine.counts.drops.iter() {
            rows.count(Scope::Drop, &whole, reason.name(), packets);
        }
        for port in &engine.ports {
            let name = Arc::from(port.name.as_str());
            rows.gauge(Scope::Port, &name, "up", port.up.into());
            rows.all(Scope::Port, &name, &PORT, port);
            for (counter, value) in port.device_counted() {
                rows.count(Scope::Port, &name, format!("device.{counter}"), *value);
            }
        }
        for tap in &engine.taps {
            rows.all(Scope::Tap, &Arc::from(tap.name.as_str()), &TAP, tap);
        }
        for thread in &engine.threads {
            let name = Arc::from(thread.name.as_str());
            rows.all(Scope::Worker, &name, &COUNTS, &thread.counts);
            rows.all(Scope::Worker, &name, &THREAD, thread);
            if let Some(flow) = &thread.flow {
                rows.gauge(Scope::Worker, &name, "flows", flow.entries);
                rows.all(Scope::Worker, &name, &FLOW, flow);
            }
        }
        for policy in &engine.policies {
            rows.all(Scope::Policy, &Arc::from(policy.name.as_str()), &POLICY, policy);
        }
        for destination in &engine.destinations {
            let name = Arc::from(destination.name.as_str());
            rows.all(Scope::Destination, &name, &DESTINATION, destination);
            if let Some(away) = destination.away {
                rows.gauge(Scope::Destination, &name, "members_away", away);
            }
        }
        for (table, stats) in files.iter().flat_map(|files| files.tables()) {
            let name = Arc::from(table);
            rows.count(Scope::Table, &name, "taken", stats.taken);
            rows.count(Scope::Table, &name, "written", stats.written);
            rows.count(Scope::Table, &name, "sampled_out", stats.sampled_out);
            rows.count(Scope::Table, &name, "lost", stats.lost);
            rows.gauge(Scope::Table, &name, "pending", stats.pending);
            rows.count(Scope::Table, &name, "files", stats.files);
            rows.count(Scope::Table, &name, "bytes", stats.bytes);
        }
        let Rows { now, out, .. } = rows;
        self.totals = now;
        out
    }
}

struct Rows<'a> {
    time_ns: u64,
    interval_ms: u32,
    before: &'a HashMap<Key, u64>,
    now: HashMap<Key, u64>,
    out: Vec<CounterRecord>,
}

impl Rows<'_> {
    fn all<T>(&mut self, scope: Scope, name: &Arc<str>, counters: &[Named<T>], of: &T) {
        for (metric, read) in counters {
            self.count(scope, name, *metric, read(of));
        }
    }

    fn count(&mut self, scope: Scope, name: &Arc<str>, metric: impl Into<Cow<'static, str>>, total: u64) {
        if total == 0 {
            return;
        }
        let metric = metric.into();
        let key = (scope, Arc::clone(name), metric.clone());
        // What went away and came back under its name counts anew.
        let before = self.before.get(&key).copied().filter(|before| *before <= total).unwrap_or(0);
        self.now.insert(key, total);
        self.push(scope, name, metric, total - before, Some(total));
    }

    fn gauge(&mut self, scope: Scope, name: &Arc<str>, metric: &'static str, value: u64) {
        self.push(scope, name, metric.into(), value, None);
    }

    fn push(
        &mut self,
        scope: Scope,
        name: &Arc<str>,
        metric: Cow<'static, str>,
        value: u64,
        total: Option<u64>,
    ) {
        let (time_ns, interval_ms, name) = (self.time_ns, self.interval_ms, Arc::clone(name));
        self.out.push(CounterRecord { time_ns, interval_ms, scope, name, metric, value, total });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::TableStats;

    fn view(packets: u64) -> EngineView {
        let mut engine = EngineView { held: 3, ..EngineView::default() };
        engine.counts.rx_packets = packets;
        engine.counts.drops.0[0] = packets / 10;
        engine.ports =
            vec![Port { name: "uplink".to_owned(), up: true, rx_packets: packets, ..Port::default() }];
        engine.policies =
            vec![Policy { name: "web".to_owned(), matched_packets: packets, ..Policy::default() }];
        engine
    }

    fn find<'a>(
        rows: &'a [CounterRecord],
        scope: Scope,
        name: &str,
        metric: &str,
    ) -> Option<&'a CounterRecord> {
        rows.iter().find(|row| row.scope == scope && &*row.name == name && row.metric == metric)
    }

    #[test]
    fn values_add_up_to_totals() {
        let mut counters = CounterRows::default();
        let (mut sum, mut latest) = (0, 0);
        for (step, packets) in [40, 100, 100, 250].into_iter().enumerate() {
            let time_ns = step as u64 * 1_000_000_000;
            let rows = counters.rows(&view(packets), None, time_ns, Duration::from_millis(990));
            let row = find(&rows, Scope::Port, "uplink", "rx_packets").unwrap();
            assert_eq!((row.total, row.interval_ms, row.time_ns), (Some(packets), 990, time_ns));
            sum += row.value;
            latest = find(&rows, Scope::Policy, "web", "matched_packets").unwrap().value;
            assert_eq!(find(&rows, Scope::Appliance, "", "held").unwrap().total, None);
            assert_eq!(find(&rows, Scope::Port, "uplink", "up").unwrap().value, 1);
            assert!(find(&rows, Scope::Port, "uplink", "tx_errors").is_none(), "nothing was counted");
            let reason = sluice_model::DropReason::ALL[0].name();
            assert_eq!(find(&rows, Scope::Drop, "", reason).unwrap().total, Some(packets / 10));
        }
        assert_eq!((sum, latest), (250, 150));
    }

    #[test]
    fn what_comes_back_counts_anew() {
        let mut counters = CounterRows::default();
        let second = Duration::from_secs(1);
        counters.rows(&view(100), None, 0, second);
        let rows = counters.rows(&view(30), None, 1, second);
        assert_eq!(find(&rows, Scope::Policy, "web", "matched_packets").unwrap().value, 30);
        counters.rows(&EngineView::default(), None, 2, second);
        let rows = counters.rows(&view(50), None, 3, second);
        assert_eq!(find(&rows, Scope::Policy, "web", "matched_packets").unwrap().value, 50);
    }

    /// The weight of a sampled record is what came by what is kept.
    #[test]
    fn what_the_sample_left_out_is_told() {
        let mut report = SinkReport::default();
        report.tables[0] = TableStats { taken: 50, sampled_out: 40, pending: 10, ..TableStats::default() };
        let rows = CounterRows::default().rows(&view(1), Some(&report), 0, Duration::from_secs(1));
        let value = |metric| find(&rows, Scope::Table, "flows", metric).map(|row| row.value);
        assert_eq!((value("taken"), value("sampled_out"), value("pending")), (Some(50), Some(40), Some(10)));
        assert_eq!(value("lost"), None);
    }

    #[test]
    fn what_a_driver_counts_has_its_name() {
        let mut engine = view(1);
        engine.ports[0].device = vec![("rx_crc_errors".to_owned(), 7), ("rx_q0_packets".to_owned(), 0)];
        let rows = CounterRows::default().rows(&engine, None, 0, Duration::from_secs(1));
        let row = find(&rows, Scope::Port, "uplink", "device.rx_crc_errors").unwrap();
        assert_eq!((row.value, row.total), (7, Some(7)));
        assert!(find(&rows, Scope::Port, "uplink", "device.rx_q0_packets").is_none(), "it never counted");
    }
}
