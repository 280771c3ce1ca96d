//! Any bytes as a frame for the parsers of `sluice_core::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::wire(data));
