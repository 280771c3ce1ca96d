//! Does every capture leave `sluiced replay` inside every tunnel as it went in?
//!
//! One replay per capture, with a match-all policy to all destinations at once. Input frames as the Wireshark tools read
//! them (`reference`). The inner frames are compared byte by byte behind a header whose length the specification gives;
//! the outer headers are read by tshark, from joined outputs without their Ethernet header and with the Ethernet
//! dissector off: so whatever tshark complains about is in an outer header. The Ethernet headers are compared here.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_lossless,
    clippy::needless_range_loop,
    clippy::format_push_string
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sluice_tests::captures;
use sluice_tests::pcap_file::{self, Builder, ETHERNET, RAW_IP, Record};
use sluice_tests::reference::{self, Capture, Captures, Frame};
use sluice_tests::sluiced::{self, Replayed, Report};
use sluice_tests::tshark::Tshark;

/// With bits in each of the 24; and one for destinations that carry 10 (ERSPAN sessions) or 12 (inner VLAN).
const WIDE_TAG: u32 = 0xab_cdef;
const NARROW_TAG: u32 = 0x2a5;
const MAX_IP_PACKET: usize = 65_535;
const ETHERNET_LEN: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vxlan,
    VxlanReference,
    Erspan2,
    Erspan3,
    Erspan3Reference,
    Plain,
}

#[derive(Clone, Copy, Debug)]
struct Destination {
    name: &'static str,
    toml: &'static str,
    kind: Kind,
    ipv6: bool,
    inner_vlan: bool,
}

const fn tunnel(name: &'static str, toml: &'static str, kind: Kind, ipv6: bool) -> Destination {
    Destination { name, toml, kind, ipv6, inner_vlan: false }
}

const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8::a";

const DESTINATIONS: [Destination; 14] = [
    tunnel("vxlan4", "type = \"vxlan\"", Kind::Vxlan, false),
    tunnel("vxlan6", "type = \"vxlan\"", Kind::Vxlan, true),
    tunnel("vxlan4-ref", "type = \"vxlan\"\nmarking = \"reference\"", Kind::VxlanReference, false),
    tunnel("vxlan6-ref", "type = \"vxlan\"\nmarking = \"reference\"", Kind::VxlanReference, true),
    tunnel("erspan2.v4", "type = \"erspan2\"", Kind::Erspan2, false),
    tunnel("erspan2.v6", "type = \"erspan2\"", Kind::Erspan2, true),
    tunnel("erspan3.v4", "type = \"erspan3\"", Kind::Erspan3, false),
    tunnel("erspan3.v6", "type = \"erspan3\"", Kind::Erspan3, true),
    tunnel("erspan3_ref", "type = \"erspan3\"\nmarking = \"reference\"", Kind::Erspan3Reference, false),
    tunnel("erspan3_ref6", "type = \"erspan3\"\nmarking = \"reference\"", Kind::Erspan3Reference, true),
    Destination {
        inner_vlan: true,
        ..tunnel("tagged", "type = \"vxlan\"\ninner_vlan = true", Kind::Vxlan, false)
    },
    Destination {
        inner_vlan: true,
        ..tunnel("tagged6", "type = \"erspan3\"\ninner_vlan = true", Kind::Erspan3, true)
    },
    tunnel("file", "type = \"pcap\"\nfile = \"unused-in-replay.pcap\"", Kind::Plain, false),
    tunnel("port", "type = \"port\"\nport = \"tool0\"", Kind::Plain, false),
];

impl Destination {
    fn policy(&self) -> String {
        let remote = match (self.kind, self.ipv6) {
            (Kind::Plain, _) => String::new(),
            (_, false) => format!("remote = \"{V4}\""),
            (_, true) => format!("remote = \"{V6}\""),
        };
        format!("[[destination]]\nname = \"{}\"\n{}\n{remote}\n\n", self.name, self.toml)
    }

