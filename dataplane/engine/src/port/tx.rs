//! How do frames leave by a port, and which policies do they count for?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk::{Burst, Mbuf, TxQueue};
use sluice_af_packet::AfPacketTx;
use sluice_core::classify::{Classifier, VerdictId};
use sluice_model::{DestinationId, DropReason, PolicyId, PortId};

use crate::batch::BATCH;
use crate::tally::Books;

/// Attempts to hand a burst to a driver before the rest is dropped: a queue that is full now stays full for longer
/// than a worker may wait.
const ATTEMPTS: usize = 4;

/// What a queued frame is counted for: two words, so that it travels in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The verdict that asked for the copy.
    verdict: VerdictId,
    /// Which of its copies, and for a group's copy the number of the member's destination, plus one, from bit
    /// [`Origin::MEMBER_SHIFT`] on; marked when it is a piece after the first.
    copy: u32,
}

impl Origin {
    /// Marks a fragment or segment after the first: policies count copies, not their pieces.
    const FOLLOWER: u32 = 1 << 31;
    /// More destinations than there can be fit between this bit and the mark; a packet has fewer copies than this.
    const MEMBER_SHIFT: u32 = 20;
    const COPY: u32 = (1 << Self::MEMBER_SHIFT) - 1;
    pub(crate) const NONE: Self = Self { verdict: VerdictId::NONE, copy: 0 };

    /// Copy number `copy` of the action set `verdict`.
    #[inline]
    #[must_use]
    pub fn new(verdict: VerdictId, copy: u32) -> Self {
        Self { verdict, copy: copy & Self::COPY }
    }

    /// A copy to a group, sent to this member of it.
    #[inline]
    #[must_use]
    pub fn to_member(self, member: DestinationId) -> Self {
        let member = (u32::from(member.0) + 1) << Self::MEMBER_SHIFT;
        Self { copy: self.copy | member & !Self::FOLLOWER, ..self }
    }

    /// A fragment or segment of it after the first.
    #[must_use]
    pub fn follower(self) -> Self {
        Self { copy: self.copy | Self::FOLLOWER, ..self }
    }

    /// Whether it is a fragment or segment after the first.
    #[inline]
    #[must_use]
    pub fn is_follower(self) -> bool {
        self.copy & Self::FOLLOWER != 0
    }

    /// 0 exactly if the other is the same.
    #[inline]
    pub(crate) fn differs(self, other: Self) -> u32 {
        (self.verdict.number() ^ other.verdict.number()) | (self.copy ^ other.copy)
    }

    /// Whether it is the first copy of a packet, and not one of its later pieces.
    #[inline]
    pub(crate) fn is_first_copy(self) -> bool {
        self.copy == 0
    }

    /// The verdict that asked for it.
    #[inline]
    pub(crate) fn verdict(self) -> VerdictId {
        self.verdict
    }

    /// Where the frame goes (of a group's copy: the group), which member of a group, and the policies that count it.
    #[inline]
    pub(crate) fn counted_for(self, classifier: &Classifier) -> Option<CountedFor<'_>> {
        let set = classifier.action_set(self.verdict);
        let copy = set.copies.get((self.copy & Self::COPY) as usize)?;
        let member = (self.copy & !Self::FOLLOWER) >> Self::MEMBER_SHIFT;
        Some(CountedFor {
            destination: copy.destination,
            member: member.checked_sub(1).and_then(|member| u16::try_from(member).ok()).map(DestinationId),
            sharers: if self.is_follower() { &[] } else { set.sharers_of(copy) },
        })
    }
}

/// What counts a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountedFor<'a> {
    destination: DestinationId,
    member: Option<DestinationId>,
    pub(crate) sharers: &'a [PolicyId],
}

impl CountedFor<'_> {
    /// The destinations that count it: one, or a group and its member.
    pub(crate) fn destinations(self) -> impl Iterator<Item = DestinationId> {
        std::iter::once(self.destination).chain(self.member)
    }
}

/// The transmit side of a driver.
#[derive(Debug)]
pub enum TxDriver {
    /// A queue of a DPDK port.
    Dpdk(TxQueue),
    /// A kernel interface.
    AfPacket(AfPacketTx),
    /// A port that is gone: it takes nothing.
    Closed,
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
    /// Lengths of the frames, in bytes.
    lengths: [u32; BATCH],
}

impl TxPort {
    /// An output port over `driver`.
    #[must_use]
    pub fn new(id: PortId, driver: TxDriver, multi_segment: bool, up: Arc<AtomicBool>) -> Self {
        Self {
            id,
            driver,
            multi_segment,
            up,
            burst: Burst::new(),
            origins: [Origin::NONE; BATCH],
            lengths: [0; BATCH],
        }
    }

    /// Whether the link is up.
    #[inline]
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    fn takes_frames(&self) -> bool {
        self.is_up() && !matches!(self.driver, TxDriver::Closed)
    }

    /// Sets the link state, as the control thread does.
    pub fn set_link(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    /// Closes it, and gives its driver back. Nothing may wait in the port.
    pub(crate) fn close(&mut self) -> TxDriver {
        std::mem::replace(&mut self.driver, TxDriver::Closed)
    }

    /// Queues a frame, flushing first when there is no room.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf, origin: Origin, books: &mut Books<'_>) {
        if self.burst.is_full() {
            self.flush(books);
        }
        let place = self.burst.len();
        self.origins[place] = origin;
        self.lengths[place] = mbuf.pkt_len();
        if self.burst.push(mbuf).is_err() {
            books.drop_copy(DropReason::TxFull, origin);
        }
    }

    /// Hands everything that waits to the driver; what it does not take is dropped and counted.
    #[inline]
    pub fn flush(&mut self, books: &mut Books<'_>) {
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
                TxDriver::Closed => break,
            }
            let done = first..total - self.burst.len();
            let (origins, lengths) = (&self.origins[done.clone()], &self.lengths[done]);
            if refused == 0 {
                books.count_sent(origins, lengths);
            } else {
                count_some_refused(refused, origins, lengths, books);
            }
            if self.burst.is_empty() {
                return;
            }
        }
        let reason = if self.takes_frames() { DropReason::TxFull } else { DropReason::PortDown };
        for &origin in &self.origins[total - self.burst.len()..total] {
            books.drop_copy(reason, origin);
        }
        self.burst.free_all();
    }

    /// Sends frames that are not copies (ARP, ND, echo); returns how many the driver took, the rest is freed.
    pub fn send_control(&mut self, frames: &mut Burst) -> usize {
        let sent = match &mut self.driver {
            TxDriver::Dpdk(queue) => queue.tx_burst(frames),
            TxDriver::AfPacket(tx) => tx.tx_burst(frames, |_, mbuf, _| drop(mbuf)),
            TxDriver::Closed => 0,
        };
        frames.free_all();
        sent
    }
}

/// Counts frames of which the driver refused those marked in `refused`.
#[cold]
fn count_some_refused(refused: u64, origins: &[Origin], lengths: &[u32], books: &mut Books<'_>) {
    for (place, (&origin, &length)) in origins.iter().zip(lengths).enumerate() {
        if refused >> place & 1 == 0 {
            books.count_sent(&[origin], &[length]);
        } else {
            books.drop_copy(DropReason::TxRefused, origin);
        }
    }
}
