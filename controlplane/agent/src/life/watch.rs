//! Who looks after the state? One thread, which looks at engine and machine once per interval, and several times a second
//! at whether the threads that move packets still do.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_engine::runtime::Engine;

use super::check::{self, EngineCheck};
use super::exceptions::Code;
use super::load::{Counted, CpuLoad, CpuMeter, Overload};
use super::machine::{OtherThreads, Process};
use super::{Life, State, Usage};
use crate::policies::Policies;

/// Time between two rounds.
const ROUND: Duration = Duration::from_millis(100);

/// What a round saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// For how long some thread that moves packets has not polled.
    pub stalled: Duration,
    /// The state.
    pub state: State,
    /// How many exceptions there are.
    pub exceptions: usize,
}

/// The thread. It waits until there is something to look at.
#[derive(Debug)]
pub struct LifeWatch {
    begin: Sender<Arc<Policies>>,
    thread: JoinHandle<()>,
}

impl LifeWatch {
    /// Starts it; `on_round` is told of every round, on that thread. To be called before the engine starts: DPDK binds the
    /// calling thread to a core, and what it starts inherits that.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(on_round: impl FnMut(Round) + Send + 'static) -> io::Result<Self> {
        let (begin, policies) = channel();
        let thread = std::thread::Builder::new().name("sluice-life".to_owned());
        let thread = thread.spawn(move || watch(&policies, on_round))?;
        Ok(Self { begin, thread })
    }

    /// From now on it looks at these.
    pub fn begin(&self, policies: &Arc<Policies>) {
        // It ends only by a panic, which the end tells.
        drop(self.begin.send(Arc::clone(policies)));
    }

    /// Ends it; it has let go of the engine then.
    pub fn end(self) {
        drop(self.begin);
        if self.thread.join().is_err() {
            tracing::error!("the thread that looks after the state had ended by a panic");
        }
    }
}

fn watch(begin: &Receiver<Arc<Policies>>, mut on_round: impl FnMut(Round)) {
    let Ok(policies) = begin.recv() else { return };
    let mut eyes = Eyes::default();
    loop {
        on_round(eyes.round(&policies, Instant::now()));
        match begin.recv_timeout(ROUND) {
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What is remembered from one round to the next.
#[derive(Debug, Default)]
struct Eyes {
    begun: Option<Instant>,
    looked: Option<Instant>,
    generation: u64,
    progress: Progress,
    engine: EngineCheck,
    others: OtherThreads,
    meter: CpuMeter,
    overload: Overload,
}

impl Eyes {
    fn round(&mut self, policies: &Policies, now: Instant) -> Round {
        let (engine, life) = (policies.engine(), policies.life());
        let interval = Duration::from_nanos(policies.boot().protection.interval_ns);
        let stalled = self.progress.stalled(engine, now);
        if self.looked.is_none_or(|last| now.duration_since(last) >= interval) {
            self.looked = Some(now);
            self.look(policies, engine, now);
        }
        let generation = policies.current().generation.0;
        if std::mem::replace(&mut self.generation, generation) != generation {
            life.touch();
        }
        let report = life.report();
        Round { stalled, state: report.state, exceptions: report.exceptions.len() }
    }

    fn look(&mut self, policies: &Policies, engine: &Engine, now: Instant) {
        let (boot, life) = (policies.boot(), policies.life());
        let mut found = self.engine.look(engine, &boot, now);
        found.extend(check::machine(&boot, &policies.current().policies));
        let (load, process) = (self.load(engine, life, now), Process::read());
        let mut uses = Vec::new();
        if let Some(limit) = boot.protection.cpu_millicores {
            uses.push((load.wanted_millicores, limit.into()));
        }
        if let Some(limit) = life.memory_limit_bytes() {
            uses.push((process.memory_bytes, limit));
        }
        let overload = self.overload.update(&uses);
        let codes: Vec<Code> = check::ENGINE.into_iter().chain(check::MACHINE).collect();
        let usage = Usage { cpu_millicores: load.used_millicores, memory_bytes: process.memory_bytes };
        life.observe(&codes, found, overload, usage);
    }

    fn load(&mut self, engine: &Engine, life: &Life, now: Instant) -> CpuLoad {
        let begun = *self.begun.get_or_insert(now);
        let threads = engine.threads();
        let cycles: u64 = threads.iter().map(|thread| thread.stats.busy_cycles()).sum();
        let busy_ns = u128::from(cycles) * 1_000_000_000 / u128::from(engine.tsc_hz().max(1));
        let counted = Counted {
            at_ns: u64::try_from(now.duration_since(begun).as_nanos()).unwrap_or(u64::MAX),
            busy_ns: u64::try_from(busy_ns).unwrap_or(u64::MAX),
            other_ns: self.others.ran_ns(),
            packets: engine.account().ledger.rx_packets,
        };
        self.meter.measure(counted, life.gate().closed().is_some())
    }
}

/// Whether every thread that moves packets goes on polling: with work or without, none sleeps for longer than some
/// milliseconds.
#[derive(Debug, Default)]
struct Progress {
    /// By thread: its polls, and when they last grew.
    seen: HashMap<String, (u64, Instant)>,
}

impl Progress {
    fn stalled(&mut self, engine: &Engine, now: Instant) -> Duration {
        let polls = engine.thread_views().into_iter().map(|thread| (thread.name, thread.stats.polls()));
        // A worker that no port was left for has nothing to poll.
        let polls = polls.filter(|(_, polls)| *polls > 0);
        self.longest(polls, now)
    }

    /// The longest time that any of the threads has not polled.
    fn longest(&mut self, threads: impl Iterator<Item = (String, u64)>, now: Instant) -> Duration {
        let age = |(name, polls): (String, u64)| {
            let seen = self.seen.entry(name).or_insert((polls, now));
            if seen.0 != polls {
                *seen = (polls, now);
            }
            now.duration_since(seen.1)
        };
        threads.map(age).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_that_stands_still_is_enough() {
        let mut progress = Progress::default();
        let begin = Instant::now();
        let mut at = |second: u64, polls: [u64; 2]| {
            let threads = polls.into_iter().enumerate().map(|(i, polls)| (format!("worker{i}"), polls));
            progress.longest(threads, begin + Duration::from_secs(second)).as_secs()
        };
        assert_eq!(at(0, [1, 1]), 0);
        assert_eq!(at(1, [2, 2]), 0);
        assert_eq!(at(4, [2, 9]), 3);
        assert_eq!(at(5, [2, 10]), 4);
        assert_eq!(at(6, [3, 10]), 1);
    }
}
