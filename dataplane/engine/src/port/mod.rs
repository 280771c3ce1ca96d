//! The ends of the pipeline: where packets come from and where they leave.

mod rx;
mod tx;

pub use rx::{Feed, Source, SourceKind, TemplateSource};
pub(crate) use tx::drop_copy;
pub use tx::{Origin, TxDriver, TxPort};
