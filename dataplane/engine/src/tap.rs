//! Which packets does somebody want to see, live, and how do they get out of a worker?
//!
//! A [`Tap`] is one worker's part of a capture. It copies what fits its filter into chunks of memory that were there
//! before it started, and hands these over by a queue. When no empty chunk is left, packets are not copied, and
//! counted: traffic never waits. Nothing here allocates, locks or calls the system once a tap is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use dpdk::Mbuf;
use sluice_model::{DestinationId, Policy, PolicyId, PolicySet, PortId};

use crate::batch::Batch;
use crate::counters::Counter;
use crate::tap_filter::TapFilter;

/// Captures that may run at a time.
pub const TAPS: usize = 4;
/// Bytes of a chunk: the longest frame fits, and more.
pub(crate) const CHUNK_BYTES: usize = 128 * 1024;
/// Names of policies that are noted with a copy, at most.
const NOTED_POLICIES: usize = 4;
/// Bytes before the note of a packet in a chunk.
const FIXED_BYTES: usize = 20;
/// The port of a copy that goes to a file.
const NO_PORT: u16 = u16::MAX;

/// Places on the packet's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TapPoint {
    /// As received by a capture port, before anything is done with it.
    #[default]
    Received,
    /// Each copy with its outer headers, as it is handed to a driver or to the file writer.
    Sent,
}

/// What is captured.
#[derive(Clone, Debug, Default)]
pub struct TapSettings {
    /// Where.
    pub point: TapPoint,
    /// Predicates that have to hold, of the packet (as sent: of the packet that a copy is of); `None` = any packet.
    pub filter: Option<Policy>,
    /// Where it came in, or leaves; empty = anywhere.
    pub ports: Vec<PortId>,
    /// As sent: where copies go, or the group; empty = anywhere.
    pub destinations: Vec<String>,
    /// As sent: policies that asked for copies; empty = any.
    pub policies: Vec<String>,
    /// Bytes kept of each packet.
    pub snaplen: u32,
    /// One packet in so many; 0 and 1 = each.
    pub sampling: u32,
}

/// The names of a generation of policies, by number.
#[derive(Clone, Debug, Default)]
pub struct Names {
    policies: Vec<String>,
    destinations: Vec<String>,
}

impl Names {
    /// The names of `policies`.
    #[must_use]
    pub fn of(policies: &PolicySet) -> Self {
        Self {
            policies: policies.policies().iter().map(|policy| policy.name.clone()).collect(),
            destinations: policies
                .destinations()
                .iter()
                .map(|destination| destination.name.clone())
                .collect(),
        }
    }

    fn policy(&self, id: PolicyId) -> &str {
        self.policies.get(id.index()).map_or("", String::as_str)
    }

    fn destination(&self, id: DestinationId) -> &str {
        self.destinations.get(id.index()).map_or("", String::as_str)
    }
}

/// What a tap saw (worker: w, control: r).
#[derive(Debug)]
pub struct TapCounts {
    /// Packets left out for lack of room, by port number; the last one for copies to files.
    pub lost: Box<[Counter]>,
}

impl TapCounts {
    /// Zeros for `ports` ports.
    #[must_use]
    pub fn new(ports: usize) -> Arc<Self> {
        Arc::new(Self { lost: (0..=ports).map(|_| Counter::new()).collect() })
    }

    /// Packets left out, of all ports.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.iter().map(Counter::get).sum()
    }
}

/// What all taps of a capture share.
#[derive(Debug)]
pub struct TapControl {
    /// The capture is over: workers give their taps back (control: w, workers: r).
    pub ended: AtomicBool,
    /// Workers that have begun.
    pub begun: AtomicUsize,
    /// Where taps come back to be freed.
    pub back: ArrayQueue<Box<Tap>>,
}

impl TapControl {
    /// For the taps of `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            ended: AtomicBool::new(false),
            begun: AtomicUsize::new(0),
            back: ArrayQueue::new(workers.max(1)),
        })
    }
}

