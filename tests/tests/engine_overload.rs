//! Does every packet end in one counter, and does every mbuf come back, when something runs out?
//!
//! A worker is fed directly, in one process without hugepages; its output port is a DPDK ring that nobody empties, its
//! pools are small, its next hop unresolved, its file queue short. After each case the pools are as full as before, and
//! the worker has not allocated.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a broken promise should stop the test; lengths are small"
)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dpdk::{
    Burst, Eal, EalConfig, Hugepages, Mempool, MempoolConfig, Port, PortConfig, RxQueue, SocketId, Tsc,
};
use sluice_core::classify::{FragmentTable, FragmentTableConfig, Program};
use sluice_engine::batch::RxInfo;
use sluice_engine::counters::{Tables, policy_totals};
use sluice_engine::files::FileSink;
use sluice_engine::ledger::{Account, Ledger};
use sluice_engine::output::{BreakerCell, Egress, NextHopCell, Output, TunnelEnds};
use sluice_engine::port::{TxDriver, TxPort};
use sluice_engine::sequence::Sequences;
use sluice_engine::stage::dedup::Dedup;
use sluice_engine::stage::flow::{FlowStage, FlowStats, meter_config};
use sluice_engine::stage::guard::LoopGuard;
use sluice_engine::stage::limit::{Limits, SharedLimits};
use sluice_engine::{ControlQueues, Deployment, DeploymentParts, Worker, WorkerParts};
use sluice_model::{
    DedupMode, DedupSettings, Destination, DestinationKind, DropReason, FlowSettings, Generation, MacAddr,
    PolicySet, PortId, RateLimit,
};
use sluice_tests::traffic::{self, End};

/// Three tunnels and a plain port; small MTUs so that copies are cut, fragmented and segmented.
const POLICY: &str = r#"
[[destination]]
name = "cut"
type = "vxlan"
remote = "192.0.2.10"
mtu = 600
inner_vlan = true
[[destination]]
name = "fragments"
type = "vxlan"
remote = "2001:db8::10"
mtu = 1280
oversize = "fragment"
[[destination]]
name = "segments"
type = "erspan2"
remote = "192.0.2.12"
mtu = 900
oversize = "segment"
[[destination]]
name = "plain"
type = "port"
port = "out"
[[destination]]
name = "none"
type = "erspan3"
remote = "192.0.2.13"
mtu = 200
oversize = "drop"
[[policy]]
name = "all"
tag = 5
to = ["cut", "fragments", "segments", "none"]
[[policy]]
name = "all-again"
tag = 5
payload = 100
to = ["cut", "plain"]
[[policy]]
name = "out"
action = "drop"
protocol = "icmp"
"#;

struct Rig {
    eal: Eal,
    rx: RxQueue,
    exit: Option<TxPort>,
    packets: Mempool,
}

/// What a case changes.
struct Case {
    headers: u32,
    resolved: bool,
    to_file: Option<usize>,
    up: bool,
    /// Whether the ring is emptied after each batch.
    drained: bool,
    rounds: usize,
    /// Entries of the flow table, and room for records, if flows are metered.
    flows: Option<(u32, usize)>,
    /// Whether duplicates are dropped, by a table that is far too small for the distinct packets that come, too.
    dedup: bool,
    /// Copies per second of captured time, of all destinations together.
    rate_pps: Option<u32>,
    /// Whether the breaker of the port is open.
    broken: bool,
}

const USUAL: Case = Case {
    headers: 8191,
    resolved: true,
    to_file: None,
    up: true,
    drained: true,
    rounds: 1,
    flows: None,
    dedup: false,
    rate_pps: None,
    broken: false,
};
/// More than the smallest table of fingerprints holds.
const DISTINCT: u32 = 400_000;

impl Rig {
    fn new() -> Self {
        let eal = Eal::init(&EalConfig {
            hugepages: Hugepages::Never,
            memory_mb: 128,
            vdevs: vec!["net_ring0".into()],
            ..EalConfig::default()
        })
        .unwrap();
        let packets = Self::pool(&eal, "packets", 8191, 2048);
        let port = Port::by_name(&eal, "net_ring0").unwrap();
        let (_port, mut rx, mut tx) = port.configure(&PortConfig::new(packets.clone())).unwrap();
        let up = Arc::new(AtomicBool::new(true));
        let exit = TxPort::new(PortId(1), TxDriver::Dpdk(tx.remove(0)), true, up);
        Self { eal, rx: rx.remove(0), exit: Some(exit), packets }
    }

