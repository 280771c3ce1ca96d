//! What is known of virtual machines and ports, for everybody to see.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sluice_model::{GuestKind, GuestName, Guests, OvsDatabase, PolicySet};
use sluice_ovsdb::{Heard, Inventory};
use tokio::sync::watch;

/// The state of what is learned from Open vSwitch.
#[derive(Debug)]
pub struct GuestBook {
    database: OvsDatabase,
    heard: watch::Receiver<Heard>,
    in_force: RwLock<Arc<Guests>>,
    /// Names in the policies in force that stand for nothing.
    silent: RwLock<Vec<GuestName>>,
    applied: AtomicU64,
    failed: AtomicU64,
}

/// It at one moment. Times are nanoseconds since 1970 (UTC), 0 = never.
#[derive(Clone, Debug)]
pub struct GuestReport {
    /// The database.
    pub database: String,
    /// What is known of it.
    pub heard: Heard,
    /// Names of virtual machines that stand for something, or could.
    pub vms: usize,
    /// The same of ports.
    pub ports: usize,
    /// Names in the policies in force that stand for nothing.
    pub silent: Vec<GuestName>,
    /// How often policies were put in force anew, as their names had come to stand for something else.
    pub applied: u64,
    /// How often that failed.
    pub failed: u64,
}

impl GuestBook {
    pub(super) fn new(database: OvsDatabase, heard: watch::Receiver<Heard>) -> Self {
        let (in_force, silent) = (RwLock::default(), RwLock::default());
        Self { database, heard, in_force, silent, applied: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    /// What names stand for in the policies in force.
    #[must_use]
    pub fn guests(&self) -> Arc<Guests> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of the switch; `None` = its database has never told.
    #[must_use]
    pub fn inventory(&self) -> Option<Arc<Inventory>> {
        self.heard.borrow().inventory.clone()
    }

    /// How it is now.
    #[must_use]
    pub fn report(&self) -> GuestReport {
        let guests = self.guests();
        GuestReport {
            database: self.database.to_string(),
            heard: self.heard.borrow().clone(),
            vms: guests.count(GuestKind::Vm),
            ports: guests.count(GuestKind::Port),
            silent: self.silent.read().unwrap_or_else(PoisonError::into_inner).clone(),
            applied: self.applied.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }

    pub(super) fn database(&self) -> &OvsDatabase {
        &self.database
    }

    /// From now on names stand for these.
    pub(crate) fn put(&self, guests: Arc<Guests>) {
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = guests;
    }

    pub(super) fn count(&self, applied: bool) {
        let counter = if applied { &self.applied } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at which names of these policies stand for nothing, and tells of those that are new among them.
    pub(super) fn look_for_silent(&self, policies: &PolicySet) {
        let guests = self.guests();
        let now: Vec<GuestName> =
            policies.guest_names().into_iter().filter(|name| guests.is_silent(name)).cloned().collect();
        let mut silent = self.silent.write().unwrap_or_else(PoisonError::into_inner);
        // Both are in order.
        for name in now.iter().filter(|name| silent.binary_search(name).is_err()) {
            tracing::warn!(%name, "Open vSwitch tells no address of it: the name matches nothing until it does");
        }
        for name in silent.iter().filter(|name| now.binary_search(name).is_err() && !guests.is_silent(name)) {
            tracing::info!(%name, "the name stands for something now");
        }
        *silent = now;
    }
}
