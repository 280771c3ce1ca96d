//! Does a distributor keep together what belongs together, in order, and is every packet in one account?
//!
//! Distributors and workers are fed directly, in one process without hugepages, by the virtual devices net_ring and
//! net_pcap.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a broken promise should stop the test; numbers are small"
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dpdk::{
    Burst, Eal, EalConfig, Hugepages, LcoreThread, Mempool, MempoolConfig, Port, PortConfig, Ring,
    RingConsumer, RxQueue, SocketId, Tsc, TxQueue,
};
use sluice_capture::PcapWriter;
use sluice_core::classify::{FragmentTable, FragmentTableConfig, Program};
use sluice_engine::clock::Clock;
use sluice_engine::counters::Tables;
use sluice_engine::idle::{Doorbell, IdleSettings};
use sluice_engine::ledger::{Account, Ledger};
use sluice_engine::output::{Egress, Output};
use sluice_engine::port::{Source, SourceKind, TxDriver, TxPort};
use sluice_engine::sequence::Sequences;
use sluice_engine::stage::decap::TunnelMeter;
use sluice_engine::stage::ends::PortEnds;
use sluice_engine::stage::guard::LoopGuard;
use sluice_engine::{
    ControlQueues, Deployment, DeploymentParts, Distributor, DistributorParts, Worker, WorkerParts,
};
use sluice_model::{DecapMode, DecapSettings, DropReason, Generation, PortId, SpreadBy};
use sluice_tests::traffic::{self, End};

const FLOWS: u32 = 200;
const POLICY: &str = "[[destination]]\nname = \"out\"\ntype = \"port\"\nport = \"out\"\n\
                      [[policy]]\nname = \"all\"\nto = [\"out\"]\n";

/// A port that gives back what it is given.
struct Loop {
    rx: Option<RxQueue>,
    tx: TxQueue,
}

impl Loop {
    fn new(eal: &Eal, name: &str, pool: &Mempool) -> Self {
        let port = Port::by_name(eal, name).unwrap();
        let (_port, mut rx, mut tx) = port.configure(&PortConfig::new(pool.clone())).unwrap();
        Self { rx: Some(rx.remove(0)), tx: tx.remove(0) }
    }

    fn send(&mut self, pool: &Mempool, frames: &[Vec<u8>]) {
        let mut burst = Burst::new();
        for frame in frames {
            burst.push(pool.copy_from(frame).unwrap()).unwrap();
        }
        assert_eq!(self.tx.tx_burst(&mut burst), frames.len());
    }
}

struct Rig {
    eal: Eal,
    pool: Mempool,
    input: Loop,
    rings: u32,
}

impl Rig {
    fn rings(&mut self, workers: usize, size: u32) -> (Vec<dpdk::RingProducer>, Vec<RingConsumer>) {
        let ring = |_| {
            self.rings += 1;
            Ring::spsc(&self.eal, &format!("r{}", self.rings), size).unwrap()
        };
        (0..workers).map(ring).unzip()
    }

    fn worker(&self, sources: Vec<Source>, exit: TxPort) -> Worker {
        let policies = sluice_model::spec::parse_policy("policy.toml", POLICY).unwrap().value;
        let (program, _) = Program::compile(&policies, &[], Generation(1));
        let parts = DeploymentParts {
            outputs: policies
                .destinations()
                .iter()
                .map(|d| Output::plain(d, 9000, Egress::Port(0)))
                .collect(),
            sequences: Sequences::new(Sequences::streams(program.streams().len())),
            program: Arc::new(program),
            limits: None,
            balance: None,
            files: None,
            guard: LoopGuard::disabled(),
            tables: Arc::new(Tables::new(policies.policies().len(), policies.destinations().len())),
        };
        Worker::new(WorkerParts {
            sources,
            ports: vec![exit],
            flow: None,
            decap: None,
            fragments: FragmentTable::new(&FragmentTableConfig::default()),
            headers: self.pool.clone(),
            dedup: None,
            control: ControlQueues::new(16),
            deployment: Deployment::new(parts, false),
        })
    }
}

