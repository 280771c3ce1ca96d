//! Is a copy with `payload = N` cut where the specification says, in every packet of every capture?
//!
//! Expected: the places of the headers as tshark finds them ([`header_end`]) in all captures; N bytes of payload follow.
//! Where Sluice cuts elsewhere on purpose, [`ON_PURPOSE`] says why.
#![allow(clippy::unwrap_used, clippy::panic, clippy::format_push_string)]

use std::collections::BTreeMap;

use sluice_tests::pcap_file::{self, Builder, ETHERNET, Record};
use sluice_tests::reference::{self, Capture, Frame};
use sluice_tests::tshark::{Layer, Tshark};
use sluice_tests::{captures, sluiced};

/// Headers through the outermost L4, and those that stand before it.
const PROTOCOLS: &[&str] = &[
    "frame",
    "eth",
    "ethertype",
    "llc",
    "vlan",
    "ieee8021ad",
    "mpls",
    "arp",
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
    "udp",
    "sctp",
    "gre",
    "icmp",
    "icmpv6",
    "data",
];

/// The end of the last header up to and including the outermost L4 (product.md, "Treatment") where tshark finds the
/// headers, before the captured length limits it; and which header that is.
fn header_end<'a>(layers: &[Layer<'a>], frame: &[u8]) -> (usize, &'a str) {
    let (mut end, mut last) = (0, "none");
    let mut network = "";
    for (index, layer) in layers.iter().enumerate() {
        let rest = &layers[index + 1..];
        let length = |name: &str| rest.iter().find(|later| later.name == name).map_or(0, |length| length.len);
        let header_len = match (layer.name, network) {
            ("frame" | "ethertype" | "ip.hdr_len" | "tcp.hdr_len", _)
            | ("mipv6" | "ah" | "hip" | "shim6", "ipv6") => continue,
            ("eth", "") if layer.offset == 0 => 14,
            ("vlan" | "ieee8021ad" | "mpls", "") => 4,
            // Of 802.2 frames, only those lead on that hold an EtherType: SNAP of RFC 1042 and 802.1H.
            ("llc", "") if is_snap(frame, layer.offset) => 8,
            ("arp", "") => 28,
            ("ip", "") => length("ip.hdr_len"),
            // tshark looks on for what the bytes may be if their version is not 6.
            ("ipv6", "")
                if rest.first().is_none_or(|next| (next.name, next.offset) != ("data", layer.offset)) =>
            {
                40
            }
            ("ipv6.hopopts" | "ipv6.routing" | "ipv6.fraghdr" | "ipv6.dstopts", "ipv6") => layer.len,
            // Lengths in the second byte: in words of 8 bytes without the first; AH: of 4 bytes without two.
            ("mip6.hlen" | "hip.hdr_len" | "shim6.len", "ipv6") => layer.len * 8 + 8 - 1,
            ("ah.length", "ipv6") => layer.len * 4 + 8 - 1,
            ("tcp", _) => length("tcp.hdr_len").max(20),
            ("udp" | "icmp" | "icmpv6", _) => 8,
            ("sctp", _) => 12,
            ("gre", _) => gre_len(frame, layer.offset),
            _ => break,
        };
        (end, last) = (layer.offset + header_len, layer.name);
        match layer.name {
            "ip" | "ipv6" => network = layer.name,
            "arp" | "tcp" | "udp" | "icmp" | "icmpv6" | "sctp" | "gre" => break,
            _ => {}
        }
    }
    (end, last)
}

fn is_snap(frame: &[u8], at: usize) -> bool {
    matches!(frame.get(at..at + 8), Some([0xaa, 0xaa, 0x03, 0, 0, 0 | 0xf8, ..]))
}

/// RFC 2784 and 2890: four bytes, and four each for checksum, key and sequence number; RFC 2637 (version 1): and for the
/// acknowledgment.
fn gre_len(frame: &[u8], at: usize) -> usize {
    let Some([flags, version]) = frame.get(at..at + 2) else { return 4 };
    let optional =
        [flags & 0x80, flags & 0x20, flags & 0x10, if version & 7 == 1 { version & 0x80 } else { 0 }];
    4 + 4 * optional.iter().filter(|flag| **flag != 0).count()
}

