//! By which port, from which address and through which next hop does each destination leave?

use std::net::IpAddr;
use std::sync::Arc;

use sluice_core::neighbor::PortAddresses;
use sluice_model::{Destination, DestinationKind, MacAddr, PolicySet, PortConfig, PortId, Tunnel};

use super::StartError;
use super::ports::OpenPort;
use crate::feed_watch::FeedWatch;
use crate::output::{BreakerCell, Egress, NextHopCell, OuterChecksum, Output, TunnelEnds};

/// MTU of a destination without one of its own and without a port: Ethernet's.
const ETHERNET_MTU: u16 = 1500;

/// What routes need to know of a port that was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortFacts {
    mac: MacAddr,
    mtu: u16,
    udp_checksum_offload: bool,
}

impl PortFacts {
    pub(super) fn of(port: &OpenPort) -> Self {
        Self { mac: port.mac(), mtu: port.mtu(), udp_checksum_offload: port.udp_checksum_offload() }
    }
}

/// How one destination is reached.
#[derive(Clone, Debug)]
pub struct Route {
    /// The output port, by its number; `None` for files and where no port leads.
    pub port: Option<usize>,
    /// The address that ARP or ND has to resolve; `None` = nothing to resolve.
    pub next_hop: Option<IpAddr>,
    /// The outer source address of a tunnel.
    pub local: Option<IpAddr>,
    /// Where the control thread publishes the next hop's MAC address.
    pub(super) cell: Option<Arc<NextHopCell>>,
    output: Output,
    offload: bool,
}

impl Route {
    /// What is seen of it from outside the workers.
    pub(super) fn needs(&self) -> Hop {
        let no_way = self.output.encap.is_some() && self.port.is_none();
        Hop { address: self.next_hop, cell: self.cell.clone(), no_way }
    }

    /// The row for a worker whose output ports are `exits`.
    pub(super) fn output(
        &self,
        exits: &[PortId],
        breakers: &[Option<Arc<BreakerCell>>],
        feeds: &[Option<Arc<FeedWatch>>],
    ) -> Output {
        let mut output = self.output.clone();
        output.breaker = self.port.and_then(|port| breakers.get(port)?.clone());
        if output.encap.is_none() {
            output.feed = self.port.and_then(|port| feeds.get(port)?.clone());
        }
        if let Some(port) = self.port {
            output.egress =
                exits.iter().position(|exit| exit.index() == port).map_or(Egress::None, Egress::Port);
        }
        if self.offload && output.checksum == OuterChecksum::Software {
            output.checksum = OuterChecksum::Offload;
        }
        output
    }
}

/// What a destination needs before a copy can leave for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Hop {
    pub(super) address: Option<IpAddr>,
    cell: Option<Arc<NextHopCell>>,
    /// No port leads there.
    no_way: bool,
}

impl Hop {
    /// Whether it is not there at the moment.
    pub(super) fn is_missing(&self) -> bool {
        self.no_way || self.cell.as_ref().is_some_and(|cell| cell.get().is_none())
    }
}

/// The own addresses that tunnels use as their source.
pub(super) fn locals(routes: &[Route]) -> impl Iterator<Item = IpAddr> {
    routes.iter().filter_map(|route| route.local)
}

/// The addresses of a port, for neighbour resolution.
pub(super) fn port_addresses(setup: &PortConfig, mac: MacAddr) -> PortAddresses {
    let mut addresses =
        PortAddresses { mac, gateway4: setup.gateway, gateway6: setup.gateway6, ..PortAddresses::default() };
    for own in &setup.addresses {
        match own.address {
            IpAddr::V4(v4) => addresses.ipv4.push((v4, own.prefix_len)),
            IpAddr::V6(v6) => addresses.ipv6.push((v6, own.prefix_len)),
        }
    }
    addresses
}

/// A route for every destination.
pub(super) fn all(
    policies: &PolicySet,
    setups: &[PortConfig],
    open: &[PortFacts],
) -> Result<Vec<Route>, StartError> {
    policies.destinations().iter().map(|destination| route(destination, setups, open)).collect()
}