fn distributor(rx: RxQueue, port: u16, rings: Vec<dpdk::RingProducer>, by: SpreadBy) -> Distributor {
    Distributor::new(DistributorParts {
        sources: vec![Source::new(PortId(port), true, None, SourceKind::Dpdk(rx))],
        rings,
        doorbells: Vec::new(),
        idle: IdleSettings::ALWAYS,
        by,
        innermost: Arc::new(true.into()),
        ends: PortEnds::default(),
        tunnels: None,
        fragments: FragmentTable::new(&FragmentTableConfig::default()),
        control: ControlQueues::new(16),
    })
}

/// The ends of flow `number`: IPv4 and IPv6, several flows between two addresses.
fn ends(number: u32) -> (End, End) {
    let (host, port) = (number / 4, 1024 + (number % 4) as u16);
    if number.is_multiple_of(3) {
        let address = |net: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host as u16 + 1));
        (End::new(address(1), port), End::new(address(2), 443))
    } else {
        let address =
            |net: u8| IpAddr::V4(Ipv4Addr::new(10, net, host.to_be_bytes()[2], host.to_be_bytes()[3]));
        (End::new(address(1), port), End::new(address(2), 443))
    }
}

/// The frames of flow `number` in their order, each ending with the flow's and its own number. Every third datagram
/// over IPv4 comes in three fragments; in half of these, the first one comes last.
fn flow(number: u32) -> Vec<Vec<u8>> {
    let (client, server) = ends(number);
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let mark = |frames: &Vec<Vec<u8>>| [number.to_be_bytes(), (frames.len() as u32).to_be_bytes()].concat();
    for datagram in 0..12_u16 {
        let (src, dst) = if datagram % 2 == 0 { (&client, &server) } else { (&server, &client) };
        let whole = traffic::udp(src, dst, &[], &[[0x2e; 32].as_slice(), &mark(&frames)].concat());
        if datagram % 3 != 2 || whole[12..14] != [8, 0] {
            frames.push(whole);
            continue;
        }
        let backwards = datagram % 2 == 1;
        for step in 0..3_u16 {
            let part = if backwards { 2 - step } else { step };
            // 8 bytes of UDP header and 16 of payload in the first one, 24 in the others.
            let body = if part == 0 { whole[34..58].to_vec() } else { vec![0x2d; 24] };
            let mut frame = [&whole[..34], &body, &mark(&frames)].concat();
            let more = if part == 2 { 0 } else { 0x2000 };
            // Each part holds 32 bytes, its mark included.
            frame[16..18].copy_from_slice(&52_u16.to_be_bytes());
            frame[18..20].copy_from_slice(&(0x100 + datagram).to_be_bytes());
            frame[20..22].copy_from_slice(&(more | (part * 4)).to_be_bytes());
            frames.push(frame);
        }
    }
    frames
}

/// All flows, mixed, each in its order.
fn mixed() -> Vec<Vec<u8>> {
    let flows: Vec<_> = (0..FLOWS).map(flow).collect();
    let longest = flows.iter().map(Vec::len).max().unwrap();
    (0..longest).flat_map(|step| flows.iter().filter_map(move |flow| flow.get(step).cloned())).collect()
}

/// Takes all that is in the rings: worker, frame, port and original length.
fn drain(rings: &mut [RingConsumer], mut each: impl FnMut(usize, &[u8], dpdk::Note)) {
    let mut burst = Burst::new();
    for (worker, ring) in rings.iter_mut().enumerate() {
        while ring.dequeue_burst(&mut burst) > 0 {
            for mbuf in burst.drain() {
                each(worker, mbuf.data(), mbuf.note());
            }
        }
    }
}