/// Captures with frames that are cut elsewhere on purpose, and why.
const ON_PURPOSE: &[(&str, &str)] = &[
    ("zeek/testing/btest/Traces/linux_dlt_sll2.pcap", "RARP is not ARP, though tshark dissects both as one"),
    ("tcpdump/tests/getname_2_read4_asan.pcap", "RARP is not ARP, though tshark dissects both as one"),
    ("tcpdump/tests/gre-heapoverflow-2.pcap", "GRE source routes (RFC 1701), here beyond the captured bytes"),
    (
        "suricata-verify/tests/ipv6-evasion/ipv6-malformed-fragments-28/frag-28.pcap",
        "an ICMPv6 header that does not fit into the stated length is not there",
    ),
    (
        "suricata-verify/tests/defrag/bug-6887-defrag-eth-vlan-ipv4-tcp-syn/frag-eth-vlan-ip-tcp-syn.pcap",
        "a TCP header that does not fit into the stated length (a tiny fragment) is not there",
    ),
    (
        "suricata-verify/tests/defrag/bug-6887-defrag-ipv4-tcp-syn/frag-ip-tcp-syn.pcap",
        "a TCP header that does not fit into the stated length (a tiny fragment) is not there",
    ),
    (
        "suricata-verify/tests/ipv6-evasion/ipv6-malformed-fragments-11/frag-11.pcap",
        "at most 16 extension headers",
    ),
    (
        "suricata-verify/tests/ipv6-evasion/ipv6-malformed-fragments-12/frag-12.pcap",
        "at most 16 extension headers",
    ),
    (
        "zeek/testing/btest/Traces/trunc/mpls-6in6-broken.pcap.gz",
        "at most 16 MPLS labels; an IPv4 header longer than its stated packet is none",
    ),
    (
        "zeek/testing/btest/Traces/ipv6-mobility-dst-opts.pcap",
        "tshark ends a header at an option that it finds malformed",
    ),
    (
        "tcpdump/tests/ipv6-srh-ipproto-ether.pcap",
        "tshark counts what follows to a routing header that is too short",
    ),
    ("tcpdump/tests/mobility_opt_asan.pcap", "62 was mobility in a draft before RFC 6275 took 135"),
    ("tcpdump/tests/mobility_opt_asan_2.pcap", "62 was mobility in a draft before RFC 6275 took 135"),
    ("tcpdump/tests/mobility_opt_asan_3.pcap", "62 was mobility in a draft before RFC 6275 took 135"),
    ("tcpdump/tests/mobility_opt_asan_5.pcap", "62 was mobility in a draft before RFC 6275 took 135"),
    ("tcpdump/tests/mobility_opt_asan_7.pcap", "62 was mobility in a draft before RFC 6275 took 135"),
    ("tcpdump/tests/mobility_opt_asan_8.pcap", "62 was mobility in a draft before RFC 6275 took 135"),
    ("tcpdump/tests/ip6_frag_asan.pcap", "tshark shows no extension header that the capture cuts"),
    (
        "tcpdump/tests/ipv6_frag6_negative_len.pcap",
        "tshark shows no extension header that does not fit into the stated length",
    ),
    (
        "tcpdump/tests/ipv6_missing_jumbo_payload_option.pcap",
        "tshark stops at a payload length of 0 without the jumbo option, offloads leave that too",
    ),
];

/// Frames in whose dissection the Lua of tshark 4.0 fails: the end of their last header, by hand.
const BY_HAND: &[(&str, usize)] = &[
    // Ethernet, IPv6, ICMPv6.
    ("zeek/testing/btest/Traces/icmp/icmp6-destunreach-no-context.pcap", 14 + 40 + 8),
    // Ethernet, IPv4 with 24 bytes of options, ICMP cut after 6 bytes.
    ("tcpdump/tests/extract_read2_asan.pcap", 48),
];

/// The end of the last header of each frame, before the captured length limits it; and the number of frames by what
/// that header is.
fn header_ends(captures: &[Capture], frames: &[Frame]) -> (Vec<usize>, BTreeMap<String, usize>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("input.pcap");
    let mut input = Builder::new(ETHERNET);
    for frame in frames {
        input.push(Record { timestamp_ns: 0, wire_len: frame.wire_len, data: &frame.data });
    }
    input.save(&path);
    let mut ends: Vec<Option<usize>> = vec![None; frames.len()];
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    Tshark::with_protocols(PROTOCOLS).layers(&path, |number, layers| {
        let (end, kind) = header_end(layers, &frames[number].data);
        ends[number] = Some(end);
        *kinds.entry(kind.to_owned()).or_default() += 1;
    });
    let ends = ends.into_iter().zip(frames).map(|(end, frame)| {
        let name = captures[frame.capture].name.as_str();
        end.or_else(|| BY_HAND.iter().find(|(known, _)| *known == name).map(|(_, end)| *end))
            .unwrap_or_else(|| panic!("{name} frame {}: no headers from tshark", frame.number))
    });
    (ends.collect(), kinds)
}

