//! Any bytes as a dialogue of frames with `sluice_core::neighbor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::neighbor(data));
