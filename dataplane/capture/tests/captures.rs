//! Every shared capture, read as the Wireshark tools read it.
//!
//! Expected values: packet counts from INDEX.md (capinfos); bytes, lengths and times of every packet from
//! mergecap, which appends all captures to one file of one known shape; dissection before and after the
//! Ethernet header was added from tshark; packets before a damage from capinfos.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_capture::{CaptureError, CaptureReader, LinkType, PcapWriter};

/// Captures of link types that are not read: link type and files.
const REFUSED: &[(u32, &[&str])] = &[
    (
        8,
        &[
            "tcpdump/tests/cve2015-0261-crash.pcap",
            "tcpdump/tests/heapoverflow-sl_if_print.pcap",
            "tcpdump/tests/slip-bad-direction.pcap",
        ],
    ),
    (
        9,
        &[
            "suricata-verify/tests/defrag/bug-6887-defrag-ppp-ipv6-tcp/frag-ppp-ipv6-tcp.pcap",
            "tcpdump/tests/icmp_inft_name_length_zero.pcap",
            "tcpdump/tests/lspping-fec-ldp.pcap",
            "tcpdump/tests/mlppp-oobr.pcap",
            "tcpdump/tests/mpls-traceroute.pcap",
            "tcpdump/tests/ppp-invalid-lengths.pcap",
            "tcpdump/tests/wb-oobr.pcap",
        ],
    ),
    (10, &["zeek/testing/btest/Traces/llc.pcap"]),
    (50, &["tcpdump/tests/ppp_error_hexdump.pcap", "tcpdump/tests/ppp_ip_udp_dns.pcap"]),
    (
        104,
        &[
            "nDPI/tests/cfgs/default/pcap/BGP_redist.pcap",
            "tcpdump/tests/esis_opt_prot-oobr.pcap",
            "tcpdump/tests/hoobr_chdlc_print.pcap",
            "tcpdump/tests/isis-extd-isreach-oobr.pcap",
        ],
    ),
    (
        107,
        &[
            "tcpdump/tests/OSPFv3_multipoint_adjacencies.pcap",
            "tcpdump/tests/calm-fast-mac-lookup-heapoverflow.pcap",
            "tcpdump/tests/esis_snpa_asan-5.pcap",
            "tcpdump/tests/frf15-heapoverflow.pcap",
            "tcpdump/tests/icmp-icmp_print-oobr-2.pcap",
            "tcpdump/tests/isis_stlv_asan-2.pcap",
            "tcpdump/tests/isis_stlv_asan-3.pcap",
            "tcpdump/tests/isis_stlv_asan-4.pcap",
            "tcpdump/tests/isis_sysid_asan.pcap",
            "tcpdump/tests/q933-heapoverflow-2.pcap",
        ],
    ),
    (
        127,
        &["zeek/testing/btest/Traces/arp-who-has-radiotap.pcap", "zeek/testing/btest/Traces/radiotap.pcap"],
    ),
    (
        137,
        &[
            "tcpdump/tests/hoobr_juniper2.pcap",
            "tcpdump/tests/hoobr_juniper4.pcap",
            "tcpdump/tests/juniper_atm1_oobr.pcap",
        ],
    ),
    (149, &["tcpdump/tests/pktap-heap-overflow.pcap"]),
    (178, &["tcpdump/tests/juniper_header-heapoverflow.pcap"]),
    (195, &["tcpdump/tests/802_15_4-data.pcap"]),
    (239, &["arkime/tests/pcap/nflog.pcap"]),
    (242, &["tcpdump/tests/ipoib.pcap"]),
];

/// Captures with frames of more than 65,535 bytes.
const WITH_CUT_FRAMES: &[&str] = &[
    "tcpdump/tests/bigtcp-ipv6-hbh.pcap",
    "tcpdump/tests/ipv6_jumbogram_invalid_length.pcap",
    "tcpdump/tests/pim-packet-assortment.pcap",
];

