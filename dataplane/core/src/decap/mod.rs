//! Taking tunnels off received packets, and what is remembered of them.
//!
//! [`unwrap`] follows the tunnels of one frame inwards and says which bytes hold the innermost packet that a port's
//! settings ask for; moving bytes is the caller's. [`LossMeter`] counts what is missing from numbered tunnels.

mod ends;
mod loss;
mod obstacle;
mod sequence;
mod straight;
mod tunnel_info;
mod walk;
#[cfg(test)]
mod walk_tests;

pub use ends::{End, Ends, end};
pub use loss::{LossCounts, LossMeter, TunnelKey};
pub use obstacle::{Obstacle, ObstacleCounts};
pub use sequence::{Bits, SequenceCounts, SequenceTracker};
pub use straight::{Straight, direct, straight};
pub use tunnel_info::TunnelInfo;
pub use walk::{NewHeader, Numbered, Unwrapped, is_candidate, unwrap, unwrap_at};
