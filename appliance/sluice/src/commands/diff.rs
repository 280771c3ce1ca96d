//! `sluice diff`: what a policy file would change. Worked out here, so that a viewer may ask.

use std::path::PathBuf;

use sluice_api::v1;
use sluice_model::spec::PolicySetSpec;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::policy_file;
use crate::show;

use super::apply;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The policy file; - is stdin.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// End with exit code 7 when there are differences.
    #[arg(long)]
    exit_code: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let out = context.out;
    let (after, _) = policy_file::load(&args.file, out)?;
    let mut client = apply::client(context.connection.open().await?);
    let found = client.get_policy_set(v1::GetPolicySetRequest {}).await?.into_inner();
    let before = PolicySetSpec::from(&found.set.unwrap_or_default());
    let diff = v1::Diff::from(before.diff(&after));
    if out.json {
        out.message("Diff", &diff)?;
    } else if diff.changes.is_empty() {
        out.line(&format!("no difference to generation {}", found.generation))?;
    } else {
        out.line(&show::diff(&diff, out))?;
        out.line(&format!("against generation {}: {}", found.generation, show::summary(&diff)))?;
    }
    Ok(if args.exit_code && !diff.changes.is_empty() { Exit::Different } else { Exit::Ok })
}
