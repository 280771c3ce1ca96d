//! Safe wrappers of CPU instructions the packet path needs: prefetch and hashing, with portable fall-backs,
//! and the check that the machine has what release builds are compiled for. No DPDK.

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_precision_loss))]

mod baseline;
mod compare;
mod hash;
mod memory;
mod prefetch;

pub use baseline::{MissingFeatures, cpu_baseline};
pub use compare::equal_u16x8;
pub use hash::{
    hash_u64, hash_u64x2, hash_u64x3, hash_u64x4, hash_u64x5, hash_u64x6, hash_u64x8, hash_words,
};
pub use memory::large_table;
pub use prefetch::{prefetch_index, prefetch_read, prefetch_write};
