//! Does the parser read the same headers as tshark from real captures?
//!
//! The frames of all captures are joined into one file, so that one tshark is enough. It runs with all protocols off but
//! those that the parser knows, and without reassembly, so that a field that occurs several times stands for nested
//! headers only. Where the two differ on purpose, [`on_purpose`] says why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sluice_capture::{CaptureReader, PcapWriter};
use sluice_core::wire::{self, Fragment, L3, Parsed, Stop, TunnelHeader};
use sluice_tests::captures;

/// Enough of each capture to meet every kind of its frames, and few enough for seconds.
const FRAMES_PER_CAPTURE: usize = 150;

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

const PREFERENCES: &[&str] = &[
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "tcp.analyze_sequence_numbers:FALSE",
    "sctp.reassembly:FALSE",
    "ip.tso_support:TRUE",
];

const FIELDS: &[&str] = &[
    "frame.protocols",
    "ip.src",
    "ip.dst",
    "ip.proto",
    "ip.frag_offset",
    "ip.flags.mf",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.nxt",
    "ipv6.hopopts.nxt",
    "ipv6.routing.nxt",
    "ipv6.fraghdr.nxt",
    "ipv6.fraghdr.offset",
    "ipv6.fraghdr.more",
    "ipv6.dstopts.nxt",
    "ah.next_header",
    "mip6.proto",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.flags",
    "tcp.hdr_len",
    "udp.srcport",
    "udp.dstport",
    "sctp.srcport",
    "sctp.dstport",
    "vlan.id",
    "ieee8021ad.id",
    "mpls.label",
    "mpls.bottom",
    "gre.flags_and_version",
    "gre.proto",
    "gre.key",
    "vxlan.vni",
    "geneve.vni",
    "erspan.spanid",
    "erspan.version",
    "gtp.teid",
    "hip.proto",
    "shim6.nxt",
];

#[derive(Clone, Debug, Default, PartialEq)]
struct Layer {
    vlans: Vec<u16>,
    arp: bool,
    ip: Option<(IpAddr, IpAddr)>,
    protocol: u8,
    fragment: Option<Fragment>,
    ports: Option<(u16, u16)>,
    tcp: Option<(u8, u16)>,
    /// The tunnel that encloses these headers.
    tunnel: Option<(TunnelHeader, u32)>,
}

