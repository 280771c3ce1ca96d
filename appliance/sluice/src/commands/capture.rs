//! `sluice capture`: live packets into a file, or into a pipe for Wireshark.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_api::v1;
use sluice_api::v1::capture_service_client::CaptureServiceClient;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::text::{bytes, parse_duration, parse_size};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that is written; - is stdout: sluice capture -w - | wireshark -k -i -
    #[arg(short, long, value_name = "FILE")]
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
    /// Addresses of one end: host, network, range, MAC address or @group.
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
    fn open(path: &Path, force: bool) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                return Err(Failure::usage("packets are not for terminals").help(
                    "write them to a file (-w FILE), or into a pipe: sluice capture -w - | wireshark -k -i -",
                ));
            }
            return Ok(Self::Stdout(stdout));
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
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Failure::failed(format!("{} is there already", path.display()))
                    .help("overwrite it with --force"))
            }
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
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let wire = context.connection.open().await?;
    let mut client =
        CaptureServiceClient::new(wire).max_decoding_message_size(sluice_api::MAX_POLICY_SET_BYTES);
    let mut stream = client.capture(args.request()).await?.into_inner();
    // Opened only now: a request that was refused leaves no empty file, and overwrites none.
    let mut target = Target::open(&args.write, args.force)?;
    let (mut packets, mut size, mut lost) = (0u64, 0u64, 0u64);
    let mut end = "interrupted";
    loop {
        let chunk = tokio::select! {
            chunk = stream.message() => chunk?,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(chunk) = chunk else { break };
        target.write(&chunk.pcapng)?;
        packets = packets.saturating_add(chunk.packets);
        size = size.saturating_add(u64::try_from(chunk.pcapng.len()).unwrap_or(u64::MAX));
        lost = chunk.lost;
        end = match chunk.end() {
            v1::CaptureEnd::Unspecified => end,
            v1::CaptureEnd::Packets => "the number of packets was reached",
            v1::CaptureEnd::Bytes => "the size was reached",
            v1::CaptureEnd::Duration => "the time was over",
            v1::CaptureEnd::Shutdown => "the daemon stops",
        };
    }
    let left_out =
        if lost > 0 { format!(", {lost} left out as this reader was too slow") } else { String::new() };
    context.out.note(&format!("{packets} packets, {}{left_out}; {end}", bytes(size)));
    Ok(Exit::Ok)
}
