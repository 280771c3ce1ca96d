//! `sluice rollback`: an earlier generation comes into force again.

use sluice_api::v1;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::show;

use super::history;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The generation whose set shall be in force again; the one before, if not given.
    #[arg(value_name = "GENERATION")]
    generation: Option<u64>,
    /// What is said about it in the history.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    /// Refuse unless this generation is in force.
    #[arg(long, value_name = "N")]
    expect_generation: Option<u64>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let mut client = history::client(context.connection.open().await?);
    let request = v1::RollbackRequest {
        generation: args.generation,
        comment: args.comment,
        expected_generation: args.expect_generation,
    };
    show::change(&client.rollback(request).await?.into_inner(), &[], context.out)
}
