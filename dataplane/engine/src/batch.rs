//! The unit of work: up to 64 packets as parallel arrays.

use dpdk::Mbuf;
use sluice_core::classify::VerdictId;
use sluice_core::wire::Parsed;
use sluice_model::PortId;

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
    /// Outermost headers.
    pub outer: [Parsed; BATCH],
    /// Innermost headers; only set when the program needs them.
    pub inner: [Parsed; BATCH],
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
            outer: [Parsed::EMPTY; BATCH],
            inner: [Parsed::EMPTY; BATCH],
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
    }

    /// The places still live, ascending.
    #[inline]
    pub fn live_places(&self) -> Places {
        Places(self.live)
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
