//! What is told of a run: a line of JSON per scenario for programs, a table for people.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use sluice_engine::stats::Stage;

use crate::measure::Measured;

/// One scenario with its reference. The fields are those that other tools read.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The scenario.
    pub scenario: String,
    /// Packets of all samples.
    pub packets: u64,
    /// Seconds that the worker had the core, of all samples.
    pub seconds: f64,
    /// Million packets per second.
    pub mpps: f64,
    /// TSC cycles per packet.
    pub cycles_per_packet: f64,
    /// Instructions per packet, where the machine counts them.
    pub instructions_per_packet: Option<f64>,
    /// The source alone.
    pub source_mpps: f64,
    /// testpmd on the same core.
    pub reference_mpps: f64,
    /// `mpps / reference_mpps`.
    pub ratio: f64,
    /// Distinct flows.
    pub flows: usize,
    /// Policies.
    pub policies: usize,
    /// Bytes of each packet, without FCS.
    pub packet_bytes: usize,
    /// Whether mbufs lay in hugepages.
    pub hugepages: bool,
    /// Packets and copies dropped.
    pub drops: u64,
    /// Workers at the same time, whose rates are summed; the reference has one core.
    pub workers: usize,
    /// For several workers: `mpps` to that of `workers-1` earlier in the same run.
    pub scaling: Option<f64>,
}

impl Row {
    /// Joins what was measured.
    #[must_use]
    pub fn new(scenario: &str, measured: &Measured, reference_mpps: f64, hugepages: bool) -> Self {
        Self {
            scenario: scenario.to_owned(),
            packets: measured.packets,
            seconds: round(measured.seconds, 3),
            mpps: round(measured.mpps, 2),
            cycles_per_packet: round(measured.cycles_per_packet, 1),
            instructions_per_packet: measured.instructions_per_packet.map(|count| round(count, 1)),
            source_mpps: round(measured.source_mpps, 2),
            reference_mpps: round(reference_mpps, 2),
            ratio: round(measured.mpps / reference_mpps, 4),
            flows: measured.flows,
            policies: measured.policies,
            packet_bytes: measured.packet_bytes,
            hugepages,
            drops: measured.drops,
            workers: 1,
            scaling: None,
        }
    }

    /// The row of a scenario with so many workers, after the rows `before` it.
    #[must_use]
    pub fn scaled(mut self, workers: usize, before: &[(Self, Measured)]) -> Self {
        let one = before.iter().find(|(row, _)| row.scenario == "workers-1");
        self.scaling = one.filter(|_| workers > 1).map(|(one, _)| round(self.mpps / one.mpps, 3));
        self.workers = workers;
        self
    }
}

fn round(value: f64, digits: i32) -> f64 {
    (value * 10_f64.powi(digits)).round() / 10_f64.powi(digits)
}

/// The table of all rows.
#[must_use]
pub fn table(rows: &[(Row, Measured)]) -> String {
    let header = [
        "scenario",
        "Mpps",
        "min..max",
        "cycles",
        "source Mpps",
        "testpmd Mpps",
        "ratio",
        "policies",
        "copies",
        "drops",
    ];
    let mut table = plain(&header.map(str::to_owned));
    for (row, measured) in rows {
        let (least, most) = measured.spread;
        table.add_row([
            row.scenario.clone(),
            format!("{:.1}", row.mpps),
            format!("{least:.1}..{most:.1}"),
            format!("{:.0}", row.cycles_per_packet),
            format!("{:.0}", row.source_mpps),
            format!("{:.0}", row.reference_mpps),
            format!("{:.3}", row.ratio),
            row.policies.to_string(),
            format!("{:.2}", measured.copies_per_packet),
            row.drops.to_string(),
        ]);
    }
    table.to_string()
}

/// TSC cycles per packet by stage, time lost to other programs included.
#[must_use]
pub fn breakdown(rows: &[(Row, Measured)]) -> String {
    let has = |measured: &Measured, name: &str| {
        measured.stages.iter().find(|(stage, _)| stage == name).map(|(_, cycles)| *cycles)
    };
    let names = Stage::ALL.map(Stage::name).into_iter();
    let stages: Vec<_> =
        names.filter(|name| rows.iter().any(|(_, measured)| has(measured, name).is_some())).collect();
    let header = ["cycles by stage"].into_iter().chain(stages.iter().copied());
    let mut table = plain(&header.map(str::to_owned).collect::<Vec<_>>());
    for (row, measured) in rows {
        // Scenarios differ in the stages that they use.
        let cycles = stages.iter().map(|stage| match has(measured, stage) {
            Some(cycles) => format!("{cycles:.1}"),
            None => "-".to_owned(),
        });
        table.add_row([row.scenario.clone()].into_iter().chain(cycles));
    }
    table.to_string()
}

fn plain(header: &[String]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
