//! Which packet is inside the tunnels? Ports that strip pass it on in place of what came; ports that look through
//! them only match and meter it.

use std::sync::Arc;

use dpdk::Mbuf;
use sluice_core::classify::{FragmentOutcome, FragmentTable};
use sluice_core::decap::{self, Ends, LossMeter, Numbered, Obstacle, TunnelInfo, TunnelKey, Unwrapped};
use sluice_core::wire::{self, Fragment, Parsed};
use sluice_model::{DecapMode, DecapSettings, PortId, StripVlan};

use super::ends::PortEnds;
use super::guard::LoopGuard;
use super::parse::PREFETCH_AHEAD;
use super::rx::CONTIGUOUS;
use crate::batch::{Batch, RxInfo};
use crate::control_queues::PortRules;
use crate::ledger::Ledger;
use crate::tunnels::TunnelRows;

/// Tunnels whose loss is metered, per worker.
const METERED_TUNNELS: usize = 1024;
/// Bytes that are put into one piece before tunnels of a packet in several segments are followed.
pub(crate) const CONTIGUOUS_TUNNELS: u16 = 1024;
/// Bytes of a VLAN tag.
pub(super) const VLAN_TAG: u16 = 4;
/// Both addresses of an Ethernet header.
const ADDRESSES: usize = 12;

/// The state of the stage.
#[derive(Debug)]
pub struct Decap {
    /// By port number.
    ports: Vec<DecapSettings>,
    ends: PortEnds,
    /// `None` = the packets' distributor has it.
    meter: Option<TunnelMeter>,
}

/// Counts what numbered tunnels lost, and publishes it.
#[derive(Debug)]
pub struct TunnelMeter {
    meter: LossMeter,
    rows: Arc<TunnelRows>,
}

impl TunnelMeter {
    /// A meter for ports with these settings, by port number; `None` when none of them opens tunnels.
    #[must_use]
    pub fn new(ports: &[DecapSettings]) -> Option<Self> {
        let wanted = ports.iter().any(|settings| !settings.is_off());
        wanted.then(|| Self {
            meter: LossMeter::new(METERED_TUNNELS),
            rows: Arc::new(TunnelRows::new(METERED_TUNNELS)),
        })
    }

    /// The numbered tunnels, published.
    #[must_use]
    pub fn rows(&self) -> Arc<TunnelRows> {
        Arc::clone(&self.rows)
    }

    /// Meters a packet of a numbered tunnel.
    #[inline]
    pub(crate) fn count(&mut self, numbered: &Numbered<'_>) {
        let key = TunnelKey {
            src_addr: numbered.outer.src_addr,
            ipv4: numbered.outer.l3 == wire::L3::Ipv4,
            kind: numbered.kind,
            id: numbered.outer.tunnel_id,
        };
        match self.meter.observe(&key, numbered.number, numbered.bits) {
            Some(row) => self.rows.publish(&self.meter, row),
            None => self.rows.publish_refused(&self.meter),
        }
    }
}

impl Decap {
    /// The stage for ports with these settings, by port number; `None` when none of them has it do anything. All memory
    /// is taken here.
    #[must_use]
    pub fn new(ports: &[DecapSettings]) -> Option<Self> {
        TunnelMeter::new(ports).map(|meter| Self {
            ports: ports.to_vec(),
            ends: PortEnds::default(),
            meter: Some(meter),
        })
    }

    /// With the own addresses of the ports, where tunnels end that come off only there.
    #[must_use]
    pub fn with_ends(self, ends: PortEnds) -> Self {
        Self { ends, ..self }
    }

    /// Leaves the loss of tunnels to a distributor: a worker behind one sees a part of each tunnel's packets.
    #[must_use]
    pub fn without_meter(mut self) -> Self {
        self.meter = None;
        self
    }

    /// Changes what is done at a port, one of those that the stage was made for; `rules` are what was then.
    pub(crate) fn set_port(&mut self, port: PortId, rules: &mut PortRules) {
        if let Some(own) = self.ports.get_mut(port.index()) {
            std::mem::swap(own, &mut rules.decap);
            rules.ends = self.ends.set(port, std::mem::take(&mut rules.ends));
        }
    }

