//! Do several workers behind a distributor lose nothing and keep each flow in order, and does an idle broker rest?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::daemon::{Daemon, Summary, cpu_time};
use sluice_tests::netns::{Lab, Namespace};
use sluice_tests::tcpdump::Tcpdump;
use sluice_tests::traffic::{self, End};

const POLICY: &str = "[[destination]]\nname = \"out\"\ntype = \"port\"\nport = \"out\"\n\
                      [[policy]]\nname = \"all\"\nto = [\"out\"]\n";
const FLOWS: u32 = 60;
const STEPS: u32 = 100;

/// A port of the boot config.
fn port(name: &str, spec: &str, role: &str) -> String {
    format!("[[port]]\nname = \"{name}\"\nspec = \"{spec}\"\nrole = \"{role}\"\n")
}

/// Both directions of flow `number`, in turn, each frame ending with the flow's number and its own.
fn frame(number: u32, step: u32) -> Vec<u8> {
    let [.., high, low] = number.to_be_bytes();
    let end = |net: u8, port: u16| End::new(IpAddr::V4(Ipv4Addr::new(10, net, high, low)), port);
    let (client, server) = (end(1, 1024), end(2, 443));
    let (src, dst) = if step.is_multiple_of(2) { (client, server) } else { (server, client) };
    let mut payload = vec![0x2e; 30];
    payload.extend(number.to_be_bytes());
    payload.extend(step.to_be_bytes());
    traffic::udp(&src, &dst, &[], &payload)
}

