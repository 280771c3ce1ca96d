//! Is what is left of every packet of every capture, once its tunnels are off, what tshark finds inside them?
//!
//! Expected: the place of the innermost header as tshark dissects it, and an end by the lengths that the IP headers around it
//! state, computed here anew. Where Sluice does otherwise on purpose, [`on_purpose`] says why.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::collections::{BTreeMap, BTreeSet};

use sluice_tests::pcap_file::{self, Builder, ETHERNET, Record};
use sluice_tests::reference::{self, Frame};
use sluice_tests::tshark::{Layer, Tshark};
use sluice_tests::{captures, sluiced};

/// Enough of each capture to meet every kind of its frames, and few enough for seconds.
const FRAMES_PER_CAPTURE: usize = 150;
/// As the test configures it.
const DEPTH: usize = 8;

/// What tshark dissects. ICMP is not among them: it would show the packets that errors quote.
const PROTOCOLS: &[&str] = &[
    "frame",
    "eth",
    "ethertype",
    "llc",
    "vlan",
    "ieee8021ad",
    "mpls",
    "pwethheuristic",
    "pwethcw",
    "pwethnocw",
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
    "vxlan",
    "geneve",
    "erspan",
    "gtp",
    "data",
];

/// What should be left of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Left {
    /// How many tunnels came off.
    depth: usize,
    /// The tunnels, named by the headers that announce them.
    names: Vec<String>,
    data: Vec<u8>,
    wire_len: u32,
}

/// A packet inside the frame, whose headers are read.
struct Level<'a> {
    /// Where it starts; without an Ethernet header of its own where its IP header starts.
    start: usize,
    has_ethernet: bool,
    /// Its IP header.
    ip: Option<&'a Layer<'a>>,
    fragment: bool,
}