/// Captures that claim frames to have been shorter on the wire than what was captured of them.
const WITH_RAISED_LENGTHS: &[&str] = &["brimcap/cmd/brimcap/ztests/bad-caplen.pcap"];

/// Captures with simple packet blocks behind packets that have a time.
const WITH_SIMPLE_PACKETS: &[&str] = &[
    "gopacket/pcapgo/tests/be/test011.pcapng",
    "gopacket/pcapgo/tests/be/test016.pcapng",
    "gopacket/pcapgo/tests/be/test018.pcapng",
    "gopacket/pcapgo/tests/be/test100.pcapng",
    "gopacket/pcapgo/tests/be/test101.pcapng",
    "gopacket/pcapgo/tests/be/test202.pcapng",
    "gopacket/pcapgo/tests/le/test011.pcapng",
    "gopacket/pcapgo/tests/le/test016.pcapng",
    "gopacket/pcapgo/tests/le/test018.pcapng",
    "gopacket/pcapgo/tests/le/test100.pcapng",
    "gopacket/pcapgo/tests/le/test101.pcapng",
    "gopacket/pcapgo/tests/le/test202.pcapng",
];

/// A packet whose time has a fraction of 4,293,562,680 microseconds: added here, overflowing in the tools.
const IMPOSSIBLE_FRACTION: (&str, u64) = ("nfstream/tests/pcaps/fuzz-2021-06-07-c6c72a0a56.pcap", 1);

#[test]
fn every_capture_is_read_as_the_wireshark_tools_read_it() {
    let Some(root) = captures() else { return };
    let refused: BTreeMap<&str, u32> =
        REFUSED.iter().flat_map(|(link_type, files)| files.iter().map(|file| (*file, *link_type))).collect();
    let index = index(&root);
    assert_eq!(index.len(), 947);

    let dir = tempfile::tempdir().unwrap();
    let readable: Vec<_> = index.iter().filter(|(file, _)| !refused.contains_key(file.as_str())).collect();
    let merged = dir.path().join("merged.pcapng");
    run(Command::new("mergecap")
        .args(["-a", "-I", "none", "-F", "pcapng", "-w"])
        .arg(&merged)
        .args(readable.iter().map(|(file, _)| root.join(file))));
    let merged = fs::read(merged).unwrap();
    let mut expected = merged_packets(&merged).into_iter();

    let (mut before, mut after) = (Vec::new(), PcapWriter::new(Vec::new()).unwrap());
    let mut total = 0;
    let (mut with_cut_frames, mut with_raised_lengths) = (Vec::new(), Vec::new());
    let mut with_simple_packets = Vec::new();
    for (file, packets) in &index {
        let mut reader = match CaptureReader::open(&root.join(file)) {
            Err(CaptureError::LinkType { link_type, .. }) => {
                assert_eq!(refused.get(file.as_str()), Some(&link_type.0), "{file}");
                assert!(link_type.name().is_some(), "{file}: {link_type}");
                continue;
            }
            opened => opened.unwrap(),
        };
        assert!(!refused.contains_key(file.as_str()), "{file}");
        let (mut count, mut cut_frames, mut raised, mut simple_packets, mut last_ns) = (0, 0, 0, 0, 0);
        while let Some(frame) = reader.next_frame().unwrap() {
            count += 1;
            let packet = expected.next().unwrap();
            let link_header = match packet.link_type {
                1 => None,
                0 | 108 => Some(4),
                12 | 14 | 101 | 228 | 229 => Some(0),
                113 => Some(16),
                276 => Some(20),
                other => panic!("{file}: link type {other}"),
            };
            if (file.as_str(), count) == IMPOSSIBLE_FRACTION {
                assert_eq!(frame.timestamp_ns, 1_953_631_157_000_000_000 + 4_293_562_680_000);
            } else if packet.timestamp_ns == 0 && frame.timestamp_ns != 0 {
                // A simple packet block has no time; the tools write zero.
                assert_eq!(frame.timestamp_ns, last_ns, "{file} {count}: time of the packet before");
                simple_packets += 1;
            } else {
                assert_eq!(frame.timestamp_ns, packet.timestamp_ns, "{file} {count}: time");
            }
            last_ns = frame.timestamp_ns;
            let wire_len = packet.wire_len.max(packet.data.len() as u32);
            raised += u64::from(wire_len > packet.wire_len);
            if let Some(link_header) = link_header {
                assert_eq!(&frame.data[14..], &packet.data[link_header..], "{file} {count}: payload");
                let wire_len = wire_len - link_header as u32 + 14;
                assert_eq!(frame.wire_len, wire_len, "{file} {count}: original length");
                before.push(packet);
                after.write(frame.timestamp_ns, frame.wire_len, [frame.data]).unwrap();
            } else {
                let len = packet.data.len().min(65_535);
                cut_frames += u64::from(len < packet.data.len());
                assert_eq!(frame.data, &packet.data[..len], "{file} {count}: bytes");
                assert_eq!(frame.wire_len, wire_len, "{file} {count}: original length");
            }
        }
        assert_eq!(count, *packets, "{file}: packets");
        assert_eq!(reader.cut_frames(), cut_frames, "{file}");
        if cut_frames > 0 {
            with_cut_frames.push(file.as_str());
        }
        if simple_packets > 0 {
            with_simple_packets.push(file.as_str());
        }
        if raised > 0 {
            with_raised_lengths.push(file.as_str());
        }
        let progress = reader.progress();
        assert_eq!(Some(progress.bytes_read), progress.bytes_total, "{file}: progress");
        total += count;
    }
    assert!(expected.next().is_none());
    assert_eq!(with_simple_packets, WITH_SIMPLE_PACKETS);
    assert_eq!(with_cut_frames, WITH_CUT_FRAMES);
    assert_eq!(with_raised_lengths, WITH_RAISED_LENGTHS);
    eprintln!("{total} packets compared, {} of them with an added Ethernet header", before.len());

    let converted = dir.path().join("converted.pcap");
    fs::write(&converted, after.finish().unwrap()).unwrap();
    let original = dir.path().join("original.pcapng");
    fs::write(&original, pcapng_of(&before)).unwrap();
    same_dissection(&original, &converted);
}

