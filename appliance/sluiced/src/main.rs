//! `sluiced`, the Sluice daemon: arguments, start-up, ordered shutdown.
#![forbid(unsafe_code)]

mod check;
mod completions;
mod engine_view;
mod log;
mod man;
mod metrics;
mod notify;
mod parquet_folder;
mod parquet_report;
mod paths;
mod records;
mod replay;
mod report;
mod run;
mod say;
mod signals;
mod threads;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use sluice_export::parquet::Profile;
use sluice_model::DedupMode;

use say::complain;

/// Sluice: an open network packet broker.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground; logs go to stderr.
    Run(RunArgs),
    /// Validate a boot config or a policy file and print what would run.
    Check(CheckArgs),
    /// Replay capture files through the whole pipeline: no hugepages, no rights, no network.
    Replay(ReplayArgs),
    /// Completions for a shell, on stdout.
    Completions(completions::Args),
    /// Manual pages, on stdout or into a folder.
    Man(man::Args),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The boot config.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object on stdout at the end instead of the tables.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["config", "policy"]))]
struct CheckArgs {
    /// A boot config; its policy file is checked too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A policy file.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// The policy file.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// A pcap or pcapng capture, plain, gzip or zstd; may be given several times. Policies name it as ingress port by
    /// its file name up to the first dot.
    #[arg(long = "in", value_name = "CAPTURE", required = true)]
    inputs: Vec<PathBuf>,
    /// The folder that gets one pcap file per destination.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object on stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Drop tunnel packets to the policy's own destinations that are found in the captures.
    #[arg(long)]
    loop_guard: bool,
    /// A boot config for the settings of the pipeline; it needs no policy and no ports. A `[[port]]` with the name of a
    /// capture holds for that capture.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What becomes of duplicates, whatever the boot config says.
    #[arg(long, value_name = "MODE", value_parser = dedup_mode())]
    dedup: Option<DedupMode>,
    /// Meter flows, and write their records to this file: one JSON object per line.
    #[arg(long, value_name = "FILE")]
    flows: Option<PathBuf>,
    /// Meter flows, and write the metrics of each second and each minute to this file: one JSON object per line.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Meter flows, and add Parquet files of their records and metrics to this folder.
    #[arg(long, value_name = "DIR")]
    parquet: Option<PathBuf>,
    /// Which columns of flow records the Parquet files have.
    #[arg(long, value_name = "PROFILE", requires = "parquet", default_value = "full", value_parser = profile())]
    parquet_profile: Profile,
    /// What is done with tunnels of all captures, whatever the boot config says.
    #[arg(long, value_enum)]
    decap: Option<Decap>,
}

/// What is done with tunnels.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Decap {
    /// Nothing.
    Off,
    /// They are taken off.
    Strip,
    /// Policies and flows see what is inside.
    #[value(alias = "look_through")]
    LookThrough,
}

/// Reads the name of a mode.
fn dedup_mode() -> impl TypedValueParser<Value = DedupMode> {
    let mode = |name: String| DedupMode::NAMES.iter().find(|(known, _)| *known == name).map(|mode| mode.1);
    PossibleValuesParser::new(DedupMode::NAMES.map(|(name, _)| name))
        .try_map(move |name| mode(name).ok_or("no mode"))
}

/// Reads the name of a profile of columns.
fn profile() -> impl TypedValueParser<Value = Profile> {
    let profile = |name: String| Profile::NAMES.iter().find(|(known, _)| *known == name).map(|found| found.1);
    PossibleValuesParser::new(Profile::NAMES.map(|(name, _)| name))
        .try_map(move |name| profile(name).ok_or("no profile"))
}

fn main() -> ExitCode {
    if let Err(missing) = sluice_cpu::cpu_baseline() {
        complain!("sluiced: {missing}");
        return ExitCode::FAILURE;
    }
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args.config, args.json),
        Command::Check(args) => check::check(args.config.as_deref(), args.policy.as_deref()),
        Command::Replay(args) => replay::replay(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => man::run(&args, Cli::command()).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            complain!("sluiced: error: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes, leaving out those that the text before already tells.
fn describe(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
