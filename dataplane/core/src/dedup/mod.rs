//! Was this packet seen a moment ago? Fingerprints over what does not change on a packet's way, and a table of those
//! seen within a window.
//!
//! [`Fingerprinter`] turns a packet into a keyed 64-bit number, [`DedupTable`] remembers when each number came first.
//! Nothing here drops: what becomes of a duplicate is the caller's business.

mod fingerprint;
mod table;

pub use fingerprint::{Fingerprinter, KeyProfile, MAX_KEY_BYTES, Scratch};
pub use table::{DedupTable, MIN_ENTRIES, Verdict, fingerprint_bits, table_bytes};
