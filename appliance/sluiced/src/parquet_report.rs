//! What became of the records that went to Parquet files, as a table for people and as JSON for scripts.

use serde_json::{Map, Value, json};
use sluice_export::parquet::{SinkReport, TableStats};

use crate::report::{numbers, row};

/// A row for each table, and what concerns all of them.
pub(crate) fn table(report: &SinkReport) -> String {
    let mut tables =
        numbers(&["records", "taken", "written", "sampled out", "lost", "pending", "files", "bytes"]);
    for (name, stats) in report.tables() {
        let TableStats { taken, written, sampled_out, lost, pending, files, bytes } = *stats;
        tables.add_row(row(name, &[taken, written, sampled_out, lost, pending, files, bytes]));
    }
    let mut parquet = numbers(&["Parquet files", "count"]);
    parquet.add_row(row(
        &format!("times that writing stopped ({})", report.condition.name()),
        &[report.exceptions],
    ));
    for (name, count) in [
        ("write errors", report.write_errors),
        ("bytes kept", report.kept_bytes),
        ("files removed", report.removed_files),
        ("bytes removed", report.removed_bytes),
        ("files not removed", report.remove_errors),
        ("records that killed runs lost", report.crash_lost),
    ] {
        parquet.add_row(row(name, &[count]));
    }
    format!("{tables}\n\n{parquet}")
}

/// One object; the names are fixed, scripts read them.
pub(crate) fn json(report: &SinkReport) -> Value {
    let tables: Map<_, _> = (report.tables())
        .map(|(name, stats)| {
            let TableStats { taken, written, sampled_out, lost, pending, files, bytes } = *stats;
            let object = json!({
                "taken": taken,
                "written": written,
                "sampled_out": sampled_out,
                "lost": lost,
                "pending": pending,
                "files": files,
                "bytes": bytes,
            });
            (name.to_owned(), object)
        })
        .collect();
    json!({
        "tables": tables,
        "condition": report.condition.name(),
        "stops": report.exceptions,
        "write_errors": report.write_errors,
        "kept_bytes": report.kept_bytes,
        "removed_files": report.removed_files,
        "removed_bytes": report.removed_bytes,
        "remove_errors": report.remove_errors,
        "crash_lost": report.crash_lost,
        "crash_files": report.crash_files,
    })
}
