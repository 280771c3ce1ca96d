//! May packets come in at all? One word that the control plane writes and every worker reads once per batch.
//!
//! A closed gate drops what is received, counted by its reason, before anything is done with it; control frames for our
//! own addresses still pass, so that neighbours and links stay as they are. What may come in can be limited, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use sluice_core::limit::Bucket;
use sluice_model::DropReason;

/// How long the rate of capture may be saved up: packets of so many milliseconds come in at once.
const BURST_MS: u64 = 10;

/// Whether packets come in (control: w, workers and distributors: r).
#[derive(Debug, Default)]
pub struct Gate(AtomicU8);

const OPEN: u8 = 0;
const PROTECTION: u8 = 1;
const STOPPED: u8 = 2;

impl Gate {
    /// Opens it, or closes it for one of the two reasons that there are: [`DropReason::Protection`] and
    /// [`DropReason::Stopped`]; any other opens it.
    pub fn set(&self, closed: Option<DropReason>) {
        let word = match closed {
            Some(DropReason::Protection) => PROTECTION,
            Some(DropReason::Stopped) => STOPPED,
            _ => OPEN,
        };
        self.0.store(word, Ordering::Relaxed);
    }

    /// Why nothing comes in; `None` = it is open.
    #[inline]
    #[must_use]
    pub fn closed(&self) -> Option<DropReason> {
        match self.0.load(Ordering::Relaxed) {
            OPEN => None,
            PROTECTION => Some(DropReason::Protection),
            _ => Some(DropReason::Stopped),
        }
    }
}

/// How many packets may come in, over all workers.
#[derive(Clone, Debug)]
pub struct CaptureLimit(Arc<Bucket>);

impl CaptureLimit {
    /// So many packets per second.
    #[must_use]
    pub fn new(packets_per_s: u64) -> Self {
        Self(Arc::new(Bucket::new(packets_per_s, (packets_per_s * BURST_MS / 1_000).max(1))))
    }

    /// How many of `packets` may come in at `now_ns`, of a clock that does not run backwards.
    #[inline]
    #[must_use]
    pub fn admit(&self, now_ns: u64, packets: u64) -> u64 {
        self.0.take(now_ns, 1, packets).min(packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_and_closes() {
        let gate = Gate::default();
        assert_eq!(gate.closed(), None);
        for reason in [DropReason::Protection, DropReason::Stopped] {
            gate.set(Some(reason));
            assert_eq!(gate.closed(), Some(reason));
        }
        gate.set(None);
        assert_eq!(gate.closed(), None);
    }

    #[test]
    fn the_rate_holds_whatever_the_batches() {
        // 200 kpps; 10 s of twice that in batches of 1 to 64.
        let limit = CaptureLimit::new(200_000);
        let (mut now_ns, mut seed, mut offered, mut taken) = (0_u64, 1_u64, 0_u64, 0_u64);
        while now_ns < 10_000_000_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let packets = (seed >> 58) + 1;
            now_ns += packets * 2_500;
            let admitted = limit.admit(now_ns, packets);
            assert!(admitted <= packets);
            (offered, taken) = (offered + packets, taken + admitted);
        }
        assert!(offered > 3_900_000, "{offered}");
        assert!((1_999_900..=2_002_100).contains(&taken), "{taken}");
    }
}
