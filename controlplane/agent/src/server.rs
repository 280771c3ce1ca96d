//! Where is the API served?
//!
//! On a Unix socket, whose file rights decide who may connect, and on TCP when the boot config says so. Both pass the
//! same [`Gate`].

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
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
use sluice_model::ApiSettings;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tonic::service::Routes;

use crate::access::{AccessError, group};
use crate::gate::Gate;
use crate::listen::{Site, bind_tcp};
use crate::policies::Policies;
use crate::refusals::ApiCounts;
use crate::service::Service;

/// Threads that serve requests; what blocks has threads of its own.
const THREADS: usize = 2;
/// Threads for what blocks, at most: changes come one after the other anyway.
const BLOCKING_THREADS: usize = 8;
/// How long streams and answers may take to end when the daemon stops.
const LAST_WORDS: Duration = Duration::from_millis(1_200);
/// How often to look whether they ended.
const LAST_LOOK: Duration = Duration::from_millis(5);
/// How often it is told what was left out of the log.
const FLUSH: Duration = Duration::from_secs(1);

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The threads cannot be made.
    #[error("cannot start the threads of the API: {0}")]
    Threads(#[source] io::Error),
    /// Certificates or tokens cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The TCP address cannot be listened on.
    #[error(
        "cannot serve the API on {address}: {source}; change `listen` in [api], or end who has the address"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
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
    gate: Arc<Gate>,
    stop: watch::Sender<bool>,
    socket: Option<PathBuf>,
}

impl Server {
    /// Reads certificates and tokens, and makes the threads, each of which calls `prepare` first.
    ///
    /// # Errors
    /// [`ServeError::Threads`], [`ServeError::Access`].
    pub fn new(
        settings: &ApiSettings,
        prepare: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, ServeError> {
        let gate = Arc::new(Gate::new(settings.clone())?);
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(THREADS).max_blocking_threads(BLOCKING_THREADS).on_thread_start(prepare);
        let runtime = builder.thread_name("sluice-api").enable_all().build().map_err(ServeError::Threads)?;
        Ok(Self { runtime, gate, stop: watch::Sender::new(false), socket: None })
    }

    /// What it took and refused so far, to be read whenever.
    #[must_use]
    pub fn counts(&self) -> Arc<ApiCounts> {
        Arc::clone(&self.gate.counts)
    }

    /// Reads certificates and tokens anew. Who is connected stays, but for those with a token that is gone.
    ///
    /// # Errors
    /// The first file that cannot be used; then those before stay.
    pub fn reload(&self) -> Result<(), AccessError> {
        self.gate.reload()
    }

    /// Serves `policies` on TCP, if the boot config says so, and on a Unix socket at `path`, whose folder is made if it
    /// is not there. The socket comes last: when it fails, TCP is served.
    ///
    /// # Errors
    /// [`ServeError::Listen`], [`ServeError::Socket`], [`ServeError::InUse`].
    pub fn serve(&mut self, policies: Arc<Policies>, path: &Path) -> Result<(), ServeError> {
        let gate = Arc::clone(&self.gate);
        let stop = self.stop.subscribe();
        let service = Service::new(policies, SystemTime::now(), stop.clone());
        let site = Site { gate, routes: routes(service), stop };
        self.runtime.spawn(flush(Arc::clone(&site.gate)));
        if let Some(tcp) = self.gate.settings().tcp.clone() {
            let address = tcp.listen;
            let listener = {
                let _inside = self.runtime.enter();
                bind_tcp(address).map_err(|source| ServeError::Listen { address, source })?
            };
            self.runtime.spawn(site.clone().tcp(listener));
            tracing::info!(%address, tls = tcp.tls.is_some(), "the API is served on TCP");
        }
        let listener = self.bind(path)?;
        self.socket = Some(path.to_owned());
        self.runtime.spawn(site.unix(listener));
        tracing::info!(socket = %path.display(), "the API is served");
        Ok(())
    }

    fn bind(&self, path: &Path) -> Result<UnixListener, ServeError> {
        let error = |action| move |source| ServeError::Socket { path: path.to_owned(), action, source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(error("make its folder"))?;
        }
        match fs::symlink_metadata(path) {
            // One that a killed daemon left behind is replaced.
            Ok(found) if found.file_type().is_socket() => {
                if UnixStream::connect(path).is_ok() {
                    return Err(ServeError::InUse(path.to_owned()));
                }
            }
            Ok(_) => {
                let source =
                    io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket");
                return Err(error("make it")(source));
            }
            Err(_) => {}
        }
        // Nobody reaches it under a name before its rights are set.
        let private = path.with_file_name(format!(".{}", std::process::id()));
        let hidden = private.join("s");
        let _old = fs::remove_file(&hidden).and_then(|()| fs::remove_dir(&private));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&private)
            .map_err(error("make a private folder beside it"))?;
        let bound = self.bind_hidden(&hidden, path);
        let _left = fs::remove_file(&hidden);
        let removed = fs::remove_dir(&private);
        let listener = bound?;
        removed.map_err(error("remove the private folder beside it"))?;
        Ok(listener)
    }

    /// Makes the socket at `hidden`, and moves it to `path` when its rights are set.
    fn bind_hidden(&self, hidden: &Path, path: &Path) -> Result<UnixListener, ServeError> {
        let error = |action| move |source| ServeError::Socket { path: path.to_owned(), action, source };
        let listener = {
            let _inside = self.runtime.enter();
            UnixListener::bind(hidden).map_err(error("make it"))?
        };
        let settings = self.gate.settings();
        if let Some(name) = &settings.socket_group {
            chown(hidden, None, Some(group(name)?)).map_err(error("give it to its group"))?;
        }
        fs::set_permissions(hidden, fs::Permissions::from_mode(settings.socket_mode))
            .map_err(error("set its rights"))?;
        fs::rename(hidden, path).map_err(error("make it"))?;
        Ok(listener)
    }

    /// Ends all streams and answers, and takes the socket away.
    pub fn stop(self) {
        self.stop.send_replace(true);
        // Streams say why they end. Whoever does not listen is not waited for.
        let counts = self.counts();
        let ended = async {
            while counts.connections().any(|(_, open, _)| open > 0) {
                tokio::time::sleep(LAST_LOOK).await;
            }
        };
        let _late = self.runtime.block_on(async { tokio::time::timeout(LAST_WORDS, ended).await });
        if let Some(socket) = &self.socket {
            // Whoever starts next removes it if this does not.
            drop(fs::remove_file(socket));
        }
        self.runtime.shutdown_timeout(Duration::from_secs(2));
    }
}

/// All services. Messages are bounded by the gate first; tonic's own bounds are as large as any may be.
fn routes(service: Service) -> Routes {
    let sized = MAX_POLICY_SET_BYTES + MAX_REQUEST_BYTES;
    Routes::new(
        PolicyServiceServer::new(service.clone())
            .max_decoding_message_size(sized)
            .max_encoding_message_size(sized),
    )
    .add_service(
        HistoryServiceServer::new(service.clone())
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(sized),
    )
    .add_service(StatusServiceServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
    .add_service(ExplainServiceServer::new(service.clone()).max_decoding_message_size(sized))
    .add_service(CaptureServiceServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
    .add_service(FlowServiceServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
    .add_service(CounterServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES))
    .prepare()
}

/// Tells what was left out of the log.
async fn flush(gate: Arc<Gate>) {
    loop {
        tokio::time::sleep(FLUSH).await;
        gate.counts.flush();
    }
}
