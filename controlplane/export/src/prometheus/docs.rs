//! The table of all metrics for docs/metrics.md.

use super::declare::Metric;

/// One row for each metric, as Markdown.
#[must_use]
pub fn table() -> String {
    let mut table = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for &metric in Metric::ALL {
        let labels: Vec<_> = metric.labels().iter().map(|label| format!("`{label}`")).collect();
        let cells =
            [&format!("`{}`", metric.name()), metric.kind().name(), &labels.join(", "), metric.help()];
        table.extend(["| ", &cells.join(" | "), " |\n"]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- metrics: begin; made by `UPDATE_DOCS=1 cargo test -p sluice-export docs` -->\n";
    const END: &str = "<!-- metrics: end -->\n";

    #[test]
    fn docs_have_every_metric() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("the first marker");
        let (written, after) = rest.split_once(END).expect("the second marker");
        let table = format!("\n{}\n", table());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, [before, BEGIN, &table, END, after].concat()).unwrap();
        } else {
            assert_eq!(written, table, "docs/metrics.md: run UPDATE_DOCS=1 cargo test -p sluice-export docs");
        }
    }
}
