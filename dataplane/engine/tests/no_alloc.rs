//! A worker allocates nothing once it runs: not while it receives, decides, copies and sends, nor when it looks up from
//! its work. One process, as EAL starts once.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk::{Eal, EalConfig, LcoreThread, Mempool, MempoolConfig, Port, PortConfig, SocketId, Tsc};
use sluice_core::classify::{FragmentTable, FragmentTableConfig, Program};
use sluice_engine::clock::Clock;
use sluice_engine::counters::Tables;
use sluice_engine::output::{Egress, Output, TunnelEnds};
use sluice_engine::port::{Advance, Source, SourceKind, TemplateSource, TxDriver, TxPort};
use sluice_engine::sequence::Sequences;
use sluice_engine::stage::decap::Decap;
use sluice_engine::stage::dedup::Dedup;
use sluice_engine::stage::guard::LoopGuard;
use sluice_engine::tap::{ChunkQueues, Tap, TapControl, TapCounts, TapPoint, TapSettings};
use sluice_engine::{ControlQueues, Deployment, DeploymentParts, PortChange, Worker, WorkerParts};
use sluice_model::spec::parse_policy;
use sluice_model::{
    DecapMode, DecapSettings, DedupMode, DedupSettings, Destination, DestinationKind, Generation, MacAddr,
    PolicySet, PortId,
};

/// TCP to port 80 takes the straight way to one tool; the others get shared copies, tags, cuts, outer fragments and a
/// software checksum.
const POLICIES: &str = r#"
[[destination]]
name = "vxlan"
type = "vxlan"
remote = "192.0.2.10"
mac = "02:00:00:00:00:10"
[[destination]]
name = "summed"
type = "vxlan"
remote = "192.0.2.11"
mac = "02:00:00:00:00:11"
udp_checksum = "on"
inner_vlan = true
[[destination]]
name = "erspan"
type = "erspan3"
remote = "192.0.2.12"
mac = "02:00:00:00:00:12"
oversize = "fragment"
mtu = 1280
[[destination]]
name = "wire"
type = "port"
port = "out"

[[policy]]
name = "web"
peer = { ports = 80 }
protocol = "tcp"
tag = 7
to = ["vxlan"]
[[policy]]
name = "udp"
protocol = "udp"
tag = 8
to = ["vxlan", "summed", "erspan", "wire"]
[[policy]]
name = "names"
peer = { ports = 53 }
payload = 16
tag = 9
to = ["erspan", "wire"]
[[policy]]
name = "no-telephony"
action = "drop"
peer = { ports = 5060 }
"#;

const PACKETS: usize = 120_000;

/// Where tunnels to ourselves end.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// `inner` in VXLAN to [`OWN`], from many senders: every second one is marked as copies of ours are.
fn vxlan(inner: &[u8], index: u16) -> Box<[u8]> {
    let ip_len = u16::try_from(inner.len() + 36).unwrap();
    let mut frame = vec![0; 50];
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17]);
    frame[16..18].copy_from_slice(&ip_len.to_be_bytes());
    frame[26..30].copy_from_slice(&[10, 9, index.to_be_bytes()[0], index.to_be_bytes()[1]]);
    frame[30..34].copy_from_slice(&OWN.octets());
    frame[36..38].copy_from_slice(&4789_u16.to_be_bytes());
    frame[42] = if index.is_multiple_of(8) { 0xff } else { 0x08 };
    frame.extend_from_slice(inner);
    frame.into_boxed_slice()
}

