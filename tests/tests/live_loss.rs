//! Does every packet that is lost show up under the right name, while the account stays in balance?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::time::Duration;

use rustix::process::Signal;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::tap::{TOOL, Tap};

const TAP: &str = r#"
[[port]]
name = "tap0"
spec = "af_packet:tap0"
role = "capture"
"#;

const OUT: &str = r#"
[[port]]
name = "out0"
spec = "af_packet:out0"
role = "output"
addresses = ["192.0.2.1/24"]
"#;

const EVERYTHING: &str = r#"
[[destination]]
name = "tool"
type = "vxlan"
remote = "192.0.2.10"

[[policy]]
name = "all"
tag = 7
to = ["tool"]
"#;

#[test]
fn what_the_kernel_drops_is_lost_before_rx() {
    let Some(mut lab) = Lab::new("kernel drops") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, &[TAP, OUT].concat(), EVERYTHING);
    daemon.wait_resolved(1);
    let before = tap.broker.counters("tap0");
    tap.flood(1000, 1000);
    daemon.signal(Signal::STOP);
    wait_for("the daemon to stop", Duration::from_secs(5), || (daemon.state() == 'T').then_some(()));
    // More than the ring holds (32 MiB).
    tap.flood(40_000, 1400);
    daemon.signal(Signal::CONT);
    tap.flood(1000, 1000);
    let link = tap.broker.counters("tap0") - before;
    let seen = link.rx_packets + link.tx_packets;
    assert!(seen >= 42_000);

    let summary = daemon.stop();
    let [received, _, lost] = summary.port("tap0");
    assert!(lost > 5_000, "the ring holds less than that: {lost}");
    assert_eq!(received + lost, seen, "what came is received or lost");
    assert_eq!(summary.total("lost before rx"), lost);
    assert_eq!(summary.copies("tool") + summary.dropped("tx_full"), received, "{}", summary.text);
}

#[test]
fn copies_wait_for_no_tool() {
    let Some(mut lab) = Lab::new("unresolved") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    tap.tool.ip("addr del 192.0.2.10/24 dev in0");
    let daemon = Daemon::start(&lab, &tap.broker, &[TAP, OUT].concat(), EVERYTHING);
    tap.flood(100, 500);
    std::thread::sleep(Duration::from_millis(200));
    // The tool appears.
    tap.vxlan(7, "192.0.2.10");
    tap.tool.address("in0", &["192.0.2.10/24"]);
    daemon.wait_resolved(1);
    tap.flood(50, 500);
    wait_for("the copies", Duration::from_secs(5), || {
        (tap.tool.counters("vx7").rx_packets >= 50).then_some(())
    });
    assert_eq!(tap.tool.counters("vx7").rx_packets, 50);

    let summary = daemon.stop();
    let early = summary.dropped("next_hop_unresolved");
    assert_eq!(early, 100);
    assert_eq!(summary.copies("tool"), 50);
    assert_eq!(summary.rx(), early + 50 + summary.dropped("not_capture_port"));
}

#[test]
fn own_copies_are_not_copied_again() {
    let Some(mut lab) = Lab::new("loop guard") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    let _sink = tap.sink();
    // A second tap sits on the way to the tool: everything that leaves by out0 comes back through it.
    let mirror = r#"
[[port]]
name = "mirror0"
spec = "af_packet:mirror0"
role = "both"
"#;
    tap.broker.veth("mirror0", &tap.tool, "span0", 1600);
    tap.tool.run("tc qdisc add dev in0 clsact");
    tap.tool.run(
        "tc filter add dev in0 ingress protocol ip prio 1 u32 match ip protocol 17 0xff action mirred egress mirror dev span0",
    );
    let daemon = Daemon::start(&lab, &tap.broker, &[TAP, OUT, mirror].concat(), EVERYTHING);
    daemon.wait_resolved(1);
    tap.flood(200, 500);
    wait_for("the mirrored copies", Duration::from_secs(5), || {
        (tap.broker.counters("mirror0").rx_packets >= 200).then_some(())
    });
    let summary = daemon.stop();
    assert_eq!(summary.dropped("loop_guard"), 200);
    assert_eq!(summary.copies("tool"), 200);
    assert_eq!(tap.tool.counters("vx7").rx_packets, 200);
}
