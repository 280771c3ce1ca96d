//! Are the verdicts of the dedup stage those of an exact model, over random packets and over all captures?
//!
//! The model keeps whole keys in a map without bounds. Packets go to the stage in batches of changing sizes, once in one
//! segment and once scattered over small ones. Injected duplicates differ by TTL, MAC addresses, VLAN tag, TOS, order and
//! distance; what is expected of them follows from how they were made, too.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a broken promise should stop the test; lengths are small"
)]

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use dpdk::{Eal, EalConfig, Hugepages, Mempool, MempoolConfig, SocketId};
use sluice_capture::CaptureReader;
use sluice_core::dedup::KeyProfile;
use sluice_core::wire::{self, Fragment, L3, Parsed};
use sluice_engine::batch::{BATCH, Batch, RxInfo};
use sluice_engine::ledger::Ledger;
use sluice_engine::stage::dedup::Dedup;
use sluice_model::{DedupKey, DedupMode, DedupSettings, PortId};
use sluice_tests::captures;
use sluice_tests::dedup_model::Model;

const WINDOW_NS: u64 = 50_000_000;
const START_NS: u64 = 1_700_000_000_000_000_000;
const PORTS: u16 = 4;

/// A packet on its way to the stage.
#[derive(Clone, Debug)]
struct Packet {
    frame: Vec<u8>,
    wire_len: u32,
    time_ns: u64,
    port: u16,
}

impl Packet {
    fn new(frame: Vec<u8>, time_ns: u64, port: u16) -> Self {
        Self { wire_len: frame.len() as u32, frame, time_ns, port }
    }
}

struct Rig {
    whole: Mempool,
    scattered: Mempool,
    random: u64,
}

impl Rig {
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end.max(1)
    }

    /// The verdicts of the stage, as ports of the first copy are not told: duplicate or not. Checks the counters.
    fn verdicts(&mut self, settings: &DedupSettings, packets: &[Packet], scatter: bool) -> Vec<bool> {
        let mut stage = Dedup::new(settings, 65_536, PORTS.into(), true).unwrap();
        let mut batch = Batch::default();
        let mut ledger = Ledger::default();
        let mut verdicts = Vec::with_capacity(packets.len());
        let mut left = packets;
        while !left.is_empty() {
            let size = (1 + self.below(BATCH as u64) as usize).min(left.len());
            let (now, rest) = left.split_at(size);
            left = rest;
            for (place, packet) in now.iter().enumerate() {
                let pool = if scatter { &self.scattered } else { &self.whole };
                let mbuf = pool.copy_from(&packet.frame).unwrap();
                let info =
                    RxInfo { wire_len: packet.wire_len, timestamp_ns: packet.time_ns, ..RxInfo::default() };
                batch.push(mbuf, info, PortId(packet.port)).unwrap();
                batch.outer[place] = wire::parse(&packet.frame);
            }
            // Scattered packets are parsed as far as their first segment goes; here all of their headers are known.
            let allocated = allocation_counter::measure(|| {
                let _ends = stage.run(&mut batch, &mut ledger);
            });
            assert_eq!(allocated.count_total, 0, "a worker must not allocate after its start");
            verdicts.extend((0..size).map(|place| batch.duplicates >> place & 1 == 1));
            for place in 0..size {
                drop(batch.take(place));
            }
            batch.clear();
        }
        let duplicates = verdicts.iter().filter(|duplicate| **duplicate).count() as u64;
        assert_eq!((ledger.duplicates, ledger.dedup_evicted), (duplicates, 0));
        verdicts
    }

    /// Compares the stage with the model, both ways of lying in memory; gives the verdicts.
    fn compare(&mut self, name: &str, settings: &DedupSettings, packets: &[Packet]) -> Vec<bool> {
        let mut model = Model::new(profile(settings.key), settings.window_ns);
        let expected: Vec<bool> = packets
            .iter()
            .map(|packet| {
                let headers = wire::parse(&packet.frame);
                let (time_ns, port) = (packet.time_ns, packet.port);
                model.offer(&packet.frame, &headers, packet.wire_len, time_ns, port).is_some()
            })
            .collect();
        for scatter in [false, true] {
            let verdicts = self.verdicts(settings, packets, scatter);
            if let Some(at) = (0..packets.len()).find(|&at| verdicts[at] != expected[at]) {
                panic!(
                    "{name}: packet {at} (scattered: {scatter}): the model says {}: {:?}",
                    expected[at], packets[at]
                );
            }
        }
        expected
    }
}

