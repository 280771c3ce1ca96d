//! `sluice status`, `ports`, `workers`: how the daemon is.

use sluice_api::v1;
use sluice_api::v1::status_service_client::StatusServiceClient;

use super::guests;
use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::out::{Out, Tone};
use crate::show;
use crate::table::{numbers, table};
use crate::text::{bytes, counted, list, or_dash, safe, span, time, word};

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let mut client = StatusServiceClient::new(context.connection.open().await?);
    let status = client.get_status(v1::GetStatusRequest {}).await?.into_inner();
    if context.out.json {
        context.out.message("Status", &status)?;
    } else {
        context.out.line(&shown(&status, context.out))?;
        if status.version != env!("CARGO_PKG_VERSION") {
            let (theirs, ours) = (safe(&status.version), env!("CARGO_PKG_VERSION"));
            context.out.note(&format!(
                "the daemon is {theirs}, this sluice is {ours}: they may differ in what they can"
            ));
        }
    }
    Ok(Exit::Ok)
}

/// The word for a state, in the colour of its meaning.
pub(crate) fn state(state: v1::State) -> (Tone, String) {
    let tone = match state {
        v1::State::Running => Tone::Good,
        v1::State::Exception => Tone::Bad,
        _ => Tone::Warn,
    };
    (tone, word(state.as_str_name(), "STATE_"))
}

pub(crate) fn shown(status: &v1::Status, out: Out) -> String {
    let (tone, word) = state(status.state());
    let limit = |limit: u64, text: String| if limit == 0 { String::new() } else { format!(" of {text}") };
    let commit =
        if status.commit.is_empty() { String::new() } else { format!(" ({})", safe(&status.commit)) };
    let mut lines = vec![
        format!(
            "state        {} for {}",
            out.paint(tone, &word),
            span(status.state_since_ns, status.time_ns)
        ),
        format!(
            "daemon       sluiced {}{commit} on {}, up {}",
            safe(&status.version),
            safe(&status.host),
            span(status.started_at_ns, status.time_ns)
        ),
        format!(
            "policies     generation {} since {}: {}, {}",
            status.generation,
            time(status.generation_applied_at_ns),
            counted(status.policies, "policy", "policies"),
            counted(status.destinations, "destination", "destinations")
        ),
        format!("ports        {} of {} up", status.ports_up, status.ports),
        format!("workers      {}", status.workers),
        format!(
            "memory       {}{}",
            bytes(status.memory_bytes),
            limit(status.memory_limit_bytes, bytes(status.memory_limit_bytes))
        ),
    ];
    // A daemon that does not tell says 0.
    if status.cpu_millicores > 0 || status.cpu_limit_millicores > 0 {
        let at = lines.len().saturating_sub(1);
        lines.insert(
            at,
            format!(
                "processor    {}.{:02} cores{}",
                status.cpu_millicores / 1000,
                status.cpu_millicores % 1000 / 10,
                limit(
                    status.cpu_limit_millicores,
                    format!(
                        "{}.{:02}",
                        status.cpu_limit_millicores / 1000,
                        status.cpu_limit_millicores % 1000 / 10
                    )
                )
            ),
        );
    }
    if let Some(account) = &status.account {
        lines.push(format!("lost         {} packets before rx", account.lost_before_rx));
        lines.push(format!("account      {}", show::account(account, out)));
    }
    if let Some(ovs) = &status.ovs {
        lines.push(format!("ovs          {}", guests::summary(ovs, status.time_ns)));
    }
    if !status.exceptions.is_empty() {
        let mut exceptions = table(&["exception", "of", "since", "what"]);
        for exception in &status.exceptions {
            exceptions.add_row([
                safe(&exception.code),
                or_dash(safe(&exception.subject)),
                time(exception.since_ns),
                safe(&exception.text),
            ]);
        }
        lines.push(format!("\n{exceptions}"));
    }
    lines.join("\n")
}

#[derive(Debug, clap::Args)]
pub(crate) struct PortArgs {
    /// What the devices count, too, by the names of their drivers.
    #[arg(long)]
    device: bool,
}

pub(crate) async fn ports(args: PortArgs, context: &Context) -> Result<Exit, Failure> {
    let mut client = StatusServiceClient::new(context.connection.open().await?);
    let response = client.list_ports(v1::ListPortsRequest {}).await?.into_inner();
    if context.out.json {
        context.out.message("ListPortsResponse", &response)?;
    } else {
        context.out.line(&shown_ports(&response, args.device))?;
    }
    Ok(Exit::Ok)
}

