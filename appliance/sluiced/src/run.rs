//! `sluiced run`: the daemon in the foreground, until a signal ends it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use sluice_engine::runtime::Engine;
use sluice_model::spec::{Diagnostics, Severity, check_against, load_boot, load_policy};
use sluice_model::{LogLevel, PolicySet};

use crate::report::{self, Summary};

/// How often the main thread looks at the signals.
const ROUND: Duration = Duration::from_millis(20);
/// Exit code of a run that a second signal ended at once: as a shell reports SIGINT.
const ENDED_AT_ONCE: i32 = 130;

pub(crate) fn run(config: &Path) -> Result<ExitCode> {
    let Some(boot) = report::load(&load_boot(config)) else { return Ok(ExitCode::FAILURE) };
    start_log(boot.log_level);
    let Some(policies) = report::load(&load_policy(&boot.policy)) else { return Ok(ExitCode::FAILURE) };
    let findings = check_against(&policies, &boot);
    let errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    if !findings.is_empty() {
        eprintln!("{}", Diagnostics(findings));
    }
    if errors {
        return Ok(ExitCode::FAILURE);
    }

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it, the second ends the process.
        signal_hook::flag::register_conditional_shutdown(signal, ENDED_AT_ONCE, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot handle signals")?;
    }
    let mut engine = Engine::start(&boot, &policies)?;
    tracing::info!(
        policies = policies.policies().len(),
        destinations = policies.destinations().len(),
        ports = boot.ports.len(),
        "running; SIGINT or SIGTERM ends it"
    );
    let interval = boot.stats_interval_s.map(|seconds| Duration::from_secs(seconds.into()));
    let mut reported = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(ROUND);
        if interval.is_some_and(|interval| reported.elapsed() >= interval) {
            reported = Instant::now();
            log_statistics(&engine);
        }
    }
    tracing::info!("stopping: what was received goes out first");
    engine.stop();
    Ok(print_summary(&engine, &policies))
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
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
}

fn log_statistics(engine: &Engine) {
    let account = engine.account();
    let ledger = &account.ledger;
    tracing::info!(
        rx_packets = ledger.rx_packets,
        tx_packets = ledger.tx_packets,
        replicas = ledger.replicas,
        drops = ledger.drops.total(),
        held = account.held,
        lost_before_rx = account.lost_before_rx,
        balanced = account.balances(),
        "account"
    );
}

/// The account at the end; fails when it does not balance or an mbuf is missing.
fn print_summary(engine: &Engine, policies: &PolicySet) -> ExitCode {
    let account = engine.account();
    let summary = Summary {
        policies,
        account: &account,
        policy_totals: &engine.policy_totals(),
        destination_totals: &engine.destination_totals(),
    };
    println!("{}", summary.table());
    println!("\n{}", report::ports(&engine.ports()));
    let left = engine.mbufs_in_use();
    println!("\nmbufs not given back: {left}");
    if account.balances() && left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
