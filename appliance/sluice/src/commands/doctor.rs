//! `sluice doctor`: is this machine fit for a broker, and what would mend it?

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use sluice_api::v1;
use sluice_host::doctor::{Case, Finding, Level, examine, mend};
use sluice_host::{Host, Machine};
use sluice_model::spec::{Diagnostics, Loaded, PolicySetSpec, load_boot, load_policy};
use sluice_model::{BootConfig, PolicySet};

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::out::{Out, Tone};
use crate::text::safe;

use super::apply;

/// The boot config that is looked at where none is named.
const USUAL_CONFIG: &str = "/etc/sluice/sluiced.toml";

/// How long the daemon may take to say which policies are in force: the machine is looked at all the same.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The boot config that the machine is held against [default: /etc/sluice/sluiced.toml, if it is there].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run the commands that stop nothing and hold until the next boot at most, then look again.
    #[arg(long)]
    fix: bool,
    /// Tell also what is as it should be.
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let out = context.out;
    let usual = Path::new(USUAL_CONFIG);
    let config = args.config.as_deref().or_else(|| usual.is_file().then_some(usual));
    // What cannot be read is a finding, and the machine is looked at all the same.
    let mut unread = Vec::new();
    let boot = config.and_then(|config| loaded(load_boot(config), config, &mut unread));
    let mut policies = match &boot {
        Some(boot) if boot.policy.is_file() => loaded(load_policy(&boot.policy), &boot.policy, &mut unread),
        _ => None,
    };
    if let Some(boot) = &boot {
        let found = in_force(boot, context).await;
        unread.push(looked_at(&found, boot));
        policies = found.map_or(policies, |(_, set)| Some(set));
    }
    let machine = Machine::new(Path::new("/"), &Host);
    let case = Case { config, boot: boot.as_ref(), policies: policies.as_ref() };
    let look = || unread.iter().cloned().chain(examine(&machine, &case)).collect::<Vec<_>>();
    let mut findings = look();
    let mut done = Vec::new();
    if args.fix {
        done = mend(&machine, &findings);
        findings = look();
    }
    let failed = done.iter().any(|(_, result)| result.is_err());
    if out.json {
        let done = done
            .iter()
            .map(|(remedy, result)| json!({ "command": remedy.command, "error": result.as_ref().err() }));
        let all = json!({ "findings": findings, "done": done.collect::<Vec<_>>() });
        out.line(&serde_json::to_string_pretty(&all).unwrap_or_default())?;
    } else {
        for (remedy, result) in &done {
            match result {
                Ok(()) => out.line(&format!("{}     {}", out.paint(Tone::Good, "done"), remedy.command))?,
                Err(error) => {
                    out.line(&format!(
                        "{}   {}: {}",
                        out.paint(Tone::Bad, "failed"),
                        remedy.command,
                        safe(error)
                    ))?;
                }
            }
        }
        show(&findings, args.all, out)?;
        if config.is_none() {
            out.note("no boot config was looked at: name one with --config FILE");
        }
    }
    let unfit = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if unfit || failed { Exit::Failed } else { Exit::Ok })
}

/// The policies in force and their generation, if the daemon of this boot config answers; else why it does not.
async fn in_force(boot: &BootConfig, context: &Context) -> Result<(u64, PolicySet), String> {
    if !boot.api.enabled {
        return Err("the boot config has no API".to_owned());
    }
    let asked = async {
        let mut client = apply::client(context.connection.open_here(boot.api.socket.as_deref()).await?);
        Ok::<_, Failure>(client.get_policy_set(v1::GetPolicySetRequest {}).await?.into_inner())
    };
    let found = tokio::time::timeout(PATIENCE, asked).await;
    let found = found.map_err(|_| format!("nothing within {} s", PATIENCE.as_secs()))?;
    let found = found.map_err(|failure| failure.text)?;
    let set = PolicySetSpec::from(&found.set.unwrap_or_default()).validate();
    Ok((found.generation, set.map_err(|errors| errors.to_string())?.value))
}

/// Which policies the ways and folders of destinations are taken from.
fn looked_at(in_force: &Result<(u64, PolicySet), String>, boot: &BootConfig) -> Finding {
    let file = boot.policy.display();
    let (level, text) = match in_force {
        Ok((generation, _)) => (Level::Ok, format!("those in force are looked at: generation {generation}")),
        // What was applied is in force at the next start, and the file is not.
        Err(why) if boot.api.store.is_some() => {
            (Level::Note, format!("no daemon tells what was applied ({why}): {file} is looked at instead"))
        }
        Err(why) => (Level::Ok, format!("{file} is looked at, as no daemon tells what is in force ({why})")),
    };
    Finding { check: "policies", subject: String::new(), level, text, cost: String::new(), remedy: None }
}

/// What a file says; each of its errors is a finding.
fn loaded<T>(result: Result<Loaded<T>, Diagnostics>, path: &Path, findings: &mut Vec<Finding>) -> Option<T> {
    let errors = match result {
        Ok(loaded) => return Some(loaded.value),
        Err(Diagnostics(errors)) => errors,
    };
    findings.extend(errors.iter().map(|error| Finding {
        check: "config",
        subject: path.display().to_string(),
        level: Level::Error,
        text: error.to_string(),
        cost: "the daemon does not start with it".to_owned(),
        remedy: None,
    }));
    None
}

/// A paragraph for each finding, then how many there are of each kind.
fn show(findings: &[Finding], all: bool, out: Out) -> Result<(), Failure> {
    let mut counts = [0; 4];
    for finding in findings {
        let (word, tone) = match finding.level {
            Level::Ok => ("ok", Some(Tone::Good)),
            Level::Note => ("note", None),
            Level::Warning => ("warning", Some(Tone::Warn)),
            Level::Error => ("error", Some(Tone::Bad)),
        };
        if let Some(count) = counts.get_mut(finding.level as usize) {
            *count += 1;
        }
        if finding.level == Level::Ok && !all {
            continue;
        }
        let padded = format!("{word:<8}");
        let word = tone.map_or_else(|| padded.clone(), |tone| out.paint(tone, &padded));
        let subject =
            if finding.subject.is_empty() { String::new() } else { format!(" {}", safe(&finding.subject)) };
        out.line(&format!("{word} {}{subject}: {}", finding.check, safe(&finding.text)))?;
        if !finding.cost.is_empty() {
            out.line(&format!("         cost: {}", safe(&finding.cost)))?;
        }
        if let Some(remedy) = &finding.remedy {
            let safe = if remedy.safe { " (by --fix)" } else { "" };
            out.line(&format!("         mend{safe}: {}", remedy.command))?;
        }
    }
    let [ok, notes, warnings, errors] = counts;
    out.line(&format!("{errors} errors, {warnings} warnings, {notes} notes, {ok} as they should be"))
}
