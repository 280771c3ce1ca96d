//! Is the summary of a run of tests true, and does a failure stay one?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn summary(arguments: &[&Path]) -> Option<Output> {
    let mut command = Command::new("python3");
    match command.arg(root().join("scripts/test-summary.py")).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "python3: {error}");
            sluice_tests::left_out(format_args!("python3 does not start: {error}"));
            None
        }
    }
}

#[test]
fn a_saved_run_is_summed_up() {
    let golden = root().join("tests/golden/test-summary");
    let Some(output) = summary(&[&golden.join("log.txt"), &golden.join("left-out.txt")]) else { return };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let expected = fs::read_to_string(golden.join("expected.txt")).unwrap();
    assert_eq!(text.lines().count(), expected.lines().count(), "{text}");
    // The questions of the test files may change.
    for (line, expected) in text.lines().zip(expected.lines()) {
        assert!(line.starts_with(expected), "{line:?} is not {expected:?}");
    }
    assert!(text.contains("Does every packet that is lost show up under the right name"), "{text}");
}

#[test]
fn the_script_ends_as_cargo_does() {
    // The function of the script, with a cargo that only prints.
    let script = fs::read_to_string(root().join("scripts/test.sh")).unwrap();
    let function = script.split_once("\ntests() {").unwrap().1.split_once("\n}\n").unwrap().0;
    let target = tempfile::tempdir().unwrap();
    let run = |cargo: &str| {
        let lines = format!(
            "set -euo pipefail\nroot={}\ncd \"$root\"\ncargo() {{ {cargo}; }}\ntests() {{{function}\n}}\ntests\necho on",
            root().display()
        );
        let output = Command::new("bash")
            .args(["-c", &lines])
            .env("CARGO_TARGET_DIR", target.path())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    if summary(&[Path::new("/dev/null")]).is_none() {
        return;
    }
    let (code, text) = run("echo said; echo complained >&2");
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("said\ncomplained\n") && text.ends_with("Nothing was left out.\non\n"),
        "{text}"
    );
    let (code, text) = run("echo said; return 101");
    assert_eq!(code, Some(101), "{text}");
    assert!(text.contains("End to end: 0 passed") && !text.contains("\non\n"), "{text}");
}