/// The network layer of both files must be dissected alike, and cooked addresses must have become source MACs.
fn same_dissection(original: &Path, converted: &Path) {
    let fields = |file: &Path| {
        let out = run(Command::new("tshark").args(["-n", "-r"]).arg(file).args([
            "-T",
            "fields",
            "-E",
            "occurrence=f",
            "-e",
            "sll.src.eth",
            "-e",
            "eth.src",
            "-e",
            "frame.time_epoch",
            "-e",
            "_ws.col.Source",
            "-e",
            "_ws.col.Destination",
            "-e",
            "_ws.col.Protocol",
            "-e",
            "ip.proto",
            "-e",
            "ipv6.nxt",
            "-e",
            "udp.stream",
            "-e",
            "tcp.stream",
            "-e",
            "arp.opcode",
        ]));
        String::from_utf8(out).unwrap()
    };
    let (original, converted) = (fields(original), fields(converted));
    assert_eq!(original.lines().count(), converted.lines().count());
    for (number, (before, after)) in original.lines().zip(converted.lines()).enumerate() {
        let before: Vec<_> = before.split('\t').collect();
        let after: Vec<_> = after.split('\t').collect();
        assert_eq!(before[2], after[2], "time of converted packet {}", number + 1);
        if before[6..8].iter().any(|field| !field.is_empty()) {
            assert_eq!(before[3..], after[3..], "converted packet {}", number + 1);
        }
        if !before[0].is_empty() {
            assert_eq!(before[0], after[1], "source MAC of converted packet {}", number + 1);
        }
    }
}

