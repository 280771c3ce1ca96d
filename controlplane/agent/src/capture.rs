//! How does a live capture become a stream? A thread for each, which takes packets from the workers and makes pcapng of
//! them, as fast as the reader takes it; what the reader is too slow for is lost in the workers, and counted.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sluice_api::v1;
use sluice_capture::{PacketDirection, PcapngBlocks, PcapngPacket, PcapngStatistics};
use sluice_engine::runtime::Capture;
use sluice_engine::tap::{TapPoint, TappedPacket};
use tokio::sync::mpsc;
use tokio::sync::watch;
use tonic::Status;

use crate::policies::now_ns;

/// How often the workers are asked for packets.
const ROUND: Duration = Duration::from_millis(10);
/// Messages that wait for the reader, of 2 MiB at most: eight chunks of a worker, and what pcapng adds.
pub(crate) const MESSAGES: usize = 8;
/// How long a reader may take for what was captured before the end.
const LAST_MESSAGES: Duration = Duration::from_secs(30);
/// The same when the daemon stops.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The interface of copies that go to files.
const FILES: &str = "(files)";
/// In the place of a port's number: copies that go to files.
const FILES_PLACE: usize = usize::MAX;
/// Bytes of the description of an interface, at most: a name of 63 bytes, and less than that of everything else.
const DESCRIPTION_BYTES: usize = 192;

/// When a capture ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) packets: u64,
    /// Of pcapng.
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
}

/// What a capture writes besides packets.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) point: TapPoint,
    /// By number.
    pub(crate) ports: Vec<String>,
    pub(crate) snaplen: u32,
}

impl Header {
    /// The blocks before the first packet.
    pub(crate) fn blocks(&self) -> Vec<u8> {
        let mut blocks = PcapngBlocks::default();
        blocks.section(concat!("sluiced ", env!("CARGO_PKG_VERSION")));
        for port in &self.ports {
            blocks.interface(port, self.at(), self.snaplen);
        }
        if self.point == TapPoint::Sent {
            blocks.interface(FILES, "copies that are written to files", self.snaplen);
        }
        blocks.take()
    }

    fn at(&self) -> &'static str {
        match self.point {
            TapPoint::Received => "as received",
            TapPoint::Sent => "as sent",
        }
    }

    /// The interfaces that are described, by port number.
    fn interfaces(&self) -> Vec<usize> {
        let files = (self.point == TapPoint::Sent).then_some(FILES_PLACE);
        (0..self.ports.len()).chain(files).collect()
    }

    /// The fewest bytes of a stream.
    pub(crate) fn least_bytes(&self) -> u64 {
        (self.blocks().len() + end_bytes(self.interfaces().len())) as u64
    }
}

/// Bytes of the blocks after the last packet.
fn end_bytes(interfaces: usize) -> usize {
    interfaces * PcapngBlocks::STATISTICS_BYTES
}

/// Gives the name of a port that came after the capture began.
pub(crate) type NameOf = Box<dyn Fn(usize) -> Option<String> + Send>;

type Answer = Result<v1::CaptureChunk, Status>;

/// A capture that runs.
pub(crate) struct Session {
    capture: Capture,
    header: Header,
    bounds: Bounds,
    answers: mpsc::Sender<Answer>,
    stop: watch::Receiver<bool>,
    began_ns: u64,
    began: Instant,
    /// Packets and bytes in the stream so far.
    packets: u64,
    bytes: u64,
    /// The interfaces described so far, by port number.
    interfaces: Vec<usize>,
    /// By interface.
    delivered: Vec<u64>,
    name_of: NameOf,
    blocks: PcapngBlocks,
    /// Packets in the blocks.
    pending: u64,
}

/// Why nothing more can be sent.
struct Gone;

impl Session {
    pub(crate) fn new(
        capture: Capture,
        header: Header,
        bounds: Bounds,
        answers: mpsc::Sender<Answer>,
        stop: watch::Receiver<bool>,
        name_of: NameOf,
    ) -> Self {
        let interfaces = header.interfaces();
        Self {
            delivered: vec![0; interfaces.len()],
            interfaces,
            name_of,
            capture,
            header,
            bounds,
            answers,
            stop,
            began_ns: u64::try_from(now_ns()).unwrap_or(0),
            began: Instant::now(),
            packets: 0,
            bytes: 0,
            blocks: PcapngBlocks::default(),
            pending: 0,
        }
    }

    /// Streams until the capture ends, or the reader goes.
    pub(crate) fn run(mut self) {
        let begin = self.header.blocks();
        self.bytes = begin.len() as u64;
        let first = v1::CaptureChunk { pcapng: begin, ..v1::CaptureChunk::default() };
        // There is room.
        drop(self.answers.try_send(Ok(first)));
        let end = self.stream();
        self.capture.end();
        let Some(end) = end else { return };
        let patience = if end == v1::CaptureEnd::Shutdown { LAST_WORDS } else { LAST_MESSAGES };
        // Whoever has gone is told nothing.
        if self.finish(end, Instant::now() + patience).is_err() {
            tracing::debug!("a capture ended before its reader took all of it");
        }
    }