    /// What stands before the copied frame: Ethernet, IP, and UDP + VXLAN or GRE + ERSPAN.
    fn header_len(&self) -> usize {
        let ip = if self.ipv6 { 40 } else { 20 };
        ETHERNET_LEN
            + ip
            + match self.kind {
                Kind::Vxlan | Kind::VxlanReference | Kind::Erspan2 => 8 + 8,
                Kind::Erspan3 => 8 + 12,
                Kind::Erspan3Reference => 12 + 12,
                Kind::Plain => return 0,
            }
    }

    /// Whether it carries tags of 24 bits.
    fn is_wide(&self) -> bool {
        !matches!(self.kind, Kind::Erspan2 | Kind::Erspan3)
    }

    /// How many bytes of the input fit, and whether a tag of 4 bytes goes in.
    fn fit(&self, frame: &Frame) -> (usize, bool) {
        // A frame without both addresses has no place for a tag.
        let tagged = self.inner_vlan && frame.data.len() >= 12;
        if self.kind == Kind::Plain {
            return (frame.data.len(), tagged);
        }
        let room = MAX_IP_PACKET - (self.header_len() - ETHERNET_LEN) - if tagged { 4 } else { 0 };
        (frame.data.len().min(room), tagged)
    }

    /// The copied frame as it must arrive.
    fn inner(&self, frame: &Frame, tag: u32, egress: bool) -> Vec<u8> {
        let (len, tagged) = self.fit(frame);
        let mut inner = frame.data[..len].to_vec();
        if tagged {
            let pcp = 4 | u16::from(egress);
            let [high, low] = (pcp << 13 | (tag & 0xfff) as u16).to_be_bytes();
            inner.splice(12..12, [0x81, 0x00, high, low]);
        }
        inner
    }
}

/// A copy as the policies want it, besides its frame.
#[derive(Clone, Copy, Debug)]
struct Mark {
    frame: usize,
    tag: u32,
    egress: bool,
    sequence: u32,
}

/// The output of one destination over many replays, joined for tshark.
struct Joined {
    destination: Destination,
    file: Builder,
    marks: Vec<Mark>,
    ethernet_headers: BTreeSet<[u8; ETHERNET_LEN]>,
}

impl Joined {
    fn new(destination: Destination) -> Self {
        let file = Builder::new(if destination.kind == Kind::Plain { ETHERNET } else { RAW_IP });
        Self { destination, file, marks: Vec::new(), ethernet_headers: BTreeSet::new() }
    }

    /// Compares the output file of one replay with the frames of its input and takes it in.
    fn add(&mut self, output: &[u8], marks: &[Mark], frames: &[Frame], context: &str) {
        let destination = self.destination;
        let records = pcap_file::records(output);
        if records.len() != marks.len() {
            let differing = records.iter().zip(marks).find(|(record, mark)| {
                let inner = destination.inner(&frames[mark.frame], mark.tag, mark.egress);
                record.data.get(destination.header_len()..) != Some(&inner[..])
            });
            let expected = differing.map(|(_, mark)| (frames[mark.frame].capture, frames[mark.frame].number));
            let (is, due) = (records.len(), marks.len());
            panic!(
                "{context} {}: {is} packets, not {due}, from (capture, frame) {expected:?} on",
                destination.name
            );
        }
        for (record, mark) in records.iter().zip(marks) {
            let frame = &frames[mark.frame];
            let place = || format!("{context} {} frame {}", destination.name, frame.number);
            assert_eq!(record.timestamp_ns, frame.timestamp_ns, "{}: time", place());
            let header_len = destination.header_len();
            let inner = destination.inner(frame, mark.tag, mark.egress);
            assert_eq!(record.data.len(), header_len + inner.len(), "{}: length", place());
            assert!(record.data[header_len..] == inner[..], "{}: the copied frame differs", place());
            let wire_len = match destination.kind {
                Kind::Plain => frame.wire_len as usize,
                _ => record.data.len(),
            };
            assert_eq!(record.wire_len as usize, wire_len, "{}: original length", place());
            if destination.kind == Kind::Plain {
                continue;
            }
            let (ethernet, packet) = record.data.split_first_chunk().unwrap();
            self.ethernet_headers.insert(*ethernet);
            // The time does not matter to tshark, and pcapng goes beyond the years of pcap.
            self.file.push(Record { timestamp_ns: 0, wire_len: packet.len() as u32, data: packet });
            self.marks.push(*mark);
        }
    }

