//! The ends of the pipeline: where packets come from and where they leave.

mod nic_clock;
mod rx;
mod template;
mod tx;

pub use nic_clock::{NicClock, NicClockError, NicClockNews};
pub use rx::{Feed, Source, SourceKind};
pub use template::{Advance, Mark, TemplateSource};
pub use tx::{Origin, TxDriver, TxPort};
