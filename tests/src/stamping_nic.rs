//! A NIC that stamps what it receives, for machines that have none: `stamping_nic.c`, compiled here, comes between the
//! daemon and DPDK and makes one of `net_af_packet`. DPDK's ethdev and mbuf libraries are the real ones.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles it into `folder`; gives the library for `LD_PRELOAD`.
pub fn compile(folder: &Path) -> PathBuf {
    let library = folder.join("stamping_nic.so");
    let flags = Command::new("pkg-config").args(["--cflags", "libdpdk"]).output().unwrap();
    assert!(flags.status.success(), "pkg-config libdpdk: {}", String::from_utf8_lossy(&flags.stderr));
    let flags = String::from_utf8(flags.stdout).unwrap();
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/stamping_nic.c"))
        .args(flags.split_whitespace())
        // What DPDK's headers ask for at least.
        .args(cfg!(target_arch = "x86_64").then_some("-march=x86-64-v2"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    library
}
