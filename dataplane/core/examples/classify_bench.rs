//! How many nanoseconds and cycles does a verdict take, by number of policies?
//!
//! `cargo run --release -p sluice-core --example classify_bench [FILTER]`. Compare only figures of one run: machines are
//! noisy. `hit`: combinations of classes repeat; `miss`: the cache is too small for any, so every packet is worked out.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use sluice_core::classify::{Classifier, ClassifierConfig, Input, Program, VerdictId};
use sluice_core::wire::{Fragment, L3, Parsed};
use sluice_model::{
    AddressSet, Destination, DestinationId, DestinationKind, Generation, Oversize, Policy, PolicySet, PortId,
    RangeSet, Side, Tag, TcpFlagsMatch,
};

const BATCH: usize = 64;
const FLOWS: u32 = 10_240;
const DESTINATIONS: u32 = 64;

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let ghz = clock_ghz();
    println!("{:32} {:>8} {:>8} {:>8} {:>10}", "", "ns", "cycles", "misses", "compile ms");
    for (name, shape, v6) in [
        ("any", Shape::Any, false),
        ("subnets", Shape::Subnets, false),
        ("subnets, ipv6", Shape::Subnets, true),
        ("mixed", Shape::Mixed, false),
        ("mixed, groups", Shape::Groups, false),
        ("overlapping ports", Shape::Ports, false),
    ] {
        for count in [10, 1_000, 10_000] {
            let name = format!("{name} {count}");
            if !name.contains(&filter) || (matches!(shape, Shape::Any) && count > 10) {
                continue;
            }
            let policies = policies(count, shape);
            let started = Instant::now();
            let (program, report) = Program::compile(&policies, &["tap".to_owned()], Generation(1));
            let compile_ms = started.elapsed().as_secs_f64() * 1e3;
            let packets: Vec<Parsed> = (0..FLOWS).map(|flow| packet(flow, v6)).collect();
            for (kind, cache_entries) in [("hit", 32_768), ("miss", 1)] {
                let config = ClassifierConfig { cache_entries, ..ClassifierConfig::default() };
                let mut classifier = Classifier::new(&program, config);
                let rounds = if kind == "hit" { 40 } else { 4 };
                let ns = measure(&program, &mut classifier, &packets, rounds);
                let counts = classifier.counts();
                let misses = counts.misses * 100 / (counts.hits + counts.misses);
                println!(
                    "{:32} {ns:8.1} {:8.1} {misses:7}% {compile_ms:10.1}",
                    format!("{name} {kind}"),
                    ns * ghz
                );
            }
            if count == 10_000 {
                println!("    {} KiB, {:?}", report.bytes >> 10, report.dimensions);
            }
        }
    }
}

/// The best of some rounds, nanoseconds a packet.
fn measure(program: &Program, classifier: &mut Classifier, packets: &[Parsed], rounds: u32) -> f64 {
    let frame = [0_u8; 64];
    let frames = [&frame[..]; BATCH];
    let mut verdicts = [VerdictId::NONE; BATCH];
    let mut best = f64::INFINITY;
    for _ in 0..=rounds {
        let started = Instant::now();
        for outer in packets.chunks(BATCH) {
            let (wire_len, ingress, taps) = (&[64; BATCH], &[PortId(0); BATCH], &[1; BATCH]);
            let input = Input { frames: &frames, outer, inner: &[], wire_len, ingress, taps };
            classifier.classify(program, black_box(&input), &mut verdicts);
            black_box(&verdicts);
        }
        let packets = f64::from(u32::try_from(packets.len()).unwrap_or(u32::MAX));
        best = best.min(started.elapsed().as_secs_f64() * 1e9 / packets);
    }
    best
}

/// What policies look like.
#[derive(Clone, Copy)]
enum Shape {
    /// No predicates.
    Any,
    /// One network each, IPv4 and IPv6.
    Subnets,
    /// Networks and hosts at both ends, ports, protocols, and some with TCP flags.
    Mixed,
    /// The same, with ends from 1,000 groups.
    Groups,
    /// Port ranges within one another, which make as many classes as there are policies.
    Ports,
}

