//! Which policy sets were in force, and which one is to be in force after a start?
//!
//! A [`Store`] keeps the last [`KEPT`] applied policy sets in a folder, each as a *generation* with a number that is never
//! used again, who applied it, when and why, and what it changed. [`Store::append`] returns when the generation is on the disk; after
//! `kill -9`, a power cut or a full disk, [`Store::open`] finds the newest generation that is whole, and says what it
//! repaired.
//!
//! # Why files, and not a database
//!
//! A generation is a file of its own (`00000042.toml`), written beside, synchronised, renamed, and then never touched
//! again until it is the oldest. [redb](https://docs.rs/redb) is well kept and would do, but here
//!
//! * there is one writer, a change is a whole text, and there are 50 of them: nothing needs pages or a B-tree;
//! * what a bad byte can spoil is one generation, not the whole store: a repair never has to understand damaged data;
//! * a full disk leaves nothing half done, and needs no space to recover from;
//! * every point at which a write can fail is one of six calls of the system, so that tests can visit all of them;
//! * a generation is a policy file that an operator can read, copy and apply, with what is known about it in comments.
//!
//! What it costs: two synchronisations for each change, and the whole text each time, which is what operators apply.
//!
//! The store never reads policies; the text is checked by whoever applies it.
#![forbid(unsafe_code)]

mod changes;
mod disk;
mod entry;
mod error;
mod format;
mod lock;
mod repair;
#[cfg(test)]
mod sim;
mod stop_mark;
mod store;
#[cfg(test)]
mod store_tests;

pub use entry::{Entry, MAX_COMMENT_CHARS, MAX_POLICY_BYTES, MAX_WHO_CHARS, Origin, Stored, Summary};
pub use error::{Damage, StoreError};
pub use format::{FORMAT, MAX_FILE_BYTES, decode, encode, seal};
pub use lock::Holder;
pub use repair::Repair;
pub use stop_mark::StopMark;
pub use store::{KEPT, Store};
