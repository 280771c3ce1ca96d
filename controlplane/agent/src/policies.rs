//! How do policies change, whoever asks?
//!
//! A change makes a whole new set out of the one in force. It is validated, checked against the boot config, put in force
//! by the engine and kept in the history. Whatever fails, the set before stays in force.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluice_engine::runtime::{DeployError, Deployed, Engine, PortChangeError};
use sluice_model::spec::{
    Diagnostic, PolicySetSpec, Severity, check_against, check_guests, parse_policy_spec,
};
use sluice_model::{AddressSet, BootConfig, Generation, Guests, PolicySet, PortConfig, PortId};

use crate::guests::GuestBook;
use crate::history::{History, HistoryError, Origin, Record};
use crate::life::Life;

/// Names that are logged when what they stand for changes, at most.
const LOGGED_NAMES: usize = 10;
/// Addresses that are told of a name, at most.
const TOLD_ADDRESSES: usize = 8;

/// Finds what is wrong with a set that only the machine can tell: lines for people.
pub type Check = Box<dyn Fn(&PolicySet) -> Vec<String> + Send + Sync>;

/// The set in force.
#[derive(Debug)]
pub struct Current {
    /// Its number.
    pub generation: Generation,
    /// When it came into force, nanoseconds since 1970 (UTC).
    pub applied_at_ns: i64,
    /// As it was written.
    pub spec: PolicySetSpec,
    /// As it was understood, with names of machines and ports as they were written: see [`Policies::resolved`].
    pub policies: PolicySet,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Change {
    /// The whole new set.
    pub spec: PolicySetSpec,
    /// What it was understood as.
    pub policies: PolicySet,
    /// Who asks.
    pub by: String,
    /// Why.
    pub comment: String,
    /// What makes it.
    pub origin: Origin,
    /// The generation that has to be in force; `None` = any.
    pub expected: Option<Generation>,
}

/// What became of a change that was not refused for what the set says.
#[derive(Debug)]
pub struct Outcome {
    /// The generation in force.
    pub generation: Generation,
    /// What the engine told; `None` when nothing changed.
    pub deployed: Option<Deployed>,
    /// Warnings.
    pub findings: Vec<Diagnostic>,
    /// From the request to the end.
    pub elapsed: Duration,
}

/// Why the set before is still in force.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Another generation is in force than the one that the change was made for.
    #[error("generation {} is in force, not {}: read it again, and decide again", .in_force.0, .expected.0)]
    Outdated {
        /// The one in force.
        in_force: Generation,
        /// The one that was expected.
        expected: Generation,
    },
    /// The set does not fit the boot config.
    #[error("the set does not fit the ports of this appliance")]
    Findings(Vec<Diagnostic>),
    /// It would do harm on this machine.
    #[error("{}", .0.join("; "))]
    Clash(Vec<String>),
    /// The engine does not take it.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// It cannot be written as text, to be kept.
    #[error("the set cannot be kept: {0}")]
    Text(String),
    /// An earlier generation is not there.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// Why a port did not come, or go.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// There are too many.
    #[error(
        "port \"{name}\": there is room for {room} ports until a restart, those that were removed among them"
    )]
    NoRoom {
        /// The port.
        name: String,
        /// How many there can be.
        room: usize,
    },
    /// Another one has its device.
    #[error("port \"{name}\": port \"{other}\" has this device")]
    Device {
        /// The port.
        name: String,
        /// The one that has it.
        other: String,
    },
    /// The policies in force do not fit the ports then.
    #[error("the policies in force do not fit: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Findings(Vec<Diagnostic>),
    /// The engine does not take it.
    #[error(transparent)]
    Engine(#[from] PortChangeError),
}

/// Why names stand for what they did before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LearnError {
    /// They would stand for too much.
    #[error("the policies name {0} addresses by them, more than {most}", most = PolicySet::MAX_NAMED_ADDRESSES)]
    TooMany(usize),
    /// The engine does not take it.
    #[error(transparent)]
    Deploy(#[from] DeployError),
}

