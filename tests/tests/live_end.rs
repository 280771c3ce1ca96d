//! How does the daemon end: by signals, and when it cannot start?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use sluice_tests::daemon::{Daemon, unprivileged};
use sluice_tests::netns::Lab;
use sluice_tests::sluiced::binary;
use sluice_tests::tap::{TOOL, Tap};

const BOOT: &str = r#"
[[port]]
name = "tap0"
spec = "af_packet:tap0"
role = "capture"

[[port]]
name = "out0"
spec = "af_packet:out0"
role = "output"
addresses = ["192.0.2.1/24"]
"#;

const POLICY: &str = r#"
[[destination]]
name = "tool"
type = "vxlan"
remote = "192.0.2.10"

[[destination]]
name = "file"
type = "pcap"
file = "copies.pcap"

[[policy]]
name = "all"
tag = 7
to = ["tool", "file"]
"#;

/// Starts the daemon with a boot config that it must refuse; gives what it said.
fn refusal(lab: &Lab, command: Command, boot: &str, policy: &str) -> String {
    let mut daemon = Daemon::spawn(command, lab.dir(), boot, policy);
    let (status, text) = daemon.wait();
    assert_eq!(status.code(), Some(1), "{text}{}", daemon.log());
    assert_eq!(text, "");
    let log = daemon.log();
    eprintln!("{log}");
    assert!(!log.contains("panicked") && log.contains("error"), "{log}");
    log
}

#[test]
fn a_signal_lets_everything_received_go_out() {
    let Some(mut lab) = Lab::new("signals") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    let _sink = tap.sink();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let before = tap.tool.counters("vx7").rx_packets;
        let mut daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
        daemon.wait_resolved(1);
        tap.flood(5000, 300);
        // At once: most of them are on their way.
        daemon.signal(signal);
        let (status, text) = daemon.wait();
        assert!(status.success(), "{status}\n{text}");
        assert!(text.contains("rx 5000 + replicas 5000 = tx 10000"), "{text}");
        assert!(text.contains("balanced") && text.contains("mbufs not given back: 0"), "{text}");
        assert_eq!(tap.tool.counters("vx7").rx_packets - before, 5000);
        assert_eq!(sluice_tests::tcpdump::read(&lab.dir().join("copies.pcap")).len(), 5000);
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let Some(mut lab) = Lab::new("second signal") else { return };
    let broker = lab.namespace("broker");
    // A port that never runs dry takes its time to drain.
    let endless = "[[port]]\nname = \"null\"\nspec = \"net_null0\"\nrole = \"capture\"\n";
    let no_policy = "[[policy]]\nname = \"none\"\nprotocol = \"ospf\"\naction = \"drop\"\n";
    for (pause, code) in [(0, 0), (300, 130)] {
        let mut daemon = Daemon::start(&lab, &broker, endless, no_policy);
        daemon.signal(Signal::INT);
        // `timeout` signals a process and then its group: one wish, two signals.
        std::thread::sleep(Duration::from_millis(pause));
        daemon.signal(Signal::INT);
        let (status, text) = daemon.wait();
        assert_eq!((status.code(), status.signal()), (Some(code), None), "{}", daemon.log());
        assert_eq!(text.contains("balanced"), code == 0, "{text}");
    }
}

#[test]
fn a_daemon_that_shall_not_mind_its_terminal_does_not() {
    let Some(mut lab) = Lab::new("nohup") else { return };
    let broker = lab.namespace("broker");
    let boot = "[[port]]\nname = \"null\"\nspec = \"net_null0\"\nrole = \"capture\"\n";
    let policy = "[[policy]]\nname = \"none\"\nprotocol = \"ospf\"\naction = \"drop\"\n";
    let mut nohup = broker.command("nohup");
    nohup.arg(binary());
    let daemon = Daemon::spawn(nohup, lab.dir(), boot, policy);
    daemon.wait_log("running;");
    daemon.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!daemon.log().contains("stopping"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn what_cannot_start_says_why() {
    let Some(mut lab) = Lab::new("refusals") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let inside = || tap.broker.command(binary());
    let says = |log: &str, words: &[&str]| {
        for word in words {
            assert!(log.contains(word), "no {word:?} in:\n{log}");
        }
    };
    let nobody = || unprivileged(&lab, &tap.broker);
    says(
        &refusal(&lab, nobody(), BOOT, &POLICY.replace("copies.pcap", "/dev/null")),
        &["tap0", "CAP_NET_RAW"],
    );
    says(
        &refusal(&lab, nobody(), &BOOT.replace("af_packet:tap0", "net_af_packet0,iface=tap0"), POLICY),
        &["tap0", "net_af_packet0"],
    );

    says(
        &refusal(&lab, inside(), &BOOT.replace("af_packet:tap0", "af_packet:nosuch0"), POLICY),
        &["\"tap0\"", "nosuch0"],
    );
    says(
        &refusal(&lab, inside(), &BOOT.replace("af_packet:tap0", "pcap:/no/such.pcap"), POLICY),
        &["/no/such.pcap"],
    );
    says(&refusal(&lab, inside(), &BOOT.replace("af_packet:tap0", "net_nosuch0"), POLICY), &["net_nosuch0"]);
    says(
        &refusal(&lab, inside(), &BOOT.replace("af_packet:tap0", "0000:7f:1f.7"), POLICY),
        &["0000:7f:1f.7", "vfio-pci"],
    );
    says(
        &refusal(&lab, inside(), &BOOT.replace("192.0.2.1/24", "2001:db8::1/64"), POLICY),
        &["tool", "192.0.2.10"],
    );
    says(
        &refusal(&lab, inside(), BOOT, &POLICY.replace("copies.pcap", "no/such/folder/x.pcap")),
        &["no/such/folder/x.pcap"],
    );
    says(&refusal(&lab, inside(), BOOT, &POLICY.replace("vxlan", "vxlam")), &["policy.toml:4", "vxlam"]);
    says(&refusal(&lab, inside(), &BOOT.replace("tap0\"", "tap 0\""), POLICY), &["boot.toml:"]);
    let too_large = format!("{BOOT}\n[memory]\nmbufs = 100000000\n");
    says(&refusal(&lab, inside(), &too_large, POLICY), &["memory"]);
    let hugepages = format!("{BOOT}\n[eal]\nhugepages = \"require\"\n[memory]\nmbufs = 4000000\n");
    says(&refusal(&lab, inside(), &hugepages, POLICY), &["vm.nr_hugepages"]);
}
