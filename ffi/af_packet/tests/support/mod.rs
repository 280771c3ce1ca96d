//! A network namespace with a veth pair in it, for one test, and small frame tools.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]
#![allow(clippy::cast_possible_truncation, reason = "patterns of bytes")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sluice_af_packet::{AfPacketConfig, AfPacketPort, AfPacketRx, AfPacketTx, RxConfig, RxMeta, TxConfig};

/// A namespace that the calling thread (and what it spawns) lives in until it is dropped.
pub struct Netns {
    pub name: String,
    before: File,
    others: Vec<String>,
}

pub fn set_namespace(file: &File) {
    // SAFETY: setns takes no pointers; the descriptor is open.
    let rc = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(rc, 0, "setns: {}", std::io::Error::last_os_error());
}

impl Netns {
    /// Make and enter a namespace, or skip the test loudly when this is not possible.
    pub fn enter(tag: &str) -> Option<Self> {
        // SAFETY: no arguments, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            assert!(std::env::var_os("CI").is_none(), "this test needs root");
            eprintln!("SKIPPED: {tag}: needs root for network namespaces");
            return None;
        }
        let name = format!("sl-{tag}-{}", std::process::id());
        run(&format!("ip netns add {name}"));
        let before = File::open("/proc/thread-self/ns/net").unwrap();
        set_namespace(&File::open(format!("/run/netns/{name}")).unwrap());
        run("ip link set lo up");
        Some(Self { name, before, others: vec![] })
    }

    /// A second namespace, not entered.
    pub fn other(&mut self, tag: &str) -> String {
        let name = format!("{}-{tag}", self.name);
        run(&format!("ip netns add {name}"));
        run(&format!("ip netns exec {name} ip link set lo up"));
        self.others.push(name.clone());
        name
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        set_namespace(&self.before);
        for name in self.others.iter().chain([&self.name]) {
            drop(Command::new("ip").args(["netns", "del", name]).status());
        }
    }
}

/// Run a command line, split at blanks; it must succeed.
pub fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Standard output of a command that must succeed.
pub fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A veth pair, both ends up and silent (no IPv6 address, so no neighbour or router discovery).
pub fn veth(a: &str, b: &str, mtu: u32) {
    run(&format!("ip link add name {a} mtu {mtu} type veth peer name {b} mtu {mtu}"));
    for end in [a, b] {
        run(&format!("ip link set dev {end} addrgenmode none"));
        run(&format!("ip link set dev {end} up"));
    }
}

pub fn rx_config(interface: &str, rx: RxConfig) -> AfPacketConfig {
    AfPacketConfig { interface: interface.to_owned(), rx: Some(rx), tx: None }
}

pub fn open_rx(interface: &str, rx: RxConfig) -> (AfPacketPort, AfPacketRx) {
    let (port, rx, _) = sluice_af_packet::open(&rx_config(interface, rx)).unwrap();
    (port, rx.unwrap())
}

pub fn open_tx(interface: &str) -> (AfPacketPort, AfPacketTx) {
    let config = AfPacketConfig { interface: interface.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let (port, _, tx) = sluice_af_packet::open(&config).unwrap();
    (port, tx.unwrap())
}

/// Frames received until `count` are there, or nothing came for `patience`.
pub fn collect(rx: &mut AfPacketRx, count: usize, patience: Duration) -> Vec<(Vec<u8>, RxMeta)> {
    let mut frames = vec![];
    let mut last = Instant::now();
    while frames.len() < count && last.elapsed() < patience {
        let taken = rx.rx_frames(64, |bytes, meta| {
            frames.push((bytes.to_vec(), *meta));
            true
        });
        if taken > 0 {
            last = Instant::now();
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    frames
}

/// Send frames in one segment each; all must be taken.
pub fn send_all(tx: &mut AfPacketTx, frames: &[Vec<u8>]) {
    for frame in frames {
        let deadline = Instant::now() + Duration::from_secs(2);
        while tx.tx_frames(&[&[frame]], |_, why| panic!("{} bytes refused: {why:?}", frame.len())) == 0 {
            assert!(Instant::now() < deadline, "the kernel takes no frame");
        }
    }
}

/// A frame of `len` bytes with the given bytes after the addresses, then a pattern.
pub fn frame(len: usize, after_addresses: &[u8], seed: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
    bytes[..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a]);
    let end = len.min(12 + after_addresses.len());
    bytes[12..end].copy_from_slice(&after_addresses[..end - 12]);
    bytes
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
