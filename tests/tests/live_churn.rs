//! Does a broker that does everything at once bear ports that come and go all the time under its hands?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::daemon::Daemon;
use sluice_tests::nest::Numbers;
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::traffic::{self, End};

const BOOT: &str = r#"
decap = "strip"

[flow]
jsonl = "flows.jsonl"
metrics_jsonl = "metrics.jsonl"
timeouts = { opening = 1, established = 1, closing = 1, reset = 1, one_way = 1, other = 1 }

[dedup]
mode = "drop"
window = "1s"

[limit]
rate_mbps = 50

[[port]]
name = "in0"
spec = "af_packet:va"
role = "capture"

[[port]]
name = "in1"
spec = "af_packet:vb"
role = "capture"

[[port]]
name = "out0"
spec = "af_packet:vc"
role = "output"
addresses = ["192.0.2.1/24"]

[[port]]
name = "out1"
spec = "af_packet:vd"
role = "output"
"#;

const POLICY: &str = r#"
[[destination]]
name = "tool"
type = "vxlan"
remote = "192.0.2.10"

[[destination]]
name = "wire"
type = "port"
port = "out1"

[[destination]]
name = "pool"
type = "group"
members = ["tool", "wire"]

[[destination]]
name = "file"
type = "pcap"
file = "copies.pcap"
rate_pps = 500

[[policy]]
name = "udp"
protocol = "udp"
tag = 7
to = ["pool", "file"]

[[policy]]
name = "all"
tag = 8
to = ["wire"]
"#;

/// The ends of the links: at the broker, at the other side.
const LINKS: [[&str; 2]; 4] = [["va", "pa"], ["vb", "pb"], ["vc", "pc"], ["vd", "pd"]];
/// What is learned of a link is learned within this time.
const SETTLE: Duration = Duration::from_millis(600);
/// What must happen happens within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Packet `number`, every third in VXLAN.
fn frame(number: u32) -> Vec<u8> {
    let end = |net: u8, host: u8, port: u16| End::new(IpAddr::V4(Ipv4Addr::new(10, net, 0, host)), port);
    let [.., flow] = number.to_be_bytes();
    let (client, server) = (end(1, flow % 64, 1024), end(2, 1, 443));
    let (src, dst) = if number.is_multiple_of(2) { (client, server) } else { (server, client) };
    let inner = traffic::udp(&src, &dst, &[], &number.to_be_bytes());
    if !number.is_multiple_of(3) {
        return inner;
    }
    let vxlan = [&[8, 0, 0, 0, 0, 0, 9, 0][..], &inner].concat();
    traffic::udp(&end(3, 1, 5000), &end(3, 2, 4789), &[], &vxlan)
}

/// Sends what comes next over a device as long as it is there, and again when it is there again.
fn sender(from: &Namespace, device: &'static str, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let stop = Arc::clone(stop);
    from.inside(move || {
        let begin = Instant::now();
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let Ok((_port, _, tx)) = sluice_af_packet::open(&config) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let mut tx = tx.unwrap();
            let mut broken = Instant::now();
            while !stop.load(Ordering::Relaxed) && broken.elapsed() < Duration::from_millis(30) {
                // The same packets at the same time by all senders: what one sends is a duplicate of the other's.
                let now = u32::try_from(begin.elapsed().as_micros() / 200).unwrap();
                while number < now {
                    let frame = frame(number);
                    if tx.tx_frames(&[&[&frame]], |_, _| {}) > 0 {
                        broken = Instant::now();
                    }
                    number += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    })
}

fn connect(broker: &Namespace, peer: &Namespace, [here, there]: [&str; 2]) {
    broker.veth(here, peer, there, 1600);
    if there == "pc" {
        peer.address("pc", &["192.0.2.10/24"]);
    }
}

/// Packets in a file of records.
fn packets(path: &std::path::Path, interval: Option<u64>) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| interval.is_none_or(|interval| row["interval"] == interval))
        .map(|row| row["packet_tx"].as_u64().unwrap() + row["packet_rx"].as_u64().unwrap())
        .sum()
}

