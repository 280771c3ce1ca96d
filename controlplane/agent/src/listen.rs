//! Who may connect, and how many at the same time?
//!
//! Over TCP a connection first shows its certificate. While it does not, it holds one of a few places, and the oldest one
//! goes when there are too many: whoever has no certificate can keep nobody out who has one.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, CertificateError, ServerConfig};
use tonic::service::Routes;

use crate::access::{Certificate, Peer};
use crate::connection;
use crate::gate::Gate;
use crate::rate::Rates;
use crate::refusals::Refusal;

/// Connections that are still to show their certificate.
const HANDSHAKES: usize = 64;
/// New connections in a second over TCP, of one address and of all: a handshake costs about a millisecond of a core.
const NEW_CONNECTIONS: [u32; 2] = [100, 200];
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1_024;
/// The wait when the kernel gives no connection: no file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What serves connections.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) gate: Arc<Gate>,
    pub(crate) routes: Routes,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Site {
    fn places(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.gate.limits().connections as usize))
    }

    /// A place for a connection, if there is one.
    fn place(&self, places: &Arc<Semaphore>, peer: &Peer) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(places).try_acquire_owned().ok();
        if place.is_none() {
            let told = format!("{} connections are open", self.gate.limits().connections);
            self.gate.counts.refuse(Refusal::Connections, peer, &told);
        }
        place
    }

    /// Serves a Unix socket.
    pub(crate) async fn unix(self, listener: UnixListener) {
        let places = self.places();
        let mut stop = self.stop.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = connection::stopped(&mut stop) => return,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let peer = Peer::Unix { uid: stream.peer_cred().ok().map(|peer| peer.uid()) };
            let Some(place) = self.place(&places, &peer) else { continue };
            let site = self.clone();
            tokio::spawn(async move {
                connection::serve(stream, peer, site.gate, site.routes, site.stop).await;
                drop(place);
            });
        }
    }

    /// Serves TCP.
    pub(crate) async fn tcp(self, listener: TcpListener) {
        let places = self.places();
        let handshakes = Arc::new(Handshakes::default());
        let rates = Rates::new(NEW_CONNECTIONS, Instant::now());
        let mut stop = self.stop.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = connection::stopped(&mut stop) => return,
            };
            let Ok((stream, address)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let peer = Peer::Plain { address };
            if rates.take(&address.ip().to_string(), Instant::now()).is_err() {
                self.gate.counts.refuse(Refusal::ConnectionRate, &peer, &"too many new connections");
                continue;
            }
            // Small answers shall not wait for each other.
            drop(stream.set_nodelay(true));
            let (site, places) = (self.clone(), Arc::clone(&places));
            if let Some(tls) = self.gate.access().tls.clone() {
                let evicted = handshakes.begin(address, |number| {
                    let handshakes = Arc::clone(&handshakes);
                    tokio::spawn(async move {
                        let greeted = site.handshake(tls, stream, address).await;
                        handshakes.end(number);
                        let Some((stream, peer)) = greeted else { return };
                        let Some(place) = site.place(&places, &peer) else { return };
                        connection::serve(stream, peer, site.gate, site.routes, site.stop).await;
                        drop(place);
                    })
                    .abort_handle()
                });
                if let Some(address) = evicted {
                    let peer = Peer::Plain { address };
                    let told = format!("{HANDSHAKES} connections show no certificate");
                    self.gate.counts.refuse(Refusal::Connections, &peer, &told);
                }
            } else {
                let Some(place) = self.place(&places, &peer) else { continue };
                tokio::spawn(async move {
                    connection::serve(stream, peer, site.gate, site.routes, site.stop).await;
                    drop(place);
                });
            }
            // Before the next one may push it out, it has its turn.
            tokio::task::yield_now().await;
        }
    }

    async fn handshake(
        &self,
        tls: Arc<ServerConfig>,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Option<(tokio_rustls::server::TlsStream<TcpStream>, Peer)> {
        let plain = Peer::Plain { address };
        let time = Duration::from_secs(self.gate.limits().handshake_timeout_s.into());
        let stream = match tokio::time::timeout(time, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                if let Some(why) = reason(&error) {
                    self.gate.counts.refuse(why, &plain, &error);
                }
                return None;
            }
            Err(_) => {
                let told = format!("no TLS within {} s", time.as_secs());
                self.gate.counts.refuse(Refusal::SlowHandshake, &plain, &told);
                return None;
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let Some(certificate) = shown.and_then(|der| Certificate::read(der)) else {
            let told = "the certificate cannot be read";
            self.gate.counts.refuse(Refusal::UntrustedCertificate, &plain, &told);
            return None;
        };
        Some((stream, Peer::Tls { address, certificate: Arc::new(certificate) }))
    }
}

/// Why there is no TLS; `None` = the client only went.
fn reason(error: &io::Error) -> Option<Refusal> {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match tls {
        None => return (error.kind() == io::ErrorKind::InvalidData).then_some(Refusal::NoTls),
        Some(rustls::Error::NoCertificatesPresented) => Refusal::NoCertificate,
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Refusal::ExpiredCertificate,
            CertificateError::Revoked => Refusal::RevokedCertificate,
            _ => Refusal::UntrustedCertificate,
        },
        Some(_) => Refusal::NoTls,
    };
    Some(why)
}

/// Connections that are still to show their certificate, the oldest first.
#[derive(Debug, Default)]
struct Handshakes {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    tasks: VecDeque<(u64, SocketAddr, AbortHandle)>,
    count: u64,
}

impl Handshakes {
    /// Adds the task that is made with its number; gives the address of one that had to go for it.
    fn begin(&self, address: SocketAddr, spawn: impl FnOnce(u64) -> AbortHandle) -> Option<SocketAddr> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if open.tasks.len() >= HANDSHAKES { open.tasks.pop_front() } else { None };
        open.count += 1;
        let number = open.count;
        let task = spawn(number);
        open.tasks.push_back((number, address, task));
        let (_, address, task) = oldest?;
        task.abort();
        Some(address)
    }

    /// A handshake is over.
    fn end(&self, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.tasks.retain(|(known, _, _)| *known != number);
    }
}

/// Listens on a TCP address.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A daemon that starts again must not wait for connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
