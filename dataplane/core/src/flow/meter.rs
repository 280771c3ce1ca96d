//! What does a packet change in its flow?
//!
//! The three steps of a batch are [`FlowMeter::prepare`] for each packet, [`FlowMeter::fetch`] for each packet, and
//! then [`FlowMeter::packet`] for each packet in order. [`FlowMeter::sweep`] ends and reports what no packet touches
//! any more, a bounded number of flows at a time.

use sluice_cpu::{large_table, prefetch_index, prefetch_write};
use sluice_model::{DelayLimits, FlowRecord, FlowTimeouts, MetricsRecord, PortId, TapSide};

use super::direction::ServiceScores;
use super::entry::{Cold, Entry, flag};
use super::key::{FlowKey, KeyedPacket, VlanKey};
use super::lengths::Lengths;
use super::metrics::{MetricsConfig, MetricsCounts, MetricsTable};
use super::table::{Index, Keys, Slot};
use super::tcp::flags::{MASK, SYN};
use super::tcp::{Direction, Measured, RangePool, TcpSegment};
use crate::decap::TunnelInfo;
use crate::wire::{Fragment, Parsed};

/// No verdict is kept.
pub(super) const NO_VERDICT: u32 = u32::MAX;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Packets that are looked up together, at most.
const BATCH: usize = 64;

/// One packet, as the meter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The contiguous first bytes of the frame.
    pub frame: &'a [u8],
    /// The headers that say which flow it belongs to.
    pub headers: &'a Parsed,
    /// The tunnel that it came in, if that was taken off or looked through.
    pub tunnel: &'a TunnelInfo,
    /// The original length of the frame, bytes.
    pub wire_len: u32,
    /// Capture time, nanoseconds since the epoch.
    pub time_ns: u64,
    /// The port that it came in by.
    pub port: PortId,
    /// Whether deduplication found it to be a copy, and let it pass.
    pub is_duplicate: bool,
}

/// Where records and rows of metrics go.
pub trait Sink {
    /// Takes a flow record.
    fn flow(&mut self, record: &FlowRecord);
    /// Takes a row of metrics.
    fn metrics(&mut self, row: &MetricsRecord);
}

/// For who wants neither.
impl Sink for () {
    fn flow(&mut self, _record: &FlowRecord) {}

    fn metrics(&mut self, _row: &MetricsRecord) {}
}

/// How large the tables are and how flows are told apart.
#[derive(Clone, Debug)]
pub struct MeterConfig {
    /// Flows at the same time.
    pub flows: u32,
    /// Whether the VLAN tells flows apart.
    pub vlan: VlanKey,
    /// When silent flows end.
    pub timeouts: FlowTimeouts,
    /// Which delays are too long to be true.
    pub delay_limits: DelayLimits,
    /// Where each ingress port stands, by port number; ports beyond are like the default.
    pub taps: Vec<TapPort>,
    /// Which side taps see, by their numbers, ascending; others see that of the port.
    pub tap_sides: Vec<(u16, TapSide)>,
    /// The metrics; `None` = none.
    pub metrics: Option<MetricsConfig>,
    /// The number of this appliance in records.
    pub vtap_id: u16,
    /// The number of the worker: part of flow ids.
    pub worker: u8,
}

/// Where an ingress port stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapPort {
    /// The tap it belongs to; flows of different taps are different.
    pub tap: u16,
    /// Which side of the path it sees.
    pub side: TapSide,
}

impl Default for TapPort {
    fn default() -> Self {
        Self { tap: 1, side: TapSide::Rest }
    }
}

/// What the meter could not do, and how much it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeterCounts {
    /// Flows in the table.
    pub flows: u64,
    /// Flows that were begun.
    pub created: u64,
    /// Packets that got no entry because the table was full: forwarded, not metered.
    pub table_full: u64,
    /// Times that a flow with holes in its sequence numbers found no memory for them.
    pub ranges_exhausted: u64,
}

/// A packet's flow, and which end of it sent the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRef {
    /// The entry.
    pub slot: Slot,
    /// The end of the key that sent the packet.
    pub end: u32,
}

