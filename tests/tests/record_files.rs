//! What becomes of the files of records when the disk is full, nobody reads, the run does not start, or is killed?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sluice_tests::daemon::{Daemon, binary};
use sluice_tests::netns::{Lab, run, wait_for};
use sluice_tests::traffic::{self, End};
use sluice_tests::{pcap_file, sluiced};

const POLICY: &str = "[[destination]]\nname = \"copies\"\ntype = \"pcap\"\nfile = \"copies.pcap\"\n\
                      [[policy]]\nname = \"all\"\nto = [\"copies\"]\n";
/// Flows in a capture: more of their records than the small disk holds, fewer than a ring takes.
const FLOWS: u16 = 10_000;

/// A capture of so many flows, one packet each, within a second.
fn capture(path: &Path) {
    let mut file = pcap_file::Builder::new(1);
    let server = End::new(Ipv4Addr::new(10, 0, 0, 2).into(), 53);
    for flow in 0..FLOWS {
        let frame = traffic::udp(
            &End::new(Ipv4Addr::new(10, 0, 0, 1).into(), 1024 + flow),
            &server,
            &[],
            b"what is the name?",
        );
        let wire_len = u32::try_from(frame.len()).unwrap();
        let timestamp_ns = 1_700_000_000_000_000_000 + u64::from(flow) * 10_000;
        file.push(pcap_file::Record { timestamp_ns, wire_len, data: &frame });
    }
    file.save(path);
}

/// The lines of a file of records, which must all be whole but for `broken` of them.
fn records(path: &Path, broken: usize) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    assert!(broken > 0 || text.is_empty() || text.ends_with("}\n"), "{}", path.display());
    let whole = |line: &&str| serde_json::from_str::<Value>(line).is_ok();
    let count = text.lines().filter(whole).count();
    assert!(text.lines().count() - count <= broken, "{}", path.display());
    count as u64
}

fn boot(flows: &str, metrics: &str) -> String {
    format!(
        "[flow]\njsonl = \"{flows}\"\nmetrics_jsonl = \"{metrics}\"\nflows = 16384\ntimeouts = {{ opening = 1, \
         established = 1, closing = 1, reset = 1, one_way = 1, other = 1 }}\n\
         [[port]]\nname = \"in\"\nspec = \"pcap:in.pcap\"\nrole = \"capture\"\n"
    )
}

/// The counts of flow metering that a summary shows.
fn count(text: &str, name: &str) -> u64 {
    let row = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
    row.trim().parse().unwrap()
}

#[test]
fn records_beyond_a_full_disk_are_counted_and_those_before_are_whole() {
    let Some(mut lab) = Lab::new("full disk of records") else { return };
    let dir = lab.dir().to_owned();
    let disk = lab.small_disk(256);
    capture(&dir.join("in.pcap"));

    // A replay: what does not fit is lost and said, for both files; the packets all go on.
    let files = [disk.join("flows.jsonl"), "/dev/full".into()];
    let [flows, metrics] = files.each_ref().map(|file| file.to_str().unwrap());
    let arguments = ["--json", "--flows", flows, "--metrics", metrics];
    let replayed = sluiced::run(&dir, POLICY, &[dir.join("in.pcap")], &arguments);
    assert_eq!(replayed.code, Some(1), "{}", replayed.stderr);
    let report = replayed.report_whatever_the_code();
    assert_eq!(report.destination("copies").0, u64::from(FLOWS));
    let there = records(&files[0], 0);
    assert!(there > 0);
    assert_eq!(report.0["flow"]["records_unwritten"], u64::from(FLOWS) - there);
    assert_eq!(report.0["flow"]["metrics_unwritten"], report.0["flow"]["metrics"]);
    for (file, lost) in [(flows, u64::from(FLOWS) - there), (metrics, report.number_in_flow("metrics"))] {
        let told = format!("sluiced: error: {file}: cannot write: {lost} records are lost");
        assert!(replayed.stderr.contains(&told), "{}", replayed.stderr);
    }

    // A run, which finds the disk full already: both files are told once, whichever fails first.
    let mut daemon = Daemon::spawn(Command::new(binary()), &dir, &boot(flows, metrics), POLICY);
    daemon.wait_log_times("cannot write records any more", 2);
    daemon.signal(Signal::INT);
    let (status, text) = daemon.wait();
    assert_eq!(status.code(), Some(1), "{text}");
    for file in [flows, metrics] {
        let told = |line: &&str| line.contains("cannot write records") && line.contains(file);
        assert_eq!(daemon.log().lines().filter(told).count(), 1, "{}", daemon.log());
        assert!(daemon.log().contains(&format!("error: {file}: cannot write: ")), "{}", daemon.log());
    }
    assert!(text.contains(": balanced"), "{text}");
    assert_eq!(
        count(&text, "records unwritten"),
        count(&text, "records  ") - (records(&files[0], 0) - there)
    );
    assert_eq!(count(&text, "metrics unwritten"), count(&text, "metrics  "));
}

