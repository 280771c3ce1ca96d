//! `sluice-perf`: runs scenarios one after the other, each in a process of its own, beside the reference.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use sluice_perf::measure::{self, Measured, Settings};
use sluice_perf::reference;
use sluice_perf::report::{self, Row};
use sluice_perf::scenario::{ALL, Scenario};

/// Measures how fast one worker core is. `perf/run.sh` builds this, reserves hugepages and starts it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Scenarios to run; all when none is named.
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
    #[arg(long, default_value = "64", value_parser = packet_bytes)]
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
    let scenarios = chosen(&arguments.scenarios)?;
    if arguments.child {
        let scenario = scenarios.first().context("no scenario")?;
        println!("{}", serde_json::to_string(&measure::run(scenario, &settings)?)?);
        return Ok(());
    }
    let mut rows = Vec::new();
    for scenario in &scenarios {
        let reference = if arguments.no_reference { f64::NAN } else { reference::run(&settings)? };
        let measured = in_child(scenario, &settings)?;
        let row = Row::new(scenario.name, &measured, reference, settings.hugepages);
        if arguments.json {
            println!("{}", serde_json::to_string(&row)?);
        }
        rows.push((row, measured));
    }
    if !arguments.json {
        println!("{}", conditions(&settings));
        println!("{}", report::table(&rows));
    }
    if arguments.breakdown {
        // Beside JSON, what is for people goes elsewhere.
        let text = report::breakdown(&rows);
        if arguments.json { eprintln!("{text}") } else { println!("\n{text}") }
    }
    Ok(())
}

/// The value of `--bytes`.
fn packet_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ 64..=1500) => Ok(bytes),
        _ if text == "imix" => Ok(0),
        _ => Err("a number from 64 to 1500, or imix".to_owned()),
    }
}

fn chosen(names: &[String]) -> Result<Vec<Scenario>> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    let find = |name: &String| {
        let known = || ALL.map(|scenario| scenario.name).join(", ");
        Scenario::by_name(name).with_context(|| format!("no scenario \"{name}\"; there are {}", known()))
    };
    names.iter().map(find).collect()
}

/// Runs a scenario in a process of its own.
fn in_child(scenario: &Scenario, settings: &Settings) -> Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([scenario.name, "--child"]);
    for (name, value) in [
        ("--core", u64::from(settings.core)),
        ("--main-core", u64::from(settings.main_core)),
        ("--samples", settings.samples as u64),
        ("--sample-ms", u64::try_from(settings.sample.as_millis())?),
    ] {
        command.args([name, &value.to_string()]);
    }
    if settings.packet_bytes == 0 {
        command.args(["--bytes", "imix"]);
    } else {
        command.args(["--bytes", &settings.packet_bytes.to_string()]);
    }
    if settings.hugepages {
        command.arg("--hugepages");
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("scenario {} failed: {}", scenario.name, output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("the scenario said nothing")?;
    serde_json::from_str(line).with_context(|| format!("scenario {} said {line:?}", scenario.name))
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