/// Whether the file is a capture of Ethernet frames: others get an Ethernet header from the reader, which is its
/// matter. In pcapng the first interface decides.
fn is_ethernet(path: &Path) -> bool {
    let bytes = fs::read(path).unwrap();
    let word = |at: usize, little: bool| -> Option<u32> {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    match bytes.first_chunk::<4>() {
        Some([0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1]) => word(20, true) == Some(1),
        Some([0xa1, 0xb2, ..]) => word(20, false) == Some(1),
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => {
            let little = bytes.get(8) == Some(&0x4d);
            let first = word(4, little).unwrap_or(0) as usize;
            word(first + 8, little).is_some_and(|link| link & 0xffff == u32::from(little) || link >> 16 == 1)
        }
        _ => false,
    }
}

struct Joined {
    frames: Vec<Vec<u8>>,
    origin: Vec<(usize, usize)>,
    files: Vec<PathBuf>,
}

fn join(folder: &Path, into: &Path) -> Joined {
    let mut joined = Joined { frames: Vec::new(), origin: Vec::new(), files: Vec::new() };
    let mut writer = PcapWriter::new(BufWriter::new(File::create(into).unwrap())).unwrap();
    for path in captures::files(folder) {
        if !is_ethernet(&path) {
            continue;
        }
        let Ok(mut reader) = CaptureReader::open(&path) else { continue };
        let mut number = 0;
        // A damaged capture counts as far as it goes.
        while let Ok(Some(frame)) = reader.next_frame() {
            number += 1;
            if number > FRAMES_PER_CAPTURE {
                break;
            }
            writer.write(frame.timestamp_ns, frame.wire_len, [frame.data]).unwrap();
            joined.frames.push(frame.data.to_vec());
            joined.origin.push((joined.files.len(), number));
        }
        joined.files.push(path);
    }
    writer.finish().unwrap();
    joined
}

fn tshark(config: &Path, pcap: &Path) -> Command {
    let mut command = Command::new("tshark");
    command.env("WIRESHARK_CONFIG_DIR", config).env("LC_ALL", "C").arg("-r").arg(pcap).arg("-n");
    for preference in PREFERENCES {
        command.args(["-o", preference]);
    }
    command.args(["-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    command
}

/// Writes the list of all protocols that shall not be dissected.
fn disable_others(config: &Path) {
    let listed = Command::new("tshark").args(["-G", "protocols"]).output().expect("tshark is installed");
    let names: Vec<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| line.split('\t').nth(2).map(str::to_owned))
        .filter(|name| !PROTOCOLS.contains(&name.as_str()))
        .collect();
    assert!(names.len() > 1000, "the list of protocols");
    fs::write(config.join("disabled_protos"), names.join("\n") + "\n").unwrap();
}

/// One line of fields, consumed layer by layer.
struct Fields<'a> {
    lists: BTreeMap<&'static str, std::vec::IntoIter<&'a str>>,
}

impl<'a> Fields<'a> {
    fn new(line: &'a str) -> Self {
        let lists = FIELDS
            .iter()
            .zip(line.split('\t'))
            .map(|(name, list)| {
                (*name, list.split(',').filter(|v| !v.is_empty()).collect::<Vec<_>>().into_iter())
            })
            .collect();
        Self { lists }
    }

    fn next(&mut self, name: &'static str) -> Option<&'a str> {
        self.lists.get_mut(name)?.next()
    }

    fn number(&mut self, name: &'static str) -> Option<u32> {
        let text = self.next(name)?;
        match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None if text == "True" => Some(1),
            None if text == "False" => Some(0),
            None => text.parse().ok(),
        }
    }

    fn ports(&mut self, src: &'static str, dst: &'static str) -> Option<(u16, u16)> {
        Some((self.number(src)? as u16, self.number(dst)? as u16))
    }
}

/// The layers that tshark shows; `None` when a header was cut, so that its fields are missing.
fn layers(line: &str) -> Option<Vec<Layer>> {
    let mut fields = Fields::new(line);
    let tokens: Vec<&str> = line.split('\t').next()?.split(':').collect();
    let mut layers = vec![Layer::default()];
    let mut tunnel: Option<(TunnelHeader, u32)> = None;
    let mut has_erspan_header = false;
    let mut label = None;
    let mut ethernets = 0;
    for token in tokens {
        let has_l3 = layers.last().is_some_and(|layer| layer.ip.is_some());
        match token {
            "eth" | "ip" | "ipv6" if (token == "eth" && ethernets > 0) || (token != "eth" && has_l3) => {
                let pseudowire = label.take().filter(|_| token == "eth");
                let enclosing = match (tunnel.take(), token) {
                    _ if pseudowire.is_some() => (TunnelHeader::Mpls, pseudowire?),
                    (None, _) => (TunnelHeader::IpInIp, 0),
                    (Some((TunnelHeader::Gre, id)), "eth") => (TunnelHeader::GreTeb, id),
                    (Some(other), _) => other,
                };
                layers.push(Layer { tunnel: Some(enclosing), ..Layer::default() });
            }
            _ => {}
        }
        let layer = layers.last_mut()?;
        match token {
            "eth" => ethernets += 1,
            "vlan" => layer.vlans.push(fields.number("vlan.id")? as u16),
            "ieee8021ad" => layer.vlans.push(fields.number("ieee8021ad.id")? as u16),
            "arp" => layer.arp = true,
            "ip" => {
                layer.ip = Some((fields.next("ip.src")?.parse().ok()?, fields.next("ip.dst")?.parse().ok()?));
                layer.protocol = fields.number("ip.proto")? as u8;
                let (offset, more) = (fields.number("ip.frag_offset")?, fields.number("ip.flags.mf")?);
                layer.fragment = Some(place(offset, more));
            }
            "ipv6" => {
                layer.ip =
                    Some((fields.next("ipv6.src")?.parse().ok()?, fields.next("ipv6.dst")?.parse().ok()?));
                layer.protocol = fields.number("ipv6.nxt")? as u8;
                layer.fragment = Some(Fragment::Whole);
            }
            "ipv6.hopopts" => layer.protocol = fields.number("ipv6.hopopts.nxt")? as u8,
            "ipv6.routing" => layer.protocol = fields.number("ipv6.routing.nxt")? as u8,
            "ipv6.dstopts" => layer.protocol = fields.number("ipv6.dstopts.nxt")? as u8,
            "ipv6.fraghdr" => {
                layer.protocol = fields.number("ipv6.fraghdr.nxt")? as u8;
                let (offset, more) =
                    (fields.number("ipv6.fraghdr.offset")?, fields.number("ipv6.fraghdr.more")?);
                layer.fragment = Some(place(offset, more));
            }
            "ah" if layer.ip?.0.is_ipv6() => layer.protocol = fields.number("ah.next_header")? as u8,
            "mipv6" => layer.protocol = fields.number("mip6.proto")? as u8,
            "hip" => layer.protocol = fields.number("hip.proto")? as u8,
            "shim6" => layer.protocol = fields.number("shim6.nxt")? as u8,
            "tcp" => {
                layer.ports = Some(fields.ports("tcp.srcport", "tcp.dstport")?);
                let (flags, header_len) = (fields.number("tcp.flags")?, fields.number("tcp.hdr_len")?);
                layer.tcp = Some((flags as u8, header_len as u16));
            }
            "udp" => layer.ports = Some(fields.ports("udp.srcport", "udp.dstport")?),
            "sctp" => layer.ports = Some(fields.ports("sctp.srcport", "sctp.dstport")?),
            "gre" => {
                let flags = fields.number("gre.flags_and_version")?;
                // The protocol tells type III, which needs no sequence number.
                let protocol = fields.number("gre.proto")?;
                has_erspan_header = flags & 0x1000 != 0 || protocol == 0x22eb;
                let id = if flags & 0x2007 == 0x2000 { fields.number("gre.key")? } else { 0 };
                tunnel = Some((TunnelHeader::Gre, id));
            }
            // A whole stack is named once; its bottom label is last.
            "mpls" => {
                while label.is_none() {
                    let value = fields.number("mpls.label")?;
                    label = (fields.number("mpls.bottom")? == 1).then_some(value);
                }
            }
            "vxlan" => tunnel = Some((TunnelHeader::Vxlan, fields.number("vxlan.vni")?)),
            "geneve" => tunnel = Some((TunnelHeader::Geneve, fields.number("geneve.vni")?)),
            "gtp" => tunnel = Some((TunnelHeader::GtpU, fields.number("gtp.teid")?)),
            "erspan" if has_erspan_header => {
                let kind = match fields.number("erspan.version")? {
                    1 => TunnelHeader::Erspan2,
                    2 => TunnelHeader::Erspan3,
                    _ => return None,
                };
                tunnel = Some((kind, fields.number("erspan.spanid")?));
            }
            "erspan" => tunnel = Some((TunnelHeader::Erspan1, tunnel?.1)),
            _ => {}
        }
    }
    Some(layers)
}

fn place(offset: u32, more: u32) -> Fragment {
    match (offset, more) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// What the parser found, in the same shape.
fn ours(parsed: &Parsed, inner: bool) -> Layer {
    let ip = match parsed.l3 {
        L3::Ipv4 => {
            let addr = |a: [u8; 16]| IpAddr::from([a[0], a[1], a[2], a[3]]);
            Some((addr(parsed.src_addr), addr(parsed.dst_addr)))
        }
        L3::Ipv6 => Some((IpAddr::from(parsed.src_addr), IpAddr::from(parsed.dst_addr))),
        _ => None,
    };
    let has_flags = parsed.protocol == 6 && parsed.l4_offset > 0;
    Layer {
        vlans: [parsed.vlan_tci, parsed.vlan_inner_tci][..usize::from(parsed.vlan_count).min(2)]
            .iter()
            .map(|tci| tci & 0xfff)
            .collect(),
        arp: parsed.l3 == L3::Arp,
        ip,
        protocol: parsed.protocol,
        fragment: ip.map(|_| parsed.fragment),
        ports: parsed.has_ports.then_some((parsed.src_port, parsed.dst_port)),
        tcp: has_flags.then(|| (parsed.tcp_flags, parsed.header_end - parsed.l4_offset)),
        tunnel: inner.then_some((parsed.tunnel, parsed.tunnel_id)),
    }
}

/// Why a difference is meant to be; `None` when it is not.
fn on_purpose(parsed: &Parsed, ours: &Layer, theirs: &Layer, protocols: &str) -> Option<&'static str> {
    let same_but_tcp_len =
        ours.tcp.zip(theirs.tcp).is_some_and(|((flags, len), (their_flags, their_len))| {
            flags == their_flags && len < their_len && Layer { tcp: theirs.tcp, ..ours.clone() } == *theirs
        });
    Some(match parsed.stop {
        Stop::Truncated if same_but_tcp_len => "header_end never exceeds the capture, tcp.hdr_len may",
        Stop::Truncated if ours.protocol == 43 => "tshark reads on in a routing header that the capture cuts",
        Stop::Unknown if protocols.matches(":ipv6.").count() > 16 => "at most 16 extension headers",
        Stop::Unknown if parsed.ethertype == 0x8035 => "RARP is not ARP, though tshark dissects both as one",
        Stop::Unknown if ours.protocol == 143 => "Ethernet in IPv6 (RFC 8986) is not among the tunnels",
        Stop::Unknown if ours.protocol == 62 => "62 was mobility in a draft before RFC 6275 took 135",
        Stop::Complete if parsed.tunnel == TunnelHeader::Geneve && protocols.ends_with(":geneve:eth") => {
            "an inner Ethernet header that the capture cuts makes no inner view"
        }
        Stop::Complete if parsed.dst_port == 4754 => "GRE in UDP (RFC 8086) is not among the tunnels",
        Stop::Complete if protocols.ends_with("ipv6.dstopts") => {
            "tshark stops at a malformed option, none is read"
        }
        Stop::Complete if parsed.dst_port == 6635 => "MPLS in UDP (RFC 7510) is not among the tunnels",
        _ => return None,
    })
}

#[test]
fn same_headers_as_tshark() {
    let Some(dir) = captures::folder() else { return };
    let temp = tempfile::tempdir().unwrap();
    let pcap = temp.path().join("joined.pcap");
    disable_others(temp.path());
    let joined = join(&dir, &pcap);
    let mut child = tshark(temp.path(), &pcap).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    child.wait().unwrap();
    assert_eq!(lines.len(), joined.frames.len(), "one line for each frame");

    let (mut incomplete, mut compared, mut nested) = (0usize, 0usize, 0usize);
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for ((frame, line), (file, number)) in joined.frames.iter().zip(&lines).zip(&joined.origin) {
        let Some(theirs) = layers(line) else {
            incomplete += 1;
            continue;
        };
        let outer = wire::parse(frame);
        let innermost = wire::parse_innermost(frame, &outer, 16);
        let mut pairs = vec![(outer, ours(&outer, false), Layer { tunnel: None, ..theirs[0].clone() })];
        if theirs.len() > 1 || outer.tunnel != TunnelHeader::None {
            nested += 1;
            let is_inner = innermost.l2_offset > 0;
            pairs.push((innermost, ours(&innermost, is_inner), theirs.last().unwrap().clone()));
        }
        for (parsed, ours, mut theirs) in pairs {
            compared += 1;
            theirs.vlans.truncate(2);
            if ours != theirs {
                match on_purpose(&parsed, &ours, &theirs, line.split('\t').next().unwrap()) {
                    Some(reason) => *reasons.entry(reason).or_default() += 1,
                    None => wrong.push(format!(
                        "{} frame {number}\n  ours   {ours:?} {:?}\n  tshark {theirs:?}\n  {}",
                        joined.files[*file].strip_prefix(&dir).unwrap().display(),
                        parsed.stop,
                        line.split('\t').next().unwrap()
                    )),
                }
            }
        }
    }
    eprintln!(
        "{} captures, {} frames: {compared} views compared ({nested} frames nested), {incomplete} cut inside a header, \
         on purpose: {reasons:#?}",
        joined.files.len(),
        lines.len()
    );
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
}
