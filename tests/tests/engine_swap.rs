//! Does every copy carry the tag of the policy that was in force when its packet came, whatever its flow remembers, and
//! does the worker change over without allocating?

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a broken promise should stop the test; numbers are taken apart"
)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dpdk::{Burst, Eal, EalConfig, Hugepages, Mempool, MempoolConfig, Port, PortConfig, SocketId, Tsc};
use sluice_core::classify::{FragmentTable, FragmentTableConfig, Program};
use sluice_engine::batch::{BATCH, RxInfo};
use sluice_engine::clock::Clock;
use sluice_engine::counters::{Tables, policy_totals};
use sluice_engine::output::{Egress, Output};
use sluice_engine::port::{TxDriver, TxPort};
use sluice_engine::sequence::{Sequences, Streams};
use sluice_engine::stage::flow::{FlowStage, meter_config};
use sluice_engine::stage::guard::LoopGuard;
use sluice_engine::{ControlQueues, Deployment, DeploymentParts, Worker, WorkerParts};
use sluice_model::{FlowSettings, Generation, PolicySet, PortId};
use sluice_tests::traffic::{self, End};

/// The VLAN tag that is inserted carries the tag of the policy.
const OUT: &str = "type = \"port\"\nport = \"out\"\ninner_vlan = true\n";

/// What each generation copies, by the server's port: tags 1 and up for 443 and 80, or nothing.
fn generation(number: u64) -> (PolicySet, BTreeMap<u16, Vec<u16>>) {
    let tag = |offset: u64| (number * 4 % 4_000 + offset) as u16;
    let policy = |name: &str, what: &str, tag: u16, to: &str| {
        format!("[[policy]]\nname = \"{name}\"\n{what}\ntag = {tag}\nto = [{to}]\n")
    };
    let web = policy("web", "protocol = \"tcp\"\npeer = { ports = 443 }", tag(1), "\"a\"");
    let all = policy("all", "peer = { ports = 80 }", tag(2), "\"a\", \"b\"");
    // A predicate by which packets of one flow differ: no verdict may be kept.
    let flags = policy("syn", "tcp_flags = \"syn\"", tag(3), "\"b\"");
    let destination = |name: &str| format!("[[destination]]\nname = \"{name}\"\n{OUT}");
    let (mut text, mut copies) = (String::new(), BTreeMap::new());
    // The order of destinations, and so their numbers, differ, too.
    let names = if number.is_multiple_of(2) { ["a", "b"] } else { ["b", "a"] };
    text += &names.map(destination).concat();
    if !number.is_multiple_of(3) {
        text += &web;
        copies.insert(443, vec![tag(1)]);
    }
    if !number.is_multiple_of(5) {
        text += &all;
        copies.insert(80, vec![tag(2); 2]);
    }
    if number.is_multiple_of(7) {
        text += &flags;
    }
    (sluice_model::spec::parse_policy("p", &text).unwrap().value, copies)
}

fn deployment(
    policies: &PolicySet,
    number: u64,
    before: Option<&Streams>,
) -> (Box<Deployment>, Arc<Tables>, Streams) {
    let (program, _) = Program::compile(policies, &[], Generation(number));
    let tables = Arc::new(Tables::new(policies.policies().len(), policies.destinations().len()));
    let streams = Streams::of(&program, policies, before);
    let parts = DeploymentParts {
        outputs: policies.destinations().iter().map(|d| Output::plain(d, 1500, Egress::Port(0))).collect(),
        sequences: Sequences::new(streams.clone()),
        program: Arc::new(program),
        files: None,
        guard: LoopGuard::disabled(),
        limits: None,
        balance: None,
        tables: Arc::clone(&tables),
    };
    (Deployment::new(parts, false), tables, streams)
}

