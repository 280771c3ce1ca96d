//! What a run did, as a table for people and as JSON for scripts.

use comfy_table::LineStyle;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};
use sluice_agent::ApiCounts;
use sluice_engine::counters::{DestinationTotals, PolicyTotals};
use sluice_engine::ledger::{Account, Ledger};
use sluice_engine::output::BreakerReport;
use sluice_engine::port_pairs::PairTotals;
use sluice_engine::runtime::PortReport;
use sluice_engine::stage::flow::FlowTotals;
use sluice_engine::tap_rows::TapTotals;
use sluice_engine::tunnels::TunnelTotals;
use sluice_model::spec::{Diagnostics, Loaded};
use sluice_model::{DedupMode, Destination, DestinationId, DropCounts, PolicySet, PortId};

use crate::parquet_report;
use crate::records::Written;
use crate::say::complain;

/// Numbered tunnels in the table: the busiest ones. Anybody can make up more.
const SHOWN_TUNNELS: usize = 32;

/// Prints the diagnostics of a file to stderr; gives its value if it has no errors.
pub(crate) fn load<T: Clone>(result: &Result<Loaded<T>, Diagnostics>) -> Option<T> {
    match result {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain!("{warning}");
            }
            Some(loaded.value.clone())
        }
        Err(diagnostics) => {
            complain!("{diagnostics}");
            None
        }
    }
}

/// What is reported at the end of a run.
pub(crate) struct Summary<'a> {
    pub(crate) policies: &'a PolicySet,
    pub(crate) account: &'a Account,
    pub(crate) taps: &'a [TapTotals],
    pub(crate) tunnels: &'a [TunnelTotals],
    pub(crate) tunnels_full: u64,
    pub(crate) policy_totals: &'a [PolicyTotals],
    pub(crate) destination_totals: &'a [DestinationTotals],
    /// The members that are away at the moment, by destination number of their group.
    pub(crate) away: &'a [Vec<DestinationId>],
    /// The breakers, by the name of their port.
    pub(crate) breakers: Vec<(&'a str, BreakerReport)>,
    /// `None` = duplicates were not looked for.
    pub(crate) dedup: Option<DedupSummary>,
    /// `None` = flows were not metered.
    pub(crate) flow: Option<FlowTotals>,
    /// What became of the records of flows and metrics.
    pub(crate) written: &'a Written,
}

/// Which duplicates there were.
pub(crate) struct DedupSummary {
    pub(crate) mode: DedupMode,
    /// The names of the ports, by number.
    pub(crate) ports: Vec<String>,
    pub(crate) pairs: Vec<PairTotals>,
}

impl DedupSummary {
    fn json(&self, ledger: &Ledger) -> Value {
        let pairs = self.pairs.iter().map(|pair| {
            json!({
                "first": self.port(pair.first),
                "second": self.port(pair.second),
                "packets": pair.packets,
                "bytes": pair.bytes,
            })
        });
        json!({
            "mode": self.mode.name(),
            "duplicates": ledger.duplicates,
            "duplicate_bytes": ledger.duplicate_bytes,
            "evicted": ledger.dedup_evicted,
            "pairs": pairs.collect::<Vec<_>>(),
        })
    }

    fn table(&self) -> String {
        let mut pairs = table(&["first copy from", "duplicate from", "packets", "bytes"]);
        for pair in &self.pairs {
            let mut cells = vec![self.port(pair.first).to_owned(), self.port(pair.second).to_owned()];
            cells.extend([pair.packets.to_string(), pair.bytes.to_string()]);
            pairs.add_row(cells);
        }
        pairs.to_string()
    }

    /// The ports without counters of their own have this name together; no port can have it.
    fn port(&self, port: Option<PortId>) -> &str {
        port.and_then(|port| self.ports.get(usize::from(port.0))).map_or("(others)", String::as_str)
    }
}

