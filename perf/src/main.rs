//! `sluice-perf`: runs scenarios one after the other, each in a process of its own, beside the reference.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use sluice_perf::measure::{self, Measured, Settings};
use sluice_perf::reference;
use sluice_perf::report::{self, Row};
use sluice_perf::scenario::{self, Run};

/// Measures how fast one worker core is. `perf/run.sh` builds this, reserves hugepages and starts it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Scenarios to run, each alone or as NAME@SIZE, new-flows (both phases), or all, as when none is named.
    scenarios: Vec<String>,
    /// One line of JSON per scenario instead of a table.
    #[arg(long)]
    json: bool,
    /// Also show cycles by stage.
    #[arg(long)]
    breakdown: bool,
    /// The CPU that is measured.
    #[arg(long, default_value_t = 1)]
    core: u16,
    /// The CPU of everything else.
    #[arg(long, default_value_t = 0)]
    main_core: u16,
    /// Samples per scenario; the median counts.
    #[arg(long, default_value_t = 15)]
    samples: usize,
    /// Length of a sample in milliseconds.
    #[arg(long, default_value_t = 200)]
    sample_ms: u64,
    /// Take mbufs from hugepages, which must have been reserved.
    #[arg(long)]
    hugepages: bool,
    /// Bytes of each packet without FCS, or "imix".
    #[arg(long, default_value = "64", value_parser = scenario::size_of)]
    bytes: usize,
    /// Leave out the reference.
    #[arg(long)]
    no_reference: bool,
    /// Runs one scenario in this process and prints what was measured, for the process that joins them.
    #[arg(long, hide = true)]
    child: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let settings = Settings {
        core: arguments.core,
        main_core: arguments.main_core,
        samples: arguments.samples.max(1),
        sample: Duration::from_millis(arguments.sample_ms.max(1)),
        hugepages: arguments.hugepages,
        packet_bytes: arguments.bytes,
    };
    let runs = scenario::runs(&arguments.scenarios, settings.packet_bytes)?;
    if arguments.child {
        let run = runs.first().context("no scenario")?;
        let settings = Settings { packet_bytes: run.packet_bytes, ..settings };
        println!("{}", serde_json::to_string(&measure::run(&run.scenario, &settings)?)?);
        return Ok(());
    }
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for run in &runs {
        let reference = if arguments.no_reference { f64::NAN } else { reference::run(&settings)? };
        // One that fails says why; the others are worth running.
        let measured = match in_child(run, &settings) {
            Ok(measured) => measured,
            Err(wrong) => {
                eprintln!("{wrong:#}");
                failed.push(run.name.as_str());
                continue;
            }
        };
        let row =
            Row::new(&run.name, &measured, reference, settings.hugepages).scaled(run.scenario.workers, &rows);
        if arguments.json {
            println!("{}", serde_json::to_string(&row)?);
        }
        rows.push((row, measured));
    }
    if !arguments.json {
        println!("{}", conditions(&settings));
        println!("{}", report::table(&rows));
        for (row, _) in &rows {
            if let Some(scaling) = row.scaling {
                println!("{} is {scaling:.2} times workers-1", row.scenario);
            }
        }
    }
    if arguments.breakdown {
        // Beside JSON, what is for people goes elsewhere.
        let text = report::breakdown(&rows);
        if arguments.json { eprintln!("{text}") } else { println!("\n{text}") }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Runs a scenario in a process of its own.
fn in_child(run: &Run, settings: &Settings) -> Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([run.scenario.name, "--child"]);
    for (name, value) in [
        ("--core", u64::from(settings.core)),
        ("--main-core", u64::from(settings.main_core)),
        ("--samples", settings.samples as u64),
        ("--sample-ms", u64::try_from(settings.sample.as_millis())?),
    ] {
        command.args([name, &value.to_string()]);
    }
    if run.packet_bytes == 0 {
        command.args(["--bytes", "imix"]);
    } else {
        command.args(["--bytes", &run.packet_bytes.to_string()]);
    }
    if settings.hugepages {
        command.arg("--hugepages");
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("scenario {} failed: {}", run.name, output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("the scenario said nothing")?;
    serde_json::from_str(line).with_context(|| format!("scenario {} said {line:?}", run.name))
}

fn conditions(settings: &Settings) -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "{}, core {}; {}; hugepages: {}; median of {} samples of {} ms",
        model.map_or("unknown CPU", |(_, name)| name),
        settings.core,
        dpdk::dpdk_version(),
        if settings.hugepages { "yes" } else { "no" },
        settings.samples,
        settings.sample.as_millis(),
    )
}
