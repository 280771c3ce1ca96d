//! How are findings, differences and changes shown?

use std::collections::BTreeMap;

use sluice_api::v1;

use crate::failure::{Exit, Failure};
use crate::out::{Out, Tone};
use crate::table::{numbers, row};
use crate::text::{safe, word};

/// All that was dropped, whatever the reason; of a daemon that lies, the most that there is.
pub(crate) fn dropped(drops: &BTreeMap<String, u64>) -> u64 {
    drops.values().fold(0, |sum, packets| sum.saturating_add(*packets))
}

/// Tells what the daemon found in a set, but for what is `known`, by its reason.
pub(crate) fn findings(list: &[v1::Finding], known: &[String], out: Out) {
    for finding in list.iter().filter(|finding| !known.contains(&finding.reason)) {
        let error = finding.severity() != v1::Severity::Warning;
        let (tone, label) = if error { (Tone::Bad, "error") } else { (Tone::Warn, "warning") };
        let field =
            if finding.field.is_empty() { String::new() } else { format!("{}: ", safe(&finding.field)) };
        let help = if finding.suggestion.is_empty() {
            String::new()
        } else {
            format!("; {}", safe(&finding.suggestion))
        };
        out.complain(tone, label, &format!("{field}{}{help}", safe(&finding.reason)));
    }
}

/// The differences, one object after the other; empty when there are none.
pub(crate) fn diff(diff: &v1::Diff, out: Out) -> String {
    let mut lines = Vec::new();
    for change in &diff.changes {
        let (tone, sign) = match change.r#type() {
            v1::ChangeType::Added => (Tone::Good, "+"),
            v1::ChangeType::Removed => (Tone::Bad, "-"),
            _ => (Tone::Warn, "~"),
        };
        let kind = word(change.kind().as_str_name(), "OBJECT_KIND_");
        lines.push(out.paint(tone, &format!("{sign} {kind} {}", safe(&change.name))));
        for field in &change.fields {
            let (name, before, after) = (safe(&field.field), safe(&field.before), safe(&field.after));
            lines.push(match (before.is_empty(), after.is_empty()) {
                (true, _) => format!("    {name} = {after}"),
                (_, true) => format!("    {name} = {before} (removed)"),
                _ => format!("    {name} = {before} -> {after}"),
            });
        }
    }
    lines.join("\n")
}

/// How many objects a difference is about, in words.
pub(crate) fn summary(diff: &v1::Diff) -> String {
    let count = |kind| diff.changes.iter().filter(|change| change.r#type() == kind).count();
    format!(
        "{} added, {} removed, {} changed",
        count(v1::ChangeType::Added),
        count(v1::ChangeType::Removed),
        count(v1::ChangeType::Changed)
    )
}

/// Shows what became of a change; findings that are `known` are not told again.
pub(crate) fn change(response: &v1::ChangeResponse, known: &[String], out: Out) -> Result<Exit, Failure> {
    if out.json {
        out.message("ChangeResponse", response)?;
    }
    findings(&response.findings, known, out);
    if !response.applied {
        let why = if response.failure.is_empty() {
            "the set is not valid".to_owned()
        } else {
            safe(&response.failure)
        };
        return Err(Failure::failed(format!(
            "not applied: {why}; generation {} is in force",
            response.generation
        )));
    }
    if !out.json {
        let empty = v1::Diff::default();
        let changes = response.diff.as_ref().unwrap_or(&empty);
        if changes.changes.is_empty() {
            out.line(&format!("no change: generation {} is in force", response.generation))?;
            return Ok(Exit::Ok);
        }
        out.line(&diff(changes, out))?;
        out.line(&out.paint(
            Tone::Good,
            &format!(
                "generation {} is in force ({}; {}.{:03} ms)",
                response.generation,
                summary(changes),
                response.apply_us / 1_000,
                response.apply_us % 1_000
            ),
        ))?;
    }
    Ok(Exit::Ok)
}

/// A table of counts by the name of a reason; `None` when all are 0.
pub(crate) fn drops(title: &str, drops: &BTreeMap<String, u64>) -> Option<String> {
    let mut rows: Vec<_> = drops.iter().filter(|(_, packets)| **packets > 0).collect();
    rows.sort_by_key(|(_, packets)| std::cmp::Reverse(**packets));
    let mut table = numbers(&[title, "packets"]);
    for (reason, packets) in &rows {
        table.add_row(row(safe(reason), &[**packets]));
    }
    (!rows.is_empty()).then(|| table.to_string())
}

/// The account in a line.
pub(crate) fn account(account: &v1::Account, out: Out) -> String {
    let verdict = if account.balanced {
        out.paint(Tone::Good, "balanced")
    } else {
        out.paint(Tone::Bad, "NOT BALANCED: please report this")
    };
    format!(
        "rx {} + replicas {} = tx {} + drops {} + held {}: {verdict}",
        account.rx_packets, account.replicas, account.tx_packets, account.drops, account.held
    )
}