/// Cuts captures of every format anywhere: as many packets come out as capinfos reads before its error.
#[test]
fn cut_captures_give_the_packets_that_capinfos_counts() {
    let Some(root) = captures() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut cuts = Vec::new();
    for name in [
        "FlowTest/pcap/vxlan.pcap",
        "gopacket/pcapgo/tests/le/test006.pcapng",
        "gopacket/pcapgo/tests/be/test101.pcapng",
        "arkime/tests/pcap/y2038-bgp.pcap",
        "zeek/testing/btest/Traces/contentline/rlogin-long-client-user-no-nul.pcapng.gz",
    ] {
        let whole = fs::read(root.join(name)).unwrap();
        // Some 150 cuts of a file, with a step that meets every alignment.
        let step = (whole.len() / 150) | 1;
        for len in (24..whole.len()).step_by(step) {
            let path = dir.path().join(format!("{}-{len}", cuts.len()));
            fs::write(&path, &whole[..len]).unwrap();
            cuts.push(path);
        }
    }
    let counted = capinfos(&cuts);
    assert!(counted.len() > cuts.len() / 2, "capinfos counts {} of {}", counted.len(), cuts.len());
    for (path, expected) in counted {
        let (packets, error) = read_all(&path);
        assert_eq!(packets, expected, "{}: {error:?}", path.display());
    }
}

/// What [`PcapWriter`] writes is what tshark reads: nanoseconds and original lengths kept.
#[test]
fn written_files_are_read_by_tshark() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("written.pcap");
    let mut pcap = PcapWriter::new(File::create(&path).unwrap()).unwrap();
    let frames: &[(u64, u32, usize)] = &[
        (1_500_000_000_123_456_789, 60, 60),
        (1_500_000_000_000_000_001, 9_018, 128),
        (7, 70_000, 65_535),
        (8, 0, 0),
    ];
    for &(timestamp_ns, wire_len, cap_len) in frames {
        let bytes = vec![0x11; cap_len];
        let (head, tail) = bytes.split_at(cap_len / 3);
        pcap.write(timestamp_ns, wire_len, [head, tail]).unwrap();
    }
    pcap.flush().unwrap();
    pcap.finish().unwrap();
    let out = run(Command::new("tshark").arg("-r").arg(&path).args([
        "-T",
        "fields",
        "-e",
        "frame.time_epoch",
        "-e",
        "frame.len",
        "-e",
        "frame.cap_len",
    ]));
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "1500000000.123456789\t60\t60\n1500000000.000000001\t9018\t128\n0.000000007\t70000\t65535\n\
         0.000000008\t0\t0\n"
    );
    let encapsulation = run(Command::new("capinfos").args(["-T", "-r", "-t", "-E", "-l"]).arg(&path));
    let encapsulation = String::from_utf8(encapsulation).unwrap();
    assert!(encapsulation.contains("nsecpcap\tether\t262144"), "{encapsulation}");
}

struct Packet<'a> {
    link_type: u16,
    timestamp_ns: u64,
    wire_len: u32,
    data: &'a [u8],
}

/// The packets of a file that mergecap wrote: little-endian, one section, enhanced packet blocks.
fn merged_packets(file: &[u8]) -> Vec<Packet<'_>> {
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < file.len() {
        let len = u32_at(at + 4) as usize;
        match u32_at(at) {
            1 => {
                let mut unit_ns = 1_000;
                let mut option = at + 16;
                while option < at + len - 4 {
                    let (code, size) = (u32_at(option) & 0xffff, (u32_at(option) >> 16) as usize);
                    if code == 9 {
                        unit_ns = 10u64.pow(9 - u32::from(file[option + 4]));
                    }
                    option += 4 + size.next_multiple_of(4);
                }
                interfaces.push((u32_at(at + 8) as u16, unit_ns));
            }
            6 => {
                let (link_type, unit_ns) = interfaces[u32_at(at + 8) as usize];
                let units = u64::from(u32_at(at + 12)) << 32 | u64::from(u32_at(at + 16));
                packets.push(Packet {
                    link_type,
                    timestamp_ns: units * unit_ns,
                    wire_len: u32_at(at + 24),
                    data: &file[at + 28..at + 28 + u32_at(at + 20) as usize],
                });
            }
            _ => {}
        }
        at += len;
    }
    packets
}