#[test]
fn copies_carry_the_tag_that_is_in_force() {
    let eal = Eal::init(&EalConfig {
        hugepages: Hugepages::Never,
        memory_mb: 64,
        vdevs: vec!["net_ring0".into()],
        ..EalConfig::default()
    })
    .unwrap();
    let pool = |name: &str, mbufs| {
        let config =
            MempoolConfig { name: name.into(), mbufs, cache: 0, data_room: 512, socket: SocketId::ANY };
        Mempool::new(&eal, &config).unwrap()
    };
    let (packets, headers) = (pool("packets", 1023), pool("headers", 1023));
    let port = Port::by_name(&eal, "net_ring0").unwrap();
    let (_port, mut rx, mut tx) = port.configure(&PortConfig::new(packets.clone())).unwrap();
    let (policies, mut copies) = generation(1);
    let (first, mut tables, mut streams) = deployment(&policies, 1, None);
    let (program, _) = Program::compile(&policies, &[], Generation(1));
    let control = ControlQueues::new(1);
    let mut worker = Worker::new(WorkerParts {
        sources: Vec::new(),
        ports: vec![TxPort::new(
            PortId(1),
            TxDriver::Dpdk(tx.remove(0)),
            true,
            Arc::new(AtomicBool::new(true)),
        )],
        deployment: first,
        flow: Some(FlowStage::new(meter_config(&FlowSettings::default(), &[], 1024, 0), 64, &program)),
        decap: None,
        fragments: FragmentTable::new(&FragmentTableConfig::default()),
        headers: headers.clone(),
        dedup: None,
        control: control.clone(),
    });
    let clock = Clock::new(Tsc::hz(&eal));
    let frames: Vec<(u16, Vec<u8>)> = (0..BATCH as u16)
        .map(|i| {
            let port = [443, 80, 22][usize::from(i % 3)];
            let client = End::new(Ipv4Addr::new(10, 0, 0, i as u8).into(), 40_000);
            let server = End::new(Ipv4Addr::new(172, 16, 0, 1).into(), port);
            (port, traffic::tcp(&client, &server, &[], 0x10, 1, 1, &[0; 8]))
        })
        .collect();

    let (mut sent, mut received) = (0, 0);
    for number in 1..2_000 {
        // The second time, the verdict is the one that was kept with the flow.
        for _ in 0..2 {
            for (_, frame) in &frames {
                let info = RxInfo { wire_len: frame.len() as u32, timestamp_ns: number * 1_000, gso_size: 0 };
                worker.batch_mut().push(packets.copy_from(frame).unwrap(), info, PortId(0)).unwrap();
                received += 1;
            }
            worker.process(Tsc::now());
        }
        let mut tags = Vec::new();
        let mut burst = Burst::new();
        while rx[0].rx_burst(&mut burst) > 0 {
            for mbuf in &burst {
                let frame: Vec<u8> = mbuf.segment_slices().flatten().copied().collect();
                assert_eq!(frame[12..14], [0x81, 0x00]);
                // The packet behind the tag says which port it went to.
                let port = u16::from_be_bytes([frame[40], frame[41]]);
                tags.push((port, u16::from_be_bytes([frame[14], frame[15]]) & 0xfff));
            }
            burst.free_all();
        }
        let expected = frames.iter().chain(&frames).flat_map(|(port, _)| {
            copies.get(port).into_iter().flatten().map(|tag| (*port, *tag)).collect::<Vec<_>>()
        });
        let mut expected: Vec<_> = expected.collect();
        sent += expected.len() as u64;
        tags.sort_unstable();
        expected.sort_unstable();
        assert_eq!(tags, expected, "generation {number}");

        let (policies, next) = generation(number + 1);
        let (deployment, new_tables, new_streams) = deployment(&policies, number + 1, Some(&streams));
        assert!(control.deploy.push(deployment).is_ok());
        // A worker looks every 64 polls; nothing comes meanwhile.
        let allocations = allocation_counter::measure(|| {
            for _ in 0..64 {
                worker.poll(&clock);
            }
        });
        assert_eq!(allocations.count_total, 0, "a worker must not allocate");
        let retired = control.retired.pop().unwrap();
        assert_eq!(retired.generation(), Generation(number));
        let expected = frames.iter().filter(|(port, _)| copies.contains_key(port)).count() * 2;
        let matched: u64 = policy_totals(&[&tables]).iter().map(|policy| policy.matched_packets).sum();
        assert_eq!(matched, expected as u64, "all is counted in the tables of generation {number}");
        (copies, tables, streams) = (next, new_tables, new_streams);
    }
    let ledger = worker.ledger().snapshot();
    assert_eq!((ledger.rx_packets, ledger.tx_packets), (received, sent));
    assert_eq!(ledger.rx_packets + ledger.replicas, ledger.tx_packets + ledger.drops.total());
    // Half of them, but where flags decide.
    let kept = worker.flow().unwrap().stats().verdicts_kept.get();
    assert!(kept > received * 2 / 5 && kept < received / 2, "{kept} of {received}");
    drop(worker);
    assert_eq!((packets.in_use(), headers.in_use()), (0, 0));
}
