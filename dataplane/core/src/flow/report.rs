//! When does a flow begin, turn into another period, and end, and what is said of it then?

use sluice_model::{CloseType, FlowRecord, MacAddr, SideRecord, TcpPerf, TunnelRecord, TunnelType};

use super::entry::{Counts, Head, Hot, flag};
use super::key::{FlowKey, KeyedPacket, protocol, vlan_id};
use super::meter::{FlowMeter, NO_VERDICT, Packet, Sink};
use super::second::second;
use super::table::Slot;
use super::tcp::flags::RST;
use super::tcp::{FlowState, TcpTracker};
use crate::decap::TunnelInfo;
use crate::wire::TunnelHeader;

/// Metrics are cut at natural seconds.
const SECOND_NS: u64 = 1_000_000_000;
/// Records are cut at natural minutes.
const MINUTE_NS: u64 = 60_000_000_000;

impl FlowMeter {
    /// Begins the flow of this packet; `None`, counted, when the table is full.
    #[inline(never)]
    pub(super) fn begin(&mut self, keyed: &KeyedPacket, packet: &Packet<'_>) -> Option<Slot> {
        let Some(slot) = self.index.insert(keyed.hash) else {
            self.table_full += 1;
            return None;
        };
        self.created += 1;
        self.used = self.used.max(slot.index() + 1);
        let time_ns = packet.time_ns;
        let client_is_second = keyed.from_second;
        let entry = &mut self.entries[slot.index()];
        entry.hot = Hot {
            words: keyed.key.words,
            verdicts: [NO_VERDICT; 2],
            stamp: 0,
            state: FlowState::Raw,
            tcp_flags: [0; 2],
            flags: flag::LIVE | if client_is_second { flag::CLIENT_IS_SECOND } else { 0 },
            last_ns: time_ns,
            period_end_ns: 0,
            hash: keyed.hash,
        };
        entry.counts = Counts::default();
        entry.tcp = TcpTracker::default();
        if FlowKey::is_long(&keyed.key.words) {
            self.long[slot.index()] = keyed.key.long;
        }
        let headers = packet.headers;
        let mac = |offset: usize| {
            let bytes = packet.frame.get(usize::from(headers.l2_offset) + offset..);
            MacAddr(bytes.and_then(|bytes| bytes.first_chunk().copied()).unwrap_or_default())
        };
        let has_ethernet = headers.l3_offset > headers.l2_offset;
        let macs = if has_ethernet { [mac(6), mac(0)] } else { [MacAddr::default(); 2] };
        self.cold[slot.index()].head = Head {
            flow_id: self.next_id(time_ns),
            first_ns: time_ns,
            interval_start_ns: time_ns,
            macs,
            ethertype: headers.ethertype,
            vlan: if headers.vlan_count > 0 { vlan_id(headers) } else { 0 },
            port: packet.port,
            is_new: true,
            ..Head::default()
        };
        self.orient_first(slot, usize::from(keyed.from_second), packet);
        Some(slot)
    }

    /// What is due when a packet comes at `time_ns`: the end of the flow if it was silent for too long (`true`), or the
    /// end of its period.
    #[inline(never)]
    pub(super) fn turn(&mut self, slot: Slot, time_ns: u64, sink: &mut impl Sink) -> bool {
        let end_ns = self.timeout_at(slot);
        if time_ns > end_ns && self.entries[slot.index()].hot.last_ns < time_ns {
            self.end(slot, end_ns, sink);
            return true;
        }
        self.close_periods(slot, time_ns, sink);
        let period_ns = if self.metrics.is_some() { SECOND_NS } else { MINUTE_NS };
        let cold = &mut self.cold[slot.index()];
        if cold.head.interval_end_ns == 0 {
            let minute_ns = time_ns - time_ns % MINUTE_NS;
            cold.head.interval_start_ns = if cold.head.is_new { cold.head.first_ns } else { minute_ns };
            cold.head.interval_end_ns = minute_ns + MINUTE_NS;
            self.entries[slot.index()].hot.flags |= flag::INTERVAL_OPEN;
        }
        self.entries[slot.index()].hot.period_end_ns = time_ns - time_ns % period_ns + period_ns;
        false
    }

