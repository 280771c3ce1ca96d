//! `sluice capture`: live packets into a file, or into a pipe for Wireshark.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sluice_api::v1;
use sluice_api::v1::capture_service_client::CaptureServiceClient;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::text::{bytes, parse_duration, parse_size};

/// Pieces of the stream that wait for being written.
const PIECES: usize = 16;

/// How long the writer sleeps when there is nothing to write.
const WRITER_PATIENCE: Duration = Duration::from_millis(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that is written; - is stdout: sluice capture | wireshark -k -i -
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    write: PathBuf,
    /// Overwrite a file that is there.
    #[arg(long)]
    force: bool,
    /// Where: packets as received, or each copy as sent, with its outer headers.
    #[arg(long, value_enum, default_value = "received")]
    point: Point,
    /// Only these ports: where it comes in, or where a copy leaves.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    port: Vec<String>,
    /// As sent: only copies to these destinations.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    destination: Vec<String>,
    /// As sent: only copies that one of these policies asked for.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    policy: Vec<String>,
    /// Addresses of one end: host, network, range, MAC address, vm:NAME, port:NAME or @group.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    host: Vec<String>,
    /// TCP, UDP or SCTP ports of that end.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    l4_port: Vec<String>,
    /// Addresses of the other end.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    peer: Vec<String>,
    /// Ports of the other end.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    peer_port: Vec<String>,
    /// IP protocols.
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    protocol: Vec<String>,
    /// Ids of the outermost VLAN tag.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    vlan: Vec<String>,
    /// Ids of the second VLAN tag.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    vlan_inner: Vec<String>,
    /// Lengths of the frame in bytes.
    #[arg(long, value_name = "BYTES", value_delimiter = ',')]
    length: Vec<String>,
    /// Tunnel ids.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    tunnel_id: Vec<String>,
    /// EtherTypes.
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    ethertype: Vec<String>,
    /// TCP flags that must be set, with ! those that must not.
    #[arg(long, value_name = "FLAG", value_delimiter = ',')]
    tcp_flags: Vec<String>,
    /// Filter by the innermost headers.
    #[arg(long)]
    inner: bool,
    /// The most packets.
    #[arg(short = 'c', long, value_name = "N", default_value_t = 0)]
    packets: u64,
    /// The most bytes of the file, such as 100M.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    size: u64,
    /// The longest time.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    time: Duration,
    /// Bytes kept of each packet; 0 = all.
    #[arg(short, long, value_name = "BYTES", default_value_t = 0)]
    snaplen: u32,
    /// One packet in so many.
    #[arg(long, value_name = "N", default_value_t = 1)]
    sampling: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Point {
    Received,
    Sent,
}

impl Args {
    fn request(&self) -> v1::CaptureRequest {
        let side = |addresses: &[String], ports: &[String]| {
            let given = !addresses.is_empty() || !ports.is_empty();
            given.then(|| v1::Side { addresses: addresses.to_vec(), ports: ports.to_vec() })
        };
        let headers = if self.inner { v1::HeaderView::Inner } else { v1::HeaderView::Unspecified };
        let point = match self.point {
            Point::Received => v1::CapturePoint::Received,
            Point::Sent => v1::CapturePoint::Sent,
        };
        v1::CaptureRequest {
            point: point.into(),
            filter: Some(v1::PacketFilter {
                collect: side(&self.host, &self.l4_port),
                peer: side(&self.peer, &self.peer_port),
                protocol: self.protocol.clone(),
                vlan: self.vlan.clone(),
                vlan_inner: self.vlan_inner.clone(),
                length: self.length.clone(),
                tunnel_id: self.tunnel_id.clone(),
                headers: headers.into(),
                ethertype: self.ethertype.clone(),
                tcp_flags: self.tcp_flags.clone(),
                ..v1::PacketFilter::default()
            }),
            ports: self.port.clone(),
            destinations: self.destination.clone(),
            policies: self.policy.clone(),
            snaplen: self.snaplen,
            max_packets: self.packets,
            max_bytes: self.size,
            max_duration_ms: u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX),
            sampling: self.sampling,
        }
    }
}

/// Where the packets go.
enum Target {
    File(PathBuf, File),
    Stdout(io::Stdout),
}

impl Target {
    /// Tells what is wrong with the place before anything is asked for.
    fn check(path: &Path, force: bool) -> Result<(), Failure> {
        if path == Path::new("-") {
            if io::stdout().is_terminal() {
                return Err(Failure::usage("packets are not for terminals").help(
                    "write them to a file (-w FILE), or into a pipe: sluice capture | wireshark -k -i -",
                ));
            }
        } else if !force && path.is_file() {
            return Err(there(path));
        }
        Ok(())
    }

    fn open(path: &Path, force: bool) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Stdout(io::stdout()));
        }
        let mut options = File::options();
        options.write(true);
        // Named pipes are there before, and are no file that could be lost.
        let pipe = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
        if force {
            options.create(true).truncate(true);
        } else if !pipe {
            options.create_new(true);
        }
        match options.open(path) {
            Ok(file) => Ok(Self::File(path.to_owned(), file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(there(path)),
            Err(error) => Err(Failure::failed(format!("cannot write {}: {error}", path.display()))),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = match self {
            Self::File(_, file) => file.write_all(bytes),
            Self::Stdout(stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
        };
        written.map_err(|error| match (error.kind(), &self) {
            (ErrorKind::BrokenPipe, _) => Failure::closed(),
            (_, Self::File(path, _)) => Failure::failed(format!("cannot write {}: {error}", path.display()))
                .help("what was written before is whole"),
            (_, Self::Stdout(_)) => Failure::failed(format!("cannot write to stdout: {error}")),
        })
    }

    /// Whether whoever read has gone. Files have no readers.
    fn is_closed(&self) -> bool {
        let poll = |fd: std::os::fd::BorrowedFd<'_>| {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
                && fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR))
        };
        match self {
            Self::File(_, file) => poll(file.as_fd()),
            Self::Stdout(stdout) => poll(stdout.as_fd()),
        }
    }
}

