//! The services of `sluice.v1`, one file each, over one shared state.

mod capture;
mod change;
mod counter;
mod dry_run;
mod explain;
mod flow;
mod history;
mod policy;
mod status;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Status};

use crate::access::Caller;
use crate::policies::Policies;

/// What all services see.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    policies: Arc<Policies>,
    started_at: SystemTime,
    stop: watch::Receiver<bool>,
}

/// The shortest and the longest time between two messages of a stream, and that of who names none.
const INTERVALS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_secs(60), Duration::from_secs(1)];

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(crate) fn new(policies: Arc<Policies>, started_at: SystemTime, stop: watch::Receiver<bool>) -> Self {
        Self { policies, started_at, stop }
    }

    /// Does what blocks on a thread of its own.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Policies) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let policies = Arc::clone(&self.policies);
        let done = tokio::task::spawn_blocking(move || work(&policies)).await;
        done.map_err(|_| Status::unavailable("the daemon stops"))?
    }

    /// Answers of the same kind, again and again, until the daemon stops or the client goes.
    fn repeat<T: Send + 'static>(
        &self,
        interval_ms: u32,
        answer: impl Fn(&Self) -> T + Send + 'static,
    ) -> Answers<T> {
        let [least, most, default] = INTERVALS;
        let interval = match interval_ms {
            0 => default,
            ms => Duration::from_millis(ms.into()).clamp(least, most),
        };
        let service = self.clone();
        let times = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(interval));
        let stop = self.stop.clone();
        let answers = times.take_while(move |_| !*stop.borrow()).map(move |_| Ok(answer(&service)));
        Box::pin(answers)
    }
}

/// Who asks, for the history and the log: what the gate found out, never what a client claims.
fn caller<T>(request: &Request<T>) -> String {
    let caller = request.extensions().get::<Caller>();
    caller.map_or_else(|| "unknown".to_owned(), |caller| caller.name.clone())
}

/// A part of a request that has to be there.
fn required<T>(object: Option<T>, field: &str) -> Result<T, Status> {
    object.ok_or_else(|| Status::invalid_argument(format!("{field}: missing")))
}