    /// The outer headers as tshark reads them.
    fn dissect(&self, tshark: &Tshark, frames: &[Frame]) {
        let destination = self.destination;
        if destination.kind == Kind::Plain || self.marks.is_empty() {
            return;
        }
        let [ethernet] = self.ethernet_headers.iter().copied().collect::<Vec<_>>()[..] else {
            panic!("{}: one Ethernet header for all: {:?}", destination.name, self.ethernet_headers);
        };
        assert_eq!(ethernet[12..], if destination.ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        assert!(
            ethernet[0] & 1 == 0 && ethernet[6] & 1 == 0 && ethernet[..6] != ethernet[6..12],
            "{ethernet:x?}"
        );

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("joined.pcap");
        self.file.save(&path);
        let count = tshark.fields(&path, FIELDS, |number, values| {
            let mark = self.marks[number];
            let row = Row { values };
            self.check(&row, mark, &frames[mark.frame]);
        });
        assert_eq!(count, self.marks.len(), "{}: packets that tshark reads", destination.name);
    }

    fn check(&self, row: &Row<'_>, mark: Mark, frame: &Frame) {
        let destination = self.destination;
        let context = || format!("{} {mark:?} {row:?}", destination.name);
        let is = |name: &str, value: u64| assert_eq!(row.number(name), value, "{name}: {}", context());
        let (kept, _) = destination.fit(frame);
        let inner_len = destination.inner(frame, mark.tag, mark.egress).len() as u64;
        let packet_len = inner_len + (destination.header_len() - ETHERNET_LEN) as u64;

        let tunnel = match destination.kind {
            Kind::Vxlan | Kind::VxlanReference => "udp:vxlan",
            _ => "gre:erspan",
        };
        let ip = if destination.ipv6 { "ipv6" } else { "ip" };
        let data = if inner_len > 0 { ":data" } else { "" };
        let protocols = row.text("frame.protocols");
        assert_eq!(protocols, format!("raw:{ip}:{tunnel}{data}"), "{}", context());
        assert_eq!(row.text("_ws.malformed"), "", "{}", context());
        assert_eq!(row.text("_ws.expert.message"), "", "{}", context());
        if inner_len > 0 {
            is("data.len", inner_len);
        }
        is("frame.len", packet_len);

        let (remote, local, upper) = if destination.ipv6 {
            is("ipv6.plen", packet_len - 40);
            is("ipv6.hlim", 64);
            is("ipv6.tclass", 0);
            (V6, row.text("ipv6.src"), row.number("ipv6.nxt"))
        } else {
            is("ip.len", packet_len);
            is("ip.hdr_len", 20);
            is("ip.ttl", 64);
            is("ip.dsfield", 0);
            is("ip.flags.df", 1);
            is("ip.flags.mf", 0);
            is("ip.frag_offset", 0);
            is("ip.checksum.status", GOOD);
            (V4, row.text("ip.src"), row.number("ip.proto"))
        };
        assert_eq!(row.text(if destination.ipv6 { "ipv6.dst" } else { "ip.dst" }), remote, "{}", context());
        let local: IpAddr = local.parse().unwrap();
        assert!(local.is_ipv6() == destination.ipv6 && local.to_string() != remote, "{}", context());

        let (tag, direction) = (u64::from(mark.tag), u64::from(mark.egress));
        if matches!(destination.kind, Kind::Vxlan | Kind::VxlanReference) {
            assert_eq!(upper, 17, "{}", context());
            is("udp.dstport", 4789);
            assert!(row.number("udp.srcport") >= 49_152, "{}", context());
            is("udp.length", inner_len + 16);
            is("udp.checksum.status", if destination.ipv6 { GOOD } else { NOT_PRESENT });
            is("vxlan.vni", tag);
            if destination.kind == Kind::Vxlan {
                is("vxlan.flags", 0x0800);
                is("vxlan.gbp", 0);
                is("vxlan.reserved8", 0);
            } else {
                let first = row.number("vxlan.flags") << 16 | row.number("vxlan.gbp");
                assert_eq!(first >> 24, 0xff, "{}", context());
                assert_eq!(first & 0xff_ffff, u64::from(mark.sequence & 0xff_ffff), "{}", context());
                is("vxlan.reserved8", direction);
            }
            return;
        }
        assert_eq!(upper, 47, "{}", context());
        let tci = outermost_tci(&frame.data);
        is("gre.sequence_number", u64::from(mark.sequence));
        is("erspan.spanid", tag & 0x3ff);
        is("erspan.vlan", u64::from(tci.unwrap_or(0) & 0xfff));
        is("erspan.cos", u64::from(tci.unwrap_or(0) >> 13));
        is("erspan.truncated", u64::from(kept < frame.wire_len as usize));
        if destination.kind == Kind::Erspan2 {
            is("gre.flags_and_version", 0x1000);
            is("gre.proto", 0x88be);
            is("erspan.version", 1);
            is("erspan.encap", if tci.is_some() { 3 } else { 0 });
            is("erspan.index", direction);
            return;
        }
        is("gre.proto", 0x22eb);
        is("erspan.version", 2);
        for (name, value) in
            [("erspan.bso", 0), ("erspan.p", 1), ("erspan.ft", 0), ("erspan.hw", 0), ("erspan.o", 0)]
        {
            is(name, value);
        }
        is("erspan.direction", direction);
        if destination.kind == Kind::Erspan3 {
            is("gre.flags_and_version", 0x1000);
            is("erspan.timestamp", frame.timestamp_ns / 100 % (1 << 32));
            is("erspan.gra", 1);
            is("erspan.sgt", 0);
        } else {
            is("gre.flags_and_version", 0x3000);
            is("gre.key", tag);
            let upper = row.number("erspan.timestamp") << 16 | row.number("erspan.sgt");
            assert_eq!(upper, frame.timestamp_ns >> 16, "{}", context());
            is("erspan.gra", 3);
        }
    }
}

/// The tag control information of the first tag, if there is one whole: 802.1Q, 802.1ad, and the old 0x9100.
fn outermost_tci(frame: &[u8]) -> Option<u16> {
    let is_tag = matches!(frame.get(12..14)?, [0x81 | 0x91, 0x00] | [0x88, 0xa8]);
    let tci = frame.get(14..18)?;
    is_tag.then(|| u16::from_be_bytes([tci[0], tci[1]]))
}

/// tshark's `*.checksum.status`.
const GOOD: u64 = 1;
const NOT_PRESENT: u64 = 3;

/// All that stands in an outer header.
const OUTER_PROTOCOLS: &[&str] = &["frame", "raw", "ip", "ipv6", "udp", "vxlan", "gre", "erspan", "data"];

const FIELDS: &[&str] = &[
    "frame.protocols",
    "frame.len",
    "_ws.malformed",
    "_ws.expert.message",
    "data.len",
    "ip.len",
    "ip.hdr_len",
    "ip.ttl",
    "ip.dsfield",
    "ip.flags.df",
    "ip.flags.mf",
    "ip.frag_offset",
    "ip.checksum.status",
    "ip.proto",
    "ip.src",
    "ip.dst",
    "ipv6.plen",
    "ipv6.hlim",
    "ipv6.tclass",
    "ipv6.nxt",
    "ipv6.src",
    "ipv6.dst",
    "udp.srcport",
    "udp.dstport",
    "udp.length",
    "udp.checksum.status",
    "vxlan.flags",
    "vxlan.gbp",
    "vxlan.vni",
    "vxlan.reserved8",
    "gre.flags_and_version",
    "gre.proto",
    "gre.key",
    "gre.sequence_number",
    "erspan.version",
    "erspan.vlan",
    "erspan.cos",
    "erspan.encap",
    "erspan.bso",
    "erspan.truncated",
    "erspan.spanid",
    "erspan.index",
    "erspan.timestamp",
    "erspan.sgt",
    "erspan.p",
    "erspan.ft",
    "erspan.hw",
    "erspan.direction",
    "erspan.gra",
    "erspan.o",
];

#[derive(Debug)]
struct Row<'a> {
    values: &'a [&'a str],
}

