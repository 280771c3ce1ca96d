//! Where is the daemon, and how is it reached?

use std::error::Error;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, fs, io};

use clap::Args;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status};

use crate::failure::{Exit, Failure};
use crate::text::{parse_duration, safe, safe_lines};

/// The longest time that making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection with open calls is asked whether it still lives, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where the daemon is.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// The daemon: unix:PATH, https://HOST:PORT, or http://127.0.0.1:PORT on this machine [default:
    /// unix:/run/sluice/sluiced.sock].
    #[arg(long, global = true, value_name = "ADDRESS", env = "SLUICE_SERVER", hide_env_values = true)]
    server: Option<Server>,
    /// With https: the certificates that the daemon's must be signed by, PEM.
    #[arg(long, global = true, value_name = "FILE", env = "SLUICE_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// With https: our own certificate, PEM.
    #[arg(long, global = true, value_name = "FILE", env = "SLUICE_CERT", hide_env_values = true)]
    cert: Option<PathBuf>,
    /// With https: the private key of our certificate, PEM.
    #[arg(long, global = true, value_name = "FILE", env = "SLUICE_KEY", hide_env_values = true)]
    key: Option<PathBuf>,
    /// A file with a token that says who we are.
    #[arg(long, global = true, value_name = "FILE", env = "SLUICE_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// With https: the name in the daemon's certificate, when it is not the host of the address.
    #[arg(long, global = true, value_name = "NAME")]
    server_name: Option<String>,
    /// How long to wait for an answer.
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

/// The address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// A Unix socket.
    Unix(PathBuf),
    /// TCP with TLS.
    Tls(Uri),
    /// TCP without TLS, on this machine only.
    Plain(Uri),
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // unix:///run/x is the same place as unix:/run/x.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err("no path; write unix:/run/sluice/sluiced.sock".to_owned())
            } else {
                Ok(Self::Unix(PathBuf::from(path)))
            };
        }
        if text.starts_with('/') {
            return Err(format!("a socket is written unix:{}", safe(text)));
        }
        let uri: Uri = text.parse().map_err(|_| "write unix:PATH or https://HOST:PORT".to_owned())?;
        let Some(host) = uri.host() else {
            return Err("write unix:PATH or https://HOST:PORT".to_owned());
        };
        if uri.port_u16().is_none() {
            return Err("no port; write https://HOST:PORT".to_owned());
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err("nothing may follow the port; write https://HOST:PORT".to_owned());
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("no user names; tokens are given by --token-file".to_owned());
        }
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        match uri.scheme_str() {
            Some("https") => Ok(Self::Tls(uri)),
            Some("http") if ip.is_ok_and(|ip| ip.is_loopback()) => Ok(Self::Plain(uri)),
            Some("http") => {
                Err("without TLS only this machine is reached, by its address 127.0.0.1 or [::1]; \
                                 write https://HOST:PORT"
                    .to_owned())
            }
            _ => Err("write unix:PATH or https://HOST:PORT".to_owned()),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", safe(&path.display().to_string())),
            Self::Tls(uri) | Self::Plain(uri) => f.write_str(safe(&uri.to_string()).trim_end_matches('/')),
        }
    }
}

/// A connection; each call carries the token.
pub(crate) type Wire = InterceptedService<Channel, Token>;

