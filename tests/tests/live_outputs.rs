//! Do ERSPAN, plain ports and capture files carry what was tapped, and does one that fails leave the others alone?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::time::Duration;

use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::tap::{PORTS, SERVER, TOOL, Tap, pattern};
use sluice_tests::tcpdump::{Frame, Tcpdump, assert_same, read, tshark};

const BOOT: &str = r#"
[[port]]
name = "tap0"
spec = "af_packet:tap0"
role = "capture"

[[port]]
name = "out0"
spec = "af_packet:out0"
role = "output"
addresses = ["192.0.2.1/24", "2001:db8::1/64"]

[[port]]
name = "out1"
spec = "af_packet:out1"
role = "output"
"#;

const POLICY: &str = r#"
[[destination]]
name = "two"
type = "erspan2"
remote = "192.0.2.10"

[[destination]]
name = "three"
type = "erspan3"
remote = "2001:db8::10"

[[destination]]
name = "wire"
type = "port"
port = "out1"

[[destination]]
name = "file"
type = "pcap"
file = "copies.pcap"

[[destination]]
name = "full"
type = "pcap"
file = "small-disk/full.pcap"

[[policy]]
name = "all"
tag = 321
to = ["two", "three", "wire", "file", "full"]
"#;

#[test]
fn every_kind_of_output_carries_what_was_tapped() {
    let Some(mut lab) = Lab::new("outputs") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.broker.veth("out1", &tap.tool, "in1", 1500);
    let disk = lab.small_disk(64);
    // Nothing at the tool takes GRE: it must not answer every packet with an error.
    tap.tool.run("sysctl -qw net.ipv4.icmp_ratelimit=1000000 net.ipv6.icmp.ratelimit=1000000");
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
    daemon.wait_resolved(2);
    let at_tap = Tcpdump::start(&lab, &tap.broker, "tap0");
    let at_tunnels = Tcpdump::start(&lab, &tap.tool, "in0");
    let at_wire = Tcpdump::start(&lab, &tap.tool, "in1");
    let (up, down) = (pattern(150_000, 1), pattern(200_000, 2));
    tap.tcp(SERVER[0], &up, &down);
    tap.tcp(SERVER[1], &down, &up);
    let tapped = at_tap.stop();
    let tunnels = at_tunnels.file().to_owned();
    at_tunnels.stop();
    assert_same("plain port", &at_wire.stop(), &tapped);
    daemon.wait_log("capture file failed");
    let summary = daemon.stop();
    let seen = tapped.len() as u64;
    // 700 kB of payload in segments of at most 1,460 bytes, acknowledgements not counted.
    assert!(seen > 480, "{seen}");
    assert_eq!(summary.port("tap0"), [seen, 0, 0]);
    assert_eq!(summary.total("replicas"), 4 * seen);

    // ERSPAN, as tshark reads it: header fields, and the inner frame's bytes by its fields.
    for (name, outer, version, hop) in [("two", "ip.dst", "1", TOOL[0]), ("three", "ipv6.dst", "2", TOOL[1])]
    {
        let filter = format!("erspan && {outer} == {hop}");
        let fields = [
            "erspan.version",
            "erspan.spanid",
            "erspan.truncated",
            "gre.sequence_number",
            "tcp.seq_raw",
            "tcp.len",
        ];
        let lines = tshark(&tunnels, &filter, &fields, &[]);
        assert_eq!(lines.len() as u64, seen, "{name}");
        let expected = tshark(&lab.dir().join("tap0.pcap"), "frame", &["tcp.seq_raw", "tcp.len"], &[]);
        let mut got = vec![];
        for (number, line) in lines.iter().enumerate() {
            let (head, inner) = line.split_at(line.match_indices('\t').nth(3).unwrap().0);
            assert_eq!(head, format!("{version}\t321\t0\t{number}"), "{name}: {line}");
            got.push(inner[1..].to_owned());
        }
        got.sort();
        let mut expected = expected;
        expected.sort();
        assert_eq!(got, expected, "{name}");
        assert_eq!(summary.copies(name), seen);
        let malformed = tshark(&tunnels, &format!("{filter} && _ws.malformed"), &["frame.number"], &[]);
        assert_eq!(malformed, [""; 0]);
    }
    assert_same("ERSPAN II", &inside_erspan(&read(&tunnels), 4, 14 + 20 + 8 + 8), &tapped);
    assert_same("ERSPAN III", &inside_erspan(&read(&tunnels), 6, 14 + 40 + 8 + 12), &tapped);

    // Files: whole, readable by others; the small disk took what it had room for.
    let copies = lab.dir().join("copies.pcap");
    assert_same("file", &read(&copies), &tapped);
    assert_eq!(tshark(&copies, "frame", &["frame.number"], &[]).len() as u64, seen);
    let full = read(&disk.join("full.pcap"));
    assert!(!full.is_empty());
    // What came when there was room: some of the copies, in their order.
    let all = read(&copies);
    let mut rest = all.iter();
    assert!(full.iter().all(|frame| rest.any(|other| other == frame)), "{} of {}", full.len(), all.len());
    assert_eq!(summary.copies("file"), seen);
    assert_eq!(summary.copies("full"), full.len() as u64);
    assert_eq!(summary.dropped("file_write"), seen - full.len() as u64);
    assert_eq!(summary.drops(), summary.dropped("file_write") + summary.dropped("not_capture_port"));
}

/// The inner frames of GRE packets over one IP version, whose headers take so many bytes.
fn inside_erspan(frames: &[Frame], version: u8, headers: usize) -> Vec<Frame> {
    let is_gre = |data: &[u8]| match version {
        4 => data[12..14] == [0x08, 0x00] && data[23] == 47,
        _ => data[12..14] == [0x86, 0xdd] && data[20] == 47,
    };
    let inner = |frame: &Frame| {
        let data = frame.data[headers..].to_vec();
        Frame { wire_len: u32::try_from(data.len()).unwrap(), data }
    };
    frames.iter().filter(|frame| is_gre(&frame.data)).map(inner).collect()
}

#[test]
fn a_disk_that_is_full_at_the_start_holds_up_nothing_else() {
    let Some(mut lab) = Lab::new("full at the start") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let disk = lab.small_disk(64);
    let filler = disk.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[0; 512]).is_ok() {}
    drop(file);
    let policy = format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n\
         [[destination]]\nname = \"full\"\ntype = \"pcap\"\nfile = \"small-disk/full.pcap\"\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\nto = [\"tool\", \"full\"]\n",
        TOOL[0]
    );
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, PORTS, &policy);
    daemon.wait_resolved(1);
    daemon.wait_log("capture file failed");
    tap.flood(30, 100);
    std::thread::sleep(Duration::from_millis(200));
    std::fs::remove_file(filler).unwrap();
    // Whatever it is that comes after there is room, until the file takes some of it.
    wait_for("the file to go on", Duration::from_secs(10), || {
        tap.flood(10, 100);
        daemon.log().contains("the capture file goes on").then_some(())
    });
    tap.flood(20, 100);
    let summary = daemon.stop();
    let copies = summary.copies("tool");
    assert!(copies >= 60, "{copies}");
    let written = read(&disk.join("full.pcap")).len() as u64;
    assert!((20..=copies - 30).contains(&written), "{written} of {copies}");
    assert_eq!((summary.copies("full"), summary.dropped("file_write")), (written, copies - written));
    assert_eq!(
        tshark(&disk.join("full.pcap"), "udp.length == 108", &["frame.number"], &[]).len() as u64,
        written
    );
}
