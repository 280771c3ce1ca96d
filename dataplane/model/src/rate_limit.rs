//! How much may leave: rate limits, and the breaker that stops distribution where an interface carries too much.

/// A token bucket's rates. At least one of them is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Megabits (10^6) per second of frames as they leave, outer headers included, without FCS, preamble and gap;
    /// `None` = any.
    pub rate_mbps: Option<u32>,
    /// Copies per second; `None` = any.
    pub rate_pps: Option<u32>,
    /// How long the rate may be saved up: a burst of so much of the rate passes at once, milliseconds.
    pub burst_ms: u32,
}

impl RateLimit {
    /// The highest rate in Mbit/s.
    pub const MAX_MBPS: u32 = 1_000_000;
    /// The highest rate in copies per second.
    pub const MAX_PPS: u32 = 1_000_000_000;
    /// The longest burst, ms.
    pub const MAX_BURST_MS: u32 = 10_000;
    /// The burst where none is given, ms.
    pub const DEFAULT_BURST_MS: u32 = 10;

    /// Bits per second.
    #[must_use]
    pub fn bits_per_s(&self) -> Option<u64> {
        self.rate_mbps.map(|rate| u64::from(rate) * 1_000_000)
    }

    /// Bits that may leave at once.
    #[must_use]
    pub fn burst_bits(&self) -> Option<u64> {
        self.rate_mbps.map(|rate| u64::from(rate) * 1_000 * u64::from(self.burst_ms))
    }

    /// Copies that may leave at once: at least one.
    #[must_use]
    pub fn burst_pkts(&self) -> Option<u64> {
        self.rate_pps.map(|rate| (u64::from(rate) * u64::from(self.burst_ms) / 1_000).max(1))
    }
}

/// When distribution stops because the interface that carries it carries too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// The egress rate of an interface at which distribution by it stops, Mbit/s.
    pub threshold_mbps: u32,
    /// The rate limit of all destinations together, Mbit/s; less than half of the threshold.
    pub limit_mbps: u32,
    /// Over how long a rate is averaged, nanoseconds.
    pub interval_ns: u64,
}

impl BreakerSettings {
    /// The interval where none is given: 10 s.
    pub const DEFAULT_INTERVAL_NS: u64 = 10_000_000_000;
    /// The shortest interval: 100 ms.
    pub const MIN_INTERVAL_NS: u64 = 100_000_000;
    /// The longest interval: an hour.
    pub const MAX_INTERVAL_NS: u64 = 3_600_000_000_000;
}
