//! The machine around a broker: what it lacks, what mends it, and the switch that it mirrors.
//!
//! Nothing here needs DPDK: the CLI runs on any machine.
#![forbid(unsafe_code)]

pub mod doctor;
mod machine;
pub mod ovs;

pub use machine::{Host, Machine, Tools};
