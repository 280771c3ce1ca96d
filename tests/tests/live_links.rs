//! What happens when a link goes down, or an interface is deleted and made again, under a running daemon?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::time::Duration;

use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::tap::{SERVER, TOOL, Tap};

const BOOT: &str = concat!(
    sluice_tests::tap_ports!(),
    r#"
[[port]]
name = "out1"
spec = "af_packet:out1"
role = "output"
"#
);

const POLICY: &str = r#"
[[destination]]
name = "tool"
type = "vxlan"
remote = "192.0.2.10"

[[destination]]
name = "wire"
type = "port"
port = "out1"

[[policy]]
name = "all"
tag = 7
to = ["tool", "wire"]
"#;

fn wait_received(namespace: &Namespace, device: &str, packets: u64) {
    let enough = || (namespace.counters(device).rx_packets >= packets).then_some(());
    wait_for(&format!("{packets} packets on {device}"), Duration::from_secs(5), enough);
    assert_eq!(namespace.counters(device).rx_packets, packets);
}

#[test]
fn an_output_that_goes_away_is_told_counted_and_taken_back() {
    let Some(mut lab) = Lab::new("output link") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    tap.broker.veth("out1", &tap.tool, "in1", 1500);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
    daemon.wait_resolved(1);
    tap.flood(100, 300);
    wait_received(&tap.tool, "vx7", 100);
    wait_received(&tap.tool, "in1", 100);

    // Down: copies to it are dropped under that name, the other output goes on.
    tap.tool.ip("link set dev in1 down");
    daemon.wait_log("link down");
    std::thread::sleep(Duration::from_millis(300));
    tap.flood(30, 300);
    wait_received(&tap.tool, "vx7", 130);
    tap.tool.ip("link set dev in1 up");
    daemon.wait_log("link up");
    std::thread::sleep(Duration::from_millis(300));
    tap.flood(20, 300);
    wait_received(&tap.tool, "in1", 120);
    wait_received(&tap.tool, "vx7", 150);

    // Deleted and made again, under the same name: another interface to the kernel, the same port to us.
    tap.tool.ip("link del dev in1");
    daemon.wait_log_times("link down", 2);
    std::thread::sleep(Duration::from_millis(300));
    tap.flood(40, 300);
    wait_received(&tap.tool, "vx7", 190);
    tap.broker.veth("out1", &tap.tool, "in1", 1500);
    daemon.wait_log("the interface is back");
    daemon.wait_log_times("link up", 2);
    std::thread::sleep(Duration::from_millis(300));
    tap.flood(10, 300);
    wait_received(&tap.tool, "in1", 10);
    wait_received(&tap.tool, "vx7", 200);

    let summary = daemon.stop();
    assert_eq!(summary.port("tap0"), [200, 0, 0]);
    assert_eq!(summary.copies("tool"), 200);
    assert_eq!(summary.copies("wire"), 130);
    assert_eq!(summary.port("out1"), [0, 130, 0], "both lives of the interface");
    assert_eq!(summary.dropped("port_down"), 70);
    assert_eq!(summary.drops(), 70 + summary.dropped("not_capture_port"));
}

/// Whether somebody asked the kernel for frames to all addresses. (A veth has them all, other interfaces have not.)
fn promiscuous(namespace: &Namespace, device: &str) -> bool {
    let text = namespace.run(&format!("ip -d link show dev {device}"));
    let count = text.split_once("promiscuity ").unwrap().1.split_whitespace().next().unwrap();
    count.parse::<u32>().unwrap() > 0
}

