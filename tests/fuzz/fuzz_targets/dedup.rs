//! A frame and a variation of it for the fingerprints of `sluice_core::dedup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::dedup(data));
