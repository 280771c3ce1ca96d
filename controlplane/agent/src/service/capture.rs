//! Live packets.

use std::sync::Arc;
use std::time::Duration;

use sluice_api::v1;
use sluice_api::v1::capture_service_server::CaptureService;
use sluice_engine::runtime::CaptureError;
use sluice_engine::tap::{TapPoint, TapSettings};
use sluice_model::{Policy, PortId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::guest::unknown_name;
use super::{Answers, Service, caller};
use crate::capture::{Bounds, Header, MESSAGES, Session};
use crate::policies::Policies;

/// Bytes kept of a packet: the fewest and the most.
const SNAPLEN: [u32; 2] = [14, 65_535];
/// Bounds: what they are if the request does not say, and at most.
const PACKETS: [u64; 2] = [1_000_000, 1_000_000_000];
const BYTES: [u64; 2] = [1 << 30, 1 << 40];
const DURATION_MS: [u64; 2] = [60_000, 24 * 3_600_000];

/// What is asked for.
struct Wanted {
    settings: TapSettings,
    header: Header,
    bounds: Bounds,
}

/// Understands a request.
///
/// # Errors
/// Everything that is wrong with it, a line each.
fn understood(policies: &Policies, request: &v1::CaptureRequest) -> Result<Wanted, Vec<String>> {
    let mut findings = Vec::new();
    let current = policies.current();
    let point = match v1::CapturePoint::try_from(request.point) {
        Ok(v1::CapturePoint::Unspecified | v1::CapturePoint::Received) => TapPoint::Received,
        Ok(v1::CapturePoint::Sent) => TapPoint::Sent,
        Err(_) => {
            findings.push("point: no such point".to_owned());
            TapPoint::Received
        }
    };
    let filter = request.filter.as_ref().and_then(|filter| {
        match sluice_api::packet_filter(filter, &current.spec.groups) {
            Ok(loaded) => {
                let Policy { collect, peer, .. } = &loaded.value;
                let words =
                    [&filter.collect, &filter.peer].into_iter().flatten().flat_map(|side| &side.addresses);
                let wrong = unknown_name(policies, collect.addresses.iter().chain(&peer.addresses), words);
                findings.extend(wrong.map(|wrong| format!("filter: {wrong}")));
                Some(loaded.value.resolved(&policies.guests()))
            }
            Err(found) => {
                findings.extend(found.0.iter().map(|finding| format!("filter: {finding}")));
                None
            }
        }
    });
    let boot = policies.boot();
    let names: Vec<String> = boot.ports.iter().map(|port| port.name.clone()).collect();
    let mut ports = Vec::new();
    for (place, wanted) in request.ports.iter().enumerate() {
        let found = boot.ports.iter().position(|port| port.name == *wanted && !port.is_removed());
        let found = found.and_then(|port| u16::try_from(port).ok());
        match found {
            Some(port) => ports.push(PortId(port)),
            None => findings.push(format!("ports[{place}]: there is no port {wanted:?}")),
        }
    }
    let set = &current.policies;
    let destinations: Vec<&str> = set.destinations().iter().map(|destination| &*destination.name).collect();
    let names_of_policies: Vec<&str> = set.policies().iter().map(|policy| &*policy.name).collect();
    let of_copies = [
        ("destinations", &request.destinations, destinations),
        ("policies", &request.policies, names_of_policies),
    ];
    for (field, wanted, known) in of_copies {
        if point == TapPoint::Received && !wanted.is_empty() {
            findings.push(format!("{field}: only copies have any: capture as sent"));
            continue;
        }
        for (place, wanted) in wanted.iter().enumerate() {
            if !known.contains(&wanted.as_str()) {
                findings.push(format!("{field}[{place}]: nothing in force is called {wanted:?}"));
            }
        }
    }
    let [least, most] = SNAPLEN;
    let snaplen = if request.snaplen == 0 { most } else { request.snaplen };
    if !(least..=most).contains(&snaplen) {
        findings.push(format!("snaplen: {least} to {most}, or 0 for {most}"));
    }
    let mut bound = |field: &str, wanted: u64, [usual, most]: [u64; 2]| {
        if wanted > most {
            findings.push(format!("{field}: at most {most}, or 0 for {usual}"));
        }
        if wanted == 0 { usual } else { wanted }
    };
    let bounds = Bounds {
        packets: bound("max_packets", request.max_packets, PACKETS),
        bytes: bound("max_bytes", request.max_bytes, BYTES),
        duration: Duration::from_millis(bound("max_duration_ms", request.max_duration_ms, DURATION_MS)),
    };
    let header = Header { point, ports: names, snaplen };
    let least = header.least_bytes();
    if bounds.bytes < least {
        findings.push(format!("max_bytes: the headers alone take {least}"));
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    let settings = TapSettings {
        point,
        filter,
        ports,
        destinations: request.destinations.clone(),
        policies: request.policies.clone(),
        snaplen,
        sampling: request.sampling,
    };
    Ok(Wanted { settings, header, bounds })
}

#[tonic::async_trait]
impl CaptureService for Service {
    type CaptureStream = Answers<v1::CaptureChunk>;

    async fn capture(
        &self,
        request: Request<v1::CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        let by = caller(&request);
        let request = request.into_inner();
        let stop = self.stop.clone();
        let begun = self.blocking(move |policies| {
            let wanted = understood(policies, &request)
                .map_err(|findings| Status::invalid_argument(findings.join("\n")))?;
            let capture = policies.engine().capture(&wanted.settings).map_err(|error| match error {
                CaptureError::TooMany => Status::resource_exhausted(error.to_string()),
                CaptureError::Worker => Status::unavailable(error.to_string()),
            })?;
            let (answers, stream) = mpsc::channel(MESSAGES);
            let engine = Arc::downgrade(policies.engine());
            let name_of = Box::new(move |port| engine.upgrade()?.port_names().into_iter().nth(port));
            let session = Session::new(capture, wanted.header, wanted.bounds, answers, stop, name_of);
            let thread = std::thread::Builder::new().name("sluice-capture".to_owned());
            thread
                .spawn(move || session.run())
                .map_err(|error| Status::unavailable(format!("cannot start a thread: {error}")))?;
            tracing::info!(by, point = ?wanted.settings.point, "a capture begins");
            Ok(stream)
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(begun.await?))))
    }
}
