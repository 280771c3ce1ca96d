//! How does the next generation of policies get into force while traffic flows?
//!
//! Everything is made and checked beside the running one: routes, capture files, limits, and a [`Deployment`] for each
//! worker. Then each worker swaps between two batches and gives the old one back, which says that it did. When anything
//! fails, even as late as that, the old generation stays in force, or comes back.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use sluice_core::classify::{CompileReport, Origins, Program};
use sluice_model::{
    BootConfig, BreakerSettings, DestinationId, DestinationKind, Generation, PolicySet, PortConfig, PortId,
};

use super::StartError;
use super::control::ControlPort;
use super::observe::{GenerationTotals, NamedDestination};
use super::open::Opener;
use super::port_state::PortState;
use super::routes::{self, Hop, PortFacts, Route};
use super::share::Spreading;
use super::thread_times::{ThreadDoings, ThreadTimes, worker_thread};
use crate::control_queues::{ControlQueues, PortChange};
use crate::counters::{DestinationTotals, PolicyTotals, Tables, destination_totals, policy_totals};
use crate::deployment::{Deployment, DeploymentParts};
use crate::feed_watch::FeedWatch;
use crate::files::{self, BookId, FileError, FileProducer};
use crate::gate::CaptureLimit;
use crate::output::BreakerCell;
use crate::sequence::{Sequences, Streams};
use crate::stage::balance::{Balance, SharedGroups};
use crate::stage::guard::LoopGuard;
use crate::stage::limit::{Limits, SharedLimits};
use crate::tap::Names;

/// Frames that wait for the file writer, per worker, however many policies share one of them.
const FILE_QUEUE: usize = 4096;
/// How long the next hops of a new generation may take to be resolved before it is in force anyway.
const RESOLVE_PATIENCE: Duration = Duration::from_millis(500);
/// How long a worker may take to swap: it looks every 64 polls, and sleeps for milliseconds at most.
const SWAP_PATIENCE: Duration = Duration::from_secs(5);
/// How often to look whether it did.
const SWAP_ROUND: Duration = Duration::from_micros(100);

/// Why the next generation is not in force. The one before is.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// A destination cannot be reached as the policies say.
    #[error(transparent)]
    Route(StartError),
    /// A capture file cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// RSS looks at outer headers.
    #[error(
        "the policies match on, or balance by, innermost headers, but the ports spread packets over {workers} workers by \
         RSS, which looks at outer headers: restart the daemon, which then uses distributors, or set \
         `distributor = \"always\"` in [worker]"
    )]
    Innermost {
        /// How many workers there are.
        workers: usize,
    },
    /// A worker did not swap in time.
    #[error(
        "worker {worker} did not take the policies within {} s; the generation before stays in force{}",
        SWAP_PATIENCE.as_secs(), meanwhile(.doings.as_ref())
    )]
    Worker {
        /// Its number.
        worker: usize,
        /// What it did instead, as far as the kernel tells.
        doings: Option<ThreadDoings>,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

fn meanwhile(doings: Option<&ThreadDoings>) -> String {
    doings.map(|doings| format!(": meanwhile {doings}")).unwrap_or_default()
}

/// What putting a generation in force came to.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Its number.
    pub generation: Generation,
    /// The sizes of its tables.
    pub report: CompileReport,
    /// How long it took from the first step to the last worker.
    pub elapsed: Duration,
    /// Of that, compiling.
    pub compile: Duration,
    /// Next hops that were not resolved by then: copies to these are dropped, and counted, until they are.
    pub unresolved: Vec<IpAddr>,
}

