//! Pure packet machinery on byte slices: parsing, classification, encapsulation.
//!
//! No DPDK, no I/O, no clock: time and bytes are arguments.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

pub mod balance;
pub mod classify;
pub mod decap;
pub mod dedup;
pub mod encap;
pub mod flow;
pub mod limit;
pub mod neighbor;
pub mod spread;
pub mod verdict;
pub mod wire;