/// Packets, one after the other.
#[derive(Debug)]
pub struct Chunk {
    bytes: Vec<u8>,
}

impl Chunk {
    /// An empty chunk; its memory is there, not only promised.
    #[must_use]
    pub fn new() -> Box<Self> {
        let mut bytes = vec![0xff; CHUNK_BYTES];
        bytes.clear();
        Box::new(Self { bytes })
    }

    /// The packets in it.
    #[must_use]
    pub fn packets(&self) -> Packets<'_> {
        Packets { left: &self.bytes }
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }
}

/// A captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TappedPacket<'a> {
    /// When it was received, nanoseconds since the epoch.
    pub timestamp_ns: u64,
    /// Its original length in bytes; of a copy its own.
    pub wire_len: u32,
    /// The port that it came in or leaves by; `None` = it goes to a file.
    pub port: Option<PortId>,
    /// Of a copy: where it goes, and who asked for it.
    pub note: &'a str,
    /// Its first bytes.
    pub data: &'a [u8],
}

/// An iterator over the packets of a chunk.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    left: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = TappedPacket<'a>;

    fn next(&mut self) -> Option<TappedPacket<'a>> {
        let (time, left) = self.left.split_first_chunk::<8>()?;
        let (wire_len, left) = left.split_first_chunk::<4>()?;
        let (data_len, left) = left.split_first_chunk::<4>()?;
        let (port, left) = left.split_first_chunk::<2>()?;
        let (note_len, left) = left.split_first_chunk::<2>()?;
        let (note, left) = left.split_at_checked(usize::from(u16::from_le_bytes(*note_len)))?;
        let data_len = usize::try_from(u32::from_le_bytes(*data_len)).ok()?;
        let (data, left) = left.split_at_checked(data_len)?;
        self.left = left;
        let port = u16::from_le_bytes(*port);
        Some(TappedPacket {
            timestamp_ns: u64::from_le_bytes(*time),
            wire_len: u32::from_le_bytes(*wire_len),
            port: (port != NO_PORT).then_some(PortId(port)),
            note: std::str::from_utf8(note).unwrap_or_default(),
            data,
        })
    }
}

/// The chunks between a tap and who reads them.
#[derive(Clone, Debug)]
pub struct ChunkQueues {
    /// Tap to reader: with packets.
    pub full: Arc<ArrayQueue<Box<Chunk>>>,
    /// Reader to tap: empty.
    pub free: Arc<ArrayQueue<Box<Chunk>>>,
}

impl ChunkQueues {
    /// So many empty chunks.
    #[must_use]
    pub fn new(chunks: usize) -> Self {
        let chunks = chunks.max(1);
        let free = ArrayQueue::new(chunks);
        for _ in 0..chunks {
            drop(free.push(Chunk::new()));
        }
        Self { full: Arc::new(ArrayQueue::new(chunks)), free: Arc::new(free) }
    }
}

/// A copy on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied<'a> {
    pub(crate) frame: &'a Mbuf,
    /// The place of its packet in the batch.
    pub(crate) place: usize,
    pub(crate) timestamp_ns: u64,
    /// `None` = it goes to a file.
    pub(crate) port: Option<PortId>,
    pub(crate) destination: DestinationId,
    pub(crate) group: Option<DestinationId>,
    pub(crate) policies: &'a [PolicyId],
    pub(crate) names: &'a Names,
}

/// One worker's part of a capture.
#[derive(Debug)]
pub struct Tap {
    settings: TapSettings,
    filter: Option<TapFilter>,
    chunk: Option<Box<Chunk>>,
    queues: ChunkQueues,
    counts: Arc<TapCounts>,
    control: Arc<TapControl>,
    /// Bit i: packet i of the batch fits the filter.
    wanted: u64,
    /// Packets that fit since the last one that was taken.
    passed: u32,
}

