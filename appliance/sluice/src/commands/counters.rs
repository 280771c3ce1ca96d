//! `sluice counters` and `drops`: what was counted since the daemon started.

use std::collections::HashSet;

use sluice_api::v1;
use sluice_api::v1::counter_service_client::CounterServiceClient;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::out::Out;
use crate::show;
use crate::table::{numbers, row};
use crate::text::safe;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only policies, destinations, ports, workers and taps of these names.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The most rows of each part, those with the most packets.
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DropArgs {
    /// By policy and destination, too.
    #[arg(long)]
    all: bool,
}

pub(crate) async fn fetch(
    context: &Context,
    parts: &[v1::CounterPart],
    names: Vec<String>,
    limit: u32,
) -> Result<v1::Counters, Failure> {
    let mut client = CounterServiceClient::new(context.connection.open().await?)
        .max_decoding_message_size(sluice_api::MAX_POLICY_SET_BYTES);
    let parts = parts.iter().map(|&part| part.into()).collect();
    Ok(client.get_counters(v1::GetCountersRequest { parts, names, limit }).await?.into_inner())
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    use v1::CounterPart::{Destinations, Policies, Ports, Taps, Workers};
    // The whole has no name.
    let parts: &[_] =
        if args.names.is_empty() { &[] } else { &[Ports, Workers, Policies, Destinations, Taps] };
    let counters = fetch(context, parts, args.names.clone(), args.limit).await?;
    // A row that the limit left out has a name all the same.
    let unknown = if args.limit > 0 { Vec::new() } else { unknown(&args.names, &counters) };
    if context.out.json {
        context.out.message("Counters", &counters)?;
    } else if unknown.len() < args.names.len() || args.names.is_empty() {
        context.out.line(&shown(&counters, context.out))?;
    }
    if unknown.is_empty() {
        return Ok(Exit::Ok);
    }
    let unknown = unknown.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let text = format!("no policy, destination, port, worker or tap has the name {unknown}");
    Err(Failure::new(Exit::NotFound, text)
        .help("without names, sluice counters shows all that have counters"))
}

/// The names that nothing has.
fn unknown<'a>(names: &'a [String], counters: &v1::Counters) -> Vec<&'a str> {
    let known: HashSet<&str> = (counters.ports.iter().map(|row| row.port.as_str()))
        .chain(counters.workers.iter().map(|row| row.worker.as_str()))
        .chain(counters.policies.iter().map(|row| row.policy.as_str()))
        .chain(counters.destinations.iter().map(|row| row.destination.as_str()))
        .chain(counters.taps.iter().map(|row| row.tap.as_str()))
        .collect();
    names.iter().map(String::as_str).filter(|name| !known.contains(name)).collect()
}

pub(crate) async fn drops(args: DropArgs, context: &Context) -> Result<Exit, Failure> {
    use v1::CounterPart::{Destinations, Policies, Totals};
    let parts: &[_] = if args.all { &[Totals, Policies, Destinations] } else { &[Totals] };
    let counters = fetch(context, parts, Vec::new(), 0).await?;
    if context.out.json {
        context.out.message("Counters", &counters)?;
        return Ok(Exit::Ok);
    }
    let totals = counters.totals.unwrap_or_default();
    let mut tables = vec![
        show::drops("dropped because of", &totals.drops).unwrap_or_else(|| "nothing was dropped".to_owned()),
    ];
    for policy in &counters.policies {
        tables.extend(show::drops(&format!("policy {}", safe(&policy.policy)), &policy.drops));
    }
    for destination in &counters.destinations {
        tables.extend(show::drops(
            &format!("destination {}", safe(&destination.destination)),
            &destination.drops,
        ));
    }
    if let Some(account) = &totals.account {
        tables.push(format!("lost before rx: {}", account.lost_before_rx));
        tables.push(show::account(account, context.out));
    }
    context.out.line(&tables.join("\n\n"))?;
    Ok(Exit::Ok)
}