fn what_belongs_together_stays_together(rig: &mut Rig, by: SpreadBy) {
    const WORKERS: usize = 3;
    let (producers, mut consumers) = rig.rings(WORKERS, 1024);
    let rx = rig.input.rx.take().unwrap();
    let mut distributor = distributor(rx, 7, producers, by);
    let clock = Clock::new(Tsc::hz(&rig.eal));
    let begin_ns = clock.now_ns(Tsc::now());
    let frames = mixed();
    let mut seen: BTreeMap<u32, (HashSet<usize>, Vec<u32>)> = BTreeMap::new();
    let mut by_worker = [0_u32; WORKERS];
    for batch in frames.chunks(50) {
        rig.input.send(&rig.pool, batch);
        let allocations = allocation_counter::measure(|| assert_eq!(distributor.poll(&clock), batch.len()));
        assert_eq!(allocations.count_total, 0, "a distributor must not allocate after its start");
        drain(&mut consumers, |worker, frame, note| {
            let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
            let (workers, steps) = seen.entry(number(frame.len() - 8)).or_default();
            let fragment_of_unknown = by == SpreadBy::Ports && frame[12..14] == [8, 0] && {
                // Behind a first one that was not seen, only the addresses are known.
                frame[20] & 0x3f != 0 || frame[21] != 0
            };
            if !fragment_of_unknown {
                workers.insert(worker);
            }
            steps.push(number(frame.len() - 4));
            by_worker[worker] += 1;
            assert_eq!((note.port, note.wire_len as usize), (7, frame.len()));
            assert!(note.timestamp_ns >= begin_ns);
        });
    }
    assert_eq!(seen.len() as u32, FLOWS);
    for (flow, (workers, steps)) in &seen {
        assert_eq!(workers.len(), 1, "flow {flow} by {by:?} on several workers");
        if by == SpreadBy::Addresses {
            assert!(steps.is_sorted() && steps.len() >= 12, "flow {flow}: {steps:?}");
        }
    }
    let fair = frames.len() as u32 / WORKERS as u32;
    assert!(by_worker.iter().all(|&count| count > fair / 2), "{by_worker:?}");
    let ledger = distributor.ledger().snapshot();
    let all = frames.len() as u64;
    assert_eq!((ledger.rx_packets, ledger.to_workers, ledger.drops.total()), (all, all, 0));
    assert_eq!(rig.pool.in_use(), 0);
    rig.input.rx = Some(distributor.into_sources().remove(0).into_rx_queue().unwrap());
}

/// In-order fragments follow their first one also where ports count.
fn fragments_follow_their_first_one(rig: &mut Rig) {
    let (producers, mut consumers) = rig.rings(4, 1024);
    let rx = rig.input.rx.take().unwrap();
    let mut distributor = distributor(rx, 0, producers, SpreadBy::Ports);
    let clock = Clock::new(Tsc::hz(&rig.eal));
    let mut workers: HashMap<u32, HashSet<usize>> = HashMap::new();
    for number in (0..FLOWS).filter(|number| !number.is_multiple_of(3)) {
        // The third datagram comes in three fragments, the first one first.
        let frames = &flow(number)[..5];
        assert_eq!(frames[3][21] & 0x3f, 4);
        rig.input.send(&rig.pool, frames);
        distributor.poll(&clock);
        drain(&mut consumers, |worker, _, _| {
            workers.entry(number).or_default().insert(worker);
        });
    }
    assert!(workers.values().all(|workers| workers.len() == 1), "{workers:?}");
    rig.input.rx = Some(distributor.into_sources().remove(0).into_rx_queue().unwrap());
}

/// On a port that opens tunnels, a flow has one worker however it comes: plain, in VXLAN from either end, in GRE.
fn tunnels_go_with_their_inner_flow(rig: &mut Rig) {
    let (producers, mut consumers) = rig.rings(4, 1024);
    let mut source = Source::new(PortId(0), true, None, SourceKind::Dpdk(rig.input.rx.take().unwrap()));
    source.decap = DecapSettings { mode: DecapMode::Strip, ..DecapSettings::default() };
    let mut distributor = Distributor::new(DistributorParts {
        sources: vec![source],
        rings: producers,
        doorbells: Vec::new(),
        idle: IdleSettings::ALWAYS,
        by: SpreadBy::Addresses,
        innermost: Arc::new(false.into()),
        ends: PortEnds::default(),
        tunnels: TunnelMeter::new(&[DecapSettings { mode: DecapMode::Strip, ..DecapSettings::default() }]),
        fragments: FragmentTable::new(&FragmentTableConfig::default()),
        control: ControlQueues::new(16),
    });
    let clock = Clock::new(Tsc::hz(&rig.eal));
    let mut workers: HashMap<u32, HashSet<usize>> = HashMap::new();
    for number in 0..FLOWS {
        let frames: Vec<_> = flow(number)
            .into_iter()
            .take(6)
            .enumerate()
            .map(|(step, frame)| {
                let vtep = |last: u8| End::new(IpAddr::from([192, 0, 2, last]), 0);
                let [near, far] = if step % 2 == 0 { [1, 2] } else { [2, 1] }.map(vtep);
                match step % 3 {
                    0 => frame,
                    // VXLAN, RFC 7348: flags 0x08, VNI 5.
                    1 => {
                        let far = End { port: 4789, ..far };
                        traffic::udp(&near, &far, &[], &[&[8, 0, 0, 0, 0, 0, 5, 0], &frame[..]].concat())
                    }
                    // GRE of the IP packet, RFC 2784.
                    _ => traffic::ip_frame(&near, &far, &[], 47, &[&[0, 0], &frame[12..]].concat()),
                }
            })
            .collect();
        rig.input.send(&rig.pool, &frames);
        distributor.poll(&clock);
        drain(&mut consumers, |worker, _, _| {
            workers.entry(number).or_default().insert(worker);
        });
    }
    assert!(workers.values().all(|workers| workers.len() == 1), "{workers:?}");
    let used: HashSet<_> = workers.values().flatten().collect();
    assert_eq!(used.len(), 4, "the outer addresses alone would give one worker");
    rig.input.rx = Some(distributor.into_sources().remove(0).into_rx_queue().unwrap());
}