fn profile(key: DedupKey) -> KeyProfile {
    KeyProfile {
        macs: key.macs,
        vlan: key.vlan,
        ttl: key.ttl,
        tos: key.tos,
        l4_checksum: key.l4_checksum.unwrap_or(true),
        payload_bytes: key.payload_bytes,
    }
}

fn settings() -> DedupSettings {
    DedupSettings { mode: DedupMode::Count, window_ns: WINDOW_NS, ..DedupSettings::default() }
}

/// What is done to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Change {
    Nothing,
    Ttl,
    Macs,
    Vlan,
    Tos,
    All,
    Id,
}

const CHANGES: [Change; 7] =
    [Change::Nothing, Change::Ttl, Change::Macs, Change::Vlan, Change::Tos, Change::All, Change::Id];

/// A changed copy; `None` where the change cannot be made.
fn changed(frame: &[u8], headers: &Parsed, change: Change) -> Option<Vec<u8>> {
    let mut copy = frame.to_vec();
    let l3 = usize::from(headers.l3_offset);
    if copy.len() < 14 {
        return (change == Change::Nothing).then_some(copy);
    }
    match (change, headers.l3) {
        (Change::Nothing, _) => {}
        (Change::Macs, _) => copy[..12].iter_mut().for_each(|byte| *byte ^= 0x5a),
        (Change::Vlan, _) if headers.vlan_count < 4 => {
            copy.splice(12..12, [0x81, 0, 0x20, 0x64]);
        }
        (Change::Ttl, L3::Ipv4) => copy[l3 + 8] = copy[l3 + 8].wrapping_sub(1),
        (Change::Ttl, L3::Ipv6) => copy[l3 + 7] = copy[l3 + 7].wrapping_sub(1),
        (Change::Tos, L3::Ipv4) => copy[l3 + 1] ^= 0xb8,
        (Change::Tos, L3::Ipv6) => copy[l3 + 1] ^= 0xb0,
        (Change::Id, L3::Ipv4) => copy[l3 + 5] ^= 1,
        (Change::All, L3::Ipv4 | L3::Ipv6) => {
            copy = changed(&copy, headers, Change::Ttl)?;
            copy = changed(&copy, headers, Change::Tos)?;
            copy = changed(&copy, headers, Change::Macs)?;
            return changed(&copy, headers, Change::Vlan);
        }
        _ => return None,
    }
    if headers.l3 == L3::Ipv4 && matches!(change, Change::Ttl | Change::Tos | Change::Id) {
        let header_len = usize::from(copy[l3] & 0xf) * 4;
        copy[l3 + 10..l3 + 12].fill(0);
        let header = copy.get(l3..l3 + header_len)?;
        let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        copy[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
    }
    Some(copy)
}

/// Every distance of a copy around the window, in both directions: a negative one is a copy with an earlier time that
/// comes later.
const DISTANCES: [i64; 10] = [
    0,
    1,
    WINDOW_NS as i64 - 1,
    WINDOW_NS as i64,
    WINDOW_NS as i64 + 1,
    3 * WINDOW_NS as i64,
    -1,
    -(WINDOW_NS as i64) + 1,
    -(WINDOW_NS as i64),
    -(WINDOW_NS as i64) - 1,
];

/// The first frames of a capture, with their lengths.
fn frames_of(path: &Path, most: usize) -> Vec<(Vec<u8>, u32, u64)> {
    let mut frames = Vec::new();
    let Ok(mut reader) = CaptureReader::open(path) else { return frames };
    while frames.len() < most {
        // A damaged capture counts up to its damage.
        let Ok(Some(frame)) = reader.next_frame() else { break };
        frames.push((frame.data.to_vec(), frame.wire_len, frame.timestamp_ns));
    }
    frames
}

fn capture_files() -> Option<(PathBuf, Vec<PathBuf>)> {
    let folder = captures::folder()?;
    let is_capture = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains(".pcap") || name.contains(".cap") || name.contains(".trace")
    };
    let files = captures::files(&folder).into_iter().filter(is_capture).collect();
    Some((folder, files))
}

