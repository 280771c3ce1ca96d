//! What every request passes before a service sees it: is there such a method, who asks, may they, and how much?
//!
//! A method that [`sluice_api::methods`] does not list is refused, so that a new one cannot be served without a role.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::http::{Request, Response, header};
use sluice_api::methods::{self, Method, Role};
use sluice_api::{MAX_DECODED_BYTES, MAX_POLICY_SET_BYTES, MAX_REQUEST_BYTES, decoded_bytes};
use sluice_model::{ApiLimits, ApiSettings};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tonic::{Code, Status};

use crate::access::{Access, AccessError, Caller, Peer};
use crate::body::{Answer, Bounded, PREFIX};
use crate::connection::Activity;
use crate::rate::Rates;
use crate::refusals::{ApiCounts, Refusal};

/// Requests with whole policy sets that are in memory at the same time, of viewers and of operators: who looks keeps
/// nobody from a change.
const LARGE: [usize; 2] = [2, 4];

/// Bytes of a refused request that are taken in, and for how long.
const DRAINED: usize = 1 << 16;
const DRAIN_TIME: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// The place of a request with a policy set: whoever goes on working for it keeps that, even when nobody waits for
    /// the answer any more.
    pub(crate) static ROOM: Option<Arc<OwnedSemaphorePermit>>;
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Gate {
    settings: ApiSettings,
    access: RwLock<Arc<Access>>,
    rates: Rates,
    large: [Arc<Semaphore>; 2],
    pub(crate) counts: Arc<ApiCounts>,
}

impl Gate {
    pub(crate) fn new(settings: ApiSettings) -> Result<Self, AccessError> {
        let access = RwLock::new(Arc::new(Access::load(&settings)?));
        let limits = settings.limits;
        let rates = Rates::new([limits.requests_per_s, limits.all_requests_per_s], Instant::now());
        let (large, counts) = (LARGE.map(|places| Arc::new(Semaphore::new(places))), Arc::default());
        Ok(Self { settings, access, rates, large, counts })
    }

    pub(crate) fn settings(&self) -> &ApiSettings {
        &self.settings
    }

    pub(crate) fn limits(&self) -> &ApiLimits {
        &self.settings.limits
    }

    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads certificates and tokens anew; when something is wrong with them, those before stay.
    pub(crate) fn reload(&self) -> Result<(), AccessError> {
        let access = Arc::new(Access::load(&self.settings)?);
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
        Ok(())
    }

    pub(crate) fn request_time(&self) -> Duration {
        Duration::from_secs(self.limits().request_timeout_s.into())
    }

    /// Lets a request in and gives the answer, or the refusal.
    pub(crate) async fn answer(
        &self,
        peer: &Peer,
        activity: &Arc<Activity>,
        mut routes: Routes,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        let method = match self.admit(peer, &mut request) {
            Ok(method) => method,
            Err(status) => {
                drain(request.into_body()).await;
                return status.into_http();
            }
        };
        let caller = request.extensions().get().map_or(Role::Viewer, |caller: &Caller| caller.role);
        // A client has the time of a request once more to read its answer.
        let time = self.request_time();
        let working = activity.begin((!method.stream).then(|| Instant::now() + 2 * time));
        let most = if method.large { MAX_POLICY_SET_BYTES + MAX_REQUEST_BYTES } else { MAX_REQUEST_BYTES };
        let counts = Arc::clone(&self.counts);
        let request = request.map(|body| Bounded::new(body, most, counts, peer.clone()));
        let served = async {
            let (room, request) = if method.large {
                let [viewers, operators] = &self.large;
                let places = if caller == Role::Viewer { viewers } else { operators };
                let room = Arc::clone(places).acquire_owned().await.ok();
                match self.weighed(peer, method, request).await {
                    Ok(request) => (room.map(Arc::new), request),
                    Err(status) => return status.into_http(),
                }
            } else {
                (None, request.map(Body::new))
            };
            match ROOM.scope(room, routes.call(request)).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        };
        let Ok(response) = tokio::time::timeout(time, served).await else {
            let told = format!("{} took longer than {} s", method.path, time.as_secs());
            self.counts.refuse(Refusal::Slow, peer, &told);
            return Status::deadline_exceeded(told).into_http();
        };
        if let Some(told) = undecodable(&response) {
            self.counts.refuse(Refusal::Malformed, peer, &format_args!("{}: {told:?}", method.path));
        }
        response.map(|body| Body::new(Answer { body, _working: working }))
    }

