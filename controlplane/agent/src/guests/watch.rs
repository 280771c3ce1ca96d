//! The threads that follow the database of Open vSwitch, and put what it tells in force.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_model::{Guests, OvsSettings, PolicySet};
use sluice_ovsdb::{Heard, follow};
use tokio::sync::{oneshot, watch};

use super::GuestBook;
use crate::life::Code;
use crate::policies::Policies;

/// How often it is looked whether something changed.
const ROUND: Duration = Duration::from_millis(50);
/// The least time between two times that policies are put in force anew.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest, when it fails again and again: it doubles in between.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A database may be away for so long before that is an exception: it restarts within seconds.
const GRACE: Duration = Duration::from_secs(5);
/// The subject of an exception about names.
const NAMES: &str = "names of machines and ports";

/// The threads.
#[derive(Debug)]
pub struct OvsWatch {
    book: Arc<GuestBook>,
    heard: watch::Receiver<Heard>,
    begin: Sender<Arc<Policies>>,
    keeper: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    follower: JoinHandle<()>,
}

impl OvsWatch {
    /// Starts them, each with `prepare` first. To be called before the engine starts: DPDK binds the calling thread to a core,
    /// and what it starts inherits that.
    ///
    /// # Errors
    /// When there is no thread, or nothing to wait for sockets with, to be had.
    pub fn start(settings: &OvsSettings, prepare: impl Fn() + Clone + Send + 'static) -> io::Result<Self> {
        let (sender, heard) = watch::channel(Heard::default());
        let book = Arc::new(GuestBook::new(settings.database.clone(), heard.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let database = settings.database.clone();
        let follower = std::thread::Builder::new().name("sluice-ovsdb".to_owned());
        let prepared = prepare.clone();
        let follower = follower.spawn(move || {
            prepared();
            runtime.block_on(async {
                tokio::select! {
                    never = follow(&database, &sender) => match never {},
                    _ = stopped => {}
                }
            });
        })?;
        let (begin, policies) = channel();
        let keeper = std::thread::Builder::new().name("sluice-guests".to_owned());
        let own = Arc::clone(&book);
        let keeper = keeper.spawn(move || {
            prepare();
            keep(&policies, &own);
        })?;
        Ok(Self { book, heard, begin, keeper, stop, follower })
    }

    /// Waits until the database has told what there is, but no longer than `patience`. What it told is what names stand for
    /// in `policies` to begin with.
    #[must_use]
    pub fn first(&self, policies: &PolicySet, patience: Duration) -> Arc<Guests> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(inventory) = self.heard.borrow().inventory.clone() {
                let guests = Arc::new(inventory.guests());
                if policies.named_addresses(&guests) > PolicySet::MAX_NAMED_ADDRESSES {
                    tracing::error!(
                        "names of virtual machines and ports stand for too much, and match nothing yet"
                    );
                    return Arc::default();
                }
                self.book.put(Arc::clone(&guests));
                return guests;
            }
            if Instant::now() >= deadline {
                let database = self.book.database();
                tracing::warn!(%database, "nothing is known of virtual machines and ports yet: their names match nothing");
                return Arc::default();
            }
            std::thread::sleep(ROUND);
        }
    }

    /// What everybody sees of it.
    #[must_use]
    pub fn book(&self) -> &Arc<GuestBook> {
        &self.book
    }

    /// From now on these follow.
    pub fn begin(&self, policies: &Arc<Policies>) {
        // It ends only by a panic, which the end tells.
        drop(self.begin.send(Arc::clone(policies)));
    }

    /// Ends them; they have let go of the engine then.
    pub fn end(self) {
        drop(self.begin);
        drop(self.stop);
        if self.keeper.join().is_err() | self.follower.join().is_err() {
            tracing::error!("a thread that follows Open vSwitch had ended by a panic");
        }
    }
}

fn keep(begin: &Receiver<Arc<Policies>>, book: &GuestBook) {
    let Ok(policies) = begin.recv() else { return };
    let mut keeper = Keeper::default();
    loop {
        keeper.round(&policies, book, Instant::now());
        match begin.recv_timeout(ROUND) {
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What is remembered from one round to the next.
#[derive(Debug, Default)]
struct Keeper {
    /// The updates that `wanted` is of.
    updates: u64,
    /// What names shall stand for, where that is not in force yet.
    wanted: Option<Arc<Guests>>,
    pace: Pace,
    /// The generation whose names were looked at.
    generation: Option<u64>,
    /// Since when the database is away.
    away: Option<Instant>,
}

impl Keeper {
    fn round(&mut self, policies: &Policies, book: &GuestBook, now: Instant) {
        let heard = book.heard();
        self.watch_connection(policies, book, &heard, now);
        if heard.updates != self.updates
            && let Some(inventory) = &heard.inventory
        {
            self.updates = heard.updates;
            self.wanted = Some(Arc::new(inventory.guests()));
        }
        let mut looked_at = self.generation;
        if let Some(wanted) = self.wanted.clone().filter(|_| self.pace.may(now)) {
            match policies.learn(&wanted) {
                Ok(applied) => {
                    (self.wanted, looked_at) = (None, None);
                    policies.life().clear(Code::OvsNames, NAMES);
                    if applied {
                        self.pace.done(Instant::now());
                        book.count(true);
                        policies.life().touch();
                    }
                }
                Err(error) => {
                    self.pace.failed(Instant::now());
                    book.count(false);
                    tracing::error!(%error, "names of machines and ports stand for what they did before");
                    let text = format!("they stand for what they did before: {error}; it is tried again");
                    policies.life().raise(Code::OvsNames, NAMES, &text);
                }
            }
        }
        let current = policies.current();
        if looked_at != Some(current.generation.0) {
            self.generation = Some(current.generation.0);
            book.look_for_silent(&current.policies);
        }
    }

    fn watch_connection(&mut self, policies: &Policies, book: &GuestBook, heard: &Heard, now: Instant) {
        let subject = book.database().to_string();
        if heard.connected {
            if self.away.take().is_some() {
                policies.life().clear(Code::OvsDatabase, &subject);
            }
        } else if now.duration_since(*self.away.get_or_insert(now)) >= GRACE {
            let known = if heard.inventory.is_some() {
                "names of machines and ports stand for what it told last"
            } else {
                "names of machines and ports match nothing"
            };
            let text = format!(
                "{}; {known}: is ovsdb-server running, and may sluiced open its socket?",
                heard.error
            );
            policies.life().raise(Code::OvsDatabase, &subject, &text);
        }
    }
}

/// How often policies are put in force anew.
#[derive(Debug, Default)]
struct Pace {
    not_before: Option<Instant>,
    failures: u32,
}

impl Pace {
    fn may(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }

    fn done(&mut self, now: Instant) {
        *self = Self { not_before: Some(now + PAUSE), failures: 0 };
    }

    fn failed(&mut self, now: Instant) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(6)).min(LONGEST_PAUSE);
        *self = Self { not_before: Some(now + pause), failures: self.failures.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_pressed() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(pace.may(begin), "what comes first is not held up");
        pace.done(begin);
        assert!(!pace.may(begin + Duration::from_millis(999)) && pace.may(at(1)));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pace.failed(begin);
            pauses.push((1..=100).find(|&seconds| pace.may(at(seconds))).unwrap());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        pace.done(begin);
        pace.failed(begin);
        assert!(pace.may(at(1)), "a success ends it");
    }
}
