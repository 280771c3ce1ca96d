//! Are a thousand policies exchanged a thousand times under full load, on two workers, without loss, in time, without
//! taking more and more memory, and has every copy the tag of a policy that was in force when its packet was matched?
//!
//! Two ports replay a capture from memory as fast as the workers take it. Both generations have a policy of the same name
//! for each flow, with other tags. Every packet has to be matched by exactly one, whenever the workers change over. First
//! the copies go to a port that takes all there are, then to one pipe per worker, where all of them are read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_engine::runtime::{DeployError, Engine};
use sluice_model::spec::{parse_boot, parse_policy};
use sluice_model::{Generation, PolicySet};
use sluice_tests::netns::wait_for;
use sluice_tests::pcap_file::{Builder, ETHERNET, Record};
use sluice_tests::traffic::{self, End};

const POLICIES: u32 = 1_000;
const CHANGES: usize = 1_000;
/// Changes while every copy is read.
const READ_CHANGES: usize = 200;
/// The tags of these begin here.
const READ_BASES: [u32; 2] = [30_000, 40_000];
/// How much more memory the second half of the changes may take than the first: what an allocator leaves lying about.
const GROWTH_KB: u64 = 8_192;

/// A policy for each source address, with tags from `base` on, whose copies leave by this port.
fn policies(base: u32, port: &str) -> PolicySet {
    let mut text = format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"192.0.2.10\"\n\
         local = \"192.0.2.1\"\nmac = \"02:00:00:00:00:09\"\nport = \"{port}\"\n"
    );
    for number in 0..POLICIES {
        let tag = base + number;
        writeln!(
            text,
            "[[policy]]\nname = \"p{number}\"\ncollect = {{ addresses = [\"{}\"] }}\npeer = {{ addresses = \
             [\"172.16.0.0/12\"] }}\ntag = {tag}\npayload = {}\nto = [\"tool\"]",
            source(number),
            number % 100
        )
        .unwrap();
    }
    parse_policy("policy.toml", &text).unwrap().value
}

fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0001 + number * 3)
}

/// Memory in use, kB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What was read of the copies of one worker.
#[derive(Debug, Default)]
struct Copies {
    packets: u64,
    /// How often copies of another generation began.
    changes: usize,
}

/// Reads a worker's copies as they are sent, a capture file without end: each must have the tag of its own policy.
fn reader(pipe: PathBuf) -> JoinHandle<Copies> {
    std::thread::spawn(move || {
        let mut file = BufReader::with_capacity(1 << 16, File::open(pipe).unwrap());
        file.read_exact(&mut [0; 24]).unwrap();
        let (mut copies, mut base_before, mut header, mut frame) =
            (Copies::default(), 0, [0; 16], Vec::new());
        while file.read_exact(&mut header).is_ok() {
            frame.resize(u32::from_ne_bytes(header[8..12].try_into().unwrap()) as usize, 0);
            file.read_exact(&mut frame).unwrap();
            let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
            // Ethernet, IPv4, UDP, VXLAN (RFC 7348), Ethernet, IPv4.
            assert_eq!(
                (&frame[12..14], frame[23], &frame[36..38]),
                (&[8, 0][..], 17, &4789_u16.to_be_bytes()[..])
            );
            let (vni, policy) = (number(46) >> 8, (number(76) - source(0).to_bits()) / 3);
            assert!(
                vni == READ_BASES[0] + policy || vni == READ_BASES[1] + policy,
                "{vni} of policy {policy}"
            );
            let base = vni - policy;
            copies.changes += usize::from(base != base_before);
            base_before = base;
            copies.packets += 1;
        }
        copies
    })
}

fn start(folder: &Path, flow: &str, pipes: &[PathBuf; 2]) -> Engine {
    let mut capture = Builder::new(ETHERNET);
    let server = End::new(Ipv4Addr::new(172, 16, 0, 1).into(), 443);
    for number in 0..POLICIES {
        let client = End::new(source(number).into(), 40_000);
        let frame = if number.is_multiple_of(2) {
            traffic::udp(&client, &server, &[], &[0x5a; 20])
        } else {
            traffic::tcp(&client, &server, &[], 0x10, number, 1, &[0x5a; 30])
        };
        capture.push(Record { timestamp_ns: 0, wire_len: u32::try_from(frame.len()).unwrap(), data: &frame });
    }
    let file = folder.join("in.pcap");
    capture.save(&file);
    let file = file.display();
    let boot = format!(
        "policy = \"policy.toml\"\nloop_guard = false\n\
         [[port]]\nname = \"in0\"\nspec = \"net_pcap0,rx_pcap={file},infinite_rx=1\"\nrole = \"capture\"\n\
         [[port]]\nname = \"in1\"\nspec = \"net_pcap1,rx_pcap={file},infinite_rx=1\"\nrole = \"capture\"\n\
         [[port]]\nname = \"out\"\nspec = \"net_null0,no-rx=1\"\nrole = \"output\"\n\
         [[port]]\nname = \"read\"\nspec = \"net_pcap2,tx_pcap={},tx_pcap={}\"\nrole = \"output\"\n\
         [worker]\nlcores = [0, 1]\ndistributor = \"never\"\n\
         [eal]\nhugepages = \"never\"\n[memory]\nmbufs = 16383\n{flow}",
        pipes[0].display(),
        pipes[1].display()
    );
    let boot = parse_boot("boot.toml", &boot).unwrap().value;
    Engine::start(&boot, &policies(10_000, "out"), Generation(1)).unwrap()
}

