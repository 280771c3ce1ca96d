//! How is a worker's table of flows read from outside, while the worker goes on?
//!
//! Who reads sends an empty page; the worker fills it a few entries at a time, between two batches, and gives it back.
//! Nothing is locked, and the worker allocates nothing; what it reads is not of one moment.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use sluice_core::flow::FlowSnapshot;

/// Flows that a page holds.
pub(crate) const PAGE_FLOWS: usize = 1024;
/// Places of the table after which a page goes back with whatever is in it: who reads sees that the worker goes on.
pub(crate) const PAGE_PLACES: usize = 16_384;
/// Places of the table that are looked at between two batches.
pub(crate) const BUSY_PLACES: usize = 16;
/// The same when no packets came.
pub(crate) const QUIET_PLACES: usize = 512;

/// A part of a table.
#[derive(Debug)]
pub struct FlowPage {
    /// Which request it is of; the worker hands it back as it is.
    pub request: u64,
    /// The flows in it.
    pub flows: Vec<FlowSnapshot>,
    /// The place of the table where it goes on.
    pub next: usize,
    /// The place of the table where it goes back at the latest.
    pub until: usize,
    /// Whether the table ends with it.
    pub is_last: bool,
}

impl FlowPage {
    /// An empty page from the begin of the table; its memory is there, not only promised.
    #[must_use]
    pub fn new(request: u64) -> Box<Self> {
        let mut flows = vec![FlowSnapshot::default(); PAGE_FLOWS];
        flows.clear();
        Box::new(Self { request, flows, next: 0, until: PAGE_PLACES, is_last: false })
    }

    /// Whether it is to go back as it is.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.flows.len() == self.flows.capacity() || self.next >= self.until
    }

    /// Makes room for what comes next in the table.
    pub fn clear(&mut self) {
        self.flows.clear();
        self.until = self.next.saturating_add(PAGE_PLACES);
    }
}

/// Where pages go to a worker, and come back.
#[derive(Clone, Debug)]
pub struct PageQueues {
    /// Control to worker: an empty page.
    pub wanted: Arc<ArrayQueue<Box<FlowPage>>>,
    /// Worker to control: the page, full, or the last one, or after many places.
    pub filled: Arc<ArrayQueue<Box<FlowPage>>>,
}

impl Default for PageQueues {
    fn default() -> Self {
        Self { wanted: Arc::new(ArrayQueue::new(1)), filled: Arc::new(ArrayQueue::new(1)) }
    }
}