/// The policies of a running engine.
pub struct Policies {
    /// Locked for writing while limits change.
    boot: RwLock<Arc<BootConfig>>,
    engine: Arc<Engine>,
    check: Check,
    current: RwLock<Arc<Current>>,
    /// Locked during a change: one comes after the other.
    history: Mutex<History>,
    life: Arc<Life>,
    /// What names of virtual machines and ports stand for; `None` = they are not learned.
    book: Option<Arc<GuestBook>>,
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policies").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Policies {
    /// The policies that `engine` was started with: with what their names stand for in the book of
    /// [`Policies::with_book`]. `history` ends with them, or lacks them.
    ///
    /// # Errors
    /// When they cannot be kept.
    pub fn new(
        boot: BootConfig,
        engine: Arc<Engine>,
        check: Check,
        (spec, policies): (PolicySetSpec, PolicySet),
        mut history: History,
    ) -> Result<Self, ChangeError> {
        let generation = engine.generation();
        let applied_at_ns = now_ns();
        if history.records().next_back().is_none_or(|last| last.generation != generation) {
            let text = spec.to_toml().map_err(|error| ChangeError::Text(error.to_string()))?;
            let changes = PolicySetSpec::default().diff(&spec);
            let counts = counts(&spec);
            let first = record(generation, applied_at_ns, ("boot", ""), Origin::File, counts);
            history.append(Record { changes, text, ..first })?;
        }
        let current = Current { generation, applied_at_ns, spec, policies };
        let current = RwLock::new(Arc::new(current));
        let boot = RwLock::new(Arc::new(boot));
        Ok(Self {
            boot,
            engine,
            check,
            current,
            history: Mutex::new(history),
            life: Arc::default(),
            book: None,
        })
    }

    /// The same, of an appliance with this state and switch.
    #[must_use]
    pub fn with_life(self, life: Arc<Life>) -> Self {
        Self { life, ..self }
    }

    /// The same, with names of virtual machines and ports that are learned.
    #[must_use]
    pub fn with_book(self, book: Option<Arc<GuestBook>>) -> Self {
        Self { book, ..self }
    }

    /// What is known of virtual machines and ports; `None` = they are not learned.
    #[must_use]
    pub fn book(&self) -> Option<&Arc<GuestBook>> {
        self.book.as_ref()
    }

    /// What names of virtual machines and ports stand for in the policies in force.
    #[must_use]
    pub fn guests(&self) -> Arc<Guests> {
        self.book.as_ref().map(|book| book.guests()).unwrap_or_default()
    }

