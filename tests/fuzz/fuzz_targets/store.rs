//! Any bytes as a file of the store for `sluice_store::decode`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::store(data));
