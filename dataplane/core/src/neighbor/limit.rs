//! May one more answer be sent now?

/// A token bucket in its virtual-scheduling form (ITU-T I.371, GCRA): one number of state.
#[derive(Clone, Debug)]
#[expect(clippy::struct_field_names, reason = "units belong to names")]
pub(super) struct RateLimit {
    interval_ns: u64,
    tolerance_ns: u64,
    /// The time at which the bucket is full again.
    full_at_ns: u64,
}

impl RateLimit {
    /// `per_second` answers a second on average, a tenth of that (at least one) in a burst; 0 = none ever.
    pub(super) fn new(per_second: u32) -> Self {
        let interval_ns = 1_000_000_000_u64.checked_div(per_second.into()).unwrap_or(u64::MAX);
        let burst = u64::from(per_second / 10).max(1);
        Self { interval_ns, tolerance_ns: interval_ns.saturating_mul(burst), full_at_ns: 0 }
    }

    /// Takes a token if there is one.
    pub(super) fn allow(&mut self, now_ns: u64) -> bool {
        let next = self.full_at_ns.max(now_ns).saturating_add(self.interval_ns);
        let allowed = self.interval_ns < u64::MAX && next <= now_ns.saturating_add(self.tolerance_ns);
        if allowed {
            self.full_at_ns = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hundred_a_second_after_a_burst_of_ten() {
        let mut limit = RateLimit::new(100);
        assert_eq!((0..1_000).filter(|_| limit.allow(0)).count(), 10);
        let second = (1..=1_000).filter(|ms| limit.allow(ms * 1_000_000)).count();
        assert_eq!(second, 100);
        assert_eq!((0..100).filter(|_| RateLimit::new(0).allow(5)).count(), 0);
        assert_eq!((0..5).filter(|second| limit.allow(10_000_000_000 + second * 1_000_000_000)).count(), 5);
    }
}
