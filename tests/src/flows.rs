//! What does `sluiced replay --flows` say of a capture, in a form that other tools' results can be held against?
#![expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    clippy::panic,
    reason = "only tests call these; a damaged reference should stop them"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::sluiced;

/// Replays at the same time: most of each is waiting.
const THREADS: usize = 4;
const POLICY: &str = "[[destination]]\nname = \"all\"\ntype = \"pcap\"\nfile = \"all.pcap\"\n\
                      [[policy]]\nname = \"none\"\nethertype = [0xffff]\nto = [\"all\"]\n";

/// Addresses and ports of client and server, and the protocol. Ports are 0 where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Client first.
    pub ends: [(IpAddr, u16); 2],
    /// IP protocol.
    pub protocol: u8,
}

impl Key {
    /// From text addresses.
    #[must_use]
    pub fn new(client: (&str, u16), server: (&str, u16), protocol: u8) -> Self {
        let end = |(address, port): (&str, u16)| {
            (address.parse().unwrap_or_else(|_| panic!("{address:?} is no address")), port)
        };
        Self { ends: [end(client), end(server)], protocol }
    }

    /// Client and server exchanged.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { ends: [self.ends[1], self.ends[0]], ..self }
    }
}

/// A flow: its records put together. Client first.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// Packets.
    pub packets: [u64; 2],
    /// Bytes: Ethernet header, tags, IP packet.
    pub bytes: [u64; 2],
    /// Bytes after the L4 header.
    pub l4_bytes: [u64; 2],
    /// The VLAN id.
    pub vlan: u64,
    /// The close type of its last record.
    pub close_type: u64,
    /// First to last packet, microseconds.
    pub duration_us: u64,
    /// Its records, in order.
    pub records: Vec<Value>,
}

impl Flow {
    /// The sum of a column over its records; what was not measured is 0.
    #[must_use]
    pub fn sum(&self, column: &str) -> u64 {
        self.records.iter().filter_map(|record| field(record, column).as_u64()).sum()
    }

    /// The largest value of a column over its records; `None` when it was not measured.
    #[must_use]
    pub fn max(&self, column: &str) -> Option<u64> {
        self.records.iter().filter_map(|record| field(record, column).as_u64()).max()
    }
}

/// The column of a record, which must be there.
fn field<'a>(record: &'a Value, column: &str) -> &'a Value {
    record.get(column).unwrap_or_else(|| panic!("no column {column}"))
}

/// The flows of a replay with IP (or ARP) addresses, by key: several when a flow ended and another began.
pub type Flows = BTreeMap<Key, Vec<Flow>>;

/// Replays a capture; `None` when its link type is not supported.
#[must_use]
pub fn replay(capture: &Path, arguments: &[&str]) -> Option<Flows> {
    let folder = tempfile::tempdir().expect("a folder");
    let records = folder.path().join("flows.jsonl");
    let mut all = vec!["--flows", records.to_str().expect("a name in UTF-8")];
    all.extend(arguments);
    let replayed = sluiced::run(folder.path(), POLICY, &[capture], &all);
    if replayed.stderr.contains("is not supported") {
        return None;
    }
    assert_eq!(replayed.code, Some(0), "{}: {}", capture.display(), replayed.stderr);
    Some(read(&fs::read_to_string(&records).expect("the records")))
}

/// Replays several captures at the same time; results in their order.
#[must_use]
pub fn replay_all(captures: &[(PathBuf, &[&str])]) -> Vec<Option<Flows>> {
    let results: Vec<_> = captures.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    sluiced::binary();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((index, (capture, arguments))) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    captures.get(index).map(|capture| (index, capture))
                } {
                    *results[index].lock().expect("no panic before") = replay(capture, arguments);
                }
            });
        }
    });
    results.into_iter().map(|result| result.into_inner().expect("no panic before")).collect()
}

