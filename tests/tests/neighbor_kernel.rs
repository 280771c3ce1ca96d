//! Do a `NeighborTable` and the Linux kernel find one another, and does the kernel get its echoes back?
//!
//! Two network namespaces of its own joined by a veth pair: the kernel of one is the neighbour, in the other a Python
//! helper carries frames between the interface and the table. Needs root, iproute2 and python3; skipped, loudly, without
//! them.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::io::{Read, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use sluice_core::neighbor::{NeighborConfig, NeighborState, NeighborTable, PortAddresses};

const OWN_MAC: &str = "02:00:00:00:00:01";
const KERNEL_MAC: &str = "02:00:00:00:00:02";

/// The two namespaces, deleted at the end.
struct Namespaces {
    port: String,
    kernel: String,
}

impl Namespaces {
    /// `None` when this machine does not allow it.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let names = Self { port: format!("sluice-nd-{id}-port"), kernel: format!("sluice-nd-{id}-host") };
        let (port, kernel) = (&names.port, &names.kernel);
        let made = ip(&format!("netns add {port}")) && ip(&format!("netns add {kernel}"));
        if !made {
            return None;
        }
        for command in [
            format!(
                "-n {port} link add port address {OWN_MAC} type veth peer name host address {KERNEL_MAC} netns {kernel}"
            ),
            format!("netns exec {port} sysctl -qw net.ipv6.conf.port.disable_ipv6=1"),
            format!("-n {port} link set port up"),
            format!("-n {kernel} link set lo up"),
            format!("-n {kernel} link set host up"),
            format!("-n {kernel} addr add 192.0.2.2/24 dev host"),
            format!("-n {kernel} addr add 2001:db8::2/64 dev host nodad"),
            format!("-n {kernel} addr add fe80::2/64 dev host nodad"),
        ] {
            assert!(ip(&command), "ip {command}");
        }
        Some(names)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.port, &self.kernel] {
            ip(&format!("netns del {name}"));
        }
    }
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).status().is_ok_and(|status| status.success())
}

/// The port's side of the link.
struct Link {
    helper: Child,
    to: ChildStdin,
    from: Receiver<Vec<u8>>,
    table: NeighborTable,
    start: Instant,
}

impl Link {
    fn new(namespaces: &Namespaces, table: NeighborTable) -> Self {
        let mut helper = Command::new("ip")
            .args([
                "netns",
                "exec",
                &namespaces.port,
                "python3",
                "-c",
                include_str!("../netns/packet_bridge.py"),
            ])
            .arg("port")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, from) = channel();
        let mut output = helper.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut len = [0; 2];
            while output.read_exact(&mut len).is_ok() {
                let mut frame = vec![0; usize::from(u16::from_be_bytes(len))];
                if output.read_exact(&mut frame).is_err() || sender.send(frame).is_err() {
                    break;
                }
            }
        });
        let to = helper.stdin.take().unwrap();
        Self { helper, to, from, table, start: Instant::now() }
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Runs the table until `done` or the time is over; says which.
    fn run(&mut self, seconds: u64, mut done: impl FnMut(&mut NeighborTable) -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            if done(&mut self.table) {
                return true;
            }
            let mut out = Vec::new();
            let mut received = self.from.recv_timeout(Duration::from_millis(5)).ok();
            while let Some(frame) = received {
                self.table.input(&frame, self.now_ns(), &mut out);
                received = self.from.try_recv().ok();
            }
            self.table.poll(self.now_ns(), &mut out);
            for frame in out {
                self.to.write_all(&(frame.len() as u16).to_be_bytes()).unwrap();
                self.to.write_all(&frame).unwrap();
            }
            self.to.flush().unwrap();
        }
        false
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.helper.kill());
        drop(self.helper.wait());
    }
}

#[test]
fn the_kernel_and_the_port_find_one_another() {
    let python = Command::new("python3").arg("-V").output().is_ok();
    let Some(namespaces) = python.then(Namespaces::new).flatten() else {
        sluice_tests::left_out("needs root, iproute2 and python3");
        return;
    };
    let addresses = PortAddresses {
        mac: OWN_MAC.parse().unwrap(),
        ipv4: vec![("192.0.2.1".parse().unwrap(), 24)],
        ipv6: vec![("2001:db8::1".parse().unwrap(), 64)],
        gateway4: None,
        gateway6: Some("fe80::2".parse().unwrap()),
    };
    // Short times, so that the refresh is seen too.
    let config = NeighborConfig { reachable_time_ns: 1_000_000_000, ..NeighborConfig::default() };
    let mut link = Link::new(&namespaces, NeighborTable::new(addresses, config));

    // The port finds the kernel, also by its link-local address as a gateway.
    let remotes: [IpAddr; 3] =
        ["192.0.2.2", "2001:db8::2", "2001:db8:1::7"].map(|remote| remote.parse().unwrap());
    let next_hops = remotes.map(|remote| link.table.next_hop(remote).unwrap());
    assert_eq!(next_hops[2], "fe80::2".parse::<IpAddr>().unwrap());
    for next_hop in next_hops {
        assert!(link.table.want(next_hop, 0));
    }
    let kernel_mac = KERNEL_MAC.parse().unwrap();
    let confirmed_after = |table: &NeighborTable, ns: u64| {
        next_hops.iter().all(|next_hop| {
            matches!(table.lookup(*next_hop), NeighborState::Resolved { mac, confirmed_ns: Some(at), .. }
                if mac == kernel_mac && at > ns)
        })
    };
    assert!(link.run(15, |table| confirmed_after(table, 0)), "{:?}", link.table);
    let first_ns = link.now_ns();

    // The kernel finds the port and pings it.
    let mut echo = Command::new("ip")
        .args(["netns", "exec", &namespaces.kernel, "python3", "-c", include_str!("../netns/echo.py")])
        .args(["192.0.2.1", "2001:db8::1"])
        .spawn()
        .unwrap();
    let mut status = None;
    link.run(30, |_| {
        status = echo.try_wait().unwrap();
        status.is_some()
    });
    let in_time = status.is_some_and(|status| status.success());
    if !in_time {
        drop(echo.kill());
        drop(echo.wait());
    }
    assert!(in_time, "{:?}", link.table);
    let shown = Command::new("ip").args(["-n", &namespaces.kernel, "neigh", "show"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    eprintln!("{shown}");
    for address in ["192.0.2.1", "2001:db8::1"] {
        let line = shown.lines().find(|line| line.starts_with(&format!("{address} "))).unwrap();
        assert!(line.contains(&format!("lladdr {OWN_MAC}")), "{line}");
    }

    // Unicast probes are answered too.
    assert!(link.run(15, |table| confirmed_after(table, first_ns + 1_000_000_000)), "{:?}", link.table);
    let counters = link.table.counters();
    assert_eq!((counters.invalid, counters.conflicts, counters.mac_changes), (0, 0, 0), "{counters:?}");
    assert_eq!(counters.echo_replies, 10);

    // And when the kernel goes, that is noticed: three probes to it, three to all.
    assert!(ip(&format!("-n {} link set host down", namespaces.kernel)));
    let failed = link.run(20, |table| {
        next_hops.iter().all(|next_hop| matches!(table.lookup(*next_hop), NeighborState::Failed { .. }))
    });
    assert!(failed, "{:?}", link.table);
}
