//! End-to-end tests and golden captures of Sluice.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "support of tests: a broken promise should stop the test"
)]

pub mod api;
pub mod captures;
pub mod daemon;
pub mod dedup_model;
pub mod dropper;
pub mod feed;
pub mod flows;
pub mod fuzz_targets;
pub mod nest;
pub mod netns;
pub mod ovs;
pub mod pcap_file;
pub mod pki;
pub mod prometheus;
pub mod reference;
pub mod sluiced;
pub mod soak;
pub mod stamping_nic;
pub mod stream;
pub mod tap;
pub mod tcpdump;
pub mod traffic;
pub mod tshark;

use std::fmt::Display;
use std::io::Write;

/// Says that something is not tested here, and why. What a test prints is not seen when it passes: with a file
/// `SLUICE_LEFT_OUT` it gets a line as well.
///
/// # Panics
/// When that file cannot be written.
pub fn left_out(why: impl Display) {
    eprintln!("SKIPPED: {why}");
    let Some(file) = std::env::var_os("SLUICE_LEFT_OUT") else { return };
    let test = std::env::current_exe().expect("a test");
    let test = test.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut file = std::fs::File::options().create(true).append(true).open(file).expect("SLUICE_LEFT_OUT");
    // In one go: tests run side by side.
    file.write_all(format!("{test}\t{why}\n").as_bytes()).expect("SLUICE_LEFT_OUT");
}
