//! Do docs/flow-records.md and docs/analytics.md name the fields as they are?

#![allow(clippy::unwrap_used, reason = "a damaged repository should stop the test")]

use std::fs;
use std::path::Path;

use sluice_model::fields::{COUNTER_FIELDS, FLOW_FIELDS, METRICS_FIELDS, markdown_table};
use sluice_model::{CloseType, TapSide};

fn docs(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file)).unwrap()
}

/// The table must be in the text as it is; with `WRITE_TABLES=1` the test writes it between its marks.
fn check(file: &str, mark: &str, table: &str) {
    let docs = docs(file);
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->\n"));
    let (before, rest) = docs.split_once(&begin).unwrap();
    let (found, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("WRITE_TABLES").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file);
        fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(
        found, table,
        "run this test with WRITE_TABLES=1 --test-threads=1, and look at what it changed"
    );
}

#[test]
fn flow_fields() {
    check("flow-records.md", "fields of flow records", &markdown_table(FLOW_FIELDS));
}

#[test]
fn metrics_fields() {
    check("flow-records.md", "fields of metrics", &markdown_table(METRICS_FIELDS));
}

#[test]
fn counter_fields() {
    check("analytics.md", "fields of counters", &markdown_table(COUNTER_FIELDS));
}

#[test]
fn close_types_and_tap_sides() {
    let docs = docs("flow-records.md");
    for close_type in CloseType::ALL {
        assert!(docs.contains(&format!("\n| {} | ", close_type.code())), "{close_type:?}");
    }
    for side in TapSide::ALL {
        assert!(docs.contains(&format!("`{}`", side.name())), "{side:?}");
    }
}
