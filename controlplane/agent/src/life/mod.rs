//! How is the appliance, and may it copy? Its state, what is wrong, and what it uses of the machine.
//!
//! [`Life`] is what everybody sees; [`LifeWatch`] looks at the engine and the machine once per interval and decides.

mod cgroup;
mod check;
mod exceptions;
mod load;
mod machine;
mod state;
mod watch;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_engine::Gate;
use sluice_model::{BootConfig, PolicySet, ProtectionSettings};
use sluice_store::StopMark;
use tokio::sync::watch as channel;

pub use cgroup::{CgroupLeaf, Enforced};
pub use exceptions::{Code, Exception};
pub use state::{Event, State};
pub use watch::{LifeWatch, Round};

use crate::policies::now_ns;
use exceptions::{Exceptions, Finding};

/// Why nothing was stopped or started.
#[derive(Debug, thiserror::Error)]
#[error("nothing has changed: {path}: {source}", path = .path.display())]
pub struct LifeError {
    /// The file that keeps the stop.
    path: std::path::PathBuf,
    /// What the operating system said.
    source: io::Error,
}

/// The appliance at one moment.
#[derive(Clone, Debug, Default)]
pub struct LifeReport {
    /// Its state.
    pub state: State,
    /// Since when, nanoseconds since 1970 (UTC).
    pub state_since_ns: i64,
    /// What is wrong.
    pub exceptions: Vec<Exception>,
    /// Processor time over the last interval, thousandths of a core: of cores that poll, what they spent on packets.
    pub cpu_millicores: u64,
    /// The limit of it; 0 = none.
    pub cpu_limit_millicores: u64,
    /// Memory, hugepages included, bytes.
    pub memory_bytes: u64,
    /// The limit of it; 0 = none.
    pub memory_limit_bytes: u64,
}

/// The state of the appliance, and its switch.
#[derive(Debug)]
pub struct Life {
    settings: Mutex<ProtectionSettings>,
    gate: Arc<Gate>,
    /// Where a stop is kept; `None` = it ends with the daemon.
    mark: Option<StopMark>,
    /// Held by who stops or starts.
    switch: Mutex<()>,
    inner: Mutex<Inner>,
    /// Counts changes.
    changes: channel::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    since_ns: i64,
    exceptions: Exceptions,
    cpu_millicores: u64,
    memory_bytes: u64,
}

impl Default for Life {
    fn default() -> Self {
        Self::new(ProtectionSettings::default(), None)
    }
}

impl Life {
    /// In self-check, or stopped if it was; `store` is the folder that keeps a stop, which is there.
    #[must_use]
    pub fn new(settings: ProtectionSettings, store: Option<&Path>) -> Self {
        let mark = store.map(StopMark::of);
        let mut inner = Inner { since_ns: now_ns(), ..Inner::default() };
        if let Some(mark) = mark.as_ref().filter(|mark| mark.is_set()) {
            inner.state = State::Stopped;
            tracing::warn!(kept_in = %mark.path().display(), "stopped before: nothing is copied until it is started");
        }
        let gate = Arc::new(Gate::default());
        gate.set(inner.state.closes());
        let (switch, inner) = (Mutex::default(), Mutex::new(inner));
        let settings = Mutex::new(settings);
        Self { settings, gate, mark, switch, inner, changes: channel::Sender::new(0) }
    }

    /// What packets have to pass: the engine asks it.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// How it is now.
    #[must_use]
    pub fn report(&self) -> LifeReport {
        let inner = self.inner();
        LifeReport {
            state: inner.state,
            state_since_ns: inner.since_ns,
            exceptions: inner.exceptions.all().to_vec(),
            cpu_millicores: inner.cpu_millicores,
            cpu_limit_millicores: self.settings().cpu_millicores.unwrap_or(0).into(),
            memory_bytes: inner.memory_bytes,
            memory_limit_bytes: self.memory_limit_bytes().unwrap_or(0),
        }
    }

    /// Tells whenever state or exceptions change.
    #[must_use]
    pub fn subscribe(&self) -> channel::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells that something changed which the state shows.
    pub fn touch(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Stops copying until [`Life::start`]; `by` and `comment` are for the log.
    ///
    /// # Errors
    /// When the stop cannot be kept; then nothing has changed.
    pub fn stop(&self, by: &str, comment: &str) -> Result<(), LifeError> {
        // Disks may take long; whoever asks for the state does not wait for them.
        let _switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.mark.is_some();
        if let Some(mark) = &self.mark {
            mark.set(&format!("nothing is copied: stopped by {by}\n{comment}\n")).map_err(failed(mark))?;
        }
        if self.go(&mut self.inner(), State::after, Event::Stop) {
            tracing::warn!(by, comment, kept, "stopped: nothing is copied until it is started");
            if !kept {
                tracing::warn!("there is no [store]: the stop ends with the daemon");
            }
        }
        Ok(())
    }

    /// Copies again after a stop: the self-check comes first.
    ///
    /// # Errors
    /// When the stop would still be kept; then nothing has changed.
    pub fn start(&self, by: &str, comment: &str) -> Result<(), LifeError> {
        let _switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mark) = &self.mark {
            mark.clear().map_err(failed(mark))?;
        }
        if self.go(&mut self.inner(), State::after, Event::Start) {
            tracing::info!(by, comment, "started: traffic is copied");
        }
        Ok(())
    }

