//! What Sluice saw, in files that analytics tools read.
//!
//! A [`parquet::ParquetSink`] takes batches of records and keeps a folder of Parquet files. It blocks while it writes:
//! call it from a thread of its own (of an async runtime: a blocking one).
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

pub mod parquet;
