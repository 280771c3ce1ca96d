//! Do client and server stubs talk to each other over a Unix socket?
#![allow(clippy::unwrap_used, reason = "a test that cannot open a socket fails")]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use sluice_api::v1::counter_service_client::CounterServiceClient;
use sluice_api::v1::counter_service_server::{CounterService, CounterServiceServer};
use sluice_api::v1::{Counters, GetCountersRequest, TotalCounters, WatchCountersRequest};
use tokio::net::UnixListener;
use tokio_stream::wrappers::{IntervalStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

/// Counts the packets of nobody: a packet more each time that it is asked.
struct Counting;

fn counters(no_policy: u64) -> Counters {
    let drops = BTreeMap::from([("no_policy".to_owned(), no_policy)]);
    Counters { totals: Some(TotalCounters { drops, ..TotalCounters::default() }), ..Counters::default() }
}

#[tonic::async_trait]
impl CounterService for Counting {
    async fn get_counters(&self, request: Request<GetCountersRequest>) -> Result<Response<Counters>, Status> {
        let names = u64::try_from(request.into_inner().names.len()).unwrap();
        Ok(Response::new(counters(names)))
    }

    type WatchCountersStream = Pin<Box<dyn Stream<Item = Result<Counters, Status>> + Send>>;

    async fn watch_counters(
        &self,
        request: Request<WatchCountersRequest>,
    ) -> Result<Response<Self::WatchCountersStream>, Status> {
        let interval_ms = request.into_inner().interval_ms;
        if interval_ms == 0 {
            return Err(Status::invalid_argument("interval_ms: 0 is out of range"));
        }
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(interval_ms.into())));
        let mut packets = 0;
        let stream = ticks.map(move |_| {
            packets += 1;
            Ok(counters(packets))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// A client of a server that takes messages of up to `limit` bytes.
async fn connected(folder: &tempfile::TempDir, limit: usize) -> CounterServiceClient<Channel> {
    let path = folder.path().join("s");
    let listener = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
    let service = CounterServiceServer::new(Counting).max_decoding_message_size(limit);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(listener));
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
    CounterServiceClient::new(endpoint.connect().await.unwrap())
}

#[tokio::test]
async fn calls_streams_and_errors_arrive() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = connected(&folder, sluice_api::MAX_REQUEST_BYTES).await;
    let request =
        GetCountersRequest { names: vec!["web".to_owned(), "dns".to_owned()], ..Default::default() };
    assert_eq!(client.get_counters(request).await.unwrap().into_inner(), counters(2));

    let request = WatchCountersRequest { interval_ms: 1, ..Default::default() };
    let stream = client.watch_counters(request).await.unwrap().into_inner();
    let first: Vec<Counters> = stream.take(3).map(Result::unwrap).collect().await;
    assert_eq!(first, [counters(1), counters(2), counters(3)]);

    let refused = client.watch_counters(WatchCountersRequest::default()).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "interval_ms: 0 is out of range")
    );
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = connected(&folder, 100).await;
    let request = |length| GetCountersRequest { names: vec!["x".repeat(length)], ..Default::default() };
    assert!(client.get_counters(request(50)).await.is_ok());
    let refused = client.get_counters(request(1_000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(client.get_counters(request(50)).await.is_ok(), "and the connection goes on");
}
