//! Any bytes as frames for `sluice_core::classify`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::classify(data));
