//! Any bytes as a message of `sluice.v1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::api(data));