const PAYLOADS: [usize; 4] = [0, 1, 64, 128];

#[test]
fn every_frame_is_cut_after_its_payload() {
    let Some(folder) = captures::folder() else { return };
    let captures = reference::captures(&folder).taken;
    let frames = reference::frames(&captures);
    let (ends, kinds) = header_ends(&captures, &frames);
    eprintln!("{} frames, by their last header: {kinds:?}", frames.len());
    for kind in
        ["arp", "gre", "icmp", "icmpv6", "sctp", "tcp", "udp", "vlan", "mpls", "ipv6.fraghdr", "ah.length"]
    {
        assert!(kinds.contains_key(kind), "no frame ends with {kind}");
    }

    let mut policy = String::new();
    for payload in PAYLOADS {
        policy += &format!(
            "[[destination]]\nname = \"file{payload}\"\ntype = \"pcap\"\nfile = \"file{payload}.pcap\"\n\n\
             [[destination]]\nname = \"tunnel{payload}\"\ntype = \"erspan3\"\nremote = \"192.0.2.10\"\n\n\
             [[policy]]\nname = \"p{payload}\"\npayload = {payload}\nto = [\"file{payload}\", \"tunnel{payload}\"]\n\n"
        );
    }
    let mut differing: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut start = 0;
    for chunk in captures.chunks(CAPTURES_AT_ONCE) {
        let count: usize = chunk.iter().map(|capture| capture.packets).sum();
        let range = start..start + count;
        start = range.end;
        let dir = tempfile::tempdir().unwrap();
        let inputs: Vec<_> = chunk.iter().map(|capture| &capture.path).collect();
        let replayed = sluiced::replay(dir.path(), &policy, &inputs);
        let report = replayed.report();
        for payload in PAYLOADS {
            let matched = report.policy(&format!("p{payload}"));
            assert_eq!((matched.matched_packets, matched.sent_packets), (count as u64, 2 * count as u64));
            let file = replayed.output(&format!("file{payload}"));
            let tunnel = replayed.output(&format!("tunnel{payload}"));
            let (file, tunnel) = (pcap_file::records(&file), pcap_file::records(&tunnel));
            assert_eq!((file.len(), tunnel.len()), (count, count));
            for ((file, tunnel), index) in file.iter().zip(&tunnel).zip(range.clone()) {
                let frame = &frames[index];
                let name = captures[frame.capture].name.as_str();
                let place = || format!("{name} frame {} payload {payload}", frame.number);
                // Whatever its length, it is the beginning of the frame, with the original length beside it.
                let kept = file.data.len();
                assert!(frame.data.starts_with(file.data), "{}", place());
                assert_eq!(
                    (file.wire_len, file.timestamp_ns),
                    (frame.wire_len, frame.timestamp_ns),
                    "{}",
                    place()
                );
                assert_eq!(&tunnel.data[TUNNEL_HEADER_LEN..], file.data, "{}", place());
                assert_eq!(is_marked_truncated(tunnel.data), kept < frame.wire_len as usize, "{}", place());
                let expected = (ends[index] + payload).min(frame.data.len());
                if kept == expected {
                    continue;
                }
                match ON_PURPOSE.iter().find(|(known, _)| *known == name) {
                    Some((known, _)) => *differing.entry(known).or_default() += 1,
                    None => wrong.push(format!("{}: {kept} bytes kept, not {expected}", place())),
                }
            }
        }
    }
    assert_eq!(start, frames.len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    for (name, reason) in ON_PURPOSE {
        let count =
            differing.get(name).unwrap_or_else(|| panic!("{name} is cut as expected, though: {reason}"));
        eprintln!("{name}: {count} copies cut elsewhere: {reason}");
    }
}

/// Several captures per replay; all of them in few.
const CAPTURES_AT_ONCE: usize = 250;
/// Ethernet, IPv4, GRE with sequence number, ERSPAN III.
const TUNNEL_HEADER_LEN: usize = 14 + 20 + 8 + 12;

/// The T bit of ERSPAN III: bit 10 of the first word.
fn is_marked_truncated(packet: &[u8]) -> bool {
    packet[14 + 20 + 8 + 2] & 0x04 != 0
}