fn churn(test: &str, worker: &str, seed: u64) {
    let Some(mut lab) = Lab::new(test) else { return };
    let broker = lab.namespace("broker");
    let peer = lab.namespace("peer");
    for link in LINKS {
        connect(&broker, &peer, link);
    }
    // Nobody listens for what the broker sends.
    peer.run("sysctl -qw net.ipv4.icmp_ratelimit=1000000");
    let daemon = Daemon::start(&lab, &broker, &format!("{BOOT}\n[worker]\n{worker}\n"), POLICY);
    daemon.wait_resolved(1);
    let stop = Arc::new(AtomicBool::new(false));
    let senders = ["pa", "pb"].map(|device| sender(&peer, device, &stop));
    let mut numbers = Numbers::new(seed);
    for _ in 0..24 {
        let [here, there] = LINKS[numbers.below(LINKS.len())];
        let pause = Duration::from_millis(numbers.below(500) as u64);
        match numbers.below(4) {
            0 => {
                peer.ip(format!("link set dev {there} down"));
                std::thread::sleep(pause);
                peer.ip(format!("link set dev {there} up"));
            }
            1 => {
                broker.ip(format!("link set dev {here} down"));
                std::thread::sleep(pause);
                broker.ip(format!("link set dev {here} up"));
            }
            _ => {
                broker.ip(format!("link del dev {here}"));
                std::thread::sleep(pause);
                connect(&broker, &peer, [here, there]);
            }
        }
        std::thread::sleep(Duration::from_millis(numbers.below(300) as u64));
    }
    std::thread::sleep(SETTLE);
    let moving = |namespace: &Namespace, device: &str, sent: bool| {
        let count = || {
            let counters = namespace.counters(device);
            if sent { counters.tx_packets } else { counters.rx_packets }
        };
        let before = count();
        wait_for(device, PATIENCE, || (count() > before + 20).then_some(()));
    };
    // On a busy machine all of that may pass between two looks: this link stays down until copies are dropped for it.
    let log = || daemon.log();
    let noticed = || log().lines().filter(|line| line.contains("link down") && line.contains("out1")).count();
    moving(&broker, "vd", true);
    let before = noticed();
    peer.ip("link set dev pd down");
    wait_for("the link to be noticed", PATIENCE, || (noticed() > before).then_some(()));
    std::thread::sleep(SETTLE);
    peer.ip("link set dev pd up");
    std::thread::sleep(SETTLE);
    // Everything works again: each port receives and sends.
    for [here, _] in LINKS {
        moving(&broker, here, here == "vc" || here == "vd");
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().unwrap();
    }
    std::thread::sleep(SETTLE);
    assert!(log().contains("the interface is back"), "{}", log());
    let (summary, dir) = (daemon.stop(), lab.dir());
    let count = |table: &str, row: &str| summary.get(table, row, 0);
    // All that is no duplicate was metered, tunnels or not, and all of it is in the files.
    // A busy machine may keep a worker from its ring.
    let before_flows =
        ["duplicate", "not_capture_port", "distributor_full"].map(|reason| summary.dropped(reason));
    let metered = summary.rx() - before_flows.iter().sum::<u64>();
    assert!(metered > 10_000 && summary.dropped("duplicate") > 1_000, "{}", summary.text);
    for lost in ["table full", "records lost", "metrics lost", "records unwritten", "metrics unwritten"] {
        assert_eq!(count("flow metering", lost), 0, "{lost}");
    }
    assert_eq!(packets(&dir.join("flows.jsonl"), None), metered);
    for interval in [1, 60] {
        assert_eq!(packets(&dir.join("metrics.jsonl"), Some(interval)), metered, "{interval} s");
    }
    // Groups and limits were at work, too, and no copy is in two places.
    assert!(summary.dropped("rate_limit") > 0 && summary.dropped("port_down") > 0, "{}", summary.text);
    let copies: u64 = ["tool", "wire", "file"].map(|destination| summary.copies(destination)).iter().sum();
    assert_eq!(copies, summary.tx());
    // An interface that is down, or was, keeps nobody from resting.
    for thread in ["worker0", "worker1", "distributor0"] {
        assert!(summary.get("thread", thread, 3) < 200_000, "{}", summary.text);
    }
}

#[test]
fn one_worker_bears_ports_that_come_and_go() {
    churn("churn", "lcores = [1]", 1);
}

#[test]
fn two_workers_bear_ports_that_come_and_go() {
    churn("churn of two", "lcores = [0, 1]", 2);
}