impl Row<'_> {
    fn text(&self, name: &str) -> &str {
        let index = FIELDS.iter().position(|field| *field == name).unwrap();
        self.values[index]
    }

    fn number(&self, name: &str) -> u64 {
        let text = self.text(name);
        let number = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.unwrap_or_else(|_| panic!("{name} = {text:?}: {self:?}"))
    }
}

/// Replays each capture on its own, on all cores; hands over what came out in the order of the captures.
fn replay_each(captures: &[Capture], policy: &str, mut each: impl FnMut(usize, &Replayed)) {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = std::sync::mpsc::sync_channel(8);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from).min(8) {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(capture) = captures.get(index) else { break };
                    let dir = tempfile::tempdir().unwrap();
                    let replayed = sluiced::replay(dir.path(), policy, &[&capture.path]);
                    if sender.send((index, dir, replayed)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut due = 0;
        for (index, dir, replayed) in receiver {
            waiting.insert(index, (dir, replayed));
            while let Some((_dir, replayed)) = waiting.remove(&due) {
                each(due, &replayed);
                due += 1;
            }
        }
        assert_eq!(due, captures.len());
    });
}

/// Which frames belong to which capture.
fn ranges(captures: &[Capture], frames: &[Frame]) -> Vec<std::ops::Range<usize>> {
    let mut start = 0;
    let ranges = captures.iter().map(|capture| {
        let range = start..start + capture.packets;
        start = range.end;
        range
    });
    let ranges = ranges.collect();
    assert_eq!(start, frames.len());
    ranges
}

