//! `sluiced run`: the daemon in the foreground, until a signal ends it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sluice_agent::{
    ApiCounts, CgroupLeaf, Change, Code, Enforced, History, HistoryError, Life, LifeWatch, Origin, OvsWatch,
    Policies, Repair, ServeError, Server,
};
use sluice_engine::machine::Machine;
use sluice_engine::runtime::{CorePlan, Engine};
use sluice_engine::stage::flow::FlowTotals;
use sluice_export::parquet::{ParquetSettings, SinkStats};
use sluice_model::spec::{
    BootChange, Diagnostics, PolicySetSpec, Severity, check_against, load_boot, load_policy_spec,
};
use sluice_model::{
    BootConfig, CgroupMode, DedupMode, DestinationKind, DropReason, Generation, PolicySet, Polling,
    PortConfig, PortId,
};

use crate::log::{self, Log};
use crate::metrics::{self, Metrics};
use crate::notify::Notify;
use crate::paths::{self, Writing};
use crate::records::{Drain, RecordFiles, Written};
use crate::report::{self, DedupSummary, Summary};
use crate::say::{Out, complain, say};
use crate::signals::Signals;
use crate::threads;

/// How often the main thread looks at the signals.
const ROUND: Duration = Duration::from_millis(20);
/// How long the store may be in use by a daemon that ends.
const STORE_PATIENCE: Duration = Duration::from_secs(3);
/// How long the last requests may take after the API has stopped.
const LAST_REQUESTS: Duration = Duration::from_secs(15);
/// How long the database of Open vSwitch may take to tell what there is before traffic is copied without.
const FIRST_GUESTS: Duration = Duration::from_secs(2);

/// What a run begins with.
type First = (History, Generation, (PolicySetSpec, PolicySet));

pub(crate) fn run(config: &Path, json: bool) -> Result<ExitCode> {
    let Some(boot) = report::load(&load_boot(config)) else { return Ok(ExitCode::FAILURE) };
    let log = log::start(&boot.log, boot.log_level);
    let notify = Notify::from_env();
    // Before it is read: what is written after this is new.
    let mut policy_file = paths::writing(&boot.policy);
    let Some((history, generation, (spec, policies))) = first_policies(config, &boot)? else {
        return Ok(ExitCode::FAILURE);
    };

    let mut cgroup = enter_cgroup(&boot);
    let life = Arc::new(Life::new(boot.protection, boot.api.store.as_deref()));
    life.check(&boot, &policies);

    // Before the engine: DPDK binds the calling thread to a core, and what it starts inherits that.
    let signals = Signals::watch().context("cannot handle signals")?;
    let mut server = boot.api.enabled.then(|| start_api(&boot)).transpose()?;
    let drain = if boot.flow.enabled { Some(start_drain(config, &boot, &policies, &life)?) } else { None };
    let exports = drain.as_ref().and_then(Drain::parquet);
    let metrics = Metrics::start(&boot, exports.clone(), server.as_ref().map(Server::counts))?;
    let ovs = start_ovs(&boot)?;
    let guests = ovs.as_ref().map(|ovs| ovs.first(&policies, FIRST_GUESTS)).unwrap_or_default();
    let watch = LifeWatch::start(notify.rounds()).context("cannot start the thread of the state")?;
    let engine = Arc::new(Engine::start_behind(&boot, &policies.resolved(&guests), generation, life.gate())?);
    if let Some(drain) = &drain {
        drain.take_from(&engine);
    }
    if let Some(metrics) = &metrics {
        metrics.watch(&engine, &life, ovs.as_ref().map(OvsWatch::book));
    }
    signals.started();
    tracing::info!(
        policies = policies.policies().len(),
        destinations = policies.destinations().len(),
        ports = boot.ports.len(),
        "running; SIGINT or SIGTERM ends it, SIGHUP reads the boot config and the policies anew"
    );
    let check = {
        let (config, boot) = (config.to_owned(), boot.clone());
        Box::new(move |policies: &_| paths::clashes(Some(&config), Some(&boot), &boot.policy, policies))
    };
    let shared = Arc::clone(&engine);
    let policies = Policies::new(boot.clone(), shared, check, (spec, policies), history)?;
    let book = ovs.as_ref().map(|ovs| Arc::clone(ovs.book()));
    let policies = Arc::new(policies.with_life(Arc::clone(&life)).with_book(book));
    watch.begin(&policies);
    if let Some(ovs) = &ovs {
        ovs.begin(&policies);
    }
    if let Some(server) = &mut server {
        serve(server, &policies, &boot)?;
    }
    let mut boot = Arc::new(boot);
    let mut reported = Instant::now();
    tell_ready(&notify, &life);
    while !signals.stop() {
        std::thread::sleep(ROUND);
        metrics.iter().for_each(Metrics::beat);
        notify.beat();
        log.report();
        if let (Some(stats), Some(output)) = (&exports, &boot.flow.parquet) {
            watch_export(&life, stats, &output.folder);
        }
        if signals.take_reload() {
            notify.reloading();
            // A port may take its time.
            let beat = || {
                metrics.iter().for_each(Metrics::beat);
                notify.beat();
            };
            let gone = reload_boot(config, &policies, &log, &mut cgroup, &beat);
            reload(config, &policies, &mut policy_file);
            for port in gone {
                remove_port(&policies, port);
                beat();
            }
            boot = policies.boot();
            server.iter().for_each(reload_access);
            tell_ready(&notify, &life);
        }
        let interval = boot.stats_interval_s.map(|seconds| Duration::from_secs(seconds.into()));
        if interval.is_some_and(|interval| reported.elapsed() >= interval) {
            reported = Instant::now();
            log_statistics(&engine);
        }
    }
    tracing::info!("stopping: what was received goes out first");
    notify.stopping();
    metrics.iter().for_each(Metrics::stopping);
    watch.end();
    if let Some(ovs) = ovs {
        ovs.end();
    }
    let api = server.map(|server| {
        let counts = server.counts();
        server.stop();
        counts
    });
    let in_force = policies.current();
    drop(policies);
    let mut engine = alone(engine)?;
    engine.stop();
    let written = drain.map(|drain| drain.end(&engine)).unwrap_or_default();
    let mut out = Out::default();
    let summary = print_summary(&mut out, &engine, &boot, &in_force.policies, &written, api.as_deref(), json);
    let whole = written.complain();
    if let Some(metrics) = metrics {
        metrics.end();
    }
    out.end()?;
    Ok(if whole { summary } else { ExitCode::FAILURE })
}

