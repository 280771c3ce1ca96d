//! Does a worker hold out when flows come and go by the hundred thousand a second, and everything is full?
//!
//! The tables are far too small for the traffic, the rings are emptied too seldom, some copies find the transmit queue
//! full. A minute of it (of the packets' time), or ten with `SLUICE_LONG=1`: memory stays as it is, and every packet is
//! in the account.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a broken promise should stop the test; numbers are taken apart"
)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dpdk::{
    Burst, Eal, EalConfig, Hugepages, Mempool, MempoolConfig, Port, PortConfig, RxQueue, SocketId, Tsc,
};
use sluice_core::classify::{FragmentTable, FragmentTableConfig, Program};
use sluice_core::flow::Sink;
use sluice_engine::batch::{BATCH, RxInfo};
use sluice_engine::counters::{Tables, policy_totals};
use sluice_engine::output::{Egress, Output};
use sluice_engine::port::{TxDriver, TxPort};
use sluice_engine::sequence::Sequences;
use sluice_engine::stage::dedup::Dedup;
use sluice_engine::stage::flow::{FlowStage, meter_config};
use sluice_engine::stage::guard::LoopGuard;
use sluice_engine::{ControlQueues, Deployment, DeploymentParts, Worker, WorkerParts};
use sluice_model::{
    CloseType, DedupMode, DedupSettings, DropReason, FlowRecord, FlowSettings, Generation, MetricsRecord,
    PortId,
};
use sluice_tests::traffic::{self, End};

const POLICY: &str = r#"
[[destination]]
name = "a"
type = "port"
port = "out"
[[destination]]
name = "b"
type = "port"
port = "out"
inner_vlan = true
[[policy]]
name = "all"
tag = 5
to = ["a"]
[[policy]]
name = "web"
collect = { ports = 443 }
tag = 6
payload = 8
to = ["a", "b"]
"#;

/// Flows that begin in a second.
const FLOWS_PER_S: u64 = 100_000;
const SECOND_NS: u64 = 1_000_000_000;
/// A second that ends a minute early on.
const START_NS: u64 = 1_700_000_030 * SECOND_NS;

/// What was said of the flows.
#[derive(Default)]
struct Said {
    ended: u64,
    packets: u64,
    rows: u64,
}

impl Sink for Said {
    fn flow(&mut self, record: &FlowRecord) {
        self.ended += u64::from(record.close_type != CloseType::ForcedReport);
        self.packets += record.sides.iter().map(|side| side.packets).sum::<u64>();
    }

    fn metrics(&mut self, _row: &MetricsRecord) {
        self.rows += 1;
    }
}

/// The packets of a connection: from the client or not, and the frame of the first one.
fn connection() -> Vec<(bool, Vec<u8>)> {
    let client = End::new(Ipv4Addr::new(10, 0, 0, 1).into(), 40_000);
    let server = End::new(Ipv4Addr::new(172, 16, 0, 1).into(), 443);
    let there =
        |flags, seq, ack, data: &[u8]| (true, traffic::tcp(&client, &server, &[], flags, seq, ack, data));
    let back =
        |flags, seq, ack, data: &[u8]| (false, traffic::tcp(&server, &client, &[], flags, seq, ack, data));
    vec![
        there(0x02, 1000, 0, &[]),
        back(0x12, 5000, 1001, &[]),
        there(0x10, 1001, 5001, &[]),
        there(0x18, 1001, 5001, b"GET / HTTP/1.1"),
        // A hole, and what fills it.
        back(0x18, 5101, 1015, &[1; 50]),
        back(0x18, 5001, 1015, &[1; 100]),
        there(0x11, 1015, 5151, &[]),
        back(0x11, 5151, 1016, &[]),
        there(0x10, 1016, 5152, &[]),
    ]
}

