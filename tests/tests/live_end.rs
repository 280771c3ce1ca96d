//! How does the daemon end: by signals, and when it cannot start?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sluice_tests::daemon::{Daemon, unprivileged};
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::sluiced::binary;
use sluice_tests::tap::{TOOL, Tap};

const BOOT: &str = sluice_tests::tap::PORTS;

const PATIENCE: Duration = Duration::from_secs(20);

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
    for signal in [Signal::INT, Signal::TERM] {
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

/// Starts what follows with SIGHUP as usual, whatever this test itself was started by.
const MINDS: &str = "env --default-signal=HUP";

/// Starts the daemon in a terminal of its own, which then goes away; gives its log, and its report.
fn without_its_terminal(command: &str) -> (String, String) {
    let Some(mut lab) = Lab::new("terminal") else { return Default::default() };
    let broker = lab.namespace("broker");
    let at = |name: &str| lab.dir().join(name);
    let boot = "policy = \"policy.toml\"\n[api]\nenabled = false\n[eal]\nhugepages = \"never\"\n[memory]\nmbufs = 8191\n\
                [[port]]\nname = \"null\"\nspec = \"net_null0\"\nrole = \"capture\"\n";
    std::fs::write(at("boot.toml"), boot).unwrap();
    std::fs::write(
        at("policy.toml"),
        "[[policy]]\nname = \"none\"\nprotocol = \"ospf\"\naction = \"drop\"\n",
    )
    .unwrap();
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap_or_default();
    let line = format!(
        "{command} {} run --config {} < /dev/null > {} 2> {} & echo $! > {}; wait",
        binary().display(),
        at("boot.toml").display(),
        at("report").display(),
        at("log").display(),
        at("pid").display()
    );
    // What the tests were started by may ignore signals, as nohup does, and everything below it would, too: a shell that
    // leads its session and ignores the loss of its terminal takes nobody with it.
    let mut terminal = broker.command("env");
    terminal
        .args(["--default-signal=HUP,INT,QUIT", "script", "-qec", &line, "/dev/null"])
        .current_dir(lab.dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut terminal = terminal.spawn().unwrap();
    wait_for("the start", PATIENCE, || read("log").contains("running;").then_some(()));
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    let pid = Pid::from_raw(read("pid").trim().parse().unwrap()).unwrap();
    // Nobody may be there to fetch the status of a process whose parent is gone.
    let runs = || {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    };
    let ended = |patience: Duration| {
        let begin = Instant::now();
        while runs() && begin.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        !runs()
    };
    if !ended(if command == MINDS { PATIENCE } else { Duration::from_secs(2) }) {
        assert!(command != MINDS, "it goes on without its terminal: {}", read("log"));
        kill_process(pid, Signal::INT).unwrap();
        assert!(ended(PATIENCE));
    }
    (read("log"), read("report"))
}

#[test]
fn a_terminal_that_goes_away_ends_the_run_in_order() {
    let (log, report) = without_its_terminal(MINDS);
    assert!(log.is_empty() || log.contains("stopping"), "{log}");
    assert!(log.is_empty() || report.contains(": balanced"), "{report}");
}

#[test]
fn a_daemon_that_shall_not_mind_its_terminal_does_not() {
    let (log, report) = without_its_terminal("nohup");
    assert!(log.is_empty() || report.contains(": balanced"), "{report}\n{log}");
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
    // What was in force before fits no more: that is said with the way out.
    let stored = format!("{BOOT}\n[api]\nsocket = \"api.sock\"\n[store]\nfolder = \"kept\"\n");
    Daemon::start(&lab, &tap.broker, &stored, POLICY).stop();
    let moved = stored.replace("192.0.2.1/24", "192.0.2.10/24");
    let none = "[[destination]]\nname = \"file\"\ntype = \"pcap\"\nfile = \"copies.pcap\"\n";
    says(&refusal(&lab, inside(), &moved, none), &["\"tool\"", "generation 1 in", "or move", "kept away"]);
    std::fs::rename(lab.dir().join("kept"), lab.dir().join("away")).unwrap();
    Daemon::start(&lab, &tap.broker, &moved, none).stop();
}