    fn pool(eal: &Eal, name: &str, mbufs: u32, data_room: u16) -> Mempool {
        let config = MempoolConfig { name: name.into(), mbufs, cache: 0, data_room, socket: SocketId::ANY };
        Mempool::new(eal, &config).unwrap()
    }

    /// Runs one case over the sample traffic and checks the account; gives it and the number of frames on the ring.
    fn run(&mut self, name: &str, case: &Case) -> (Ledger, usize) {
        let policies = sluice_model::spec::parse_policy("overload.toml", POLICY).unwrap().value;
        let headers = Self::pool(&self.eal, name, case.headers, 256);
        let before = (self.packets.in_use(), headers.in_use());
        let (program, _) = Program::compile(&policies, &[], Generation(1));
        let cell = Arc::new(NextHopCell::default());
        cell.set(case.resolved.then_some(MacAddr([2, 0, 0, 0, 0, 9])));
        let egress = if case.to_file.is_some() { Egress::File } else { Egress::Port(0) };
        let mut outputs: Vec<_> = policies.destinations().iter().map(|d| output(d, egress, &cell)).collect();
        let breaker = Arc::new(BreakerCell::default());
        breaker.set(case.broken, 0);
        for output in &mut outputs {
            output.breaker = Some(Arc::clone(&breaker));
        }
        let settings = |flows| FlowSettings { flows: Some(flows), ..FlowSettings::default() };
        let flow = case.flows.map(|(flows, records)| {
            FlowStage::new(meter_config(&settings(flows), &[], flows, 0), records, &program)
        });
        let flow_stats = flow.as_ref().map(FlowStage::stats);
        let dedup = DedupSettings { mode: DedupMode::Drop, ..DedupSettings::default() };
        let dedup = if case.dedup { Dedup::new(&dedup, 1, 1, true) } else { None };
        let limit = case.rate_pps.map(|pps| RateLimit { rate_mbps: None, rate_pps: Some(pps), burst_ms: 10 });
        let limits = SharedLimits::new(&policies, limit.as_ref(), 1);
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> =
            policies.destinations().iter().map(|d| Some(folder.path().join(&d.name))).collect();
        let mut sink = FileSink::create(&paths, policies.policies().len()).unwrap();
        let tables = Arc::new(Tables::new(policies.policies().len(), policies.destinations().len()));
        let exit = self.exit.take().unwrap();
        exit.set_link(case.up);
        let parts = DeploymentParts {
            outputs,
            sequences: Sequences::new(Sequences::streams(program.streams().len())),
            program: Arc::new(program),
            limits: limits.as_ref().map(Limits::in_captured_time),
            balance: None,
            files: case.to_file.map(|frames| sink.producer(frames)),
            guard: LoopGuard::disabled(),
            tables: Arc::clone(&tables),
        };
        let mut worker = Worker::new(WorkerParts {
            sources: Vec::new(),
            ports: vec![exit],
            flow,
            decap: None,
            fragments: FragmentTable::new(&FragmentTableConfig::default()),
            headers: headers.clone(),
            dedup,
            control: ControlQueues::new(1),
            deployment: Deployment::new(parts, false),
        });
        let mut on_ring = 0;
        for round in 0..case.rounds {
            on_ring += self.feed(&mut worker, round, case.drained);
            let account = Account::new(&sink.ledger().snapshot(), [worker.ledger().snapshot()], 0);
            assert!(account.balances(), "{name}: {account:?}");
        }
        if case.dedup {
            on_ring += self.distinct(&mut worker);
        }
        let held = Account::new(&sink.ledger().snapshot(), [worker.ledger().snapshot()], 0).held;
        assert_eq!(held > 0, case.to_file.is_some(), "{name}: only files hold");
        sink.drain();
        sink.flush();
        worker.fold();
        let account = Account::new(&sink.ledger().snapshot(), [worker.ledger().snapshot()], 0);
        assert!(account.balances() && account.held == 0, "{name}: {account:?}");
        check_policies(name, &policies, &[&tables, &sink.tables()]);
        if let Some(stats) = flow_stats {
            check_flows(name, case, &stats);
        }

        self.exit = worker.into_ports().pop();
        drop(sink);
        on_ring += self.drain();
        assert_eq!((self.packets.in_use(), headers.in_use()), before, "{name}: an mbuf is missing");
        (account.ledger, on_ring)
    }

