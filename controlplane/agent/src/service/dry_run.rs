//! What would a set change, and what would it match of the traffic that passes now?

use std::time::Duration;

use sluice_api::{findings, v1};
use sluice_engine::runtime::{Trial, TrialRow};
use sluice_model::PolicySet;
use sluice_model::spec::{Diagnostics, Loaded, PolicySetSpec, Severity};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::change::counts;
use super::policy::confine;
use super::{Answers, Service, required};
use crate::policies::Policies;

/// The longest trial, and the shortest and longest time between two messages, in milliseconds.
const LONGEST_MS: u32 = 60_000;
const INTERVAL_MS: std::ops::RangeInclusive<u32> = 100..=60_000;
/// Answers that wait for a client that does not read.
const ANSWERS: usize = 4;
/// How long it may take for the last one: there is one trial at a time.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Service {
    /// The answers to a dry run: the plan, then counts, if these are asked for and the set is valid.
    pub(super) async fn try_set(
        &self,
        request: v1::DryRunRequest,
    ) -> Result<Answers<v1::DryRunResponse>, Status> {
        let v1::DryRunRequest { set, live_ms, interval_ms } = request;
        let mut set = required(set, "set")?;
        if live_ms > LONGEST_MS {
            return Err(Status::invalid_argument(format!("live_ms: at most {LONGEST_MS}")));
        }
        if interval_ms != 0 && !INTERVAL_MS.contains(&interval_ms) {
            let [least, most] = [INTERVAL_MS.start(), INTERVAL_MS.end()];
            return Err(Status::invalid_argument(format!("interval_ms: {least} to {most}, or 0")));
        }
        let (plan, trial) = self
            .blocking(move |policies| {
                let (plan, valid) = plan(policies, &mut set);
                let Some(set) = valid.filter(|_| live_ms > 0) else { return Ok((plan, None)) };
                let trial = policies.engine().try_out(&policies.resolved(&set));
                let trial = trial.map_err(|busy| Status::resource_exhausted(busy.to_string()))?;
                Ok((plan, Some((trial, set))))
            })
            .await?;
        let (answers, stream) = mpsc::channel(ANSWERS);
        // There is room.
        drop(answers.try_send(Ok(step(v1::dry_run_response::Step::Plan(plan)))));
        if let Some((trial, set)) = trial {
            let interval_ms = if interval_ms == 0 { live_ms } else { interval_ms };
            let [length, interval] = [live_ms, interval_ms].map(|ms| Duration::from_millis(ms.into()));
            tokio::spawn(self.clone().count(trial, set, answers, [length, interval]));
        }
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    /// Tells what is counted, until the time is over, the client has gone or the daemon stops.
    async fn count(
        mut self,
        trial: Trial,
        set: PolicySet,
        answers: mpsc::Sender<Result<v1::DryRunResponse, Status>>,
        [length, interval]: [Duration; 2],
    ) {
        let begin = Instant::now();
        let end = begin + length;
        let mut next = begin;
        loop {
            next = (next + interval).min(end);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = answers.closed() => break,
                _stopped = self.stop.wait_for(|stop| *stop) => break,
            }
            let last = Instant::now() >= end;
            let counts = live_counts(&trial, &set, begin.elapsed(), last);
            let counts = Ok(step(v1::dry_run_response::Step::Counts(counts)));
            let told = tokio::time::timeout_at(end + LAST_WORDS, answers.send(counts)).await;
            if last || !matches!(told, Ok(Ok(()))) {
                break;
            }
        }
        // It waits for the workers.
        let _ended = tokio::task::spawn_blocking(move || drop(trial)).await;
    }
}

fn step(step: v1::dry_run_response::Step) -> v1::DryRunResponse {
    v1::DryRunResponse { step: Some(step) }
}

fn live_counts(trial: &Trial, set: &PolicySet, elapsed: Duration, last: bool) -> v1::LiveCounts {
    let counts = trial.counts();
    let policies = set.policies().iter().zip(&counts.policies);
    let destinations = set.destinations().iter().zip(&counts.destinations);
    v1::LiveCounts {
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        packets: counts.all.packets,
        bytes: counts.all.bytes,
        unmatched_packets: counts.unmatched.packets,
        policies: policies
            .map(|(policy, &TrialRow { packets, bytes })| v1::LivePolicy {
                name: policy.name.clone(),
                packets,
                bytes,
            })
            .collect(),
        destinations: destinations
            .map(|(destination, row)| v1::LiveDestination {
                name: destination.name.clone(),
                copies: row.packets,
                bytes: row.bytes,
            })
            .collect(),
        last,
        sampling: trial.sampling(),
    }
}

/// What a set would change, and whether it would be taken.
fn plan(policies: &Policies, set: &mut v1::PolicySet) -> (v1::DryRunPlan, Option<PolicySet>) {
    let current = policies.current();
    let outside = confine(set, policies);
    let set = &*set;
    let mut plan = v1::DryRunPlan {
        diff: Some(current.spec.diff(&PolicySetSpec::from(set)).into()),
        generation: current.generation.0,
        ..v1::DryRunPlan::default()
    };
    if !outside.is_empty() {
        plan.findings = outside;
        return (plan, None);
    }
    let mut valid = None;
    match sluice_api::validate(set) {
        Err(Diagnostics(errors)) => plan.findings = findings(&errors),
        Ok(Loaded { value, warnings }) => {
            let (found, clashes) = policies.check(&value);
            plan.valid =
                clashes.is_empty() && !found.iter().any(|finding| finding.severity == Severity::Error);
            plan.findings = findings(&warnings);
            plan.findings.extend(findings(&found));
            plan.findings.extend(clashes.into_iter().map(|reason| v1::Finding {
                severity: v1::Severity::Error.into(),
                reason,
                ..v1::Finding::default()
            }));
            let (report, compile) = policies.engine().compile(&policies.resolved(&value));
            let [policies, destinations] = counts(&value);
            plan.compiled = Some(v1::CompileReport {
                policies,
                destinations,
                table_bytes: report.bytes as u64,
                compile_us: u64::try_from(compile.as_micros()).unwrap_or(u64::MAX),
            });
            valid = plan.valid.then_some(value);
        }
    }
    (plan, valid)
}
