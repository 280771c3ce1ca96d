//! What was counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sluice_api::v1;
use sluice_api::v1::counter_service_server::CounterService;
use sluice_engine::counters::PolicyTotals;
use sluice_engine::ledger::Account;
use sluice_engine::runtime::{GenerationTotals, NamedDestination, PortReport, ThreadReport};
use sluice_engine::stage::flow::FlowTotals;
use sluice_engine::stats::Stage;
use sluice_model::{DedupMode, DropCounts, PortId};
use tonic::{Request, Response, Status};

use super::{Answers, INTERVALS, Service, moments};
use crate::policies::now_ns;

/// Names that rows may be asked for by, and parts.
const NAMES: usize = 1_000;
/// Rows of each part where no number is asked for.
const ROWS: usize = 10_000;

/// The `limit` rows with the most packets, in the order they came in.
fn most<T>(rows: impl Iterator<Item = T>, limit: usize, packets: impl Fn(&T) -> u64) -> Vec<T> {
    let mut rows: Vec<(usize, T)> = rows.enumerate().collect();
    if rows.len() > limit {
        rows.sort_by_key(|(_, row)| Reverse(packets(row)));
        rows.truncate(limit);
        rows.sort_by_key(|(place, _)| *place);
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Counts by reason, without those that are 0.
fn drops(counts: &DropCounts) -> BTreeMap<String, u64> {
    counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.name().to_owned(), count))
        .collect()
}

pub(super) fn account(account: &Account) -> v1::Account {
    let ledger = &account.ledger;
    v1::Account {
        rx_packets: ledger.rx_packets,
        replicas: ledger.replicas,
        tx_packets: ledger.tx_packets,
        drops: ledger.drops.total(),
        held: account.held,
        lost_before_rx: account.lost_before_rx,
        balanced: account.balances(),
    }
}

pub(super) fn port((report, device): (&PortReport, Vec<(String, u64)>)) -> v1::PortCounters {
    v1::PortCounters {
        port: report.name.clone(),
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
        device: device.into_iter().collect(),
    }
}

pub(super) fn worker(thread: &ThreadReport) -> v1::WorkerCounters {
    let percentiles = |p: &sluice_engine::latency::Percentiles| v1::Histogram {
        samples: p.samples,
        p50: p.p50,
        p90: p.p90,
        p99: p.p99,
        p999: p.p999,
        max: p.max,
    };
    let latency = thread.latency.as_ref();
    v1::WorkerCounters {
        worker: thread.name.clone(),
        rx_packets: thread.ledger.rx_packets,
        rx_bytes: thread.ledger.rx_bytes,
        tx_packets: thread.ledger.tx_packets,
        tx_bytes: thread.ledger.tx_bytes,
        drops: drops(&thread.ledger.drops),
        from_distributors: thread.ledger.from_distributors,
        to_workers: thread.ledger.to_workers,
        idle_polls: thread.idle_polls,
        sleeps: thread.sleeps,
        stages: thread
            .stats
            .stages
            .iter()
            .zip(Stage::ALL)
            .map(|(row, stage)| v1::StageCounters {
                stage: stage.name().to_owned(),
                packets: row.packets.get(),
                batches: row.batches.get(),
                cycles: row.cycles.get(),
            })
            .filter(|row| row.batches > 0)
            .collect(),
        delay_ns: latency.map(|latency| percentiles(&latency.delay_ns)),
        batch_packets: latency.map(|latency| percentiles(&latency.batch_pkts)),
    }
}

fn policy(name: &str, totals: &PolicyTotals) -> v1::PolicyCounters {
    v1::PolicyCounters {
        policy: name.to_owned(),
        matched_packets: totals.matched_packets,
        matched_bytes: totals.matched_bytes,
        sent_packets: totals.sent_packets,
        drops: drops(&totals.drops),
    }
}

