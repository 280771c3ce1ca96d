//! `sluice completions`: completions for a shell.

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::out::written;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args, mut command: clap::Command, _: &Context) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "sluice", &mut text);
    written(std::io::Write::write_all(&mut std::io::stdout().lock(), &text))?;
    Ok(Exit::Ok)
}
