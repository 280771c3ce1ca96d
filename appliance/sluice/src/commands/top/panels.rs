//! What happened in a second, or since the start, from two samples of counters?

use std::collections::BTreeMap;

use sluice_api::v1;

use crate::show::dropped;
use crate::text::{per_second, safe, si};

use super::app::Section;

/// A table of the view.
pub(super) struct Panel {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Row>,
}

/// A row: a name, and numbers as they are shown and as they are ordered.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) numbers: Vec<u64>,
    pub(super) texts: Vec<String>,
}

impl Panel {
    /// Rows by a column: names upwards, numbers downwards. Column 0 of ports and workers is as the daemon has them.
    pub(super) fn ordered(mut self, section: Section, column: usize) -> Self {
        match column.checked_sub(1) {
            Some(column) => {
                self.rows.sort_by_key(|row| std::cmp::Reverse(row.numbers.get(column).copied().unwrap_or(0)));
            }
            None if matches!(section, Section::Ports | Section::Workers) => {}
            None => self.rows.sort_by(|a, b| a.name.cmp(&b.name)),
        }
        self
    }
}

/// What numbers of two samples come to.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    /// Between the samples, in nanoseconds; `None` = sums since the start instead of rates.
    ns: Option<i64>,
}

impl Measure {
    pub(super) fn new(before: &v1::Counters, after: &v1::Counters, totals: bool) -> Self {
        Self { ns: (!totals).then_some(after.time_ns.saturating_sub(before.time_ns)) }
    }

    /// Packets and other events, per second or all.
    pub(super) fn count(self, before: u64, after: u64) -> u64 {
        self.ns.map_or(after, |ns| per_second(before, after, ns))
    }

    /// Bits per second, or all bytes.
    pub(super) fn volume(self, before: u64, after: u64) -> u64 {
        self.ns.map_or(after, |ns| per_second(before, after, ns).saturating_mul(8))
    }

    /// The unit of [`Self::count`].
    pub(super) fn per(self, what: &str) -> String {
        if self.ns.is_some() { format!("{what}/s") } else { what.to_owned() }
    }

    /// The unit of [`Self::volume`].
    pub(super) fn bits(self) -> &'static str {
        if self.ns.is_some() { "bit/s" } else { "bytes" }
    }

    fn header(self, names: &[(&str, Kind)]) -> Vec<String> {
        let name = |(name, kind): &(&str, Kind)| match kind {
            Kind::Name | Kind::Now => (*name).to_owned(),
            Kind::Count => self.per(name),
            Kind::Volume if name.is_empty() => self.bits().to_owned(),
            Kind::Volume => format!("{name} {}", self.bits()),
        };
        names.iter().map(name).collect()
    }
}

/// What is in a column.
#[derive(Clone, Copy)]
enum Kind {
    Name,
    Count,
    Volume,
    /// A number of the moment.
    Now,
}

fn row(name: &str, numbers: Vec<u64>) -> Row {
    let texts = numbers.iter().copied().map(si).collect();
    Row { name: safe(name), numbers, texts }
}

/// The table of a section.
pub(super) fn panel(section: Section, before: &v1::Counters, after: &v1::Counters, totals: bool) -> Panel {
    let measure = Measure::new(before, after, totals);
    match section {
        Section::Ports => ports(before, after, measure),
        Section::Workers => workers(before, after, measure),
        Section::Policies => policies(before, after, measure),
        Section::Destinations => destinations(before, after, measure),
        Section::Drops => drops(before, after, measure),
    }
}

/// Each element of the later sample with the one of the same name before. One that was not there before is held against
/// itself: it may be new, or have been below the limit of rows; its rate is known after the next sample.
fn paired<'c, T>(
    before: &'c [T],
    after: &'c [T],
    name: fn(&T) -> &str,
) -> impl Iterator<Item = (&'c T, &'c T)> {
    let known: BTreeMap<&str, &T> = before.iter().map(|old| (name(old), old)).collect();
    after.iter().map(move |new| (known.get(name(new)).copied().unwrap_or(new), new))
}

