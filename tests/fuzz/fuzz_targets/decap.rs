//! Any bytes as a frame whose tunnels are taken off.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::decap(data));