    /// Until a bound is reached; `None` when the reader has gone.
    fn stream(&mut self) -> Option<v1::CaptureEnd> {
        let deadline = self.began + self.bounds.duration;
        loop {
            if self.answers.is_closed() {
                return None;
            }
            if *self.stop.borrow() {
                return Some(v1::CaptureEnd::Shutdown);
            }
            let now = Instant::now();
            if now >= deadline {
                return Some(v1::CaptureEnd::Duration);
            }
            // With no room for what may come, packets wait in the workers.
            let taken = if self.answers.capacity() > 1 && self.blocks.is_empty() {
                let (taken, end) = self.take();
                if end.is_some() {
                    return end;
                }
                taken
            } else {
                0
            };
            self.send();
            if taken == 0 {
                std::thread::sleep(ROUND.min(deadline.saturating_duration_since(now)));
            }
        }
    }

    /// Makes blocks of what the workers have.
    fn take(&mut self) -> (u64, Option<v1::CaptureEnd>) {
        let Self { capture, header, bounds, packets, bytes, interfaces, delivered, blocks, pending, .. } =
            self;
        let name_of = &self.name_of;
        let mut end = None;
        let taken = capture.drain(|packet| {
            let place = packet.port.map_or(FILES_PLACE, sluice_model::PortId::index);
            let known = interfaces.iter().position(|known| *known == place);
            let interface = known.unwrap_or(interfaces.len());
            let block = block(packet, interface, header.point);
            let description = if known.is_some() { 0 } else { DESCRIPTION_BYTES };
            let block_bytes = (description + PcapngBlocks::packet_bytes(&block)) as u64;
            let end_bytes = end_bytes(interfaces.len().max(interface + 1)) as u64;
            if *bytes + block_bytes + end_bytes > bounds.bytes {
                end = Some(v1::CaptureEnd::Bytes);
                return ControlFlow::Break(());
            }
            if known.is_none() {
                let name = name_of(place).unwrap_or_else(|| format!("port {place}"));
                blocks.interface(&name, header.at(), header.snaplen);
                interfaces.push(place);
                delivered.push(0);
            }
            blocks.packet(&block);
            *bytes += block_bytes;
            *packets += 1;
            *pending += 1;
            if let Some(count) = delivered.get_mut(interface) {
                *count += 1;
            }
            if *packets >= bounds.packets {
                end = Some(v1::CaptureEnd::Packets);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        (taken, end)
    }

    /// Sends the blocks that there are, if there is room.
    fn send(&mut self) {
        if self.blocks.is_empty() {
            return;
        }
        if let Ok(permit) = self.answers.try_reserve() {
            permit.send(Ok(chunk(&mut self.blocks, &mut self.pending, self.capture.lost())));
        }
    }

    /// Sends what was captured before the end, and the end.
    fn finish(&mut self, end: v1::CaptureEnd, deadline: Instant) -> Result<(), Gone> {
        let mut end = end;
        while matches!(end, v1::CaptureEnd::Duration | v1::CaptureEnd::Shutdown) {
            if !self.blocks.is_empty() {
                let last = chunk(&mut self.blocks, &mut self.pending, self.capture.lost());
                self.send_by(last, deadline)?;
            }
            let (taken, bound) = self.take();
            end = bound.unwrap_or(end);
            if taken == 0 {
                break;
            }
        }
        let ended_ns = u64::try_from(now_ns()).unwrap_or(0);
        let lost = self.capture.lost_by_port();
        for (interface, (&place, &delivered)) in (0_u32..).zip(self.interfaces.iter().zip(&self.delivered)) {
            // Those of copies to files come last.
            let lost = if place == FILES_PLACE { lost.last() } else { lost.get(place) };
            self.blocks.statistics(&PcapngStatistics {
                interface,
                times_ns: [self.began_ns, ended_ns],
                delivered,
                lost: lost.copied().unwrap_or(0),
            });
        }
        let mut last = chunk(&mut self.blocks, &mut self.pending, self.capture.lost());
        last.end = end.into();
        self.send_by(last, deadline)
    }

    fn send_by(&self, chunk: v1::CaptureChunk, deadline: Instant) -> Result<(), Gone> {
        loop {
            match self.answers.try_reserve() {
                Ok(permit) => {
                    permit.send(Ok(chunk));
                    return Ok(());
                }
                Err(mpsc::error::TrySendError::Full(())) if Instant::now() < deadline => {
                    std::thread::sleep(ROUND);
                }
                Err(_) => return Err(Gone),
            }
        }
    }
}

fn chunk(blocks: &mut PcapngBlocks, pending: &mut u64, lost: u64) -> v1::CaptureChunk {
    v1::CaptureChunk {
        pcapng: blocks.take(),
        packets: std::mem::take(pending),
        lost,
        ..v1::CaptureChunk::default()
    }
}

fn block<'a>(packet: &TappedPacket<'a>, interface: usize, point: TapPoint) -> PcapngPacket<'a> {
    PcapngPacket {
        interface: u32::try_from(interface).unwrap_or(u32::MAX),
        timestamp_ns: packet.timestamp_ns,
        wire_len: packet.wire_len,
        direction: match point {
            TapPoint::Received => PacketDirection::Inbound,
            TapPoint::Sent => PacketDirection::Outbound,
        },
        comment: packet.note,
        data: packet.data,
    }
}
