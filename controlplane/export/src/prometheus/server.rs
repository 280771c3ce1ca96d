//! A small HTTP server for scrapes, on a thread of its own: bounded in connections, bytes and time.
//!
//! A connection is for one request. When there are too many, the oldest one goes: whoever holds connections open, or
//! reads slowly, cannot keep a scrape out. Nothing here is ever waited for by anything that moves packets.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::http_counts::{HttpCounts, Page};
use super::snapshot::Snapshot;
use super::text::{self, Format};

/// Connections that are open at the same time; the oldest one beyond is closed.
pub const MAX_CONNECTIONS: usize = 128;
/// Bytes of a request's head, and header lines in it.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long a client may take for its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last: request, answer, and all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;
/// Until it is older, a text is given again: many clients cost no more than some.
const REUSE: Duration = Duration::from_millis(50);
/// The wait when the kernel gives no connection: no file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whom the server asks. It does so on its own thread.
pub trait Source: Send + Sync + 'static {
    /// What is known now.
    fn snapshot(&self) -> Snapshot;
    /// How the daemon is.
    fn health(&self) -> Health;
}

/// How the daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Its engine does not run yet.
    Starting,
    /// It runs.
    Ready,
    /// It ends.
    Stopping,
    /// Its main thread has not been seen for too long.
    Stuck,
}

impl Health {
    const fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting\n",
            Self::Ready => "ok\n",
            Self::Stopping => "stopping\n",
            Self::Stuck => "stuck: the main thread does not answer\n",
        }
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("metrics cannot be served at {address}: change listen in [metrics], or end who has the address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread, or no reactor for it.
    #[error("the thread that serves metrics cannot start")]
    Thread(#[source] io::Error),
}

/// A running server.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl MetricsServer {
    /// Listens on `address` and answers from `source` on a new thread, which calls `prepare` first.
    ///
    /// # Errors
    /// The address is taken or is none of this machine; or there is no thread.
    pub fn start(
        address: SocketAddr,
        source: Arc<dyn Source>,
        prepare: impl FnOnce() + Send + 'static,
    ) -> Result<Self, ServeError> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(ServeError::Thread)?;
        let listen = |source| ServeError::Listen { address, source };
        let listener = bind(&runtime, address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (stop, stopped) = oneshot::channel();
        let site = Arc::new(Site { source, counts: HttpCounts::default(), last: Mutex::default() });
        let thread = std::thread::Builder::new().name("sluice-metrics".to_owned()).spawn(move || {
            prepare();
            runtime.block_on(serve(&listener, &site, stopped));
        });
        Ok(Self { address, stop, thread: thread.map_err(ServeError::Thread)? })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the server and all connections; says whether it ran until now.
    #[must_use]
    pub fn end(self) -> bool {
        self.stop.send(()).is_ok() & self.thread.join().is_ok()
    }
}

fn bind(runtime: &Runtime, address: SocketAddr) -> io::Result<TcpListener> {
    let _context = runtime.enter();
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A daemon that starts again must not wait for connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What all connections share.
struct Site {
    source: Arc<dyn Source>,
    counts: HttpCounts,
    /// The last text of each format, and when it was made.
    last: Mutex<[Option<(Instant, Bytes)>; 2]>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// What happens next to the server.
enum Event {
    Stop,
    /// A connection is over.
    Ended(Id),
    Accepted(io::Result<TcpStream>),
}

async fn serve(listener: &TcpListener, site: &Arc<Site>, mut stopped: oneshot::Receiver<()>) {
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(MAX_CONNECTIONS + 1);
    loop {
        match next(listener, &mut tasks, &mut stopped).await {
            Event::Stop => return,
            Event::Ended(id) => open.retain(|task| task.id() != id),
            Event::Accepted(Ok(stream)) => {
                if open.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                    site.counts.evicted();
                }
                open.push_back(tasks.spawn(connection(stream, Arc::clone(site))));
                // Before the next one may push it out, it has its turn.
                tokio::task::yield_now().await;
            }
            Event::Accepted(Err(_)) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn next(listener: &TcpListener, tasks: &mut JoinSet<()>, stopped: &mut oneshot::Receiver<()>) -> Event {
    poll_fn(|context| {
        if Pin::new(&mut *stopped).poll(context).is_ready() {
            return Poll::Ready(Event::Stop);
        }
        if let Poll::Ready(Some(ended)) = tasks.poll_join_next_with_id(context) {
            let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
            return Poll::Ready(Event::Ended(id));
        }
        listener.poll_accept(context).map(|accepted| Event::Accepted(accepted.map(|(stream, _)| stream)))
    })
    .await
}

/// One connection from its first byte to its last.
async fn connection(stream: TcpStream, site: Arc<Site>) {
    let service = service_fn(|request| {
        let response = site.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    // The client is told what it can be told; nobody else needs to know.
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => site.counts.broken(),
    }
}

impl Site {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let page = Page::of(request.uri().path());
        let (status, content_type, body) = self.page(page, request);
        self.counts.answered(page, status.as_u16());
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    fn page(&self, page: Page, request: &Request<Incoming>) -> (StatusCode, &'static str, Bytes) {
        const PLAIN: &str = "text/plain; charset=utf-8";
        let plain = |status, text: &'static str| (status, PLAIN, Bytes::from_static(text.as_bytes()));
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "GET, please\n");
        }
        let when = |good| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match page {
            Page::Metrics => {
                let accept = request.headers().get_all(header::ACCEPT).iter().filter_map(|h| h.to_str().ok());
                let format = Format::accepted(Some(&accept.collect::<Vec<_>>().join(",")));
                match self.metrics(format) {
                    Ok(text) => (StatusCode::OK, format.content_type(), text),
                    Err(fmt::Error) => plain(StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n"),
                }
            }
            Page::Health => {
                let health = self.source.health();
                plain(when(health != Health::Stuck), health.text())
            }
            Page::Ready => {
                let health = self.source.health();
                plain(when(health == Health::Ready), health.text())
            }
            Page::Other => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    fn metrics(&self, format: Format) -> Result<Bytes, fmt::Error> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let [plain, open] = &mut *last;
        let last = if format == Format::Text { plain } else { open };
        if let Some((made, text)) = &*last
            && made.elapsed() < REUSE
        {
            return Ok(text.clone());
        }
        let snapshot = self.source.snapshot();
        let text = Bytes::from(text::render(snapshot.families(&self.counts), format)?);
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}
