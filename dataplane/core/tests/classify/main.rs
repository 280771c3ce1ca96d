//! Does the classifier agree with a reference that takes one policy at a time?
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::cast_possible_truncation, clippy::missing_panics_doc)]

mod examples;
mod fragments;
mod generate;
mod packet;
mod random;
mod reference;
mod scale;