fn route(destination: &Destination, setups: &[PortConfig], open: &[PortFacts]) -> Result<Route, StartError> {
    let named = |port: &str| {
        let place = setups.iter().position(|setup| setup.name == port && setup.role.sends());
        place.ok_or_else(|| StartError::NoSuchPort {
            destination: destination.name.clone(),
            port: port.to_owned(),
        })
    };
    match &destination.kind {
        DestinationKind::Pcap { .. } => Ok(plain(destination, None, u16::MAX, Egress::File)),
        // Its copies leave by its members.
        DestinationKind::Group(_) => Ok(plain(destination, None, u16::MAX, Egress::None)),
        DestinationKind::Port { port } => {
            let port = named(port)?;
            let mtu = open.get(port).map_or(ETHERNET_MTU, |port| port.mtu);
            Ok(plain(destination, Some(port), mtu, Egress::None))
        }
        DestinationKind::Tunnel(tunnel) => {
            let port = match &tunnel.port {
                Some(name) => Some(named(name)?),
                None => best_port(tunnel, setups, open),
            };
            tunnel_route(destination, tunnel, port, setups, open)
        }
    }
}

fn plain(destination: &Destination, port: Option<usize>, mtu: u16, egress: Egress) -> Route {
    let output = Output::plain(destination, destination.mtu.unwrap_or(mtu), egress);
    Route { port, next_hop: None, local: None, cell: None, output, offload: false }
}

/// The output port whose network holds the remote address, else one with a gateway of its family, else the only one.
fn best_port(tunnel: &Tunnel, setups: &[PortConfig], open: &[PortFacts]) -> Option<usize> {
    let outputs = || setups.iter().zip(open).enumerate().filter(|(_, (setup, _))| setup.role.sends());
    let hop = |setup, port: &PortFacts| port_addresses(setup, port.mac).check_next_hop(tunnel.remote).ok();
    let direct = outputs().find(|&(_, (setup, port))| hop(setup, port) == Some(tunnel.remote));
    let routed = || outputs().find(|&(_, (setup, port))| hop(setup, port).is_some());
    let only = || {
        let mut all = outputs();
        let first = all.next();
        if tunnel.mac.is_some() && all.next().is_none() { first } else { None }
    };
    direct.or_else(routed).or_else(only).map(|(index, _)| index)
}

fn tunnel_route(
    destination: &Destination,
    tunnel: &Tunnel,
    port: Option<usize>,
    setups: &[PortConfig],
    open: &[PortFacts],
) -> Result<Route, StartError> {
    let there = port.and_then(|port| setups.get(port).zip(open.get(port)));
    let addresses = there.map(|(setup, port)| port_addresses(setup, port.mac));
    let local = tunnel.local.or_else(|| addresses.as_ref()?.source_for(tunnel.remote));
    let local = local.ok_or_else(|| StartError::NoLocalAddress {
        destination: destination.name.clone(),
        remote: tunnel.remote,
    })?;
    let (next_hop, cell) = match tunnel.mac {
        Some(_) => (None, None),
        None => (
            addresses.and_then(|own| own.check_next_hop(tunnel.remote).ok()),
            Some(Arc::<NextHopCell>::default()),
        ),
    };
    let mtu = destination.mtu.unwrap_or_else(|| there.map_or(ETHERNET_MTU, |(_, port)| port.mtu));
    let ends = TunnelEnds {
        local,
        local_mac: there.map_or(MacAddr::default(), |(_, port)| port.mac),
        next_hop_mac: tunnel.mac.unwrap_or_default(),
    };
    let mut output = Output::tunnel(destination, tunnel, ends, mtu, Egress::None)
        .map_err(|source| StartError::Encap { destination: destination.name.clone(), source })?;
    output.next_hop.clone_from(&cell);
    let offload = there.is_some_and(|(_, port)| port.udp_checksum_offload);
    Ok(Route { port, next_hop, local: Some(local), cell, output, offload })
}
