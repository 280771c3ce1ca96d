//! Any bytes as what a database of Open vSwitch sends to `sluice_ovsdb`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::ovsdb(data));