/// The time within which so many of a hundred were done.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100) - 1]
}

#[test]
fn policies_are_exchanged_under_full_load() {
    let changes = CHANGES;
    let folder = tempfile::tempdir().unwrap();
    let pipes = ["copies0", "copies1"].map(|name| folder.path().join(name));
    assert!(Command::new("mkfifo").args(&pipes).status().unwrap().success());
    // Before DPDK binds this thread, and what it starts, to a CPU.
    let readers = pipes.clone().map(reader);
    let mut engine = start(folder.path(), "[flow]\nflows = 8192\nmetrics = false\n", &pipes);
    let sets = [policies(10_000, "out"), policies(20_000, "out")];

    let mut times = Vec::new();
    let mut resident_kb = [0; 2];
    let mut received = 0;
    for change in 0..changes {
        let deployed = engine.deploy(&sets[(change + 1) % 2], Generation(change as u64 + 2)).unwrap();
        assert_eq!(engine.generation(), Generation(change as u64 + 2));
        assert!(deployed.unresolved.is_empty());
        times.push(deployed.elapsed);
        let half = &mut resident_kb[change * 2 / changes];
        *half = resident().max(*half);
        let account = engine.account();
        assert!(account.balances(), "{account:?}");
        assert!(account.ledger.rx_packets > received, "traffic goes on");
        received = account.ledger.rx_packets;
    }
    let grown = resident_kb[1].saturating_sub(resident_kb[0]);
    let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    eprintln!(
        "{changes} changes: {p50:?} in the middle, {p99:?} at the 99th percentile; {grown} kB more memory"
    );

    let read_sets = READ_BASES.map(|base| policies(base, "read"));
    let sent =
        |engine: &Engine| engine.threads().iter().map(|thread| thread.ledger.tx_packets).collect::<Vec<_>>();
    for change in 0..READ_CHANGES {
        engine.deploy(&read_sets[change % 2], Generation((changes + change) as u64 + 2)).unwrap();
        let before = sent(&engine);
        wait_for("both workers to send", Duration::from_secs(30), || {
            sent(&engine).iter().zip(&before).all(|(now, before)| now > before).then_some(())
        });
    }

    engine.stop();
    let account = engine.account();
    let copies = readers.map(|reader| reader.join().unwrap());
    eprintln!("read while policies changed {READ_CHANGES} times: {copies:?}");
    // In the order in which they were sent no copy of a generation comes after one of the next.
    assert!(copies.iter().all(|copies| copies.changes == READ_CHANGES), "{copies:?}");
    let port = engine.ports().into_iter().find(|port| port.name == "read").unwrap();
    assert_eq!(copies.iter().map(|copies| copies.packets).sum::<u64>(), port.tx_packets);
    assert!(account.balances(), "{account:?}");
    let ledger = &account.ledger;
    let drops: Vec<_> = ledger.drops.iter().filter(|drop| drop.1 > 0).collect();
    assert_eq!((account.held, drops), (0, vec![]), "{ledger:?}");
    assert_eq!(ledger.tx_packets, ledger.rx_packets, "each packet left once");
    let totals = engine.policy_totals();
    assert_eq!(totals.iter().map(|policy| policy.matched_packets).sum::<u64>(), ledger.rx_packets);
    assert!(totals.iter().all(|policy| policy.matched_packets == policy.sent_packets));
    // Each worker goes round the flows: no policy had a packet more of either than the others.
    let counts = totals.iter().map(|policy| policy.matched_packets);
    let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
    assert!(most - least <= 2, "{least} to {most}");
    assert_eq!(engine.destination_totals()[0].packets, ledger.tx_packets);
    assert_eq!(engine.mbufs_in_use(), engine.mbufs_kept());
    let flows = engine.flows();
    let kept: u64 = flows.iter().map(|flow| flow.stats.verdicts_kept.get()).sum();
    assert!(kept > ledger.rx_packets / 2, "verdicts are kept with flows: {kept}");
    assert!(grown < GROWTH_KB, "{resident_kb:?} kB");
    assert!(p99 < Duration::from_millis(100), "{p99:?}");
    // The engine has stopped.
    let late = Instant::now();
    assert!(matches!(engine.deploy(&sets[0], Generation(9_999)), Err(DeployError::Stopped)));
    assert!(late.elapsed() < Duration::from_secs(1));
}