    /// The numbered tunnels, published; `None` when they are metered elsewhere.
    #[must_use]
    pub fn rows(&self) -> Option<Arc<TunnelRows>> {
        self.meter.as_ref().map(TunnelMeter::rows)
    }

    /// Whether a port looks through tunnels.
    #[must_use]
    pub(crate) fn looks_through(&self, port: PortId) -> bool {
        self.ports.get(port.index()).is_some_and(|settings| settings.mode == DecapMode::LookThrough)
    }

    /// Takes plain VXLAN off the live packets before they are parsed, where that is all there is to do: what is inside is
    /// parsed then. Returns which packets those are (bit i: place i).
    ///
    /// What `guard` may want to see, and all else, is left to [`Decap::run`].
    #[inline]
    pub fn run_first(&mut self, batch: &mut Batch, guard: &LoopGuard, ledger: &mut Ledger) -> u64 {
        let mut port = PortId(u16::MAX);
        let mut settings = DecapSettings::default();
        let mut done = 0_u64;
        for place in 0..batch.len {
            if let Some(Some(ahead)) = batch.mbufs.get(place + PREFETCH_AHEAD) {
                ahead.prefetch_data();
            }
            if batch.ingress[place] != port {
                port = batch.ingress[place];
                settings = self.ports.get(usize::from(port.0)).copied().unwrap_or_default();
            }
            let Some(mbuf) = &mut batch.mbufs[place] else { continue };
            if settings.mode != DecapMode::Strip || mbuf.segments() > 1 {
                continue;
            }
            let (view, tunnel) = (&mut batch.outer[place], &mut batch.tunnel[place]);
            let Some(found) = decap::direct(mbuf.data(), settings, view, tunnel) else { continue };
            if guard.sends_to(&tunnel.dst_addr) {
                continue;
            }
            if settings.only_own {
                let Ends::Own(own) = self.ends.ends(port, settings) else { continue };
                if !own.contains(&(wire::L3::Ipv4, tunnel.dst_addr)) {
                    continue;
                }
                tunnel.own = true;
            }
            let info = &mut batch.info[place];
            let wire_len = info.wire_len;
            mbuf.adj(found.start);
            cut(mbuf, info, found.start, found.end);
            // As it came; the rest is counted with the other packets.
            ledger.rx_bytes += u64::from(wire_len.saturating_sub(info.wire_len));
            done |= 1 << place;
        }
        ledger.decapsulated += u64::from(done.count_ones());
        done
    }

    /// Takes tunnels and tags off the live packets, or looks through them; `with_inner`: also parses the innermost
    /// headers of what is left. The packets of `done` are left as they are. Returns which packets are not to go on, as
    /// no tunnel was taken off them (bit i: place i).
    #[inline]
    pub fn run(
        &mut self,
        batch: &mut Batch,
        done: u64,
        fragments: &mut FragmentTable,
        with_inner: bool,
        ledger: &mut Ledger,
    ) -> u64 {
        let mut rest = 0_u64;
        let mut port = PortId(u16::MAX);
        let mut settings = DecapSettings::default();
        for place in batch.live_places_of(!done) {
            if batch.ingress[place] != port {
                port = batch.ingress[place];
                settings = self.ports.get(usize::from(port.0)).copied().unwrap_or_default();
            }
            batch.tunnel[place] = TunnelInfo::NONE;
            match settings.mode {
                DecapMode::Strip if decap::is_candidate(&batch.outer[place]) => {
                    // What goes elsewhere needs no closer look.
                    if !settings.only_own || self.ends.ends(port, settings).has(&batch.outer[place]) {
                        self.strip(batch, place, settings, fragments, ledger);
                    }
                }
                DecapMode::LookThrough => self.look_through(batch, place, settings, fragments, ledger),
                DecapMode::Strip | DecapMode::Off => {}
            }
            if settings.drop_rest && batch.tunnel[place].depth == 0 {
                rest |= 1 << place;
                continue;
            }
            if settings.strip_vlan != StripVlan::None && batch.outer[place].vlan_count > 0 {
                strip_vlan(batch, place, settings.strip_vlan, ledger);
            }
            if with_inner && settings.mode != DecapMode::LookThrough {
                parse_innermost(batch, place, fragments);
            }
        }
        rest
    }

