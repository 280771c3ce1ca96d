//! What is written where, how often, and for how long is it kept?

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use sluice_model::{ColumnProfile as Profile, ParquetOutput};

/// How a [`ParquetSink`](super::ParquetSink) writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParquetSettings {
    /// The folder; made when it is not there.
    pub folder: PathBuf,
    /// Columns of flow records.
    pub profile: Profile,
    /// After this long at most a record is in a whole file: what a crash can lose.
    pub flush: Duration,
    /// A file ends when it has this many bytes.
    pub file_bytes: u64,
    /// Records of a row group; so many are held in memory, per table and open hour.
    pub group_rows: usize,
    /// Records of hours that ended longer ago are removed.
    pub keep: Option<Duration>,
    /// The oldest files are removed when all have more bytes than this.
    pub keep_bytes: Option<u64>,
    /// With less space left in the file system nothing is written.
    pub reserve_bytes: u64,
    /// Flow records per second that are kept, a uniform sample of all; `None` = all.
    pub flow_cap: Option<u32>,
    /// How often the caller hands over [counters](super::ParquetSink::counters); `None` = never.
    pub counters: Option<Duration>,
}

impl ParquetSettings {
    /// The range that [`Self::flow_cap`] is clamped to.
    pub const FLOW_CAPS: std::ops::RangeInclusive<u32> = 100..=1_000_000;

    /// The defaults: what a daemon writes to `folder`.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            profile: Profile::Full,
            flush: Duration::from_secs(60),
            file_bytes: 256 << 20,
            group_rows: 1 << 16,
            keep: None,
            keep_bytes: None,
            reserve_bytes: 256_000_000,
            flow_cap: Some(10_000),
            counters: Some(Duration::from_secs(10)),
        }
    }

    /// What a boot config says; the rest as by default.
    #[must_use]
    pub fn of(output: &ParquetOutput) -> Self {
        let defaults = Self::new(output.folder.clone());
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Self {
            profile: output.columns,
            flush: output.flush_s.map_or(defaults.flush, seconds),
            keep: output.keep_hours.map(|hours| seconds(3600).saturating_mul(hours)),
            keep_bytes: output.keep_gb.map(|gigabytes| u64::from(gigabytes) * 1_000_000_000),
            reserve_bytes: output
                .reserve_mb
                .map_or(defaults.reserve_bytes, |megabytes| u64::from(megabytes) * 1_000_000),
            group_rows: output
                .row_group
                .map_or(defaults.group_rows, |rows| usize::try_from(rows).unwrap_or(usize::MAX)),
            flow_cap: output.records_per_second.or(defaults.flow_cap),
            counters: output
                .counters_s
                .map_or(defaults.counters, |interval| (interval > 0).then(|| seconds(interval))),
            ..defaults
        }
    }
}

/// The time, as the caller read it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What intervals are measured by.
    pub at: Instant,
    /// What ages are measured by.
    pub wall: SystemTime,
}

impl Now {
    /// Reads the clocks.
    #[must_use]
    pub fn read() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }

    /// Microseconds since the epoch.
    pub(crate) fn wall_us(&self) -> u64 {
        let since = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}