/// The list of the destinations that carry wide tags, or of the others.
fn names(destinations: &[Destination], wide: bool) -> String {
    let chosen = destinations.iter().filter(|destination| destination.is_wide() == wide);
    chosen.map(|destination| format!("\"{}\"", destination.name)).collect::<Vec<_>>().join(", ")
}

/// Several tsharks at once.
fn dissect_all(joined: &[Joined], frames: &[Frame]) {
    let next = AtomicUsize::new(0);
    let tshark = Tshark::with_protocols(OUTER_PROTOCOLS);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(joined) = joined.get(next.fetch_add(1, Ordering::Relaxed)) {
                    joined.dissect(&tshark, frames);
                }
            });
        }
    });
}

/// Captures with frames that do not fit into 65,535 bytes with every tunnel. Those over 65,535 bytes by themselves are cut
/// by the reader already.
const CUT: &[&str] = &[
    "tcpdump/tests/bigtcp-ipv6-hbh.pcap",
    "tcpdump/tests/ipv6_jumbogram_invalid_length.pcap",
    "tcpdump/tests/pim-packet-assortment.pcap",
];

fn load() -> Option<(Captures, Vec<Frame>)> {
    let folder = captures::folder()?;
    let captures = reference::captures(&folder);
    let frames = reference::frames(&captures.taken);
    Some((captures, frames))
}

