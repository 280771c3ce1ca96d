//! `sluiced man`: manual pages, of section 8 as of a daemon.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap_mangen::Man;

use crate::say::Out;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that gets a page for each command; without it, the page of sluiced goes to stdout.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, command: clap::Command) -> Result<()> {
    let Some(folder) = &args.folder else {
        let mut text = Vec::new();
        page(command).render(&mut text)?;
        return Out::text(&text);
    };
    let mut command = command.disable_help_subcommand(true);
    command.build();
    std::fs::create_dir_all(folder)
        .and_then(|()| pages(&command, folder))
        .with_context(|| format!("cannot write to {}", folder.display()))
}

/// A page for the command, and one for each below it.
fn pages(command: &clap::Command, folder: &Path) -> std::io::Result<()> {
    for below in command.get_subcommands() {
        pages(below, folder)?;
    }
    page(command.clone()).generate_to(folder).map(drop)
}

fn page(command: clap::Command) -> Man {
    Man::new(command).section("8")
}
