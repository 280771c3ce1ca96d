//! `sluiced`, the Sluice daemon: arguments, start-up, ordered shutdown.
#![forbid(unsafe_code)]

mod replay;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Sluice: an open network packet broker.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replay capture files through the whole pipeline: no hugepages, no rights, no network.
    Replay(ReplayArgs),
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
}

fn main() -> ExitCode {
    if let Err(missing) = sluice_cpu::cpu_baseline() {
        eprintln!("sluiced: {missing}");
        return ExitCode::FAILURE;
    }
    let result = match Cli::parse().command {
        Command::Replay(args) => replay::replay(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluiced: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