impl Summary<'_> {
    /// One object; the names are fixed, scripts read them.
    pub(crate) fn json(&self) -> Value {
        let ledger = &self.account.ledger;
        let policies = self.policies.policies().iter().zip(self.policy_totals).map(|(policy, totals)| {
            json!({
                "name": policy.name,
                "matched_packets": totals.matched_packets,
                "matched_bytes": totals.matched_bytes,
                "sent_packets": totals.sent_packets,
                "drops": drops_json(&totals.drops),
            })
        });
        let destinations = self.destinations(false).map(|(destination, totals)| {
            json!({
                "name": destination.name,
                "packets": totals.packets,
                "bytes": totals.bytes,
                "truncated": totals.truncated,
                "drops": drops_json(&totals.drops),
            })
        });
        let dedup = self.dedup.as_ref().map(|dedup| dedup.json(ledger));
        json!({
            "rx_packets": ledger.rx_packets,
            "rx_bytes": ledger.rx_bytes,
            "tx_packets": ledger.tx_packets,
            "tx_bytes": ledger.tx_bytes,
            "replicas": ledger.replicas,
            "held": self.account.held,
            "drops": drops_json(&ledger.drops),
            "lost_before_rx": self.account.lost_before_rx,
            "truncated": ledger.truncated,
            "fragments_unmatched": ledger.fragments_unmatched,
            "decapsulated": ledger.decapsulated,
            "vlan_stripped": ledger.vlan_stripped,
            "marks_stripped": ledger.marks_stripped,
            "marks_unknown": ledger.marks_unknown,
            "taps": self.taps.iter().map(tap_json).collect::<Vec<_>>(),
            "not_decapsulated": obstacles_json(ledger),
            "tunnels": self.tunnels.iter().map(tunnel_json).collect::<Vec<_>>(),
            "tunnels_full": self.tunnels_full,
            "ctrl_rx": ledger.ctrl_rx,
            "ctrl_tx": ledger.ctrl_tx,
            "dedup": dedup,
            "flow": self.flow_counts().map(|counts| {
                counts.iter().map(|&(name, count)| (name.to_owned(), count.into())).collect::<Map<_, _>>()
            }),
            "parquet": self.written.parquet.as_ref().map(parquet_report::json),
            "policies": policies.collect::<Vec<_>>(),
            "destinations": destinations.collect::<Vec<_>>(),
            "groups": self.groups_json(),
            "breakers": self.breakers.iter().map(breaker_json).collect::<Vec<_>>(),
        })
    }

    /// Tables for a terminal.
    pub(crate) fn table(&self) -> String {
        let ledger = &self.account.ledger;
        let mut totals = numbers(&["", "packets", "bytes"]);
        totals.add_row(row("received", &[ledger.rx_packets, ledger.rx_bytes]));
        totals.add_row(row("sent", &[ledger.tx_packets, ledger.tx_bytes]));
        for (name, packets) in [
            ("replicas", ledger.replicas),
            ("held", self.account.held),
            ("lost before rx", self.account.lost_before_rx),
            ("cut to the MTU", ledger.truncated),
        ] {
            totals.add_row(row(name, &[packets]));
        }
        if self.dedup.is_some() {
            totals.add_row(row("duplicates", &[ledger.duplicates, ledger.duplicate_bytes]));
            totals.add_row(row("forgotten within the window", &[ledger.dedup_evicted]));
        }
        for (name, packets) in [
            ("decapsulated", ledger.decapsulated),
            ("VLAN tags stripped", ledger.vlan_stripped),
            ("marks stripped", ledger.marks_stripped),
            ("marks of no tap", ledger.marks_unknown),
        ] {
            if packets > 0 {
                totals.add_row(row(name, &[packets]));
            }
        }
        let mut taps = numbers(&["tap", "packets", "bytes", "duplicates"]);
        for tap in self.taps {
            taps.add_row(row(&tap.name, &[tap.packets, tap.bytes, tap.duplicates]));
        }
        let mut obstacles = numbers(&["not decapsulated because of", "packets"]);
        for (obstacle, packets) in ledger.decap_obstacles.iter().filter(|&(_, packets)| packets > 0) {
            obstacles.add_row(row(obstacle.name(), &[packets]));
        }
        let mut tunnels =
            numbers(&["numbered tunnel", "id", "received", "lost", "reordered", "duplicates", "restarts"]);
        let mut busiest: Vec<_> = self.tunnels.iter().collect();
        if busiest.len() > SHOWN_TUNNELS {
            busiest.sort_by_key(|tunnel| std::cmp::Reverse(tunnel.received));
            busiest.truncate(SHOWN_TUNNELS);
        }
        for tunnel in busiest {
            let name = format!("{} from {}", tunnel.kind.name(), tunnel.source);
            let counts = [
                tunnel.id.into(),
                tunnel.received,
                tunnel.lost,
                tunnel.reordered,
                tunnel.duplicates,
                tunnel.restarts,
            ];
            tunnels.add_row(row(&name, &counts));
        }
        let mut drops = numbers(&["dropped because of", "packets"]);
        for (reason, packets) in ledger.drops.iter().filter(|&(_, packets)| packets > 0) {
            drops.add_row(row(reason.name(), &[packets]));
        }
        let mut policies = numbers(&["policy", "matched", "bytes", "sent"]);
        for (policy, totals) in self.policies.policies().iter().zip(self.policy_totals) {
            policies.add_row(row(
                &policy.name,
                &[totals.matched_packets, totals.matched_bytes, totals.sent_packets],
            ));
        }
        let mut destinations = numbers(&["destination", "copies", "bytes", "cut"]);
        for (destination, totals) in self.destinations(false) {
            destinations.add_row(row(&destination.name, &[totals.packets, totals.bytes, totals.truncated]));
        }
        let mut groups = numbers(&["group", "copies", "bytes", "cut"]);
        for (group, totals) in self.destinations(true) {
            groups.add_row(row(&group.name, &[totals.packets, totals.bytes, totals.truncated]));
        }
        let mut breakers = numbers(&["breaker", "Mbit/s in the last interval", "times opened"]);
        for (port, breaker) in &self.breakers {
            let name = format!("{port} ({})", if breaker.open { "open" } else { "closed" });
            breakers.add_row(row(&name, &[breaker.rate_bps / 1_000_000, breaker.opened]));
        }
        let verdict = if self.account.balances() { "balanced" } else { "NOT BALANCED: please report this" };
        let identity = format!(
            "rx {} + replicas {} = tx {} + drops {} + held {}: {verdict}",
            ledger.rx_packets,
            ledger.replicas,
            ledger.tx_packets,
            ledger.drops.total(),
            self.account.held
        );
        let mut parts = vec![totals.to_string()];
        if !self.taps.is_empty() {
            parts.push(taps.to_string());
        }
        if ledger.decap_obstacles.total() > 0 {
            parts.push(obstacles.to_string());
        }
        if !self.tunnels.is_empty() {
            parts.push(tunnels.to_string());
        }
        if self.tunnels.len() > SHOWN_TUNNELS || self.tunnels_full > 0 {
            parts.push(format!(
                "these and {} more tunnels (--json has all); {} packets of further ones had no room to be counted",
                self.tunnels.len().saturating_sub(SHOWN_TUNNELS),
                self.tunnels_full
            ));
        }
        if ledger.drops.total() > 0 {
            parts.push(drops.to_string());
        }
        if let Some(counts) = self.flow_counts() {
            let mut flows = numbers(&["flow metering", "count"]);
            for (name, count) in counts {
                flows.add_row(row(&name.replace('_', " "), &[count]));
            }
            parts.push(flows.to_string());
        }
        if let Some(parquet) = &self.written.parquet {
            parts.push(parquet_report::table(parquet));
        }
        if let Some(dedup) = self.dedup.as_ref().filter(|dedup| !dedup.pairs.is_empty()) {
            parts.push(dedup.table());
        }
        parts.extend([policies.to_string(), destinations.to_string()]);
        if self.destinations(true).next().is_some() {
            parts.push(groups.to_string());
        }
        if !self.breakers.is_empty() {
            parts.push(breakers.to_string());
        }
        parts.push(identity);
        parts.join("\n\n")
    }
}

