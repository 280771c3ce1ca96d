//! Do the flows of a member whose link goes down move to the others, and come back with it?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::tap::{SERVER, Tap};
use sluice_tests::tcpdump::{Frame, Tcpdump};

const BOOT: &str = r#"
[[port]]
name = "tap0"
spec = "af_packet:tap0"
role = "capture"

[[port]]
name = "out0"
spec = "af_packet:out0"
role = "output"

[[port]]
name = "out1"
spec = "af_packet:out1"
role = "output"
"#;

const POLICY: &str = r#"
[[destination]]
name = "ids0"
type = "port"
port = "out0"

[[destination]]
name = "ids1"
type = "port"
port = "out1"

[[destination]]
name = "pool"
type = "group"
members = ["ids0", "ids1"]

[[policy]]
name = "udp"
protocol = "udp"
to = ["pool"]
"#;

/// Flows, one packet of each in a round.
const FLOWS: u16 = 64;
const FIRST_PORT: u16 = 20_000;

/// The UDP source ports of the test's flows among `frames`.
fn flows(frames: &[Frame]) -> BTreeSet<u16> {
    let udp = frames.iter().filter(|f| f.data[12..14] == [8, 0] && f.data[23] == 17);
    let ports = udp.map(|f| u16::from_be_bytes([f.data[34], f.data[35]]));
    ports.filter(|port| (FIRST_PORT..FIRST_PORT + FLOWS).contains(port)).collect()
}

/// Sends a packet of each flow, and says which flows came to each tool.
fn round(lab: &Lab, tap: &Tap, first_is_up: bool) -> [BTreeSet<u16>; 2] {
    let captures = ["in0", "in1"]
        .map(|device| (device == "in0" || first_is_up).then(|| Tcpdump::start(lab, &tap.tool, device)));
    let before = tap.server.counters("s0").rx_packets;
    let send = || {
        for port in FIRST_PORT..FIRST_PORT + FLOWS {
            UdpSocket::bind(("0.0.0.0", port)).unwrap().send_to(b"flow", (SERVER[0], 9)).unwrap();
        }
    };
    tap.client.inside(send).join().unwrap();
    wait_for("the packets to cross", Duration::from_secs(5), || {
        (tap.server.counters("s0").rx_packets >= before + u64::from(FLOWS)).then_some(())
    });
    captures.map(|capture| capture.map_or_else(BTreeSet::new, |capture| flows(&capture.stop())))
}

#[test]
fn flows_move_away_from_a_dead_link_and_come_back() {
    let Some(mut lab) = Lab::new("groups") else { return };
    let tap = Tap::new(&mut lab, 1500, 1500, false);
    tap.broker.veth("out1", &tap.tool, "in1", 1500);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
    let all: BTreeSet<u16> = (FIRST_PORT..FIRST_PORT + FLOWS).collect();

    let before = round(&lab, &tap, true);
    assert_eq!(&before[0] | &before[1], all);
    assert!(before[0].is_disjoint(&before[1]), "{before:?}");
    assert!(before.iter().all(|flows| flows.len() > 15), "{before:?}");

    tap.tool.ip("link set dev in1 down");
    daemon.wait_log("link down");
    std::thread::sleep(Duration::from_millis(300));
    let during = round(&lab, &tap, false);
    assert_eq!(during[0], all, "all flows go to the tool that is left");

    tap.tool.ip("link set dev in1 up");
    daemon.wait_log("link up");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(round(&lab, &tap, true), before, "each flow is back where it was");

    let summary = daemon.stop();
    let sent = summary.get("group", "pool", 0);
    assert_eq!(summary.copies("ids0") + summary.copies("ids1"), sent);
    assert_eq!(summary.tx(), sent);
    assert!(sent >= 3 * u64::from(FLOWS), "{sent}");
    assert_eq!(summary.dropped("port_down"), 0);
}
