//! May this copy leave? One limit of bits and packets per second, as one worker sees it.

use std::sync::Arc;

use sluice_model::RateLimit;

use super::Bucket;

/// A limit that all workers share. On cache lines of its own: all of them write to it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Limit {
    bits: Option<Bucket>,
    packets: Option<Bucket>,
    workers: u64,
}

impl Limit {
    /// A full bucket for each rate, shared by so many workers.
    #[must_use]
    pub fn new(limit: &RateLimit, workers: usize) -> Self {
        let bucket = |rate: Option<u64>, burst: Option<u64>| Some(Bucket::new(rate?, burst?));
        Self {
            bits: bucket(limit.bits_per_s(), limit.burst_bits()),
            packets: bucket(limit.rate_pps.map(u64::from), limit.burst_pkts()),
            workers: u64::try_from(workers).unwrap_or(u64::MAX).max(1),
        }
    }
}

/// One worker's view of a [`Limit`].
///
/// A single worker takes exactly what each copy needs. Of several, each takes blocks of tokens, so that they seldom meet
/// at the shared word: all blocks together are a quarter of the burst. What any of them has not used is lost to none,
/// so the rate is exact in the long run; in any span of time, no more leaves than the rate allows in it, the burst, the
/// blocks (a quarter of a burst) and one copy more. What is left of the blocks goes back at the end.
#[derive(Debug)]
pub struct Meter {
    limit: Arc<Limit>,
    bits: Credit,
    packets: Credit,
}

/// Tokens that were taken and are not used yet.
#[derive(Clone, Copy, Debug)]
struct Credit {
    left: u64,
    block: u64,
}

impl Credit {
    fn new(bucket: Option<&Bucket>, workers: u64) -> Self {
        let block = bucket.filter(|_| workers > 1).map_or(0, |bucket| bucket.burst() / 4 / workers);
        Self { left: 0, block }
    }

    #[inline]
    fn spend(&mut self, bucket: Option<&Bucket>, now_ns: u64, tokens: u64) -> bool {
        let Some(bucket) = bucket else { return true };
        if self.left < tokens {
            let need = tokens - self.left;
            let given = bucket.take(now_ns, need, need.max(self.block));
            if given == 0 {
                return false;
            }
            self.left += given;
        }
        self.left -= tokens;
        true
    }

    #[inline]
    fn put_back(&mut self, bucket: Option<&Bucket>, tokens: u64) {
        match bucket {
            Some(bucket) if self.block == 0 => bucket.put_back(tokens),
            _ => self.left += tokens,
        }
    }
}

impl Meter {
    /// A worker's view of `limit`.
    #[must_use]
    pub fn new(limit: Arc<Limit>) -> Self {
        Self {
            bits: Credit::new(limit.bits.as_ref(), limit.workers),
            packets: Credit::new(limit.packets.as_ref(), limit.workers),
            limit,
        }
    }

    /// Whether a copy of `bytes` may leave now. If so, it is charged.
    #[inline]
    pub fn admit(&mut self, now_ns: u64, bytes: u32) -> bool {
        if !self.packets.spend(self.limit.packets.as_ref(), now_ns, 1) {
            return false;
        }
        let fits = self.bits.spend(self.limit.bits.as_ref(), now_ns, u64::from(bytes) * 8);
        if !fits {
            self.packets.put_back(self.limit.packets.as_ref(), 1);
        }
        fits
    }

    /// Takes the charge for a copy back, as another limit keeps it from leaving.
    #[inline]
    pub fn refund(&mut self, bytes: u32) {
        self.packets.put_back(self.limit.packets.as_ref(), 1);
        self.bits.put_back(self.limit.bits.as_ref(), u64::from(bytes) * 8);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        for (bucket, credit) in [(&self.limit.bits, self.bits), (&self.limit.packets, self.packets)] {
            if let Some(bucket) = bucket {
                bucket.put_back(credit.left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_leaves_goes_back() {
        // 1,000 packets/s: ten at once, and a block of one for each of two workers.
        let shared = limit(None, Some(1_000), 2);
        let sent = |rounds: usize| {
            let admitted = (0..rounds).filter(|_| Meter::new(Arc::clone(&shared)).admit(0, 100));
            admitted.count()
        };
        assert_eq!(sent(20), 10, "with a new meter for each packet");
        let shared = limit(Some(1), None, 2);
        let sent = (0..20).filter(|_| Meter::new(Arc::clone(&shared)).admit(0, 125)).count();
        assert_eq!(sent, 10, "1 kbit of a block of 1,250 bits each time");
    }

    fn limit(rate_mbps: Option<u32>, rate_pps: Option<u32>, workers: usize) -> Arc<Limit> {
        Arc::new(Limit::new(&RateLimit { rate_mbps, rate_pps, burst_ms: 10 }, workers))
    }

    #[test]
    fn both_rates_hold() {
        // 1 Mbit/s with 10 kbit at once, 100 packets/s with one at once.
        let mut meter = Meter::new(limit(Some(1), Some(100), 1));
        assert!(meter.admit(0, 1_000));
        assert!(!meter.admit(0, 100), "the packet bucket is empty");
        assert!(meter.admit(10_000_000, 1_250), "10 kbit again, and one packet");
        assert!(!meter.admit(19_999_999, 1), "a nanosecond too early for the next packet");
        assert!(
            meter.admit(20_000_000, 5_000),
            "more than 10 kbit, when the bucket is full: 30 kbit on credit"
        );
        assert!(!meter.admit(50_000_000, 1), "just paid back");
        assert!(meter.admit(50_008_000, 1));
    }

    #[test]
    fn a_refused_copy_is_charged_nowhere() {
        let mut meter = Meter::new(limit(Some(1), Some(100), 1));
        assert!(meter.admit(0, 1_250));
        // One packet is there after 10 ms, but only 10 of 12 kbit: it is not full yet at 9 ms.
        assert!(!meter.admit(9_000_000, 1_200));
        assert!(meter.admit(10_000_000, 1_200), "the token of the refused one is still there");
        meter.refund(1_200);
        assert!(meter.admit(10_000_000, 1_250), "and the refunded ones");
    }

    #[test]
    fn workers_share_one_rate() {
        for workers in [1, 2, 3, 8] {
            let shared = limit(Some(100), None, workers);
            let mut meters: Vec<_> = (0..workers).map(|_| Meter::new(Arc::clone(&shared))).collect();
            let (mut bytes, mut seed) = (0_u64, 1_u64);
            // 10 s of four times the rate, unevenly shared.
            for step in 0..1_000_000_u64 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let worker = ((seed >> 33) as usize % (workers * workers)).min(workers - 1);
                let len = 64 + (seed >> 40) as u32 % 900;
                if meters[worker].admit(step * 10_000, len) {
                    bytes += u64::from(len);
                }
            }
            // 10 s of 100 Mbit/s and a burst of 1 Mbit; a quarter of that, and one frame, may be in blocks.
            let bits = bytes * 8;
            let (least, most) = (1_001_000_000 - 8 * 964, 1_001_000_000 + 250_000 + 8 * 964);
            assert!((least - 250_000..=most).contains(&bits), "{workers}: {bits}");
        }
    }
}
