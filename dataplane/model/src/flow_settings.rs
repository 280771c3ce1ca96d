//! How flows are metered: the `[flow]` section of the boot config.

use std::path::PathBuf;

/// How flows are metered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSettings {
    /// Whether flows are kept at all.
    pub enabled: bool,
    /// Flows at the same time, per worker; `None` = as many as memory allows.
    pub flows: Option<u32>,
    /// Whether the VLAN id tells flows apart.
    pub vlan_in_key: bool,
    /// Whether 1-second and 1-minute metrics are kept.
    pub metrics: bool,
    /// Keys of metrics, and rows of seconds, at the same time, per worker; `None` = the engine's own number.
    pub metrics_rows: Option<u32>,
    /// Records, and rows of metrics, that may wait for being drained, per worker; `None` = the engine's own number.
    pub record_ring: Option<u32>,
    /// When silent flows end.
    pub timeouts: FlowTimeouts,
    /// Which delays are too long to be true.
    pub delay_limits: DelayLimits,
    /// The number of this appliance in records.
    pub vtap_id: u16,
    /// The file that flow records are appended to.
    pub jsonl: Option<PathBuf>,
    /// The file that metrics are appended to.
    pub metrics_jsonl: Option<PathBuf>,
    /// The folder of Parquet files.
    pub parquet: Option<ParquetOutput>,
}

/// Which columns of flow records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColumnProfile {
    /// All of [`FLOW_FIELDS`](crate::fields::FLOW_FIELDS).
    #[default]
    Full,
    /// The 24 of [`BASIC_FLOW_FIELDS`](crate::fields::BASIC_FLOW_FIELDS).
    Basic,
}

impl ColumnProfile {
    /// The profiles by their names in configurations.
    pub const NAMES: [(&'static str, Self); 2] = [("full", Self::Full), ("basic", Self::Basic)];
}

/// The Parquet files that a daemon keeps: the `[flow.parquet]` section of the boot config. What is `None` is as
/// docs/operations.md says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParquetOutput {
    /// The folder.
    pub folder: PathBuf,
    /// Columns of flow records.
    pub columns: ColumnProfile,
    /// Seconds until a record is in a whole file.
    pub flush_s: Option<u32>,
    /// How long records are kept, hours; `None` = for ever.
    pub keep_hours: Option<u32>,
    /// How large all files together may be, gigabytes; `None` = as large as they get.
    pub keep_gb: Option<u32>,
    /// The space that is left free in the file system, megabytes.
    pub reserve_mb: Option<u32>,
    /// Flow records kept per second, a uniform sample of all.
    pub records_per_second: Option<u32>,
    /// Records of a row group: so many are held in memory, per table and open hour.
    pub row_group: Option<u32>,
    /// Seconds between the rows of counters; 0 = none are written.
    pub counters_s: Option<u32>,
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            flows: None,
            vlan_in_key: true,
            metrics: true,
            metrics_rows: None,
            record_ring: None,
            timeouts: FlowTimeouts::default(),
            delay_limits: DelayLimits::default(),
            vtap_id: 1,
            jsonl: None,
            metrics_jsonl: None,
            parquet: None,
        }
    }
}

/// How long a flow may be silent before it ends, in seconds (the reference system's manual, section on its flow states).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// During the handshake.
    pub opening_s: u32,
    /// Established.
    pub established_s: u32,
    /// One or both sides sent FIN.
    pub closing_s: u32,
    /// After RST, or after flags that fit no state.
    pub reset_s: u32,
    /// Only one side sent packets, whatever the state.
    pub one_way_s: u32,
    /// Both sides sent packets, not TCP.
    pub other_s: u32,
}

impl Default for FlowTimeouts {
    fn default() -> Self {
        Self { opening_s: 5, established_s: 300, closing_s: 35, reset_s: 5, one_way_s: 5, other_s: 35 }
    }
}

/// Samples of delays above these are discarded, nanoseconds (the defaults are those of the reference system's manual).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayLimits {
    /// Round trips of the handshake: 30 s.
    pub handshake_ns: u64,
    /// From a request to the server's bare ACK: 10 s.
    pub ack_ns: u64,
    /// From a request to the response: 30 s.
    pub response_ns: u64,
}

impl Default for DelayLimits {
    fn default() -> Self {
        Self { handshake_ns: 30_000_000_000, ack_ns: 10_000_000_000, response_ns: 30_000_000_000 }
    }
}

impl FlowTimeouts {
    /// The shortest of them.
    #[must_use]
    pub fn shortest_s(&self) -> u32 {
        let all =
            [self.opening_s, self.established_s, self.closing_s, self.reset_s, self.one_way_s, self.other_s];
        all.into_iter().min().unwrap_or(0)
    }
}