/// Puts the records of JSON lines together.
#[must_use]
pub fn read(lines: &str) -> Flows {
    let mut by_id: BTreeMap<u64, (Option<Key>, Flow)> = BTreeMap::new();
    for line in lines.lines() {
        let record: Value = serde_json::from_str(line).expect("a line of JSON");
        let number = |column: &str| field(&record, column).as_u64().unwrap_or(0);
        let (key, flow) = by_id.entry(number("flow_id")).or_default();
        *key = key_of(&record);
        let both = |name: &str| [number(&format!("{name}_tx")), number(&format!("{name}_rx"))];
        for (sum, counted) in [
            (&mut flow.packets, both("packet")),
            (&mut flow.bytes, both("byte")),
            (&mut flow.l4_bytes, both("l4_byte")),
        ] {
            sum[0] += counted[0];
            sum[1] += counted[1];
        }
        flow.vlan = number("vlan");
        flow.close_type = number("close_type");
        flow.duration_us = number("duration");
        assert_eq!([number("total_packet_tx"), number("total_packet_rx")], flow.packets, "{line}");
        assert_eq!([number("total_byte_tx"), number("total_byte_rx")], flow.bytes, "{line}");
        flow.records.push(record);
    }
    let mut flows = Flows::new();
    for (key, flow) in by_id.into_values() {
        assert_ne!(flow.close_type, 5, "a flow without end");
        if let Some(key) = key {
            flows.entry(key).or_default().push(flow);
        }
    }
    flows
}

fn key_of(record: &Value) -> Option<Key> {
    let port = |column| field(record, column).as_u64().map_or(Some(0), |port| u16::try_from(port).ok());
    let address = |end| {
        let [v4, v6] = ["ip4", "ip6"].map(|family| field(record, &format!("{family}_{end}")).as_str());
        v4.or(v6)?.parse().ok()
    };
    Some(Key {
        ends: [(address(0)?, port("client_port")?), (address(1)?, port("server_port")?)],
        protocol: u8::try_from(field(record, "protocol").as_u64()?).ok()?,
    })
}

/// All flows of a key, in both directions, added up: packets, bytes and bytes after the L4 header; ends as in the key.
#[must_use]
pub fn totals(flows: &Flows, key: Key) -> Option<[[u64; 2]; 3]> {
    let mut sum = [[0; 2]; 3];
    let mut found = false;
    for (key, turned) in [(key, 0), (key.reversed(), 1)] {
        for flow in flows.get(&key).into_iter().flatten() {
            found = true;
            for (sum, counted) in sum.iter_mut().zip([flow.packets, flow.bytes, flow.l4_bytes]) {
                sum[0] += counted[turned];
                sum[1] += counted[1 - turned];
            }
        }
        if key.ends[0] == key.ends[1] {
            break;
        }
    }
    found.then_some(sum)
}

/// Whether `frame` are the bytes of `packets` packets with Ethernet headers and tags around IP packets of `ip` bytes.
#[must_use]
pub fn is_framed(frame: u64, ip: u64, packets: u64) -> bool {
    (0..=3).any(|tags| ip + packets * (14 + 4 * tags) == frame)
}

/// Collects what differs; at the end it must be what is expected to.
#[derive(Debug, Default)]
pub struct Differences(BTreeMap<String, Vec<String>>);

impl Differences {
    /// Something differs in `place`.
    pub fn add(&mut self, place: &str, text: impl Into<String>) {
        self.0.entry(place.to_owned()).or_default().push(text.into());
    }

    /// The places with differences must be these, each with so many.
    pub fn expect(&self, places: &[(&str, usize)]) {
        let expected: BTreeMap<_, _> =
            places.iter().map(|&(place, count)| (place.to_owned(), count)).collect();
        let found: BTreeMap<_, _> =
            self.0.iter().map(|(place, texts)| (place.clone(), texts.len())).collect();
        let unexpected = self.0.iter().filter(|(place, texts)| expected.get(*place) != Some(&texts.len()));
        let text: Vec<_> =
            unexpected.map(|(place, texts)| format!("{place}:\n  {}", texts.join("\n  "))).collect();
        assert_eq!(found, expected, "{}", text.join("\n"));
    }
}
