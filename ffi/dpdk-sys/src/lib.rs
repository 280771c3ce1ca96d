//! Raw bindings to the installed libdpdk: the functions of the allowlist in `build.rs`, and the shim
//! (`csrc/shim.h`) over what DPDK's headers hold in macros and static inline functions.
//!
//! Only the crate `dpdk` uses this; nothing here is safe by itself. Tested with DPDK 22.11; the shim also
//! knows where 23.11 and 24.11 differ.
#![no_std]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::ptr_as_ptr,
    reason = "generated code; the C header documents it"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