    /// When the flow ends if no packet comes.
    fn timeout_at(&self, slot: Slot) -> u64 {
        let hot = &self.entries[slot.index()].hot;
        let both = flag::FIRST_SENT | flag::SECOND_SENT;
        let timeout_ns =
            hot.state.timeout_ns(protocol(&hot.words), hot.flags & both == both, &self.config.timeouts);
        hot.last_ns.saturating_add(timeout_ns)
    }

    /// Reports the second and the minute of a flow that are over at `now_ns`.
    fn close_periods(&mut self, slot: Slot, now_ns: u64, sink: &mut impl Sink) {
        let hot = &mut self.entries[slot.index()].hot;
        if hot.period_end_ns != 0 && now_ns >= hot.period_end_ns {
            let period_end_ns = std::mem::take(&mut hot.period_end_ns);
            self.tell_metrics(slot, period_end_ns - 1);
        }
        let interval_end_ns = self.cold[slot.index()].head.interval_end_ns;
        if interval_end_ns != 0 && now_ns >= interval_end_ns {
            self.report_record(slot, CloseType::ForcedReport, interval_end_ns, sink);
        }
    }

    /// Ends the flow at `end_ns`: reports it for the last time and gives its memory back.
    pub(super) fn end(&mut self, slot: Slot, end_ns: u64, sink: &mut impl Sink) {
        self.close_periods(slot, end_ns, sink);
        let close_type = self.close_type(slot);
        self.tell_metrics(slot, self.entries[slot.index()].hot.last_ns);
        self.tell_end(slot, close_type, end_ns);
        let cold = &mut self.cold[slot.index()];
        if cold.head.interval_end_ns == 0 {
            // Nothing since the last report: the record of the end covers the minute of the end.
            let minute_ns = end_ns - end_ns % MINUTE_NS;
            cold.head.interval_start_ns = if cold.head.is_new { cold.head.first_ns } else { minute_ns };
        }
        self.report_record(slot, close_type, end_ns, sink);
        let cold = &mut self.cold[slot.index()];
        (cold.before, cold.handshake, cold.tunnels) = Default::default();
        let entry = &mut self.entries[slot.index()];
        entry.tcp.release(&mut self.ranges);
        entry.hot.flags = 0;
        let hash = entry.hot.hash;
        self.index.remove(hash, slot);
    }

    /// The id of a new flow: its first time (in units of about a second), the worker, and a count.
    fn next_id(&mut self, first_ns: u64) -> u64 {
        let count = self.created & 0x00ff_ffff;
        (first_ns >> 30) << 32 | u64::from(self.config.worker) << 24 | count
    }

    /// Ends flows that were silent for too long at `now_ns`, and reports minutes that are over: looks at `entries`
    /// entries, and goes on there the next time.
    pub fn sweep(&mut self, now_ns: u64, entries: usize, sink: &mut impl Sink) {
        let minute_ns = now_ns - now_ns % MINUTE_NS;
        let mut left = entries.min(self.used);
        while left > 0 {
            let from = self.sweep_next;
            let part = self.entries.get(from..self.used).unwrap_or_default();
            let part = part.get(..left).unwrap_or(part);
            // What is due is seldom; the rest is only read, in the order of memory.
            let due = part.iter().position(|entry| {
                let hot = &entry.hot;
                let is_silent = now_ns.saturating_sub(hot.last_ns) > self.min_timeout_ns;
                let is_over = hot.period_end_ns != 0 && now_ns >= hot.period_end_ns;
                let is_last_minute = hot.flags & flag::INTERVAL_OPEN != 0 && hot.last_ns < minute_ns;
                hot.flags & flag::LIVE != 0 && (is_silent || is_over || is_last_minute)
            });
            let passed = due.map_or(part.len(), |due| due + 1);
            left -= passed;
            let next = from + passed;
            self.sweep_next = if next >= self.used { 0 } else { next };
            let Some(due) = due else { continue };
            let slot = Slot::new(from + due);
            let end_ns = self.timeout_at(slot);
            if now_ns > end_ns {
                self.end(slot, end_ns, sink);
            } else {
                self.close_periods(slot, now_ns, sink);
            }
        }
    }

