//! The distribution breaker of a replay: intervals of captured time, and all files together as the interface.

use std::sync::Arc;

use sluice_core::limit::{Breaker, VirtualClock};
use sluice_model::BreakerSettings;

use crate::output::BreakerCell;

/// Intervals without any packet after which nothing changes any more.
const IDLE_INTERVALS: u64 = 6;

/// The breaker, and where it is in time.
#[derive(Debug)]
pub(crate) struct ReplayBreaker {
    breaker: Breaker,
    cell: Arc<BreakerCell>,
    clock: VirtualClock,
    interval_ns: u64,
    /// When the interval ends.
    end_ns: u64,
    now_ns: u64,
    /// Bytes sent before the interval.
    sent_bytes: u64,
}

impl ReplayBreaker {
    /// A closed breaker; the first interval begins with the first packet.
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Self {
            breaker: Breaker::new(settings),
            cell: Arc::default(),
            clock: VirtualClock::default(),
            interval_ns: settings.interval_ns,
            end_ns: settings.interval_ns,
            now_ns: 0,
            sent_bytes: 0,
        }
    }

    /// What destinations look at.
    pub(crate) fn cell(&self) -> Arc<BreakerCell> {
        Arc::clone(&self.cell)
    }

    /// Whether a packet captured at `timestamp_ns` belongs to a later interval: then what came before it has to be sent,
    /// and the intervals ended.
    pub(crate) fn is_over(&mut self, timestamp_ns: u64) -> bool {
        self.now_ns = self.clock.advance(timestamp_ns);
        self.now_ns >= self.end_ns
    }

    /// Ends all intervals that are over; `sent_bytes` were sent since the start.
    pub(crate) fn end_intervals(&mut self, sent_bytes: u64) {
        let mut bytes = sent_bytes - self.sent_bytes;
        self.sent_bytes = sent_bytes;
        let over = (self.now_ns - self.end_ns) / self.interval_ns + 1;
        for _ in 0..over.min(IDLE_INTERVALS) {
            let open = self.breaker.end_interval(bytes, self.interval_ns);
            let rate = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(self.interval_ns);
            self.cell.set(open, u64::try_from(rate).unwrap_or(u64::MAX));
            bytes = 0;
        }
        self.end_ns += over * self.interval_ns;
    }
}