/// Ports, and what their devices counted where `device` is set.
pub(crate) fn shown_ports(response: &v1::ListPortsResponse, device: bool) -> String {
    let mut places = table(&["port", "device", "role", "link", "mtu", "addresses", "next hops"]);
    let mut counts =
        numbers(&["port", "received", "sent", "lost before rx", "tx errors", "cut", "super-frames"]);
    let mut breakers = numbers(&["breaker", "Mbit/s in the last interval", "opens at", "times opened"]);
    for port in &response.ports {
        let role = match (port.captures, port.sends) {
            (true, true) => "both",
            (true, false) => "capture",
            (false, true) => "output",
            (false, false) => "-",
        };
        let link = match (port.up, port.speed_mbps) {
            (false, _) => "down".to_owned(),
            (true, 0) => "up".to_owned(),
            (true, speed) => format!("up, {speed} Mbit/s"),
        };
        let hop = |hop: &v1::Neighbor| format!("{} {}", safe(&hop.address), safe(&hop.state));
        places.add_row([
            safe(&port.name),
            safe(&port.spec),
            role.to_owned(),
            link,
            or_dash(if port.mtu == 0 { String::new() } else { port.mtu.to_string() }),
            or_dash(list(&port.addresses, " ")),
            or_dash(port.neighbors.iter().map(hop).collect::<Vec<_>>().join(", ")),
        ]);
        let c = port.counters.clone().unwrap_or_default();
        let numbers =
            [c.rx_packets, c.tx_packets, c.lost_before_rx, c.tx_errors, c.rx_cut, c.rx_super_frames];
        counts.add_row(crate::table::row(safe(&port.name), &numbers));
        if let Some(breaker) = &port.breaker {
            let name = format!("{} ({})", safe(&port.name), if breaker.open { "open" } else { "closed" });
            let numbers = [breaker.rate_mbps, breaker.threshold_mbps, breaker.opened];
            breakers.add_row(crate::table::row(name, &numbers));
        }
    }
    let mut text = format!("{places}\n\n{counts}");
    if breakers.row_count() > 0 {
        text = format!("{text}\n\n{breakers}");
    }
    if device {
        let mut counted = numbers(&["device counter", "count"]);
        for port in &response.ports {
            let counters = port.counters.iter().flat_map(|counters| &counters.device);
            for (counter, value) in counters.filter(|(_, value)| **value > 0) {
                counted.add_row(crate::table::row(safe(&format!("{} {counter}", port.name)), &[*value]));
            }
        }
        text = format!("{text}\n\n{counted}");
    }
    text
}

pub(crate) async fn workers(context: &Context) -> Result<Exit, Failure> {
    let mut client = StatusServiceClient::new(context.connection.open().await?);
    let response = client.list_workers(v1::ListWorkersRequest {}).await?.into_inner();
    if context.out.json {
        context.out.message("ListWorkersResponse", &response)?;
    } else {
        context.out.line(&shown_workers(&response))?;
    }
    Ok(Exit::Ok)
}

pub(crate) fn shown_workers(response: &v1::ListWorkersResponse) -> String {
    let mut workers = numbers(&[
        "worker",
        "cpu",
        "generation",
        "received",
        "sent",
        "drops",
        "idle polls",
        "sleeps",
        "delay p50 ns",
        "delay p99 ns",
    ]);
    let mut stages = numbers(&["stage", "packets", "batches", "cycles/packet"]);
    for worker in &response.workers {
        let c = worker.counters.clone().unwrap_or_default();
        let delay = |value: fn(&v1::Histogram) -> u64| {
            c.delay_ns.as_ref().map_or_else(|| "-".to_owned(), |delay| value(delay).to_string())
        };
        let mut row = vec![safe(&worker.name), worker.lcore.to_string(), worker.generation.to_string()];
        row.extend(
            [c.rx_packets, c.tx_packets, show::dropped(&c.drops), c.idle_polls, c.sleeps]
                .map(|n| n.to_string()),
        );
        row.extend([delay(|delay| delay.p50), delay(|delay| delay.p99)]);
        workers.add_row(row);
        for stage in c.stages.iter().filter(|stage| stage.packets > 0) {
            let name = format!("{} {}", safe(&worker.name), safe(&stage.stage));
            let numbers = [stage.packets, stage.batches, stage.cycles / stage.packets];
            stages.add_row(crate::table::row(name, &numbers));
        }
    }
    let mut text = workers.to_string();
    if stages.row_count() > 0 {
        text = format!("{text}\n\n{stages}");
    }
    text
}