fn there(path: &Path) -> Failure {
    Failure::failed(format!("{} is there already", path.display())).help("overwrite it with --force")
}

/// Writes what comes, in a thread of its own: a reader may take its time. Ends with the sender, or when nobody reads or
/// nothing can be written any more.
fn writer(
    mut target: Target,
    mut pieces: mpsc::Receiver<Vec<u8>>,
    ended: oneshot::Sender<Result<(), Failure>>,
) {
    let result = loop {
        match pieces.try_recv() {
            Ok(piece) => {
                if let Err(failure) = target.write(&piece) {
                    break Err(failure);
                }
            }
            Err(mpsc::error::TryRecvError::Disconnected) => break Ok(()),
            // A reader that goes while no packets come is seen, too.
            Err(mpsc::error::TryRecvError::Empty) if target.is_closed() => break Err(Failure::closed()),
            Err(mpsc::error::TryRecvError::Empty) => std::thread::sleep(WRITER_PATIENCE),
        }
    };
    // Without the one who waits for it there is nobody to tell.
    drop(ended.send(result));
}

/// What was captured so far.
#[derive(Default)]
struct Seen {
    packets: u64,
    bytes: u64,
    lost: u64,
}

impl Seen {
    fn told(&self, end: &str) -> String {
        let left_out = match self.lost {
            0 => String::new(),
            lost => format!(", {lost} left out as this reader was too slow"),
        };
        format!("{} packets, {}{left_out}; {end}", self.packets, bytes(self.bytes))
    }
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    Target::check(&args.write, args.force)?;
    let wire = context.connection.open().await?;
    let mut client =
        CaptureServiceClient::new(wire).max_decoding_message_size(sluice_api::MAX_POLICY_SET_BYTES);
    let mut stream = client.capture(args.request()).await?.into_inner();
    // Opened only now: a request that was refused leaves no empty file, and overwrites none.
    let target = Target::open(&args.write, args.force)?;
    let (pieces, to_write) = mpsc::channel(PIECES);
    let (ended, mut written) = oneshot::channel();
    std::thread::spawn(move || writer(target, to_write, ended));
    let unusable = |error: io::Error| Failure::failed(format!("cannot wait for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unusable)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unusable)?;
    let mut seen = Seen::default();
    let end = loop {
        let chunk = tokio::select! {
            chunk = stream.message() => chunk,
            _ = interrupt.recv() => break Ok("interrupted"),
            _ = terminate.recv() => break Ok("terminated"),
            result = &mut written => return closed(result, &seen, context),
        };
        let chunk = match chunk {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break Err(Failure::new(Exit::Unreachable, "the daemon ended the capture early")),
            Err(status) => break Err(Failure::from(status)),
        };
        let end = chunk.end();
        seen.packets = seen.packets.saturating_add(chunk.packets);
        seen.bytes = seen.bytes.saturating_add(u64::try_from(chunk.pcapng.len()).unwrap_or(u64::MAX));
        seen.lost = chunk.lost;
        if !chunk.pcapng.is_empty() {
            tokio::select! {
                _ = pieces.send(chunk.pcapng) => {}
                _ = interrupt.recv() => break Ok("interrupted"),
                _ = terminate.recv() => break Ok("terminated"),
            }
        }
        match end {
            v1::CaptureEnd::Unspecified => {}
            v1::CaptureEnd::Packets => break Ok("the number of packets was reached"),
            v1::CaptureEnd::Bytes => break Ok("the size was reached"),
            v1::CaptureEnd::Duration => break Ok("the time was over"),
            v1::CaptureEnd::Shutdown => break Ok("the daemon stops"),
        }
    };
    drop(pieces);
    // What was received is still written, unless nobody wants to wait for it.
    let result = tokio::select! {
        result = &mut written => result,
        _ = interrupt.recv() => return Err(Failure::failed(seen.told("the end was not written"))),
        _ = terminate.recv() => return Err(Failure::failed(seen.told("the end was not written"))),
    };
    if !matches!(result, Ok(Ok(()))) {
        return closed(result, &seen, context);
    }
    match end {
        Ok(end) => {
            context.out.note(&seen.told(end));
            Ok(Exit::Ok)
        }
        Err(failure) => {
            context.out.note(&seen.told("what was written is whole"));
            Err(failure)
        }
    }
}

/// Writing ended early.
fn closed(
    result: Result<Result<(), Failure>, oneshot::error::RecvError>,
    seen: &Seen,
    context: &Context,
) -> Result<Exit, Failure> {
    let failure = match result {
        Ok(Err(failure)) => failure,
        Ok(Ok(())) | Err(_) => Failure::failed("writing ended early"),
    };
    if failure.exit == Exit::Ok {
        context.out.note(&seen.told("the reader has gone"));
    }
    Err(failure)
}