fn left(frame: &Frame, layers: &[Layer<'_>]) -> Left {
    let data = &frame.data;
    let mut level = Level { start: 0, has_ethernet: true, ip: None, fragment: false };
    let (mut ethernet_at, mut end) = (0, usize::MAX);
    let mut names = Vec::new();
    // The tunnel header that was read last, before the packet in it.
    let mut tunnel = None;
    for (index, layer) in layers.iter().enumerate() {
        match layer.name {
            "eth" | "ip" | "ipv6"
                if index > 0 && (tunnel.is_some() || (layer.name != "eth" && level.ip.is_some())) =>
            {
                if level.fragment || names.len() == DEPTH {
                    break;
                }
                let stated = level.ip.map_or(usize::MAX, |ip| stated_end(data, ip));
                let is_ethernet = layer.name == "eth";
                let least = match layer.name {
                    "eth" => 14,
                    "ip" => 20,
                    _ => 40,
                };
                let version = data.get(layer.offset).map(|first| first >> 4);
                // tshark dissects what is not of the announced version, too.
                let is_other = (layer.name == "ip" && version != Some(4))
                    || (layer.name == "ipv6" && version != Some(6));
                // Or takes one header for another.
                let again = level.ip.is_some_and(|ip| ip.offset == layer.offset);
                if is_other || again || layer.offset + least > end.min(stated).min(data.len()) {
                    break;
                }
                end = end.min(stated);
                names.push(tunnel.take().map_or("ipip".to_owned(), |name: &str| name.to_owned()));
                if is_ethernet {
                    ethernet_at = layer.offset;
                }
                level = Level { start: layer.offset, has_ethernet: is_ethernet, ip: None, fragment: false };
            }
            "mpls" | "vxlan" | "geneve" | "gtp" | "gre" | "erspan" => tunnel = Some(layer.name),
            _ => {}
        }
        match layer.name {
            "ip" => level.fragment = data[layer.offset + 6] & 0x3f != 0 || data[layer.offset + 7] != 0,
            "ipv6.fraghdr" => {
                let field = [data[layer.offset + 2], data[layer.offset + 3]];
                level.fragment |= u16::from_be_bytes(field) & 0xfff9 != 0;
            }
            _ => {}
        }
        if matches!(layer.name, "ip" | "ipv6") {
            level.ip = Some(layer);
        }
    }
    if names.is_empty() {
        return Left { depth: 0, names, data: data.clone(), wire_len: frame.wire_len };
    }
    let kept = &data[level.start..data.len().min(end)];
    let mut left = Vec::new();
    if !level.has_ethernet {
        left.extend(&data[ethernet_at..ethernet_at + 12]);
        left.extend(if data[level.start] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    }
    let added = left.len();
    left.extend(kept);
    let wire_len = ((frame.wire_len as usize).min(end) - level.start + added).max(left.len());
    Left { depth: names.len(), names, data: left, wire_len: wire_len as u32 }
}

/// Where the IP packet ends by its own length.
fn stated_end(data: &[u8], ip: &Layer<'_>) -> usize {
    let (field, before) = if ip.name == "ip" { (2, 0) } else { (4, 40) };
    match u16::from_be_bytes([data[ip.offset + field], data[ip.offset + field + 1]]) {
        0 => usize::MAX,
        len => ip.offset + before + usize::from(len),
    }
}

/// Why a difference is meant to be; `None` when it is not.
fn on_purpose(protocols: &str) -> Option<&'static str> {
    Some(match protocols {
        _ if protocols.contains(":udp:gre") => "GRE in UDP (RFC 8086) is not among the tunnels",
        _ if protocols.contains(":udp:mpls") => "MPLS in UDP (RFC 7510) is not among the tunnels",
        _ if protocols.contains(":ipv6.routing:eth") => {
            "Ethernet in IPv6 (RFC 8986) is not among the tunnels"
        }
        _ => return None,
    })
}

#[test]
fn what_is_left_is_what_tshark_finds_inside() {
    let Some(folder) = captures::folder() else { return };
    let captures = reference::captures(&folder).taken;
    let frames: Vec<Frame> =
        reference::frames(&captures).into_iter().filter(|frame| frame.number < FRAMES_PER_CAPTURE).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("joined.pcap");
    let mut input = Builder::new(ETHERNET);
    for (second, frame) in frames.iter().enumerate() {
        let timestamp_ns = second as u64 * 1_000_000;
        input.push(Record { timestamp_ns, wire_len: frame.wire_len, data: &frame.data });
    }
    input.save(&path);

    let mut expected: Vec<Option<(Left, String)>> = vec![None; frames.len()];
    Tshark::with_protocols(PROTOCOLS).layers(&path, |number, layers| {
        let protocols: Vec<_> = layers.iter().map(|layer| layer.name).collect();
        expected[number] = Some((left(&frames[number], layers), protocols.join(":")));
    });

    let config = dir.path().join("boot.toml");
    std::fs::write(&config, format!("decap = \"strip\"\ndecap_depth = {DEPTH}\n")).unwrap();
    let policy = "[[destination]]\nname = \"all\"\ntype = \"pcap\"\nfile = \"all.pcap\"\n\n[[policy]]\nname = \"all\"\nto = [\"all\"]\n";
    let config = config.display().to_string();
    let replayed = sluiced::run(dir.path(), policy, &[&path], &["--json", "--config", &config]);
    let report = replayed.report();
    let output = replayed.output("all");
    let records = pcap_file::records(&output);
    assert_eq!(records.len(), frames.len());

    let mut nested: BTreeMap<String, usize> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let (mut wrong, mut undissected, mut off) = (Vec::new(), 0, 0);
    for ((frame, record), expected) in frames.iter().zip(&records).zip(&expected) {
        let Some((theirs, protocols)) = expected else {
            undissected += 1;
            continue;
        };
        off += u64::from(record.data != frame.data);
        let name = captures[frame.capture].name.as_str();
        if (record.data, record.wire_len) == (&theirs.data[..], theirs.wire_len) {
            if theirs.depth > 0 {
                *nested.entry(theirs.names.join(" ")).or_default() += 1;
            }
            continue;
        }
        match on_purpose(protocols) {
            Some(reason) => {
                reasons.entry(reason).or_default().insert(name.to_owned());
            }
            None => wrong.push(format!(
                "{name} frame {}: {} of {} bytes left, {} expected ({:?}); {protocols}",
                frame.number,
                record.data.len(),
                frame.data.len(),
                theirs.data.len(),
                theirs.names,
            )),
        }
    }
    eprintln!("{} frames, {undissected} not dissected, {off} changed: {nested:#?}", frames.len());
    eprintln!("on purpose: {reasons:#?}");
    eprintln!("not decapsulated: {}", report.0["not_decapsulated"]);
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
    for tunnel in
        ["vxlan", "geneve", "gre", "erspan", "ipip", "mpls", "gtp", "gre gre", "geneve vxlan", "ipip ipip"]
    {
        assert!(nested.contains_key(tunnel), "no frame with {tunnel}");
    }
    assert_eq!(off, report.number("decapsulated"), "each counted once");
}
