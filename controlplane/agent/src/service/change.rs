//! What is a client told of a change that it asked for?

use std::time::Instant;

use sluice_api::{findings, v1};
use sluice_model::PolicySet;
use sluice_model::spec::{Diagnostics, Loaded, PolicySetSpec};
use tonic::Status;

use crate::history::HistoryError;
use crate::policies::{Change, ChangeError, Outcome, Policies};

/// Validates `spec` and makes it the set in force.
pub(super) fn change(
    policies: &Policies,
    spec: PolicySetSpec,
    validated: Result<Loaded<PolicySet>, Diagnostics>,
    asked: impl FnOnce(PolicySetSpec, PolicySet) -> Change,
) -> Result<v1::ChangeResponse, Status> {
    let begin = Instant::now();
    let before = policies.current();
    let diff = before.spec.diff(&spec);
    let loaded = match validated {
        Ok(loaded) => loaded,
        Err(errors) => {
            return Ok(v1::ChangeResponse {
                generation: before.generation.0,
                findings: findings(&errors.0),
                diff: Some(diff.into()),
                ..v1::ChangeResponse::default()
            });
        }
    };
    let set = counts(&loaded.value);
    let outcome = policies.change(asked(spec, loaded.value));
    let mut response = answer(policies, outcome, set)?;
    response.findings.splice(0..0, findings(&loaded.warnings));
    response.diff = Some(diff.into());
    response.apply_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(response)
}

/// The answer to a change that was tried. A change that is refused for what the set says is no gRPC error.
pub(super) fn answer(
    policies: &Policies,
    outcome: Result<Outcome, ChangeError>,
    [count, destinations]: [u32; 2],
) -> Result<v1::ChangeResponse, Status> {
    let in_force = || policies.current().generation.0;
    match outcome {
        Ok(outcome) => Ok(v1::ChangeResponse {
            applied: true,
            generation: outcome.generation.0,
            findings: findings(&outcome.findings),
            compiled: outcome.deployed.map(|deployed| v1::CompileReport {
                policies: count,
                destinations,
                table_bytes: deployed.report.bytes as u64,
                compile_us: u64::try_from(deployed.compile.as_micros()).unwrap_or(u64::MAX),
            }),
            apply_us: u64::try_from(outcome.elapsed.as_micros()).unwrap_or(u64::MAX),
            ..v1::ChangeResponse::default()
        }),
        Err(error @ ChangeError::Outdated { .. }) => Err(Status::aborted(error.to_string())),
        Err(error @ ChangeError::History(HistoryError::NotKept(_))) => {
            Err(Status::not_found(error.to_string()))
        }
        Err(ChangeError::Findings(found)) => Ok(v1::ChangeResponse {
            generation: in_force(),
            findings: findings(&found),
            ..v1::ChangeResponse::default()
        }),
        Err(
            error @ (ChangeError::Clash(_)
            | ChangeError::Deploy(_)
            | ChangeError::Text(_)
            | ChangeError::History(HistoryError::Store(_))),
        ) => {
            tracing::warn!(%error, "policies were not put in force");
            Ok(v1::ChangeResponse {
                generation: in_force(),
                failure: error.to_string(),
                ..v1::ChangeResponse::default()
            })
        }
    }
}

/// Policies and destinations in a set.
pub(super) fn counts(policies: &PolicySet) -> [u32; 2] {
    [policies.policies().len(), policies.destinations().len()]
        .map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}
