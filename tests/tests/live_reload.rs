//! Do other policies take over in a running daemon without a lost or misdirected packet, and do wrong ones change nothing?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::tap::{TOOL, Tap};
use sluice_tests::tcpdump::{Tcpdump, tshark};

const BOOT: &str = concat!(
    sluice_tests::tap_ports!(),
    r#"
[flow]
"#
);

/// Changes of policies while traffic flows.
const ROUNDS: u32 = 20;
/// Packets of one flow.
const PACKETS: u32 = 1_000;

/// Everything to the tool, with this tag and a sequence number.
fn policy(tag: u32, more: &str) -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nmarking = \"reference\"\nremote = \"{}\"\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\ntag = {tag}\nto = [\"tool\"]\n{more}",
        TOOL[0]
    )
}

/// The tags and sequence numbers of the copies that arrived.
fn arrived(dump: Tcpdump) -> BTreeMap<u32, Vec<u32>> {
    let file = dump.file().to_owned();
    dump.stop();
    let mut tags: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    // Nobody listens at the tool, which its kernel says now and then. Flags and sequence number are the first four bytes behind UDP, then the tag and the direction.
    for line in tshark(&file, "udp.dstport == 4789 && !icmp", &["udp.payload"], &["udp.port==4789,data"]) {
        let word = |at: usize| u32::from_str_radix(&line[at..at + 6], 16).unwrap();
        assert_eq!(&line[..2], "ff");
        tags.entry(word(8)).or_default().push(word(2));
    }
    tags
}

#[test]
fn policies_change_while_traffic_flows() {
    let Some(mut lab) = Lab::new("reload") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy(100, ""));
    daemon.wait_resolved(1);
    let dump = Tcpdump::start(&lab, &tap.tool, "in0");
    let apply = |text: &str, said: &str, times: usize| {
        std::fs::write(lab.dir().join("policy.toml"), text).unwrap();
        daemon.signal(Signal::HUP);
        daemon.wait_log_times(said, times);
    };

    let done = AtomicBool::new(false);
    let flooded = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut packets = 0;
            while !done.load(Ordering::Relaxed) {
                tap.flood(PACKETS, 100);
                packets += u64::from(PACKETS);
            }
            packets
        });
        for round in 1..=ROUNDS {
            apply(&policy(100 + round % 2, ""), "policies in force", round as usize);
        }
        done.store(true, Ordering::Relaxed);
        flood.join().unwrap()
    });
    apply(&policy(300, ""), "policies in force", ROUNDS as usize + 1);
    tap.flood(PACKETS, 100);

    // What is wrong changes nothing, and says so.
    apply(&policy(400, "[[policy]]\nname = \"x\"\nto = [\"nobody\"]\n"), "the policy file has errors", 1);
    assert!(daemon.log().contains("nobody"), "{}", daemon.log());
    apply("not toml [", "the policy file has errors", 2);
    let elsewhere = "[[destination]]\nname = \"f\"\ntype = \"pcap\"\nfile = \"/no/such/folder/f.pcap\"\n\
                     [[policy]]\nname = \"f\"\nto = [\"f\"]\n";
    apply(elsewhere, "cannot write the capture file", 1);
    tap.flood(1_000, 100);

    let total = flooded + u64::from(PACKETS) + 1_000;
    wait_for("all copies", Duration::from_secs(10), || {
        (tap.tool.counters("in0").rx_packets >= total).then_some(())
    });
    let tags = arrived(dump);
    let summary = daemon.stop();
    assert_eq!(tags.keys().copied().collect::<Vec<_>>(), [100, 101, 300], "{:?}", tags.keys());
    let mut sum = 0;
    for (tag, mut numbers) in tags {
        // A stream goes on where it was, however often its policy left and came back: unless it was gone for a generation.
        sum += numbers.len() as u64;
        if tag == 300 {
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(0..PACKETS + 1_000), "no number is missing");
        }
    }
    assert_eq!(sum, total);
    assert_eq!(summary.copies("tool"), total, "it kept its name, and so its count");
    assert_eq!(summary.total("lost before rx"), 0);
}

/// Back to what was in force before: what was recorded is still there.
#[test]
fn a_capture_file_that_comes_back_goes_on() {
    let Some(mut lab) = Lab::new("reload-file") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let policy = |file: &str| {
        format!(
            "[[destination]]\nname = \"file\"\ntype = \"pcap\"\nfile = \"{file}\"\n\
             [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\nto = [\"file\"]\n"
        )
    };
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy("first.pcap"));
    let send = |packets: u32, copies: u32| {
        tap.flood(packets, 100);
        let lines = |file: &str| {
            let path = lab.dir().join(file);
            if path.exists() { tshark(&path, "udp", &["frame.len"], &[]).len() } else { 0 }
        };
        let all = || (lines("first.pcap") + lines("second.pcap") >= copies as usize).then_some(());
        wait_for("the copies", Duration::from_secs(5), all);
    };
    send(10, 10);
    for (times, (file, packets, copies)) in
        [("second.pcap", 20, 30), ("first.pcap", 5, 35)].into_iter().enumerate()
    {
        std::fs::write(lab.dir().join("policy.toml"), policy(file)).unwrap();
        daemon.signal(Signal::HUP);
        daemon.wait_log_times("policies in force", times + 1);
        send(packets, copies);
    }
    let summary = daemon.stop();
    assert_eq!(summary.drops(), 0, "{}", summary.text);
    for (file, packets) in [("first.pcap", 15), ("second.pcap", 20)] {
        assert_eq!(tshark(&lab.dir().join(file), "udp", &["frame.len"], &[]).len(), packets, "{file}");
    }
}
