//! Which commands are there, and what do they have in common?

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::commands::{
    apply, capture, completions, counters, diff, doctor, explain, flows, guests, history, man, object, ovs,
    rollback, status, switch, talkers, top,
};
use crate::connect::Connection;
use crate::failure::{Exit, Failure};
use crate::out::{ColorChoice, Out, Tone};

/// Steers and watches a sluiced, the daemon of the Sluice packet broker.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about,
    propagate_version = true,
    after_help = "Exit codes: 0 done; 1 refused or failed; 2 wrong arguments; 3 the daemon cannot be reached; 4 not allowed; \
                  5 no such thing; 6 changed in between; 7 there are differences (diff --exit-code)."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
    /// JSON for scripts instead of tables.
    #[arg(long, global = true)]
    json: bool,
    /// When to use colours.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorChoice,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a policy file in force, or try it.
    Apply(apply::Args),
    /// What a policy file would change.
    Diff(diff::Args),
    /// Policies in force: list, get, put, delete.
    #[command(subcommand)]
    Policy(object::Action),
    /// Groups of addresses in force: list, get, put, delete.
    #[command(subcommand)]
    Group(object::Action),
    /// Destinations in force: list, get, put, delete.
    #[command(subcommand)]
    Destination(object::Action),
    /// What becomes of a packet, and why.
    Explain(explain::Args),
    /// The state of the daemon.
    Status,
    /// Ports and their counters.
    Ports(status::PortArgs),
    /// Workers and their counters.
    Workers,
    /// Counters of the whole, of policies, destinations and tunnels.
    Counters(counters::Args),
    /// Packets and copies that were not sent, by reason.
    Drops(counters::DropArgs),
    /// Flows in the table.
    Flows(flows::Args),
    /// Who sent the most in the last seconds.
    Talkers(talkers::Args),
    /// A live view: ports, workers, policies, destinations, drops, rates.
    Top(top::Args),
    /// Earlier generations of policies, or what one of them changed.
    History(history::Args),
    /// Put an earlier generation in force again.
    Rollback(rollback::Args),
    /// Write live packets as pcapng.
    Capture(Box<capture::Args>),
    /// Copy traffic again after stop.
    Start(switch::Args),
    /// Copy nothing until start.
    Stop(switch::Args),
    /// Is this machine fit for a broker, and what would mend it?
    Doctor(doctor::Args),
    /// Virtual machines and ports of Open vSwitch that policies may name.
    Guests(guests::Args),
    /// Mirror a bridge of OVS-DPDK to Sluice, and take it away again.
    #[command(subcommand)]
    Ovs(ovs::Action),
    /// Completions for a shell, on stdout.
    Completions(completions::Args),
    /// Manual pages, on stdout or into a folder.
    Man(man::Args),
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) connection: Connection,
    pub(crate) out: Out,
}

pub(crate) fn main() -> ExitCode {
    let Cli { command, connection, json, color } = Cli::parse();
    let out = Out::new(json, color);
    let context = Context { connection, out };
    let result = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime.block_on(run(command, &context)),
        Err(error) => Err(Failure::failed(format!("cannot start: {error}"))),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(Failure { exit, text, help }) => {
            if !text.is_empty() {
                out.complain(Tone::Bad, "sluice: error", &text);
            }
            if let Some(help) = help {
                out.note(&format!("  {help}"));
            }
            exit.into()
        }
    }
}

async fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Apply(args) => apply::run(args, context).await,
        Command::Diff(args) => diff::run(args, context).await,
        Command::Policy(action) => object::policy(action, context).await,
        Command::Group(action) => object::group(action, context).await,
        Command::Destination(action) => object::destination(action, context).await,
        Command::Explain(args) => explain::run(args, context).await,
        Command::Status => status::run(context).await,
        Command::Ports(args) => status::ports(args, context).await,
        Command::Workers => status::workers(context).await,
        Command::Counters(args) => counters::run(args, context).await,
        Command::Drops(args) => counters::drops(args, context).await,
        Command::Flows(args) => flows::run(args, context).await,
        Command::Talkers(args) => talkers::run(args, context).await,
        Command::Top(args) => top::run(args, context).await,
        Command::History(args) => history::run(args, context).await,
        Command::Rollback(args) => rollback::run(args, context).await,
        Command::Capture(args) => capture::run(*args, context).await,
        Command::Start(args) => switch::start(args, context).await,
        Command::Stop(args) => switch::stop(args, context).await,
        Command::Doctor(args) => doctor::run(&args, context).await,
        Command::Guests(args) => guests::run(args, context).await,
        Command::Ovs(action) => ovs::run(&action, context),
        Command::Completions(args) => completions::run(&args, Cli::command(), context),
        Command::Man(args) => man::run(&args, Cli::command(), context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_options_are_the_same() {
        Cli::command().debug_assert();
    }
}