    /// Looks at so many entries that all of them have their turn about once a second, but at most at a few hundred.
    #[inline]
    pub fn sweep_on(&mut self, now_ns: u64, sink: &mut impl Sink) {
        self.sweep_most(now_ns, 256, sink);
    }

    /// The same while no packet waits: at more, for the time that passed since the last packet.
    pub fn sweep_idle(&mut self, now_ns: u64, sink: &mut impl Sink) {
        self.sweep_most(now_ns, 16_384, sink);
    }

    #[inline]
    fn sweep_most(&mut self, now_ns: u64, most: usize, sink: &mut impl Sink) {
        let passed_ns = now_ns.saturating_sub(self.swept_ns).min(1_000_000_000);
        let due = self.used as u64 * passed_ns / 1_000_000_000;
        if due > 0 {
            self.swept_ns = now_ns;
            self.sweep(now_ns, usize::try_from(due).unwrap_or(most).min(most), sink);
            if let Some(metrics) = &mut self.metrics {
                metrics.advance(second(now_ns));
                metrics.flush(most, |row| sink.metrics(row));
            }
        }
    }

    /// Reports what every flow did since its last report, at `now_ns`: flows that only wait for what comes late end, the
    /// others stay.
    pub fn report_all(&mut self, now_ns: u64, sink: &mut impl Sink) {
        for index in 0..self.used {
            let slot = Slot::new(index);
            let hot = &self.entries[index].hot;
            let flags = hot.flags;
            if flags & flag::LIVE == 0 {
                continue;
            }
            if hot.state.is_over() {
                self.end(slot, now_ns, sink);
            } else if flags & flag::INTERVAL_OPEN != 0 {
                self.tell_metrics(slot, self.entries[index].hot.last_ns);
                self.report_record(slot, CloseType::ForcedReport, now_ns, sink);
            }
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.finish(|row| sink.metrics(row));
        }
    }

    /// Ends and reports everything that is due before the second of `now_ns`, second by second: for captured time, which
    /// may jump. What is later must come afterwards. Takes as long as it takes.
    pub fn run_to(&mut self, now_ns: u64, sink: &mut impl Sink) {
        let until_s = now_ns / SECOND_NS;
        while self.reached_s < until_s && !self.index.is_empty() {
            let entries = self.entries.get(..self.used).unwrap_or_default();
            let live = (0..entries.len()).filter(|at| entries[*at].hot.flags & flag::LIVE != 0);
            let due_ns = live.map(|at| self.timeout_at(Slot::new(at))).min().unwrap_or(u64::MAX);
            self.reached_s = (due_ns / SECOND_NS + 1).clamp(self.reached_s + 1, until_s);
            self.sweep_next = 0;
            let reached_ns = self.reached_s.saturating_mul(SECOND_NS);
            self.sweep(reached_ns, self.used, sink);
            if let Some(metrics) = &mut self.metrics {
                metrics.advance(second(reached_ns));
                metrics.flush(usize::MAX, |row| sink.metrics(row));
            }
        }
        if self.index.is_empty() {
            self.used = 0;
        }
        self.reached_s = self.reached_s.max(until_s);
    }