impl Summary<'_> {
    /// What flow metering did, and what became of its records.
    fn flow_counts(&self) -> Option<Vec<(&'static str, u64)>> {
        let mut counts = self.flow?.named().to_vec();
        counts.push(("records_unwritten", self.written.records_lost));
        counts.push(("metrics_unwritten", self.written.metrics_lost));
        Some(counts)
    }

    /// The destinations that are groups, or those that are not, with their totals.
    fn destinations(&self, groups: bool) -> impl Iterator<Item = (&Destination, &DestinationTotals)> {
        let all = self.policies.destinations().iter().zip(self.destination_totals);
        all.filter(move |(destination, _)| destination.group().is_some() == groups)
    }

    fn groups_json(&self) -> Vec<Value> {
        let all = self.policies.destinations();
        let name = |id: &DestinationId| all.get(id.index()).map_or("", |destination| &*destination.name);
        let rows = all.iter().zip(self.destination_totals).enumerate();
        let group = |(number, (destination, totals)): (usize, (&Destination, &DestinationTotals))| {
            let members = destination.group()?.members.iter().map(|member| name(&member.destination));
            let away = self.away.get(number).map_or(&[][..], |away| away.as_slice());
            Some(json!({
                "name": destination.name,
                "members": members.collect::<Vec<_>>(),
                "away": away.iter().map(name).collect::<Vec<_>>(),
                "packets": totals.packets,
                "bytes": totals.bytes,
                "truncated": totals.truncated,
                "drops": drops_json(&totals.drops),
            }))
        };
        rows.filter_map(group).collect()
    }
}

