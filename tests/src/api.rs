//! A client of the daemon's API, on its Unix socket.

use std::path::Path;

use sluice_api::v1;
use sluice_api::v1::counter_service_client::CounterServiceClient;
use sluice_model::spec::parse_policy_spec;
use tonic::transport::{Channel, Endpoint};

/// A connection to the daemon.
pub async fn channel(socket: &Path) -> Channel {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect().await.unwrap()
}

/// The text of a policy file as a message.
#[must_use]
pub fn policy_set(text: &str) -> v1::PolicySet {
    let (spec, _) = parse_policy_spec("p", text).unwrap().value;
    v1::PolicySet::try_from(&spec).unwrap()
}

/// Packets and copies dropped so far for one reason.
pub async fn drops(socket: &Path, reason: &str) -> u64 {
    let parts = vec![v1::CounterPart::Totals.into()];
    let request = v1::GetCountersRequest { parts, ..v1::GetCountersRequest::default() };
    let counters = CounterServiceClient::new(channel(socket).await).get_counters(request).await.unwrap();
    counters.into_inner().totals.unwrap().drops.get(reason).copied().unwrap_or(0)
}