fn destination(named: NamedDestination) -> v1::DestinationCounters {
    let NamedDestination { name, totals, members, away } = named;
    v1::DestinationCounters {
        destination: name,
        packets: totals.packets,
        bytes: totals.bytes,
        truncated: totals.truncated,
        drops: drops(&totals.drops),
        members: members.unwrap_or_default(),
        away,
    }
}

impl Service {
    fn totals(&self) -> v1::TotalCounters {
        let engine = self.policies.engine();
        let whole = engine.account();
        let ledger = &whole.ledger;
        let boot = self.policies.boot();
        let port = |port: Option<PortId>| {
            let setup = port.and_then(|port| boot.ports.get(port.index()));
            setup.map_or_else(|| "other ports".to_owned(), |setup| setup.name.clone())
        };
        let dedup = (boot.dedup.mode != DedupMode::Off).then(|| v1::DedupCounters {
            mode: boot.dedup.mode.name().to_owned(),
            duplicates: ledger.duplicates,
            duplicate_bytes: ledger.duplicate_bytes,
            evicted: ledger.dedup_evicted,
            pairs: engine
                .dedup_pairs()
                .iter()
                .map(|pair| v1::DuplicatePair {
                    first: port(pair.first),
                    second: port(pair.second),
                    packets: pair.packets,
                    bytes: pair.bytes,
                })
                .collect(),
        });
        let flows = engine.flows();
        let flow = (!flows.is_empty()).then(|| {
            let totals = FlowTotals::new(flows.iter().map(|flow| &*flow.stats));
            v1::FlowCounters {
                flows: totals.flows,
                capacity: engine.flow_capacity(),
                created: totals.created,
                table_full: totals.table_full,
                verdicts_kept: totals.verdicts_kept,
                records: totals.records,
                records_lost: totals.records_lost,
                metrics: totals.metrics,
                metrics_lost: totals.metrics_lost,
                metrics_overflows: totals.metrics_overflows,
                metrics_late: totals.metrics_late,
                ranges_exhausted: totals.ranges_exhausted,
            }
        });
        let obstacles = ledger.decap_obstacles.iter().filter(|(_, count)| *count > 0);
        v1::TotalCounters {
            account: Some(account(&whole)),
            rx_bytes: ledger.rx_bytes,
            tx_bytes: ledger.tx_bytes,
            drops: drops(&ledger.drops),
            truncated: ledger.truncated,
            fragments_unmatched: ledger.fragments_unmatched,
            decapsulated: ledger.decapsulated,
            vlan_stripped: ledger.vlan_stripped,
            marks_stripped: ledger.marks_stripped,
            marks_unknown: ledger.marks_unknown,
            not_decapsulated: obstacles
                .map(|(obstacle, count)| (obstacle.name().to_owned(), count))
                .collect(),
            tunnels_full: engine.tunnels().1,
            ctrl_rx: ledger.ctrl_rx,
            ctrl_tx: ledger.ctrl_tx,
            ctrl_lost: ledger.ctrl_lost,
            dedup,
            flow,
        }
    }

