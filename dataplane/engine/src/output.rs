//! Where does a copy leave, and what must be put before it? One row per destination, owned by a worker.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sluice_core::encap::{Encap, EncapError, Endpoints};
use sluice_model::{Destination, DropReason, MacAddr, Oversize, Tunnel, VlanFrom};

use crate::feed_watch::FeedWatch;

/// The resolved next hop of a destination, published by the control thread (control: w, workers: r).
#[derive(Debug, Default)]
pub struct NextHopCell(AtomicU64);

const RESOLVED: u64 = 1 << 63;

impl NextHopCell {
    /// A cell that holds `mac` from the start.
    #[must_use]
    pub fn resolved(mac: MacAddr) -> Self {
        let cell = Self::default();
        cell.set(Some(mac));
        cell
    }

    /// Publishes the address, or that there is none.
    pub fn set(&self, mac: Option<MacAddr>) {
        let word = mac
            .map_or(0, |MacAddr([a, b, c, d, e, f])| u64::from_be_bytes([0, 0, a, b, c, d, e, f]) | RESOLVED);
        self.0.store(word, Ordering::Relaxed);
    }

    /// The address, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<MacAddr> {
        let word = self.0.load(Ordering::Relaxed);
        let [_, _, a, b, c, d, e, f] = word.to_be_bytes();
        (word & RESOLVED != 0).then_some(MacAddr([a, b, c, d, e, f]))
    }
}

/// Whether distribution by an interface is stopped, published by the control thread (control: w, workers: r).
#[derive(Debug, Default)]
pub struct BreakerCell {
    open: AtomicBool,
    /// Nobody asked for it.
    off: AtomicBool,
    /// How often it opened.
    opened: AtomicU64,
    /// The average egress rate over the last interval, bit/s.
    rate_bps: AtomicU64,
}

/// A [`BreakerCell`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerReport {
    /// Whether distribution is stopped.
    pub open: bool,
    /// How often it was stopped.
    pub opened: u64,
    /// The average egress rate over the last interval, bit/s.
    pub rate_bps: u64,
}

impl BreakerCell {
    /// Publishes what the last interval brought; says whether the state changed.
    pub fn set(&self, open: bool, rate_bps: u64) -> bool {
        self.rate_bps.store(rate_bps, Ordering::Relaxed);
        let changed = self.open.swap(open, Ordering::Relaxed) != open;
        if changed && open {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        changed
    }

    /// Says whether anybody asked for it; one that is off is closed.
    pub fn set_off(&self, off: bool) {
        self.off.store(off, Ordering::Relaxed);
        self.set(false, 0);
    }

    /// Whether nobody asked for it.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// Whether distribution is stopped.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// All of it.
    #[must_use]
    pub fn report(&self) -> BreakerReport {
        BreakerReport {
            open: self.is_open(),
            opened: self.opened.load(Ordering::Relaxed),
            rate_bps: self.rate_bps.load(Ordering::Relaxed),
        }
    }
}

/// The way a copy leaves the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// An output port of the worker, by its place in the worker's list.
    Port(usize),
    /// The thread that writes capture files.
    File,
    /// Nowhere: no output port leads there.
    None,
}

/// How the outer UDP checksum comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterChecksum {
    /// There is none (not UDP, or zero by choice).
    None,
    /// Summed here.
    Software,
    /// The NIC fills it in.
    Offload,
}

/// One destination as a worker sees it.
#[derive(Clone, Debug)]
pub struct Output {
    /// The tunnel header; `None` = the frame as it was.
    pub encap: Option<Encap>,
    /// The next hop of a tunnel; `None` = there is nothing to resolve.
    pub next_hop: Option<Arc<NextHopCell>>,
    /// Bytes before the copied frame; 0 without a tunnel.
    pub header_len: u16,
    /// Length of the outer Ethernet header.
    pub l2_len: u16,
    /// Length of the outer IP header.
    pub l3_len: u16,
    /// Insert an 802.1Q tag after the addresses.
    pub inner_vlan: bool,
    /// Whose tag that shows.
    pub vlan_from: VlanFrom,
    /// The largest outer IP packet, or frame without its Ethernet header, in bytes.
    pub mtu: u32,
    /// What happens to a copy over the MTU.
    pub oversize: Oversize,
    /// The way out.
    pub egress: Egress,
    /// The outer UDP checksum.
    pub checksum: OuterChecksum,
    /// Why copies are dropped at the moment; `None` = the destination is ready.
    pub unready: Option<DropReason>,
    /// Copies have to ask for a place in a rate limit.
    pub limited: bool,
    /// The breaker of the interface that carries it.
    pub breaker: Option<Arc<BreakerCell>>,
    /// Of plain copies: whether the network there is one that is in use.
    pub feed: Option<Arc<FeedWatch>>,
    /// How copies leave at the moment that need no more than this; by [`Output::refresh`].
    pub straight: Option<Straight>,
}

/// How a copy leaves in one piece, by a port, with no more than a header before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Straight {
    /// The port, by its place in the worker's list.
    pub port: usize,
    /// The longest frame that fits the MTU.
    pub room: u32,
    /// Bytes before the copied frame; 0 without a tunnel.
    pub header_len: u16,
    /// Whether copies take a sequence number.
    pub uses_sequence: bool,
}

impl Output {
    /// A destination without a tunnel.
    #[must_use]
    pub fn plain(destination: &Destination, mtu: u16, egress: Egress) -> Self {
        Self {
            encap: None,
            next_hop: None,
            header_len: 0,
            l2_len: 0,
            l3_len: 0,
            inner_vlan: destination.inner_vlan,
            vlan_from: destination.vlan_from,
            mtu: mtu.into(),
            oversize: destination.oversize,
            egress,
            checksum: OuterChecksum::None,
            unready: None,
            limited: false,
            breaker: None,
            feed: None,
            straight: None,
        }
    }

