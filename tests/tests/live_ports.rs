//! Do ports come and go by a reload of the boot config while packets flow, and does a device of DPDK's that is pulled out
//! come back?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::sluiced::cli;
use sluice_tests::tcpdump::tshark;
use sluice_tests::traffic::{self, End};

const POLICY: &str = "[[destination]]\nname = \"out\"\ntype = \"port\"\nport = \"out\"\n\
                      [[policy]]\nname = \"all\"\nto = [\"out\"]\n";
const BOTH: &str = "[[destination]]\nname = \"out\"\ntype = \"port\"\nport = \"out\"\n\
                    [[destination]]\nname = \"second\"\ntype = \"port\"\nport = \"second\"\n\
                    [[policy]]\nname = \"all\"\nto = [\"out\", \"second\"]\n";
/// More for a port that is about to go.
const LISTENS: &str =
    "[[policy]]\nname = \"late\"\ningress = [\"late\"]\nprotocol = \"tcp\"\naction = \"drop\"\n";

/// A broker, and a peer at the other end of its links.
struct Rig {
    lab: Lab,
    broker: Namespace,
    peer: Namespace,
}

impl Rig {
    /// With links `vX` of the broker to `pX` of the peer.
    fn new(test: &str, links: &str) -> Option<Self> {
        let mut lab = Lab::new(test)?;
        let (broker, peer) = (lab.namespace("broker"), lab.namespace("peer"));
        for link in links.chars() {
            broker.veth(&format!("v{link}"), &peer, &format!("p{link}"), 1500);
        }
        Some(Self { lab, broker, peer })
    }

    fn start(&self, ports: &[String], rest: &str, policy: &str) -> Daemon {
        Daemon::start(&self.lab, &self.broker, &[rest, &ports.concat()].concat(), policy)
    }

    /// Has the daemon read what differs by `edit`.
    fn reload(&self, daemon: &Daemon, edit: impl FnOnce(String) -> String, policy: Option<&str>) {
        let boot = self.lab.dir().join("boot.toml");
        let text = edit(std::fs::read_to_string(&boot).unwrap());
        std::fs::write(&boot, text).unwrap();
        if let Some(policy) = policy {
            std::fs::write(self.lab.dir().join("policy.toml"), policy).unwrap();
        }
        daemon.signal(Signal::HUP);
    }

    /// Sends so many frames from a device of the peer.
    fn send(&self, device: &str, frames: u64) {
        send(&self.peer, device, move |sent| sent < frames);
    }

    fn arrived(&self, device: &str) -> u64 {
        self.peer.counters(device).rx_packets
    }

    fn wait_arrived(&self, device: &str, packets: u64) {
        wait_for(&format!("{packets} packets on {device}"), Duration::from_secs(10), || {
            (self.arrived(device) >= packets).then_some(())
        });
        assert_eq!(self.arrived(device), packets);
    }
}

/// A port of the boot config.
fn port(name: &str, spec: &str, role: &str) -> String {
    format!("[[port]]\nname = \"{name}\"\nspec = \"{spec}\"\nrole = \"{role}\"\n")
}