    fn counters(&self, request: &v1::GetCountersRequest) -> v1::Counters {
        let engine = self.policies.engine();
        let wants = |part: v1::CounterPart| {
            request.parts.is_empty() || request.parts.iter().any(|wanted| *wanted == i32::from(part))
        };
        let names: HashSet<&str> = request.names.iter().map(String::as_str).collect();
        let named = |name: &str| names.is_empty() || names.contains(name);
        let limit = match request.limit {
            0 => ROWS,
            limit => limit as usize,
        };
        // Of the workers, not of the store: between the two steps of a change the sums already go by the new numbers.
        let GenerationTotals { generation, policies, destinations } = engine.generation_totals();
        let mut counters = v1::Counters {
            time_ns: now_ns(),
            since_ns: self.started_at_ns(),
            generation: generation.0,
            ..v1::Counters::default()
        };
        if wants(v1::CounterPart::Totals) {
            counters.totals = Some(self.totals());
        }
        if wants(v1::CounterPart::Ports) {
            let ports = engine.ports();
            let rows = ports.iter().zip(engine.device_counters());
            let rows = rows.filter(|(port, _)| !port.removed && named(&port.name));
            counters.ports = most(rows.map(port), limit, |port| port.rx_packets + port.tx_packets);
        }
        if wants(v1::CounterPart::Workers) {
            let threads = engine.threads();
            let rows = threads.iter().filter(|thread| named(&thread.name)).map(worker);
            counters.workers = most(rows, limit, |worker| worker.rx_packets);
        }
        if wants(v1::CounterPart::Policies) {
            let rows = policies.iter().filter(|(name, _)| named(name));
            let rows = rows.map(|(name, totals)| policy(name, totals));
            counters.policies = most(rows, limit, |policy| policy.matched_packets);
        }
        if wants(v1::CounterPart::Destinations) {
            let rows = destinations.into_iter().filter(|row| named(&row.name)).map(destination);
            counters.destinations = most(rows, limit, |destination| destination.packets);
        }
        if wants(v1::CounterPart::Tunnels) {
            let tunnels = engine.tunnels().0.into_iter().map(|tunnel| v1::TunnelCounters {
                source: tunnel.source.to_string(),
                kind: tunnel.kind.name().to_owned(),
                id: tunnel.id,
                received: tunnel.received,
                lost: tunnel.lost,
                reordered: tunnel.reordered,
                duplicates: tunnel.duplicates,
                restarts: tunnel.restarts,
            });
            counters.tunnels = most(tunnels, limit, |tunnel| tunnel.received);
        }
        if wants(v1::CounterPart::Taps) {
            let taps = engine.taps().into_iter().filter(|tap| named(&tap.name)).map(|tap| v1::TapCounters {
                tap: tap.name,
                packets: tap.packets,
                bytes: tap.bytes,
                duplicates: tap.duplicates,
            });
            counters.taps = most(taps, limit, |tap| tap.packets);
        }
        counters
    }
}

#[tonic::async_trait]
impl CounterService for Service {
    async fn get_counters(
        &self,
        request: Request<v1::GetCountersRequest>,
    ) -> Result<Response<v1::Counters>, Status> {
        let request = bounded(request.into_inner())?;
        let service = self.clone();
        self.blocking(move |_| Ok(service.counters(&request))).await.map(Response::new)
    }

    type WatchCountersStream = Answers<v1::Counters>;

    async fn watch_counters(
        &self,
        request: Request<v1::WatchCountersRequest>,
    ) -> Result<Response<Self::WatchCountersStream>, Status> {
        let v1::WatchCountersRequest { counters, interval_ms } = request.into_inner();
        let counters = Arc::new(bounded(counters.unwrap_or_default())?);
        let moments = moments(interval_ms, INTERVALS);
        Ok(Response::new(self.repeat(moments, move |service| service.counters(&counters))))
    }
}

/// The request, if it is no burden to hold it.
fn bounded(request: v1::GetCountersRequest) -> Result<v1::GetCountersRequest, Status> {
    let found = [("names", request.names.len()), ("parts", request.parts.len())];
    match found.iter().find(|(_, count)| *count > NAMES) {
        None => Ok(request),
        Some((field, count)) => Err(Status::invalid_argument(format!(
            "{field}: {count} are given, at most {NAMES} are taken; leave them out for all"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_beyond_the_limit_are_those_with_the_fewest_packets() {
        let rows = [3, 9, 0, 9, 5];
        assert_eq!(most(rows.into_iter(), 5, |row| *row), rows);
        assert_eq!(most(rows.into_iter(), 3, |row| *row), [9, 9, 5]);
        assert_eq!(most(rows.into_iter(), 1, |row| *row), [9]);
        assert!(most(rows.into_iter(), 0, |row| *row).is_empty());
    }
}