/// To the control thread.
#[derive(Debug)]
pub(super) enum ControlMessage {
    /// Resolve these, too; the answer is the next hops that were not resolved in time.
    Prepare { routes: Vec<Route>, patience: Duration, reply: Sender<Vec<IpAddr>> },
    /// The prepared routes are the only ones now.
    Commit,
    /// The prepared routes are not needed.
    Abort,
    /// Other breakers; `None` = none.
    Breakers(Option<BreakerSettings>),
    /// A port that every thread shall begin with; the answer comes when all have.
    AddPort { port: Box<ControlPort>, changes: Vec<PortChange>, reply: Sender<()> },
    /// A port that every thread shall let go of; the answer comes when all have, and it is closed.
    RemovePort { port: PortId, setup: Box<PortConfig>, state: Arc<PortState>, reply: Sender<()> },
}

/// To the file writer.
#[derive(Debug)]
pub(super) enum FileMessage {
    /// Begin a generation with these files.
    Open {
        paths: Vec<Option<PathBuf>>,
        policies: usize,
        queues: usize,
        entries: usize,
        reply: Sender<Result<OpenedFiles, FileError>>,
    },
    /// End one; the answer comes when all of it is counted.
    Close { book: BookId, reply: Sender<()> },
}

/// The files of a generation: a queue for each worker, and what is counted.
#[derive(Debug)]
pub(super) struct OpenedFiles {
    pub(super) book: BookId,
    pub(super) producers: Vec<FileProducer>,
    pub(super) tables: Arc<Tables>,
}

/// The generation in force as seen from outside: its counters, with what came before under the same names.
#[derive(Debug, Default)]
pub(super) struct InForce {
    pub(super) generation: Generation,
    pub(super) groups: Option<SharedGroups>,
    policies: Vec<String>,
    destinations: Vec<String>,
    /// By destination number: of a group its members.
    members: Vec<Option<Vec<DestinationId>>>,
    tables: Vec<Arc<Tables>>,
    /// By destination number.
    hops: Vec<Hop>,
    carried_policies: HashMap<String, PolicyTotals>,
    carried_destinations: HashMap<String, DestinationTotals>,
}

impl InForce {
    pub(super) fn new(
        generation: Generation,
        policies: &PolicySet,
        groups: Option<SharedGroups>,
        tables: Vec<Arc<Tables>>,
        routes: &[Route],
    ) -> Self {
        Self {
            generation,
            groups,
            policies: policies.policies().iter().map(|policy| policy.name.clone()).collect(),
            destinations: policies
                .destinations()
                .iter()
                .map(|destination| destination.name.clone())
                .collect(),
            members: policies
                .destinations()
                .iter()
                .map(|destination| {
                    let members = &destination.group()?.members;
                    Some(members.iter().map(|member| member.destination).collect())
                })
                .collect(),
            tables,
            hops: routes.iter().map(Route::needs).collect(),
            ..Self::default()
        }
    }

    /// The generation after this one, whose counters are final. What is named alike goes on counting.
    fn succeeded_by(&self, mut next: Self) -> Self {
        next.carried_policies = carried(&self.policies, self.policy_totals(), &next.policies);
        next.carried_destinations =
            carried(&self.destinations, self.destination_totals(), &next.destinations);
        next
    }

    /// The sums by policy number.
    pub(super) fn policy_totals(&self) -> Vec<PolicyTotals> {
        let mut totals = policy_totals(&self.tables());
        for (total, name) in totals.iter_mut().zip(&self.policies) {
            if let Some(before) = self.carried_policies.get(name) {
                total.add(before);
            }
        }
        totals
    }

    /// The sums by destination number.
    pub(super) fn destination_totals(&self) -> Vec<DestinationTotals> {
        let mut totals = destination_totals(&self.tables());
        for (total, name) in totals.iter_mut().zip(&self.destinations) {
            if let Some(before) = self.carried_destinations.get(name) {
                total.add(before);
            }
        }
        totals
    }