/// The policies to begin with, their number, and what was before: the last ones of the store, else those of the file.
/// `None` when something is wrong with them, which was told.
fn first_policies(config: &Path, boot: &BootConfig) -> Result<Option<First>> {
    let mut history = History::default();
    if let Some(folder) = &boot.api.store {
        let (opened, repairs) = open_history(folder)?;
        for repair in repairs {
            if repair.is_loss() {
                tracing::error!(%repair, "the store of policies");
            } else {
                tracing::info!(%repair, "the store of policies");
            }
        }
        history = opened;
        if let Some(last) = history.last()? {
            let way_out = || {
                format!(
                    "these are the policies that were in force last (generation {generation} in {folder}): mend the boot \
                     config, or move {folder} away, then those of {file} are put in force",
                    generation = last.generation.0,
                    folder = folder.display(),
                    file = boot.policy.display(),
                )
            };
            let (spec, policies) = sluice_agent::parse(&last).with_context(way_out)?;
            let generation = last.generation;
            if !fits(config, boot, &policies) {
                if check_against(&policies, boot).iter().any(|finding| finding.severity == Severity::Error) {
                    complain!("error: {}", way_out());
                }
                return Ok(None);
            }
            tracing::info!(
                generation = generation.0,
                "policies from the store; SIGHUP puts those of the policy file in force when it was written anew"
            );
            return Ok(Some((history, generation, (spec, policies))));
        }
    }
    let Some(first) = load_policies(config, boot) else { return Ok(None) };
    let generation = history.reserve()?;
    Ok(Some((history, generation, first)))
}

/// Opens the store. A daemon that was killed holds it until the kernel has taken its memory back.
fn open_history(folder: &Path) -> Result<(History, Vec<Repair>), HistoryError> {
    let deadline = Instant::now() + STORE_PATIENCE;
    loop {
        let opened = History::open(folder);
        if !opened.as_ref().is_err_and(HistoryError::is_in_use) || Instant::now() >= deadline {
            return opened;
        }
        std::thread::sleep(ROUND);
    }
}

/// Serves the API. Where the boot config names no socket, the daemon runs without it if need be.
fn serve(server: &mut Server, policies: &Arc<Policies>, boot: &BootConfig) -> Result<()> {
    let (named, usual) = (boot.api.socket.as_deref(), Path::new(sluice_api::DEFAULT_SOCKET));
    match server.serve(Arc::clone(policies), named.unwrap_or(usual)) {
        Err(error @ (ServeError::Socket { .. } | ServeError::InUse(_))) if named.is_none() => {
            tracing::warn!(%error, "running without the socket of the API");
        }
        result => result?,
    }
    Ok(())
}