#[test]
fn an_ethernet_address_of_our_own_is_listened_for() {
    let Some(mut lab) = Lab::new("own address") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    tap.broker.veth("out1", &tap.tool, "in1", 1500);
    let _sink = tap.sink();
    let own = tap.broker.mac("out0");
    for (mac, needed) in [(own.as_str(), false), ("02:00:00:00:00:77", true)] {
        let before = tap.tool.counters("vx7").rx_packets;
        let line = format!("addresses = [\"192.0.2.1/24\"]\nmac = \"{mac}\"");
        let boot = BOOT.replace("addresses = [\"192.0.2.1/24\"]", &line);
        let daemon = Daemon::start(&lab, &tap.broker, &boot, POLICY);
        daemon.wait_resolved(1);
        assert_eq!(promiscuous(&tap.broker, "out0"), needed, "{mac}");
        tap.flood(10, 300);
        wait_received(&tap.tool, "vx7", before + 10);
        daemon.stop();
    }
}

#[test]
fn a_tool_that_was_replaced_gets_its_copies_at_once() {
    let Some(mut lab) = Lab::new("replaced tool") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    tap.broker.veth("out1", &tap.tool, "in1", 1500);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
    daemon.wait_resolved(1);
    tap.flood(100, 300);
    wait_received(&tap.tool, "vx7", 100);

    // The same link, another station behind it; what it was is believed for half a minute otherwise.
    tap.tool.ip("link set dev in0 down");
    daemon.wait_log("link down");
    tap.tool.ip("link set dev in0 address 02:00:00:00:00:99");
    tap.tool.ip("link set dev in0 up");
    daemon.wait_log("mac=02:00:00:00:00:99");
    std::thread::sleep(Duration::from_millis(200));
    tap.flood(50, 300);
    wait_received(&tap.tool, "vx7", 150);

    // Another interface, at both ends.
    tap.broker.ip("link del dev out0");
    tap.broker.veth("out0", &tap.tool, "in0", 1600);
    tap.tool.address("in0", &["192.0.2.10/24"]);
    let mac = tap.tool.mac("in0");
    // Its address at our end is another, too, while answers come to the one that we use.
    daemon.wait_log("the interface is back");
    assert!(promiscuous(&tap.broker, "out0"));
    daemon.wait_log(&format!("mac={mac}"));
    std::thread::sleep(Duration::from_millis(200));
    tap.flood(50, 300);
    wait_received(&tap.tool, "vx7", 200);
    daemon.stop();
}

#[test]
fn a_tap_that_comes_back_is_captured_again() {
    let Some(mut lab) = Lab::new("capture link") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    tap.broker.veth("out1", &tap.tool, "in1", 1500);
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
    daemon.wait_resolved(1);
    let _sink = tap.sink();
    tap.flood(100, 300);
    wait_received(&tap.tool, "vx7", 100);

    tap.broker.ip("link del dev tap0");
    daemon.wait_log("link down");
    tap.client.veth("c0", &tap.broker, "tap0", 1500);
    tap.broker.ip("link set dev tap0 master br0");
    tap.client.address("c0", &["10.1.0.1/24"]);
    tap.client.ip(format!("neigh add {} lladdr {} dev c0 nud permanent", SERVER[0], tap.server.mac("s0")));
    daemon.wait_log("the interface is back");
    std::thread::sleep(Duration::from_millis(300));
    let before = tap.tool.counters("vx7").rx_packets;
    tap.flood(50, 300);
    wait_received(&tap.tool, "vx7", before + 50);

    let summary = daemon.stop();
    assert_eq!(summary.copies("tool"), before + 50);
    assert_eq!(summary.total("lost before rx"), 0);
}

#[test]
fn the_last_frames_of_a_tap_that_vanishes_are_received() {
    let Some(mut lab) = Lab::new("vanishing tap") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    tap.broker.veth("out1", &tap.tool, "in1", 1500);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
    daemon.wait_resolved(1);
    tap.flood(3000, 300);
    tap.broker.ip("link del dev tap0");
    daemon.wait_log("link down");
    let summary = daemon.stop();
    let [received, _, lost] = summary.port("tap0");
    assert_eq!(received + lost, 3000);
    assert_eq!(summary.copies("tool") + summary.drops() - summary.dropped("not_capture_port"), received);
}
