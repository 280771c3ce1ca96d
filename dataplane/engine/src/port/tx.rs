//! How do frames leave by a port, and which policies do they count for?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk::{Burst, Mbuf, TxQueue};
use sluice_af_packet::AfPacketTx;
use sluice_core::classify::{Classifier, VerdictId};
use sluice_model::{DestinationId, DropReason, PolicyId, PortId};

use crate::batch::BATCH;
use crate::counters::Tables;
use crate::ledger::Ledger;

/// Attempts to hand a burst to a driver before the rest is dropped: a queue that is full now stays full for longer
/// than a worker may wait.
const ATTEMPTS: usize = 4;

/// What a queued frame is counted for.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The verdict that asked for the copy.
    pub verdict: VerdictId,
    /// Which of its copies; [`Origin::FOLLOWER`] for fragments and segments after the first.
    pub copy: u32,
    /// Where it goes.
    pub destination: DestinationId,
    /// Length of the frame in bytes.
    pub bytes: u32,
}

impl Origin {
    /// A fragment or segment after the first: policies count copies, not their pieces.
    pub const FOLLOWER: u32 = u32::MAX;
    const NONE: Self =
        Self { verdict: VerdictId::NONE, copy: Self::FOLLOWER, destination: DestinationId(0), bytes: 0 };

    /// The policies that share the copy.
    #[inline]
    fn sharers<'a>(&self, classifier: &'a Classifier) -> &'a [PolicyId] {
        if self.copy == Self::FOLLOWER {
            return &[];
        }
        let set = classifier.action_set(self.verdict);
        set.copies.get(self.copy as usize).map_or(&[], |copy| set.sharers_of(copy))
    }
}

/// The transmit side of a driver.
#[derive(Debug)]
pub enum TxDriver {
    /// A queue of a DPDK port.
    Dpdk(TxQueue),
    /// A kernel interface.
    AfPacket(AfPacketTx),
}

/// An output port as one worker sees it: a driver and the frames that wait for it.
#[derive(Debug)]
pub struct TxPort {
    /// The port.
    pub id: PortId,
    driver: TxDriver,
    /// Whether the driver takes frames of several segments.
    pub multi_segment: bool,
    /// Whether the link is up (control: w, worker: r).
    up: Arc<AtomicBool>,
    burst: Burst,
    origins: [Origin; BATCH],
}

impl TxPort {
    /// An output port over `driver`.
    #[must_use]
    pub fn new(id: PortId, driver: TxDriver, multi_segment: bool, up: Arc<AtomicBool>) -> Self {
        Self { id, driver, multi_segment, up, burst: Burst::new(), origins: [Origin::NONE; BATCH] }
    }

    /// Whether the link is up.
    #[inline]
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Sets the link state, as the control thread does.
    pub fn set_link(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    /// Replaces the driver, when an interface that went away has come back. Nothing may wait in the port.
    pub fn replace_driver(&mut self, driver: TxDriver) {
        self.driver = driver;
    }

    /// Queues a frame, flushing first when there is no room.
    #[inline]
    pub fn push(
        &mut self,
        mbuf: Mbuf,
        origin: Origin,
        classifier: &Classifier,
        tables: &Tables,
        ledger: &mut Ledger,
    ) {
        if self.burst.is_full() {
            self.flush(classifier, tables, ledger);
        }
        let place = self.burst.len();
        self.origins[place] = origin;
        if self.burst.push(mbuf).is_err() {
            drop_copy(DropReason::TxFull, &origin, classifier, tables, ledger);
        }
    }

    /// Hands everything that waits to the driver; what it does not take is dropped and counted.
    #[inline]
    pub fn flush(&mut self, classifier: &Classifier, tables: &Tables, ledger: &mut Ledger) {
        let total = self.burst.len();
        if total == 0 {
            return;
        }
        for _ in 0..ATTEMPTS {
            // Places count from the first frame that waits now.
            let first = total - self.burst.len();
            let mut refused = 0_u64;
            match &mut self.driver {
                TxDriver::Dpdk(queue) => {
                    queue.tx_burst(&mut self.burst);
                }
                TxDriver::AfPacket(tx) => {
                    tx.tx_burst(&mut self.burst, |place, mbuf, _| {
                        refused |= 1 << place;
                        drop(mbuf);
                    });
                }
            }
            for (place, origin) in self.origins[first..total - self.burst.len()].iter().enumerate() {
                if refused >> place & 1 == 0 {
                    count_sent(origin, classifier, tables, ledger);
                } else {
                    drop_copy(DropReason::TxRefused, origin, classifier, tables, ledger);
                }
            }
            if self.burst.is_empty() {
                return;
            }
        }
        let reason = if self.is_up() { DropReason::TxFull } else { DropReason::PortDown };
        for origin in &self.origins[total - self.burst.len()..total] {
            drop_copy(reason, origin, classifier, tables, ledger);
        }
        self.burst.free_all();
    }

    /// Sends frames that are not copies (ARP, ND, echo); returns how many the driver took, the rest is freed.
    pub fn send_control(&mut self, frames: &mut Burst) -> usize {
        let sent = match &mut self.driver {
            TxDriver::Dpdk(queue) => queue.tx_burst(frames),
            TxDriver::AfPacket(tx) => tx.tx_burst(frames, |_, mbuf, _| drop(mbuf)),
        };
        frames.free_all();
        sent
    }
}

/// Counts one frame as sent.
#[inline]
fn count_sent(origin: &Origin, classifier: &Classifier, tables: &Tables, ledger: &mut Ledger) {
    let bytes = u64::from(origin.bytes);
    ledger.tx_packets += 1;
    ledger.tx_bytes += bytes;
    let row = &tables.destinations[origin.destination.index()];
    row.packets.add(1);
    row.bytes.add(bytes);
    for policy in origin.sharers(classifier) {
        tables.policies[policy.index()].sent_packets.add(1);
    }
}

/// Counts one copy (or piece of one) as dropped.
#[cold]
pub(crate) fn drop_copy(
    reason: DropReason,
    origin: &Origin,
    classifier: &Classifier,
    tables: &Tables,
    ledger: &mut Ledger,
) {
    ledger.drops.add(reason, 1);
    tables.destinations[origin.destination.index()].drops[reason as usize].add(1);
    for policy in origin.sharers(classifier) {
        tables.policies[policy.index()].drops[reason as usize].add(1);
    }
}