/// The flows of one worker.
#[derive(Debug)]
pub struct FlowMeter {
    pub(super) index: Index,
    pub(super) entries: Box<[Entry]>,
    pub(super) long: Box<[[u64; 4]]>,
    pub(super) cold: Box<[Cold]>,
    pub(super) scores: ServiceScores,
    pub(super) ranges: RangePool,
    pub(super) metrics: Option<MetricsTable>,
    pub(super) config: MeterConfig,
    pub(super) min_timeout_ns: u64,
    pub(super) created: u64,
    pub(super) table_full: u64,
    /// The first entries: all that are in use are among them.
    pub(super) used: usize,
    /// Where the sweep goes on, and when it was there.
    pub(super) sweep_next: usize,
    pub(super) swept_ns: u64,
    /// The second up to which [`FlowMeter::run_to`] came.
    pub(super) reached_s: u64,
    keyed: Box<[KeyedPacket; BATCH]>,
    candidates: Box<[Slot; BATCH]>,
}

/// The keys of the entries, as the index reads them.
struct Stored<'a> {
    entries: &'a [Entry],
    long: &'a [[u64; 4]],
}

impl Keys for Stored<'_> {
    #[inline(always)]
    fn words(&self, slot: Slot) -> &[u64; 3] {
        &self.entries[slot.index()].hot.words
    }

    #[inline(always)]
    fn long(&self, slot: Slot) -> &[u64; 4] {
        &self.long[slot.index()]
    }
}

impl MeterConfig {
    /// Which side of the path a flow of this tap was seen at that came in by `port`.
    pub(super) fn side(&self, tap: u16, port: PortId) -> TapSide {
        let sides = &self.tap_sides;
        match sides.binary_search_by_key(&tap, |(number, _)| *number) {
            Ok(place) => sides.get(place).map_or(TapSide::Rest, |(_, side)| *side),
            Err(_) => self.taps.get(port.index()).copied().unwrap_or_default().side,
        }
    }

    /// Bytes of all tables for so many flows.
    #[must_use]
    pub fn bytes(flows: u32, metrics: Option<&MetricsConfig>) -> u64 {
        let each = size_of::<Entry>() + size_of::<[u64; 4]>() + size_of::<Cold>();
        let tables = u64::from(flows) * each as u64 + Index::bytes_for(flows);
        let ranges = RangePool::bytes_for(ranges(flows as usize));
        tables + ranges + metrics.map_or(0, MetricsConfig::bytes)
    }
}

/// Flows with holes in their sequence numbers that there is memory for.
const fn ranges(flows: usize) -> usize {
    flows / 8 + 64
}

impl FlowMeter {
    /// An empty table. All memory is taken here.
    #[must_use]
    pub fn new(config: MeterConfig) -> Self {
        let flows = config.flows.max(1) as usize;
        Self {
            index: Index::new(config.flows.max(1)),
            entries: large_table(Entry::default(), flows),
            long: large_table([0; 4], flows),
            cold: large_table(Cold::default(), flows),
            scores: ServiceScores::default(),
            ranges: RangePool::new(ranges(flows)),
            metrics: config.metrics.map(MetricsTable::new),
            min_timeout_ns: u64::from(config.timeouts.shortest_s()) * 1_000_000_000,
            created: 0,
            table_full: 0,
            used: 0,
            sweep_next: 0,
            swept_ns: 0,
            reached_s: 0,
            keyed: Box::new([KeyedPacket::default(); BATCH]),
            candidates: Box::new([Slot::NONE; BATCH]),
            config,
        }
    }

    /// What it holds and what it could not do.
    #[must_use]
    pub fn counts(&self) -> MeterCounts {
        MeterCounts {
            flows: self.index.len() as u64,
            created: self.created,
            table_full: self.table_full,
            ranges_exhausted: self.ranges.exhausted(),
        }
    }

    /// What the metrics did, if there are any.
    #[must_use]
    pub fn metrics_counts(&self) -> MetricsCounts {
        self.metrics.as_ref().map_or_else(MetricsCounts::default, MetricsTable::counts)
    }

