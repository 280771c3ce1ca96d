//! Reading and changing what is in force.

use sluice_api::v1::policy_service_server::PolicyService;
use sluice_api::{rebase, v1};
use sluice_model::Generation;
use sluice_model::spec::PolicySetSpec;
use tonic::{Request, Response, Status};

use super::change::change;
use super::{Answers, Service, caller, required};
use crate::history::Origin;
use crate::pcap_folder;
use crate::policies::{Change, Current, Policies};

/// Elements of a page where the request names no number, and at most.
const PAGE: [u32; 2] = [1_000, 10_000];

/// Who asks for a change, and under which condition.
struct Asked {
    by: String,
    comment: String,
    expected: Option<u64>,
    origin: Origin,
}

impl Asked {
    fn new<T>(
        request: &Request<T>,
        comment: &str,
        expected: Option<u64>,
        origin: Origin,
    ) -> Result<Self, Status> {
        const LONGEST: usize = 1_000;
        if comment.chars().count() > LONGEST {
            return Err(Status::invalid_argument(format!("comment: longer than {LONGEST} characters")));
        }
        Ok(Self { by: caller(request), comment: comment.to_owned(), expected, origin })
    }

    /// The change that makes `message` the set in force.
    fn whole(self, policies: &Policies, message: &mut v1::PolicySet) -> Result<v1::ChangeResponse, Status> {
        let outside = confine(message, policies);
        if !outside.is_empty() {
            let current = policies.current();
            return Ok(v1::ChangeResponse {
                generation: current.generation.0,
                findings: outside,
                diff: Some(current.spec.diff(&PolicySetSpec::from(&*message)).into()),
                ..v1::ChangeResponse::default()
            });
        }
        let spec = PolicySetSpec::from(&*message);
        let validated = sluice_api::validate(message);
        change(policies, spec, validated, |spec, policies| Change {
            spec,
            policies,
            by: self.by,
            comment: self.comment,
            origin: self.origin,
            expected: self.expected.map(Generation),
        })
    }

    /// The change that edits the set in force; another one in between makes it fail, as nobody saw the result.
    fn edit(
        mut self,
        policies: &Policies,
        revision: u32,
        edit: impl FnOnce(&mut v1::PolicySet) -> Result<Edited, Status>,
    ) -> Result<v1::ChangeResponse, Status> {
        let current = policies.current();
        if let Some(expected) = self.expected.filter(|expected| *expected != current.generation.0) {
            let in_force = current.generation.0;
            let told =
                format!("generation {in_force} is in force, not {expected}: read it again, and decide again");
            return Err(Status::aborted(told));
        }
        self.expected = Some(current.generation.0);
        let mut set = message(&current)?;
        set.revision = set.revision.max(revision);
        let edited = edit(&mut set)?;
        let mut response = self.whole(policies, &mut set)?;
        if let Some((list, place, name)) = edited {
            rebase(&mut response.findings, &format!("{list}[{place}]"), name);
        }
        Ok(response)
    }
}

/// Where the object of a request is in the set: the list, its place there, and the field of the request.
type Edited = Option<(&'static str, usize, &'static str)>;

/// The set in force as a message.
pub(super) fn message(current: &Current) -> Result<v1::PolicySet, Status> {
    v1::PolicySet::try_from(&current.spec).map_err(|error| Status::internal(error.to_string()))
}

/// Puts an object in a list, in the place of the one with its name.
fn put<T>(list: &mut Vec<T>, object: T, same: impl Fn(&T, &T) -> bool) -> usize {
    let place = list.iter().position(|other| same(other, &object)).unwrap_or(list.len());
    if let Some(other) = list.get_mut(place) {
        *other = object;
    } else {
        list.push(object);
    }
    place
}

fn delete<T>(list: &mut Vec<T>, kind: &str, name: &str, has: impl Fn(&T) -> bool) -> Result<Edited, Status> {
    let place = list.iter().position(has).ok_or_else(|| not_found(kind, name))?;
    list.remove(place);
    Ok(None)
}

fn not_found(kind: &str, name: &str) -> Status {
    Status::not_found(format!("there is no {kind} {name:?}"))
}

/// A page of a list, and the token of the next one: the last name of this page.
fn page<T>(mut list: Vec<T>, request: &v1::ListRequest, name: impl Fn(&T) -> &str) -> (Vec<T>, String) {
    let [default, most] = PAGE;
    let size = if request.page_size == 0 { default } else { request.page_size.min(most) };
    list.retain(|object| {
        name(object).starts_with(&request.prefix) && name(object) > request.page_token.as_str()
    });
    list.sort_by(|a, b| name(a).cmp(name(b)));
    let more = list.len() > size as usize;
    list.truncate(size as usize);
    let token = list.last().filter(|_| more).map(|last| name(last).to_owned());
    (list, token.unwrap_or_default())
}

/// Takes the files that a set names into the folder for clients; what is wrong with the others.
pub(super) fn confine(set: &mut v1::PolicySet, policies: &Policies) -> Vec<v1::Finding> {
    pcap_folder::confine(set, &policies.current().spec, policies.boot().api.pcap_folder.as_deref())
}

impl Service {
    /// The set in force as a message, and its generation.
    async fn set(&self) -> Result<(v1::PolicySet, u64), Status> {
        self.blocking(|policies| {
            let current = policies.current();
            Ok((message(&current)?, current.generation.0))
        })
        .await
    }
}

