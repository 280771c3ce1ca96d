//! What was in force before, and back to it.

use sluice_api::v1;
use sluice_api::v1::history_service_server::HistoryService;
use sluice_model::Generation;
use sluice_model::spec::PolicySetSpec;
use tonic::{Request, Response, Status};

use super::change::{answer, counts};
use super::{Service, caller};
use crate::history::{HistoryError, Origin, Record};
use crate::policies::{ChangeError, Policies, parse};

fn message(record: &Record, in_force: Generation) -> v1::Generation {
    let origin = match record.origin {
        Origin::File => v1::Origin::Boot,
        Origin::Apply => v1::Origin::Apply,
        Origin::Put => v1::Origin::Put,
        Origin::Delete => v1::Origin::Delete,
        Origin::Rollback(_) => v1::Origin::Rollback,
    };
    let rolled_back_to = match record.origin {
        Origin::Rollback(to) => Some(to.0),
        Origin::File | Origin::Apply | Origin::Put | Origin::Delete => None,
    };
    v1::Generation {
        generation: record.generation.0,
        applied_at_ns: record.applied_at_ns,
        applied_by: record.applied_by.clone(),
        comment: record.comment.clone(),
        origin: origin.into(),
        rolled_back_to,
        policies: record.policies,
        groups: record.groups,
        destinations: record.destinations,
        in_force: record.generation == in_force,
    }
}

/// The set of a generation that is kept.
fn spec(policies: &Policies, generation: Generation) -> Result<PolicySetSpec, Status> {
    let record = policies.history().get(generation).map_err(|error| missing(&error))?;
    parse(&record).map(|(spec, _)| spec).map_err(|error| unreadable(&error))
}

fn missing(error: &HistoryError) -> Status {
    match error {
        HistoryError::NotKept(_) => Status::not_found(error.to_string()),
        HistoryError::Store(_) => Status::data_loss(error.to_string()),
    }
}

fn unreadable(error: &ChangeError) -> Status {
    Status::data_loss(error.to_string())
}

#[tonic::async_trait]
impl HistoryService for Service {
    async fn list_generations(
        &self,
        request: Request<v1::ListGenerationsRequest>,
    ) -> Result<Response<v1::ListGenerationsResponse>, Status> {
        let limit = match request.get_ref().limit {
            0 => usize::MAX,
            limit => limit as usize,
        };
        let list = move |policies: &Policies| {
            let history = policies.history();
            let in_force = policies.current().generation;
            Ok(history.records().rev().take(limit).map(|record| message(record, in_force)).collect())
        };
        let generations = self.blocking(list).await?;
        Ok(Response::new(v1::ListGenerationsResponse { generations }))
    }

    async fn get_generation(
        &self,
        request: Request<v1::GetGenerationRequest>,
    ) -> Result<Response<v1::GetGenerationResponse>, Status> {
        let generation = Generation(request.get_ref().generation);
        let get = move |policies: &Policies| {
            let set = spec(policies, generation)?;
            let record = policies.history().get(generation).map_err(|error| missing(&error))?;
            Ok(v1::GetGenerationResponse {
                generation: Some(message(&record, policies.current().generation)),
                diff: Some(record.changes.into()),
                set: Some(
                    v1::PolicySet::try_from(&set).map_err(|error| Status::internal(error.to_string()))?,
                ),
            })
        };
        self.blocking(get).await.map(Response::new)
    }

    async fn diff_generations(
        &self,
        request: Request<v1::DiffGenerationsRequest>,
    ) -> Result<Response<v1::Diff>, Status> {
        let v1::DiffGenerationsRequest { from, to } = request.into_inner();
        let diff = move |policies: &Policies| {
            let to = to.map_or_else(|| policies.current().generation, Generation);
            Ok(spec(policies, Generation(from))?.diff(&spec(policies, to)?).into())
        };
        self.blocking(diff).await.map(Response::new)
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let by = caller(&request);
        let v1::RollbackRequest { generation, comment, expected_generation } = request.into_inner();
        let back = move |policies: &Policies| {
            let before = policies.current();
            let expected = expected_generation.map(Generation);
            let outcome = policies.roll_back(generation.map(Generation), by, comment, expected);
            let after = policies.current();
            let mut response = answer(policies, outcome, counts(&after.policies))?;
            response.diff = Some(before.spec.diff(&after.spec).into());
            Ok(response)
        };
        self.blocking(back).await.map(Response::new)
    }
}