    /// Raises an exception, or renews its text. Who raises one clears it.
    pub fn raise(&self, code: Code, subject: &str, text: &str) {
        let finding = Finding { code, subject: subject.to_owned(), text: text.to_owned() };
        let mut inner = self.inner();
        if inner.exceptions.raise(finding, now_ns()) {
            drop(inner);
            self.touch();
        }
    }

    /// Clears an exception, if it is there.
    pub fn clear(&self, code: Code, subject: &str) {
        let mut inner = self.inner();
        if inner.exceptions.clear(code, subject) {
            drop(inner);
            self.touch();
        }
    }

    /// The part of the self-check that comes before anything is opened: disks and memory.
    pub fn check(&self, boot: &BootConfig, policies: &PolicySet) {
        let found = check::machine(boot, policies);
        self.inner().exceptions.observe(&check::MACHINE, found, now_ns());
    }

    /// Takes in what was found, and goes where that leads.
    fn observe(&self, codes: &[Code], found: Vec<Finding>, overload: bool, usage: Usage) {
        let mut inner = self.inner();
        (inner.cpu_millicores, inner.memory_bytes) = (usage.cpu_millicores, usage.memory_bytes);
        let changed = inner.exceptions.observe(codes, found, now_ns());
        let faults = !inner.exceptions.all().is_empty();
        let before = inner.state;
        if self.go(&mut inner, |state, overload| state.follow(faults, overload), overload) {
            let (from, to, codes) = (before.name(), inner.state.name(), inner.exceptions.all().len());
            if inner.state == State::Protection {
                let Usage { cpu_millicores, memory_bytes } = usage;
                tracing::warn!(
                    from,
                    cpu_millicores,
                    memory_bytes,
                    "protection: packets are dropped until the load falls"
                );
            } else {
                tracing::info!(from, to, exceptions = codes, "state");
            }
        } else if changed {
            drop(inner);
            self.touch();
        }
    }

    /// Goes to the state that `way` leads to, and opens or closes the gate; says whether it is another one.
    fn go<T>(&self, inner: &mut Inner, way: impl FnOnce(State, T) -> State, by: T) -> bool {
        let next = way(inner.state, by);
        let changed = next != inner.state;
        if changed {
            (inner.state, inner.since_ns) = (next, now_ns());
            self.gate.set(next.closes());
            self.touch();
        }
        changed
    }

    fn memory_limit_bytes(&self) -> Option<u64> {
        self.settings().memory_mb.map(|limit| u64::from(limit) << 20)
    }

    /// Other limits, from the next look on.
    pub fn limit(&self, settings: ProtectionSettings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        self.touch();
    }

    fn settings(&self) -> ProtectionSettings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the process uses of the machine.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu_millicores: u64,
    memory_bytes: u64,
}

fn failed(mark: &StopMark) -> impl FnOnce(io::Error) -> LifeError {
    let path = mark.path();
    |source| LifeError { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::DropReason;

    fn observe(life: &Life, found: Vec<Finding>, overload: bool) -> State {
        life.observe(&Code::ALL, found, overload, Usage::default());
        life.report().state
    }

    #[test]
    fn the_gate_follows_the_state() {
        let life = Life::default();
        let mut changes = life.subscribe();
        assert_eq!((life.report().state, life.gate().closed()), (State::SelfCheck, None));
        assert_eq!(observe(&life, vec![], false), State::Running);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!(observe(&life, vec![], false), State::Running);
        assert!(!changes.has_changed().unwrap(), "nothing is new");
        assert_eq!(observe(&life, vec![], true), State::Protection);
        assert_eq!(life.gate().closed(), Some(DropReason::Protection));
        let down = || Finding { code: Code::PortDown, subject: "a".to_owned(), text: "down".to_owned() };
        assert_eq!(observe(&life, vec![down()], true), State::Protection);
        assert_eq!(observe(&life, vec![down()], false), State::Exception);
        assert_eq!((life.gate().closed(), life.report().exceptions.len()), (None, 1));
        life.stop("root", "").unwrap();
        assert_eq!(life.gate().closed(), Some(DropReason::Stopped));
        assert_eq!(observe(&life, vec![], true), State::Stopped);
        life.start("root", "").unwrap();
        assert_eq!((life.report().state, life.gate().closed()), (State::SelfCheck, None));
        life.start("root", "").unwrap();
        assert_eq!(observe(&life, vec![], false), State::Running);
        life.raise(Code::ExportFailed, "/p", "full");
        assert_eq!(life.report().exceptions.len(), 1);
        life.clear(Code::ExportFailed, "/p");
        assert!(life.report().exceptions.is_empty());
    }

    #[test]
    fn a_stop_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let new = || Life::new(ProtectionSettings::default(), Some(folder.path()));
        let life = new();
        life.stop("uid 0", "moving racks").unwrap();
        assert_eq!(new().report().state, State::Stopped);
        assert_eq!(new().gate().closed(), Some(DropReason::Stopped));
        life.start("uid 0", "").unwrap();
        assert_eq!(new().report().state, State::SelfCheck);
        let gone = Life::new(ProtectionSettings::default(), Some(&folder.path().join("gone")));
        assert!(gone.stop("uid 0", "").is_err());
        assert_eq!(gone.report().state, State::SelfCheck, "what cannot be kept is not done");
    }
}
