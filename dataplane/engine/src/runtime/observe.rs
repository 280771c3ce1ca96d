//! What a running engine shows to those who scrape it: everything with its name, read under one lock.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use dpdk::Mempool;
use sluice_model::Generation;

use super::{Engine, FlowHandle};
use crate::counters::{DestinationTotals, PolicyTotals};
use crate::latency::LatencyCell;
use crate::ledger::Ledger;
use crate::stats::WorkerStats;

/// The generation in force and what it counted.
#[derive(Clone, Debug, Default)]
pub struct GenerationTotals {
    /// Its number.
    pub generation: Generation,
    /// Every policy: its name and its sums.
    pub policies: Vec<(String, PolicyTotals)>,
    /// Every destination.
    pub destinations: Vec<NamedDestination>,
}

/// One destination of the generation in force.
#[derive(Clone, Debug, Default)]
pub struct NamedDestination {
    /// Its name.
    pub name: String,
    /// Its sums.
    pub totals: DestinationTotals,
    /// Of a group: its members, which count its copies, too; `None` = it is none.
    pub members: Option<Vec<String>>,
    /// Of a group: the members that are away.
    pub away: Vec<String>,
}

/// One worker or distributor, with the cells that it publishes.
#[derive(Clone, Debug)]
pub struct ThreadView {
    /// `worker` or `distributor`, and its number.
    pub name: String,
    /// Its own account.
    pub ledger: Ledger,
    /// Polls, stages.
    pub stats: Arc<WorkerStats>,
    /// Delays and batches; `None` of a distributor.
    pub latency: Option<Arc<LatencyCell>>,
    /// Its flows, where they are metered.
    pub flow: Option<FlowHandle>,
}

impl Engine {
    /// The generation in force with all names and sums, which belong together.
    #[must_use]
    pub fn generation_totals(&self) -> GenerationTotals {
        self.shared.in_force.lock().unwrap_or_else(PoisonError::into_inner).named_totals()
    }

    /// Every worker, then every distributor.
    #[must_use]
    pub fn thread_views(&self) -> Vec<ThreadView> {
        let named = |kind: &'static str| move |(index, handle)| (format!("{kind}{index}"), handle);
        let workers = self.shared.workers.iter().enumerate().map(named("worker"));
        let distributors = self.shared.distributors.iter().enumerate().map(named("distributor"));
        let view = |(name, handle): (String, &super::WorkerHandle)| ThreadView {
            name,
            ledger: handle.ledger.snapshot(),
            stats: Arc::clone(&handle.stats),
            latency: handle.latency.clone(),
            flow: handle.flow.clone(),
        };
        workers.chain(distributors).map(view).collect()
    }

    /// The destinations that no copy reaches at the moment, each with the next hop that is not resolved; without one, no
    /// port leads there.
    #[must_use]
    pub fn unresolved(&self) -> Vec<(String, Option<IpAddr>)> {
        self.shared.in_force.lock().unwrap_or_else(PoisonError::into_inner).unresolved()
    }

    /// Cycles of the time stamp counter in a second.
    #[must_use]
    pub fn tsc_hz(&self) -> u64 {
        self.shared.tsc_hz
    }

    /// Mbufs of all pools, taken or not.
    #[must_use]
    pub fn mbufs(&self) -> u32 {
        self.pools.iter().map(Mempool::capacity).sum()
    }
}