fn a_full_ring_is_counted(rig: &mut Rig) {
    let (producers, mut consumers) = rig.rings(2, 100);
    let rx = rig.input.rx.take().unwrap();
    let mut distributor = distributor(rx, 0, producers, SpreadBy::Addresses);
    let clock = Clock::new(Tsc::hz(&rig.eal));
    let frames = mixed();
    for batch in frames.chunks(64) {
        rig.input.send(&rig.pool, batch);
        distributor.poll(&clock);
        let ledger = distributor.ledger().snapshot();
        assert!(ledger.balances(), "{ledger:?}");
        let account = Account::new(&Ledger::default(), [ledger], 0);
        assert!(account.balances() && account.held == ledger.to_workers, "{account:?}");
    }
    let ledger = distributor.ledger().snapshot();
    assert_eq!((ledger.rx_packets, ledger.to_workers), (frames.len() as u64, 200), "both rings are full");
    assert_eq!(ledger.drops.get(DropReason::DistributorFull), frames.len() as u64 - 200);
    assert_eq!(rig.pool.in_use(), 200);
    let mut bytes = 0;
    drain(&mut consumers, |_, frame, _| bytes += frame.len());
    let all: usize = frames.iter().map(Vec::len).sum();
    assert_eq!(ledger.rx_bytes as usize + bytes, all, "the bytes of what was lost are counted here");
    assert_eq!(rig.pool.in_use(), 0);
    rig.input.rx = Some(distributor.into_sources().remove(0).into_rx_queue().unwrap());
}

/// Every frame of a capture arrives unchanged, jumbo frames and tags included, and conversations stay together.
fn a_capture_by_net_pcap(rig: &mut Rig, sample: &[(u64, Vec<u8>)]) {
    let (producers, mut consumers) = rig.rings(3, 4096);
    let port = Port::by_name(&rig.eal, "net_pcap0").unwrap();
    let (_port, mut rx, _tx) = port.configure(&PortConfig::new(rig.pool.clone())).unwrap();
    let mut distributor = distributor(rx.remove(0), 0, producers, SpreadBy::Addresses);
    let clock = Clock::new(Tsc::hz(&rig.eal));
    let mut quiet = 0;
    while quiet < 3 {
        quiet = if distributor.poll(&clock) == 0 { quiet + 1 } else { 0 };
    }
    let mut got = 0;
    let mut workers: HashMap<(IpAddr, IpAddr), HashSet<usize>> = HashMap::new();
    let mut lengths: HashMap<u32, i64> = HashMap::new();
    for (_, frame) in sample {
        *lengths.entry(frame.len() as u32).or_default() += 1;
    }
    drain(&mut consumers, |worker, frame, note| {
        got += 1;
        *lengths.entry(note.wire_len).or_default() -= 1;
        if let Some((a, b)) = addresses(frame) {
            workers.entry((a.min(b), a.max(b))).or_default().insert(worker);
        }
    });
    assert_eq!(got, sample.len());
    assert!(lengths.values().all(|&left| left == 0), "{lengths:?}");
    assert!(workers.len() > 5 && workers.values().all(|workers| workers.len() == 1), "{workers:?}");
    let used: HashSet<_> = workers.values().flatten().collect();
    assert!(used.len() > 1, "not all on one worker");
}