    /// Takes in a request with a policy set, if there is memory for what it is when it is decoded.
    async fn weighed(
        &self,
        peer: &Peer,
        method: &Method,
        request: Request<Bounded>,
    ) -> Result<Request<Body>, Status> {
        let (head, mut body) = request.into_parts();
        // In one piece: each frame by itself would take more than what is in it.
        let mut message = Vec::new();
        while let Some(frame) = body.frame().await {
            message.extend_from_slice(frame?.data_ref().map_or(&[][..], |data| data));
        }
        if decoded_bytes(method, message.get(PREFIX..).unwrap_or_default()) > MAX_DECODED_BYTES {
            let told = format!("{}: the policy set has too many parts", method.path);
            self.counts.refuse(Refusal::Size, peer, &told);
            return Err(Status::resource_exhausted(told));
        }
        Ok(Request::from_parts(head, Body::new(Full::new(Bytes::from(message)))))
    }

    /// Whether a request may come in.
    fn admit(&self, peer: &Peer, request: &mut Request<Incoming>) -> Result<&'static Method, Status> {
        let refuse = |why, status: Status| {
            self.counts.refuse(why, peer, &format_args!("{:?}", status.message()));
            status
        };
        let caller = self.access().caller(peer, request.headers().get(header::AUTHORIZATION));
        let share = match (&caller, peer) {
            (Ok(caller), _) => caller.name.clone(),
            (Err(_), Peer::Plain { address } | Peer::Tls { address, .. }) => address.ip().to_string(),
            (Err(_), Peer::Unix { .. }) => String::new(),
        };
        if let Err(wait) = self.rates.take(&share, Instant::now()) {
            let told = format!("too many requests; try again in {} ms", wait.as_millis() + 1);
            return Err(refuse(Refusal::Rate, Status::resource_exhausted(told)));
        }
        let caller = caller.map_err(|(why, status)| refuse(why, status))?;
        let path = request.uri().path();
        let Some(method) = methods::find(path) else {
            let path: String = path.chars().take(128).collect();
            return Err(refuse(Refusal::Method, Status::unimplemented(format!("there is no {path}"))));
        };
        if caller.role < method.role {
            let told = format!(
                "{} is {}; {} needs {}",
                caller.name,
                caller.role.name(),
                method.path,
                method.role.name()
            );
            return Err(refuse(Refusal::Role, Status::permission_denied(told)));
        }
        self.counts.request(caller.role);
        request.extensions_mut().insert(caller);
        Ok(method)
    }
}

/// Takes in a small request that is refused: an answer that comes before its end is taken for a broken stream by some
/// clients (curl 7.88), though RFC 9113 section 8.1 allows it.
async fn drain(mut body: Incoming) {
    let ended = async {
        let mut left = DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { break };
            left = rest;
        }
    };
    // Too late, or too much: it is cut.
    drop(tokio::time::timeout(DRAIN_TIME, ended).await);
}

/// What is wrong with the bytes of a request, as its decoder said in the answer.
fn undecodable(response: &Response<Body>) -> Option<String> {
    let status = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)?;
    let message = status.message();
    let decoder =
        ["failed to decode Protobuf message", "protocol error", "Unexpected EOF", "Missing request message"];
    decoder.iter().any(|start| message.starts_with(start)).then(|| message.chars().take(200).collect())
}