#[test]
fn every_capture_arrives_in_every_tunnel() {
    let Some((captures, frames)) = load() else { return };
    let ranges = ranges(&captures.taken, &frames);
    let mut policy: String = DESTINATIONS.iter().map(Destination::policy).collect();
    for (wide, name, tag) in [(true, "wide", WIDE_TAG), (false, "narrow", NARROW_TAG)] {
        policy +=
            &format!("[[policy]]\nname = \"{name}\"\ntag = {tag}\nto = [{}]\n", names(&DESTINATIONS, wide));
    }

    let mut joined: Vec<_> = DESTINATIONS.iter().map(|destination| Joined::new(*destination)).collect();
    let mut cut = BTreeSet::new();
    replay_each(&captures.taken, &policy, |index, replayed| {
        let capture = &captures.taken[index];
        let frames_here = &frames[ranges[index].clone()];
        for joined in &mut joined {
            let tag = if joined.destination.is_wide() { WIDE_TAG } else { NARROW_TAG };
            let marks: Vec<_> = (ranges[index].clone().zip(0..))
                .map(|(frame, sequence)| Mark { frame, tag, egress: true, sequence })
                .collect();
            let output = replayed.output(joined.destination.name);
            joined.add(&output, &marks, &frames, &capture.name);
        }
        check_report(&replayed.report(), capture, frames_here);
        if frames_here.iter().any(|frame| DESTINATIONS.iter().any(|to| to.fit(frame).0 < frame.data.len())) {
            cut.insert(capture.name.as_str());
        }
    });
    assert_eq!(cut.into_iter().collect::<Vec<_>>(), CUT, "captures whose frames are cut");
    eprintln!(
        "{} copies compared, dissecting",
        joined.iter().map(|joined| joined.marks.len()).sum::<usize>()
    );
    dissect_all(&joined, &frames);
}

/// The report on a replay of one capture to all destinations.
fn check_report(report: &Report, capture: &Capture, frames: &[Frame]) {
    let context = format!("{}: {}", capture.name, report.0);
    let packets = capture.packets as u64;
    let wire_bytes: u64 = frames.iter().map(|frame| u64::from(frame.wire_len)).sum();
    assert_eq!(report.number("rx_packets"), packets, "{context}");
    assert_eq!(report.number("rx_bytes"), wire_bytes, "{context}");
    if capture.encapsulation == "ether" && !RAISED.contains(&capture.name.as_str()) {
        assert_eq!(report.number("rx_bytes"), capture.data_bytes, "capinfos on {context}");
    }
    assert_eq!(report.number("replicas"), packets * (DESTINATIONS.len() as u64 - 1), "{context}");
    assert_eq!(report.drops(), BTreeMap::new(), "{context}");
    for (wide, name) in [(true, "wide"), (false, "narrow")] {
        let policy = report.policy(name);
        assert_eq!((policy.matched_packets, policy.matched_bytes), (packets, wire_bytes), "{context}");
        let copies = DESTINATIONS.iter().filter(|destination| destination.is_wide() == wide).count();
        assert_eq!(policy.sent_packets, packets * copies as u64, "{context}");
    }
    let mut truncated = 0;
    for destination in DESTINATIONS {
        let bytes: usize = frames
            .iter()
            .map(|frame| destination.header_len() + destination.inner(frame, 0, true).len())
            .sum();
        assert_eq!(report.destination(destination.name), (packets, bytes as u64), "{context}");
        truncated += frames.iter().filter(|frame| destination.fit(frame).0 < frame.data.len()).count() as u64;
    }
    assert_eq!(report.number("truncated"), truncated, "{context}");
}

/// Captures that claim frames to have been shorter on the wire than what was captured of them: what was captured counts.
const RAISED: &[&str] = &["brimcap/cmd/brimcap/ztests/bad-caplen.pcap"];

#[test]
fn other_link_types_are_refused_by_name() {
    let Some(folder) = captures::folder() else { return };
    let refused = reference::captures(&folder).refused;
    assert!(refused.len() > 30, "captures of other link types");
    let policy = DESTINATIONS[0].policy() + "[[policy]]\nname = \"all\"\nto = [\"vxlan4\"]\n";
    replay_each(&refused, &policy, |index, replayed| {
        let capture = &refused[index];
        assert_eq!(replayed.code, Some(1), "{}: {}", capture.name, replayed.stderr);
        assert!(replayed.stderr.contains(capture.path.to_str().unwrap()), "{}", replayed.stderr);
        let (_, complaint) =
            replayed.stderr.split_once("link type").unwrap_or_else(|| panic!("{}", replayed.stderr));
        assert!(!complaint.contains("unknown"), "{}: {}", capture.name, replayed.stderr);
    });
}

