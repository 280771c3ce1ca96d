//! What do `rate_mbps`, `rate_pps` and `burst_ms` say, and the `[breaker]` section?

use super::boot_file::narrow;
use super::document::Fields;
use super::durations::duration;
use super::source::Report;
use crate::{BreakerSettings, RateLimit};

/// The rates of a destination, or of the `[limit]` section.
pub(super) fn rate_limit(fields: &mut Fields<'_>, report: &Report<'_>) -> Option<RateLimit> {
    let rate_mbps = fields.integer("rate_mbps", 1..=RateLimit::MAX_MBPS.into(), "rate_mbps (10^6 bits/s)");
    let rate_pps = fields.integer("rate_pps", 1..=RateLimit::MAX_PPS.into(), "rate_pps (copies/s)");
    let burst = fields.integer("burst_ms", 1..=RateLimit::MAX_BURST_MS.into(), "burst_ms");
    let given = ["rate_mbps", "rate_pps"].iter().any(|key| fields.place_of(key).is_some());
    if let Some(place) = fields.place_of("burst_ms").filter(|_| !given) {
        let suggestion = "add rate_mbps = 100 or rate_pps = 10000, or remove it".to_owned();
        report.error(&place, fields.field("burst_ms"), "a burst of no rate", suggestion);
    }
    let limit = RateLimit {
        rate_mbps: narrow(rate_mbps),
        rate_pps: narrow(rate_pps),
        burst_ms: narrow(burst).unwrap_or(RateLimit::DEFAULT_BURST_MS),
    };
    (limit.rate_mbps.is_some() || limit.rate_pps.is_some()).then_some(limit)
}

/// The `[limit]` section: all destinations together.
pub(super) fn limit_settings(mut fields: Fields<'_>, report: &Report<'_>) -> Option<RateLimit> {
    let limit = rate_limit(&mut fields, report);
    if ["rate_mbps", "rate_pps"].iter().all(|key| fields.place_of(key).is_none()) {
        fields.missing("rate_mbps", "write rate_mbps = 1000, or rate_pps, or both");
    }
    fields.finish();
    limit
}

/// The `[breaker]` section; `limit` is what `[limit]` says.
pub(super) fn breaker_settings(
    mut fields: Fields<'_>,
    limit: Option<&RateLimit>,
    report: &Report<'_>,
) -> Option<BreakerSettings> {
    let most = u64::from(RateLimit::MAX_MBPS) * 4;
    let threshold = fields.integer("threshold_mbps", 0..=most, "threshold_mbps (0 = off)");
    if fields.place_of("threshold_mbps").is_none() {
        fields.missing("threshold_mbps", "write threshold_mbps = 3000, say; 0 = off");
    }
    let intervals = BreakerSettings::MIN_INTERVAL_NS..=BreakerSettings::MAX_INTERVAL_NS;
    let interval_ns = duration(&mut fields, "interval", intervals, "10s", report)
        .unwrap_or(BreakerSettings::DEFAULT_INTERVAL_NS);
    let (field, threshold) = (fields.field("threshold_mbps"), threshold.filter(|at| at.value > 0));
    fields.finish();
    let threshold = threshold?;
    let Some(limit_mbps) = limit.and_then(|limit| limit.rate_mbps) else {
        let reason = "a breaker needs the rate limit of all destinations together";
        let suggestion = "add [limit] with rate_mbps, less than half of the threshold".to_owned();
        report.error(&threshold.span, field, reason, suggestion);
        return None;
    };
    if threshold.value <= u64::from(limit_mbps) * 2 {
        let reason = format!(
            "{} does not exceed twice the limit of all destinations together ([limit] rate_mbps = {limit_mbps})",
            threshold.value
        );
        let suggestion = format!(
            "write {} or more, or rate_mbps = {} or less in [limit]",
            u64::from(limit_mbps) * 2 + 1,
            (threshold.value - 1) / 2
        );
        report.error(&threshold.span, field, reason, suggestion);
        return None;
    }
    Some(BreakerSettings { threshold_mbps: narrow(Some(threshold))?, limit_mbps, interval_ns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BootConfig;
    use crate::spec::parse_boot;

    const PORT: &str = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";

    fn parse(sections: &str) -> BootConfig {
        parse_boot("boot.toml", &format!("{PORT}{sections}")).unwrap().value
    }

    #[test]
    fn both_are_off_unless_asked_for() {
        let boot = parse("");
        assert_eq!((boot.limit, boot.breaker), (None, None));
        assert_eq!(parse("[breaker]\nthreshold_mbps = 0\n").breaker, None);
    }

    #[test]
    fn everything_can_be_set() {
        let boot = parse("[limit]\nrate_mbps = 1000\nrate_pps = 5\n[breaker]\nthreshold_mbps = 2001\n");
        let limit = RateLimit { rate_mbps: Some(1000), rate_pps: Some(5), burst_ms: 10 };
        assert_eq!(boot.limit, Some(limit));
        let breaker = BreakerSettings { threshold_mbps: 2001, limit_mbps: 1000, interval_ns: 10_000_000_000 };
        assert_eq!(boot.breaker, Some(breaker));
        let boot = parse(
            "[limit]\nrate_mbps = 1\nburst_ms = 250\n[breaker]\nthreshold_mbps = 3\ninterval = \"1.5s\"\n",
        );
        assert_eq!(boot.limit.unwrap().burst_ms, 250);
        assert_eq!(boot.breaker.unwrap().interval_ns, 1_500_000_000);
    }

    #[test]
    fn bursts_are_so_much_of_the_rate() {
        let limit = RateLimit { rate_mbps: Some(100), rate_pps: Some(50), burst_ms: 10 };
        assert_eq!(limit.burst_bits(), Some(1_000_000));
        assert_eq!(limit.burst_pkts(), Some(1), "at least one");
        assert_eq!(RateLimit { burst_ms: 1_000, ..limit }.burst_pkts(), Some(50));
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        for (sections, told) in [
            ("[limit]\n", "rate_mbps = 1000"),
            ("[limit]\nburst_ms = 3\n", "rate_mbps"),
            ("[limit]\nrate_mbps = 0\n", "1 to 1000000"),
            ("[limit]\nrate_pps = 1\nburst_ms = 0\n", "1 to 10000"),
            ("[breaker]\n", "threshold_mbps"),
            ("[breaker]\nthreshold_mbps = 10\n", "[limit]"),
            ("[limit]\nrate_pps = 10\n[breaker]\nthreshold_mbps = 10\n", "[limit]"),
            (
                "[limit]\nrate_mbps = 1000\n[breaker]\nthreshold_mbps = 2000\n",
                "write 2001 or more, or rate_mbps = 999",
            ),
            ("[limit]\nrate_mbps = 1\n[breaker]\nthreshold_mbps = 9\ninterval = \"1ms\"\n", "100ms to 3600s"),
        ] {
            let found = parse_boot("boot.toml", &format!("{PORT}{sections}")).unwrap_err();
            assert!(found.0.iter().any(|error| error.to_string().contains(told)), "{sections}: {found}");
        }
    }
}
