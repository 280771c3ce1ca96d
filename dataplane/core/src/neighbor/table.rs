//! Which MAC addresses do the next hops of a port have, and what does the port say in answer to its link?
//!
//! Bytes and time in, bytes and changes out: the control thread that owns the table does the I/O and reads the clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_model::MacAddr;

use super::addresses::{PortAddresses, is_unicast};
use super::emit;
use super::entry::{Ask, Entry, Heard, Phase};
use super::filter::OwnFilter;
use super::limit::RateLimit;
use super::receive::{self, Message};
use super::{Conflict, Input, NeighborConfig, NeighborCounters, NeighborState};
use crate::wire::{arp, ipv4, ipv6};

/// How often an own address is announced at start (RFC 5227, ANNOUNCE_NUM; at most 3 by RFC 4861, section 7.2.6).
const ANNOUNCEMENTS: u8 = 2;
/// The time between two of them (RFC 5227, ANNOUNCE_INTERVAL).
const ANNOUNCE_INTERVAL_NS: u64 = 2_000_000_000;
/// The shortest time between two defences of an own address (RFC 5227, DEFEND_INTERVAL).
const DEFEND_INTERVAL_NS: u64 = 10_000_000_000;
/// All stations.
const BROADCAST: MacAddr = MacAddr([0xff; 6]);

/// The neighbours of one output port, and its own answers to them. One per port, on the control thread.
///
/// Only addresses that were [wanted](Self::want) are ever learned, so nobody on the link can fill the table. It learns
/// from answers to its requests; and, for wanted addresses only and confirmed by a probe at once, from announcements and
/// from requests that the neighbour itself sends (RFC 826's merge, RFC 4861's STALE). No duplicate address detection
/// before use: the addresses are configured; conflicts are counted and defended against.
///
/// `now_ns` is a monotonic clock, in nanoseconds from any start.
#[derive(Debug)]
pub struct NeighborTable {
    addresses: PortAddresses,
    filter: OwnFilter,
    config: NeighborConfig,
    entries: BTreeMap<IpAddr, Entry>,
    announcements_left: u8,
    announce_due_ns: u64,
    defended_ns: Option<u64>,
    conflict: Option<Conflict>,
    echo_limit: RateLimit,
    reply_limit: RateLimit,
    counters: NeighborCounters,
}

impl NeighborTable {
    /// An empty table. `addresses` should have passed [`PortAddresses::check`].
    pub fn new(addresses: PortAddresses, config: NeighborConfig) -> Self {
        Self {
            filter: OwnFilter::new(&addresses),
            echo_limit: RateLimit::new(config.echo_per_second),
            reply_limit: RateLimit::new(config.replies_per_second),
            addresses,
            config,
            entries: BTreeMap::new(),
            announcements_left: ANNOUNCEMENTS,
            announce_due_ns: 0,
            defended_ns: None,
            conflict: None,
            counters: NeighborCounters::default(),
        }
    }

    /// The addresses of the port.
    pub fn addresses(&self) -> &PortAddresses {
        &self.addresses
    }

    /// The filter for the workers: exactly what it matches is [`Input::Consumed`] here.
    pub fn filter(&self) -> OwnFilter {
        self.filter
    }

    /// What happened so far.
    pub fn counters(&self) -> NeighborCounters {
        self.counters
    }

    /// The last station seen that uses an own address.
    pub fn last_conflict(&self) -> Option<Conflict> {
        self.conflict
    }

    /// The neighbour through which `remote` is reached; `None` = not from this port, for the reason that
    /// [`PortAddresses::check_next_hop`] gives.
    pub fn next_hop(&self, remote: IpAddr) -> Option<IpAddr> {
        self.addresses.check_next_hop(remote).ok()
    }

