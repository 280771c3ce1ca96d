//! `sluice`, the operator's command line: arguments, one call of the API, tables or JSON, exit codes.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod connect;
mod failure;
mod json;
mod out;
mod policy_file;
mod show;
mod table;
mod text;
#[cfg(test)]
mod untrusted;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
