//! Which policies match a packet? All of them, not only the first.
//!
//! Each header field that some policy constrains is a *dimension*. A table per dimension maps a value to an equivalence
//! class: values that no policy tells apart share one. The classes of a packet, packed into a key, are looked up in a
//! bounded cache of class combinations, which answers nearly every packet (recursive flow classification, Gupta and
//! McKeown 1999, with the cross products filled in on demand). A combination not seen before is worked out from
//! two-level bitmaps of policies (aggregated bit vectors, Baboescu and Varghese 2001). Both readings of a policy
//! (source in its collection point, destination in it) are evaluated over the same tables.

mod address;
mod batch;
mod cache;
mod classifier;
mod dimension;
mod ends;
mod explain;
mod fragments;
mod origins;
mod program;
mod rows;
mod sets;
mod sweep;
mod view;

pub use cache::CacheCounts;
pub use classifier::{Classifier, ClassifierConfig, Input, VerdictId};
pub use explain::{Explanation, Found, Mismatch, Subject, explain, tcp_flag_names};
pub use fragments::{FragmentOutcome, FragmentTable, FragmentTableConfig};
pub use origins::Origins;
pub use program::{CompileReport, Program};
