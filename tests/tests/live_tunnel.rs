//! Is what a tool receives exactly what crossed the tap? Real TCP traffic, kernel VXLAN devices as tools.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use sluice_tests::daemon::Daemon;
use sluice_tests::netns::Lab;
use sluice_tests::tap::{BROKER, SERVER, TOOL, Tap, pattern};
use sluice_tests::tcpdump::{Tcpdump, assert_same, dissected, dissected_in_vxlan, read};

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
gateway = "192.0.2.10"
"#;

/// A VXLAN destination and a policy that sends everything there under its tag.
fn everything_to(name: &str, tag: u32, settings: &str) -> String {
    format!(
        "[[destination]]\nname = \"{name}\"\ntype = \"vxlan\"\n{settings}\n\
         [[policy]]\nname = \"all-to-{name}\"\ntag = {tag}\nto = [\"{name}\"]\n"
    )
}

#[test]
fn tcp_arrives_at_kernel_vxlan_devices_as_it_was_tapped() {
    let Some(mut lab) = Lab::new("tcp over vxlan") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    // Found by ARP, by ND, through a gateway, and not sought at all.
    let (routed, fixed) = ("198.51.100.10", "203.0.113.10");
    tap.tool.address("lo", &[&format!("{routed}/32"), &format!("{fixed}/32")]);
    let tools = [(7, TOOL[0]), (8, TOOL[1]), (9, routed), (10, fixed)];
    let mut policy = String::new();
    for (vni, address) in tools {
        tap.vxlan(vni, address);
        let mac = if address == fixed { format!("mac = \"{}\"", tap.tool.mac("in0")) } else { String::new() };
        policy += &everything_to(&format!("tool{vni}"), vni, &format!("remote = \"{address}\"\n{mac}"));
    }

    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy);
    daemon.wait_resolved(2);
    // The daemon answers for its own addresses: ARP, ND, echo.
    let echo = concat!(env!("CARGO_MANIFEST_DIR"), "/netns/echo.py");
    let own = BROKER.map(|address| address.split('/').next().unwrap());
    eprintln!("{}", tap.tool.run(&format!("python3 {echo} {} {}", own[0], own[1])));
    for address in own {
        assert_eq!(tap.tool.neighbor(address), Some(tap.broker.mac("out0")), "{address}");
    }

    let before_tap = tap.broker.counters("tap0");
    let before_vx = tools.map(|(vni, _)| tap.tool.counters(&format!("vx{vni}")));
    let at_tap = Tcpdump::start(&lab, &tap.broker, "tap0");
    let at_tools = tools.map(|(vni, _)| Tcpdump::start(&lab, &tap.tool, &format!("vx{vni}")));
    let at_link = Tcpdump::start(&lab, &tap.tool, "in0");
    let files = [at_tap.file().to_owned(), at_link.file().to_owned()];
    let (up, down) = (pattern(400_000, 1), pattern(700_000, 2));
    tap.tcp(SERVER[0], &up, &down);
    tap.tcp(SERVER[1], &down, &up);
    let tapped = at_tap.stop();
    let delivered = at_tools.map(Tcpdump::stop);
    at_link.stop();

    let seen = tapped.len() as u64;
    assert!(seen > 1500, "{seen} frames");
    for ((vni, _), delivered) in tools.iter().zip(&delivered) {
        assert_same(&format!("VNI {vni}"), delivered, &tapped);
    }
    // The tunnels as tshark reads them, those over IPv4, and what it reads inside.
    let tapped_by_tshark = dissected(&files[0]);
    for (vni, address) in [tools[0], tools[2], tools[3]] {
        let copies = format!("udp.dstport == 4789 && vxlan.vni == {vni}");
        let read = dissected_in_vxlan(&files[1], &copies, [own[0], address], vni);
        assert_eq!(read, tapped_by_tshark, "VNI {vni}");
    }
    let link = tap.broker.counters("tap0") - before_tap;
    assert_eq!(link.rx_packets + link.tx_packets, seen, "tcpdump and the kernel's counters");
    for ((vni, _), before) in tools.iter().zip(before_vx) {
        let link = tap.tool.counters(&format!("vx{vni}")) - before;
        assert_eq!((link.rx_packets, link.rx_dropped), (seen, 0));
    }
    let tool_link = tap.tool.counters("in0");
    let broker_link = tap.broker.counters("out0");

    let summary = daemon.stop();
    let [received, sent, lost] = summary.port("tap0");
    assert_eq!((sent, lost), (0, 0));
    assert_eq!(received, seen, "sluiced and tcpdump");
    assert_eq!(summary.rx(), received + summary.dropped("not_capture_port"));
    assert_eq!(summary.total("lost before rx"), 0);
    assert_eq!(summary.total("replicas"), 3 * received);
    for (vni, _) in tools {
        let row = format!("tool{vni}");
        assert_eq!(summary.copies(&row), seen);
        let policy = [0, 2].map(|column| summary.get("policy", &format!("all-to-{row}"), column));
        assert_eq!(policy, [seen, seen], "matched and sent");
    }
    // The link carried the copies and our own few words, and nothing was lost on it.
    assert_eq!(summary.port("out0")[1], broker_link.tx_packets);
    assert_eq!(broker_link.tx_packets, tool_link.rx_packets);
    assert!(broker_link.tx_packets > summary.tx() && broker_link.tx_packets < summary.tx() + 100);
    assert_eq!(tool_link.rx_dropped, 0);
}

#[test]
fn two_workers_share_the_way_out() {
    let Some(mut lab) = Lab::new("two workers") else { return };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        sluice_tests::left_out("two workers need two CPUs");
        return;
    }
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    // Both ends of the bridge are tapped, each by a worker of its own.
    let second = "[[port]]\nname = \"tap1\"\nspec = \"af_packet:srv0\"\nrole = \"capture\"\n";
    let boot = BOOT.replacen("[[port]]\nname = \"out0\"", &format!("{second}\n[[port]]\nname = \"out0\""), 1)
        + "\n[worker]\nlcores = [0, 1]\n";
    tap.vxlan(7, TOOL[0]);
    let policy = everything_to("tool7", 7, &format!("remote = \"{}\"\nmarking = \"reference\"", TOOL[0]));
    let daemon = Daemon::start(&lab, &tap.broker, &boot, &policy);
    daemon.wait_resolved(1);
    let at_tap = Tcpdump::start(&lab, &tap.broker, "tap0");
    let at_tool = Tcpdump::start(&lab, &tap.tool, "in0");
    let tunnels = at_tool.file().to_owned();
    let (up, down) = (pattern(300_000, 1), pattern(300_000, 2));
    tap.tcp(SERVER[0], &up, &down);
    let seen = at_tap.stop().len() as u64;
    at_tool.stop();
    let summary = daemon.stop();
    assert_eq!(summary.rx() - summary.dropped("not_capture_port"), 2 * seen);
    assert_eq!(summary.port("tap0"), [seen, 0, 0]);
    assert_eq!(summary.port("tap1"), [seen, 0, 0]);
    assert_eq!(summary.copies("tool7"), 2 * seen);
    // Every sequence number once: the 24 bits behind the flags, as the reference marking has it.
    let copies = read(&tunnels).into_iter().filter(|f| f.data[12..14] == [8, 0] && f.data[23] == 17);
    let mut numbers: Vec<u32> =
        copies.map(|f| u32::from_be_bytes([0, f.data[43], f.data[44], f.data[45]])).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..u32::try_from(2 * seen).unwrap()), "{numbers:?}");
}
