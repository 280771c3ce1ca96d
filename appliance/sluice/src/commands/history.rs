//! `sluice history`: earlier generations, or what one of them changed.

use sluice_api::v1;
use sluice_api::v1::history_service_client::HistoryServiceClient;

use crate::cli::Context;
use crate::connect::Wire;
use crate::failure::{Exit, Failure};
use crate::show;
use crate::table::table;
use crate::text::{or_dash, safe, time, word};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A generation: show what it changed.
    #[arg(value_name = "GENERATION")]
    generation: Option<u64>,
    /// The most generations that are listed; 0 = all that are kept.
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u32,
}

/// A client whose messages may be as large as policy sets.
pub(crate) fn client(wire: Wire) -> HistoryServiceClient<Wire> {
    HistoryServiceClient::new(wire).max_decoding_message_size(sluice_api::MAX_POLICY_SET_BYTES)
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let out = context.out;
    let mut client = client(context.connection.open().await?);
    if let Some(generation) = args.generation {
        let found = client.get_generation(v1::GetGenerationRequest { generation }).await?.into_inner();
        if out.json {
            out.message("GetGenerationResponse", &found)?;
        } else {
            out.line(&generations(found.generation.as_slice()))?;
            let changes = show::diff(&found.diff.unwrap_or_default(), out);
            out.line(if changes.is_empty() { "no changes" } else { &changes })?;
        }
        return Ok(Exit::Ok);
    }
    let response =
        client.list_generations(v1::ListGenerationsRequest { limit: args.limit }).await?.into_inner();
    if out.json {
        out.message("ListGenerationsResponse", &response)?;
    } else {
        out.line(&generations(&response.generations))?;
    }
    Ok(Exit::Ok)
}

pub(crate) fn generations(list: &[v1::Generation]) -> String {
    let mut generations =
        table(&["generation", "applied", "by", "how", "policies", "groups", "destinations", "comment"]);
    for generation in list {
        let mark = if generation.in_force { " (in force)" } else { "" };
        let how = word(generation.origin().as_str_name(), "ORIGIN_");
        let back = generation.rolled_back_to.map_or_else(String::new, |to| format!(" to {to}"));
        generations.add_row([
            format!("{}{mark}", generation.generation),
            time(generation.applied_at_ns),
            or_dash(safe(&generation.applied_by)),
            format!("{how}{back}"),
            generation.policies.to_string(),
            generation.groups.to_string(),
            generation.destinations.to_string(),
            or_dash(safe(&generation.comment)),
        ]);
    }
    generations.to_string()
}
