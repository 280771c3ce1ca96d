//! Performance scenarios of Sluice: what one worker core forwards, and what a bare DPDK loop forwards beside it.
//!
//! Each scenario runs in a process of its own (EAL starts once in a process), on one pinned core. Rates count the time
//! that the thread really had the core, as the kernel accounts it, so that a busy neighbour on a shared machine costs
//! samples and not truth.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

pub mod measure;
pub mod policies;
pub mod reference;
pub mod report;
pub mod scenario;
pub mod templates;
pub mod thread_time;
pub mod traffic;
