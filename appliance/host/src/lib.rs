//! The machine around a broker: what it lacks, and what mends it.
//!
//! Nothing here needs DPDK: the CLI runs on any machine.
#![forbid(unsafe_code)]

pub mod doctor;
mod machine;

pub use machine::{Host, Machine, Tools};