/// Copies of the frames of all captures.
fn injected(rig: &mut Rig) {
    let Some((_, files)) = capture_files() else { return };
    let most = if std::env::var_os("SLUICE_LONG").is_some() { 2000 } else { 25 };
    let mut tried: BTreeMap<(Change, bool, i64), (u64, u64)> = BTreeMap::new();
    let mut turn = 0;
    for path in files {
        let mut events = Vec::new();
        let mut seen = Model::new(profile(settings().key), u64::MAX);
        // Far enough apart that all copies of a frame are over before those of the one after the next begin.
        for (number, (frame, wire_len, _)) in frames_of(&path, most).into_iter().enumerate() {
            let headers = wire::parse(&frame);
            let unique = !seen.knows(&frame, &headers, wire_len);
            seen.offer(&frame, &headers, wire_len, 0, 0);
            let (change, distance) = (CHANGES[turn % 7], DISTANCES[turn / 7 % 10]);
            turn += 1;
            let time_ns = START_NS + (number as u64 + 1) * 4 * WINDOW_NS;
            let port = (number % usize::from(PORTS)) as u16;
            let added = changed(&frame, &headers, change);
            let is_ip = matches!(headers.l3, L3::Ipv4 | L3::Ipv6);
            let original = Packet { frame, wire_len, time_ns, port };
            // Where it arrives, and what is expected of a copy of a packet that the capture has once.
            events.push((time_ns, None, original));
            let Some(frame) = added else { continue };
            let longer = (frame.len() as u32).saturating_sub(events.last().unwrap().2.frame.len() as u32);
            let copied_ns = time_ns.wrapping_add_signed(distance);
            let arrives_ns = time_ns + 1 + distance.max(0) as u64;
            let same = match change {
                Change::Nothing => true,
                Change::Id => false,
                _ => is_ip,
            };
            let within = distance.unsigned_abs() <= WINDOW_NS;
            let expected = unique.then_some((change, is_ip, distance, same && within));
            let copy =
                Packet { frame, wire_len: wire_len + longer, time_ns: copied_ns, port: (port + 1) % PORTS };
            events.push((arrives_ns, expected, copy));
        }
        events.sort_by_key(|event| event.0);
        let packets: Vec<Packet> = events.iter().map(|event| event.2.clone()).collect();
        let verdicts = rig.compare(&path.display().to_string(), &settings(), &packets);
        for ((_, expected, packet), verdict) in events.iter().zip(verdicts) {
            let Some((change, is_ip, distance, duplicate)) = *expected else { continue };
            // A frame beyond 65,535 bytes is cut by the model's parser; none is that long.
            assert_eq!(verdict, duplicate, "{}: {change:?} at {distance}: {packet:?}", path.display());
            let count = tried.entry((change, is_ip, distance)).or_default();
            if duplicate { count.0 += 1 } else { count.1 += 1 }
        }
    }
    // Every change met every distance, in IP packets and (where it can be made) in others.
    for change in CHANGES {
        for distance in DISTANCES {
            assert!(tried.contains_key(&(change, true, distance)), "{change:?} at {distance} was not tried");
        }
    }
    assert!(tried.values().map(|count| count.0 + count.1).sum::<u64>() > 5_000, "{tried:?}");
}

/// Which packets of a capture as it is are duplicates.
#[derive(Default)]
struct Row {
    packets: usize,
    duplicates: usize,
    not_ip: usize,
    retransmissions: usize,
    same_key: usize,
    same_key_id_0: usize,
    same_key_ipv6: usize,
}