    /// The own address to use as outer source.
    pub fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.addresses.source_for(remote)
    }

    /// Starts to resolve `next_hop` and keeps it resolved. Says whether it is in the table: not when the table is full
    /// or the address cannot be a neighbour of the port.
    pub fn want(&mut self, next_hop: IpAddr, now_ns: u64) -> bool {
        if self.entries.contains_key(&next_hop) {
            return true;
        }
        let possible = is_unicast(next_hop)
            && !self.addresses.owns(next_hop)
            && !self.addresses.names_network(next_hop)
            && self.addresses.source_for(next_hop).is_some();
        if !possible || self.entries.len() >= self.config.max_neighbors {
            self.counters.not_wanted += 1;
            return false;
        }
        self.entries.insert(next_hop, Entry::new(now_ns));
        true
    }

    /// Forgets the neighbours for which `keep` is false: no destination needs them any longer. Not told by
    /// [`changes`](Self::changes).
    pub fn retain(&mut self, mut keep: impl FnMut(IpAddr) -> bool) {
        self.entries.retain(|address, _| keep(*address));
    }

    /// What is known of a neighbour.
    pub fn lookup(&self, next_hop: IpAddr) -> NeighborState {
        let Some(entry) = self.entries.get(&next_hop) else { return NeighborState::Unknown };
        let (attempts, since_ns) = (entry.attempts, entry.since_ns);
        match (entry.mac, entry.phase) {
            (Some(mac), phase) => NeighborState::Resolved {
                mac,
                confirmed_ns: entry.confirmed_ns,
                probing: phase != Phase::Reachable,
                router: entry.router,
            },
            (None, Phase::Failed) => NeighborState::Failed { attempts, since_ns },
            (None, _) => NeighborState::Unresolved { attempts, since_ns },
        }
    }

    /// All wanted neighbours in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, NeighborState)> {
        self.entries.keys().map(|address| (*address, self.lookup(*address)))
    }

    /// Takes a received frame, from its Ethernet header on. Frames to send are pushed to `out`: at most one.
    pub fn input(&mut self, frame: &[u8], now_ns: u64, out: &mut Vec<Vec<u8>>) -> Input {
        if !self.filter.matches(frame) {
            return Input::NotOurs;
        }
        self.counters.received += 1;
        match receive::read(frame, self.addresses.mac) {
            None => self.counters.invalid += 1,
            Some(Message::Unused) => {}
            Some(Message::Arp { operation, sender_mac, sender, target }) => {
                self.input_arp(operation, sender_mac, sender, target, now_ns, out);
            }
            Some(Message::Solicitation { from, src, target, link_layer }) => {
                self.input_solicitation(from, src, target, link_layer, now_ns, out);
            }
            Some(Message::Advertisement { target, link_layer, router, solicited, overrides }) => {
                if self.addresses.owns(target.into()) {
                    self.conflict(target.into(), link_layer, now_ns, out);
                } else {
                    let heard = Heard { mac: link_layer, solicited, overrides, router: Some(router) };
                    self.hear(target.into(), heard, now_ns);
                }
            }
            Some(Message::Echo4 { from, src, dst, tos, message }) => {
                let fits = ipv4::HEADER_LEN + message.len() <= usize::from(self.config.mtu);
                let odd = self.addresses.owns(src.into()) || self.addresses.names_network(src.into());
                if !odd && self.may_echo(fits, now_ns) {
                    out.push(emit::echo_reply4((self.addresses.mac, from), (dst, src), tos, message));
                }
            }
            Some(Message::Echo6 { from, src, dst, message }) => {
                let fits = ipv6::HEADER_LEN + message.len() <= usize::from(self.config.mtu);
                if !self.addresses.owns(src.into()) && self.may_echo(fits, now_ns) {
                    out.push(emit::echo_reply6((self.addresses.mac, from), (dst, src), message));
                }
            }
        }
        Input::Consumed
    }

    /// Pushes what is due by now: announcements of the own addresses, requests and probes.
    pub fn poll(&mut self, now_ns: u64, out: &mut Vec<Vec<u8>>) {
        if self.announcements_left > 0 && self.announce_due_ns <= now_ns {
            self.announcements_left -= 1;
            self.announce_due_ns = now_ns.saturating_add(ANNOUNCE_INTERVAL_NS);
            let mac = self.addresses.mac;
            out.extend(self.addresses.own4().map(|(own, _)| announcement(mac, own.into())));
            out.extend(self.addresses.own6().map(|(own, _)| announcement(mac, own.into())));
        }
        for (address, entry) in &mut self.entries {
            let Some(ask) = entry.step(&self.config, now_ns) else { continue };
            let source = self.addresses.source_for(*address);
            out.extend(request(self.addresses.mac, source, *address, ask));
            self.counters.requests += 1;
        }
    }

    /// When [`poll`](Self::poll) has something to do next.
    pub fn next_due_ns(&self) -> Option<u64> {
        let announcement = (self.announcements_left > 0).then_some(self.announce_due_ns);
        self.entries.values().map(|entry| entry.due_ns).chain(announcement).min()
    }

    /// The link came back, and others may be behind it than before: announces the own addresses anew, and asks all
    /// stations for all neighbours. What was known stays in use meanwhile.
    pub fn link_up(&mut self, now_ns: u64) {
        self.announcements_left = ANNOUNCEMENTS;
        self.announce_due_ns = now_ns;
        self.entries.values_mut().for_each(|entry| entry.ask_anew(now_ns));
    }

    /// The neighbours whose MAC address changed since they were told last, with the present one; `None` = unresolved
    /// again.
    pub fn changes(&mut self) -> impl Iterator<Item = (IpAddr, Option<MacAddr>)> {
        self.entries.iter_mut().filter(|(_, entry)| entry.published != entry.mac).map(|(address, entry)| {
            entry.published = entry.mac;
            (*address, entry.mac)
        })
    }

    /// RFC 826, "packet reception", and RFC 5227, sections 2.1.1 and 2.4.
    fn input_arp(
        &mut self,
        operation: u16,
        sender_mac: MacAddr,
        sender: Ipv4Addr,
        target: Ipv4Addr,
        now_ns: u64,
        out: &mut Vec<Vec<u8>>,
    ) {
        if self.addresses.owns(sender.into()) {
            self.conflict(sender.into(), Some(sender_mac), now_ns, out);
            return;
        }
        let to_us = self.addresses.owns(target.into());
        let solicited = operation == arp::REPLY && to_us;
        self.hear(
            sender.into(),
            Heard { mac: Some(sender_mac), solicited, overrides: true, router: None },
            now_ns,
        );
        if operation == arp::REQUEST && to_us && self.may_reply(now_ns) {
            out.push(emit::arp_reply(self.addresses.mac, sender_mac, target, sender));
        }
    }

    /// RFC 4861, sections 7.2.3 and 7.2.4.
    fn input_solicitation(
        &mut self,
        from: MacAddr,
        src: Ipv6Addr,
        target: Ipv6Addr,
        link_layer: Option<MacAddr>,
        now_ns: u64,
        out: &mut Vec<Vec<u8>>,
    ) {
        if !self.addresses.owns(target.into()) {
            return;
        }
        if self.addresses.owns(src.into()) {
            self.conflict(src.into(), link_layer, now_ns, out);
            return;
        }
        if src.is_unspecified() {
            // Somebody checks whether the address is free (RFC 4862, section 5.4.3): the answer goes to all.
            self.note_conflict(target.into(), from);
            if self.may_reply(now_ns) {
                out.push(emit::advertisement(self.addresses.mac, None, target));
            }
            return;
        }
        self.hear(
            src.into(),
            Heard { mac: link_layer, solicited: false, overrides: true, router: None },
            now_ns,
        );
        if self.may_reply(now_ns) {
            out.push(emit::advertisement(self.addresses.mac, Some((from, src)), target));
        }
    }

    fn hear(&mut self, address: IpAddr, heard: Heard, now_ns: u64) {
        if let Some(entry) = self.entries.get_mut(&address) {
            self.counters.mac_changes += u64::from(entry.hear(&self.config, heard, now_ns));
        } else {
            self.counters.unasked += u64::from(heard.solicited);
        }
    }

    /// Somebody else uses an own address: noted, and defended with one announcement (RFC 5227, section 2.4 (b)).
    fn conflict(&mut self, address: IpAddr, mac: Option<MacAddr>, now_ns: u64, out: &mut Vec<Vec<u8>>) {
        self.note_conflict(address, mac.unwrap_or_default());
        let defended = self.defended_ns.is_some_and(|at| at.saturating_add(DEFEND_INTERVAL_NS) > now_ns);
        if !defended {
            self.defended_ns = Some(now_ns);
            out.push(announcement(self.addresses.mac, address));
        }
    }

    fn note_conflict(&mut self, address: IpAddr, mac: MacAddr) {
        self.counters.conflicts += 1;
        self.conflict = Some(Conflict { address, mac });
    }

    fn may_reply(&mut self, now_ns: u64) -> bool {
        let allowed = self.reply_limit.allow(now_ns);
        *(if allowed { &mut self.counters.replies } else { &mut self.counters.limited }) += 1;
        allowed
    }

    fn may_echo(&mut self, fits: bool, now_ns: u64) -> bool {
        let allowed = fits && self.echo_limit.allow(now_ns);
        *(if allowed { &mut self.counters.echo_replies } else { &mut self.counters.limited }) += 1;
        allowed
    }
}

/// A gratuitous ARP or an unsolicited advertisement.
fn announcement(mac: MacAddr, own: IpAddr) -> Vec<u8> {
    match own {
        IpAddr::V4(own) => emit::arp_request(mac, BROADCAST, own, own),
        IpAddr::V6(own) => emit::advertisement(mac, None, own),
    }
}

/// A question for a neighbour; `None` only when the families differ, which [`NeighborTable::want`] excludes.
fn request(mac: MacAddr, source: Option<IpAddr>, target: IpAddr, ask: Ask) -> Option<Vec<u8>> {
    let to = match ask {
        Ask::Unicast(mac) => Some(mac),
        Ask::Group => None,
    };
    match (source?, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            Some(emit::arp_request(mac, to.unwrap_or(BROADCAST), source, target))
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => Some(emit::solicitation(mac, to, source, target)),
        _ => None,
    }
}
