//! What happened in all? For people: Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::churn::Counts;
use super::fault::{Fault, Kind};
use super::leak::{Life, Point};

/// A fault that is over.
#[derive(Clone, Debug)]
pub struct Done {
    /// The fault.
    pub fault: Fault,
    /// From its begin until the daemon told of it; `None` = it does not have to.
    pub told: Option<Duration>,
    /// From its end until copies came without a gap again.
    pub flowing: Duration,
    /// From its end until everything was in order: no exception, files written.
    pub in_order: Duration,
    /// Packets that did not arrive, from the rest before it to the one after it.
    pub lost: u64,
}

/// All that there is to tell.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Repeats the faults.
    pub seed: u64,
    /// How long it took.
    pub lasted: Duration,
    /// What ended it before its time; `None` = nothing.
    pub broken_off: Option<String>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
    /// The faults, in their order.
    pub done: Vec<Done>,
    /// Packets by stream: sent, arrived.
    pub streams: Vec<(String, u64, u64)>,
    /// Packets that did not arrive, by reason.
    pub losses: BTreeMap<String, u64>,
    /// Copies for files that were not written, by reason.
    pub file_losses: BTreeMap<String, u64>,
    /// Rows of Parquet files: written, lost.
    pub rows: [u64; 2],
    /// What became of changes of policies.
    pub changes: Counts,
    /// How often the account was looked at under way.
    pub looks: u64,
    /// How often everything rested, and was held against everything else.
    pub rests: u64,
    /// The lives of the daemon.
    pub lives: Vec<Life>,
}

/// Lives shorter than this are summed up.
const SHORT: Duration = Duration::from_secs(10);

impl Report {
    /// The whole text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("a string takes everything");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# Soak\n")?;
        let end = self
            .broken_off
            .as_ref()
            .map_or("Everything held.".to_owned(), |why| format!("**FAILED**: {why}"));
        writeln!(out, "{end}\n")?;
        let changes = &self.changes;
        writeln!(
            out,
            "Seed {} (`SLUICE_SEED={}` repeats the faults), {} s, {} faults, {} lives of the daemon, {} changes of \
             policies.\nThe account was looked at {} times under way, and held against sender and tool {} times at rest.\n",
            self.seed,
            self.seed,
            self.lasted.as_secs(),
            self.done.len(),
            self.lives.len(),
            changes.applied + changes.rolled_back,
            self.looks,
            self.rests
        )?;
        for left_out in &self.left_out {
            writeln!(out, "Left out: {left_out}\n")?;
        }
        self.write_faults(out)?;
        self.write_packets(out)?;
        writeln!(out, "## Policies\n")?;
        table(
            out,
            &["changes", "times"],
            [
                ("another set in force", changes.applied),
                ("an earlier set in force again", changes.rolled_back),
                ("wrong, refused", changes.wrong),
                ("refused, as it could not be kept (disk full)", changes.not_kept),
                ("no daemon, or it was killed before it answered", changes.not_reached),
            ]
            .map(|(what, times)| vec![what.to_owned(), times.to_string()]),
        )?;
        self.write_lives(out)
    }

    fn write_faults(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## Faults\n")?;
        writeln!(
            out,
            "Times are seconds, median and worst. *told*: from the begin of the fault until the daemon raised an exception. \
             *flowing*: from its end until copies arrived without a gap; *in order*: until no exception was left and files \
             were written. *lost*: packets of the senders that did not arrive, in the worst case.\n"
        )?;
        let rows = Kind::ALL.iter().filter_map(|kind| {
            let of_kind: Vec<_> = self.done.iter().filter(|done| done.fault.kind == *kind).collect();
            let pair = |times: Vec<Duration>| match spread(times) {
                Some([median, worst]) => format!("{:.2} / {:.2}", median.as_secs_f64(), worst.as_secs_f64()),
                None => "-".to_owned(),
            };
            (!of_kind.is_empty()).then(|| {
                vec![
                    kind.name().to_owned(),
                    of_kind.len().to_string(),
                    pair(of_kind.iter().filter_map(|done| done.told).collect()),
                    pair(of_kind.iter().map(|done| done.flowing).collect()),
                    pair(of_kind.iter().map(|done| done.in_order).collect()),
                    kind.limit().as_secs().to_string(),
                    of_kind.iter().map(|done| done.lost).max().unwrap_or(0).to_string(),
                ]
            })
        });
        table(out, &["fault", "times", "told", "flowing", "in order", "allowed", "lost"], rows)
    }

    fn write_packets(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## Packets\n")?;
        let rows = self.streams.iter().map(|(name, sent, arrived)| {
            vec![
                name.clone(),
                sent.to_string(),
                arrived.to_string(),
                sent.saturating_sub(*arrived).to_string(),
            ]
        });
        table(out, &["from", "sent", "arrived", "lost"], rows)?;
        for (what, losses) in [("Packets", &self.losses), ("Copies for files", &self.file_losses)] {
            if !losses.is_empty() {
                let rows = losses.iter().map(|(reason, count)| vec![reason.clone(), count.to_string()]);
                table(out, &[&format!("{what} lost"), "how many"], rows)?;
            }
        }
        let [written, lost] = self.rows;
        writeln!(out, "Rows of Parquet files: {written} written, {lost} lost.\n")
    }

    fn write_lives(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## The daemon at rest\n")?;
        writeln!(out, "First / last / most, of each life of at least {} s.\n", SHORT.as_secs())?;
        let rows = self.lives.iter().filter(|life| life.lasted() >= SHORT).map(|life| {
            let of = |what: fn(&Point) -> u64| life.range(what).map(|number| number.to_string()).join(" / ");
            vec![
                format!("{} s", life.lasted().as_secs()),
                of(|point| point.rss_kb / 1024),
                life.growth_kb().map_or("-".to_owned(), |kb| format!("{:+.1}", kb / 1024.0)),
                of(|point| point.fds),
                of(|point| point.threads),
                of(|point| point.mbufs),
            ]
        });
        table(
            out,
            &["lived", "resident MiB", "MiB an hour", "descriptors", "threads", "mbufs in use"],
            rows,
        )?;
        let short = self.lives.iter().filter(|life| life.lasted() < SHORT).count();
        if short > 0 {
            writeln!(out, "{short} shorter lives.\n")?;
        }
        Ok(())
    }
}

