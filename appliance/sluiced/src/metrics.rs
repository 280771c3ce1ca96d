//! What the engine counts, handed to the server of metrics at each scrape.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use sluice_agent::{ApiCounts, Code, GuestBook, Life, State};
use sluice_engine::machine::Machine;
use sluice_engine::runtime::{CorePlan, Engine};
use sluice_export::parquet::SinkStats;
use sluice_export::prometheus::{ApiView, Health, LifeView, MetricsServer, OvsView, Snapshot, Source};
use sluice_model::BootConfig;

use crate::engine_view::view;

/// How long the main thread may be silent: longer than any policies take to be put in force.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the server of metrics sees of the daemon.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Weak: at the end it is the main thread's alone.
    engine: OnceLock<Weak<Engine>>,
    life: OnceLock<Arc<Life>>,
    /// Empty where nothing is learned from Open vSwitch.
    book: OnceLock<Arc<GuestBook>>,
    parquet: Option<Arc<SinkStats>>,
    api: Option<Arc<ApiCounts>>,
    /// When the main thread was last seen.
    seen: Mutex<Instant>,
    stopping: AtomicBool,
}

/// The server, and what it sees.
#[derive(Debug)]
pub(crate) struct Metrics {
    server: MetricsServer,
    watched: Arc<Watched>,
}

impl Metrics {
    /// Starts the server, if the boot config wants one. Before the engine, so that the thread is bound to no core, and
    /// readiness can be asked for from the beginning.
    pub(crate) fn start(
        boot: &BootConfig,
        parquet: Option<Arc<SinkStats>>,
        api: Option<Arc<ApiCounts>>,
    ) -> Result<Option<Self>> {
        let Some(settings) = boot.metrics else { return Ok(None) };
        let watched = Arc::new(Watched {
            engine: OnceLock::new(),
            life: OnceLock::new(),
            book: OnceLock::new(),
            parquet,
            api,
            seen: Mutex::new(Instant::now()),
            stopping: AtomicBool::new(false),
        });
        let cores = CorePlan::new(boot, &Machine::detect().limited(&boot.protection));
        let source: Arc<dyn Source> = watched.clone();
        let server = MetricsServer::start(settings.listen, source, move || keep_off(&cores))?;
        tracing::info!(address = %server.address(), "metrics are served at /metrics");
        Ok(Some(Self { server, watched }))
    }

    /// From now on there is an engine.
    pub(crate) fn watch(&self, engine: &Arc<Engine>, life: &Arc<Life>, book: Option<&Arc<GuestBook>>) {
        drop(self.watched.life.set(Arc::clone(life)));
        if let Some(book) = book {
            drop(self.watched.book.set(Arc::clone(book)));
        }
        // There is only one.
        drop(self.watched.engine.set(Arc::downgrade(engine)));
    }

    /// The main thread is alive.
    pub(crate) fn beat(&self) {
        *self.watched.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The daemon ends: it is not ready any more.
    pub(crate) fn stopping(&self) {
        self.watched.stopping.store(true, Ordering::Relaxed);
    }

    /// Ends the server.
    pub(crate) fn end(self) {
        if !self.server.end() {
            tracing::error!("the thread that serves metrics had ended by a panic");
        }
    }
}

impl Source for Watched {
    fn snapshot(&self) -> Snapshot {
        // Once it stops, there is nobody to ask.
        let engine = self.engine.get().and_then(Weak::upgrade);
        let engine = engine.map(|engine| view(&engine));
        let parquet = self.parquet.as_ref().map(|stats| stats.report());
        let life = self.life.get().map(|life| life_view(life));
        let api = self.api.as_ref().map(|counts| ApiView {
            connections: counts.connections().collect(),
            requests: counts.requests().collect(),
            refused: counts.refused().collect(),
        });
        let ovs = self.book.get().map(|book| ovs_view(book));
        Snapshot { version: env!("CARGO_PKG_VERSION"), engine, parquet, life, api, ovs }
    }

    fn health(&self) -> Health {
        if self.stopping.load(Ordering::Relaxed) {
            Health::Stopping
        } else if self.engine.get().is_none() {
            Health::Starting
        } else if self.seen.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > PATIENCE {
            Health::Stuck
        } else {
            Health::Ready
        }
    }
}

/// State and exceptions under the names of metrics.
fn life_view(life: &Life) -> LifeView {
    let report = life.report();
    let state = |state: State| (state.name(), state == report.state);
    let count = |code: Code| report.exceptions.iter().filter(|own| own.code == code).count() as u64;
    LifeView {
        states: State::ALL.map(state).to_vec(),
        exceptions: Code::ALL.map(|code| (code.name(), count(code))).to_vec(),
        cpu_millicores: report.cpu_millicores,
        cpu_limit_millicores: report.cpu_limit_millicores,
        memory_bytes: report.memory_bytes,
        memory_limit_bytes: report.memory_limit_bytes,
    }
}

/// What is learned from Open vSwitch under the names of metrics.
fn ovs_view(book: &GuestBook) -> OvsView {
    let report = book.report();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let since = u128::try_from(report.heard.since_ns).unwrap_or(0);
    let away = if report.heard.connected || since == 0 { 0 } else { now.saturating_sub(since) };
    OvsView {
        connected: report.heard.connected,
        away_ns: u64::try_from(away).unwrap_or(u64::MAX),
        connects: report.heard.connects,
        updates: report.heard.updates,
        names: vec![("vm", report.vms as u64), ("port", report.ports as u64)],
        silent: report.silent.len() as u64,
        applies: vec![("done", report.applied), ("failed", report.failed)],
    }
}

/// Binds this thread to the CPUs that move no packets, if there are any.
pub(crate) fn keep_off(cores: &CorePlan) {
    // Each thread would say the same.
    static TOLD: Once = Once::new();
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut others = CpuSet::new();
    let busy = |cpu: &usize| {
        let cpu = u16::try_from(*cpu).unwrap_or(u16::MAX);
        cores.workers.contains(&cpu) || cores.distributors.contains(&cpu)
    };
    let free = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).filter(|cpu| !busy(cpu));
    free.for_each(|cpu| others.set(cpu));
    if others.count() == 0 {
        TOLD.call_once(|| {
            tracing::warn!("every CPU moves packets: scrapes and the API share one with them");
        });
    } else if let Err(error) = sched_setaffinity(None, &others) {
        TOLD.call_once(|| {
            tracing::warn!(%error, "scrapes and the API may run on CPUs that move packets");
        });
    }
}
