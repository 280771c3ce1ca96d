//! The services of `sluice.v1`, one file each, over one shared state.

mod capture;
mod change;
mod counter;
mod dry_run;
mod explain;
mod flow;
mod guest;
mod history;
mod policy;
mod status;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Status};

use crate::access::Caller;
use crate::gate::ROOM;
use crate::policies::Policies;

/// What all services see.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    policies: Arc<Policies>,
    started_at: SystemTime,
    stop: watch::Receiver<bool>,
    /// Who may read the tables of flows: one at a time, which takes seconds.
    flow_reads: Arc<Semaphore>,
}

/// Tells a thread, when it is dropped, that nobody waits for its answer any more.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ends a task when it is dropped, unless that has begun.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The shortest and the longest time between two messages of a stream, and that of who names none.
const INTERVALS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_secs(3_600), Duration::from_secs(1)];

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(crate) fn new(policies: Arc<Policies>, started_at: SystemTime, stop: watch::Receiver<bool>) -> Self {
        Self { policies, started_at, stop, flow_reads: Arc::new(Semaphore::new(1)) }
    }

    /// Does what blocks on a thread of its own.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Policies) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let policies = Arc::clone(&self.policies);
        // What the request takes is there until the work is done, even if nobody waits for it.
        let room = ROOM.try_with(Clone::clone).ok().flatten();
        let task = tokio::task::spawn_blocking(move || {
            let _room = room;
            work(&policies)
        });
        // What has not begun when nobody waits for it any more does not begin.
        let _ends = Ends(task.abort_handle());
        task.await.map_err(|_| Status::unavailable("the daemon stops"))?
    }

    /// Reads the tables of flows, when it is its turn: `work` is also told whether anybody waits for it still. Who waits
    /// for its turn holds no thread.
    async fn reading_flows<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Policies, &dyn Fn() -> bool) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = Arc::clone(&self.flow_reads).acquire_owned().await;
        let turn = turn.map_err(|_| Status::unavailable("the daemon stops"))?;
        let gone = Arc::new(AtomicBool::new(false));
        let _waits = Waits(Arc::clone(&gone));
        let stop = self.stop.clone();
        self.blocking(move |policies| {
            let _turn = turn;
            work(policies, &|| !gone.load(Ordering::Relaxed) && !*stop.borrow())
        })
        .await
    }

    /// Answers of the same kind at each of these moments, until the daemon stops or the client goes.
    fn repeat<T: Send + 'static>(
        &self,
        moments: impl Stream<Item = ()> + Send + 'static,
        answer: impl Fn(&Self) -> T + Clone + Send + 'static,
    ) -> Answers<T> {
        let (service, stop) = (self.clone(), self.stop.clone());
        Box::pin(moments.take_while(move |()| !*stop.borrow()).then(move |()| {
            let (service, answer) = (service.clone(), answer.clone());
            async move {
                let told = service.clone();
                service.blocking(move |_| Ok(answer(&told))).await
            }
        }))
    }
}

/// Moments that are so far apart, or as `intervals` says: at least, at most, and where none is given. Who does not read
/// misses some.
fn moments(interval_ms: u32, [least, most, default]: [Duration; 3]) -> impl Stream<Item = ()> + Send {
    let interval = match interval_ms {
        0 => default,
        ms => Duration::from_millis(ms.into()).clamp(least, most),
    };
    let mut times = tokio::time::interval(interval);
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio_stream::wrappers::IntervalStream::new(times).map(|_| ())
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
