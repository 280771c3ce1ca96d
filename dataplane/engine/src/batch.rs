//! The unit of work: up to 64 packets as parallel arrays.

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use dpdk::{Burst, Mbuf, Note};
use sluice_core::classify::VerdictId;
use sluice_core::decap::TunnelInfo;
use sluice_core::neighbor::OwnFilter;
use sluice_core::wire::Parsed;
use sluice_model::PortId;

use crate::control_queues::ControlFrame;
use crate::ledger::Ledger;

/// The most packets in a batch.
pub const BATCH: usize = 64;

/// What a driver knows of a packet besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxInfo {
    /// The original length of the frame in bytes, without FCS; never below the captured length.
    pub wire_len: u32,
    /// Capture time, nanoseconds since the epoch.
    pub timestamp_ns: u64,
    /// Payload bytes of each wire-sized segment of a TCP super-frame; 0 = not a super-frame, or not known.
    pub gso_size: u16,
}

/// Packets on their way through the stages. A packet that ended leaves an empty place; `live` says which are left.
#[derive(Debug)]
pub struct Batch {
    /// The packets; `None` where one ended.
    pub mbufs: [Option<Mbuf>; BATCH],
    /// How many places are in use, ended ones included.
    pub len: usize,
    /// Bit i: place i still holds a packet that the pipeline has to decide.
    pub live: u64,
    /// What the driver said.
    pub info: [RxInfo; BATCH],
    /// The port that each packet came in by.
    pub ingress: [PortId; BATCH],
    /// The number of the tap that each packet comes from, where [`Batch::tapped`].
    pub tap: [u16; BATCH],
    /// Whether taps were told; else each packet is of the tap of its port.
    pub tapped: bool,
    /// Outermost headers.
    pub outer: [Parsed; BATCH],
    /// Innermost headers; only set when the program needs them, or when the packet's port looks through tunnels: then
    /// those inside the tunnels looked through (the outermost ones where there is no tunnel).
    pub inner: [Parsed; BATCH],
    /// The tunnels that were taken off or looked through; [`TunnelInfo::NONE`] where none was.
    pub tunnel: [TunnelInfo; BATCH],
    /// Bit i: what is matched and metered of packet i are its inner headers.
    pub looked_through: u64,
    /// Bit i: packet i is a duplicate of one that came before it.
    pub duplicates: u64,
    /// What the policies make of each packet.
    pub verdicts: [VerdictId; BATCH],
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            mbufs: [const { None }; BATCH],
            len: 0,
            live: 0,
            info: [RxInfo::default(); BATCH],
            ingress: [PortId(0); BATCH],
            tap: [0; BATCH],
            tapped: false,
            outer: [Parsed::EMPTY; BATCH],
            inner: [Parsed::EMPTY; BATCH],
            tunnel: [TunnelInfo::NONE; BATCH],
            looked_through: 0,
            duplicates: 0,
            verdicts: [VerdictId::default(); BATCH],
        }
    }
}