/// Of the policies by address and by protocol.
const WIDE_TAGS: [u32; 2] = [4_097, 16_777_215];
const NARROW_TAGS: [u32; 2] = [5, 1_023];

#[test]
fn direction_tags_and_sequence_numbers() {
    let Some((captures, frames)) = load() else { return };
    // Half of all addresses: frames leave them, enter them, do both, or neither.
    let used = [2, 4, 5, 8, 9, 10, 11, 0];
    let destinations: Vec<_> = used.iter().map(|index| DESTINATIONS[*index]).collect();
    let mut policy: String = destinations.iter().map(Destination::policy).collect();
    let half = "collect = { addresses = [\"0.0.0.0/1\", \"::/1\"] }";
    let tcp = "protocol = \"tcp\"";
    for (wide, [half_tag, tcp_tag]) in [(true, WIDE_TAGS), (false, NARROW_TAGS)] {
        let to = names(&destinations, wide);
        for (name, predicate, tag) in [("half", half, half_tag), ("tcp", tcp, tcp_tag)] {
            policy +=
                &format!("[[policy]]\nname = \"{name}-{wide}\"\n{predicate}\ntag = {tag}\nto = [{to}]\n\n");
        }
    }

    // The outermost IP header, as tshark has it.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("input.pcap");
    let mut input = Builder::new(ETHERNET);
    for frame in &frames {
        input.push(Record { timestamp_ns: 0, wire_len: frame.wire_len, data: &frame.data });
    }
    input.save(&path);
    let mut heads = Vec::new();
    Tshark::with_protocols(NETWORK_PROTOCOLS)
        .fields(&path, &HEAD_FIELDS, |_, values| heads.push(head(values)));
    assert_eq!(heads.len(), frames.len());

    // Sluice follows at most 16 MPLS labels, and an IPv4 header that is longer than its packet is none.
    for (head, frame) in heads.iter_mut().zip(&frames) {
        if frame.data.get(12..14) == Some(&[0x88, 0x47]) {
            let labels = frame.data[14..].chunks_exact(4).position(|label| label[2] & 1 == 1);
            *head = head.filter(|(src, ..)| {
                labels.is_some_and(|others| {
                    let ip = &frame.data[14 + 4 * (others + 1)..];
                    let total_len = u16::from_be_bytes([ip[2], ip[3]]);
                    others < 16 && (src.is_ipv6() || total_len == 0 || u16::from(ip[0] & 15) * 4 <= total_len)
                })
            });
        }
        if (captures.taken[frame.capture].name.as_str(), frame.number) == OPTIONS_CUT {
            *head = Some(([143, 9, 0, 0].into(), [0, 98, 0, 237].into(), 0x46));
        }
    }

    // All captures in a few replays, so that sequence numbers grow.
    let ranges = ranges(&captures.taken, &frames);
    let mut joined: Vec<_> = destinations.iter().map(|destination| Joined::new(*destination)).collect();
    for (chunk, ranges) in captures.taken.chunks(300).zip(ranges.chunks(300)) {
        let dir = tempfile::tempdir().unwrap();
        let inputs: Vec<_> = chunk.iter().map(|capture| &capture.path).collect();
        let replayed = sluiced::replay(dir.path(), &policy, &inputs);
        let report = replayed.report();
        let (mut half, mut tcp, mut neither) = (0, 0, 0);
        // Tags by their place in the lists.
        let mut marks = Vec::new();
        for frame in ranges[0].start..ranges.last().unwrap().end {
            let low = |address: IpAddr| match address {
                IpAddr::V4(address) => address.octets()[0] < 128,
                IpAddr::V6(address) => address.octets()[0] < 128,
            };
            let Some((src, dst, protocol)) = heads[frame] else {
                neither += 1;
                continue;
            };
            let is_tcp = protocol == 6;
            let matches_half = low(src) || low(dst);
            if matches_half {
                marks.push(Mark { frame, tag: 0, egress: low(src), sequence: half });
                half += 1;
            }
            if is_tcp {
                marks.push(Mark { frame, tag: 1, egress: true, sequence: tcp });
                tcp += 1;
            }
            neither += u64::from(!matches_half && !is_tcp);
        }
        let drops: BTreeMap<_, _> =
            [("no_policy".to_owned(), neither)].into_iter().filter(|(_, n)| *n > 0).collect();
        for joined in &mut joined {
            let tags = if joined.destination.is_wide() { WIDE_TAGS } else { NARROW_TAGS };
            let marks: Vec<_> =
                marks.iter().map(|mark: &Mark| Mark { tag: tags[mark.tag as usize], ..*mark }).collect();
            joined.add(&replayed.output(joined.destination.name), &marks, &frames, "half");
        }
        assert_eq!(report.drops(), drops);
        for wide in [true, false] {
            assert_eq!(report.policy(&format!("half-{wide}")).matched_packets, u64::from(half));
            assert_eq!(report.policy(&format!("tcp-{wide}")).matched_packets, u64::from(tcp));
        }
    }
    dissect_all(&joined, &frames);
}

