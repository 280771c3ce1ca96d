//! Is every packet in the account all the time, also in the midst of a fault?

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::look::Look;
use crate::netns::Namespace;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The daemon; 0 = there is none to look at.
    pid: AtomicU32,
    looks: AtomicU64,
    found: Mutex<Found>,
}

/// What was found since the last time that somebody asked.
#[derive(Debug, Default)]
pub struct Found {
    /// What must never be.
    pub faults: Vec<String>,
    /// Exceptions that were raised.
    pub exceptions: BTreeSet<String>,
    /// The latest look of the daemon that runs.
    pub latest: Option<Look>,
}

/// Who looks; ended when dropped.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to look at the daemons of a namespace.
    pub fn start(broker: &Namespace) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let (shared, broker) = (Arc::clone(&shared), broker.clone());
            move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(INTERVAL);
                    look(&shared, &broker);
                }
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Which daemon to look at; `None` = there is none.
    pub fn set(&self, pid: Option<u32>) {
        self.shared.pid.store(pid.unwrap_or(0), Ordering::Relaxed);
        self.found().latest = None;
    }

    /// What was found.
    pub fn found(&self) -> MutexGuard<'_, Found> {
        self.shared.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often it looked.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.shared.looks.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn look(shared: &Shared, broker: &Namespace) {
    let pid = shared.pid.load(Ordering::Relaxed);
    let Some(look) = (pid != 0).then(|| Look::at(broker, pid)).flatten() else { return };
    if shared.pid.load(Ordering::Relaxed) != pid {
        return;
    }
    shared.looks.fetch_add(1, Ordering::Relaxed);
    let mut found = shared.found.lock().unwrap_or_else(PoisonError::into_inner);
    // The first ones are enough.
    if found.faults.len() < 10 {
        found.faults.extend(look.fault());
    }
    found.exceptions.extend(look.exceptions.keys().cloned());
    found.latest = Some(look);
}