/// Makes the frame that of flow `number`.
fn renumber(frame: &mut [u8], from_client: bool, number: u64) {
    let [.., a, b, c] = number.to_be_bytes();
    let (address, port) = if from_client { (27, 34) } else { (31, 36) };
    frame[address..address + 3].copy_from_slice(&[a, b, c]);
    frame[port..port + 2].copy_from_slice(&(0x8000 | (number >> 24) as u16).to_be_bytes());
    frame[18..20].copy_from_slice(&[b, c]);
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

struct Soak {
    worker: Worker,
    rx: RxQueue,
    packets: Mempool,
    now_ns: u64,
    batches: u64,
    sent: u64,
    said: Said,
}

impl Soak {
    fn push(&mut self, frame: &[u8]) {
        let info = RxInfo { wire_len: frame.len() as u32, timestamp_ns: self.now_ns, gso_size: 0 };
        // Without an mbuf a NIC would have dropped it before us.
        if let Some(mbuf) = self.packets.copy_from(frame) {
            self.worker.batch_mut().push(mbuf, info, PortId(0)).unwrap();
            self.sent += 1;
        }
        if self.worker.batch_mut().len == BATCH {
            self.process();
        }
    }

    fn process(&mut self) {
        let worker = &mut self.worker;
        let allocations = allocation_counter::measure(|| worker.process(Tsc::now())).count_total;
        assert_eq!(allocations, 0, "a worker must not allocate after its start");
        self.batches += 1;
        // Rings that are emptied too seldom overflow at times.
        if self.batches.is_multiple_of(13) {
            self.empty_ring();
        }
        if self.batches.is_multiple_of(40) {
            self.worker.flow().unwrap().rings().drain(&mut self.said);
        }
    }

    fn empty_ring(&mut self) {
        let mut burst = Burst::new();
        while self.rx.rx_burst(&mut burst) > 0 {
            burst.free_all();
        }
    }
}

#[test]
fn flows_come_and_go_while_everything_is_full() {
    let seconds = if std::env::var_os("SLUICE_LONG").is_some() { 600 } else { 60 };
    let policies = sluice_model::spec::parse_policy("soak.toml", POLICY).unwrap().value;
    let eal = Eal::init(&EalConfig {
        hugepages: Hugepages::Never,
        memory_mb: 64,
        vdevs: vec!["net_ring0".into()],
        ..EalConfig::default()
    })
    .unwrap();
    let pool = |name: &str, mbufs, data_room| {
        let config = MempoolConfig { name: name.into(), mbufs, cache: 0, data_room, socket: SocketId::ANY };
        Mempool::new(&eal, &config).unwrap()
    };
    let (packets, headers) = (pool("packets", 2047, 512), pool("headers", 1023, 256));
    let port = Port::by_name(&eal, "net_ring0").unwrap();
    let (_port, mut rx, mut tx) = port.configure(&PortConfig::new(packets.clone())).unwrap();
    let (program, _) = Program::compile(&policies, &[], Generation(1));
    let tables = Arc::new(Tables::new(policies.policies().len(), policies.destinations().len()));
    let settings = FlowSettings { flows: Some(50_000), ..FlowSettings::default() };
    let flow = FlowStage::new(meter_config(&settings, &[], 1, 0), 256, &program);
    let dedup = DedupSettings { mode: DedupMode::Drop, window_ns: SECOND_NS / 2, ..DedupSettings::default() };
    let parts = DeploymentParts {
        outputs: policies.destinations().iter().map(|d| Output::plain(d, 1500, Egress::Port(0))).collect(),
        sequences: Sequences::new(Sequences::streams(program.streams().len())),
        program: Arc::new(program),
        files: None,
        guard: LoopGuard::disabled(),
        limits: None,
        balance: None,
        tables: Arc::clone(&tables),
    };
    let deployment = Deployment::new(parts, false);
    let worker = Worker::new(WorkerParts {
        sources: Vec::new(),
        ports: vec![TxPort::new(
            PortId(1),
            TxDriver::Dpdk(tx.remove(0)),
            true,
            Arc::new(AtomicBool::new(true)),
        )],
        flow: Some(flow),
        decap: None,
        fragments: FragmentTable::new(&FragmentTableConfig::default()),
        headers: headers.clone(),
        dedup: Dedup::new(&dedup, 16_384, 1, true),
        control: ControlQueues::new(1),
        deployment,
    });
    let mut soak = Soak {
        worker,
        rx: rx.remove(0),
        packets: packets.clone(),
        now_ns: START_NS,
        batches: 0,
        sent: 0,
        said: Said::default(),
    };
    let connection = connection();
    let mut frame = Vec::new();
    let mut early_kb = 0;
    for number in 0..seconds * FLOWS_PER_S {
        // One flow in three is a whole connection, the others are the SYN of a flood; some SYNs come twice.
        let parts = if number.is_multiple_of(3) { connection.len() } else { 1 };
        let repeats = if number % 8 == 1 { 2 } else { 1 };
        for (from_client, part) in &connection[..parts] {
            for _ in 0..repeats {
                frame.clone_from(part);
                renumber(&mut frame, *from_client, number);
                soak.push(&frame);
            }
        }
        soak.now_ns += SECOND_NS / FLOWS_PER_S;
        if number % FLOWS_PER_S == 0 {
            let ledger = soak.worker.ledger().snapshot();
            assert!(ledger.balances(), "{ledger:?}");
        }
        if number == seconds * FLOWS_PER_S / 4 {
            early_kb = resident_kb();
        }
    }
    soak.process();
    let late_kb = resident_kb();
    assert!(late_kb <= early_kb + 1024, "memory grew from {early_kb} to {late_kb} kB");

    soak.empty_ring();
    soak.worker.flow().unwrap().rings().drain(&mut soak.said);
    soak.worker.fold();
    soak.worker.finish_flows(&mut soak.said);
    let (ledger, stats) = (soak.worker.ledger().snapshot(), soak.worker.flow().unwrap().stats());
    assert!(ledger.balances(), "{ledger:?}");
    assert_eq!(ledger.rx_packets, soak.sent);
    for reason in [DropReason::Duplicate, DropReason::TxFull, DropReason::MbufAlloc] {
        assert!(ledger.drops.get(reason) > 0, "{reason:?}: {ledger:?}");
    }
    for (policy, totals) in policies.policies().iter().zip(policy_totals(&[&tables])) {
        let copies = totals.matched_packets * policy.to.len() as u64;
        assert_eq!(copies, totals.sent_packets + totals.drops.total(), "{}: {totals:?}", policy.name);
    }
    // Everything was full, and is told.
    assert!(stats.table_full.get() > 0 && stats.records_lost.get() > 0 && stats.metrics_lost.get() > 0);
    let lost = stats.records_lost.get();
    assert!(soak.said.ended <= stats.created.get() && soak.said.ended + lost >= stats.created.get());
    assert_eq!(stats.flows.get(), 0);
    let metered = ledger.rx_packets - ledger.drops.get(DropReason::Duplicate) - stats.table_full.get();
    assert!(soak.said.packets <= metered && soak.said.rows > 0);
    drop(soak);
    assert_eq!((packets.in_use(), headers.in_use()), (0, 0), "an mbuf is missing");
}
