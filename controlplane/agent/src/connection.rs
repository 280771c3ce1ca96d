//! One connection, from the moment that it is known who is at the other end: what was heard, what is being worked on,
//! and when it has to go.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tonic::service::Routes;

use crate::access::Peer;
use crate::gate::Gate;
use crate::refusals::Refusal;

/// Requests of one connection that are worked on at a time.
const REQUESTS: u32 = 16;
/// Bytes of the headers of a request.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Bytes that may come before they are read: of a request, and of all of a connection.
const WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// A connection on which nothing is heard for so long is asked, and closed if it does not answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// The time for what is being worked on when the daemon stops.
const LAST_REQUESTS: Duration = Duration::from_secs(1);
/// How often a connection is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes that begin a connection of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: u64 = 24;

/// What goes on on a connection.
#[derive(Debug)]
pub(crate) struct Activity {
    begun: Instant,
    /// Bytes that came.
    read: AtomicU64,
    requests: Mutex<Requests>,
}

#[derive(Debug)]
struct Requests {
    /// Those that are worked on: a number each, and when they have to be over.
    open: Vec<(u64, Option<Instant>)>,
    /// All so far.
    count: u64,
    /// When the last one was over.
    idle_since: Instant,
}

impl Activity {
    fn new() -> Arc<Self> {
        let begun = Instant::now();
        let requests = Mutex::new(Requests { open: Vec::new(), count: 0, idle_since: begun });
        Arc::new(Self { begun, read: AtomicU64::new(0), requests })
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that has to be over at `until`; it is over when what is given is dropped.
    pub(crate) fn begin(self: &Arc<Self>, until: Option<Instant>) -> Working {
        let mut requests = self.requests();
        requests.count += 1;
        let number = requests.count;
        requests.open.push((number, until));
        Working { activity: Arc::clone(self), number }
    }

    /// Whether the connection may stay.
    fn verdict(&self, gate: &Gate, now: Instant) -> Verdict {
        let limits = gate.limits();
        let handshake = Duration::from_secs(limits.handshake_timeout_s.into());
        let read = self.read.load(Ordering::Relaxed);
        if read < PREFACE && now.duration_since(self.begun) > handshake {
            let told = format!("no HTTP/2 within {} s ({read} bytes came)", handshake.as_secs());
            return Verdict::Cut(Refusal::SlowHandshake, told);
        }
        let requests = self.requests();
        if requests.open.iter().any(|(_, until)| until.is_some_and(|until| until < now)) {
            return Verdict::Cut(Refusal::Slow, "an answer is not read".to_owned());
        }
        let idle = Duration::from_secs(limits.idle_timeout_s.into());
        if requests.open.is_empty() && now.saturating_duration_since(requests.idle_since) > idle {
            return Verdict::Idle;
        }
        Verdict::Stay
    }
}

/// What becomes of a connection.
#[derive(Debug)]
enum Verdict {
    Stay,
    /// Nothing was asked for so long that it may go in peace.
    Idle,
    /// It has to go at once.
    Cut(Refusal, String),
}

/// A request that is worked on.
#[derive(Debug)]
pub(crate) struct Working {
    activity: Arc<Activity>,
    number: u64,
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut requests = self.activity.requests();
        requests.open.retain(|(number, _)| *number != self.number);
        requests.idle_since = Instant::now();
    }
}

/// Serves requests until the client goes, the daemon stops, or the connection has to be closed.
pub(crate) async fn serve<I>(
    io: I,
    peer: Peer,
    gate: Arc<Gate>,
    routes: Routes,
    mut stop: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _open = gate.counts.connection(peer.transport());
    let activity = Activity::new();
    let service = {
        let (gate, activity, peer) = (Arc::clone(&gate), Arc::clone(&activity), peer.clone());
        service_fn(move |request| {
            let (gate, activity, peer) = (Arc::clone(&gate), Arc::clone(&activity), peer.clone());
            let routes = routes.clone();
            async move { Ok::<_, Infallible>(gate.answer(&peer, &activity, routes, request).await) }
        })
    };
    let heard = Heard { io, activity: Arc::clone(&activity) };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(REQUESTS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .serve_connection(TokioIo::new(heard), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended
                && let Some(told) = not_http2(&error, &activity)
            {
                gate.counts.refuse(Refusal::Protocol, &peer, &told);
            }
        }
        cut = cut(&activity, &gate) => {
            if let Some((why, told)) = cut {
                gate.counts.refuse(why, &peer, &told);
            } else {
                connection.as_mut().graceful_shutdown();
                drop(tokio::time::timeout(LAST_REQUESTS, connection).await);
            }
        }
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            drop(tokio::time::timeout(LAST_REQUESTS, connection).await);
        }
    }
}

/// Waits until the daemon stops.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error: the server itself is gone.
    let _gone = stop.wait_for(|stop| *stop).await;
}

/// Waits until the connection has to go: at once and for a reason, or in peace.
async fn cut(activity: &Activity, gate: &Gate) -> Option<(Refusal, String)> {
    loop {
        tokio::time::sleep(LOOK).await;
        match activity.verdict(gate, Instant::now()) {
            Verdict::Stay => {}
            Verdict::Idle => return None,
            Verdict::Cut(why, told) => return Some((why, told)),
        }
    }
}

/// What the client did wrong; `None` = it went, which everybody may.
fn not_http2(error: &hyper::Error, activity: &Activity) -> Option<String> {
    let http2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    let read = activity.read.load(Ordering::Relaxed);
    match http2 {
        Some(http2) if !http2.is_io() => Some(format!("no HTTP/2: {http2}")),
        _ if (1..PREFACE).contains(&read) => Some(format!("no HTTP/2: {read} bytes came")),
        _ => None,
    }
}

/// Counts the bytes that come.
#[derive(Debug)]
struct Heard<I> {
    io: I,
    activity: Arc<Activity>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        let came = buffer.filled().len().saturating_sub(before);
        self.activity.read.fetch_add(came as u64, Ordering::Relaxed);
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
