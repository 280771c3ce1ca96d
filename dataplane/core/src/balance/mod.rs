//! Which member of a group has a flow?
//!
//! Every flow has a number, the same in both directions ([`flow_hash`]); every number has an order of preference of the
//! members ([`Preferences`]). The first of them that is there gets the flow. So when a member goes away, only its flows
//! move, spread over the others; when it is back, they are back.

mod hash;
mod preferences;

pub use hash::flow_hash;
pub use preferences::Preferences;