/// Sends frames while `go_on` says so of the number that were sent; returns that number.
fn send(from: &Namespace, device: &str, go_on: impl Fn(u64) -> bool + Send + 'static) -> u64 {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let end = |net: u8, port: u16| End::new(IpAddr::V4(Ipv4Addr::new(10, 0, net, 1)), port);
    let sending = from.inside(move || {
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        let mut sent = 0_u64;
        while go_on(sent) {
            let [.., flow] = sent.to_be_bytes();
            let frame = traffic::udp(&end(1, 1024 + u16::from(flow)), &end(2, 443), &[], &sent.to_be_bytes());
            let deadline = Instant::now() + Duration::from_secs(5);
            while tx.tx_frames(&[&[&frame]], |_, why| panic!("{why:?}")) == 0 {
                assert!(Instant::now() < deadline, "the kernel takes no frame");
            }
            sent += 1;
            if sent.is_multiple_of(20) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        sent
    });
    sending.join().unwrap()
}

/// Whether somebody asked the kernel for all frames of a device.
fn is_listened_to(namespace: &Namespace, device: &str) -> bool {
    !namespace.run(&format!("ip -d link show dev {device}")).contains("promiscuity 0")
}

/// Ends what sends all the time, also where the test fails.
struct Done(&'static AtomicBool);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two ports come, carry traffic, go and come back, while another one is never without.
fn come_and_go(test: &str, worker: &str) {
    let Some(rig) = Rig::new(test, "abcd") else { return };
    let [first, out] = [port("in", "af_packet:va", "capture"), port("out", "af_packet:vb", "output")];
    let [late, second] = [port("late", "af_packet:vc", "capture"), port("second", "af_packet:vd", "output")];
    let daemon = rig.start(&[first, out], &format!("{worker}\n[flow]\n[dedup]\nmode = \"count\"\n"), POLICY);
    let done: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let always = std::thread::scope(|scope| {
        let flood = scope.spawn(|| send(&rig.peer, "pa", move |_| !done.load(Ordering::Relaxed)));
        let end = Done(done);
        // Not yet there, not yet received.
        rig.send("pc", 50);
        assert!(!is_listened_to(&rig.broker, "vc"));
        rig.reload(&daemon, |boot| [boot, late.clone(), second.clone()].concat(), None);
        daemon.wait_log_times("the port is added", 2);
        assert!(is_listened_to(&rig.broker, "vc"));
        rig.send("pc", 300);
        assert_eq!(rig.arrived("pd"), 0, "no policy sends there yet");
        rig.reload(&daemon, |boot| boot, Some(BOTH));
        daemon.wait_log_times("policies in force", 1);
        rig.send("pc", 200);

        // What policies use stays, with the reason.
        rig.reload(&daemon, |boot| boot.replace(&second, ""), None);
        daemon.wait_log("the port stays");
        assert!(daemon.log().contains("no port \"second\" in the boot config"), "{}", daemon.log());
        rig.send("pc", 100);
        // A policy that only listens there is told of, and listens to nothing from then on.
        let policy = format!("{POLICY}{LISTENS}");
        rig.reload(&daemon, |boot| boot.replace(&late, ""), Some(&policy));
        daemon.wait_log_times("the port is removed", 2);
        assert!(!is_listened_to(&rig.broker, "vc"));
        rig.send("pc", 40);

        // Over and over: nothing is left of those that went.
        let files =
            |daemon: &Daemon| std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
        let before = files(&daemon);
        for round in 1..=10 {
            rig.reload(&daemon, |boot| boot + &late + &second, None);
            daemon.wait_log_times("the port is added", 2 + 2 * round);
            rig.reload(&daemon, |boot| boot.replace(&late, "").replace(&second, ""), None);
            daemon.wait_log_times("the port is removed", 2 + 2 * round);
        }
        assert_eq!(files(&daemon), before);

        // Back, under its name, and in front of all others.
        rig.reload(
            &daemon,
            |boot| {
                format!(
                    "{}\n{late}{}",
                    boot.split_once("[[port]]").unwrap().0,
                    boot.split_once("[[port]]").map(|(_, rest)| format!("[[port]]{rest}")).unwrap()
                )
            },
            Some(POLICY),
        );
        daemon.wait_log_times("the port is added", 23);
        rig.send("pc", 25);
        drop(end);
        flood.join().unwrap()
    });
    rig.wait_arrived("pb", always + 625);
    let to_second = rig.arrived("pd");
    assert!(to_second > 300, "{to_second}");
    let summary = daemon.stop();
    assert_eq!(summary.rx(), always + 625);
    assert_eq!(summary.port("in"), [always, 0, 0]);
    assert_eq!(summary.port("late"), [625, 0, 0], "under its name it goes on counting");
    assert_eq!(summary.port("second"), [0, to_second, 0], "what it counted stays counted");
    assert_eq!(summary.copies("out"), always + 625);
    assert_eq!((summary.drops(), summary.total("lost before rx")), (0, 0));
}

#[test]
fn one_worker_takes_ports_and_lets_them_go() {
    come_and_go("ports-one", "");
}

#[test]
fn two_workers_behind_a_distributor_take_ports_and_let_them_go() {
    come_and_go("ports-two", "[worker]\nlcores = [0, 1]\ndistributor = \"always\"\n");
}

#[test]
fn a_port_that_cannot_come_is_told_and_changes_nothing() {
    let Some(rig) = Rig::new("ports-wrong", "abc") else { return };
    let [first, out] = [port("in", "af_packet:va", "capture"), port("out", "af_packet:vb", "output")];
    let daemon =
        rig.start(&[first, out.clone()], "[worker]\nrx_descriptors = 64\n[memory]\nmbufs = 32767\n", POLICY);
    let mut sent = 0;
    let mut check = || {
        sent += 30;
        rig.send("pa", 30);
        rig.wait_arrived("pb", sent);
    };
    check();
    let decap = "decap = \"strip\"\n";
    for (number, (more, reason)) in [
        (port("x", "af_packet:nowhere", "capture"), "port=\"x\"".to_owned()),
        (port("x", "pcap:x.pcap", "capture"), "restart the daemon".to_owned()),
        (port("x", "vhost:/tmp/sluice-x.sock", "capture"), "a switch is waited for".to_owned()),
        (port("x", "net_nothing0", "capture"), "net_nothing0".to_owned()),
        (port("x", "af_packet:vc", "capture") + decap, "no other port takes tunnels".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let before = daemon.log().len();
        rig.reload(&daemon, |boot| boot + &more, None);
        daemon.wait_log_times("the port does not come", number + 1);
        assert!(daemon.log()[before..].contains(&reason), "{reason}: {}", &daemon.log()[before..]);
        rig.reload(&daemon, |boot| boot.replace(&more, ""), None);
        check();
    }
    // A port that would change keeps its settings.
    rig.reload(&daemon, |boot| boot.replace("af_packet:vb", "af_packet:vc"), None);
    daemon.wait_log("refused=\"port \\\"out\\\"\"");
    rig.reload(&daemon, |boot| boot.replace("af_packet:vc", "af_packet:vb"), None);
    // So does one with another name.
    rig.reload(&daemon, |boot| boot.replace("name = \"out\"", "name = \"way\""), None);
    daemon.wait_log("refused=\"port \\\"way\\\" (the device of port \\\"out\\\")\"");
    rig.reload(&daemon, |boot| boot.replace("name = \"way\"", "name = \"out\""), None);
    // The one that policies need.
    rig.reload(&daemon, |boot| boot.replace(&out, ""), None);
    daemon.wait_log("the port stays");
    rig.reload(&daemon, |boot| boot + &out, None);
    check();

    // Sixteen more are room for, of DPDK's, too.
    let null = |number: u32| port(&format!("n{number}"), &format!("net_null{number},no-rx=1"), "capture");
    let many: String = (0..17).map(null).collect();
    rig.reload(&daemon, |boot| boot + &many, None);
    daemon.wait_log("there is room for 18 ports");
    daemon.wait_log_times("the port is added", 16);
    check();
    // When one has gone there is room for another.
    rig.reload(&daemon, |boot| boot.replace(&null(3), ""), None);
    daemon.wait_log("the port is removed");
    rig.reload(&daemon, |boot| boot, None);
    daemon.wait_log_times("the port is added", 17);
    assert!(daemon.log().contains("the port is added port=\"n16\""), "{}", daemon.log());
    check();
    let rest: String = (0..17).filter(|number| *number != 3).map(null).collect();
    rig.reload(&daemon, |boot| boot.replace(&rest, ""), None);
    daemon.wait_log_times("the port is removed", 17);
    check();
    let summary = daemon.stop();
    assert_eq!((summary.rx(), summary.copies("out")), (sent, sent));
    assert_eq!((summary.drops(), summary.total("lost before rx")), (0, 0));
}

/// Each new port has a few packet buffers at a time: more than there are, and traffic would be lost.
#[test]
fn a_port_that_takes_too_many_packet_buffers_is_refused() {
    let Some(rig) = Rig::new("ports-many", "ab") else { return };
    let [first, out] = [port("in", "af_packet:va", "capture"), port("out", "af_packet:vb", "output")];
    let daemon = rig.start(&[first, out], "[worker]\nrx_descriptors = 4096\n", POLICY);
    let ports = [port("x", "net_null0,no-rx=1", "capture"), port("y", "net_null1,no-rx=1", "capture")];
    rig.reload(&daemon, |boot| boot + &ports.concat(), None);
    daemon.wait_log("packet buffers can be held at once, and there are 8191; set `mbufs = ");
    rig.send("pa", 30);
    rig.wait_arrived("pb", 30);
    daemon.stop();
}

/// Deduplication was told at the start what it can rely on.
#[test]
fn a_port_that_breaks_what_deduplication_relies_on_is_refused() {
    let Some(rig) = Rig::new("ports-dedup", "ab") else { return };
    let first = port("null", "net_null0,no-rx=1", "capture");
    let ports = [first.clone(), port("out", "af_packet:vb", "output")];
    let daemon = rig.start(&ports, "[dedup]\nmode = \"count\"\n[memory]\nmbufs = 32767\n", POLICY);
    let kernel = port("in", "af_packet:va", "capture");
    rig.reload(&daemon, |boot| boot + &kernel, None);
    daemon.wait_log("write `l4_checksum = false` in [dedup.key]");
    rig.reload(
        &daemon,
        |boot| boot.replace(&kernel, &first.replace("null0", "null1").replace("\"null\"", "\"more\"")),
        None,
    );
    daemon.wait_log("the port is added port=\"more\"");
    daemon.stop();
}

/// A port of DPDK's over a kernel interface, which is as good as pulled out when that is deleted.
#[test]
fn a_device_of_dpdks_that_is_pulled_out_comes_back() {
    let Some(rig) = Rig::new("ports-pulled", "abcd") else { return };
    let ports = [
        port("in", "af_packet:va", "capture"),
        port("card", "net_af_packet0,iface=vc", "capture"),
        port("out", "net_af_packet1,iface=vb", "output"),
        port("other", "af_packet:vd", "output"),
    ];
    let policy = "[[destination]]\nname = \"out\"\ntype = \"port\"\nport = \"out\"\n\
                  [[destination]]\nname = \"other\"\ntype = \"port\"\nport = \"other\"\n\
                  [[policy]]\nname = \"all\"\nto = [\"out\", \"other\"]\n";
    let daemon = rig.start(&ports, "", policy);
    rig.send("pc", 100);
    rig.wait_arrived("pb", 100);
    for round in 1..=3 {
        rig.broker.ip("link del dev vc");
        daemon.wait_log_times("port=\"card\"", 2 * round - 1);
        rig.send("pa", 50);
        rig.wait_arrived("pd", 150 + 200 * (round as u64 - 1));
        rig.broker.veth("vc", &rig.peer, "pc", 1500);
        daemon.wait_log_times("the interface is back", round);
        daemon.wait_log_times("link up", round);
        rig.send("pc", 150);
        rig.wait_arrived("pd", 300 + 200 * (round as u64 - 1));
    }
    // The way out, too: what would leave by it meanwhile is dropped as such.
    rig.broker.ip("link del dev vb");
    daemon.wait_log_times("the interface is gone", 4);
    std::thread::sleep(Duration::from_millis(100));
    rig.send("pa", 20);
    rig.broker.veth("vb", &rig.peer, "pb", 1500);
    daemon.wait_log_times("the interface is back", 4);
    daemon.wait_log_times("link up", 4);
    std::thread::sleep(Duration::from_millis(100));
    rig.send("pc", 10);
    rig.wait_arrived("pb", 10);
    let summary = daemon.stop();
    assert_eq!(summary.port("card"), [100 + 3 * 150 + 10, 0, 0], "all lives of the device");
    assert_eq!(summary.port("out"), [0, 100 + 3 * 200 + 10, 0]);
    assert_eq!((summary.dropped("port_down"), summary.drops()), (20, 20));
}

/// What was captured of a port that came after the capture began has its name, and that of files has it, too.
#[test]
fn a_capture_that_runs_describes_ports_that_come() {
    let Some(rig) = Rig::new("ports-capture", "abc") else { return };
    let ports = [port("in", "af_packet:va", "capture"), port("out", "af_packet:vb", "output")];
    let policy = "[[destination]]\nname = \"out\"\ntype = \"port\"\nport = \"out\"\n\
                  [[destination]]\nname = \"file\"\ntype = \"pcap\"\nfile = \"copies.pcap\"\n\
                  [[policy]]\nname = \"all\"\nto = [\"out\", \"file\"]\n";
    let daemon = rig.start(&ports, "[api]\nsocket = \"api.sock\"\n", policy);
    daemon.wait_log("the API is served");
    let socket = format!("unix:{}", rig.lab.dir().join("api.sock").display());
    let captures = [("received", 30), ("sent", 60)].map(|(point, packets)| {
        let file = rig.lab.dir().join(format!("{point}.pcapng"));
        let mut command = Command::new(cli());
        command.args(["--server", &socket, "capture", "--point", point, "-c", &packets.to_string(), "-w"]);
        (command.arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(), file)
    });
    daemon.wait_log_times("capture", 2);
    std::thread::sleep(Duration::from_millis(300));
    rig.reload(&daemon, |boot| boot + &port("late", "af_packet:vc", "capture"), None);
    daemon.wait_log("the port is added");
    for _ in 0..5 {
        rig.send("pa", 3);
        rig.send("pc", 3);
    }
    let names = captures.map(|(mut capture, file)| {
        assert!(capture.wait().unwrap().success());
        let mut names = BTreeMap::new();
        for name in tshark(&file, "udp", &["frame.interface_name"], &[]) {
            *names.entry(name).or_insert(0) += 1;
        }
        names
    });
    let expected = [vec![("in", 15), ("late", 15)], vec![("(files)", 30), ("out", 30)]];
    for (names, expected) in names.iter().zip(expected) {
        let names: Vec<_> = names.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(names, expected);
    }
    daemon.stop();
}