pub(crate) fn shown(counters: &v1::Counters, out: Out) -> String {
    let mut tables = Vec::new();
    if let Some(totals) = &counters.totals {
        tables.extend(whole(totals));
    }
    let mut add = |table: comfy_table::Table| {
        if table.row_count() > 0 {
            tables.push(table.to_string());
        }
    };
    let mut ports = numbers(&["port", "received", "bytes", "sent", "sent bytes", "lost before rx"]);
    for c in &counters.ports {
        let counts = [c.rx_packets, c.rx_bytes, c.tx_packets, c.tx_bytes, c.lost_before_rx];
        ports.add_row(row(safe(&c.port), &counts));
    }
    add(ports);
    let mut workers = numbers(&["worker", "received", "bytes", "sent", "sent bytes", "dropped"]);
    for c in &counters.workers {
        let counts = [c.rx_packets, c.rx_bytes, c.tx_packets, c.tx_bytes, show::dropped(&c.drops)];
        workers.add_row(row(safe(&c.worker), &counts));
    }
    add(workers);
    let mut policies = numbers(&["policy", "matched", "bytes", "sent"]);
    for policy in &counters.policies {
        let counts = [policy.matched_packets, policy.matched_bytes, policy.sent_packets];
        policies.add_row(row(safe(&policy.policy), &counts));
    }
    add(policies);
    let mut destinations = numbers(&["destination", "copies", "bytes", "cut"]);
    for destination in &counters.destinations {
        let counts = [destination.packets, destination.bytes, destination.truncated];
        destinations.add_row(row(safe(&destination.destination), &counts));
    }
    add(destinations);
    let mut taps = numbers(&["tap", "packets", "bytes", "duplicates"]);
    for tap in &counters.taps {
        taps.add_row(row(safe(&tap.tap), &[tap.packets, tap.bytes, tap.duplicates]));
    }
    add(taps);
    let mut tunnels =
        numbers(&["numbered tunnel", "id", "received", "lost", "reordered", "duplicates", "restarts"]);
    for t in &counters.tunnels {
        let name = format!("{} from {}", safe(&t.kind), safe(&t.source));
        tunnels.add_row(row(name, &[t.id.into(), t.received, t.lost, t.reordered, t.duplicates, t.restarts]));
    }
    add(tunnels);
    if let Some(account) = counters.totals.as_ref().and_then(|totals| totals.account.as_ref()) {
        tables.push(show::account(account, out));
    }
    tables.join("\n\n")
}

/// The tables of the whole appliance.
fn whole(totals: &v1::TotalCounters) -> Vec<String> {
    let account = totals.account.unwrap_or_default();
    let mut table = numbers(&["", "packets", "bytes"]);
    table.add_row(row("received".to_owned(), &[account.rx_packets, totals.rx_bytes]));
    table.add_row(row("sent".to_owned(), &[account.tx_packets, totals.tx_bytes]));
    for (name, packets) in [
        ("replicas", account.replicas),
        ("held", account.held),
        ("lost before rx", account.lost_before_rx),
        ("cut to the MTU", totals.truncated),
        ("decapsulated", totals.decapsulated),
        ("VLAN tags stripped", totals.vlan_stripped),
        ("marks stripped", totals.marks_stripped),
        ("marks of no tap", totals.marks_unknown),
        ("control packets received", totals.ctrl_rx),
        ("control packets sent", totals.ctrl_tx),
        ("control packets lost", totals.ctrl_lost),
    ] {
        table.add_row(row(name.to_owned(), &[packets]));
    }
    if let Some(dedup) = &totals.dedup {
        table.add_row(row("duplicates".to_owned(), &[dedup.duplicates, dedup.duplicate_bytes]));
        table.add_row(row("forgotten within the window".to_owned(), &[dedup.evicted]));
    }
    let mut tables = vec![table.to_string()];
    tables.extend(show::drops("dropped because of", &totals.drops));
    tables.extend(show::drops("not decapsulated because of", &totals.not_decapsulated));
    if let Some(flow) = &totals.flow {
        let mut flows = numbers(&["flow metering", "count"]);
        for (name, count) in [
            ("flows", flow.flows),
            ("capacity", flow.capacity),
            ("created", flow.created),
            ("table full", flow.table_full),
            ("verdicts kept", flow.verdicts_kept),
            ("records", flow.records),
            ("records lost", flow.records_lost),
            ("metrics", flow.metrics),
            ("metrics lost", flow.metrics_lost),
        ] {
            flows.add_row(row(name.to_owned(), &[count]));
        }
        tables.push(flows.to_string());
    }
    tables
}