fn policies(count: u32, shape: Shape) -> PolicySet {
    let groups: Vec<Side> = (0..1_000).map(|number| side(number * 3, 4)).collect();
    let policy = |number: u32| {
        let mut policy = Policy {
            name: format!("p{number}"),
            payload: Some(128),
            tag: Tag::new(number % 8).unwrap_or_default(),
            to: vec![DestinationId(u16::try_from(number % DESTINATIONS).unwrap_or(0))],
            ..Policy::default()
        };
        if matches!(shape, Shape::Any) {
            return policy;
        }
        if matches!(shape, Shape::Ports) {
            let first = u16::try_from(number % 30_000).unwrap_or(0);
            policy.collect.ports = Some(RangeSet::new([first..=u16::MAX - first]));
            return policy;
        }
        policy.collect = match shape {
            Shape::Groups => groups.get(number as usize % 1_000).cloned().unwrap_or_default(),
            _ => side(number, 1),
        };
        if !matches!(shape, Shape::Subnets) {
            match number % 5 {
                0 => policy.protocol = Some(RangeSet::new([6..=6])),
                1 => policy.collect.ports = Some(RangeSet::new([80..=80, 443..=443])),
                2 => policy.peer = side(number / 5 * 7, 1),
                3 => policy.peer.ports = Some(RangeSet::new([1024..=65_535])),
                _ if number % 10 == 4 => policy.tcp_flags = Some(TcpFlagsMatch { mask: 2, value: 2 }),
                _ => {}
            }
        }
        policy
    };
    let destination = |number| Destination {
        name: format!("d{number}"),
        kind: DestinationKind::Pcap { file: "d".into() },
        inner_vlan: false,
        vlan_from: sluice_model::VlanFrom::Tag,
        mtu: None,
        oversize: Oversize::Truncate,
        limit: None,
    };
    PolicySet::new((0..count).map(policy).collect(), (0..DESTINATIONS).map(destination).collect())
        .unwrap_or_default()
}

/// `count` networks from number `first` on: every third a host, the others 256 addresses of 10.0.0.0/8.
fn side(first: u32, count: u32) -> Side {
    let networks = first..first + count;
    let four = networks.clone().map(|n| {
        let start = 0x0a00_0000 + (n % 4_096) * 256;
        if n % 3 == 0 { start + 7..=start + 7 } else { start..=start + 255 }
    });
    let six = networks.map(|n| {
        let start = (0x2001_0db8_u128 << 96) + (u128::from(n % 4_096) << 64);
        start..=start + u128::from(u64::MAX)
    });
    let set = AddressSet { ipv4: four.collect(), ipv6: six.collect(), ..AddressSet::default() };
    Side { addresses: vec![Arc::new(set)], ports: None }
}

/// The headers of a packet of this flow: clients anywhere in 10.0.0.0/8, half of it outside all networks.
fn packet(flow: u32, v6: bool) -> Parsed {
    let scattered = flow.wrapping_mul(0x9e37_79b1);
    let ends: [IpAddr; 2] = [scattered >> 12, scattered.rotate_left(16) >> 12].map(|n| {
        if v6 {
            let network = (0x2001_0db8_u128 << 96) + (u128::from(n >> 8 & 0x1fff) << 64);
            IpAddr::V6(Ipv6Addr::from(network + u128::from(n)))
        } else {
            IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))
        }
    });
    let octets = ends.map(|end| match end {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    });
    let server = [80, 443, 53, 8080].get(flow as usize % 4).copied().unwrap_or(0);
    let client = u16::try_from(32_768 + scattered % 16_384).unwrap_or(0);
    let tcp = !flow.is_multiple_of(3);
    Parsed {
        src_addr: octets[0],
        dst_addr: octets[1],
        src_port: if flow.is_multiple_of(2) { server } else { client },
        dst_port: if flow.is_multiple_of(2) { client } else { server },
        ethertype: if v6 { 0x86dd } else { 0x0800 },
        l3_offset: 14,
        l4_offset: 34,
        header_end: 42,
        protocol: if tcp { 6 } else { 17 },
        tcp_flags: if tcp { 0x10 } else { 0 },
        l3: if v6 { L3::Ipv6 } else { L3::Ipv4 },
        fragment: Fragment::Whole,
        has_ports: true,
        ..Parsed::EMPTY
    }
}

/// The clock of the machine as the kernel states it, GHz.
fn clock_ghz() -> f64 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line =
        text.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse().ok());
    line.unwrap_or(1_000.0_f64) / 1e3
}