    /// Everything with its name.
    pub(super) fn named_totals(&self) -> GenerationTotals {
        let away = self.groups.as_ref().map(SharedGroups::away).unwrap_or_default();
        let named = |numbers: &[DestinationId]| {
            numbers.iter().filter_map(|number| self.destinations.get(number.index()).cloned()).collect()
        };
        let rows = self.destinations.iter().zip(self.destination_totals()).zip(&self.members).enumerate();
        GenerationTotals {
            generation: self.generation,
            policies: self.policies.iter().cloned().zip(self.policy_totals()).collect(),
            destinations: rows
                .map(|(number, ((name, totals), members))| NamedDestination {
                    name: name.clone(),
                    totals,
                    members: members.as_deref().map(named),
                    away: away.get(number).map(|away| named(away)).unwrap_or_default(),
                })
                .collect(),
        }
    }

    /// The destinations that no copy reaches at the moment, and the next hops that are missing.
    pub(super) fn unresolved(&self) -> Vec<(String, Option<IpAddr>)> {
        let missing = self.destinations.iter().zip(&self.hops).filter(|(_, hop)| hop.is_missing());
        missing.map(|(name, hop)| (name.clone(), hop.address)).collect()
    }

    fn tables(&self) -> Vec<&Tables> {
        self.tables.iter().map(|tables| &**tables).collect()
    }
}

/// The sums of those whose names are in the next generation, too.
fn carried<T>(names: &[String], totals: Vec<T>, next: &[String]) -> HashMap<String, T> {
    let next: HashSet<&String> = next.iter().collect();
    names
        .iter()
        .zip(totals)
        .filter(|(name, _)| next.contains(name))
        .map(|(name, sum)| (name.clone(), sum))
        .collect()
}

/// What policies are deployed on: what of a running engine does not change with them.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) boot: BootConfig,
    /// How many packets may come in; `None` = any number.
    pub(super) capture_limit: Option<CaptureLimit>,
    pub(super) ports: Vec<PortFacts>,
    pub(super) breakers: Vec<Option<Arc<BreakerCell>>>,
    /// What counts traffic of others on output ports, by port number.
    pub(super) feeds: Vec<Option<Arc<FeedWatch>>>,
    /// The output ports of each worker, in its order.
    pub(super) exits: Vec<Vec<PortId>>,
    pub(super) decapsulates: bool,
}

/// What is shared by the workers in one generation, and goes on in the next where it can.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) streams: Streams,
    pub(super) limits: Option<SharedLimits>,
    pub(super) groups: Option<SharedGroups>,
}

/// A generation, made but not in force.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) program: Arc<Program>,
    pub(super) report: CompileReport,
    pub(super) routes: Vec<Route>,
    pub(super) shared: Shared,
    guard: LoopGuard,
    names: Arc<Names>,
    policies: usize,
    destinations: usize,
}

impl Site {
    /// Works out the generation after `before`.
    pub(super) fn draft(
        &self,
        policies: &PolicySet,
        generation: Generation,
        before: Option<&Shared>,
    ) -> Result<Draft, StartError> {
        let boot = &self.boot;
        let names = boot.port_names();
        let origins = Origins { ports: &names, taps: &boot.mirror.taps };
        let (program, report) = Program::compile_for(policies, &origins, generation);
        let routes = routes::all(policies, &boot.ports, &self.ports)?;
        let own: Vec<IpAddr> = boot
            .ports
            .iter()
            .flat_map(|port| port.addresses.iter().map(|own| own.address))
            .chain(routes::locals(&routes))
            .collect();
        let workers = self.exits.len();
        Ok(Draft {
            shared: Shared {
                streams: Streams::of(&program, policies, before.map(|before| &before.streams)),
                limits: match before {
                    Some(before) => {
                        SharedLimits::after(before.limits.as_ref(), policies, boot.limit.as_ref(), workers)
                    }
                    None => SharedLimits::new(policies, boot.limit.as_ref(), workers),
                },
                groups: SharedGroups::new(policies),
            },
            guard: if boot.loop_guard { LoopGuard::new(policies, &own) } else { LoopGuard::disabled() },
            names: Arc::new(Names::of(policies)),
            program: Arc::new(program),
            report,
            routes,
            policies: policies.policies().len(),
            destinations: policies.destinations().len(),
        })
    }

