//! Any bytes as a policy file and as a boot config for `sluice_model::spec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz_targets::policy(data));
