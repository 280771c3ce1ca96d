//! Network namespaces for live tests: how are they made, linked, looked at, and always deleted?

use std::fmt::Display;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// One lab at a time in a process: daemons poll, and this machine may have few cores.
static TURN: Mutex<()> = Mutex::new(());
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The namespaces, mounts and files of one test; all gone when it is dropped.
#[derive(Debug)]
pub struct Lab {
    id: String,
    namespaces: Vec<Namespace>,
    mounts: Vec<String>,
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// A lab, once no other test of this process has one. Without root it says so and gives `None`, for the test to
    /// return; with `CI=true` it panics instead.
    pub fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!ci, "{test}: needs root for network namespaces");
            crate::left_out(format_args!("{test}: needs root for network namespaces"));
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("sl{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("sluice-live-").tempdir().unwrap();
        Some(Self { id, namespaces: vec![], mounts: vec![], dir, _turn: turn })
    }

    /// A new namespace with its loopback up. No interface in it gets IPv6 addresses by itself.
    pub fn namespace(&mut self, tag: &str) -> Namespace {
        let namespace = Namespace { name: format!("{}-{tag}", self.id) };
        run(&format!("ip netns add {}", namespace.name));
        self.namespaces.push(namespace.clone());
        namespace.ip("link set lo up");
        namespace
    }

    /// The folder of the test's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A folder with room for so many KiB.
    pub fn small_disk(&mut self, kib: u32) -> std::path::PathBuf {
        let path = self.dir().join("small-disk");
        std::fs::create_dir(&path).unwrap();
        run(&format!("mount -t tmpfs -o size={kib}k sluice-test {}", path.display()));
        self.mounts.push(path.display().to_string());
        path
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for mount in &self.mounts {
            drop(Command::new("umount").args(["-l", mount]).status());
        }
        for namespace in &self.namespaces {
            drop(Command::new("ip").args(["netns", "del", &namespace.name]).status());
        }
    }
}

/// A network namespace of a [`Lab`].
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

/// The kernel's counters of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Received packets that were dropped.
    pub rx_dropped: u64,
}

impl std::ops::Sub for LinkCounters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            rx_packets: self.rx_packets - earlier.rx_packets,
            tx_packets: self.tx_packets - earlier.tx_packets,
            rx_bytes: self.rx_bytes - earlier.rx_bytes,
            tx_bytes: self.tx_bytes - earlier.tx_bytes,
            rx_dropped: self.rx_dropped - earlier.rx_dropped,
        }
    }
}

impl Namespace {
    /// `ip` with these arguments, inside; it must succeed.
    pub fn ip(&self, arguments: impl Display) {
        run(&format!("ip -n {} {arguments}", self.name));
    }

    /// A program to be started inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command line, split at blanks, inside; it must succeed. Gives its output.
    pub fn run(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.name))
    }

    /// Starts `work` on a thread inside.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    /// A veth pair from here to `other`, both ends up and silent: no addresses, so no discovery.
    pub fn veth(&self, here: &str, other: &Self, there: &str, mtu: u32) {
        self.ip(format!(
            "link add name {here} mtu {mtu} type veth peer name {there} mtu {mtu} netns {}",
            other.name
        ));
        for (namespace, device) in [(self, here), (other, there)] {
            namespace.silent(device);
            namespace.ip(format!("link set dev {device} up"));
        }
    }

    /// Lets the kernel say nothing of its own over a device.
    pub fn silent(&self, device: &str) {
        self.ip(format!("link set dev {device} addrgenmode none"));
    }

    /// Adds addresses; IPv6 ones are usable at once.
    pub fn address(&self, device: &str, addresses: &[&str]) {
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            self.ip(format!("addr add {address} dev {device}{nodad}"));
        }
    }

    /// Switches every offload of a device that changes frames on or off.
    pub fn offloads(&self, device: &str, on: bool) {
        let state = if on { "on" } else { "off" };
        self.run(&format!(
            "ethtool -K {device} tso {state} gso {state} gro {state} tx {state} rx {state} sg {state}"
        ));
    }

    /// The Ethernet address of a device.
    #[must_use]
    pub fn mac(&self, device: &str) -> String {
        let text = run(&format!("ip -n {} -o link show dev {device}", self.name));
        text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned()
    }

    /// What the kernel counted on a device.
    #[must_use]
    pub fn counters(&self, device: &str) -> LinkCounters {
        let text = run(&format!("ip -n {} -s link show dev {device}", self.name));
        let after = |head: &str| -> Vec<u64> {
            let line = text.lines().skip_while(|line| !line.trim_start().starts_with(head)).nth(1).unwrap();
            line.split_whitespace().map(|word| word.parse().unwrap()).collect()
        };
        let (rx, tx) = (after("RX:"), after("TX:"));
        LinkCounters {
            rx_bytes: rx[0],
            rx_packets: rx[1],
            rx_dropped: rx[3],
            tx_bytes: tx[0],
            tx_packets: tx[1],
        }
    }

    /// The Ethernet address that the kernel found for a neighbour.
    #[must_use]
    pub fn neighbor(&self, address: &str) -> Option<String> {
        let text = run(&format!("ip -n {} neigh show {address}", self.name));
        text.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned)
    }
}

/// Runs a command line, split at blanks; it must succeed. Gives its output.
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `condition` gives a value; panics when that takes longer than `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