/// Median and largest.
fn spread(mut times: Vec<Duration>) -> Option<[Duration; 2]> {
    times.sort();
    Some([*times.get(times.len() / 2)?, *times.last()?])
}

/// A table with columns as wide as they must be: the first to the left, the others to the right.
fn table(out: &mut String, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> std::fmt::Result {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].len()).chain([heads[column].len()]);
        cells.max().unwrap_or(0)
    };
    let line = |cells: Vec<&str>| {
        let cells = cells.into_iter().enumerate().map(|(column, cell)| {
            let width = width(column);
            if column == 0 { format!(" {cell:width$} ") } else { format!(" {cell:>width$} ") }
        });
        format!("|{}|", cells.collect::<Vec<_>>().join("|"))
    };
    writeln!(out, "{}", line(heads.to_vec()))?;
    let rules = (0..heads.len()).map(|column| {
        let dashes = "-".repeat(width(column) + 1);
        if column == 0 { format!("{dashes}-") } else { format!("{dashes}:") }
    });
    writeln!(out, "|{}|", rules.collect::<Vec<_>>().join("|"))?;
    for row in &rows {
        writeln!(out, "{}", line(row.iter().map(String::as_str).collect()))?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nest::Numbers;

    #[test]
    fn a_report_tells_worst_and_median() {
        let fault = Fault::draw(Kind::ToolGone, &mut Numbers::new(1));
        let done = |ms, lost| Done {
            fault,
            told: Some(Duration::from_millis(100)),
            flowing: Duration::from_millis(ms),
            in_order: Duration::from_millis(2 * ms),
            lost,
        };
        let report = Report {
            seed: 5,
            done: vec![done(300, 7), done(1000, 90), done(100, 8)],
            streams: vec![("tap0".to_owned(), 1000, 895)],
            losses: [("port_down".to_owned(), 105)].into(),
            ..Report::default()
        };
        let text = report.text();
        for line in [
            "| fault     | times |        told |     flowing |    in order | allowed | lost |",
            "| tool gone |     3 | 0.10 / 0.10 | 0.30 / 1.00 | 0.60 / 2.00 |       8 |   90 |",
            "| tap0 | 1000 |     895 |  105 |",
            "| port_down    |      105 |",
            "Everything held.",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let failed = Report { broken_off: Some("nothing came".to_owned()), ..report };
        assert!(failed.text().contains("**FAILED**: nothing came"));
    }
}
