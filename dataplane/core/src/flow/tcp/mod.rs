//! TCP connections: states, ends, and what can be measured of them.

mod ranges;
mod state;
mod tracker;

pub use ranges::RangePool;
pub use state::{FlowState, flags};
pub use tracker::{Delays, Direction, Handshake, Measured, TcpSegment, TcpTracker};