/// No retransmission that differs in the key is dropped; those that do not are listed.
fn originals(rig: &mut Rig) {
    let Some((folder, files)) = capture_files() else { return };
    let mut table = String::from(
        "# Packets of the captures, as they are, that are duplicates within 50 ms by the default key.\n\
         # retransmissions: TCP segments that take up sequence numbers and whose flow had one of this sequence number and\n\
         # length before, at any time. same key: those of them that deduplication cannot tell from a duplicate, being\n\
         # within the window and equal in all that counts; of these with IPv4 identification 0, and in IPv6.\n\
         # capture\tpackets\tduplicates\tnot IP\tretransmissions\tsame key\tid 0\tIPv6\n",
    );
    let (mut retransmissions, mut kept) = (0, 0);
    for path in files {
        let frames = frames_of(&path, usize::MAX);
        let packets: Vec<Packet> = frames
            .into_iter()
            .map(|(frame, wire_len, time_ns)| Packet { frame, wire_len, time_ns, port: 0 })
            .collect();
        let verdicts = rig.compare(&path.display().to_string(), &settings(), &packets);
        let mut row = Row { packets: packets.len(), ..Row::default() };
        let mut segments = HashSet::new();
        for (packet, duplicate) in packets.iter().zip(verdicts) {
            let headers = wire::parse(&packet.frame);
            let is_ip = matches!(headers.l3, L3::Ipv4 | L3::Ipv6);
            row.duplicates += usize::from(duplicate);
            row.not_ip += usize::from(duplicate && !is_ip);
            if segment_of(packet, &headers).is_none_or(|segment| segments.insert(segment)) {
                continue;
            }
            row.retransmissions += 1;
            if duplicate {
                let l3 = usize::from(headers.l3_offset);
                row.same_key += 1;
                row.same_key_id_0 +=
                    usize::from(headers.l3 == L3::Ipv4 && packet.frame[l3 + 4..l3 + 6] == [0, 0]);
                row.same_key_ipv6 += usize::from(headers.l3 == L3::Ipv6);
            }
        }
        retransmissions += row.retransmissions;
        kept += row.retransmissions - row.same_key;
        if row.duplicates > 0 {
            let name = path.strip_prefix(&folder).unwrap().display();
            let Row { packets, duplicates, not_ip, retransmissions, same_key, .. } = row;
            let (id_0, ipv6) = (row.same_key_id_0, row.same_key_ipv6);
            writeln!(
                table,
                "{name}\t{packets}\t{duplicates}\t{not_ip}\t{retransmissions}\t{same_key}\t{id_0}\t{ipv6}"
            )
            .unwrap();
        }
    }
    writeln!(table, "# all captures: {retransmissions} retransmissions, {kept} of them forwarded").unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/dedup-captures.tsv");
    if std::env::var_os("SLUICE_BLESS").is_some() {
        std::fs::write(&golden, &table).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    for (line, (now, before)) in table.lines().zip(expected.lines()).enumerate() {
        assert_eq!(now, before, "line {} of {} (SLUICE_BLESS=1 writes it anew)", line + 1, golden.display());
    }
    assert_eq!(table.lines().count(), expected.lines().count(), "{}", golden.display());
}

/// Flow, sequence number and length of a TCP segment that takes up sequence numbers.
fn segment_of(packet: &Packet, headers: &Parsed) -> Option<impl Eq + std::hash::Hash + use<>> {
    if headers.protocol != 6 || headers.l4_offset == 0 || headers.fragment == Fragment::Later {
        return None;
    }
    let frame = &packet.frame;
    let l3 = usize::from(headers.l3_offset);
    let l4 = usize::from(headers.l4_offset);
    let seq = frame.get(l4 + 4..l4 + 8)?.to_vec();
    let ip_len = match headers.l3 {
        L3::Ipv4 => usize::from(u16::from_be_bytes([frame[l3 + 2], frame[l3 + 3]])),
        _ => 40 + usize::from(u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]])),
    };
    let payload = (l3 + ip_len).checked_sub(usize::from(headers.header_end))?;
    let syn_fin = headers.tcp_flags & 3;
    let ports = (headers.src_port, headers.dst_port);
    (payload > 0 || syn_fin != 0).then_some((
        headers.src_addr,
        headers.dst_addr,
        ports,
        seq,
        payload,
        syn_fin,
    ))
}

/// Packets of few values in each field, so that many are nearly the same.
fn random_packets(rig: &mut Rig, count: usize) -> Vec<Packet> {
    let mut time_ns = START_NS;
    let mut packets: Vec<Packet> = Vec::with_capacity(count);
    for _ in 0..count {
        time_ns += rig.below(200_000);
        if let (true, Some(_)) = (rig.below(3) == 0, packets.last()) {
            let recent = packets.len().min(400) as u64;
            let mut copy = packets[packets.len() - 1 - rig.below(recent) as usize].clone();
            let headers = wire::parse(&copy.frame);
            let change = CHANGES[rig.below(7) as usize];
            copy.frame = changed(&copy.frame, &headers, change).unwrap_or(copy.frame);
            if rig.below(8) == 0 {
                let at = rig.below(copy.frame.len() as u64) as usize;
                copy.frame[at] ^= 1 << rig.below(8);
            }
            copy.wire_len = copy.wire_len.max(copy.frame.len() as u32);
            copy.port = rig.below(PORTS.into()) as u16;
            // Times of different ports are not in order.
            copy.time_ns = match rig.below(4) {
                0 => time_ns - rig.below(2_000_000),
                // Exactly at the window, and beside it.
                1 => copy.time_ns + WINDOW_NS - 1 + rig.below(3),
                _ => time_ns,
            };
            if copy.time_ns <= time_ns + 1_000_000 {
                packets.push(copy);
            }
            continue;
        }
        let frame = random_frame(rig);
        let mut packet = Packet::new(frame, time_ns, rig.below(PORTS.into()) as u16);
        if rig.below(10) == 0 {
            let keep = rig.below(packet.frame.len() as u64 + 1) as usize;
            packet.frame.truncate(keep.max(14));
        }
        packets.push(packet);
    }
    packets
}

