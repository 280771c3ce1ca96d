//! `sluiced run`: the daemon in the foreground, until a signal ends it.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sluice_engine::runtime::Engine;
use sluice_engine::stage::flow::FlowTotals;
use sluice_model::spec::{Diagnostics, Severity, check_against, load_boot, load_policy};
use sluice_model::{BootConfig, DedupMode, DestinationKind, DropReason, Generation, LogLevel, PolicySet};

use crate::paths;
use crate::records::{Drain, RecordFiles, Written};
use crate::report::{self, DedupSummary, Summary};
use crate::say::{Out, complain, say};
use crate::signals::Signals;
use crate::threads;

/// How often the main thread looks at the signals.
const ROUND: Duration = Duration::from_millis(20);

pub(crate) fn run(config: &Path, json: bool) -> Result<ExitCode> {
    let Some(boot) = report::load(&load_boot(config)) else { return Ok(ExitCode::FAILURE) };
    start_log(boot.log_level);
    let Some(mut policies) = load_policies(config, &boot) else { return Ok(ExitCode::FAILURE) };

    // Before the engine: DPDK binds the calling thread to a core, and what it starts inherits that.
    let signals = Signals::watch().context("cannot handle signals")?;
    let drain = if boot.flow.enabled { Some(start_drain(config, &boot, &policies)?) } else { None };
    let mut engine = Engine::start(&boot, &policies, Generation(1))?;
    if let Some(drain) = &drain {
        drain.take_from(engine.flows());
    }
    signals.started();
    tracing::info!(
        policies = policies.policies().len(),
        destinations = policies.destinations().len(),
        ports = boot.ports.len(),
        "running; SIGINT or SIGTERM ends it, SIGHUP reads the policies anew"
    );
    let interval = boot.stats_interval_s.map(|seconds| Duration::from_secs(seconds.into()));
    let mut reported = Instant::now();
    while !signals.stop() {
        std::thread::sleep(ROUND);
        if signals.take_reload()
            && let Some(next) = reload(config, &boot, &engine)
        {
            policies = next;
        }
        if interval.is_some_and(|interval| reported.elapsed() >= interval) {
            reported = Instant::now();
            log_statistics(&engine);
        }
    }
    tracing::info!("stopping: what was received goes out first");
    engine.stop();
    let written = drain.map(Drain::end).unwrap_or_default();
    let mut out = Out::default();
    let summary = print_summary(&mut out, &engine, &boot, &policies, &written, json);
    let whole = written.complain();
    out.end()?;
    Ok(if whole { summary } else { ExitCode::FAILURE })
}

/// The policies, if nothing is wrong with them.
fn load_policies(config: &Path, boot: &BootConfig) -> Option<PolicySet> {
    let policies = report::load(&load_policy(&boot.policy))?;
    let findings = check_against(&policies, boot);
    let errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    if !findings.is_empty() {
        complain!("{}", Diagnostics(findings));
    }
    let clashes = paths::clashes(Some(config), Some(boot), &boot.policy, &policies);
    for clash in &clashes {
        complain!("error: {clash}");
    }
    (!errors && clashes.is_empty()).then_some(policies)
}

/// Puts the policies of the file as it is now in force; gives them if they are.
fn reload(config: &Path, boot: &BootConfig, engine: &Engine) -> Option<PolicySet> {
    let Generation(before) = engine.generation();
    let Some(policies) = load_policies(config, boot) else {
        tracing::error!(generation = before, "the policy file has errors: the policies before stay in force");
        return None;
    };
    match engine.deploy(&policies, Generation(before + 1)) {
        Ok(deployed) => {
            for next_hop in &deployed.unresolved {
                tracing::warn!(%next_hop, "next hop unresolved: copies through it are dropped");
            }
            tracing::info!(
                generation = deployed.generation.0,
                policies = policies.policies().len(),
                destinations = policies.destinations().len(),
                elapsed_us = u64::try_from(deployed.elapsed.as_micros()).unwrap_or(u64::MAX),
                "policies in force"
            );
            Some(policies)
        }
        Err(error) => {
            tracing::error!(generation = before, %error, "the policies before stay in force");
            None
        }
    }
}

