//! End-to-end tests and golden captures of Sluice.
#![forbid(unsafe_code)]

pub mod captures;
pub mod fuzz_targets;