    /// One worker's share of it.
    pub(super) fn deployment(
        &self,
        draft: &Draft,
        worker: usize,
        files: Option<FileProducer>,
    ) -> Box<Deployment> {
        let exits = self.exits.get(worker).map_or(&[][..], Vec::as_slice);
        let Draft { program, shared, .. } = draft;
        let parts = DeploymentParts {
            outputs: draft
                .routes
                .iter()
                .map(|route| route.output(exits, &self.breakers, &self.feeds))
                .collect(),
            limits: shared.limits.as_ref().map(Limits::new),
            balance: shared.groups.as_ref().map(|groups| Balance::new(groups, Arc::clone(program))),
            sequences: Sequences::new(shared.streams.clone()),
            guard: draft.guard.clone(),
            files,
            tables: Arc::new(Tables::new(draft.policies, draft.destinations)),
            program: Arc::clone(program),
        };
        Deployment::new(parts, self.decapsulates)
            .with_names(Arc::clone(&draft.names))
            .with_capture_limit(self.capture_limit.clone())
    }
}

/// Puts generations in force, one after the other.
#[derive(Debug)]
pub(super) struct Deployer {
    pub(super) site: Arc<Site>,
    pub(super) opener: Arc<Opener>,
    /// Workers and distributors.
    pub(super) threads: [usize; 2],
    /// Of the generation in force, by destination number.
    pub(super) routes: Vec<Route>,
    /// Whether policies are tried.
    pub(super) trial: Arc<AtomicBool>,
    pub(super) current: Shared,
    /// The capture files of the generation in force.
    pub(super) book: Option<BookId>,
    /// Whether distributors look at innermost headers; whoever spreads by anything else has to be told before.
    pub(super) innermost: Arc<AtomicBool>,
    /// Of the workers.
    pub(super) queues: Vec<ControlQueues>,
    pub(super) control: Sender<ControlMessage>,
    pub(super) files: Sender<FileMessage>,
}

impl Deployer {
    /// Puts `policies` in force under this number, and what is seen of it in `in_force`.
    pub(super) fn deploy(
        &mut self,
        policies: &PolicySet,
        generation: Generation,
        in_force: &Mutex<InForce>,
    ) -> Result<Deployed, DeployError> {
        let begin = Instant::now();
        let draft = self.site.draft(policies, generation, Some(&self.current)).map_err(DeployError::Route)?;
        let compile = begin.elapsed();
        if draft.program.needs_inner() && !self.innermost.load(Ordering::Relaxed) {
            if self.opener.spreading == Spreading::Rss {
                return Err(DeployError::Innermost { workers: self.queues.len() });
            }
            self.innermost.store(true, Ordering::Relaxed);
        }
        let files = self.open_files(policies)?;
        let book = files.as_ref().map(|files| files.book);
        let swapped = self.resolve(&draft).and_then(|unresolved| {
            let (producers, written) = files.map(|files| (files.producers, files.tables)).unzip();
            let mut producers = producers.unwrap_or_default().into_iter();
            let make = |worker| self.site.deployment(&draft, worker, producers.next());
            let deployments: Vec<_> = (0..self.queues.len()).map(make).collect();
            let tables = deployments.iter().map(|d| Arc::clone(&d.tables)).chain(written).collect();
            swap(&self.queues, deployments, SWAP_PATIENCE)?;
            Ok((unresolved, tables))
        });
        let (unresolved, tables) = match swapped {
            Ok(swapped) => swapped,
            Err(error) => {
                self.close_files(book);
                let _gone = self.control.send(ControlMessage::Abort);
                return Err(error);
            }
        };
        let elapsed = begin.elapsed();
        let _gone = self.control.send(ControlMessage::Commit);
        // Then the counters of the generation before are final.
        let before = std::mem::replace(&mut self.book, book);
        self.close_files(before);
        let next = InForce::new(generation, policies, draft.shared.groups.clone(), tables, &draft.routes);
        let mut in_force = in_force.lock().unwrap_or_else(PoisonError::into_inner);
        *in_force = in_force.succeeded_by(next);
        self.current = draft.shared;
        self.routes = draft.routes;
        Ok(Deployed { generation, report: draft.report, elapsed, compile, unresolved })
    }

