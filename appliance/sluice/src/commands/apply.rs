//! `sluice apply`: a policy file comes into force, or is tried.

use std::path::PathBuf;
use std::time::Duration;

use sluice_api::v1;
use sluice_api::v1::dry_run_response::Step;
use sluice_api::v1::policy_service_client::PolicyServiceClient;

use crate::cli::Context;
use crate::connect::Wire;
use crate::failure::{Exit, Failure};
use crate::out::Out;
use crate::policy_file;
use crate::show;
use crate::table::{numbers, row};
use crate::text::{counted, ms32, parse_duration, safe};

/// How often counts of live traffic are asked for, in milliseconds.
const PROGRESS_MS: u32 = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The policy file; - is stdin.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Say what would change, and put nothing in force.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: count for so long on live traffic what the set would match, up to 60s.
    #[arg(long, value_name = "TIME", requires = "dry_run", value_parser = parse_duration)]
    live: Option<Duration>,
    /// What is said about it in the history.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    /// Refuse unless this generation is in force.
    #[arg(long, value_name = "N")]
    expect_generation: Option<u64>,
}

/// A client whose messages may be as large as policy sets.
pub(crate) fn client(wire: Wire) -> PolicyServiceClient<Wire> {
    PolicyServiceClient::new(wire).max_decoding_message_size(sluice_api::MAX_POLICY_SET_BYTES)
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let out = context.out;
    let (set, known) = policy_file::load(&args.file, out)?;
    let set = policy_file::message(&set)?;
    let mut client = client(context.connection.open().await?);
    if args.dry_run {
        let live = args.live.unwrap_or_default();
        if live > Duration::from_secs(60) {
            return Err(Failure::usage("--live: at most 60s"));
        }
        return dry_run(&mut client, set, &known, ms32(live), out).await;
    }
    let request = v1::ApplyPolicySetRequest {
        set: Some(set),
        comment: args.comment,
        expected_generation: args.expect_generation,
    };
    show::change(&client.apply_policy_set(request).await?.into_inner(), &known, out)
}

async fn dry_run(
    client: &mut PolicyServiceClient<Wire>,
    set: v1::PolicySet,
    known: &[String],
    live_ms: u32,
    out: Out,
) -> Result<Exit, Failure> {
    let interval_ms = if live_ms == 0 { 0 } else { PROGRESS_MS };
    let request = v1::DryRunRequest { set: Some(set), live_ms, interval_ms };
    let mut stream = client.dry_run(request).await?.into_inner();
    let mut valid = true;
    let mut counted = live_ms == 0;
    while let Some(response) = stream.message().await? {
        if out.json {
            out.message_line("DryRunResponse", &response)?;
        }
        match response.step {
            Some(Step::Plan(found)) => {
                show::findings(&found.findings, known, out);
                valid = found.valid;
                if !out.json {
                    out.line(&plan(&found, out))?;
                }
            }
            Some(Step::Counts(counts)) => {
                counted |= counts.last;
                if !out.json && counts.last {
                    out.progress("");
                    out.line(&live(&counts))?;
                } else if !out.json {
                    let seconds = counts.elapsed_ms / 1_000;
                    out.progress(&format!("{seconds} s: {} packets looked at", counts.packets));
                }
            }
            None => {}
        }
    }
    match (valid, counted) {
        (false, _) => Err(Failure::failed("the set would be refused")),
        (true, false) => {
            out.progress("");
            Err(Failure::new(Exit::Unreachable, "the daemon ended the count early"))
        }
        (true, true) => Ok(Exit::Ok),
    }
}

pub(crate) fn plan(plan: &v1::DryRunPlan, out: Out) -> String {
    let empty = v1::Diff::default();
    let diff = plan.diff.as_ref().unwrap_or(&empty);
    let mut lines = Vec::new();
    if diff.changes.is_empty() {
        lines.push(format!("nothing would change: generation {} is the same", plan.generation));
    } else {
        lines.push(show::diff(diff, out));
        lines.push(format!("against generation {}: {}", plan.generation, show::summary(diff)));
    }
    if let Some(compiled) = &plan.compiled {
        lines.push(format!(
            "compiled: {}, {}, {} bytes of tables, {} us",
            counted(compiled.policies, "policy", "policies"),
            counted(compiled.destinations, "destination", "destinations"),
            compiled.table_bytes,
            compiled.compile_us
        ));
    }
    lines.join("\n")
}

pub(crate) fn live(counts: &v1::LiveCounts) -> String {
    let mut policies = numbers(&["policy would match", "packets", "bytes"]);
    for policy in &counts.policies {
        policies.add_row(row(safe(&policy.name), &[policy.packets, policy.bytes]));
    }
    let mut destinations = numbers(&["destination would get", "copies", "bytes"]);
    for destination in &counts.destinations {
        destinations.add_row(row(safe(&destination.name), &[destination.copies, destination.bytes]));
    }
    let sampled =
        if counts.sampling > 1 { format!(", one in {} looked at", counts.sampling) } else { String::new() };
    format!(
        "\n{policies}\n\n{destinations}\n\nin {} ms: {} packets, {} of them matched by no policy{sampled}",
        counts.elapsed_ms, counts.packets, counts.unmatched_packets
    )
}
