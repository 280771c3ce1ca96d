//! May this copy leave now? The rate limits of its destination, of its group, and of all together.
//!
//! Asked only for destinations that have a limit ([`Output::limited`](crate::output::Output::limited)). A copy over one
//! of its limits is dropped whole, and charged to none of them.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_core::limit::{Limit, Meter, VirtualClock};
use sluice_model::{DestinationId, PolicySet, RateLimit};

/// The limits that all workers share.
#[derive(Clone, Debug)]
pub struct SharedLimits {
    /// By destination number.
    destinations: Vec<Option<NamedLimit>>,
    overall: Option<(RateLimit, Arc<Limit>)>,
}

/// The limit of one destination, which the next generation of policies may keep.
#[derive(Clone, Debug)]
struct NamedLimit {
    name: String,
    rate: RateLimit,
    limit: Arc<Limit>,
}

impl SharedLimits {
    /// The limits of the destinations and of all together, shared by so many workers; `None` = there is none.
    #[must_use]
    pub fn new(policies: &PolicySet, overall: Option<&RateLimit>, workers: usize) -> Option<Self> {
        let overall = overall.map(|rate| (*rate, Arc::new(Limit::new(rate, workers))));
        Self::with(policies, overall, None, workers)
    }

    /// The limits of the next generation after `before`. What is left of the limit of all together goes on if that stays,
    /// and so does what is left for a destination whose name and limit stay.
    #[must_use]
    pub fn after(
        before: Option<&Self>,
        policies: &PolicySet,
        overall: Option<&RateLimit>,
        workers: usize,
    ) -> Option<Self> {
        let kept = before.and_then(|before| before.overall.clone());
        let kept = kept.filter(|(rate, _)| Some(rate) == overall);
        let overall = kept.or_else(|| overall.map(|rate| (*rate, Arc::new(Limit::new(rate, workers)))));
        Self::with(policies, overall, before, workers)
    }

    fn with(
        policies: &PolicySet,
        overall: Option<(RateLimit, Arc<Limit>)>,
        before: Option<&Self>,
        workers: usize,
    ) -> Option<Self> {
        let before = before.iter().flat_map(|before| before.destinations.iter().flatten());
        let before: HashMap<_, _> = before.map(|own| (own.name.as_str(), own)).collect();
        let kept =
            |name: &str, rate: &RateLimit| before.get(name).filter(|own| own.rate == *rate).copied().cloned();
        let named = |name: &str, rate: &RateLimit| {
            kept(name, rate).unwrap_or_else(|| NamedLimit {
                name: name.to_owned(),
                rate: *rate,
                limit: Arc::new(Limit::new(rate, workers)),
            })
        };
        let destinations: Vec<_> = policies
            .destinations()
            .iter()
            .map(|d| d.limit.as_ref().map(|rate| named(&d.name, rate)))
            .collect();
        let any = overall.is_some() || destinations.iter().any(Option::is_some);
        any.then_some(Self { destinations, overall })
    }
}

/// One worker's view of the limits.
#[derive(Debug)]
pub struct Limits {
    destinations: Box<[Option<Meter>]>,
    overall: Option<Meter>,
    now_ns: u64,
    /// In a replay, the time is that of the packets.
    captured: Option<VirtualClock>,
}

impl Limits {
    /// A worker's view; [`Limits::set_time`] tells it the time.
    #[must_use]
    pub fn new(shared: &SharedLimits) -> Self {
        let own = |limit: &Option<NamedLimit>| limit.as_ref().map(|own| Meter::new(Arc::clone(&own.limit)));
        Self {
            destinations: shared.destinations.iter().map(own).collect(),
            overall: shared.overall.as_ref().map(|(_, limit)| Meter::new(Arc::clone(limit))),
            now_ns: 0,
            captured: None,
        }
    }

    /// The same, with the time that the packets were captured at.
    #[must_use]
    pub fn in_captured_time(shared: &SharedLimits) -> Self {
        Self { captured: Some(VirtualClock::default()), ..Self::new(shared) }
    }

