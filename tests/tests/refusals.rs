//! What would do harm is refused before it starts: outputs that are inputs, and tables that no machine has room for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::fs;
use std::path::Path;

use sluice_tests::sluiced::{Replayed, plain};
use sluice_tests::{pcap_file, traffic};

const POLICY: &str = "[[destination]]\nname = \"a\"\ntype = \"pcap\"\nfile = \"A\"\n\
                      [[destination]]\nname = \"b\"\ntype = \"pcap\"\nfile = \"B\"\n\
                      [[policy]]\nname = \"all\"\nto = [\"a\", \"b\"]\n";

fn capture(path: &Path) {
    let mut file = pcap_file::Builder::new(1);
    for (timestamp_ns, frame) in traffic::sample() {
        let wire_len = u32::try_from(frame.len()).unwrap();
        file.push(pcap_file::Record { timestamp_ns, wire_len, data: &frame });
    }
    file.save(path);
}

/// `check` and `run` must refuse such files, in the same words, and leave everything as it is.
fn refused(dir: &Path, files: [&str; 2], flow: &str, expected: &str) {
    let at = |name: &str| dir.join(name).display().to_string();
    let policy = POLICY.replace("\"A\"", &format!("{:?}", at(files[0])));
    fs::write(dir.join("policy.toml"), policy.replace("\"B\"", &format!("{:?}", at(files[1])))).unwrap();
    let boot = format!(
        "policy = \"policy.toml\"\n{flow}\n[api]\nenabled = false\n[eal]\nhugepages = \"never\"\n\
         [[port]]\nname = \"tap\"\nspec = \"pcap:{}\"\nrole = \"capture\"\n",
        at("in.pcap")
    );
    fs::write(dir.join("boot.toml"), boot).unwrap();
    let before: Vec<_> =
        ["policy.toml", "boot.toml", "in.pcap"].map(|name| fs::read(at(name)).unwrap()).into();
    for command in ["check", "run"] {
        let Replayed { code, stderr, .. } = plain(&[command, "--config", &at("boot.toml")]);
        assert_eq!(code, Some(1), "{command}: {stderr}");
        let wanted = format!("error: {expected}, too, and would be overwritten; choose another file");
        assert!(stderr.contains(&wanted.replace("DIR", &dir.display().to_string())), "{command}: {stderr}");
    }
    let after: Vec<_> =
        ["policy.toml", "boot.toml", "in.pcap"].map(|name| fs::read(at(name)).unwrap()).into();
    assert_eq!(before, after);
}

#[test]
fn no_output_is_another_file_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    capture(&dir.join("in.pcap"));
    fs::hard_link(dir.join("in.pcap"), dir.join("hard.pcap")).unwrap();
    std::os::unix::fs::symlink("in.pcap", dir.join("soft.pcap")).unwrap();
    let tap = "is the capture of port \"tap\"";
    for name in ["in.pcap", "hard.pcap", "soft.pcap", "../x/in.pcap"] {
        let name = &name.replace("../x", &format!("../{}", dir.file_name().unwrap().display()));
        refused(dir, [name, "b.pcap"], "", &format!("the file of destination \"a\": DIR/{name} {tap}"));
    }
    refused(
        dir,
        ["a.pcap", "policy.toml"],
        "",
        "the file of destination \"b\": DIR/policy.toml is the policy file",
    );
    refused(
        dir,
        ["boot.toml", "b.pcap"],
        "",
        "the file of destination \"a\": DIR/boot.toml is the boot config",
    );
    // Neither is there yet.
    std::os::unix::fs::symlink(".", dir.join("here")).unwrap();
    refused(
        dir,
        ["new.pcap", "here/new.pcap"],
        "",
        "the file of destination \"b\": DIR/here/new.pcap is the file of destination \"a\"",
    );
    refused(
        dir,
        ["a.pcap", "b.pcap"],
        "[flow]\njsonl = \"policy.toml\"",
        "flow.jsonl: DIR/policy.toml is the policy file",
    );
    let both = "[flow]\nmetrics_jsonl = \"a.pcap\"";
    refused(
        dir,
        ["a.pcap", "b.pcap"],
        both,
        "flow.metrics_jsonl: DIR/a.pcap is the file of destination \"a\"",
    );
    assert!(!dir.join("new.pcap").exists() && !dir.join("b.pcap").exists());
}

#[test]
fn a_replay_with_tables_beyond_the_machine_is_refused() {
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let total_kb: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    if total_kb > 80_000_000 {
        sluice_tests::left_out("the largest tables would fit this machine");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    capture(Path::new(&at("in.pcap")));
    fs::write(at("policy.toml"), POLICY).unwrap();
    fs::write(at("boot.toml"), "[flow]\nflows = 67108864\n").unwrap();
    let arguments = ["replay", "--policy", &at("policy.toml"), "--in", &at("in.pcap"), "--out", &at("out")];
    let Replayed { code, stderr, .. } = plain(&[&arguments[..], &["--config", &at("boot.toml")]].concat());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("set smaller `flows` in [flow]"), "{stderr}");
}
