//! `sluiced run`: the daemon in the foreground, until a signal ends it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sluice_engine::runtime::Engine;
use sluice_engine::stage::flow::FlowTotals;
use sluice_model::spec::{Diagnostics, Severity, check_against, load_boot, load_policy};
use sluice_model::{BootConfig, DedupMode, DestinationKind, DropReason, LogLevel, PolicySet};

use crate::paths;
use crate::records::{Drain, RecordFiles, Written};
use crate::report::{self, DedupSummary, Summary};
use crate::say::{Out, complain, say};
use crate::threads;

/// How often the main thread looks at the signals.
const ROUND: Duration = Duration::from_millis(20);
/// Signals so close to the first are no second one: `timeout` and shells signal a process and its group, which is the
/// same process again.
const SAME_GESTURE: Duration = Duration::from_millis(100);
/// Exit code of a run that a second signal ended at once: as a shell reports SIGINT.
const ENDED_AT_ONCE: i32 = 130;

pub(crate) fn run(config: &Path, json: bool) -> Result<ExitCode> {
    let Some(boot) = report::load(&load_boot(config)) else { return Ok(ExitCode::FAILURE) };
    start_log(boot.log_level);
    let Some(policies) = report::load(&load_policy(&boot.policy)) else { return Ok(ExitCode::FAILURE) };
    let findings = check_against(&policies, &boot);
    let errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    if !findings.is_empty() {
        complain!("{}", Diagnostics(findings));
    }
    let clashes = paths::clashes(Some(config), Some(&boot), &boot.policy, &policies);
    for clash in &clashes {
        complain!("error: {clash}");
    }
    if errors || !clashes.is_empty() {
        return Ok(ExitCode::FAILURE);
    }

    // Before the engine: DPDK binds the calling thread to a core, and what it starts inherits that.
    let signals = Arc::new(SignalState::default());
    watch_signals(Arc::clone(&signals)).context("cannot handle signals")?;
    let drain = if boot.flow.enabled { Some(start_drain(config, &boot, &policies)?) } else { None };
    let mut engine = Engine::start(&boot, &policies)?;
    if let Some(drain) = &drain {
        drain.take_from(engine.flows());
    }
    signals.started.store(true, Ordering::Relaxed);
    tracing::info!(
        policies = policies.policies().len(),
        destinations = policies.destinations().len(),
        ports = boot.ports.len(),
        "running; SIGINT or SIGTERM ends it"
    );
    let interval = boot.stats_interval_s.map(|seconds| Duration::from_secs(seconds.into()));
    let mut reported = Instant::now();
    while !signals.stop.load(Ordering::Relaxed) {
        std::thread::sleep(ROUND);
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

/// What the main thread and the thread that waits for signals tell each other.
#[derive(Debug, Default)]
struct SignalState {
    /// The engine runs: there is something to drain (main: w, signals: r).
    started: AtomicBool,
    /// The first signal came (signals: w, main: r).
    stop: AtomicBool,
}

/// The first signal asks for an orderly end, the second one ends the process; so does the first before the engine runs,
/// as some drivers wait for their peer while they start.
fn watch_signals(state: Arc<SignalState>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // A terminal that goes away ends the run in order, too, unless it was started not to mind.
    if !is_ignored(SIGHUP) {
        signals.handle().add_signal(SIGHUP)?;
    }
    let watch = move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            let same_gesture = first.is_some_and(|at| signal == SIGHUP || at.elapsed() < SAME_GESTURE);
            if same_gesture {
                continue;
            }
            if first.is_some() || !state.started.load(Ordering::Relaxed) {
                signal_hook::low_level::exit(ENDED_AT_ONCE);
            }
            first = Some(Instant::now());
            state.stop.store(true, Ordering::Relaxed);
        }
    };
    std::thread::Builder::new().name("sluice-signals".to_owned()).spawn(watch).map(drop)
}

/// Whether whoever started this process had a signal ignored, as `nohup` does.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
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