    /// A group: its copies leave by its members, never by this.
    #[must_use]
    pub fn group(destination: &Destination) -> Self {
        Self::plain(destination, u16::MAX, Egress::None)
    }

    /// A tunnel between `ends`.
    ///
    /// # Errors
    /// When the ends do not fit each other.
    pub fn tunnel(
        destination: &Destination,
        tunnel: &Tunnel,
        ends: TunnelEnds,
        mtu: u16,
        egress: Egress,
    ) -> Result<Self, EncapError> {
        let endpoints = Endpoints {
            src_mac: ends.local_mac,
            dst_mac: ends.next_hop_mac,
            local: ends.local,
            remote: tunnel.remote,
        };
        let encap = Encap::new(tunnel, endpoints, destination.oversize != Oversize::Fragment)?;
        let len16 = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        Ok(Self {
            header_len: len16(encap.header_len()),
            l2_len: len16(encap.l2_len()),
            l3_len: len16(encap.l3_len()),
            checksum: if encap.needs_udp_checksum() { OuterChecksum::Software } else { OuterChecksum::None },
            encap: Some(encap),
            ..Self::plain(destination, mtu, egress)
        })
    }

    /// Bytes of the outer IP packet before the copied frame.
    #[inline]
    #[must_use]
    pub fn overhead(&self) -> u32 {
        u32::from(self.header_len - self.l2_len)
    }

    /// The longest frame, with its tag, that fits the MTU in one piece.
    #[inline]
    #[must_use]
    pub fn frame_room(&self) -> u32 {
        if self.encap.is_some() { self.mtu.saturating_sub(self.overhead()) } else { self.mtu + ETHERNET_LEN }
    }

    /// The longest frame with so many tags of its own that fits the MTU in one piece beside a tag of `tag_len` bytes
    /// (0 = none) that is inserted.
    #[inline]
    #[must_use]
    pub fn room(&self, vlan_count: u8, tag_len: u32) -> u32 {
        let room = self.frame_room().saturating_sub(tag_len);
        if self.encap.is_some() {
            return room;
        }
        // An MTU counts neither the Ethernet header nor the tags that devices add to it: one, or two stacked ones.
        let tags = u32::from(vlan_count) + u32::from(tag_len > 0);
        room.saturating_add(VLAN_TAG_LEN * tags.min(2))
    }

    /// Whether copies take a sequence number.
    #[inline]
    #[must_use]
    pub fn uses_sequence(&self) -> bool {
        self.encap.as_ref().is_some_and(Encap::uses_sequence)
    }

    /// Takes in what the control thread published since.
    pub fn refresh(&mut self, port_up: bool) {
        if let (Some(cell), Some(encap)) = (&self.next_hop, &mut self.encap) {
            match cell.get() {
                Some(mac) => {
                    encap.set_next_hop(mac);
                    self.unready = None;
                }
                None => self.unready = Some(DropReason::NextHopUnresolved),
            }
        } else {
            self.unready = None;
        }
        match self.egress {
            Egress::None => self.unready = Some(DropReason::NextHopUnresolved),
            Egress::Port(_) if !port_up => self.unready = Some(DropReason::PortDown),
            Egress::Port(_) | Egress::File => {}
        }
        // First: a breaker must not bring the flows of a group back to a port that leads elsewhere.
        if self.unready.is_none() && self.feed.as_ref().is_some_and(|feed| feed.is_stopped()) {
            self.unready = Some(DropReason::FeedGuard);
        }
        if self.unready.is_none() && self.breaker.as_ref().is_some_and(|breaker| breaker.is_open()) {
            self.unready = Some(DropReason::Breaker);
        }
        self.straight = self.straight_way();
    }

    fn straight_way(&self) -> Option<Straight> {
        let Egress::Port(port) = self.egress else { return None };
        let plain = self.unready.is_none()
            && !self.limited
            && !self.inner_vlan
            && self.checksum == OuterChecksum::None
            // Where DF is clear, each copy has an identification of its own.
            && self.oversize != Oversize::Fragment;
        plain.then(|| Straight {
            port,
            room: self.frame_room(),
            header_len: self.header_len,
            uses_sequence: self.uses_sequence(),
        })
    }

    /// Whether the way there is broken, or leads elsewhere, so that a group gives its flows to others. A breaker does not
    /// count: the load that opened it would only move.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(
            self.unready,
            Some(DropReason::NextHopUnresolved | DropReason::PortDown | DropReason::FeedGuard)
        )
    }
}

/// Length of an Ethernet header without tags.
pub const ETHERNET_LEN: u32 = 14;
/// Length of an 802.1Q tag.
const VLAN_TAG_LEN: u32 = 4;

/// Our end of a tunnel, and its first hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnds {
    /// Outer source address.
    pub local: IpAddr,
    /// Outer source MAC address.
    pub local_mac: MacAddr,
    /// Outer destination MAC address, until the next hop is resolved.
    pub next_hop_mac: MacAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_come_and_go() {
        let cell = NextHopCell::default();
        assert_eq!(cell.get(), None);
        let mac = MacAddr([0, 0, 0x5e, 0, 0x53, 0xff]);
        cell.set(Some(mac));
        assert_eq!(cell.get(), Some(mac));
        cell.set(Some(MacAddr([0; 6])));
        assert_eq!(cell.get(), Some(MacAddr([0; 6])));
        cell.set(None);
        assert_eq!(cell.get(), None);
    }
}