/// Puts the token into each call.
#[derive(Clone, Debug)]
pub(crate) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(&self) -> Result<Wire, Failure> {
        let token = self.token()?;
        let tls = [&self.ca, &self.cert, &self.key];
        let channel = match &self.server {
            None if tls.iter().any(|given| given.is_some()) => {
                return Err(Failure::usage("--ca, --cert and --key are for TLS, and no address is given")
                    .help("add --server https://HOST:PORT"));
            }
            None => self.unix(Path::new(sluice_api::DEFAULT_SOCKET)).await?,
            Some(Server::Unix(path)) => self.unix(path).await?,
            Some(server @ Server::Plain(uri)) => self.tcp(server, Endpoint::from(uri.clone())).await?,
            Some(server @ Server::Tls(uri)) => self.tcp(server, self.with_tls(uri)?).await?,
        };
        Ok(InterceptedService::new(channel, token))
    }

    /// Connects to the daemon of this machine whose boot config names `socket`, or the usual one. An address that was
    /// given counts unless it may be another machine's.
    pub(crate) async fn open_here(&self, socket: Option<&Path>) -> Result<Wire, Failure> {
        let here = match (&self.server, socket) {
            (Some(server @ (Server::Unix(_) | Server::Plain(_))), _) => Some(server.clone()),
            (_, socket) => socket.map(|socket| Server::Unix(socket.to_owned())),
        };
        Self { server: here, ca: None, cert: None, key: None, ..self.clone() }.open().await
    }

    fn token(&self) -> Result<Token, Failure> {
        let Some(path) = &self.token_file else { return Ok(Token(None)) };
        let text = read(path, "token")?;
        let text = String::from_utf8_lossy(&text);
        let text = text.trim();
        if text.is_empty() {
            return Err(Failure::usage(format!("{}: no token in it", path.display())));
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {text}")
            .parse()
            .map_err(|_| Failure::usage(format!("{}: a token is one line of ASCII", path.display())))?;
        value.set_sensitive(true);
        Ok(Token(Some(value)))
    }

    async fn unix(&self, path: &Path) -> Result<Channel, Failure> {
        let place = path.to_owned();
        // The first connection is made here, so that its error is seen as it is.
        let first = UnixStream::connect(path).await.map_err(|error| socket_failure(path, &error))?;
        let first = Arc::new(Mutex::new(Some(first)));
        let connector = tower::service_fn(move |_| {
            let ready = first.lock().ok().and_then(|mut first| first.take());
            let path = place.clone();
            async move {
                let stream = match ready {
                    Some(stream) => stream,
                    None => UnixStream::connect(path).await?,
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(self.timeout);
        endpoint.connect_with_connector(connector).await.map_err(|error| unreachable(&path.display(), &error))
    }

    async fn tcp(&self, server: &Server, endpoint: Endpoint) -> Result<Channel, Failure> {
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT.min(self.timeout))
            .timeout(self.timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        endpoint.connect().await.map_err(|error| unreachable(server, &error))
    }

    fn with_tls(&self, uri: &Uri) -> Result<Endpoint, Failure> {
        let Some(ca) = &self.ca else {
            return Err(Failure::usage("https needs the certificate that the daemon's is signed by")
                .help("add --ca FILE, and --cert FILE --key FILE if the daemon asks for ours"));
        };
        let authority = read(ca, "certificate")?;
        if !String::from_utf8_lossy(&authority).contains("-----BEGIN CERTIFICATE-----") {
            return Err(Failure::usage(format!("no PEM certificate in {}", ca.display())));
        }
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                tls = tls.identity(Identity::from_pem(read(cert, "certificate")?, read(key, "key")?));
            }
            (None, None) => {}
            _ => return Err(Failure::usage("--cert and --key go together")),
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        Endpoint::from(uri.clone()).tls_config(tls).map_err(|error| {
            Failure::usage(format!("the certificates cannot be used: {}", causes(&error)))
                .help("--ca, --cert and --key are PEM files; the key belongs to the certificate")
        })
    }
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, Failure> {
    fs::read(path)
        .map_err(|error| Failure::usage(format!("cannot read the {what} in {}: {error}", path.display())))
}

fn unreachable(place: &dyn fmt::Display, error: &dyn Error) -> Failure {
    let causes = causes(error);
    let help = if causes.contains("UnknownIssuer") || causes.contains("BadSignature") {
        "the daemon's certificate is not signed by one of --ca"
    } else if causes.contains("certificate not valid for name") || causes.contains("NotValidForName") {
        "the daemon's certificate has another name: --server-name NAME"
    } else {
        "is sluiced running there, and are address, certificates and firewall right?"
    };
    Failure::new(Exit::Unreachable, format!("cannot connect to {place}: {causes}")).help(help)
}

/// An error with its causes.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    safe_lines(&text)
}

fn socket_failure(path: &Path, error: &io::Error) -> Failure {
    let place = path.display();
    match error.kind() {
        ErrorKind::NotFound => Failure::new(Exit::Unreachable, format!("no socket {place}")).help(
            "is sluiced running, with its API on? Another socket or machine: --server or SLUICE_SERVER",
        ),
        ErrorKind::PermissionDenied => {
            Failure::new(Exit::NotAllowed, format!("no right to open {place}")).help(who_may(path))
        }
        ErrorKind::ConnectionRefused if !is_socket(path) => {
            Failure::new(Exit::Unreachable, format!("{place} is no socket"))
                .help("name the socket of sluiced: --server unix:/run/sluice/sluiced.sock")
        }
        ErrorKind::ConnectionRefused => Failure::new(Exit::Unreachable, format!("nobody listens on {place}"))
            .help("sluiced has ended; its log says why, and starting it again makes a new socket"),
        _ => Failure::new(Exit::Unreachable, format!("cannot connect to {place}: {error}")),
    }
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// What gives the right to open the socket.
fn who_may(path: &Path) -> String {
    let Ok(found) = fs::metadata(path) else {
        return "you may not enter its folder: become a member of the group that owns it, or use sudo"
            .to_owned();
    };
    if found.gid() == 0 {
        return "it is root's: use sudo, or give it to a group of operators: [api] socket_group".to_owned();
    }
    let group = group_name(found.gid()).unwrap_or_else(|| found.gid().to_string());
    format!("it is for the group {group}: sudo usermod -aG {group} $USER, and log in again; or use sudo")
}

fn group_name(gid: u32) -> Option<String> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let fields = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let number = fields.nth(1)?.parse::<u32>().ok()?;
        (number == gid).then_some(name)
    };
    groups.lines().find_map(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unix_or_tls_or_this_machine() {
        let socket = |path: &str| Ok(Server::Unix(path.into()));
        assert_eq!("unix:/run/s".parse(), socket("/run/s"));
        assert_eq!("unix:///run/s".parse(), socket("/run/s"));
        assert_eq!("unix:s".parse(), socket("s"));
        for (text, shown) in [
            ("https://broker.example:50051", "https://broker.example:50051"),
            ("https://[2001:db8::1]:1/", "https://[2001:db8::1]:1"),
            ("http://127.0.0.1:50051", "http://127.0.0.1:50051"),
            ("http://[::1]:50051", "http://[::1]:50051"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), shown);
        }
        for (text, told) in [
            ("unix:", "no path"),
            ("/run/s", "unix:/run/s"),
            ("broker:50051", "write unix:PATH"),
            ("https://broker", "no port"),
            ("https://broker:1/x", "nothing may follow"),
            ("https://me:secret@broker:1", "--token-file"),
            ("http://broker:1", "without TLS"),
            // A name may be told to mean another machine.
            ("http://localhost:1", "without TLS"),
            ("http://192.0.2.1:1", "without TLS"),
            ("", "write unix:PATH"),
        ] {
            let error = text.parse::<Server>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert_eq!(
            Server::Unix(sluice_api::DEFAULT_SOCKET.into()).to_string(),
            "unix:/run/sluice/sluiced.sock"
        );
    }
}
