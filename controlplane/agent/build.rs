//! Which commit is this built from? Empty outside a git clone.

use std::path::Path;
use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success());
        output.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default().trim().to_owned()
    };
    println!("cargo::rustc-env=SLUICE_COMMIT={}", git(&["rev-parse", "--short=12", "HEAD"]));
    // Grows with each commit, and each change of what is checked out.
    let moves = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    println!("cargo::rerun-if-changed=build.rs");
    if Path::new(&moves).exists() {
        println!("cargo::rerun-if-changed={moves}");
    }
}
