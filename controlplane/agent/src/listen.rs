//! Who may connect, and how many at the same time?
//!
//! Over TCP a connection first shows its certificate. While it does not, it holds one of a few places, and the oldest one
//! goes when there are too many: whoever has no certificate can keep nobody out who has one.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
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

/// Of the places for connections over TCP, one in so many is for one client: the others keep theirs.
const SHARE: usize = 4;

/// What serves connections.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) gate: Arc<Gate>,
    pub(crate) routes: Routes,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Site {
    fn places(&self) -> Places {
        let all = self.gate.limits().connections as usize;
        Places { free: Arc::new(Semaphore::new(all)), each: all.div_ceil(SHARE), held: Arc::default() }
    }

    /// A place for a connection, if there is one.
    fn place(&self, places: &Places, peer: &Peer) -> Option<Place> {
        places.take(peer).map_err(|told| self.gate.counts.refuse(Refusal::Connections, peer, &told)).ok()
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
            if rates.take(&network(address.ip()), Instant::now()).is_err() {
                self.gate.counts.refuse(Refusal::ConnectionRate, &peer, &"too many new connections");
                continue;
            }
            // Small answers shall not wait for each other.
            drop(stream.set_nodelay(true));
            let (site, places) = (self.clone(), places.clone());
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

/// Places for connections, of which one client over TCP has a part at most.
#[derive(Clone, Debug)]
struct Places {
    free: Arc<Semaphore>,
    each: usize,
    held: Arc<Mutex<HashMap<String, usize>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    held: Arc<Mutex<HashMap<String, usize>>>,
    client: Option<String>,
}

impl Places {
    /// A place for this client, or why there is none.
    fn take(&self, peer: &Peer) -> Result<Place, String> {
        // Who may use the socket is no stranger, and rights are by user there.
        let client = match peer {
            Peer::Unix { .. } => None,
            Peer::Plain { address } => Some(network(address.ip())),
            Peer::Tls { address, certificate } => {
                Some(certificate.names.first().cloned().unwrap_or_else(|| network(address.ip())))
            }
        };
        let permit = Arc::clone(&self.free).try_acquire_owned();
        let permit = permit.map_err(|_| "all connections that there may be are open".to_owned())?;
        if let Some(client) = &client {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let own = held.entry(client.clone()).or_default();
            if *own >= self.each {
                return Err(format!("{own} connections of this client are open"));
            }
            *own += 1;
        }
        Ok(Place { _permit: permit, held: Arc::clone(&self.held), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(client) = &self.client else { return };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let left = held.get_mut(client).map_or(0, |own| {
            *own -= 1;
            *own
        });
        if left == 0 {
            held.remove(client);
        }
    }
}

/// Whose address it is, as far as one client has: an IPv6 host may take any address of its /64.
fn network(address: IpAddr) -> String {
    match address {
        IpAddr::V4(_) => address.to_string(),
        IpAddr::V6(full) => {
            let [a, b, c, d, ..] = full.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: usize) -> Places {
        Places { free: Arc::new(Semaphore::new(all)), each: all.div_ceil(SHARE), held: Arc::default() }
    }

    fn plain(address: &str) -> Peer {
        Peer::Plain { address: SocketAddr::new(address.parse().unwrap(), 4711) }
    }

    fn certified(address: &str, name: &str) -> Peer {
        let certificate = Arc::new(Certificate { names: vec![name.to_owned()], not_after_s: i64::MAX });
        Peer::Tls { address: SocketAddr::new(address.parse().unwrap(), 4711), certificate }
    }

    #[test]
    fn one_client_leaves_places_to_others() {
        let places = places(8);
        let own: Vec<_> = (0..3).map_while(|_| places.take(&plain("192.0.2.1")).ok()).collect();
        assert_eq!(own.len(), 2, "a quarter");
        assert!(places.take(&plain("192.0.2.2")).is_ok());
        // A certificate counts, wherever it comes from; without one, an address or the network of an IPv6 host.
        let alice = [certified("192.0.2.3", "alice"), certified("192.0.2.4", "alice")];
        let hers: Vec<_> = alice.iter().map(|peer| places.take(peer).unwrap()).collect();
        assert!(places.take(&certified("192.0.2.1", "alice")).is_err());
        assert!(places.take(&certified("192.0.2.3", "bob")).is_ok());
        let host: Vec<_> =
            ["2001:db8::1", "2001:db8::ffff:2"].map(|address| places.take(&plain(address)).unwrap()).into();
        assert!(places.take(&plain("2001:db8:0:0:1::3")).is_err());
        assert!(places.take(&plain("2001:db8:0:1::3")).is_ok());
        drop(hers);
        assert!(places.take(&alice[0]).is_ok(), "who leaves makes room");
        drop((own, host));
        assert!(places.held.lock().unwrap().is_empty(), "nobody is remembered who is gone");
    }

    #[test]
    fn users_of_the_socket_share_all_places() {
        let places = places(4);
        let all: Vec<_> = (0..9).map_while(|_| places.take(&Peer::Unix { uid: Some(0) }).ok()).collect();
        assert_eq!(all.len(), 4);
        assert!(places.take(&plain("192.0.2.1")).unwrap_err().contains("all connections"));
        assert!(places.held.lock().unwrap().is_empty(), "what found no place is not counted");
    }

    #[tokio::test]
    async fn the_oldest_handshake_goes_first() {
        let handshakes = Handshakes::default();
        let address = |port: usize| SocketAddr::from(([192, 0, 2, 1], u16::try_from(port).unwrap()));
        let mut waiting = Vec::new();
        let mut begin = |number: usize| {
            handshakes.begin(address(number), |_| {
                let task = tokio::spawn(std::future::pending::<()>());
                let handle = task.abort_handle();
                waiting.push(task);
                handle
            })
        };
        assert!((0..HANDSHAKES).all(|number| begin(number).is_none()));
        assert_eq!(begin(HANDSHAKES), Some(address(0)));
        // The first one's number is 1; the second one ends by itself.
        handshakes.end(2);
        assert_eq!(begin(HANDSHAKES + 1), None);
        assert_eq!(begin(HANDSHAKES + 2), Some(address(2)));
        assert!(waiting.swap_remove(0).await.unwrap_err().is_cancelled());
    }
}