/// All flows, mixed, at a pace that a small ring and two busy CPUs can bear.
fn send(from: &Namespace, device: &str) {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let send = move || {
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        for step in 0..STEPS {
            for number in 0..FLOWS {
                let end = Instant::now() + Duration::from_secs(5);
                while tx.tx_frames(&[&[&frame(number, step)]], |_, why| panic!("{why:?}")) == 0 {
                    assert!(Instant::now() < end, "the kernel takes no frame");
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    from.inside(send).join().unwrap();
}

/// What each worker, or distributor, received.
fn received(summary: &Summary, thread: &str) -> u64 {
    summary.get("thread", thread, 0)
}

/// Sends all flows through a daemon with these worker settings; every frame must arrive, each flow in order.
fn through(test: &str, worker: &str, in_spec: &str) -> Option<Summary> {
    let mut lab = Lab::new(test)?;
    let broker = lab.namespace("broker");
    let peer = lab.namespace("peer");
    broker.veth("va", &peer, "pa", 1500);
    broker.veth("vb", &peer, "pb", 1500);
    let boot = [
        port("in", in_spec, "capture"),
        port("out", "af_packet:vb", "output"),
        format!("[worker]\n{worker}\n"),
    ]
    .concat();
    let daemon = Daemon::start(&lab, &broker, &boot, POLICY);
    let at_peer = Tcpdump::start(&lab, &peer, "pb");
    send(&peer, "pa");
    let mut flows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for frame in at_peer.stop() {
        if frame.data.get(12..14) != Some(&[8, 0]) || frame.data.len() != 80 {
            continue;
        }
        let number = |at: usize| u32::from_be_bytes(frame.data[at..at + 4].try_into().unwrap());
        flows.entry(number(72)).or_default().push(number(76));
    }
    let summary = daemon.stop();
    assert_eq!(flows.len() as u64, u64::from(FLOWS), "{}", summary.text);
    for (flow, steps) in &flows {
        assert!(steps.iter().copied().eq(0..STEPS), "flow {flow}: {steps:?}");
    }
    assert_eq!(summary.copies("out"), u64::from(FLOWS * STEPS));
    assert_eq!(summary.port("out")[1], summary.tx(), "by all workers: {}", summary.text);
    Some(summary)
}

#[test]
fn two_workers_behind_a_distributor_keep_flows_in_order() {
    let Some(summary) = through("distributor", "lcores = [0, 1]", "af_packet:va") else { return };
    let [first, second, distributor] =
        ["worker0", "worker1", "distributor0"].map(|thread| received(&summary, thread));
    assert!(first > 1000 && second > 1000, "{}", summary.text);
    assert_eq!(first + second, distributor, "the way out receives nothing");
    assert_eq!(summary.rx(), distributor, "received once");
}

#[test]
fn one_worker_may_have_a_distributor() {
    let settings = "lcores = [1]\ndistributor = \"always\"\nspread = \"ports\"\npolling = \"always\"";
    let Some(summary) = through("one worker", settings, "af_packet:va") else { return };
    assert_eq!(received(&summary, "worker0"), received(&summary, "distributor0"));
}

#[test]
fn without_a_distributor_a_port_has_one_worker() {
    let settings = "lcores = [0, 1]\ndistributor = \"never\"";
    let Some(summary) = through("never", settings, "af_packet:va") else { return };
    assert_eq!(received(&summary, "worker0"), u64::from(FLOWS * STEPS));
    assert_eq!(received(&summary, "worker1"), 0);
}

#[test]
fn a_port_with_symmetric_rss_needs_no_distributor() {
    let Some(mut lab) = Lab::new("rss") else { return };
    let broker = lab.namespace("broker");
    let boot = |settings: &str| {
        [
            port("in", "net_null0", "capture"),
            port("out", "net_null1", "output"),
            format!("[worker]\nlcores = [0, 1]\n{settings}\n"),
        ]
        .concat()
    };
    // net_null takes key and table as a NIC does; its packets are all alike and on all queues.
    let daemon = Daemon::start(&lab, &broker, &boot(""), POLICY);
    assert!(daemon.log().contains("ports spread packets by RSS"), "{}", daemon.log());
    std::thread::sleep(Duration::from_millis(200));
    let summary = daemon.stop();
    let [first, second] = ["worker0", "worker1"].map(|thread| received(&summary, thread));
    assert!(first > 1000 && second > 1000, "{}", summary.text);
    assert_eq!(first + second, summary.rx());

    // Policies on inner headers need what no NIC gives.
    let inner = POLICY.replace("[[policy]]\n", "[[policy]]\nheaders = \"inner\"\nprotocol = \"udp\"\n");
    let daemon = Daemon::start(&lab, &broker, &boot(""), &inner);
    assert!(daemon.log().contains("a NIC spreads by outer headers"), "{}", daemon.log());
    daemon.stop();
}

/// Part of one CPU that an idle daemon takes, over two seconds.
fn idle_load(test: &str, worker: &str) -> Option<f64> {
    let mut lab = Lab::new(test)?;
    let broker = lab.namespace("broker");
    let peer = lab.namespace("peer");
    broker.veth("va", &peer, "pa", 1500);
    broker.veth("vb", &peer, "pb", 1500);
    let boot = [
        port("in", "af_packet:va", "capture"),
        port("out", "af_packet:vb", "output"),
        format!("[worker]\n{worker}\n"),
    ]
    .concat();
    let daemon = Daemon::start(&lab, &broker, &boot, POLICY);
    std::thread::sleep(Duration::from_millis(300));
    let (begin, start) = (cpu_time(daemon.pid()), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let load = cpu_time(daemon.pid()).saturating_sub(begin).as_secs_f64() / start.elapsed().as_secs_f64();
    eprintln!("{test}: {:.1} % of one CPU", load * 100.0);
    daemon.stop();
    Some(load)
}

#[test]
fn an_idle_broker_takes_little_of_a_cpu() {
    let Some(adaptive) = idle_load("adaptive", "lcores = [1]") else { return };
    assert!(adaptive < 0.05, "{adaptive}");
    let Some(behind) = idle_load("adaptive with a distributor", "lcores = [0, 1]") else { return };
    assert!(behind < 0.05, "{behind}");
    let Some(always) = idle_load("always", "lcores = [1]\npolling = \"always\"") else { return };
    assert!(always > 3.0 * adaptive, "{always}");
}