fn random_frame(rig: &mut Rig) -> Vec<u8> {
    let protocol = [6, 17, 132, 1, 58, 50][rig.below(6) as usize];
    let payload_len = [0, 1, 3, 12, 100, 127, 128, 129, 140, 700, 1400][rig.below(11) as usize];
    let l4_len = match protocol {
        6 => 20 + 4 * rig.below(11) as usize,
        17 | 1 | 58 => 8,
        132 => 12,
        _ => 0,
    };
    let mut l4 = vec![0; l4_len + payload_len];
    if l4_len > 0 {
        l4[1] = rig.below(3) as u8;
        l4[3] = 53;
        let checksum = match protocol {
            6 => 16,
            132 => 8,
            _ => 6,
        };
        l4[checksum] = rig.below(2) as u8;
    }
    if protocol == 6 {
        l4[7] = rig.below(4) as u8;
        l4[12] = (l4_len as u8 / 4) << 4;
    }
    if let Some(last) = l4.last_mut() {
        *last = rig.below(3) as u8;
    }
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if rig.below(4) == 0 {
        frame.extend([0x81, 0, 0, rig.below(3) as u8]);
    }
    match rig.below(10) {
        0 => {
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend([rig.below(3) as u8; 40]);
        }
        1..5 => {
            let extension = if rig.below(4) == 0 { 8 } else { 0 };
            let len = (l4.len() + extension) as u16;
            frame.extend([0x86, 0xdd, 0x60, 0, 0, rig.below(2) as u8]);
            frame.extend(len.to_be_bytes());
            frame.extend([if extension > 0 { 44 } else { protocol }, 64]);
            frame.extend([0x20; 32]);
            if extension > 0 {
                // A fragment header: whole, first or later.
                frame.extend([protocol, 0, 0, [0, 1, 9][rig.below(3) as usize], 0, 0, 0, 7]);
            }
            frame.extend(l4);
        }
        _ => {
            let options = 4 * rig.below(3) as usize;
            let len = match rig.below(20) {
                0 => 0,
                _ => (20 + options + l4.len()) as u16,
            };
            let fragment =
                if rig.below(6) == 0 { [[0x20, 0], [0, 5]][rig.below(2) as usize] } else { [0, 0] };
            frame.extend([8, 0, 0x45 + options as u8 / 4, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([0, rig.below(3) as u8, fragment[0], fragment[1], 64, protocol, 0, 0]);
            frame.extend([10, 0, 0, rig.below(3) as u8, 10, 0, 0, 9]);
            frame.extend(vec![1; options]);
            frame.extend(l4);
            // Padding and trailers, which do not count.
            if rig.below(3) == 0 {
                let end = frame.len().max(60) + rig.below(5) as usize;
                frame.resize(end, rig.below(2) as u8);
            }
        }
    }
    frame
}

/// Random packets under every kind of key.
fn random(rig: &mut Rig) {
    let default = DedupKey::default();
    let keys = [
        default,
        DedupKey { l4_checksum: Some(false), ..default },
        DedupKey { macs: true, vlan: true, ..default },
        DedupKey { ttl: true, payload_bytes: 0, ..default },
        DedupKey { tos: true, l4_checksum: Some(false), payload_bytes: 1500, ..default },
        DedupKey { vlan: true, payload_bytes: 1, ..default },
    ];
    let count = if std::env::var_os("SLUICE_LONG").is_some() { 400_000 } else { 20_000 };
    for key in keys {
        let packets = random_packets(rig, count);
        let verdicts = rig.compare(&format!("{key:?}"), &DedupSettings { key, ..settings() }, &packets);
        let duplicates = verdicts.iter().filter(|duplicate| **duplicate).count();
        assert!(duplicates > count / 20 && duplicates < count * 19 / 20, "{key:?}: {duplicates}");
    }
}

#[test]
fn verdicts_are_those_of_the_model() {
    let eal =
        Eal::init(&EalConfig { hugepages: Hugepages::Never, memory_mb: 64, ..EalConfig::default() }).unwrap();
    let pool = |name: &str, mbufs, data_room| {
        let config = MempoolConfig { name: name.into(), mbufs, cache: 0, data_room, socket: SocketId::ANY };
        Mempool::new(&eal, &config).unwrap()
    };
    let mut rig = Rig {
        whole: pool("whole", 127, u16::MAX - 128),
        scattered: pool("scattered", 65_535, 256),
        random: 0x5eed_5eed,
    };
    random(&mut rig);
    injected(&mut rig);
    originals(&mut rig);
    assert_eq!(rig.whole.in_use() + rig.scattered.in_use(), 0);
}