    /// Puts the limits of `boot` in force, and `policies`, which are so already, with them.
    pub(super) fn limit(
        &mut self,
        boot: &BootConfig,
        policies: &PolicySet,
        in_force: &Mutex<InForce>,
    ) -> Result<Deployed, DeployError> {
        let generation = in_force.lock().unwrap_or_else(PoisonError::into_inner).generation;
        let mut site = (*self.site).clone();
        if site.boot.protection.capture_kpps != boot.protection.capture_kpps {
            site.capture_limit = boot.protection.capture_pps().map(CaptureLimit::new);
        }
        let breakers_change = site.boot.breaker != boot.breaker;
        (site.boot.limit, site.boot.breaker) = (boot.limit, boot.breaker);
        site.boot.protection = boot.protection;
        let before = std::mem::replace(&mut self.site, Arc::new(site));
        let deployed = self.deploy(policies, generation, in_force);
        if deployed.is_err() {
            self.site = before;
        } else if breakers_change {
            let _gone = self.control.send(ControlMessage::Breakers(boot.breaker));
        }
        deployed
    }

    /// The capture files of `policies`; `None` where they have none.
    fn open_files(&self, policies: &PolicySet) -> Result<Option<OpenedFiles>, DeployError> {
        let paths = file_paths(policies);
        if paths.iter().all(Option::is_none) {
            return Ok(None);
        }
        let (reply, answer) = channel();
        let open = FileMessage::Open {
            paths,
            policies: policies.policies().len(),
            queues: self.queues.len(),
            entries: file_queue(policies),
            reply,
        };
        self.files.send(open).map_err(|_| DeployError::Stopped)?;
        Ok(Some(answer.recv().map_err(|_| DeployError::Stopped)??))
    }

    fn close_files(&self, book: Option<BookId>) {
        let Some(book) = book else { return };
        let (reply, answer) = channel();
        if self.files.send(FileMessage::Close { book, reply }).is_ok() {
            // An error: the engine has stopped, and so all is written.
            let _closed = answer.recv();
        }
    }

    /// Has the next hops resolved; returns those that were not in time.
    fn resolve(&self, draft: &Draft) -> Result<Vec<IpAddr>, DeployError> {
        let (reply, answer) = channel();
        let routes = draft.routes.clone();
        let prepare = ControlMessage::Prepare { routes, patience: RESOLVE_PATIENCE, reply };
        self.control.send(prepare).map_err(|_| DeployError::Stopped)?;
        answer.recv().map_err(|_| DeployError::Stopped)
    }
}

/// Gives each worker its deployment and waits until all have swapped. When one does not in time, the others swap back.
#[expect(clippy::vec_box, reason = "boxes are what workers swap")]
fn swap(
    queues: &[ControlQueues],
    deployments: Vec<Box<Deployment>>,
    patience: Duration,
) -> Result<(), DeployError> {
    for (queues, deployment) in queues.iter().zip(deployments) {
        // There is room: one generation after the other, and none is left behind.
        drop(queues.deploy.push(deployment));
    }
    let begin = Instant::now();
    let soon = |queues: &ControlQueues| wait_for(&queues.retired, begin + patience / 10);
    let mut retired: Vec<_> = queues.iter().map(soon).collect();
    // Whoever takes longer is looked at: is it busy, asleep, or without its CPU?
    let times = |(worker, done): (usize, &Option<_>)| match done {
        Some(_) => None,
        None => ThreadTimes::of(&worker_thread(worker)),
    };
    let late: Vec<_> = retired.iter().enumerate().map(times).collect();
    for (queues, retired) in queues.iter().zip(&mut retired).filter(|(_, retired)| retired.is_none()) {
        *retired = wait_for(&queues.retired, begin + patience);
    }
    let Some(worker) = retired.iter().position(Option::is_none) else { return Ok(()) };
    let doings = late.get(worker).and_then(|times| times.as_ref()?.until_now());
    // Whoever did not take it shall not. Whoever did goes back, however late.
    for (number, (queues, retired)) in queues.iter().zip(retired).enumerate() {
        let late = || wait_for(&queues.retired, Instant::now() + patience);
        let before = retired.or_else(|| if queues.deploy.pop().is_none() { late() } else { None });
        let Some(before) = before else { continue };
        drop(queues.deploy.push(before));
        if late().is_none() {
            tracing::error!(worker = number, "a worker does not go back to the policies before");
        }
    }
    Err(DeployError::Worker { worker, doings })
}

