//! End-to-end tests and golden captures of Sluice.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "support of tests: a broken promise should stop the test"
)]

pub mod captures;
pub mod daemon;
pub mod dedup_model;
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
pub mod tap;
pub mod tcpdump;
pub mod traffic;
pub mod tshark;
