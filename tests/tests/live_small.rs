//! Does a small broker stay small? 1,000 policies, 100,000 packets a second in 10,000 flows, records, metrics and the API.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_precision_loss, reason = "test code")]

use std::fmt::Write;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::daemon::{Daemon, cpu_time, resident_bytes};
use sluice_tests::netns::{Lab, Namespace};
use sluice_tests::traffic::{self, End};

/// What the profile promises, hugepages included.
const MOST_BYTES: u64 = 128_000_000;
/// The most of one CPU that it takes while nothing comes.
const MOST_IDLE: f64 = 0.05;
const POLICIES: u8 = 100;
const GROUPS: u8 = 10;
const FLOWS: u32 = 10_000;
/// Packets of a burst, and the time between two bursts: 100,000 packets a second.
const BURST: u32 = 200;
const PAUSE: Duration = Duration::from_millis(2);

const BOOT: &str = "profile = \"small\"\n\
    [[port]]\nname = \"tap0\"\nspec = \"af_packet:va\"\nrole = \"capture\"\n\
    [[port]]\nname = \"tool0\"\nspec = \"af_packet:vb\"\nrole = \"output\"\naddresses = [\"192.0.2.1/24\"]\n\
    [flow]\n[flow.parquet]\nfolder = \"records\"\nreserve_mb = 0\nflush = 2\ncounters = 1\n\
    [metrics]\n[dedup]\nmode = \"count\"\n[api]\nsocket = \"api.sock\"\n[eal]\n[memory]\n";

/// A thousand policies, each for one service of one network; together they match every packet once.
fn policies() -> String {
    let mut text = "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"192.0.2.10\"\n".to_owned();
    for (net, service) in (0..POLICIES).flat_map(|net| (0..GROUPS).map(move |service| (net, service))) {
        let ports = (u32::from(service) * 1_000, u32::from(service) * 1_000 + 999);
        write!(
            text,
            "[[policy]]\nname = \"net{net}-{service}\"\ncollect = {{ addresses = [\"10.1.{net}.0/24\"] }}\n\
             peer = {{ ports = \"{}-{}\" }}\nprotocol = \"udp\"\npayload = 64\ntag = {}\nto = [\"tool\"]\n",
            ports.0,
            ports.1,
            u32::from(net) * 16 + u32::from(service) + 1
        )
        .unwrap();
    }
    text
}

fn frames() -> Vec<Vec<u8>> {
    let end = |net: u8, host: u8, port: u16| End::new(IpAddr::V4(Ipv4Addr::new(10, net, host, 7)), port);
    let frame = |flow: u32| {
        let net = u8::try_from(flow % u32::from(POLICIES)).unwrap();
        let client =
            End::new(IpAddr::V4(Ipv4Addr::new(10, 1, net, u8::try_from(flow / 100).unwrap())), 40_000);
        traffic::udp(&client, &end(2, 1, u16::try_from(flow % 9_973).unwrap() + 1), &[], &[0x2e; 400])
    };
    (0..FLOWS).map(frame).collect()
}

/// Sends for so long; gives the packets sent.
fn send(from: &Namespace, device: &str, time: Duration) -> u64 {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let send = move || {
        let frames = frames();
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        let begin = Instant::now();
        let mut bursts = 0_u32;
        let mut next = frames.iter().cycle();
        while begin.elapsed() < time {
            let burst: Vec<[&[u8]; 1]> = next.by_ref().take(BURST as usize).map(|frame| [&**frame]).collect();
            let burst: Vec<&[&[u8]]> = burst.iter().map(|frame| &frame[..]).collect();
            let mut rest = &burst[..];
            while !rest.is_empty() {
                let taken = tx.tx_frames(rest, |_, why| panic!("{why:?}"));
                rest = &rest[taken..];
            }
            bursts += 1;
            std::thread::sleep((PAUSE * bursts).saturating_sub(begin.elapsed()));
        }
        u64::from(bursts) * u64::from(BURST)
    };
    from.inside(send).join().unwrap()
}

#[test]
fn a_small_broker_stays_small() {
    let Some(mut lab) = Lab::new("small") else { return };
    let long = std::env::var_os("SLUICE_LONG").is_some();
    let broker = lab.namespace("broker");
    let peer = lab.namespace("peer");
    broker.veth("va", &peer, "pa", 1500);
    broker.veth("vb", &peer, "pb", 1500);
    peer.address("pb", &["192.0.2.10/24"]);
    let daemon = Daemon::start(&lab, &broker, BOOT, &policies());
    daemon.wait_resolved(1);
    let share = |time: Duration, during: &mut dyn FnMut()| {
        let (before, begin) = (cpu_time(daemon.pid()), Instant::now());
        during();
        std::thread::sleep(time.saturating_sub(begin.elapsed()));
        cpu_time(daemon.pid()).saturating_sub(before).as_secs_f64() / begin.elapsed().as_secs_f64()
    };
    // Other work on the machine only adds: the quietest of some seconds.
    let seconds = (0..6).map(|_| share(Duration::from_secs(1), &mut || {}));
    let idle = seconds.fold(f64::INFINITY, f64::min);
    let idle_bytes = resident_bytes(daemon.pid());
    let time = Duration::from_secs(if long { 120 } else { 10 });
    let (mut sent, begin) = (0, Instant::now());
    let busy = share(Duration::ZERO, &mut || sent = send(&peer, "pa", time));
    let rate = sent as f64 / begin.elapsed().as_secs_f64();
    let busy_bytes = resident_bytes(daemon.pid());
    // Records of what ended are still on their way to files.
    std::thread::sleep(Duration::from_secs(3));
    let last_bytes = resident_bytes(daemon.pid());
    let summary = daemon.stop();
    let [received, _, lost] = summary.port("tap0");
    eprintln!(
        "idle: {:.1} % of a CPU, {:.1} MB; {rate:.0} packets/s, {lost} lost in the kernel: {:.1} % of a CPU, {:.1} MB, afterwards {:.1} MB",
        idle * 100.0,
        idle_bytes as f64 / 1e6,
        busy * 100.0,
        busy_bytes as f64 / 1e6,
        last_bytes as f64 / 1e6,
    );
    let most = idle_bytes.max(busy_bytes).max(last_bytes);
    assert!(most <= MOST_BYTES, "{most} bytes");
    assert!(idle < MOST_IDLE, "{idle} of a CPU");
    assert_eq!(received + lost, sent, "{}", summary.text);
    assert_eq!(summary.copies("tool"), received, "each is copied once: {}", summary.text);
    // Frames wait up to 1 ms in a block. A clock that lags behind the kernel's time stamps would show no delay at all.
    let p50_ns = summary.get("thread", "worker0", 4);
    assert!((10_000..1_000_000_000).contains(&p50_ns), "{}", summary.text);
}
