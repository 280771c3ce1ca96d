//! May this copy leave? Token buckets that all workers share without locks, and the distribution breaker.

mod breaker;
mod bucket;
mod clock;
mod meter;

pub use breaker::Breaker;
pub use bucket::Bucket;
pub use clock::VirtualClock;
pub use meter::{Limit, Meter};