/// What comes by this queue before the deadline.
fn wait_for<T>(queue: &ArrayQueue<T>, deadline: Instant) -> Option<T> {
    loop {
        if let Some(item) = queue.pop() {
            return Some(item);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(SWAP_ROUND);
    }
}

/// The entries of a worker's queue to the file writer.
pub(super) fn file_queue(policies: &PolicySet) -> usize {
    let copies = policies.policies().iter().map(|policy| policy.to.len()).sum();
    files::queue_entries(FILE_QUEUE, copies)
}

/// The files of `pcap` destinations, by destination number.
pub(super) fn file_paths(policies: &PolicySet) -> Vec<Option<PathBuf>> {
    let path = |kind: &DestinationKind| match kind {
        DestinationKind::Pcap { file } => Some(file.clone()),
        DestinationKind::Tunnel(_) | DestinationKind::Port { .. } | DestinationKind::Group(_) => None,
    };
    policies.destinations().iter().map(|destination| path(&destination.kind)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(generation: u64) -> Box<Deployment> {
        let policies = sluice_model::spec::parse_policy("p", "").unwrap().value;
        let (program, _) = Program::compile(&policies, &[], Generation(generation));
        let parts = DeploymentParts {
            program: Arc::new(program),
            outputs: Vec::new(),
            limits: None,
            balance: None,
            sequences: Sequences::new(Sequences::streams(0)),
            guard: LoopGuard::disabled(),
            files: None,
            tables: Arc::new(Tables::new(0, 0)),
        };
        Deployment::new(parts, false)
    }

    /// Swaps like a worker, after so long, until `stop`; gives the generation it ends with.
    fn work(queues: &ControlQueues, delay: Duration, stop: &AtomicBool) -> u64 {
        let mut own = deployment(1);
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(delay);
            if let Some(next) = queues.deploy.pop() {
                assert!(queues.retired.push(std::mem::replace(&mut own, next)).is_ok());
            }
        }
        own.generation().0
    }

    #[test]
    fn all_workers_swap_or_none() {
        let patience = Duration::from_millis(400);
        let quick = Duration::from_millis(1);
        // The last one sleeps longer than anyone waits.
        for (last, expected) in [(quick, [2, 2]), (patience * 6, [1, 1])] {
            let queues = [ControlQueues::new(1), ControlQueues::new(1)];
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let ends = [quick, last];
                let (stop, queues) = (&stop, &queues);
                let workers = [0, 1].map(|i| scope.spawn(move || work(&queues[i], ends[i], stop)));
                let result = swap(queues, vec![deployment(2), deployment(2)], patience);
                assert_eq!(result.is_ok(), expected[0] == 2, "{result:?}");
                if let Err(error) = result {
                    assert!(error.to_string().starts_with("worker 1 did not take"), "{error}");
                }
                stop.store(true, Ordering::Relaxed);
                assert_eq!(workers.map(|worker| worker.join().unwrap()), expected);
            });
            assert!(queues.iter().all(|queues| queues.deploy.is_empty() && queues.retired.is_empty()));
        }
    }
}
