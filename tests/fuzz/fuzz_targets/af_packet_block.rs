//! Any bytes for the receive ring of `sluice_af_packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::af_packet_block(data));
