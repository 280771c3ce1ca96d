//! Does a small broker stay small? 1,000 policies, 100,000 packets a second in 10,000 flows, records, metrics and the API.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, UNIX_EPOCH};

use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::daemon::{Daemon, Summary, cpu_time, cpu_wait, most_resident_bytes};
use sluice_tests::netns::{Lab, Namespace};
use sluice_tests::traffic::{self, End};

/// What the profile promises, hugepages included.
const MOST_BYTES: u64 = 128_000_000;
/// The most of one CPU that it takes while nothing comes.
const MOST_IDLE: f64 = 0.05;
const POLICIES: u8 = 100;
const GROUPS: u8 = 10;
const FLOWS: u32 = 10_000;
/// What the profile is for, packets a second.
const LOAD_PPS: f64 = 100_000.0;
/// Packets of a burst, and the time between two bursts: a twentieth more, for what the sender waits now and then.
const BURST: u32 = 210;
const PAUSE: Duration = Duration::from_millis(2);
/// A sender that got no CPU for so long sends what it owes at once; what it owes beyond, never: a flood is another test.
const OWED: Duration = Duration::from_millis(20);
/// How often it is tried until sender and worker have the CPUs that they need.
const TRIES: usize = 5;
/// Of the time under load, the most that the worker may wait for its CPU; beyond, a try tells of the machine.
const MOST_WAIT: f64 = 0.3;
/// Of what was sent, the most that may be lost, for waits that are longer than the ring of the interface lasts: 8 MB, a
/// seventh of a second. A worker that has its CPU loses nothing.
const MOST_LOST: f64 = 0.05;

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

/// At the end of a minute the records of all flows are written: that is when most memory is in use.
fn sleep_until_a_minute_ends_within(time: Duration) {
    let minute = Duration::from_secs(60);
    let since = UNIX_EPOCH.elapsed().unwrap();
    let gone = Duration::from_nanos((since.as_nanos() % minute.as_nanos()) as u64);
    let left = minute.saturating_sub(gone);
    std::thread::sleep(left.saturating_sub(time / 2));
}

/// What was sent, and how fast.
#[derive(Clone, Copy, Debug)]
struct Sent {
    pkts: u64,
    pps: f64,
}

/// Sends for so long.
fn send(from: &Namespace, device: &str, time: Duration) -> Sent {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let send = move || {
        let frames = frames();
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        let begin = Instant::now();
        let (mut bursts, mut due) = (0, Duration::ZERO);
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
            let now = begin.elapsed();
            due = (due + PAUSE).max(now.saturating_sub(OWED));
            std::thread::sleep(due.saturating_sub(now));
        }
        let pkts = u64::from(BURST) * bursts;
        Sent { pkts, pps: pkts as f64 / begin.elapsed().as_secs_f64() }
    };
    from.inside(send).join().unwrap()
}

/// A daemon through its idle and its busy time, and all that is left to tell of it.
struct Life {
    /// Of a CPU.
    idle: f64,
    busy: f64,
    /// Since its start, when it was idle and at its end.
    idle_bytes: u64,
    most_bytes: u64,
    sent: Sent,
    /// The worker, ready to run and without a CPU while packets came.
    waited: Duration,
    time: Duration,
    summary: Summary,
}

impl Life {
    fn new(lab: &Lab, broker: &Namespace, peer: &Namespace, time: Duration) -> Self {
        let daemon = Daemon::start(lab, broker, BOOT, &policies());
        daemon.wait_resolved(1);
        let share = |during: &mut dyn FnMut()| {
            let (before, begin) = (cpu_time(daemon.pid()), Instant::now());
            during();
            cpu_time(daemon.pid()).saturating_sub(before).as_secs_f64() / begin.elapsed().as_secs_f64()
        };
        // Other work on the machine only adds: the quietest of some seconds.
        let seconds = (0..6).map(|_| share(&mut || std::thread::sleep(Duration::from_secs(1))));
        let idle = seconds.fold(f64::INFINITY, f64::min);
        let idle_bytes = most_resident_bytes(daemon.pid());
        sleep_until_a_minute_ends_within(time);
        let waited = || cpu_wait(daemon.pid(), "sluice-worker0");
        let (mut sent, before) = (None, waited());
        let busy = share(&mut || sent = Some(send(peer, "pa", time)));
        let waited = waited().saturating_sub(before);
        // Records of what ended are still on their way to files.
        std::thread::sleep(Duration::from_secs(3));
        let most_bytes = most_resident_bytes(daemon.pid());
        let (sent, summary) = (sent.unwrap(), daemon.stop());
        let life = Self { idle, busy, idle_bytes, most_bytes, sent, waited, time, summary };
        eprintln!("{life}");
        life
    }

    /// Whether the machine had the CPUs that sender and worker need.
    fn counts(&self) -> bool {
        self.sent.pps >= LOAD_PPS && self.waited < self.time.mul_f64(MOST_WAIT)
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [idle, busy] = [self.idle, self.busy].map(|share| share * 100.0);
        let [idle_bytes, most_bytes] = [self.idle_bytes, self.most_bytes].map(|bytes| bytes as f64 / 1e6);
        let lost = self.summary.port("tap0")[2];
        write!(
            f,
            "idle: {idle:.1} % of a CPU, {idle_bytes:.1} MB; {:.0} packets/s, {lost} lost in the kernel while the \
             worker waited {:?} for its CPU: {busy:.1} % of a CPU, {most_bytes:.1} MB at most",
            self.sent.pps, self.waited,
        )
    }
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
    let time = Duration::from_secs(if long { 120 } else { 10 });
    let life = (0..TRIES).map(|_| Life::new(&lab, &broker, &peer, time)).find(Life::counts);
    let life = life.unwrap_or_else(|| {
        panic!(
            "this machine has no CPUs for {LOAD_PPS} packets a second just now: see the {TRIES} tries above"
        )
    });
    let Life { summary, sent, .. } = &life;
    assert!(life.most_bytes <= MOST_BYTES, "{life}");
    assert!(life.idle < MOST_IDLE, "{life}");
    let [received, _, lost] = summary.port("tap0");
    assert_eq!(received + lost, sent.pkts, "{}", summary.text);
    let came_meanwhile = sent.pps * life.waited.as_secs_f64();
    assert!(lost as f64 <= came_meanwhile.min(sent.pkts as f64 * MOST_LOST), "{life}");
    assert_eq!(summary.copies("tool"), received, "each is copied once: {}", summary.text);
    // Frames wait up to 1 ms in a block. A clock that lags behind the kernel's time stamps would show no delay at all.
    let p50_ns = summary.get("thread", "worker0", 4);
    assert!((10_000..1_000_000_000).contains(&p50_ns), "{}", summary.text);
}