#[tonic::async_trait]
impl PolicyService for Service {
    async fn get_policy_set(
        &self,
        _request: Request<v1::GetPolicySetRequest>,
    ) -> Result<Response<v1::GetPolicySetResponse>, Status> {
        let (set, generation) = self.set().await?;
        Ok(Response::new(v1::GetPolicySetResponse { set: Some(set), generation }))
    }

    async fn apply_policy_set(
        &self,
        request: Request<v1::ApplyPolicySetRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let told = request.get_ref();
        let asked = Asked::new(&request, &told.comment, told.expected_generation, Origin::Apply)?;
        let mut set = required(request.into_inner().set, "set")?;
        self.blocking(move |policies| asked.whole(policies, &mut set)).await.map(Response::new)
    }

    type DryRunStream = Answers<v1::DryRunResponse>;

    async fn dry_run(
        &self,
        request: Request<v1::DryRunRequest>,
    ) -> Result<Response<Self::DryRunStream>, Status> {
        self.try_set(request.into_inner()).await.map(Response::new)
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let (set, generation) = self.set().await?;
        let (policies, next_page_token) = page(set.policies, request.get_ref(), |policy| &policy.name);
        Ok(Response::new(v1::ListPoliciesResponse { policies, next_page_token, generation }))
    }

    async fn get_policy(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Policy>, Status> {
        let name = &request.get_ref().name;
        let found = self.set().await?.0.policies.into_iter().find(|policy| policy.name == *name);
        found.map(Response::new).ok_or_else(|| not_found("policy", name))
    }

    async fn put_policy(
        &self,
        request: Request<v1::PutPolicyRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let told = request.get_ref();
        let asked = Asked::new(&request, &told.comment, told.expected_generation, Origin::Put)?;
        let v1::PutPolicyRequest { policy, revision, .. } = request.into_inner();
        let policy = required(policy, "policy")?;
        let edit = move |set: &mut v1::PolicySet| {
            let place = put(&mut set.policies, policy, |a, b| a.name == b.name);
            Ok(Some(("policies", place, "policy")))
        };
        self.blocking(move |policies| asked.edit(policies, revision, edit)).await.map(Response::new)
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let told = request.get_ref();
        let asked = Asked::new(&request, &told.comment, told.expected_generation, Origin::Delete)?;
        let name = request.into_inner().name;
        let edit =
            move |set: &mut v1::PolicySet| delete(&mut set.policies, "policy", &name, |p| p.name == name);
        self.blocking(move |policies| asked.edit(policies, 0, edit)).await.map(Response::new)
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let (set, generation) = self.set().await?;
        let (groups, next_page_token) = page(set.groups, request.get_ref(), |group| &group.name);
        Ok(Response::new(v1::ListGroupsResponse { groups, next_page_token, generation }))
    }

    async fn get_group(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Group>, Status> {
        let name = &request.get_ref().name;
        let found = self.set().await?.0.groups.into_iter().find(|group| group.name == *name);
        found.map(Response::new).ok_or_else(|| not_found("group", name))
    }

    async fn put_group(
        &self,
        request: Request<v1::PutGroupRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let told = request.get_ref();
        let asked = Asked::new(&request, &told.comment, told.expected_generation, Origin::Put)?;
        let v1::PutGroupRequest { group, revision, .. } = request.into_inner();
        let group = required(group, "group")?;
        let edit = move |set: &mut v1::PolicySet| {
            let place = put(&mut set.groups, group, |a, b| a.name == b.name);
            Ok(Some(("groups", place, "group")))
        };
        self.blocking(move |policies| asked.edit(policies, revision, edit)).await.map(Response::new)
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let told = request.get_ref();
        let asked = Asked::new(&request, &told.comment, told.expected_generation, Origin::Delete)?;
        let name = request.into_inner().name;
        let edit = move |set: &mut v1::PolicySet| delete(&mut set.groups, "group", &name, |g| g.name == name);
        self.blocking(move |policies| asked.edit(policies, 0, edit)).await.map(Response::new)
    }

    async fn list_destinations(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListDestinationsResponse>, Status> {
        let (set, generation) = self.set().await?;
        let (destinations, next_page_token) = page(set.destinations, request.get_ref(), |d| &d.name);
        Ok(Response::new(v1::ListDestinationsResponse { destinations, next_page_token, generation }))
    }

    async fn get_destination(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::Destination>, Status> {
        let name = &request.get_ref().name;
        let found =
            self.set().await?.0.destinations.into_iter().find(|destination| destination.name == *name);
        found.map(Response::new).ok_or_else(|| not_found("destination", name))
    }

    async fn put_destination(
        &self,
        request: Request<v1::PutDestinationRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let told = request.get_ref();
        let asked = Asked::new(&request, &told.comment, told.expected_generation, Origin::Put)?;
        let v1::PutDestinationRequest { destination, revision, .. } = request.into_inner();
        let destination = required(destination, "destination")?;
        let edit = move |set: &mut v1::PolicySet| {
            let place = put(&mut set.destinations, destination, |a, b| a.name == b.name);
            Ok(Some(("destinations", place, "destination")))
        };
        self.blocking(move |policies| asked.edit(policies, revision, edit)).await.map(Response::new)
    }

    async fn delete_destination(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let told = request.get_ref();
        let asked = Asked::new(&request, &told.comment, told.expected_generation, Origin::Delete)?;
        let name = request.into_inner().name;
        let edit = move |set: &mut v1::PolicySet| {
            delete(&mut set.destinations, "destination", &name, |d| d.name == name)
        };
        self.blocking(move |policies| asked.edit(policies, 0, edit)).await.map(Response::new)
    }
}