/// Follows the database of Open vSwitch, if the boot config names one, off the CPUs that move packets.
fn start_ovs(boot: &BootConfig) -> Result<Option<OvsWatch>> {
    let Some(settings) = &boot.ovs else { return Ok(None) };
    let cores = Arc::new(CorePlan::new(boot, &Machine::detect().limited(&boot.protection)));
    let watch = OvsWatch::start(settings, move || metrics::keep_off(&cores));
    watch.map(Some).context("cannot start the threads that follow Open vSwitch")
}

/// Reads what the API needs, and makes its threads, which keep off the CPUs that move packets.
fn start_api(boot: &BootConfig) -> Result<Server, ServeError> {
    let cores = CorePlan::new(boot, &Machine::detect().limited(&boot.protection));
    Server::new(&boot.api, move || metrics::keep_off(&cores))
}

/// Reads certificates and tokens of the API anew.
fn reload_access(server: &Server) {
    match server.reload() {
        Ok(()) => tracing::info!("certificates and tokens of the API are read anew"),
        Err(error) => tracing::error!(%error, "certificates and tokens of the API stay as they were"),
    }
}

/// The engine, when nobody else has it any more: the last requests end within seconds.
fn alone(mut engine: Arc<Engine>) -> Result<Engine> {
    let deadline = Instant::now() + LAST_REQUESTS;
    loop {
        engine = match Arc::try_unwrap(engine) {
            Ok(engine) => return Ok(engine),
            Err(shared) => shared,
        };
        anyhow::ensure!(
            Instant::now() < deadline,
            "a request to the API does not end: no account of the run"
        );
        std::thread::sleep(ROUND);
    }
}

/// The policies of the file, if nothing is wrong with them.
fn load_policies(config: &Path, boot: &BootConfig) -> Option<(PolicySetSpec, PolicySet)> {
    let (spec, policies) = report::load(&load_policy_spec(&boot.policy))?;
    fits(config, boot, &policies).then_some((spec, policies))
}

/// Whether policies fit the boot config and the machine; says what does not.
fn fits(config: &Path, boot: &BootConfig, policies: &PolicySet) -> bool {
    let findings = check_against(policies, boot);
    let errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    if !findings.is_empty() {
        complain!("{}", Diagnostics(findings));
    }
    let clashes = paths::clashes(Some(config), Some(boot), &boot.policy, policies);
    for clash in &clashes {
        complain!("error: {clash}");
    }
    !errors && clashes.is_empty()
}

/// Reads the boot config anew, puts in force what can be, and names what cannot; gives the ports that are to go, once
/// policies do without them.
fn reload_boot(
    config: &Path,
    policies: &Policies,
    log: &Log,
    cgroup: &mut Option<CgroupLeaf>,
    beat: &dyn Fn(),
) -> Vec<PortId> {
    let before = policies.boot();
    let Some(after) = report::load(&load_boot(config)) else {
        tracing::error!("the boot config has errors: what was read before stays in force");
        return Vec::new();
    };
    let change = BootChange::between(&before, &after);
    if !change.refused.is_empty() {
        tracing::warn!(
            refused = change.refused.join(", "),
            "the boot config has changes that need a restart; until then these stay as they are"
        );
    }
    if !change.taken.is_empty() {
        match policies.limit(change.config) {
            Ok(()) => {
                let now = policies.boot();
                log.set_level(now.log_level);
                if enforced(&before) != enforced(&now) {
                    // The one before goes first.
                    drop(cgroup.take());
                    *cgroup = enter_cgroup(&now);
                }
                let taken = change.taken.join(", ");
                tracing::info!(taken, "changes of the boot config are in force");
            }
            Err(error) => {
                tracing::error!(%error, "the limits of the boot config: those before stay in force");
            }
        }
    }
    for port in change.added {
        add_port(policies, port);
        beat();
    }
    change.removed
}

/// Adds a port that the boot config has now.
fn add_port(policies: &Policies, port: PortConfig) {
    let name = port.name.clone();
    match policies.add_port(port) {
        Ok(()) => tracing::info!(port = name, "the port is added"),
        Err(error) => tracing::error!(%error, port = name, "the port does not come"),
    }
}

/// Removes a port that the boot config has no more.
fn remove_port(policies: &Policies, port: PortId) {
    let name = policies.boot().ports.get(port.index()).map(|port| port.name.clone()).unwrap_or_default();
    match policies.remove_port(port) {
        Ok(()) => tracing::info!(port = name, "the port is removed"),
        Err(error) => tracing::error!(%error, port = name, "the port stays"),
    }
}

