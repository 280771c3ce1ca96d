//! `sluice man`: manual pages.

use std::path::PathBuf;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::out::written;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that gets a page for each command; without it, the page of sluice goes to stdout.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, command: clap::Command, context: &Context) -> Result<Exit, Failure> {
    if let Some(folder) = &args.folder {
        std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(command, folder))
            .map_err(|error| Failure::failed(format!("cannot write to {}: {error}", folder.display())))?;
        context.out.note(&format!("manual pages are in {}", folder.display()));
        return Ok(Exit::Ok);
    }
    let mut text = Vec::new();
    written(clap_mangen::Man::new(command).render(&mut text))?;
    written(std::io::Write::write_all(&mut std::io::stdout().lock(), &text))?;
    Ok(Exit::Ok)
}
