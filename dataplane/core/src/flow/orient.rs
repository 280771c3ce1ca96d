//! Which end of a flow is its client, and what changes when that turns out to be the other one?
//!
//! Who sent SYN is the client, who sent SYN-ACK the server. Without either, the scores of both endpoints decide, at the
//! first packet and again before each report.

use sluice_model::Network;

use super::direction::{Endpoint, Evidence};
use super::entry::flag;
use super::key::{self, FlowKey};
use super::meter::{FlowMeter, Packet};
use super::table::Slot;
use super::tcp::flags::{ACK, SYN};
use super::tcp::{Delays, Handshake};
use crate::decap::TunnelInfo;
use crate::wire::{Fragment, L3};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Types of echo replies (RFC 792, RFC 4443 section 4.2).
const ECHO_REPLY: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;
/// The operation of an ARP reply (RFC 826).
const ARP_REPLY: [u8; 2] = [0, 2];

impl FlowMeter {
    /// Decides by the first packet of a flow, which came from `end` and was taken for one of the client.
    pub(super) fn orient_first(&mut self, slot: Slot, end: usize, packet: &Packet<'_>) {
        let headers = packet.headers;
        let byte = |offset: u16, at: usize| packet.frame.get(usize::from(offset) + at).copied();
        let is_reply = match (headers.l3, headers.protocol) {
            (L3::Ipv4, ICMP) if headers.l4_offset > 0 => byte(headers.l4_offset, 0) == Some(ECHO_REPLY),
            (L3::Ipv6, ICMPV6) if headers.l4_offset > 0 => byte(headers.l4_offset, 0) == Some(ECHO_REPLY_V6),
            (L3::Arp, _) => {
                let arp = packet.frame.get(usize::from(headers.l3_offset) + 6..);
                arp.and_then(|arp| arp.get(..2)) == Some(&ARP_REPLY)
            }
            _ => false,
        };
        if is_reply {
            self.set_client(slot, end ^ 1);
        } else if headers.has_ports && !is_syn(packet) {
            self.weigh(slot, end, packet, Evidence::First);
        }
    }

    /// Decides by a segment with SYN from `end`.
    #[inline(never)]
    pub(super) fn orient_by_syn(&mut self, slot: Slot, end: usize, packet: &Packet<'_>) {
        let is_first = self.entries[slot.index()].hot.flags & (flag::FIRST_SENT | flag::SECOND_SENT) == 0;
        let is_answer = packet.headers.tcp_flags & ACK != 0;
        let flags = self.entries[slot.index()].hot.flags;
        self.weigh(
            slot,
            end,
            packet,
            if is_answer { Evidence::SynAck } else { Evidence::Syn { first: is_first } },
        );
        if is_answer {
            self.set_client(slot, end ^ 1);
        } else if flags & flag::SYN_ACK_SEEN == 0 {
            self.set_client(slot, end);
        }
        self.entries[slot.index()].hot.flags |= if is_answer { flag::SYN_ACK_SEEN } else { flag::SYN_SEEN };
    }

    /// Decides by what is known of the endpoints now.
    pub(super) fn orient_again(&mut self, slot: Slot) {
        let hot = &self.entries[slot.index()].hot;
        if hot.flags & (flag::SYN_SEEN | flag::SYN_ACK_SEEN) != 0 {
            return;
        }
        let key = FlowKey::decode(&hot.words, &self.long[slot.index()]);
        let Some(ports) = key.ports else { return };
        let client = usize::from(hot.flags & flag::CLIENT_IS_SECOND != 0);
        let is_ipv6 = key.network == Network::Ipv6;
        let endpoint =
            |end: usize| Endpoint { address: key.addresses[end], port: ports[end], tap: key.tap, is_ipv6 };
        let decision = self.scores.decide(&endpoint(client), &endpoint(client ^ 1), Evidence::None, false);
        self.cold[slot.index()].head.direction_score = decision.score;
        self.set_client(slot, client ^ usize::from(decision.source_is_server));
    }

    /// Decides by the scores of both endpoints.
    fn weigh(&mut self, slot: Slot, end: usize, packet: &Packet<'_>, evidence: Evidence) {
        let headers = packet.headers;
        let tap = key::tap(&self.entries[slot.index()].hot.words);
        let is_ipv6 = headers.l3 == L3::Ipv6;
        let src = Endpoint { address: headers.src_addr, port: headers.src_port, tap, is_ipv6 };
        let dst = Endpoint { address: headers.dst_addr, port: headers.dst_port, tap, is_ipv6 };
        let is_second = self.entries[slot.index()].hot.flags & flag::CLIENT_IS_SECOND != 0;
        let source_is_server = usize::from(is_second) != end;
        let decision = self.scores.decide(&src, &dst, evidence, source_is_server);
        self.cold[slot.index()].head.direction_score = decision.score;
        if evidence == Evidence::First {
            self.set_client(slot, end ^ usize::from(decision.source_is_server));
        }
    }

    /// Makes `end` of the key the client; what was kept by side is exchanged if it was not.
    fn set_client(&mut self, slot: Slot, end: usize) {
        let entry = &mut self.entries[slot.index()];
        let is_second = entry.hot.flags & flag::CLIENT_IS_SECOND != 0;
        if usize::from(is_second) == end {
            return;
        }
        entry.hot.flags ^= flag::CLIENT_IS_SECOND;
        let cold = &mut self.cold[slot.index()];
        cold.head.macs.swap(0, 1);
        if entry.hot.flags & (flag::FIRST_SENT | flag::SECOND_SENT) == 0 {
            // At the first packet there is nothing else yet.
            return;
        }
        entry.hot.state = entry.hot.state.reversed();
        entry.hot.tcp_flags.swap(0, 1);
        entry.counts.sent.swap(0, 1);
        entry.tcp.reverse();
        entry.counts.delays = Delays::default();
        cold.delays_told = Delays::default();
        cold.tunnels.swap(0, 1);
        cold.spilled.swap(0, 1);
        cold.duplicates.swap(0, 1);
        cold.before.swap(0, 1);
        cold.perf.reverse();
        cold.perf_told.reverse();
        cold.told.swap(0, 1);
        cold.handshake = Handshake::default();
    }

    /// Notes that a packet from `end` was a duplicate.
    #[inline(never)]
    pub(super) fn note_duplicate(&mut self, slot: Slot, end: usize) {
        let is_second = self.entries[slot.index()].hot.flags & flag::CLIENT_IS_SECOND != 0;
        let side = end ^ usize::from(is_second);
        self.cold[slot.index()].duplicates[side & 1] += 1;
    }

    /// Notes the tunnel that a packet from `end` came in.
    #[inline(never)]
    pub(super) fn note_tunnel(&mut self, slot: Slot, end: usize, tunnel: &TunnelInfo) {
        let is_second = self.entries[slot.index()].hot.flags & flag::CLIENT_IS_SECOND != 0;
        let side = end ^ usize::from(is_second);
        self.cold[slot.index()].tunnels[side & 1] = Some(*tunnel);
    }
}

/// Whether the packet is a TCP segment with SYN.
#[inline(always)]
pub(super) fn is_syn(packet: &Packet<'_>) -> bool {
    let headers = packet.headers;
    headers.protocol == TCP
        && headers.l4_offset > 0
        && headers.fragment != Fragment::Later
        && headers.tcp_flags & SYN != 0
}