/// UDP and TCP of many flows, short and long, to a few services; a part of it matches no policy.
fn frames() -> Vec<Box<[u8]>> {
    let frame = |index: u16| {
        let (protocol, port) = [(6, 80), (17, 53), (17, 5060), (6, 22), (17, 443)][usize::from(index % 5)];
        let ip_len: u16 = if index.is_multiple_of(7) { 1486 } else { 50 + index % 100 };
        let mut frame = vec![0x5a; usize::from(ip_len) + 14];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol]);
        frame[16..18].copy_from_slice(&ip_len.to_be_bytes());
        frame[26..30].copy_from_slice(&[10, 0, index.to_be_bytes()[0], index.to_be_bytes()[1]]);
        frame[30..34].copy_from_slice(&[172, 16, 0, 1]);
        frame[34..36].copy_from_slice(&(1024 + index).to_be_bytes());
        frame[36..38].copy_from_slice(&u16::to_be_bytes(port));
        frame[38..40].copy_from_slice(&(ip_len - 20).to_be_bytes());
        frame[46] = 0x50;
        // A part comes in tunnels to our own address, numbered and not.
        if index.is_multiple_of(4) { vxlan(&frame, index) } else { frame.into_boxed_slice() }
    };
    (0..5000).map(frame).collect()
}

fn output(destination: &Destination) -> Output {
    let mtu = destination.mtu.unwrap_or(1600);
    let DestinationKind::Tunnel(tunnel) = &destination.kind else {
        return Output::plain(destination, mtu, Egress::Port(0));
    };
    let ends = TunnelEnds {
        local: Ipv4Addr::new(192, 0, 2, 1).into(),
        local_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        next_hop_mac: tunnel.mac.unwrap_or_default(),
    };
    Output::tunnel(destination, tunnel, ends, mtu, Egress::Port(0)).unwrap()
}

fn worker(policies: &PolicySet, packets: &Mempool, headers: &Mempool, exit: TxPort) -> Worker {
    let (program, _report) = Program::compile(policies, &["in".to_owned()], Generation(1));
    let program = Arc::new(program);
    let dedup = DedupSettings { mode: DedupMode::Count, ..DedupSettings::default() };
    let source = TemplateSource::new(packets.clone(), &frames(), 64, Advance::Nothing);
    let deployment = DeploymentParts {
        outputs: policies.destinations().iter().map(output).collect(),
        sequences: Sequences::new(Sequences::streams(program.streams().len())),
        program,
        limits: None,
        balance: None,
        files: None,
        guard: LoopGuard::new(policies, &[OWN.into()]),
        tables: Arc::new(Tables::new(policies.policies().len(), policies.destinations().len())),
    };
    Worker::new(WorkerParts {
        deployment: Deployment::new(deployment, true),
        sources: vec![Source::new(PortId(0), true, None, SourceKind::Template(source))],
        ports: vec![exit],
        flow: None,
        decap: Decap::new(&[DecapSettings { mode: DecapMode::Strip, ..DecapSettings::default() }]),
        fragments: FragmentTable::new(&FragmentTableConfig::default()),
        headers: headers.clone(),
        // The templates come again and again within the window: only counted, or nothing else would be seen.
        dedup: Dedup::new(&dedup, 65_536, 1, true),
        control: ControlQueues::new(16),
    })
}