    /// Takes the tunnels off packet `place`.
    #[inline(always)]
    fn strip(
        &mut self,
        batch: &mut Batch,
        place: usize,
        settings: DecapSettings,
        fragments: &mut FragmentTable,
        ledger: &mut Ledger,
    ) {
        let Some(mbuf) = &mut batch.mbufs[place] else { return };
        if mbuf.segments() == 1
            && let Some(found) =
                decap::straight(mbuf.data(), settings, &mut batch.outer[place], &mut batch.tunnel[place])
        {
            ledger.decapsulated += 1;
            batch.tunnel[place].own = settings.only_own;
            mbuf.adj(found.start);
            cut(mbuf, &mut batch.info[place], found.start, found.end);
            return;
        }
        self.strip_any(batch, place, settings, fragments, ledger);
    }

    #[inline(never)]
    fn strip_any(
        &mut self,
        batch: &mut Batch,
        place: usize,
        settings: DecapSettings,
        fragments: &mut FragmentTable,
        ledger: &mut Ledger,
    ) {
        let Some(mbuf) = &mut batch.mbufs[place] else { return };
        if mbuf.segments() > 1 {
            gather(mbuf, CONTIGUOUS_TUNNELS);
        }
        let view = &mut batch.outer[place];
        let tunnel = &mut batch.tunnel[place];
        let meter = &mut self.meter;
        let mut on_number = |number: &Numbered<'_>| {
            if let Some(meter) = meter {
                meter.count(number);
            }
        };
        let ends = self.ends.ends(batch.ingress[place], settings);
        let found = decap::unwrap_at(mbuf.data(), settings, ends, view, tunnel, &mut on_number);
        if let Some(obstacle) = found.obstacle {
            ledger.decap_obstacles.add(obstacle);
        }
        if found.depth == 0 {
            return;
        }
        if !take_off(mbuf, &found) {
            ledger.decap_obstacles.add(Obstacle::Unwritable);
            *tunnel = TunnelInfo::NONE;
            wire::parse_into(mbuf.data(), view);
            return;
        }
        ledger.decapsulated += 1;
        cut(mbuf, &mut batch.info[place], found.start, found.end);
        if mbuf.segments() > 1 && mbuf.data_len() < CONTIGUOUS {
            gather(mbuf, CONTIGUOUS);
            wire::parse_into(mbuf.data(), view);
        }
        resolve(view, mbuf.data(), batch.info[place].timestamp_ns, fragments, ledger);
    }

    /// Parses packet `place` inside its tunnels.
    #[inline]
    fn look_through(
        &mut self,
        batch: &mut Batch,
        place: usize,
        settings: DecapSettings,
        fragments: &mut FragmentTable,
        ledger: &mut Ledger,
    ) {
        batch.inner[place] = batch.outer[place];
        if !decap::is_candidate(&batch.outer[place]) {
            return;
        }
        let Some(mbuf) = &mut batch.mbufs[place] else { return };
        if mbuf.segments() > 1 {
            gather(mbuf, CONTIGUOUS_TUNNELS);
        }
        let view = &mut batch.inner[place];
        let tunnel = &mut batch.tunnel[place];
        let meter = &mut self.meter;
        let mut on_number = |number: &Numbered<'_>| {
            if let Some(meter) = meter {
                meter.count(number);
            }
        };
        let ends = self.ends.ends(batch.ingress[place], settings);
        let found = decap::unwrap_at(mbuf.data(), settings, ends, view, tunnel, &mut on_number);
        if let Some(obstacle) = found.obstacle {
            ledger.decap_obstacles.add(obstacle);
        }
        if found.depth > 0 {
            ledger.decapsulated += 1;
            found.look_through(view);
            batch.looked_through |= 1 << place;
            resolve(view, mbuf.data(), batch.info[place].timestamp_ns, fragments, ledger);
        }
    }
}

