//! Does tshark read the outer headers, the segments and the outer fragments as they were meant?
//!
//! Packets are built with `sluice_core::encap` in memory, written to a capture by hand and dissected with all checksum
//! checks on. Without tshark the tests are skipped, loudly; with `CI=true` they fail.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;

use sluice_core::encap::{
    CopyFields, Encap, Endpoints, FragmentPlan, MAX_HEADER_LEN, PartsSum, VLAN_TAG_LEN, finish_checksum,
    fragment::MAX_FRAGMENT_HEADER_LEN, inner_vlan_tag, segment,
};
use sluice_core::wire::{self, Parsed, checksum};
use sluice_model::{MacAddr, Marking, Tag, Tunnel, TunnelKind, UdpChecksum};

/// tshark's `*.checksum.status`.
const GOOD: &str = "1";
const NOT_PRESENT: &str = "3";

const VXLAN: TunnelKind = TunnelKind::Vxlan { udp_port: 4789, udp_checksum: UdpChecksum::Auto };
const VXLAN_WITH_CHECKSUM: TunnelKind = TunnelKind::Vxlan { udp_port: 4789, udp_checksum: UdpChecksum::On };

const VARIANTS: [(TunnelKind, Marking); 6] = [
    (VXLAN, Marking::Standard),
    (VXLAN, Marking::Reference),
    (VXLAN_WITH_CHECKSUM, Marking::Standard),
    (TunnelKind::Erspan2, Marking::Standard),
    (TunnelKind::Erspan3, Marking::Standard),
    (TunnelKind::Erspan3, Marking::Reference),
];

fn encap(kind: TunnelKind, marking: Marking, ipv6: bool, dont_fragment: bool) -> Encap {
    let (local, remote) = if ipv6 { ("2001:db8::1", "2001:db8::a") } else { ("192.0.2.1", "192.0.2.10") };
    let (local, remote): (IpAddr, IpAddr) = (local.parse().unwrap(), remote.parse().unwrap());
    let tunnel = Tunnel { kind, marking, remote, local: None, mac: None, port: None };
    let src_mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let dst_mac = MacAddr([2, 0, 0, 0, 0, 2]);
    Encap::new(&tunnel, Endpoints { src_mac, dst_mac, local, remote }, dont_fragment).unwrap()
}