#[test]
fn a_running_worker_does_not_allocate() {
    let eal =
        Eal::init(&EalConfig { memory_mb: 96, vdevs: vec!["net_null0".into()], ..EalConfig::default() })
            .unwrap();
    let pool = |name: &str, data_room| {
        let config =
            MempoolConfig { name: name.into(), mbufs: 4095, cache: 256, data_room, socket: SocketId::ANY };
        Mempool::new(&eal, &config).unwrap()
    };
    let (packets, headers) = (pool("packets", 2048), pool("headers", 256));
    let config = PortConfig { tx_queues: 2, ..PortConfig::new(packets.clone()) };
    let (_port, _rx, tx) = Port::by_name(&eal, "net_null0").unwrap().configure(&config).unwrap();
    let up = Arc::new(AtomicBool::new(true));
    let mut exits =
        tx.into_iter().map(|tx| TxPort::new(PortId(1), TxDriver::Dpdk(tx), true, Arc::clone(&up)));
    let exit = exits.next().unwrap();
    let policies = parse_policy("no_alloc.toml", POLICIES).unwrap().value;
    let clock = Clock::new(Tsc::hz(&eal));

    let _registered = LcoreThread::register(&eal).unwrap();
    let mut worker = worker(&policies, &packets, &headers, exit);
    // Nobody takes what these captures bring: after some chunks packets are left out.
    let udp =
        "[[policy]]\nname = \"udp\"\naction = \"drop\"\nprotocol = \"udp\"\npeer = { ports = \"1-65535\" }\n";
    let udp = parse_policy("udp", udp).unwrap().value.policies()[0].clone();
    let captures =
        [(TapPoint::Received, None), (TapPoint::Received, Some(udp.clone())), (TapPoint::Sent, Some(udp))];
    let captures = captures.map(|(point, filter)| {
        let settings = TapSettings { point, filter, snaplen: 65_535, ..TapSettings::default() };
        let (queues, counts, control) = (ChunkQueues::new(4), TapCounts::new(2), TapControl::new(1));
        let tap = Tap::new(&settings, queues.clone(), Arc::clone(&counts), Arc::clone(&control));
        assert!(worker.control().taps.push(tap).is_ok());
        (queues, counts, control)
    });
    // The way in is exchanged, another one comes, the way out is exchanged, then all but the first way in goes.
    let source = |port| {
        let source = TemplateSource::new(packets.clone(), &frames(), 64, Advance::Nothing);
        Source::new(PortId(port), true, None, SourceKind::Template(source))
    };
    let changes = [
        PortChange::new(PortId(0), vec![source(0)], None, 1),
        PortChange::new(PortId(2), vec![source(2)], None, 1),
        PortChange::new(PortId(1), Vec::new(), exits.next(), 1),
        PortChange::new(PortId(2), Vec::new(), None, 1),
    ];
    let mut changes = changes.map(Box::new).into_iter();
    let [(_, _, control), ..] = &captures;
    let (mut received, mut before) = (0, 0);
    let allocated = allocation_counter::measure(|| {
        while received < PACKETS {
            received += worker.poll(&clock);
            if control.begun.load(Ordering::Relaxed) == 0 {
                before = received;
            }
            if received > PACKETS / 2
                && let Some(change) = changes.next()
            {
                assert!(worker.control().ports.push(change).is_ok());
            }
        }
        for (_, _, control) in &captures {
            control.ended.store(true, Ordering::Relaxed);
        }
        for _ in 0..64 {
            received += worker.poll(&clock);
        }
    });
    assert_eq!(allocated.count_total, 0, "{allocated:?}");
    assert_eq!(worker.control().ports_back.len(), 4, "what was there before comes back");
    let found = captures.each_ref().map(|(queues, counts, control)| {
        assert!(control.back.pop().is_some(), "the tap comes back");
        let mut packets = 0;
        while let Some(chunk) = queues.full.pop() {
            packets += chunk.packets().inspect(|packet| assert!(packet.data.len() >= 14)).count() as u64;
        }
        assert!(packets > 100 && counts.lost() > 0, "{packets}");
        packets + counts.lost()
    });
    assert!(found[0] > (PACKETS - before) as u64 && found[0] <= (received - before) as u64, "{found:?}");
    assert!(found[1] < found[0] && found[2] > 0, "{found:?}");

    let ledger = worker.ledger().snapshot();
    assert!(ledger.balances(), "{ledger:?}");
    assert_eq!(ledger.rx_packets, received as u64);
    assert!(ledger.duplicates > 0, "{ledger:?}");
    // Every way was taken: shares and fragments, exclusion, no policy; and nothing else was lost.
    assert!(ledger.replicas > ledger.rx_packets, "{ledger:?}");
    let drops: Vec<_> = ledger.drops.iter().filter(|(_, packets)| *packets > 0).map(|d| d.0.name()).collect();
    assert!(ledger.decapsulated >= ledger.rx_packets / 5, "{ledger:?}");
    assert_eq!(ledger.decap_obstacles.total(), 0, "{ledger:?}");
    assert_eq!(drops, ["excluded", "no_policy"]);
    assert_eq!(packets.in_use() + headers.in_use(), 0);
}
