//! What the HTTP server did.

use std::sync::atomic::{AtomicU64, Ordering};

/// Statuses that are answered.
const STATUSES: [u16; 5] = [200, 404, 405, 500, 503];

/// The pages that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Metrics,
    Health,
    Ready,
    Other,
}

impl Page {
    const ALL: [Self; 4] = [Self::Metrics, Self::Health, Self::Ready, Self::Other];

    pub(super) fn of(path: &str) -> Self {
        match path {
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            _ => Self::Other,
        }
    }

    /// The label: never what the client wrote, which could be anything.
    const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::Health => "/healthz",
            Self::Ready => "/readyz",
            Self::Other => "other",
        }
    }
}

/// Counts of the server's thread, read by the same.
#[derive(Debug, Default)]
pub(super) struct HttpCounts {
    answered: [[AtomicU64; STATUSES.len()]; Page::ALL.len()],
    evicted: AtomicU64,
    broken: AtomicU64,
}

impl HttpCounts {
    pub(super) fn answered(&self, page: Page, status: u16) {
        let column = STATUSES.iter().position(|&known| known == status);
        if let Some(cell) = column.and_then(|column| self.answered.get(page as usize)?.get(column)) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection was closed to make room for a newer one.
    pub(super) fn evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection ended in garbage, in silence or in the middle.
    pub(super) fn broken(&self) {
        self.broken.fetch_add(1, Ordering::Relaxed);
    }

    /// Page, status and count of what was answered so far.
    pub(super) fn pages(&self) -> impl Iterator<Item = (&'static str, String, u64)> + '_ {
        self.answered.iter().zip(Page::ALL).flat_map(|(row, page)| {
            let cells = row.iter().zip(STATUSES);
            cells.map(move |(cell, status)| (page.name(), status.to_string(), cell.load(Ordering::Relaxed)))
        })
    }

    /// Connections that were lost, by why.
    pub(super) fn lost(&self) -> [(&'static str, u64); 2] {
        [("evicted", self.evicted.load(Ordering::Relaxed)), ("broken", self.broken.load(Ordering::Relaxed))]
    }
}