/// A frame with IPv4 options that the capture cuts: Sluice reads the addresses before them, tshark nothing.
const OPTIONS_CUT: (&str, usize) = ("zeek/testing/btest/Traces/trunc/mpls-6in6-broken.pcap.gz", 1087);

const HEAD_FIELDS: [&str; 13] = [
    "frame.protocols",
    "ip.src",
    "ip.dst",
    "ip.proto",
    "ipv6.version",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.nxt",
    "ipv6.hopopts.nxt",
    "ipv6.routing.nxt",
    "ipv6.fraghdr.nxt",
    "ipv6.dstopts.nxt",
    "ah.next_header",
];

/// Addresses and protocol of the outermost IP header, as `HEAD_FIELDS` tell them.
fn head(values: &[&str]) -> Option<(IpAddr, IpAddr, u8)> {
    let mut lists: BTreeMap<_, _> =
        HEAD_FIELDS.iter().copied().zip(values.iter().map(|list| list.split(','))).collect();
    let mut next = |name: &str| lists.get_mut(name)?.next().filter(|value| !value.is_empty());
    let mut protocols = values[0].split(':').skip_while(|name| !matches!(*name, "ip" | "ipv6"));
    if protocols.next()? == "ip" {
        return Some((
            next("ip.src")?.parse().ok()?,
            next("ip.dst")?.parse().ok()?,
            next("ip.proto")?.parse().ok()?,
        ));
    }
    if next("ipv6.version") != Some("6") {
        return None;
    }
    let (src, dst) = (next("ipv6.src")?.parse().ok()?, next("ipv6.dst")?.parse().ok()?);
    let mut protocol = next("ipv6.nxt")?;
    for name in protocols {
        let field = match name {
            "ipv6.hopopts" | "ipv6.routing" | "ipv6.fraghdr" | "ipv6.dstopts" => format!("{name}.nxt"),
            "ah" => "ah.next_header".to_owned(),
            _ => break,
        };
        protocol = next(&field).unwrap_or(protocol);
    }
    Some((src, dst, protocol.parse().ok()?))
}

const NETWORK_PROTOCOLS: &[&str] = &[
    "frame",
    "eth",
    "ethertype",
    "llc",
    "vlan",
    "ieee8021ad",
    "mpls",
    "ip",
    "ipv6",
    "ipv6.hopopts",
    "ipv6.routing",
    "ipv6.fraghdr",
    "ipv6.dstopts",
    "ah",
    "mipv6",
    "hip",
    "shim6",
    "tcp",
    "data",
];
