//! `sluiced completions`: completions for a shell.

use anyhow::Result;

use crate::say::Out;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args, mut command: clap::Command) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "sluiced", &mut text);
    Out::text(&text)
}