/// Makes the inner frame the packet's first bytes; false, and nothing changed, when that cannot be done.
#[inline]
fn take_off(mbuf: &mut Mbuf, found: &Unwrapped) -> bool {
    if let Some(header) = found.header {
        let Some(bytes) = mbuf.data_mut() else { return false };
        let (from, to) = (usize::from(header.addresses_at), usize::from(found.start));
        if !move_addresses(bytes, from, to) {
            return false;
        }
        if let Some(kind) = bytes.get_mut(to + ADDRESSES..to + ADDRESSES + 2) {
            kind.copy_from_slice(&header.ethertype.to_be_bytes());
        }
    }
    mbuf.adj(found.start)
}

/// Copies the addresses of an Ethernet header; false when the bytes are not there.
#[inline]
pub(super) fn move_addresses(bytes: &mut [u8], from: usize, to: usize) -> bool {
    let there = from.max(to) + ADDRESSES + 2 <= bytes.len();
    if there {
        bytes.copy_within(from..from + ADDRESSES, to);
    }
    there
}

/// Cuts what the outer lengths say is not of the inner frame, and counts the original length anew.
#[inline]
fn cut(mbuf: &mut Mbuf, info: &mut RxInfo, start: u16, end: u32) {
    let start = u32::from(start);
    let end = end.saturating_sub(start);
    if mbuf.pkt_len() > end {
        mbuf.truncate(end);
    }
    info.wire_len = info.wire_len.saturating_sub(start).min(end).max(mbuf.pkt_len());
}

/// Makes the first `bytes` contiguous, as far as the packet goes and its first segment has room.
#[cold]
pub(crate) fn gather(mbuf: &mut Mbuf, bytes: u16) {
    let wanted = u32::from(bytes).min(mbuf.pkt_len());
    if u32::from(mbuf.data_len()) < wanted {
        // What cannot be pulled together is followed as far as the first segment goes.
        let _pulled = mbuf.pull_up(u16::try_from(wanted).unwrap_or(bytes));
    }
}

/// Gives a later fragment the ports of its datagram.
#[inline]
fn resolve(view: &mut Parsed, frame: &[u8], now_ns: u64, fragments: &mut FragmentTable, ledger: &mut Ledger) {
    if view.fragment != Fragment::Whole && fragments.resolve(view, frame, now_ns) == FragmentOutcome::Unknown
    {
        ledger.fragments_unmatched += 1;
    }
}

/// Takes VLAN tags off packet `place`.
#[cold]
fn strip_vlan(batch: &mut Batch, place: usize, which: StripVlan, ledger: &mut Ledger) {
    let Some(mbuf) = &mut batch.mbufs[place] else { return };
    let tags = match which {
        StripVlan::None => 0,
        StripVlan::Outer => 1,
        StripVlan::All => u16::from(batch.outer[place].vlan_count),
    };
    let bytes = tags * VLAN_TAG;
    let moved = mbuf.data_mut().is_some_and(|frame| move_addresses(frame, 0, bytes.into()));
    if !moved || !mbuf.adj(bytes) {
        ledger.decap_obstacles.add(Obstacle::Unwritable);
        return;
    }
    ledger.vlan_stripped += 1;
    let info = &mut batch.info[place];
    info.wire_len = info.wire_len.saturating_sub(bytes.into()).max(mbuf.pkt_len());
    let outer = &mut batch.outer[place];
    let ports = (outer.src_port, outer.dst_port, outer.has_ports, outer.tcp_flags);
    wire::parse_into(mbuf.data(), outer);
    if outer.fragment == Fragment::Later {
        // As they were found when the packet came in.
        (outer.src_port, outer.dst_port, outer.has_ports, outer.tcp_flags) = ports;
    }
}

/// The innermost headers of packet `place`, as it now is.
#[cold]
fn parse_innermost(batch: &mut Batch, place: usize, fragments: &mut FragmentTable) {
    let Some(mbuf) = &batch.mbufs[place] else { return };
    super::parse::innermost(
        mbuf.data(),
        &batch.outer[place],
        &mut batch.inner[place],
        batch.info[place].timestamp_ns,
        fragments,
    );
}
