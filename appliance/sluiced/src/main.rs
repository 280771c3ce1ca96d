//! The Sluice daemon.
#![forbid(unsafe_code)]

fn main() {}
