//! Do the configs that the repository offers for beginning with fit their policies?

#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;

use sluice_tests::sluiced::{Replayed, plain};

#[test]
fn every_boot_config_passes_the_check() {
    let examples = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"));
    let mut checked = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let file = entry.unwrap().path();
        if !std::fs::read_to_string(&file).unwrap().contains("[[port]]") {
            continue;
        }
        let Replayed { code, stdout, stderr, .. } =
            plain(&["check".as_ref(), "--config".as_ref(), file.as_os_str()]);
        assert_eq!(code, Some(0), "{}: {stderr}", file.display());
        assert!(
            stdout.ends_with("OK\n") && !stderr.contains("warning"),
            "{}: {stdout}{stderr}",
            file.display()
        );
        checked += 1;
    }
    assert!(checked >= 3, "{checked}");
}
