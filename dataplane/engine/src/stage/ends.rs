//! Which tunnels end at a port?

use std::net::IpAddr;

use sluice_core::decap::{self, End, Ends};
use sluice_model::{DecapSettings, PortConfig, PortId};

/// The own addresses of the ports, where tunnels may end.
#[derive(Clone, Debug, Default)]
pub struct PortEnds(Box<[Box<[End]>]>);

impl PortEnds {
    /// Those of each port, by port number.
    #[must_use]
    pub fn new<A: IntoIterator<Item = IpAddr>>(ports: impl IntoIterator<Item = A>) -> Self {
        Self(ports.into_iter().map(|port| port.into_iter().map(decap::end).collect()).collect())
    }

    /// Those of the ports of a boot config, with room for others.
    #[must_use]
    pub fn of(ports: &[PortConfig], spare: usize) -> Self {
        let addresses = |port: &PortConfig| port.addresses.iter().map(|own| own.address).collect::<Vec<_>>();
        Self::new(ports.iter().map(addresses).chain(std::iter::repeat_n(Vec::new(), spare)))
    }

    /// Changes those of one port, and gives back what they were. Of a port beyond those that it was made for, nothing
    /// changes.
    pub(crate) fn set(&mut self, port: PortId, ends: Box<[End]>) -> Box<[End]> {
        match self.0.get_mut(port.index()) {
            Some(own) => std::mem::replace(own, ends),
            None => ends,
        }
    }

    /// Those of all ports.
    pub fn all(&self) -> impl Iterator<Item = End> {
        self.0.iter().flatten().copied()
    }

    /// Which tunnels come off what a port with these settings receives.
    #[inline]
    #[must_use]
    pub fn ends(&self, port: PortId, settings: DecapSettings) -> Ends<'_> {
        if settings.only_own {
            Ends::Own(self.0.get(port.index()).map(|ends| &**ends).unwrap_or_default())
        } else {
            Ends::Any
        }
    }
}