/// Puts the policies of the file in force, if it was written since `read`: what came by the API must not go because
/// somebody has the ports or certificates read anew.
fn reload(config: &Path, policies: &Policies, read: &mut Option<Writing>) {
    let boot = policies.boot();
    let Generation(before) = policies.current().generation;
    let writing = paths::writing(&boot.policy);
    if writing.is_some() && writing == *read {
        tracing::info!(
            generation = before,
            "the policy file was not written since it was read: what is in force stays"
        );
        return;
    }
    let Some((spec, set)) = load_policies(config, &boot) else {
        tracing::error!(generation = before, "the policy file has errors: the policies before stay in force");
        return;
    };
    let (by, comment, origin) = ("SIGHUP".to_owned(), String::new(), Origin::File);
    let outcome = policies.change(Change { spec, policies: set, by, comment, origin, expected: None });
    if outcome.is_ok() {
        *read = writing;
    }
    match outcome {
        Ok(outcome) if outcome.deployed.is_none() => {
            tracing::info!(generation = before, "the policy file says what is in force already");
        }
        // The agent has told it.
        Ok(_) => {}
        Err(error) => tracing::error!(generation = before, %error, "the policies before stay in force"),
    }
}

/// Opens the files of records, and starts the thread that writes them.
fn start_drain(config: &Path, boot: &BootConfig, policies: &PolicySet, life: &Arc<Life>) -> Result<Drain> {
    let mut others = vec![config.to_owned(), boot.policy.clone()];
    others.extend(policies.destinations().iter().filter_map(|destination| match &destination.kind {
        DestinationKind::Pcap { file } => Some(file.clone()),
        DestinationKind::Tunnel(_) | DestinationKind::Port { .. } | DestinationKind::Group(_) => None,
    }));
    let mut files =
        RecordFiles::append(boot.flow.jsonl.as_deref(), boot.flow.metrics_jsonl.as_deref(), &others)?;
    if let Some(output) = &boot.flow.parquet {
        files = files.with_parquet(ParquetSettings::of(output))?;
    }
    Drain::start(files, Arc::clone(life)).context("cannot start the thread that writes records")
}

/// Tells systemd that the daemon is there, and how.
fn tell_ready(notify: &Notify, life: &Life) {
    let report = life.report();
    notify.ready(report.state, report.exceptions.len());
}

/// Raises an exception while records cannot be written.
fn watch_export(life: &Life, stats: &SinkStats, folder: &Path) {
    let folder = folder.display().to_string();
    match stats.exception() {
        Some(error) => {
            let text =
                format!("{error}; records are lost until they can be written: make room, or mend the folder");
            life.raise(Code::ExportFailed, &folder, &text);
        }
        None => life.clear(Code::ExportFailed, &folder),
    }
}

/// Has the kernel hold the daemon to its limits, where the boot config has some and the machine lets it. Before the
/// memory is taken that counts.
fn enter_cgroup(boot: &BootConfig) -> Option<CgroupLeaf> {
    let leaf = CgroupLeaf::enter(Path::new("/"), std::process::id(), enforced(boot)?);
    for line in &leaf.told {
        tracing::info!("limit of {line}");
    }
    Some(leaf)
}

/// What the kernel is to hold the daemon to.
fn enforced(boot: &BootConfig) -> Option<Enforced> {
    let limits = &boot.protection;
    let threads = boot.worker.lcores.len().max(1) + boot.worker.distributor_lcores.len();
    let cores_milli = u32::try_from(threads).unwrap_or(u32::MAX).saturating_mul(1_000);
    // A core that polls without a pause takes all of its time: it would always be held back.
    let polls_on = |cpu: &u32| boot.worker.polling == Polling::Always && *cpu <= cores_milli;
    let enforced = Enforced {
        cpu_millicores: limits.cpu_millicores.filter(|cpu| !polls_on(cpu)),
        memory_bytes: limits.memory_mb.map(|limit| u64::from(limit) << 20),
    };
    (limits.cgroup != CgroupMode::Off && enforced != Enforced::default()).then_some(enforced)
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
    api: Option<&ApiCounts>,
    json: bool,
) -> ExitCode {
    let account = engine.account();
    let ports = engine.ports();
    let (tunnels, tunnels_full) = engine.tunnels();
    let summary = Summary {
        taps: &engine.taps(),
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
            ports: engine.port_names(),
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
        object["api"] = api.map_or(serde_json::Value::Null, report::api_json);
        say!(out, "{object}");
    } else {
        say!(out, "{}", summary.table());
        say!(out, "\n{}", report::ports(&ports));
        say!(out, "\n{}", threads::table(&engine.threads()));
        if let Some(api) = api.and_then(report::api) {
            say!(out, "\n{api}");
        }
        let aside = if kept > 0 { format!(" ({kept} more are kept by their driver)") } else { String::new() };
        say!(out, "\nmbufs not given back: {left}{aside}");
    }
    if account.balances() && left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