    /// Sets the time: nanoseconds of a clock that does not run backwards and is the same for all workers.
    #[inline]
    pub fn set_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Whether copies to `destination` have to ask.
    #[must_use]
    pub fn limits(&self, destination: DestinationId) -> bool {
        let own = self.destinations.get(destination.index()).is_some_and(Option::is_some);
        own || self.overall.is_some()
    }

    /// Whether a copy of `bytes` of a packet captured at `timestamp_ns` may leave for `destination`, a member of
    /// `group` if one is named. If so, all limits are charged.
    pub fn admit(
        &mut self,
        destination: DestinationId,
        group: Option<DestinationId>,
        timestamp_ns: u64,
        bytes: u32,
    ) -> bool {
        if let Some(clock) = &mut self.captured {
            self.now_ns = clock.advance(timestamp_ns);
        }
        let now_ns = self.now_ns;
        let own = meter(&mut self.destinations, Some(destination));
        if !own.is_none_or(|meter| meter.admit(now_ns, bytes)) {
            return false;
        }
        let shared = meter(&mut self.destinations, group);
        if !shared.is_none_or(|meter| meter.admit(now_ns, bytes)) {
            self.refund(Some(destination), bytes);
            return false;
        }
        let fits = self.overall.as_mut().is_none_or(|meter| meter.admit(now_ns, bytes));
        if !fits {
            self.refund(group, bytes);
            self.refund(Some(destination), bytes);
        }
        fits
    }

    fn refund(&mut self, destination: Option<DestinationId>, bytes: u32) {
        if let Some(meter) = meter(&mut self.destinations, destination) {
            meter.refund(bytes);
        }
    }
}

#[inline]
fn meter(meters: &mut [Option<Meter>], destination: Option<DestinationId>) -> Option<&mut Meter> {
    meters.get_mut(destination?.index())?.as_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::spec::parse_policy;

    const POLICY: &str = "[[destination]]\nname = \"a\"\ntype = \"pcap\"\nfile = \"a\"\nrate_mbps = 1\n\
                          [[destination]]\nname = \"b\"\ntype = \"pcap\"\nfile = \"b\"\n\
                          [[destination]]\nname = \"g\"\ntype = \"group\"\nmembers = [\"a\", \"b\"]\nrate_pps = 1\n";
    const A: DestinationId = DestinationId(0);
    const B: DestinationId = DestinationId(1);
    const G: DestinationId = DestinationId(2);

    fn limits(overall: Option<&RateLimit>) -> Limits {
        let policies = parse_policy("p", POLICY).unwrap().value;
        Limits::new(&SharedLimits::new(&policies, overall, 1).unwrap())
    }

    #[test]
    fn each_limit_keeps_a_copy_back() {
        // "a" holds 10 kbit, the group one copy, all together 20 kbit.
        let all = RateLimit { rate_mbps: Some(2), rate_pps: None, burst_ms: 10 };
        let mut limits = limits(Some(&all));
        assert!(limits.limits(A) && limits.limits(B) && limits.limits(G));
        assert!(limits.admit(A, Some(G), 0, 1_000));
        assert!(!limits.admit(A, Some(G), 0, 100), "the group's copy is used up");
        assert!(limits.admit(A, None, 0, 250), "and charged nobody");
        assert!(!limits.admit(A, None, 0, 1));
        assert!(!limits.admit(B, None, 0, 1_251), "10 kbit are left for all");
        assert!(limits.admit(B, None, 0, 1_250));
        limits.set_time(10_000_000);
        assert!(limits.admit(B, None, 0, 2_500), "a is full again, but there is none for all");
        assert!(!limits.admit(A, None, 0, 1));
        limits.set_time(20_000_000);
        assert!(limits.admit(A, None, 0, 1_250), "what all together refused was not charged to a");
    }

    #[test]
    fn without_limits_nobody_asks() {
        let policies = parse_policy("p", &POLICY.replace("rate_mbps = 1", "").replace("rate_pps = 1", ""));
        assert!(SharedLimits::new(&policies.unwrap().value, None, 1).is_none());
        let limits = limits(None);
        assert!(limits.limits(A) && !limits.limits(B) && limits.limits(G));
    }
}