impl Tap {
    /// A tap with all memory that it will ever use but for its chunks.
    #[must_use]
    pub fn new(
        settings: &TapSettings,
        queues: ChunkQueues,
        counts: Arc<TapCounts>,
        control: Arc<TapControl>,
    ) -> Box<Self> {
        Box::new(Self {
            filter: settings.filter.as_ref().and_then(TapFilter::new),
            settings: settings.clone(),
            chunk: None,
            queues,
            counts,
            control,
            wanted: 0,
            passed: 0,
        })
    }

    fn take_received(&mut self, batch: &Batch) {
        let mut places = batch.live;
        if !self.settings.ports.is_empty() {
            for place in batch.live_places() {
                if !self.settings.ports.contains(&batch.ingress[place]) {
                    places &= !(1 << place);
                }
            }
        }
        if let Some(filter) = &mut self.filter {
            places = filter.received(batch, places);
        }
        for place in batch.live_places_of(places) {
            let Some(frame) = &batch.mbufs[place] else { continue };
            let info = &batch.info[place];
            self.take(frame, info.timestamp_ns, info.wire_len, Some(batch.ingress[place]), None);
        }
    }

    fn choose_sent(&mut self, batch: &Batch, with_inner: bool) {
        self.wanted = match &mut self.filter {
            Some(filter) => filter.decided(batch, with_inner),
            None => batch.live,
        };
    }

    fn take_sent(&mut self, copied: &Copied<'_>) {
        let TapSettings { ports, destinations, policies, .. } = &self.settings;
        let names = copied.names;
        let mut ends = std::iter::once(copied.destination).chain(copied.group);
        let mut asked = copied.policies.iter();
        let fits = self.wanted >> copied.place & 1 != 0
            && (ports.is_empty() || copied.port.is_some_and(|port| ports.contains(&port)))
            && (destinations.is_empty()
                || ends.any(|end| destinations.iter().any(|name| name == names.destination(end))))
            && (policies.is_empty()
                || asked.any(|&policy| policies.iter().any(|name| name == names.policy(policy))));
        if fits {
            self.take(copied.frame, copied.timestamp_ns, copied.frame.pkt_len(), copied.port, Some(copied));
        }
    }

    /// Copies a packet that fits, if it is its turn and there is room.
    fn take(
        &mut self,
        frame: &Mbuf,
        timestamp_ns: u64,
        wire_len: u32,
        port: Option<PortId>,
        copied: Option<&Copied<'_>>,
    ) {
        if self.settings.sampling > 1 {
            let turn = self.passed;
            self.passed = (turn + 1) % self.settings.sampling;
            if turn != 0 {
                return;
            }
        }
        let keep = frame.pkt_len().min(self.settings.snaplen);
        let data_len = usize::try_from(keep).unwrap_or(usize::MAX);
        let note_len = copied.map_or(0, |copied| write_note(copied, &mut |_| {}));
        let Some(chunk) = self.chunk_for(FIXED_BYTES.saturating_add(note_len).saturating_add(data_len))
        else {
            let place = port.map_or(usize::MAX, PortId::index).min(self.counts.lost.len() - 1);
            if let Some(lost) = self.counts.lost.get(place) {
                lost.add(1);
            }
            return;
        };
        let out = &mut chunk.bytes;
        out.extend_from_slice(&timestamp_ns.to_le_bytes());
        out.extend_from_slice(&wire_len.max(keep).to_le_bytes());
        out.extend_from_slice(&keep.to_le_bytes());
        out.extend_from_slice(&port.map_or(NO_PORT, |port| port.0).to_le_bytes());
        out.extend_from_slice(&u16::try_from(note_len).unwrap_or(0).to_le_bytes());
        if let Some(copied) = copied {
            write_note(copied, &mut |text| out.extend_from_slice(text.as_bytes()));
        }
        let mut left = data_len;
        for bytes in frame.segment_slices() {
            let part = bytes.get(..left).unwrap_or(bytes);
            out.extend_from_slice(part);
            left -= part.len();
        }
        // A chain that is shorter than it says.
        out.resize(out.len() + left, 0);
    }

