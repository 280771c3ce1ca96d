//! Where do the numbers come from, and what when the daemon goes?

use std::time::Duration;

use sluice_api::v1;
use sluice_api::v1::counter_service_client::CounterServiceClient;
use sluice_api::v1::status_service_client::StatusServiceClient;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::connect::Connection;
use crate::failure::{Exit, Failure};

/// The most rows that are asked for of each part.
const ROWS: u32 = 1_000;

/// The time between two attempts to connect again.
const AGAIN: Duration = Duration::from_secs(1);

/// What comes from the daemon.
pub(super) enum News {
    /// How it is.
    Status(Box<v1::Status>),
    /// What it counted.
    Counters(Box<v1::Counters>),
    /// It cannot be reached, and whether it is of no use to try again.
    Lost(Failure, bool),
}

/// Both watch streams.
pub(super) struct Source {
    status: Streaming<v1::Status>,
    counters: Streaming<v1::Counters>,
}

impl Source {
    pub(super) async fn open(connection: &Connection, interval_ms: u32) -> Result<Self, Failure> {
        let wire = connection.open().await?;
        let mut status = StatusServiceClient::new(wire.clone());
        let mut counters =
            CounterServiceClient::new(wire).max_decoding_message_size(sluice_api::MAX_POLICY_SET_BYTES);
        let asked = v1::GetCountersRequest { limit: ROWS, ..v1::GetCountersRequest::default() };
        let asked = v1::WatchCountersRequest { counters: Some(asked), interval_ms };
        Ok(Self {
            status: status.watch_status(v1::WatchStatusRequest { interval_ms }).await?.into_inner(),
            counters: counters.watch_counters(asked).await?.into_inner(),
        })
    }

    async fn next(&mut self) -> Result<News, Failure> {
        let ended = || Failure::new(Exit::Unreachable, "the daemon ended the stream");
        tokio::select! {
            status = self.status.message() => {
                Ok(News::Status(Box::new(status?.ok_or_else(ended)?)))
            }
            counters = self.counters.message() => {
                Ok(News::Counters(Box::new(counters?.ok_or_else(ended)?)))
            }
        }
    }

    /// Follows the streams in a task of its own, and connects again when they break.
    pub(super) fn follow(self, connection: Connection, interval_ms: u32) -> mpsc::Receiver<News> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut source = Some(self);
            loop {
                let news = match &mut source {
                    Some(open) => open.next().await,
                    None => match Self::open(&connection, interval_ms).await {
                        Ok(open) => {
                            source = Some(open);
                            continue;
                        }
                        Err(failure) => Err(failure),
                    },
                };
                let news = news.unwrap_or_else(|failure| {
                    source = None;
                    let hopeless = failure.exit != Exit::Unreachable;
                    News::Lost(failure, hopeless)
                });
                if sender.send(news).await.is_err() {
                    return;
                }
                if source.is_none() {
                    tokio::time::sleep(AGAIN).await;
                }
            }
        });
        receiver
    }
}