impl Batch {
    /// Whether there is room for another packet.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == BATCH
    }

    /// Adds a packet; gives it back when the batch is full.
    ///
    /// # Errors
    /// The packet itself, still owned by the caller.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf, info: RxInfo, ingress: PortId) -> Result<(), Mbuf> {
        let Some(place) = self.mbufs.get_mut(self.len) else { return Err(mbuf) };
        *place = Some(mbuf);
        self.info[self.len] = info;
        self.ingress[self.len] = ingress;
        self.live |= 1 << self.len;
        self.len += 1;
        Ok(())
    }

    /// Adds the packets of `burst`, captured at `now_ns` and whole, as far as there is room; the rest is freed. Each is
    /// cut to `snaplen` bytes.
    #[inline]
    pub fn push_burst(&mut self, burst: &mut Burst, now_ns: u64, ingress: PortId, snaplen: u32) {
        let first = self.len;
        for (info, mbuf) in self.info[first..].iter_mut().zip(burst.iter_mut()) {
            let wire_len = mbuf.pkt_len();
            *info = RxInfo { wire_len, timestamp_ns: now_ns, gso_size: 0 };
            if wire_len > snaplen {
                mbuf.truncate(snaplen);
            }
        }
        let end = BATCH.min(first + burst.len());
        for (place, mbuf) in self.mbufs[first..end].iter_mut().zip(burst.drain()) {
            *place = Some(mbuf);
        }
        self.ingress[first..end].fill(ingress);
        self.live |= ones(end) & !ones(first);
        self.len = end;
    }

    /// Adds the packets of `burst`, which brought their notes over a ring, as far as there is room; the rest is freed.
    #[inline]
    pub fn push_noted(&mut self, burst: &mut Burst) {
        let first = self.len;
        let end = BATCH.min(first + burst.len());
        let rows = self.info[first..end].iter_mut().zip(&mut self.ingress[first..end]);
        for ((info, ingress), mbuf) in rows.zip(burst.iter()) {
            let Note { timestamp_ns, wire_len, gso_size, port } = mbuf.note();
            *info = RxInfo { wire_len, timestamp_ns, gso_size };
            *ingress = PortId(port);
        }
        for (place, mbuf) in self.mbufs[first..end].iter_mut().zip(burst.drain()) {
            *place = Some(mbuf);
        }
        self.live |= ones(end) & !ones(first);
        self.len = end;
    }

    /// Hands frames for a port's own addresses to the control thread; they are neither received nor dropped packets.
    pub(crate) fn take_own(
        &mut self,
        filter: &OwnFilter,
        received: &ArrayQueue<ControlFrame>,
        ledger: &mut Ledger,
    ) {
        for place in self.live_places() {
            if !self.mbufs[place].as_ref().is_some_and(|mbuf| filter.matches(mbuf.data())) {
                continue;
            }
            let port = self.ingress[place];
            if let Some(mbuf) = self.take(place) {
                ledger.ctrl_rx += 1;
                if received.push(ControlFrame { port, mbuf }).is_err() {
                    ledger.ctrl_lost += 1;
                }
            }
        }
    }

    /// Takes packet `place` out of the pipeline.
    #[inline]
    pub fn take(&mut self, place: usize) -> Option<Mbuf> {
        self.live &= !(1 << place);
        self.mbufs[place].take()
    }

    /// Forgets all places; the stages must have ended every packet.
    #[inline]
    pub fn clear(&mut self) {
        debug_assert!(self.mbufs.iter().all(Option::is_none), "a packet was left undecided");
        self.len = 0;
        self.live = 0;
        self.tapped = false;
        self.looked_through = 0;
        self.duplicates = 0;
    }

    /// The headers that are matched, deduplicated and metered: those of the frame, or inside a tunnel that is looked
    /// through.
    #[inline]
    #[must_use]
    pub fn view(&self, place: usize) -> &Parsed {
        if self.looked_through >> place & 1 == 0 { &self.outer[place] } else { &self.inner[place] }
    }

    /// [`Batch::view`], where the caller knows whether any packet is looked through.
    #[inline(always)]
    pub(crate) fn view_if<const LOOKED_THROUGH: bool>(&self, place: usize) -> &Parsed {
        if LOOKED_THROUGH { self.view(place) } else { &self.outer[place] }
    }

    /// The live packets in order, as runs of equal verdicts: one run if all are equal, else one for each packet (where
    /// verdicts mix, a comparison with the packet before is a branch that nothing predicts).
    #[inline]
    pub fn verdict_runs(&self) -> Runs {
        let mut left = self.live_places();
        let Some(first) = left.next() else { return Runs { left: 0, all: None } };
        let verdict = self.verdicts[first];
        let mut wire_bytes = u64::from(self.info[first].wire_len);
        let mut differs = 0;
        for place in left {
            differs |= self.verdicts[place].number() ^ verdict.number();
            wire_bytes += u64::from(self.info[place].wire_len);
        }
        let all = Run { verdict, places: self.live, wire_bytes };
        Runs { left: self.live, all: (differs == 0).then_some(all) }
    }

    /// The places still live, ascending.
    #[inline]
    pub fn live_places(&self) -> Places {
        Places(self.live)
    }

    /// Those of `places` (bit i: place i) that are still live, ascending.
    #[inline]
    pub fn live_places_of(&self, places: u64) -> Places {
        Places(self.live & places)
    }
}

/// The lowest `count` bits.
#[inline]
fn ones(count: usize) -> u64 {
    if count >= BATCH { u64::MAX } else { (1 << count) - 1 }
}

/// Packets that have the same verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Their verdict.
    pub verdict: VerdictId,
    /// Bit i: the packet at place i.
    places: u64,
    /// Their original lengths in bytes.
    pub wire_bytes: u64,
}

/// The runs of one batch.
#[derive(Clone, Debug)]
pub struct Runs {
    left: u64,
    all: Option<Run>,
}

impl Runs {
    /// The next run, of the batch that the runs are of; its packets may have been taken out since.
    #[inline(always)]
    pub fn next(&mut self, batch: &Batch) -> Option<Run> {
        if self.left == 0 {
            return None;
        }
        let run = self.all.unwrap_or_else(|| Run::new(self.left.trailing_zeros() as usize, batch));
        self.left &= !run.places;
        Some(run)
    }

    /// All of them.
    #[inline(never)]
    #[must_use]
    pub fn collect(mut self, batch: &Batch) -> ArrayVec<Run, BATCH> {
        std::iter::from_fn(|| self.next(batch)).collect()
    }
}

impl Run {
    #[inline]
    fn new(place: usize, batch: &Batch) -> Self {
        let wire_bytes = batch.info[place].wire_len.into();
        Self { verdict: batch.verdicts[place], places: 1 << place, wire_bytes }
    }

    /// How many packets they are.
    #[inline]
    #[must_use]
    pub fn packets(&self) -> u32 {
        self.places.count_ones()
    }

    /// Their places, ascending.
    #[inline]
    #[must_use]
    pub fn places(&self) -> Places {
        Places(self.places)
    }
}

/// An iterator over the set bits of a word.
#[derive(Clone, Debug)]
pub struct Places(u64);

impl Iterator for Places {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let place = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_the_live_packets_in_order() {
        let mut batch = Batch::default();
        assert!(batch.verdict_runs().collect(&batch).is_empty());
        batch.len = BATCH;
        batch.live = !(1 << 2 | 1 << 5);
        for place in 0..BATCH {
            batch.info[place].wire_len = 100;
            batch.verdicts[place] =
                if (4..6).contains(&place) { VerdictId::NONE } else { VerdictId::default() };
        }
        let runs = batch.verdict_runs().collect(&batch);
        let places: Vec<_> = runs.iter().flat_map(Run::places).collect();
        assert_eq!(places, batch.live_places().collect::<Vec<_>>());
        assert!(runs.iter().all(|run| run.packets() == 1 && run.wire_bytes == 100));
        batch.verdicts.fill(VerdictId::NONE);
        let runs = batch.verdict_runs().collect(&batch);
        assert_eq!(runs.iter().map(Run::packets).collect::<Vec<_>>(), [62]);
        assert_eq!(runs[0].wire_bytes, 6200);
    }
}