/// Repeatable numbers (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// A TCP segment in Ethernet whose TCP checksum field holds the sum of its pseudo-header only, as a tapped host leaves
/// it, and what the parser finds.
fn tcp_frame(ipv6: bool, vlan_tci: Option<u16>, options: usize, payload: &[u8]) -> (Vec<u8>, Parsed) {
    let mut frame = vec![2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1];
    if let Some(tci) = vlan_tci {
        frame.extend([0x81, 0x00]);
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(if ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    let l3_offset = frame.len();
    let tcp_len = 20 + options * 4 + payload.len();
    let pseudo = if ipv6 {
        // A hop-by-hop header with a PadN option.
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(((tcp_len + 8) as u16).to_be_bytes());
        frame.extend([0, 64]);
        let mut src = [0; 16];
        src[..2].copy_from_slice(&[0xfd, 0]);
        let dst = src.map(|byte| byte ^ 0x02);
        frame.extend(src);
        frame.extend(dst);
        frame.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        checksum::pseudo_ipv6(src, dst, 6, tcp_len as u32)
    } else {
        frame.extend([0x45, 0]);
        frame.extend(((20 + tcp_len) as u16).to_be_bytes());
        frame.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let value = checksum::finish(checksum::sum(&frame[l3_offset..], 0));
        frame[l3_offset + 10..l3_offset + 12].copy_from_slice(&value.to_be_bytes());
        checksum::pseudo_ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, tcp_len as u16)
    };
    frame.extend([0xc3, 0x51, 0xc3, 0x52]); // ports 50001 and 50002
    frame.extend([0xff, 0xff, 0xf0, 0x00, 0, 0, 0, 1, 0x50 + ((options as u8) << 4), 0x99, 0x20, 0x00]);
    frame.extend(checksum::fold(pseudo).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(std::iter::repeat_n(1, options * 4));
    frame.extend(payload);
    let parsed = wire::parse(&frame);
    (frame, parsed)
}

/// The same with its checksum finished.
fn finished_tcp_frame(ipv6: bool, vlan_tci: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let (mut frame, parsed) = tcp_frame(ipv6, vlan_tci, 3, payload);
    assert!(finish_checksum(&mut frame, parsed.l4_offset, 16));
    frame
}

/// The header in front of a copy, its UDP checksum computed.
fn header(encap: &Encap, fields: &CopyFields, inner: &[u8]) -> Vec<u8> {
    let mut header = [0xa5; MAX_HEADER_LEN];
    encap.write(&mut header, fields);
    if encap.needs_udp_checksum() {
        let mut sum = PartsSum::default();
        inner.chunks(333).for_each(|part| sum.add(part));
        encap.write_udp_checksum(&mut header, sum.sum());
    }
    header[..encap.header_len()].to_vec()
}

/// The values of `fields` for every packet, or `None` when there is no tshark.
fn dissect(packets: &[Vec<u8>], fields: &[&str]) -> Option<Vec<Vec<String>>> {
    let mut capture = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0002_0004, 0, 0, 0x0004_0000, 1] {
        capture.extend(word.to_be_bytes());
    }
    for (index, packet) in packets.iter().enumerate() {
        for word in [index, 0, packet.len(), packet.len()] {
            capture.extend((word as u32).to_be_bytes());
        }
        capture.extend(packet);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packets.pcap");
    std::fs::write(&path, capture).unwrap();
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(&path).args(["-T", "fields", "-E", "separator=|"]);
    for preference in [
        "ip.check_checksum:TRUE",
        "udp.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
        "ip.defragment:TRUE",
        "ipv6.defragment:TRUE",
        "tcp.desegment_tcp_streams:FALSE",
        "tcp.analyze_sequence_numbers:FALSE",
    ] {
        command.args(["-o", preference]);
    }
    for field in fields {
        command.args(["-e", field]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "tshark does not start: {error}");
            sluice_tests::left_out(format_args!(
                "tshark does not start ({error}); install the package tshark"
            ));
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<String>> =
        text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect();
    assert_eq!(rows.len(), packets.len());
    Some(rows)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn every_variant_reads_back_as_set() {
    let mut numbers = Numbers(0x5eed_0001);
    let mut packets = Vec::new();
    let mut expected = Vec::new();
    for round in 0..8 {
        for ipv6 in [false, true] {
            for (kind, marking) in VARIANTS {
                let encap = encap(kind, marking, ipv6, true);
                let payload_len = 1 + numbers.below(1_400);
                let payload = numbers.bytes(payload_len);
                let vlan_tci = (round % 2 == 1).then(|| (numbers.next() as u16) & 0xefff | 1);
                let mut inner = finished_tcp_frame(round % 4 < 2, vlan_tci, &payload);
                let fields = CopyFields {
                    inner_len: (inner.len() + VLAN_TAG_LEN) as u32,
                    tag: Tag::new(numbers.next() as u32 & Tag::MAX).unwrap(),
                    egress: numbers.next() & 1 == 1,
                    sequence: numbers.next() as u32,
                    entropy: numbers.next() as u32,
                    timestamp_ns: 1_700_000_000_000_000_000 + numbers.next() % 1_000_000_000_000,
                    truncated: numbers.next() & 1 == 1,
                    vlan_tci,
                    ip_id: numbers.next() as u16,
                };
                inner.splice(12..12, inner_vlan_tag(fields.tag, fields.egress));
                let mut packet = header(&encap, &fields, &inner);
                packet.extend(&inner);
                packets.push(packet);
                expected.push((kind, marking, ipv6, fields, payload));
            }
        }
    }
    let names = [
        "frame.protocols",
        "ip.checksum.status",
        "udp.checksum.status",
        "tcp.checksum.status",
        "tcp.payload",
        "vlan.id",
        "vlan.priority",
        "ip.ttl",
        "ipv6.hlim",
        "ip.flags.df",
        "ip.id",
        "ipv6.flow",
        "udp.srcport",
        "udp.dstport",
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
        "_ws.malformed",
        "_ws.expert.group",
    ];
    let Some(rows) = dissect(&packets, &names) else { return };
    for (row, (kind, marking, ipv6, fields, payload)) in rows.iter().zip(&expected) {
        let context = format!("{kind:?} {marking:?} ipv6 {ipv6} {fields:?}\n{row:?}");
        let get = |name: &str| {
            let index = names.iter().position(|known| *known == name).unwrap();
            row[index].as_str()
        };
        let first = |name: &str| get(name).split(',').next().unwrap().to_owned();
        let number = |name: &str| {
            let text = first(name);
            match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
                None => text.parse().unwrap_or_else(|_| panic!("{name} = {text:?}: {context}")),
            }
        };
        let is = |name: &str, value: u64| assert_eq!(number(name), value, "{name}: {context}");
        let (tag, direction) = (u64::from(fields.tag.get()), u64::from(fields.egress));

        // The copied frame, with its inserted VLAN tag, arrives whole.
        assert_eq!(get("_ws.malformed"), "", "{context}");
        assert_eq!(get("tcp.checksum.status"), GOOD, "{context}");
        assert_eq!(get("tcp.payload"), hex(payload), "{context}");
        assert!(get("ip.checksum.status").split(',').all(|status| status.is_empty() || status == GOOD));
        is("vlan.id", tag & 0xfff);
        is("vlan.priority", 4 | direction);

        // The outer IP header.
        if *ipv6 {
            is("ipv6.hlim", 64);
            is("ipv6.flow", u64::from(fields.entropy >> 12));
        } else {
            assert_eq!(first("ip.checksum.status"), GOOD, "{context}");
            is("ip.ttl", 64);
            is("ip.flags.df", 1);
            is("ip.id", u64::from(fields.ip_id));
        }

        if let TunnelKind::Vxlan { udp_checksum, .. } = kind {
            let computed = *ipv6 || *udp_checksum == UdpChecksum::On;
            assert_eq!(get("udp.checksum.status"), if computed { GOOD } else { NOT_PRESENT }, "{context}");
            is("udp.dstport", 4789);
            is("udp.srcport", u64::from(0xc000 | fields.entropy & 0x3fff));
            is("vxlan.vni", tag);
            if *marking == Marking::Standard {
                is("vxlan.flags", 0x0800);
                is("vxlan.gbp", 0);
                is("vxlan.reserved8", 0);
            } else {
                assert_eq!(number("vxlan.flags") >> 8, 0xff);
                let sequence = (number("vxlan.flags") & 0xff) << 16 | number("vxlan.gbp");
                assert_eq!(sequence, u64::from(fields.sequence & 0xff_ffff), "{context}");
                is("vxlan.reserved8", direction);
            }
            continue;
        }

        is("gre.sequence_number", u64::from(fields.sequence));
        is("erspan.spanid", tag & 0x3ff);
        is("erspan.vlan", u64::from(fields.vlan_tci.unwrap_or(0) & 0xfff));
        is("erspan.cos", u64::from(fields.vlan_tci.unwrap_or(0) >> 13));
        is("erspan.truncated", u64::from(fields.truncated));
        if *kind == TunnelKind::Erspan2 {
            is("gre.flags_and_version", 0x1000);
            is("gre.proto", 0x88be);
            is("erspan.version", 1);
            is("erspan.encap", if fields.vlan_tci.is_some() { 3 } else { 0 });
            is("erspan.index", direction);
            continue;
        }
        is("gre.proto", 0x22eb);
        is("erspan.version", 2);
        is("erspan.bso", 0);
        is("erspan.p", 1);
        is("erspan.ft", 0);
        is("erspan.hw", 0);
        is("erspan.direction", direction);
        is("erspan.o", 0);
        if *marking == Marking::Standard {
            is("gre.flags_and_version", 0x1000);
            is("erspan.timestamp", fields.timestamp_ns / 100 % (1 << 32));
            is("erspan.gra", 1);
            is("erspan.sgt", 0);
        } else {
            is("gre.flags_and_version", 0x3000);
            is("gre.key", tag);
            let upper = number("erspan.timestamp") << 16 | number("erspan.sgt");
            assert_eq!(upper, fields.timestamp_ns >> 16, "{context}");
            is("erspan.gra", 3);
        }
    }
}

#[test]
fn segments_make_up_the_super_frame() {
    let mut numbers = Numbers(0x5eed_0002);
    let mut packets = Vec::new();
    let mut expected = Vec::new();
    for round in 0..24 {
        let ipv6 = round % 2 == 1;
        let vlan_tci = (round % 3 == 1).then_some(0x2007);
        let payload_len = 1 + numbers.below(60_000);
        let payload = numbers.bytes(payload_len);
        let (frame, parsed) = tcp_frame(ipv6, vlan_tci, numbers.below(11), &payload);
        let max_frame_len = 700 + numbers.below(8_400);
        let mss = (round % 4 == 0).then_some(1_379);
        let plan = segment::plan(&frame, &parsed, frame.len() as u32, max_frame_len, mss).unwrap();
        for index in 0..plan.count() {
            let range = plan.payload(index).unwrap();
            let part = &frame[range.start as usize..range.end as usize];
            let mut sum = PartsSum::default();
            part.chunks(501).for_each(|piece| sum.add(piece));
            let mut packet = vec![0xa5; plan.header_len()];
            assert!(plan.write_headers(index, &mut packet, &frame, sum.sum()));
            packet.extend(part);
            assert!(packet.len() <= max_frame_len);
            packets.push(packet);
        }
        expected.push((ipv6, plan.count(), payload));
    }
    let names = [
        "_ws.malformed",
        "ip.checksum.status",
        "tcp.checksum.status",
        "tcp.seq_raw",
        "tcp.payload",
        "tcp.flags",
        "ip.id",
    ];
    let Some(rows) = dissect(&packets, &names) else { return };
    let mut rows = rows.iter();
    for (ipv6, count, payload) in expected {
        let mut bytes = String::new();
        for index in 0..count {
            let row = rows.next().unwrap();
            assert_eq!(row[0], "");
            assert_eq!(row[1], if ipv6 { "" } else { GOOD });
            assert_eq!(row[2], GOOD);
            let sequence = 0xffff_f000_u32.wrapping_add((bytes.len() / 2) as u32);
            assert_eq!(row[3], sequence.to_string());
            bytes += &row[4];
            let mut flags = 0x10;
            flags |= if index == 0 { 0x80 } else { 0 };
            flags |= if index + 1 == count { 0x09 } else { 0 };
            assert_eq!(row[5], format!("0x{flags:04x}"));
            if !ipv6 {
                assert_eq!(row[6], format!("0x{:04x}", 0x1234 + index));
            }
        }
        assert!(bytes == hex(&payload), "the payload of {count} segments differs");
    }
}

#[test]
fn fragments_are_reassembled_to_the_copy() {
    let mut numbers = Numbers(0x5eed_0003);
    let mut packets = Vec::new();
    let mut expected = Vec::new();
    for round in 0..6u32 {
        for ipv6 in [false, true] {
            for (kind, marking) in VARIANTS {
                let encap = encap(kind, marking, ipv6, false);
                let payload_len = 1_400 + numbers.below(7_600);
                let payload = numbers.bytes(payload_len);
                let inner = finished_tcp_frame(round % 2 == 0, None, &payload);
                let tag = Tag::new(numbers.next() as u32 & Tag::MAX).unwrap();
                let fields = CopyFields {
                    inner_len: inner.len() as u32,
                    tag,
                    sequence: round,
                    entropy: numbers.next() as u32,
                    ..CopyFields::default()
                };
                let header = header(&encap, &fields, &inner);
                let mtu = if round < 3 { 1_400 } else { 576 + numbers.below(900) as u16 };
                let plan = FragmentPlan::new(&encap, fields.inner_len, mtu).unwrap();
                assert!(plan.count() > 1);
                let id = expected.len() as u32 + 0x7fff_0001;
                for index in 0..plan.count() {
                    let part = plan.part(index).unwrap();
                    let mut packet = vec![0xa5; MAX_FRAGMENT_HEADER_LEN];
                    let len = plan.write(index, &header, id, &mut packet).unwrap();
                    packet.truncate(len);
                    packet.extend(&inner[part.inner.start as usize..part.inner.end as usize]);
                    assert!(packet.len() - 14 <= usize::from(mtu));
                    packets.push(packet);
                }
                expected.push((kind, ipv6, plan.count(), tag, payload));
            }
        }
    }
    let names = [
        "_ws.malformed",
        "ip.checksum.status",
        "udp.checksum.status",
        "tcp.checksum.status",
        "tcp.payload",
        "vxlan.vni",
        "erspan.spanid",
        "ip.fragment.count",
        "ipv6.fragment.count",
        "ip.fragment.error",
        "ipv6.fragment.error",
    ];
    let Some(rows) = dissect(&packets, &names) else { return };
    let mut rows = rows.iter();
    for (kind, ipv6, count, tag, payload) in expected {
        for index in 0..count {
            let row = rows.next().unwrap();
            let context = format!("{kind:?} ipv6 {ipv6} fragment {index} of {count}: {row:?}");
            assert_eq!(row[0], "", "{context}");
            assert!(row[1].split(',').all(|status| status.is_empty() || status == GOOD), "{context}");
            assert!(row[9].is_empty() && row[10].is_empty(), "{context}");
            if index + 1 < count {
                assert_eq!(row[4], "", "{context}");
                continue;
            }
            assert_eq!(row[if ipv6 { 8 } else { 7 }], count.to_string(), "{context}");
            assert_eq!(row[3], GOOD, "{context}");
            assert!(row[4] == hex(&payload), "{context}");
            if let TunnelKind::Vxlan { udp_checksum, .. } = kind {
                let computed = ipv6 || udp_checksum == UdpChecksum::On;
                assert_eq!(row[2], if computed { GOOD } else { NOT_PRESENT }, "{context}");
                assert_eq!(row[5], tag.get().to_string(), "{context}");
            } else {
                assert_eq!(row[6], (tag.get() & 0x3ff).to_string(), "{context}");
            }
        }
    }
}