    /// Packets that are all different through the worker, faster than the window ends; returns the frames taken.
    fn distinct(&mut self, worker: &mut Worker) -> usize {
        let mut on_ring = 0;
        let (client, server) = (
            End::new(Ipv4Addr::new(10, 9, 8, 1).into(), 5000),
            End::new(Ipv4Addr::new(10, 9, 8, 2).into(), 80),
        );
        for first in (0..DISTINCT).step_by(64) {
            for number in first..first + 64 {
                let frame = traffic::tcp(&client, &server, &[], 0x10, number, 1, &[]);
                let info = RxInfo {
                    wire_len: frame.len() as u32,
                    timestamp_ns: 2_000_000_000_000 + u64::from(number),
                    gso_size: 0,
                };
                let mbuf = self.packets.copy_from(&frame).expect("the pool of packets is large enough");
                worker.batch_mut().push(mbuf, info, PortId(0)).unwrap();
            }
            worker.process(Tsc::now());
            on_ring += self.drain();
        }
        on_ring
    }

    /// Takes and frees every frame on the ring; returns how many there were.
    fn drain(&mut self) -> usize {
        let mut frames = 0;
        let mut burst = Burst::new();
        while self.rx.rx_burst(&mut burst) > 0 {
            frames += burst.len();
            burst.free_all();
        }
        frames
    }

    /// The sample traffic and a super-frame through the worker, in batches; returns the frames taken from the ring.
    fn feed(&mut self, worker: &mut Worker, round: usize, drained: bool) -> usize {
        let mut on_ring = 0;
        let mut frames = traffic::sample();
        let (client, server) = (
            End::new(Ipv4Addr::new(10, 9, 9, 1).into(), 5000),
            End::new(Ipv4Addr::new(10, 9, 9, 2).into(), 80),
        );
        frames.push((0, traffic::tcp(&client, &server, &[], 0x18, 1, 1, &vec![0x55; 30_000])));
        for frames in frames.chunks(40 + round % 24) {
            for (timestamp_ns, frame) in frames {
                let info = RxInfo { wire_len: frame.len() as u32, timestamp_ns: *timestamp_ns, gso_size: 0 };
                let mbuf = self.packets.copy_from(frame).expect("the pool of packets is large enough");
                worker.batch_mut().push(mbuf, info, PortId(0)).unwrap();
            }
            let allocations = allocation_counter::measure(|| worker.process(Tsc::now())).count_total;
            assert_eq!(allocations, 0, "a worker must not allocate after its start");
            if drained {
                on_ring += self.drain();
            }
        }
        on_ring
    }
}

fn output(destination: &Destination, egress: Egress, cell: &Arc<NextHopCell>) -> Output {
    let mtu = destination.mtu.unwrap_or(1500);
    let DestinationKind::Tunnel(tunnel) = &destination.kind else {
        return Output::plain(destination, mtu, egress);
    };
    let local = if tunnel.remote.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
    let ends = TunnelEnds {
        local: local.parse().unwrap(),
        local_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        next_hop_mac: MacAddr::default(),
    };
    let mut output = Output::tunnel(destination, tunnel, ends, mtu, egress).unwrap();
    output.next_hop = Some(Arc::clone(cell));
    output
}

/// matched packets x destinations = sent + drops by reason, for every policy.
fn check_policies(name: &str, policies: &PolicySet, tables: &[&Tables]) {
    for (policy, totals) in policies.policies().iter().zip(policy_totals(tables)) {
        let copies = totals.matched_packets * policy.to.len() as u64;
        assert_eq!(
            copies,
            totals.sent_packets + totals.drops.total(),
            "{name}: policy {} {totals:?}",
            policy.name
        );
    }
}

/// What there was no room for is counted, and what is counted as done is there.
fn check_flows(name: &str, case: &Case, stats: &FlowStats) {
    let (flows, records) = case.flows.unwrap();
    assert!(stats.flows.get() <= u64::from(flows), "{name}");
    assert_eq!(stats.table_full.get() > 0, flows < 100, "{name}");
    // Nobody empties the ring.
    assert!(stats.records.get() <= records as u64, "{name}");
    assert_eq!(stats.records_lost.get() > 0, records == 1, "{name}: {stats:?}");
}

