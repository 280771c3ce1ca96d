//! The counter record: what one counter of a port, a worker, a policy or a destination said at the end of an interval.

use std::borrow::Cow;
use std::sync::Arc;

/// One reading. A counter has what was added in the interval and its total; a gauge has its reading only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterRecord {
    /// The end of the interval, nanoseconds since the epoch.
    pub time_ns: u64,
    /// What the interval lasted, milliseconds.
    pub interval_ms: u32,
    /// What is counted for.
    pub scope: CounterScope,
    /// Which of them, by its name in the configuration: `uplink`, `worker3`; empty for the whole appliance.
    pub name: Arc<str>,
    /// What is counted, as in docs/metrics.md: `rx_packets`; of drops the reason: `no_policy`; what a device counts, by
    /// the name of its driver: `device.rx_crc_errors`.
    pub metric: Cow<'static, str>,
    /// What was added in the interval; of a gauge its reading at the end.
    pub value: u64,
    /// All that was counted since the start; `None` for a gauge.
    pub total: Option<u64>,
}

/// What a counter counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CounterScope {
    Appliance,
    Port,
    Worker,
    Policy,
    Destination,
    /// Dropped packets by reason.
    Drop,
    /// The records of one table of Parquet files.
    Table,
    Tap,
}

impl CounterScope {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Appliance,
        Self::Port,
        Self::Worker,
        Self::Policy,
        Self::Destination,
        Self::Drop,
        Self::Table,
        Self::Tap,
    ];

    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Appliance => "appliance",
            Self::Port => "port",
            Self::Worker => "worker",
            Self::Policy => "policy",
            Self::Destination => "destination",
            Self::Drop => "drop",
            Self::Table => "table",
            Self::Tap => "tap",
        }
    }
}