fn ports(before: &v1::Counters, after: &v1::Counters, measure: Measure) -> Panel {
    let header = measure.header(&[
        ("port", Kind::Name),
        ("rx", Kind::Count),
        ("rx", Kind::Volume),
        ("tx", Kind::Count),
        ("tx", Kind::Volume),
        ("lost", Kind::Count),
        ("errors", Kind::Count),
    ]);
    let rows = paired(&before.ports, &after.ports, |port| &port.port).map(|(old, new)| {
        let numbers = vec![
            measure.count(old.rx_packets, new.rx_packets),
            measure.volume(old.rx_bytes, new.rx_bytes),
            measure.count(old.tx_packets, new.tx_packets),
            measure.volume(old.tx_bytes, new.tx_bytes),
            measure.count(old.lost_before_rx, new.lost_before_rx),
            measure.count(old.tx_errors, new.tx_errors),
        ];
        row(&new.port, numbers)
    });
    Panel { header, rows: rows.collect() }
}

fn workers(before: &v1::Counters, after: &v1::Counters, measure: Measure) -> Panel {
    let header = measure.header(&[
        ("worker", Kind::Name),
        ("rx", Kind::Count),
        ("rx", Kind::Volume),
        ("tx", Kind::Count),
        ("tx", Kind::Volume),
        ("drops", Kind::Count),
        ("idle polls", Kind::Count),
        ("cycles/packet", Kind::Now),
        ("delay p99 ns", Kind::Now),
    ]);
    let cycles = |worker: &v1::WorkerCounters| {
        worker.stages.iter().fold(0u64, |sum, stage| sum.saturating_add(stage.cycles))
    };
    let rows = paired(&before.workers, &after.workers, |worker| &worker.worker).map(|(old, new)| {
        let packets = measure.count(old.rx_packets, new.rx_packets);
        let numbers = vec![
            packets,
            measure.volume(old.rx_bytes, new.rx_bytes),
            measure.count(old.tx_packets, new.tx_packets),
            measure.volume(old.tx_bytes, new.tx_bytes),
            measure.count(dropped(&old.drops), dropped(&new.drops)),
            measure.count(old.idle_polls, new.idle_polls),
            measure.count(cycles(old), cycles(new)).checked_div(packets).unwrap_or(0),
            new.delay_ns.as_ref().map_or(0, |delay| delay.p99),
        ];
        row(&new.worker, numbers)
    });
    Panel { header, rows: rows.collect() }
}

fn policies(before: &v1::Counters, after: &v1::Counters, measure: Measure) -> Panel {
    let header = measure.header(&[
        ("policy", Kind::Name),
        ("matched", Kind::Count),
        ("", Kind::Volume),
        ("sent", Kind::Count),
        ("drops", Kind::Count),
    ]);
    let rows = paired(&before.policies, &after.policies, |policy| &policy.policy).map(|(old, new)| {
        let numbers = vec![
            measure.count(old.matched_packets, new.matched_packets),
            measure.volume(old.matched_bytes, new.matched_bytes),
            measure.count(old.sent_packets, new.sent_packets),
            measure.count(dropped(&old.drops), dropped(&new.drops)),
        ];
        row(&new.policy, numbers)
    });
    Panel { header, rows: rows.collect() }
}

fn destinations(before: &v1::Counters, after: &v1::Counters, measure: Measure) -> Panel {
    let header = measure.header(&[
        ("destination", Kind::Name),
        ("copies", Kind::Count),
        ("", Kind::Volume),
        ("cut", Kind::Count),
        ("drops", Kind::Count),
    ]);
    let rows = paired(&before.destinations, &after.destinations, |to| &to.destination).map(|(old, new)| {
        let numbers = vec![
            measure.count(old.packets, new.packets),
            measure.volume(old.bytes, new.bytes),
            measure.count(old.truncated, new.truncated),
            measure.count(dropped(&old.drops), dropped(&new.drops)),
        ];
        let mut row = row(&new.destination, numbers);
        if !new.away.is_empty() {
            row.name = format!("{} ({} of {} away)", row.name, new.away.len(), new.members.len());
        }
        row
    });
    Panel { header, rows: rows.collect() }
}

fn drops(before: &v1::Counters, after: &v1::Counters, measure: Measure) -> Panel {
    let none = BTreeMap::new();
    let reasons = |counters: &v1::Counters| counters.totals.as_ref().map(|totals| totals.drops.clone());
    let (before, after) =
        (reasons(before).unwrap_or_default(), reasons(after).unwrap_or_else(|| none.clone()));
    let header = vec!["drop reason".to_owned(), measure.per("packets"), "total".to_owned()];
    let rows = after.iter().filter(|(_, packets)| **packets > 0).map(|(reason, packets)| {
        let rate = measure.count(before.get(reason).copied().unwrap_or(0), *packets);
        row(reason, vec![rate, *packets])
    });
    Panel { header, rows: rows.collect() }
}
