//! Is this one of our own copies, or a packet for ourselves? Such packets do not go through the policies.

use std::net::IpAddr;

use sluice_core::decap::{End, end};
use sluice_core::wire::{Fragment, L3, Parsed, TunnelHeader};
use sluice_model::{DestinationKind, PolicySet, Tunnel, TunnelKind};

/// Protocol numbers of the tunnels' outer headers.
const UDP: u8 = 17;
const GRE: u8 = 47;

#[derive(Clone, Copy, Debug)]
struct OwnTunnel {
    remote: End,
    /// `Some(port)` for VXLAN, `None` for ERSPAN.
    udp_port: Option<u16>,
}

/// Lets most packets pass by protocol and port alone.
#[inline(always)]
#[expect(clippy::needless_bitwise_bool, reason = "traffic mixes protocols: branches would be mispredicted")]
fn may_be_own(outer: &Parsed, to_own_port: bool) -> bool {
    let in_udp = (outer.tunnel != TunnelHeader::None) | (outer.fragment == Fragment::Later) | to_own_port;
    (outer.protocol == GRE) | ((outer.protocol == UDP) & in_udp)
}

/// The packets that may be our own copies, as bits.
#[inline(always)]
fn candidates(outer: &[Parsed], is_own_port: impl Fn(u16) -> bool) -> u64 {
    let places = outer.iter().enumerate();
    places.fold(0, |all, (place, outer)| {
        all | u64::from(may_be_own(outer, is_own_port(outer.dst_port))) << place
    })
}

/// Recognises our own copies on capture ports, so that a loop does not multiply them.
#[derive(Clone, Debug, Default)]
pub struct LoopGuard {
    tunnels: Vec<OwnTunnel>,
    /// The UDP destination ports of `tunnels`.
    udp_ports: Vec<u16>,
    own_addresses: Vec<End>,
    enabled: bool,
}

impl LoopGuard {
    /// A guard against copies to the tunnels of `policies`; packets to `own_addresses` pass.
    #[must_use]
    pub fn new(policies: &PolicySet, own_addresses: &[IpAddr]) -> Self {
        let tunnel = |tunnel: &Tunnel| OwnTunnel {
            remote: end(tunnel.remote),
            udp_port: match tunnel.kind {
                TunnelKind::Vxlan { udp_port, .. } => Some(udp_port),
                TunnelKind::Erspan2 | TunnelKind::Erspan3 => None,
            },
        };
        let tunnels = policies.destinations().iter().filter_map(|d| match &d.kind {
            DestinationKind::Tunnel(t) => Some(tunnel(t)),
            DestinationKind::Port { .. } | DestinationKind::Pcap { .. } | DestinationKind::Group(_) => None,
        });
        let tunnels: Vec<OwnTunnel> = tunnels.collect();
        let mut udp_ports: Vec<u16> = tunnels.iter().filter_map(|own| own.udp_port).collect();
        udp_ports.sort_unstable();
        udp_ports.dedup();
        Self {
            tunnels,
            udp_ports,
            own_addresses: own_addresses.iter().copied().map(end).collect(),
            enabled: true,
        }
    }

    /// The same guard where packets to `ends` pass, too.
    #[must_use]
    pub fn with_ends(mut self, ends: impl IntoIterator<Item = End>) -> Self {
        self.own_addresses.extend(ends);
        self
    }

    /// A guard that lets everything pass.
    #[must_use]
    pub fn disabled() -> Self {
        Self::default()
    }

    /// Whether `frame` is one of our copies.
    #[inline]
    #[must_use]
    pub fn is_own_copy(&self, frame: &[u8], outer: &Parsed) -> bool {
        self.enabled
            && may_be_own(outer, self.is_own_port(outer.dst_port))
            && matches!(outer.l3, L3::Ipv4 | L3::Ipv6)
            && self.is_own_tunnel(frame, outer)
    }

    /// The packets of a batch that are worth a closer look, as bits; nearly always none.
    #[inline]
    #[must_use]
    pub fn candidates(&self, outer: &[Parsed]) -> u64 {
        if !self.enabled {
            return 0;
        }
        // One loop for each number of ports: most operators have one.
        match *self.udp_ports {
            [] => candidates(outer, |_| false),
            [own] => candidates(outer, |port| port == own),
            _ => candidates(outer, |port| self.is_own_port(port)),
        }
    }

    /// Whether a packet to this IPv4 address, as [`Parsed`] holds it, goes where copies of ours go.
    #[inline]
    #[must_use]
    pub fn sends_to(&self, address: &[u8; 16]) -> bool {
        self.enabled && self.tunnels.iter().any(|own| own.remote == (L3::Ipv4, *address))
    }

    #[inline]
    fn is_own_port(&self, port: u16) -> bool {
        self.udp_ports.contains(&port)
    }

    #[inline(never)]
    fn is_own_tunnel(&self, frame: &[u8], outer: &Parsed) -> bool {
        let destination = (outer.l3, outer.dst_addr);
        if self.own_addresses.contains(&destination) {
            return false;
        }
        // The marking of the reference system: no other VXLAN sets all flags.
        if outer.tunnel == TunnelHeader::Vxlan && frame.get(usize::from(outer.l4_offset) + 8) == Some(&0xff) {
            return true;
        }
        let later = outer.fragment == Fragment::Later;
        let from_us = || self.own_addresses.contains(&(outer.l3, outer.src_addr));
        self.tunnels.iter().filter(|own| own.remote == destination).any(|own| match own.udp_port {
            Some(port) => outer.protocol == UDP && if later { from_us() } else { outer.dst_port == port },
            None if later => outer.protocol == GRE && from_us(),
            None => {
                matches!(outer.tunnel, TunnelHeader::Erspan1 | TunnelHeader::Erspan2 | TunnelHeader::Erspan3)
            }
        })
    }
}