#[test]
fn a_replay_that_does_not_start_leaves_earlier_records_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flows.jsonl");
    let arguments = ["--json", "--flows", file.to_str().unwrap()];
    fs::write(&file, "{\"of\":\"yesterday\"}\n").unwrap();
    let missing = folder.path().join("missing.pcap");
    assert_eq!(sluiced::run(folder.path(), POLICY, &[missing], &arguments).code, Some(1));
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"of\":\"yesterday\"}\n");
    let input = folder.path().join("in.pcap");
    capture(&input);
    assert_eq!(sluiced::run(folder.path(), POLICY, &[input], &arguments).code, Some(0));
    assert_eq!(records(&file, 0), u64::from(FLOWS));
}

#[test]
fn a_pipe_that_nobody_reads_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    capture(&dir.join("in.pcap"));
    run(&format!("mkfifo {}/pipe", dir.display()));
    let pipe_for_copies = POLICY.replace("copies.pcap", "pipe");
    for (boot, policy) in [(boot("pipe", "m.jsonl"), POLICY), (boot("f.jsonl", "m.jsonl"), &pipe_for_copies)]
    {
        let mut daemon = Daemon::spawn(Command::new(binary()), dir, &boot, policy);
        let (status, _) = daemon.wait();
        assert_eq!(status.code(), Some(1));
        assert!(daemon.log().contains("pipe; start its reader first"), "{}", daemon.log());
    }
    // With a reader, it is a file like any other.
    let mut reader = Command::new("wc").arg("-l").arg(dir.join("pipe")).spawn().unwrap();
    let daemon = Daemon::spawn(Command::new(binary()), dir, &boot("pipe", "m.jsonl"), POLICY);
    daemon.wait_log("running;");
    drop(daemon.stop());
    assert!(reader.wait().unwrap().success());
}

#[test]
fn a_run_that_is_killed_leaves_whole_lines_and_the_next_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    capture(&dir.join("in.pcap"));
    let file = dir.join("flows.jsonl");
    let boot = boot("flows.jsonl", "metrics.jsonl");
    let mut before = 0;
    for run in 0..3 {
        let mut daemon = Daemon::spawn(Command::new(binary()), dir, &boot, POLICY);
        // Not merely bytes: the first may be the end of the line that the last kill cut.
        let more = || file.exists() && records(&file, run + 1) > before;
        wait_for("records", Duration::from_secs(20), || more().then_some(()));
        daemon.signal(Signal::KILL);
        daemon.wait();
        // Each kill may cut one line.
        let after = records(&file, run + 1);
        assert!(after > before);
        before = after;
    }
    // As if the last one had been cut: the next run ends it before it goes on.
    let cut = fs::read_to_string(&file).unwrap();
    fs::write(&file, &cut[..cut.rfind("}\n").unwrap() - 10]).unwrap();
    let daemon = Daemon::spawn(Command::new(binary()), dir, &boot, POLICY);
    daemon.wait_log("running;");
    wait_for("records", Duration::from_secs(20), || {
        (file.metadata().unwrap().len() > cut.len() as u64).then_some(())
    });
    let summary = daemon.stop();
    let new = summary.get("flow metering", "records", 0);
    assert_eq!(records(&file, 4), before - 1 + new, "{}", summary.text);
}