/// A pcapng file of packets of several link types.
fn pcapng_of(packets: &[Packet<'_>]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut block = |block_type: u32, body: &[u8]| {
        let len = (12 + body.len().next_multiple_of(4)) as u32;
        file.extend_from_slice(&block_type.to_le_bytes());
        file.extend_from_slice(&len.to_le_bytes());
        file.extend_from_slice(body);
        file.resize(file.len().next_multiple_of(4), 0);
        file.extend_from_slice(&len.to_le_bytes());
    };
    block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    let mut interfaces = Vec::new();
    for packet in packets {
        if !interfaces.contains(&packet.link_type) {
            interfaces.push(packet.link_type);
            let [low, high] = packet.link_type.to_le_bytes();
            block(1, &[low, high, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0]);
        }
        let interface = interfaces.iter().position(|link_type| *link_type == packet.link_type).unwrap();
        let mut body = Vec::new();
        for field in [
            interface as u32,
            (packet.timestamp_ns >> 32) as u32,
            packet.timestamp_ns as u32,
            packet.data.len() as u32,
            packet.wire_len,
        ] {
            body.extend_from_slice(&field.to_le_bytes());
        }
        body.extend_from_slice(packet.data);
        block(6, &body);
    }
    file
}

/// File (below the captures) and packets of every row of INDEX.md.
fn index(root: &Path) -> Vec<(String, u64)> {
    let text = fs::read_to_string(root.join("INDEX.md")).unwrap();
    let mut repository = "";
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            repository = heading.split(' ').next().unwrap();
        }
        let columns: Vec<_> = line.split(" | ").collect();
        if let ["| OPEN", file, packets, _, ..] = columns[..]
            && let Ok(packets) = packets.parse()
        {
            rows.push((format!("{repository}/{file}"), packets));
        }
    }
    rows
}

/// Packets that capinfos reads of each file, up to its error if it finds one; files it cannot open are left out.
fn capinfos(files: &[PathBuf]) -> Vec<(PathBuf, u64)> {
    let output = Command::new("capinfos").args(["-T", "-r", "-t", "-c"]).args(files).output().unwrap();
    let mut counted = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let columns: Vec<_> = line.split('\t').collect();
        // Cut short enough, a capture is taken for a file of some other kind.
        if matches!(columns[1], "pcap" | "nsecpcap" | "pcapng") {
            counted.insert(PathBuf::from(columns[0]), columns[2].parse().unwrap());
        }
    }
    // capinfos: An error occurred after reading N packets from "FILE".
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        if let Some((_, rest)) = line.split_once("after reading ")
            && let Some((packets, rest)) = rest.split_once(" packets from \"")
            && let Some((file, _)) = rest.split_once('"')
        {
            counted.insert(PathBuf::from(file), packets.parse().unwrap());
        }
    }
    counted.into_iter().collect()
}

fn read_all(path: &Path) -> (u64, Option<CaptureError>) {
    let mut packets = 0;
    let mut read = || {
        let mut reader = CaptureReader::open(path)?;
        while reader.next_frame()?.is_some() {
            packets += 1;
        }
        Ok(())
    };
    let error = read().err();
    (packets, error)
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: install the package tshark"));
    if !output.status.success() {
        std::io::stderr().write_all(&output.stderr).unwrap();
        panic!("{command:?} failed");
    }
    output.stdout
}

fn captures() -> Option<PathBuf> {
    let root = std::env::var_os("SLUICE_CAPTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/captures"),
        PathBuf::from,
    );
    if root.join("INDEX.md").is_file() {
        return Some(root);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{} is missing", root.display());
    eprintln!("SKIPPED: no captures at {}; set SLUICE_CAPTURES", root.display());
    None
}

#[test]
fn refused_link_types_have_names() {
    assert!(REFUSED.iter().all(|(link_type, _)| LinkType(*link_type).name().is_some()));
}