    /// Lets time run on until every flow has timed out.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        self.run_to(u64::MAX, sink);
        // Times at the end of what a clock can say are never over.
        self.sweep(u64::MAX, self.used, sink);
        self.reached_s = 0;
        if let Some(metrics) = &mut self.metrics {
            metrics.finish(|row| sink.metrics(row));
        }
    }

    /// Why the flow ends.
    fn close_type(&self, slot: Slot) -> CloseType {
        let (entry, cold) = (&self.entries[slot.index()], &self.cold[slot.index()]);
        let before = &cold.before[1];
        let rst = (entry.hot.tcp_flags[1] | before.tcp_flags) & RST != 0;
        let packets = before.packets + cold.throughput(1, &entry.counts.sent[1]).packets;
        entry.hot.state.close_type(protocol(&entry.hot.words), rst, packets)
    }

    /// Emits the record of the current interval, which ends at `end_ns`, and begins another.
    fn report_record(&mut self, slot: Slot, close_type: CloseType, end_ns: u64, sink: &mut impl Sink) {
        self.orient_again(slot);
        let entry = &mut self.entries[slot.index()];
        let cold = &mut self.cold[slot.index()];
        let hot = &entry.hot;
        let key = FlowKey::decode(&hot.words, &self.long[slot.index()]);
        let client = usize::from(hot.flags & flag::CLIENT_IS_SECOND != 0);
        let mut sides = [SideRecord::default(); 2];
        let duplicates = std::mem::take(&mut cold.duplicates);
        for (number, (side, sent)) in sides.iter_mut().zip(&entry.counts.sent).enumerate() {
            let sent = cold.throughput(number, sent);
            let tcp_flags = hot.tcp_flags[number];
            let before = &mut cold.before[number];
            before.packets += sent.packets;
            before.bytes += sent.bytes;
            before.tcp_flags |= tcp_flags;
            *side = SideRecord {
                packets: sent.packets,
                bytes: sent.bytes,
                l3_bytes: sent.l3_bytes,
                l4_bytes: sent.l4_bytes,
                total_packets: before.packets,
                total_bytes: before.bytes,
                duplicates: duplicates[number],
                tcp_flags,
            };
        }
        let mut delays = std::mem::take(&mut cold.delays_told);
        delays.merge(entry.counts.delays);
        let has_perf = entry.tcp.take_measured();
        let mut perf = if has_perf { std::mem::take(&mut cold.perf) } else { TcpPerf::default() };
        (perf.srt, perf.art) = (delays.srt.into(), delays.art.into());
        if std::mem::take(&mut cold.head.has_perf_told) {
            perf.merge(&std::mem::take(&mut cold.perf_told));
        }
        let record = FlowRecord {
            flow_id: cold.head.flow_id,
            start_ns: cold.head.interval_start_ns,
            end_ns,
            duration_ns: hot.last_ns.saturating_sub(cold.head.first_ns),
            close_type,
            is_new_flow: cold.head.is_new,
            network: key.network,
            addresses: [key.addresses[client], key.addresses[client ^ 1]],
            macs: cold.head.macs,
            ethertype: cold.head.ethertype,
            vlan: cold.head.vlan,
            protocol: key.protocol,
            ports: key.ports.map(|ports| [ports[client], ports[client ^ 1]]),
            tunnels: cold.tunnels.map(|tunnel| tunnel.as_ref().and_then(tunnel_record)),
            tap: key.tap,
            port: cold.head.port,
            tap_side: self.config.side(key.tap, cold.head.port),
            vtap_id: self.config.vtap_id,
            direction_score: cold.head.direction_score,
            sides,
            perf,
            syn_seq: cold.handshake.syn_seq,
            syn_ack_seq: cold.handshake.syn_ack_seq,
        };
        entry.hot.tcp_flags = [0; 2];
        entry.counts = Counts::default();
        if std::mem::take(&mut cold.head.is_spilled) {
            cold.spilled = Default::default();
        }
        cold.told = Default::default();
        cold.head.is_new = false;
        cold.head.interval_end_ns = 0;
        entry.hot.flags &= !flag::INTERVAL_OPEN;
        sink.flow(&record);
    }
}

/// The tunnel as records name it.
fn tunnel_record(tunnel: &TunnelInfo) -> Option<TunnelRecord> {
    let kind = match tunnel.kind {
        TunnelHeader::None => return None,
        TunnelHeader::Vxlan => TunnelType::Vxlan,
        TunnelHeader::Geneve => TunnelType::Geneve,
        TunnelHeader::Gre => TunnelType::Gre,
        TunnelHeader::GreTeb => TunnelType::Teb,
        TunnelHeader::Erspan1 => TunnelType::Erspan1,
        TunnelHeader::Erspan2 => TunnelType::Erspan2,
        TunnelHeader::Erspan3 => TunnelType::Erspan3,
        TunnelHeader::IpInIp => TunnelType::IpInIp,
        TunnelHeader::GtpU => TunnelType::GtpU,
        TunnelHeader::Mpls => TunnelType::Mpls,
    };
    Some(TunnelRecord {
        kind,
        tier: tunnel.depth,
        id: tunnel.id,
        ipv4: tunnel.ipv4,
        addresses: [tunnel.src_addr, tunnel.dst_addr],
    })
}