    /// First step, for packet `place` of the batch: its key, and a hint for the index. `tap`: the number of the tap it is
    /// of; `None` = that of its port. `frame` gives its bytes.
    #[inline(always)]
    pub fn prepare<'a>(
        &mut self,
        place: usize,
        headers: &Parsed,
        tunnel: &TunnelInfo,
        port: PortId,
        tap: Option<u16>,
        frame: impl FnOnce() -> &'a [u8],
    ) {
        let tap = tap.unwrap_or_else(|| self.tap(port).tap);
        let keyed = FlowKey::of(frame, headers, tunnel, tap, self.config.vlan);
        self.index.prefetch(keyed.hash);
        self.keyed[place % BATCH] = keyed;
    }

    /// Second step: where its entry may be, and a hint for that.
    #[inline(always)]
    pub fn fetch(&mut self, place: usize) {
        let place = place % BATCH;
        let slot = self.index.candidate(self.keyed[place].hash);
        if let Some(entry) = self.entries.get(slot.index()) {
            prefetch_write(&entry.hot);
            prefetch_write(&entry.counts);
            prefetch_write(&entry.tcp);
            if FlowKey::is_long(&self.keyed[place].key.words) {
                prefetch_index(&self.long, slot.index());
            }
        }
        self.candidates[place] = slot;
    }

    /// Third step: counts the packet in its flow, which is begun if need be. `None` when the table is full.
    #[inline]
    pub fn packet(&mut self, place: usize, packet: &Packet<'_>, sink: &mut impl Sink) -> Option<FlowRef> {
        let place = place % BATCH;
        let end = usize::from(self.keyed[place].from_second);
        let mut slot = self.candidates[place];
        if !self.holds(slot, &self.keyed[place].key) {
            slot = self.find_or_begin(place, packet)?;
        }
        let hot = &self.entries[slot.index()].hot;
        let quiet_ns = packet.time_ns.saturating_sub(hot.last_ns);
        if (packet.time_ns >= hot.period_end_ns || quiet_ns > self.min_timeout_ns)
            && self.turn(slot, packet.time_ns, sink)
        {
            slot = self.find_or_begin(place, packet)?;
            // The periods of the new flow begin.
            self.turn(slot, packet.time_ns, sink);
        }
        self.count(slot, end, packet, sink);
        Some(FlowRef { slot, end: u32::from(self.keyed[place].from_second) })
    }

    /// The entry of the packet's flow, which is begun if it is not there.
    #[inline(never)]
    fn find_or_begin(&mut self, place: usize, packet: &Packet<'_>) -> Option<Slot> {
        let keyed = self.keyed[place % BATCH];
        let stored = Stored { entries: &self.entries, long: &self.long };
        match self.index.find(&keyed.key, keyed.hash, &stored) {
            Some(slot) => Some(slot),
            None => self.begin(&keyed, packet),
        }
    }

    /// The cached verdict for packets like this one, if it has this stamp. To be asked for before the next packet is
    /// counted, which may have another flow take the entry.
    #[inline(always)]
    #[must_use]
    pub fn verdict(&self, flow: FlowRef, stamp: u32) -> Option<u32> {
        let hot = &self.entries.get(flow.slot.index())?.hot;
        let verdict = hot.verdicts[flow.end as usize & 1];
        let valid = hot.stamp == stamp && verdict != NO_VERDICT;
        valid.then_some(verdict)
    }

    /// Keeps a verdict for packets like packet `place` of the batch, unless its entry was given to another flow.
    #[inline]
    pub fn keep_verdict(&mut self, place: usize, flow: FlowRef, stamp: u32, verdict: u32) {
        let hash = self.keyed[place % BATCH].hash;
        let Some(entry) = self.entries.get_mut(flow.slot.index()) else { return };
        let hot = &mut entry.hot;
        if hot.hash != hash {
            return;
        }
        if hot.stamp != stamp {
            (hot.stamp, hot.verdicts) = (stamp, [NO_VERDICT; 2]);
        }
        hot.verdicts[flow.end as usize & 1] = verdict;
    }

    /// Changes where packets of a port come from that have no tap of their own; of a port beyond those of
    /// [`MeterConfig::taps`], nothing changes.
    pub fn set_tap(&mut self, port: PortId, tap: TapPort) {
        if let Some(own) = self.config.taps.get_mut(port.index()) {
            *own = tap;
        }
    }

    #[inline(always)]
    pub(super) fn tap(&self, port: PortId) -> TapPort {
        self.config.taps.get(port.index()).copied().unwrap_or_default()
    }

    /// Whether `slot` is the entry of `key`.
    #[inline(always)]
    fn holds(&self, slot: Slot, key: &FlowKey) -> bool {
        let Some(entry) = self.entries.get(slot.index()) else { return false };
        let words = &entry.hot.words;
        let differs = key.words.iter().zip(words).fold(0, |bits, (a, b)| bits | (a ^ b));
        // An entry given back since it was fetched keeps its words.
        differs == 0
            && entry.hot.flags & flag::LIVE != 0
            && (!FlowKey::is_long(words) || self.long[slot.index()] == key.long)
    }

    /// Counts the packet, which came from `end`, in its entry.
    #[inline(always)]
    fn count(&mut self, slot: Slot, end: usize, packet: &Packet<'_>, sink: &mut impl Sink) {
        let headers = packet.headers;
        let is_segment =
            headers.protocol == TCP && headers.l4_offset > 0 && headers.fragment != Fragment::Later;
        if is_segment && headers.tcp_flags & SYN != 0 {
            self.orient_by_syn(slot, end, packet);
        }
        if packet.tunnel.depth > 0 {
            self.note_tunnel(slot, end, packet.tunnel);
        }
        if packet.is_duplicate {
            self.note_duplicate(slot, end);
        }
        let lengths = Lengths::of(packet.frame, headers, packet.wire_len);
        let entry = &mut self.entries[slot.index()];
        let hot = &mut entry.hot;
        let client_is_second = usize::from(hot.flags & flag::CLIENT_IS_SECOND != 0);
        let side = end ^ client_is_second;
        hot.flags |= flag::FIRST_SENT << end;
        let is_late = packet.time_ns < hot.last_ns;
        hot.last_ns = hot.last_ns.max(packet.time_ns);
        let sent = &mut entry.counts.sent[side & 1];
        if !sent.add(&lengths) {
            self.cold[slot.index()].spill(side, sent);
            sent.add(&lengths);
        }
        if is_segment {
            self.segment(Place { slot, side, is_late }, lengths.l4, packet, sink);
        } else if headers.protocol == UDP && lengths.l4 > 0 {
            let art = &mut entry.counts.delays.art;
            let limits = &self.config.delay_limits;
            entry.tcp.datagram(Direction::of_side(side), packet.time_ns, lengths.l4, art, limits);
        }
    }

    /// Follows a TCP segment from `side`, with `payload` bytes. `is_late`: it is older than the latest packet.
    #[inline(always)]
    fn segment(&mut self, at: Place, payload: u32, packet: &Packet<'_>, sink: &mut impl Sink) {
        let Place { slot, side, is_late } = at;
        let flags = packet.headers.tcp_flags;
        let entry = &mut self.entries[slot.index()];
        entry.hot.tcp_flags[side & 1] |= flags & MASK;
        let before = entry.hot.state;
        let state = before.next(side == 1, flags);
        entry.hot.state = state;
        if !is_late {
            let cold = &mut self.cold[slot.index()];
            let mut measured = Measured {
                delays: &mut entry.counts.delays,
                perf: &mut cold.perf,
                handshake: &mut cold.handshake,
                pool: &mut self.ranges,
                limits: &self.config.delay_limits,
            };
            match segment_of(packet, payload) {
                Some(segment) => entry.tcp.segment(Direction::of_side(side), &segment, &mut measured),
                None => entry.tcp.disarm(),
            }
        }
        if state.ends(before) {
            self.end(slot, packet.time_ns, sink);
        }
    }
}

/// Where a packet belongs.
#[derive(Clone, Copy)]
struct Place {
    slot: Slot,
    /// 0 = from the client, 1 = from the server.
    side: usize,
    is_late: bool,
}

/// The fields of a TCP header; `None` when it was not captured up to the window.
#[inline(always)]
fn segment_of(packet: &Packet<'_>, payload_len: u32) -> Option<TcpSegment> {
    let header: &[u8; 16] = packet.frame.get(usize::from(packet.headers.l4_offset)..)?.first_chunk()?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Some(TcpSegment {
        time_ns: packet.time_ns,
        seq: word(4),
        ack: word(8),
        payload_len,
        window: u16::from_be_bytes([header[14], header[15]]),
        flags: packet.headers.tcp_flags,
    })
}
