//! How far can a frame be understood? One file per protocol, array-backed views, no panic on any bytes.

pub mod checksum;
mod parsed;

pub use parsed::{Fragment, L3, Parsed, Stop, TunnelHeader};