    /// A set with what its names stand for now: what the engine takes. Where they stand for too much, which
    /// [`Policies::check`] refuses, they stand for nothing.
    #[must_use]
    pub fn resolved<'p>(&self, policies: &'p PolicySet) -> Cow<'p, PolicySet> {
        let guests = self.guests();
        if policies.named_addresses(&guests) > PolicySet::MAX_NAMED_ADDRESSES {
            return Cow::Borrowed(policies);
        }
        policies.resolved(&guests)
    }

    /// The state of the appliance, and its switch.
    #[must_use]
    pub fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// The set in force.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The boot config, as it is in force.
    #[must_use]
    pub fn boot(&self) -> Arc<BootConfig> {
        Arc::clone(&self.boot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts the limits of `boot`, which differs in nothing else, in force. Blocks until all workers have taken them.
    ///
    /// # Errors
    /// Why the limits before are still in force.
    pub fn limit(&self, boot: BootConfig) -> Result<(), DeployError> {
        // One change comes after the other.
        let _history = self.history();
        let before = self.boot();
        let dataplane = |boot: &BootConfig| (boot.limit, boot.breaker, boot.protection.capture_kpps);
        if dataplane(&before) != dataplane(&boot) {
            self.engine.limit(&boot, &self.resolved(&self.current().policies))?;
        }
        self.life.limit(boot.protection);
        *self.boot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(boot);
        Ok(())
    }

    /// Adds a port. Blocks until all workers have it.
    ///
    /// # Errors
    /// Why it did not come; all is as it was.
    pub fn add_port(&self, setup: PortConfig) -> Result<(), PortError> {
        let _no_change = self.history();
        let before = self.boot();
        let has_device = |port: &&PortConfig| !port.is_removed() && port.spec.device() == setup.spec.device();
        if let Some(other) = before.ports.iter().find(has_device) {
            return Err(PortError::Device { name: setup.name, other: other.name.clone() });
        }
        let room = self.engine.port_room();
        let place = before.place_for(&setup.name, room);
        let number = place.ok_or_else(|| PortError::NoRoom { name: setup.name.clone(), room })?;
        let mut boot = (*before).clone();
        boot.set_port(number, setup.clone());
        let policies = self.fitting(&boot)?;
        self.engine.add_port(number, &setup, &self.resolved(&policies.policies))?;
        *self.boot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(boot);
        Ok(())
    }

    /// Removes a port. Blocks until all workers have let go of it.
    ///
    /// # Errors
    /// Why it is still there; all is as it was.
    pub fn remove_port(&self, number: PortId) -> Result<(), PortError> {
        let _no_change = self.history();
        let mut boot = (*self.boot()).clone();
        let Some(own) = boot.ports.get_mut(number.index()).filter(|port| !port.is_removed()) else {
            return Ok(());
        };
        *own = own.removed();
        let policies = self.fitting(&boot)?;
        self.engine.remove_port(number, &self.resolved(&policies.policies))?;
        *self.boot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(boot);
        Ok(())
    }

    /// The set in force, if it fits `boot`.
    fn fitting(&self, boot: &BootConfig) -> Result<Arc<Current>, PortError> {
        let current = self.current();
        let mut findings = check_against(&current.policies, boot);
        findings.retain(|finding| finding.severity == Severity::Error);
        if findings.is_empty() { Ok(current) } else { Err(PortError::Findings(findings)) }
    }

    /// The engine that they are in force in.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The history; no change can be made while it is held.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with a set on this appliance: findings, and lines for people.
    #[must_use]
    pub fn check(&self, policies: &PolicySet) -> (Vec<Diagnostic>, Vec<String>) {
        let boot = self.boot();
        let mut findings = check_against(policies, &boot);
        if let Some(book) = &self.book {
            let known = book.inventory().map(|_| book.guests());
            findings.extend(check_guests(policies, known.as_deref(), &boot.policy.display().to_string()));
        }
        (findings, (self.check)(policies))
    }

    /// Makes a change. Blocks until all workers have taken it; not for async code.
    ///
    /// # Errors
    /// Why the set before is still in force.
    pub fn change(&self, change: Change) -> Result<Outcome, ChangeError> {
        let mut history = self.history();
        let begin = Instant::now();
        let current = self.current();
        if let Some(expected) = change.expected.filter(|expected| *expected != current.generation) {
            return Err(ChangeError::Outdated { in_force: current.generation, expected });
        }
        let (findings, clashes) = self.check(&change.policies);
        if findings.iter().any(|finding| finding.severity == Severity::Error) {
            return Err(ChangeError::Findings(findings));
        }
        if !clashes.is_empty() {
            return Err(ChangeError::Clash(clashes));
        }
        if change.spec == current.spec {
            let generation = current.generation;
            return Ok(Outcome { generation, deployed: None, findings, elapsed: begin.elapsed() });
        }
        let text = change.spec.to_toml().map_err(|error| ChangeError::Text(error.to_string()))?;
        let generation = history.reserve()?;
        let deployed = self.engine.deploy(&self.resolved(&change.policies), generation)?;
        let applied_at_ns = now_ns();
        let counts = counts(&change.spec);
        let Change { spec, policies, by, comment, origin, .. } = change;
        let changes = current.spec.diff(&spec);
        let next = record(generation, applied_at_ns, (&by, &comment), origin, counts);
        if let Err(error) = history.append(Record { changes, text, ..next }) {
            // What a restart would not bring back shall not be in force.
            if let Err(stuck) = self.engine.deploy(&self.resolved(&current.policies), current.generation) {
                tracing::error!(%stuck, "policies are in force that could not be kept");
            }
            return Err(error.into());
        }
        let next = Arc::new(Current { generation, applied_at_ns, spec, policies });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        tracing::info!(
            generation = generation.0,
            by,
            policies = counts[0],
            destinations = counts[2],
            elapsed_us = u64::try_from(deployed.elapsed.as_micros()).unwrap_or(u64::MAX),
            "policies in force"
        );
        for next_hop in &deployed.unresolved {
            tracing::warn!(%next_hop, "next hop unresolved: copies through it are dropped");
        }
        Ok(Outcome { generation, deployed: Some(deployed), findings, elapsed: begin.elapsed() })
    }

    /// From now on names of virtual machines and ports stand for `guests`. Where those in force have any that stand for
    /// something else then, the set is put in force anew, under its number; says whether it was. Blocks as a change does.
    ///
    /// # Errors
    /// Why names stand for what they did before.
    pub(crate) fn learn(&self, guests: &Arc<Guests>) -> Result<bool, LearnError> {
        let Some(book) = &self.book else { return Ok(false) };
        let _no_change = self.history();
        let (before, current) = (book.guests(), self.current());
        let names = current.policies.guest_names();
        let moved: Vec<_> = names.into_iter().filter(|name| before.get(name) != guests.get(name)).collect();
        if !moved.is_empty() {
            let count = current.policies.named_addresses(guests);
            if count > PolicySet::MAX_NAMED_ADDRESSES {
                return Err(LearnError::TooMany(count));
            }
            let deployed = self.engine.deploy(&current.policies.resolved(guests), current.generation)?;
            let elapsed_us = u64::try_from(deployed.elapsed.as_micros()).unwrap_or(u64::MAX);
            let generation = current.generation.0;
            for name in moved.iter().take(LOGGED_NAMES) {
                let stands_for = guests.get(name).map(told).unwrap_or_default();
                tracing::info!(%name, stands_for, generation, elapsed_us, "policies follow");
            }
            if let Some(rest) = moved.len().checked_sub(LOGGED_NAMES).filter(|rest| *rest > 0) {
                tracing::info!(rest, "and policies follow other names");
            }
        }
        book.put(Arc::clone(guests));
        Ok(!moved.is_empty())
    }

    /// Puts the set of an earlier generation in force anew; `None` = the one before.
    ///
    /// # Errors
    /// As [`Policies::change`], and when it is not kept.
    pub fn roll_back(
        &self,
        to: Option<Generation>,
        by: String,
        comment: String,
        expected: Option<Generation>,
    ) -> Result<Outcome, ChangeError> {
        let record = {
            let history = self.history();
            let in_force = self.current().generation;
            match to {
                Some(to) => history.get(to)?,
                None => history.get(history.before(in_force).ok_or(HistoryError::NotKept(Generation(0)))?)?,
            }
        };
        let (spec, policies) = parse(&record)?;
        let origin = Origin::Rollback(record.generation);
        self.change(Change { spec, policies, by, comment, origin, expected })
    }
}

/// The set of a generation.
///
/// # Errors
/// When this version does not take it any more.
pub fn parse(record: &Record) -> Result<(PolicySetSpec, PolicySet), ChangeError> {
    let name = format!("generation {}", record.generation.0);
    let loaded = parse_policy_spec(&name, &record.text).map_err(|found| ChangeError::Findings(found.0))?;
    Ok(loaded.value)
}

/// The addresses of a set, for people.
pub(crate) fn told(set: &AddressSet) -> String {
    let macs = set.macs.iter().map(ToString::to_string);
    let v4 = set.ipv4.iter().map(|range| Ipv4Addr::from_bits(*range.start()).to_string());
    let v6 = set.ipv6.iter().map(|range| Ipv6Addr::from_bits(*range.start()).to_string());
    let mut all: Vec<String> = macs.chain(v4).chain(v6).take(TOLD_ADDRESSES + 1).collect();
    if all.len() > TOLD_ADDRESSES {
        all.truncate(TOLD_ADDRESSES);
        all.push("...".to_owned());
    }
    all.join(", ")
}

fn counts(spec: &PolicySetSpec) -> [u32; 3] {
    [spec.policies.len(), spec.groups.len(), spec.destinations.len()]
        .map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

fn record(
    generation: Generation,
    applied_at_ns: i64,
    (by, comment): (&str, &str),
    origin: Origin,
    [policies, groups, destinations]: [u32; 3],
) -> Record {
    let (applied_by, comment) = (by.to_owned(), comment.to_owned());
    let (changes, text) = Default::default();
    Record {
        generation,
        applied_at_ns,
        applied_by,
        comment,
        origin,
        policies,
        groups,
        destinations,
        changes,
        text,
    }
}

/// Now, nanoseconds since 1970 (UTC).
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