/// Opens the files of records, and starts the thread that writes them.
fn start_drain(config: &Path, boot: &BootConfig, policies: &PolicySet) -> Result<Drain> {
    let mut others = vec![config.to_owned(), boot.policy.clone()];
    others.extend(policies.destinations().iter().filter_map(|destination| match &destination.kind {
        DestinationKind::Pcap { file } => Some(file.clone()),
        DestinationKind::Tunnel(_) | DestinationKind::Port { .. } | DestinationKind::Group(_) => None,
    }));
    let files = RecordFiles::append(boot.flow.jsonl.as_deref(), boot.flow.metrics_jsonl.as_deref(), &others)?;
    Drain::start(files).context("cannot start the thread that writes records")
}

/// Logs go to stderr; `RUST_LOG` overrides the boot config's level.
fn start_log(level: LogLevel) {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    // What cannot be logged cannot be told on stderr either, and trying to would be a panic.
    log.log_internal_errors(false).init();
}

fn log_statistics(engine: &Engine) {
    let account = engine.account();
    let ledger = &account.ledger;
    let (clock_steps, clock_error_ns) = engine.clock_quality();
    tracing::info!(
        rx_packets = ledger.rx_packets,
        tx_packets = ledger.tx_packets,
        replicas = ledger.replicas,
        duplicates = ledger.duplicates,
        dedup_evicted = ledger.dedup_evicted,
        drops = ledger.drops.total(),
        held = account.held,
        lost_before_rx = account.lost_before_rx,
        balanced = account.balances(),
        rate_limited = ledger.drops.get(DropReason::RateLimit),
        breakers_open = engine.ports().iter().filter(|port| port.breaker.is_some_and(|b| b.open)).count(),
        members_away = engine.away().iter().map(Vec::len).sum::<usize>(),
        clock_steps,
        clock_error_ns,
        "account"
    );
    for thread in engine.threads() {
        let latency = thread.latency.unwrap_or_default();
        tracing::info!(
            rx_packets = thread.ledger.rx_packets,
            drops = thread.ledger.drops.total(),
            sleeps = thread.sleeps,
            delay_p50_ns = latency.delay_ns.p50,
            delay_p99_ns = latency.delay_ns.p99,
            delay_max_ns = latency.delay_ns.max,
            batch_p50 = latency.batch_pkts.p50,
            "{}",
            thread.name
        );
    }
}

/// The account at the end; fails when it does not balance or an mbuf is missing.
fn print_summary(
    out: &mut Out,
    engine: &Engine,
    boot: &BootConfig,
    policies: &PolicySet,
    written: &Written,
    json: bool,
) -> ExitCode {
    let account = engine.account();
    let ports = engine.ports();
    let (tunnels, tunnels_full) = engine.tunnels();
    let summary = Summary {
        tunnels: &tunnels,
        tunnels_full,
        policies,
        account: &account,
        policy_totals: &engine.policy_totals(),
        destination_totals: &engine.destination_totals(),
        away: &engine.away(),
        breakers: ports.iter().filter_map(|port| Some((&*port.name, port.breaker?))).collect(),
        dedup: (boot.dedup.mode != DedupMode::Off).then(|| DedupSummary {
            mode: boot.dedup.mode,
            ports: boot.ports.iter().map(|port| port.name.clone()).collect(),
            pairs: engine.dedup_pairs(),
        }),
        flow: boot.flow.enabled.then(|| FlowTotals::new(engine.flows().iter().map(|flow| &*flow.stats))),
        written,
    };
    let kept = engine.mbufs_kept();
    let left = engine.mbufs_in_use().saturating_sub(kept);
    if json {
        let mut object = summary.json();
        object["threads"] = threads::json(&engine.threads());
        object["mbufs_lost"] = left.into();
        say!(out, "{object}");
    } else {
        say!(out, "{}", summary.table());
        say!(out, "\n{}", report::ports(&ports));
        say!(out, "\n{}", threads::table(&engine.threads()));
        let aside = if kept > 0 { format!(" ({kept} more are kept by their driver)") } else { String::new() };
        say!(out, "\nmbufs not given back: {left}{aside}");
    }
    if account.balances() && left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
