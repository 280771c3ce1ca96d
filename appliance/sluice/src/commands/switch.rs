//! `sluice stop` and `start`: whether traffic is copied.

use sluice_api::v1;
use sluice_api::v1::status_service_client::StatusServiceClient;

use crate::cli::Context;
use crate::failure::{Exit, Failure};

use super::status;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Why, for the log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
}

pub(crate) async fn start(args: Args, context: &Context) -> Result<Exit, Failure> {
    let mut client = StatusServiceClient::new(context.connection.open().await?);
    show(&client.start(v1::StartRequest { comment: args.comment }).await?.into_inner(), context)
}

pub(crate) async fn stop(args: Args, context: &Context) -> Result<Exit, Failure> {
    let mut client = StatusServiceClient::new(context.connection.open().await?);
    show(&client.stop(v1::StopRequest { comment: args.comment }).await?.into_inner(), context)
}

fn show(status: &v1::Status, context: &Context) -> Result<Exit, Failure> {
    if context.out.json {
        context.out.message("Status", status)?;
    } else {
        let (tone, word) = status::state(status.state());
        context.out.line(&format!("state: {}", context.out.paint(tone, &word)))?;
    }
    Ok(Exit::Ok)
}
