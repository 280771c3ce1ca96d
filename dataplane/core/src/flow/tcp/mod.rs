//! TCP connections: states, ends, and what can be measured of them.

mod handshake;
mod ranges;
mod state;
mod tracker;

pub use handshake::Handshake;
pub use ranges::RangePool;
pub use state::{FlowState, flags};
pub use tracker::{Delays, Direction, Measured, Samples, TcpSegment, TcpTracker};

#[cfg(test)]
mod tests;
