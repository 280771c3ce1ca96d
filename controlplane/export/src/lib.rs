//! What Sluice saw, in files that analytics tools read, and what it counts, for Prometheus.
//!
//! A [`parquet::ParquetSink`] takes batches of records and keeps a folder of Parquet files. It blocks while it writes:
//! call it from a thread of its own (of an async runtime: a blocking one).
//! A [`prometheus::MetricsServer`] has a thread of its own and answers scrapes.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

pub mod counters;
pub mod parquet;
pub mod prometheus;
