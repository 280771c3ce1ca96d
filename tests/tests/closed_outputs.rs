//! What becomes of `sluiced` when nobody reads what it prints, or there is no room for it?
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sluice_tests::netns::wait_for;
use sluice_tests::sluiced::binary;
use sluice_tests::{pcap_file, traffic};

const POLICY: &str = r#"
[[destination]]
name = "all"
type = "pcap"
file = "all.pcap"
[[policy]]
name = "everything"
to = ["all"]
"#;

/// A policy file and a capture in `dir`.
fn prepare(dir: &Path) -> (PathBuf, PathBuf) {
    let (policy, capture) = (dir.join("policy.toml"), dir.join("in.pcap"));
    fs::write(&policy, POLICY).unwrap();
    let mut file = pcap_file::Builder::new(1);
    for (timestamp_ns, frame) in traffic::sample() {
        let wire_len = u32::try_from(frame.len()).unwrap();
        file.push(pcap_file::Record { timestamp_ns, wire_len, data: &frame });
    }
    file.save(&capture);
    (policy, capture)
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[test]
fn reports_that_do_not_arrive_are_errors_and_readers_that_leave_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, capture) = prepare(dir.path());
    let check = |command: &mut Command| {
        command.arg("check").arg("--policy").arg(&policy);
    };
    let replay = |command: &mut Command| {
        command.arg("replay").arg("--policy").arg(&policy);
        command.arg("--in").arg(&capture).arg("--out").arg(dir.path().join("out"));
    };
    for arguments in [&check as &dyn Fn(&mut Command), &replay] {
        let mut command = Command::new(binary());
        arguments(&mut command);
        let output = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("error: cannot write to stdout") && said.contains("No space left"), "{said}");

        let mut command = Command::new(binary());
        arguments(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{command:?}");
    }
}

#[test]
fn a_daemon_outlives_the_readers_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let boot = dir.path().join("boot.toml");
    let text = "policy = \"policy.toml\"\nstats_interval = 1\n[api]\nenabled = false\n[eal]\nhugepages = \"never\"\n[memory]\nmbufs = 8191\n\
                [[port]]\nname = \"tap\"\nspec = \"pcap:in.pcap\"\nrole = \"capture\"\n";
    fs::write(&boot, text).unwrap();
    for stderr in [Stdio::piped(), full().into()] {
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(&boot).current_dir(dir.path()).env_remove("RUST_LOG");
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        drop(child.stderr.take());
        // It starts, and logs statistics twice.
        std::thread::sleep(Duration::from_secs(4));
        assert!(child.try_wait().unwrap().is_none(), "it runs on");
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let ended = wait_for("the end", Duration::from_secs(20), || child.try_wait().unwrap());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut said).unwrap();
        assert_eq!(ended.code(), Some(0), "{said}");
        assert!(said.contains(": balanced"), "{said}");
        let port = said.lines().find(|line| line.trim_start().starts_with("tap (down)")).unwrap();
        let received = port.split_whitespace().nth(2).unwrap();
        assert_eq!(received, traffic::sample().len().to_string(), "frames of the file: {said}");
    }
}