/// The addresses of an IP packet behind any VLAN tags, read the slow and plain way.
fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let mut at = 12;
    while matches!(frame[at..at + 2], [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    let ip = &frame[at + 2..];
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
    match frame[at..at + 2] {
        [0x08, 0x00] => Some((v4(12), v4(16))),
        [0x86, 0xdd] => Some((v6(8), v6(24))),
        _ => None,
    }
}

/// Two workers behind a distributor, all on threads of their own and overloaded: the account balances whenever it is
/// asked, and at the end everything is somewhere.
fn the_account_balances_at_every_moment(rig: &mut Rig, exits: Vec<TxPort>) -> Vec<TxPort> {
    const PACKETS: usize = 60_000;
    let (producers, consumers) = rig.rings(2, 128);
    let rx = rig.input.rx.take().unwrap();
    let mut workers: Vec<Worker> = consumers
        .into_iter()
        .zip(exits)
        .map(|(ring, exit)| {
            let source = Source::new(PortId(u16::MAX), true, None, SourceKind::Ring(ring));
            rig.worker(vec![source], exit)
        })
        .collect();
    let mut distributor = distributor(rx, 3, producers, SpreadBy::Addresses);
    let threads: Vec<_> = workers.iter().map(Worker::ledger).chain([distributor.ledger()]).collect();
    let account = || Account::new(&Ledger::default(), threads.iter().map(|cell| cell.snapshot()), 0);
    let frames = mixed();
    let clock = Clock::new(Tsc::hz(&rig.eal));
    let (stop_first, stop_rest) = (AtomicBool::new(false), AtomicBool::new(false));
    let (input, pool) = (&mut rig.input, &rig.pool);
    let mut samples = 0;
    std::thread::scope(|scope| {
        let first = scope.spawn(|| distributor.run(&stop_first, &clock));
        let rest: Vec<_> =
            workers.iter_mut().map(|worker| scope.spawn(|| worker.run(&stop_rest, &clock))).collect();
        let mut sent = 0;
        while sent < PACKETS {
            for batch in frames.chunks(64) {
                let mut burst = Burst::new();
                for mbuf in batch.iter().filter_map(|frame| pool.copy_from(frame)) {
                    burst.push(mbuf).unwrap();
                }
                sent += input.tx.tx_burst(&mut burst);
                let account = account();
                assert!(account.balances(), "{account:?}");
                samples += 1;
            }
        }
        // What net_ring holds is received, then what the rings hold is decided.
        stop_first.store(true, Ordering::Relaxed);
        first.join().unwrap();
        stop_rest.store(true, Ordering::Relaxed);
        for worker in rest {
            worker.join().unwrap();
        }
        let end = account();
        assert!(end.balances() && end.held == 0, "{end:?}");
        assert_eq!(end.ledger.rx_packets as usize, sent, "received once each");
        assert_eq!(end.ledger.from_distributors, end.ledger.to_workers);
    });
    assert!(samples > 500);
    rig.input.rx = Some(distributor.into_sources().remove(0).into_rx_queue().unwrap());
    let exits = workers.into_iter().flat_map(Worker::into_ports).collect();
    assert_eq!(rig.pool.in_use(), 0, "net_null frees what it is given");
    exits
}

/// How long packets that come alone take through an idle distributor and an idle worker.
fn sleeping_adds_no_more_than_it_may(rig: &mut Rig, output: Loop) {
    const MAX_SLEEP: Duration = Duration::from_micros(250);
    let settings = IdleSettings { adaptive: true, max_sleep: MAX_SLEEP };
    let (producers, mut consumers) = rig.rings(1, 128);
    let exit = TxPort::new(PortId(1), TxDriver::Dpdk(output.tx), true, Arc::new(AtomicBool::new(true)));
    let ring = Source::new(PortId(u16::MAX), true, None, SourceKind::Ring(consumers.remove(0)));
    let mut worker = rig.worker(vec![ring], exit).with_idle(settings);
    let rx = rig.input.rx.take().unwrap();
    let doorbells: Vec<Arc<Doorbell>> = vec![worker.doorbell()];
    let mut distributor = Distributor::new(DistributorParts {
        sources: vec![Source::new(PortId(0), true, None, SourceKind::Dpdk(rx))],
        rings: producers,
        doorbells,
        idle: settings,
        by: SpreadBy::Addresses,
        innermost: Arc::new(false.into()),
        ends: PortEnds::default(),
        tunnels: None,
        fragments: FragmentTable::new(&FragmentTableConfig::default()),
        control: ControlQueues::new(16),
    });
    let (stats, distributor_stats) = (worker.stats(), distributor.stats());
    let clock = Clock::new(Tsc::hz(&rig.eal));
    let stop = AtomicBool::new(false);
    let frame = flow(1).remove(0);
    let mut delays = Vec::new();
    let mut out = output.rx.unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| distributor.run(&stop, &clock));
        scope.spawn(|| worker.run(&stop, &clock));
        let mut burst = Burst::new();
        for _ in 0..200 {
            // Long enough for both to fall asleep.
            std::thread::sleep(Duration::from_millis(3));
            let start = Instant::now();
            rig.input.send(&rig.pool, std::slice::from_ref(&frame));
            while out.rx_burst(&mut burst) == 0 {
                assert!(start.elapsed() < Duration::from_secs(10), "the packet does not arrive");
                std::hint::spin_loop();
            }
            delays.push(start.elapsed());
            burst.free_all();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(stats.sleeps.get() >= 100 && distributor_stats.sleeps.get() >= 100);
    delays.sort();
    // The distributor polls net_ring, which wakes nobody; the worker is woken. Other work on the machine delays some
    // packets, but not most of them.
    let median = delays[delays.len() / 2];
    eprintln!("through sleeping cores: median {median:?}, most {:?}", delays.last().unwrap());
    assert!(median < MAX_SLEEP + Duration::from_millis(1), "{delays:?}");
}

#[test]
fn packets_go_through_distributors_together_in_order_and_counted() {
    let sample = traffic::sample();
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("sample.pcap");
    let mut writer = PcapWriter::new(std::fs::File::create(&capture).unwrap()).unwrap();
    for (time, frame) in &sample {
        writer.write(*time, frame.len() as u32, [frame.as_slice()]).unwrap();
    }
    writer.finish().unwrap();
    let eal = Eal::init(&EalConfig {
        hugepages: Hugepages::Never,
        memory_mb: 128,
        vdevs: ["net_ring0", "net_ring1", "net_null0"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("net_pcap0,rx_pcap={}", capture.display())])
            .collect(),
        ..EalConfig::default()
    })
    .unwrap();
    let pool = MempoolConfig {
        name: "packets".into(),
        mbufs: 16_383,
        cache: 0,
        data_room: 2048,
        socket: SocketId::ANY,
    };
    let pool = Mempool::new(&eal, &pool).unwrap();
    let _registered = LcoreThread::register(&eal).unwrap();
    let input = Loop::new(&eal, "net_ring0", &pool);
    let output = Loop::new(&eal, "net_ring1", &pool);
    let port = Port::by_name(&eal, "net_null0").unwrap();
    let (_null, _rx, tx) =
        port.configure(&PortConfig { tx_queues: 2, ..PortConfig::new(pool.clone()) }).unwrap();
    let exits = tx
        .into_iter()
        .map(|queue| TxPort::new(PortId(1), TxDriver::Dpdk(queue), true, Arc::new(AtomicBool::new(true))))
        .collect();
    let mut rig = Rig { eal, pool, input, rings: 0 };

    what_belongs_together_stays_together(&mut rig, SpreadBy::Addresses);
    what_belongs_together_stays_together(&mut rig, SpreadBy::Ports);
    fragments_follow_their_first_one(&mut rig);
    tunnels_go_with_their_inner_flow(&mut rig);
    a_full_ring_is_counted(&mut rig);
    the_account_balances_at_every_moment(&mut rig, exits);
    a_capture_by_net_pcap(&mut rig, &sample);
    sleeping_adds_no_more_than_it_may(&mut rig, output);
}