#[test]
fn everything_is_accounted_for_when_something_runs_out() {
    let mut rig = Rig::new();

    let (ledger, on_ring) = rig.run("usual", &USUAL);
    assert_eq!(ledger.tx_packets, on_ring as u64);
    assert!(ledger.replicas > ledger.rx_packets, "{ledger:?}");
    assert!(ledger.truncated > 0 && ledger.drops.get(DropReason::Oversize) > 0, "{ledger:?}");
    assert_eq!(ledger.drops.get(DropReason::Excluded), 40, "20 echo requests and their replies");
    assert_eq!(ledger.drops.get(DropReason::TxFull) + ledger.drops.get(DropReason::MbufAlloc), 0);

    let (ledger, on_ring) = rig.run("tx full", &Case { rounds: 3, drained: false, ..USUAL });
    assert!(ledger.drops.get(DropReason::TxFull) > 1000, "{ledger:?}");
    assert_eq!(ledger.tx_packets, on_ring as u64);

    for headers in [1, 3, 15, 63, 255] {
        let case = Case { headers, rounds: 3, ..USUAL };
        let (ledger, on_ring) = rig.run("few headers", &case);
        assert!(ledger.drops.get(DropReason::MbufAlloc) > 0, "{headers}: {ledger:?}");
        assert_eq!(ledger.tx_packets, on_ring as u64);
    }

    let (ledger, on_ring) = rig.run("unresolved", &Case { resolved: false, ..USUAL });
    assert!(ledger.drops.get(DropReason::NextHopUnresolved) > 1000, "{ledger:?}");
    assert!(on_ring > 0, "the plain port needs no next hop");

    let (ledger, on_ring) = rig.run("port down", &Case { up: false, ..USUAL });
    assert_eq!((ledger.tx_packets, on_ring), (0, 0));
    assert!(ledger.drops.get(DropReason::PortDown) > 1000, "{ledger:?}");

    let (ledger, on_ring) = rig.run("files", &Case { to_file: Some(16_384), ..USUAL });
    assert_eq!((ledger.drops.get(DropReason::FileQueueFull), on_ring), (0, 0), "{ledger:?}");
    // As many copies leave as without flows: a full table, or ring of records, takes nothing away.
    let usual = rig.run("usual again", &Case { rounds: 3, ..USUAL }).0.tx_packets;
    for (name, flows) in [("flow table full", (8, 16_384)), ("record ring full", (4096, 1))] {
        let (ledger, on_ring) = rig.run(name, &Case { flows: Some(flows), rounds: 3, ..USUAL });
        assert_eq!((ledger.tx_packets, on_ring as u64), (usual, usual), "{name}");
    }

    let (ledger, on_ring) = rig.run("dedup table full", &Case { dedup: true, ..USUAL });
    assert!(ledger.dedup_evicted > 100_000, "{ledger:?}");
    assert_eq!(ledger.drops.get(DropReason::Duplicate), ledger.duplicates);
    assert_eq!(ledger.tx_packets, on_ring as u64);
    assert!(on_ring > DISTINCT as usize, "what is new passes");

    let (ledger, on_ring) = rig.run("rate limit", &Case { rate_pps: Some(10), ..USUAL });
    assert!(ledger.drops.get(DropReason::RateLimit) > 1000, "{ledger:?}");
    assert!(on_ring > 0 && ledger.tx_packets == on_ring as u64, "{ledger:?}");

    let (ledger, on_ring) = rig.run("breaker", &Case { broken: true, ..USUAL });
    assert_eq!((ledger.tx_packets, on_ring), (0, 0));
    assert!(ledger.drops.get(DropReason::Breaker) > 1000, "{ledger:?}");

    let all = Case {
        headers: 63,
        drained: false,
        rounds: 3,
        flows: Some((8, 1)),
        dedup: true,
        rate_pps: Some(100),
        ..USUAL
    };
    let (ledger, on_ring) = rig.run("all at once", &all);
    assert!(ledger.drops.get(DropReason::RateLimit) > 1000 && ledger.dedup_evicted > 0, "{ledger:?}");
    assert_eq!(ledger.tx_packets, on_ring as u64);

    let (ledger, _) = rig.run("file queue full", &Case { to_file: Some(100), ..USUAL });
    assert!(ledger.drops.get(DropReason::FileQueueFull) > 1000, "{ledger:?}");
    assert_eq!(ledger.to_files, 100);
}