fn breaker_json((port, breaker): &(&str, BreakerReport)) -> Value {
    json!({
        "port": port,
        "open": breaker.open,
        "opened": breaker.opened,
        "rate_mbps": breaker.rate_bps / 1_000_000,
    })
}

fn obstacles_json(ledger: &Ledger) -> Value {
    let seen = ledger.decap_obstacles.iter().filter(|&(_, packets)| packets > 0);
    seen.map(|(obstacle, packets)| (obstacle.name(), packets)).collect()
}

fn tap_json(tap: &TapTotals) -> Value {
    json!({
        "name": tap.name,
        "packets": tap.packets,
        "bytes": tap.bytes,
        "duplicates": tap.duplicates,
    })
}

fn tunnel_json(tunnel: &TunnelTotals) -> Value {
    json!({
        "source": tunnel.source.to_string(),
        "kind": tunnel.kind.name(),
        "id": tunnel.id,
        "received": tunnel.received,
        "lost": tunnel.lost,
        "reordered": tunnel.reordered,
        "duplicates": tunnel.duplicates,
        "restarts": tunnel.restarts,
    })
}

pub(crate) fn drops_json(drops: &DropCounts) -> Value {
    drops
        .iter()
        .filter(|&(_, packets)| packets > 0)
        .map(|(reason, packets)| (reason.name(), packets))
        .collect()
}

/// What the API took and refused.
pub(crate) fn api_json(counts: &ApiCounts) -> Value {
    let refused = counts.refused().filter(|&(_, count)| count > 0);
    let connections = counts.connections().map(|(transport, _, all)| (transport, all));
    json!({
        "connections": connections.map(|(name, count)| (name.to_owned(), count.into())).collect::<Map<_, _>>(),
        "requests": counts.requests().map(|(name, count)| (name.to_owned(), count.into())).collect::<Map<_, _>>(),
        "refused": refused.map(|(name, count)| (name.to_owned(), count.into())).collect::<Map<_, _>>(),
    })
}

/// What the API refused, if it did.
pub(crate) fn api(counts: &ApiCounts) -> Option<String> {
    let mut table = numbers(&["the API refused because of", "times"]);
    for (reason, count) in counts.refused().filter(|&(_, count)| count > 0) {
        table.add_row(row(reason, &[count]));
    }
    table.row_iter().next().is_some().then(|| table.to_string())
}

/// The ports of a running engine.
pub(crate) fn ports(reports: &[PortReport]) -> String {
    let mut ports = numbers(&[
        "port",
        "received",
        "sent",
        "lost before rx",
        "tx errors",
        "cut",
        "super-frames",
        "checksums completed",
    ]);
    for port in reports {
        let link = match (port.removed, port.up) {
            (true, _) => "removed",
            (false, true) => "up",
            (false, false) => "down",
        };
        let name = format!("{} ({link})", port.name);
        let counts = [
            port.rx_packets,
            port.tx_packets,
            port.lost_before_rx,
            port.tx_errors,
            port.rx_cut,
            port.rx_super_frames,
            port.checksums_finished,
        ];
        ports.add_row(row(&name, &counts));
    }
    ports.to_string()
}

/// An empty table.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none())).set_header(header);
    table
}

/// An empty table whose columns but the first are numbers.
pub(crate) fn numbers(header: &[&str]) -> Table {
    let mut table = table(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

pub(crate) fn row(name: &str, numbers: &[u64]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(numbers.iter().map(u64::to_string)).collect()
}