    /// The chunk at hand, with so much room; `None` when there is none.
    fn chunk_for(&mut self, bytes: usize) -> Option<&mut Chunk> {
        if self.chunk.as_ref().is_some_and(|chunk| chunk.room() < bytes) {
            self.hand_over();
        }
        if self.chunk.is_none() {
            self.chunk = self.queues.free.pop();
        }
        self.chunk.as_deref_mut().filter(|chunk| chunk.room() >= bytes)
    }

    /// Gives what there is to the reader.
    fn hand_over(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            // There is room for all chunks that exist.
            drop(self.queues.full.push(chunk));
        }
    }

    fn has_packets(&self) -> bool {
        self.chunk.as_ref().is_some_and(|chunk| !chunk.bytes.is_empty())
    }
}

/// Tells where a copy goes and who asked for it; returns how many bytes that takes, the same whenever it is told.
fn write_note(copied: &Copied<'_>, out: &mut impl FnMut(&str)) -> usize {
    let mut bytes = 0;
    let mut tell = |text: &str| {
        bytes += text.len();
        out(text);
    };
    let names = copied.names;
    tell("destination ");
    tell(names.destination(copied.destination));
    if let Some(group) = copied.group {
        tell(", group ");
        tell(names.destination(group));
    }
    for (place, &policy) in copied.policies.iter().take(NOTED_POLICIES).enumerate() {
        tell(if place == 0 { ", policy " } else { ", " });
        tell(names.policy(policy));
    }
    if copied.policies.len() > NOTED_POLICIES {
        tell(", ...");
    }
    bytes
}

/// The taps of one worker.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    running: ArrayVec<Box<Tap>, TAPS>,
    watches_received: bool,
    watches_sent: bool,
}

impl Taps {
    /// Whether anybody wants to see what comes.
    #[inline(always)]
    pub(crate) fn watches_received(&self) -> bool {
        self.watches_received
    }

    /// Whether anybody wants to see what leaves.
    #[inline(always)]
    pub(crate) fn watches_sent(&self) -> bool {
        self.watches_sent
    }

    /// Takes what fits of the packets as they came.
    #[cold]
    #[inline(never)]
    pub(crate) fn received(&mut self, batch: &Batch) {
        for tap in &mut self.running {
            if tap.settings.point == TapPoint::Received {
                tap.take_received(batch);
            }
        }
    }

    /// Notes which packets fit before copies are made of them. `with_inner`: their inner headers were parsed.
    #[cold]
    #[inline(never)]
    pub(crate) fn decided(&mut self, batch: &Batch, with_inner: bool) {
        for tap in &mut self.running {
            if tap.settings.point == TapPoint::Sent {
                tap.choose_sent(batch, with_inner);
            }
        }
    }

    /// Takes a copy if it fits.
    #[cold]
    #[inline(never)]
    pub(crate) fn sent(&mut self, copied: &Copied<'_>) {
        for tap in &mut self.running {
            if tap.settings.point == TapPoint::Sent {
                tap.take_sent(copied);
            }
        }
    }

    /// Begins and ends taps, and hands over what waits where the reader has nothing left to read.
    pub(crate) fn housekeeping(&mut self, new: &ArrayQueue<Box<Tap>>) {
        if self.running.is_empty() && new.is_empty() {
            return;
        }
        let mut place = 0;
        while let Some(tap) = self.running.get_mut(place) {
            if tap.control.ended.load(Ordering::Acquire) {
                tap.hand_over();
                let tap = self.running.swap_remove(place);
                let control = Arc::clone(&tap.control);
                // There is room for the taps of all workers.
                drop(control.back.push(tap));
                continue;
            }
            if tap.has_packets() && tap.queues.full.is_empty() {
                tap.hand_over();
            }
            place += 1;
        }
        while !self.running.is_full() {
            let Some(tap) = new.pop() else { break };
            tap.control.begun.fetch_add(1, Ordering::Release);
            self.running.push(tap);
        }
        let watches = |point| self.running.iter().any(|tap| tap.settings.point == point);
        (self.watches_received, self.watches_sent) = (watches(TapPoint::Received), watches(TapPoint::Sent));
    }
}
