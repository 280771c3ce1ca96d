//! Who may connect, and how much may they ask for?
//!
//! The API is served on a Unix socket whose file rights decide who may connect: the owner and the group of the daemon.
//! Whoever may connect is an operator. Requests are bounded in size, number and time.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sluice_api::v1::capture_service_server::CaptureServiceServer;
use sluice_api::v1::counter_service_server::CounterServiceServer;
use sluice_api::v1::explain_service_server::ExplainServiceServer;
use sluice_api::v1::flow_service_server::FlowServiceServer;
use sluice_api::v1::history_service_server::HistoryServiceServer;
use sluice_api::v1::policy_service_server::PolicyServiceServer;
use sluice_api::v1::status_service_server::StatusServiceServer;
use sluice_api::{MAX_POLICY_SET_BYTES, MAX_REQUEST_BYTES};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;

use crate::policies::Policies;
use crate::service::Service;

/// Threads that serve requests; what blocks has threads of its own.
const THREADS: usize = 2;
/// Threads for what blocks, at most: changes come one after the other anyway.
const BLOCKING_THREADS: usize = 8;
/// Requests of one connection that are worked on at a time.
const REQUESTS: usize = 16;
/// The longest that a request may take that is no stream.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// A connection on which nothing is heard for so long is asked, and closed if it does not answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long streams and answers may take to end when the daemon stops.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Rights of the socket: owner and group.
const SOCKET_MODE: u32 = 0o660;

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The threads cannot be made.
    #[error("cannot start the threads of the API: {0}")]
    Threads(#[source] io::Error),
    /// The socket cannot be made.
    #[error("cannot serve the API on {path}: {action}: {source}; choose another `socket` in [api], or `enabled = false`", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody serves there.
    #[error("cannot serve the API on {path}: another daemon does; choose another `socket` in [api]", path = .0.display())]
    InUse(PathBuf),
}

/// The API server. Its threads are made before anything pins the calling thread to a core, and serve when they are told to.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    stop: watch::Sender<bool>,
    socket: Option<PathBuf>,
    serving: Option<JoinHandle<()>>,
}

impl Server {
    /// Makes the threads.
    ///
    /// # Errors
    /// [`ServeError::Threads`].
    pub fn new() -> Result<Self, ServeError> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(THREADS).max_blocking_threads(BLOCKING_THREADS);
        let runtime = builder.thread_name("sluice-api").enable_all().build().map_err(ServeError::Threads)?;
        Ok(Self { runtime, stop: watch::Sender::new(false), socket: None, serving: None })
    }

    /// Serves `policies` on a Unix socket at `path`, whose folder is made if it is not there.
    ///
    /// # Errors
    /// [`ServeError::Socket`], [`ServeError::InUse`].
    pub fn serve(&mut self, policies: Arc<Policies>, path: &Path) -> Result<(), ServeError> {
        let listener = self.bind(path)?;
        self.socket = Some(path.to_owned());
        let service = Service::new(policies, SystemTime::now(), self.stop.subscribe());
        let sized = MAX_POLICY_SET_BYTES + MAX_REQUEST_BYTES;
        let router = tonic::transport::Server::builder()
            .concurrency_limit_per_connection(REQUESTS)
            .max_concurrent_streams(u32::try_from(REQUESTS).ok())
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .timeout(REQUEST_TIME)
            .add_service(
                PolicyServiceServer::new(service.clone())
                    .max_decoding_message_size(sized)
                    .max_encoding_message_size(sized),
            )
            .add_service(
                HistoryServiceServer::new(service.clone())
                    .max_decoding_message_size(MAX_REQUEST_BYTES)
                    .max_encoding_message_size(sized),
            )
            .add_service(
                StatusServiceServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
            )
            .add_service(ExplainServiceServer::new(service.clone()).max_decoding_message_size(sized))
            .add_service(
                CaptureServiceServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
            )
            .add_service(FlowServiceServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(CounterServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES));
        let mut stop = self.stop.subscribe();
        self.serving = Some(self.runtime.spawn(async move {
            let stopped = async move {
                // An error: the server itself is gone.
                let _gone = stop.wait_for(|stop| *stop).await;
            };
            if let Err(error) =
                router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped).await
            {
                tracing::error!(%error, "the API is not served any more");
            }
        }));
        tracing::info!(socket = %path.display(), "the API is served");
        Ok(())
    }

    fn bind(&self, path: &Path) -> Result<UnixListener, ServeError> {
        let error = |action| move |source| ServeError::Socket { path: path.to_owned(), action, source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(error("make its folder"))?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                // A daemon that was killed left its socket behind.
                if UnixStream::connect(path).is_ok() {
                    return Err(ServeError::InUse(path.to_owned()));
                }
                fs::remove_file(path).map_err(error("remove the old socket"))?;
            }
            Ok(_) => {
                let source =
                    io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket");
                return Err(error("make it")(source));
            }
            Err(_) => {}
        }
        let listener = {
            let _inside = self.runtime.enter();
            UnixListener::bind(path).map_err(error("make it"))?
        };
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))
            .map_err(error("set its rights"))?;
        Ok(listener)
    }

    /// Ends all streams and answers, and takes the socket away.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(serving) = self.serving.take() {
            // Streams say why they end. Whoever does not listen is not waited for.
            let last = async { tokio::time::timeout(LAST_WORDS, serving).await };
            let _late = self.runtime.block_on(last);
        }
        if let Some(socket) = &self.socket {
            // Whoever starts next removes it if this does not.
            drop(fs::remove_file(socket));
        }
        self.runtime.shutdown_timeout(Duration::from_secs(2));
    }
}
