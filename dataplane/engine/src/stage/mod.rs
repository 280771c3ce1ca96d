//! The packet's way, one file per stage: rx, mirror, parse, guard, decap, dedup, flow, classify, act (limit, balance), tx.
//!
//! A stage takes the whole batch. At the end of each stage a packet is still live, or has exactly one end.

pub mod act;
pub mod balance;
pub mod classify;
pub(crate) mod compose;
pub mod decap;
pub mod dedup;
pub mod ends;
pub mod flow;
pub mod guard;
pub mod limit;
pub mod mirror;
pub mod parse;
mod pieces;
pub mod rx;
mod straight;
