//! How do flow records, metrics and counters become a folder of Parquet files?
//!
//! `DIR/table=flows/date=2023-11-14/hour=22/flows-1700000000123456-000001.parquet`: partitions by the time in the
//! records (`start_time` of flows, `time` of others), in UTC. A file is written under a hidden name beside, and renamed
//! when it is whole. `DIR/.sluice` is locked by the one sink that writes to the folder, and says how many records are
//! not in a whole file yet: after a crash the next sink counts them as lost, and removes what is left of the files.

mod base;
mod columns;
mod encode;
mod journal;
mod part;
mod place;
mod retention;
mod sample;
mod settings;
mod sink;
mod stats;
mod table;
mod waiting;

pub use base::WriteError;
pub use settings::{Now, ParquetSettings};
pub use sink::{OpenError, ParquetSink};
pub use sluice_model::ColumnProfile as Profile;
pub use stats::{Condition, SinkReport, SinkStats, Table, TableStats};
pub use waiting::Waiting;
