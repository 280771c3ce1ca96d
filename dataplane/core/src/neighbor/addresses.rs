//! Which addresses does an output port own, and through which neighbour does it reach a remote one?
//!
//! No table and no packets: what is said here follows from the configuration alone, so `sluiced check` can say it too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_model::{InterfaceAddr, MacAddr};

/// The most addresses of one family that a port owns: [`OwnFilter`](super::OwnFilter) holds them in arrays.
pub const MAX_ADDRESSES: usize = 8;

/// The addresses of an output port.
///
/// ```
/// use std::net::IpAddr;
/// use sluice_core::neighbor::PortAddresses;
/// let port = PortAddresses {
///     mac: "02:00:00:00:00:01".parse().unwrap(),
///     ipv4: vec![("192.0.2.1".parse().unwrap(), 24)],
///     gateway4: Some("192.0.2.254".parse().unwrap()),
///     ..PortAddresses::default()
/// };
/// let remote: IpAddr = "198.51.100.7".parse().unwrap();
/// assert_eq!(port.check_next_hop(remote), Ok("192.0.2.254".parse().unwrap()));
/// assert_eq!(port.source_for(remote), Some("192.0.2.1".parse().unwrap()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortAddresses {
    /// The Ethernet address.
    pub mac: MacAddr,
    /// IPv4 addresses with the prefix lengths of their networks, at most [`MAX_ADDRESSES`]; more are ignored.
    pub ipv4: Vec<(Ipv4Addr, u8)>,
    /// IPv6 addresses with the prefix lengths of their networks, at most [`MAX_ADDRESSES`]; more are ignored.
    pub ipv6: Vec<(Ipv6Addr, u8)>,
    /// The next hop of remote IPv4 addresses outside of the networks.
    pub gateway4: Option<Ipv4Addr>,
    /// The next hop of remote IPv6 addresses outside of the networks; may be link-local.
    pub gateway6: Option<Ipv6Addr>,
}

/// Why a port cannot reach a remote address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NextHopError {
    /// The address belongs to no single host.
    #[error("{remote} is not the address of one host: name a unicast address")]
    NotUnicast {
        /// The remote address.
        remote: IpAddr,
    },
    /// The address is the port's.
    #[error("{remote} is an address of the port itself: name the address of the tool")]
    Own {
        /// The remote address.
        remote: IpAddr,
    },
    /// The port has no address of the family, or only a link-local one for a remote that is not.
    #[error("the port has no address from which it could send to {remote}: give it one of the same family")]
    NoAddress {
        /// The remote address.
        remote: IpAddr,
    },
    /// The address is outside of the port's networks, and there is no gateway.
    #[error(
        "{remote} is in no network of the port and the port has no gateway for it: set a gateway, or a static mac"
    )]
    NoGateway {
        /// The remote address.
        remote: IpAddr,
    },
}

/// What is wrong with the addresses of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// More than [`MAX_ADDRESSES`] of one family.
    #[error("{count} addresses of one family: at most {MAX_ADDRESSES} are possible")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// The Ethernet address is zero or belongs to a group.
    #[error("{mac} is not the Ethernet address of one station")]
    Mac {
        /// The Ethernet address.
        mac: MacAddr,
    },
    /// The address belongs to no single host: multicast, unspecified, loopback, or a network's own or broadcast address.
    #[error("{address} cannot be the address of a port: name a unicast address inside of its network")]
    NotUnicast {
        /// The address.
        address: IpAddr,
    },
    /// The prefix is longer than the address.
    #[error("{address}/{prefix_len}: the prefix is longer than the address")]
    Prefix {
        /// The address.
        address: IpAddr,
        /// The length of its prefix in bits.
        prefix_len: u8,
    },
    /// The gateway is in none of the port's networks.
    #[error("the gateway {gateway} is in no network of the port: name a neighbour")]
    GatewayOffLink {
        /// The gateway.
        gateway: IpAddr,
    },
    /// The gateway is the port itself.
    #[error("the gateway {gateway} is an address of the port itself: name a neighbour")]
    GatewayOwn {
        /// The gateway.
        gateway: IpAddr,
    },
}

impl PortAddresses {
    /// Everything that is wrong with the addresses; empty when they can be used.
    ///
    /// A gateway outside of the networks is accepted when the port has a host prefix (/32, /128), as clouds give them.
    pub fn check(&self) -> Vec<AddressError> {
        let mut errors = Vec::new();
        if !is_station(self.mac) {
            errors.push(AddressError::Mac { mac: self.mac });
        }
        for count in [self.ipv4.len(), self.ipv6.len()] {
            if count > MAX_ADDRESSES {
                errors.push(AddressError::TooMany { count });
            }
        }
        for (address, prefix_len, max) in self
            .ipv4
            .iter()
            .map(|&(address, prefix_len)| (IpAddr::V4(address), prefix_len, 32))
            .chain(self.ipv6.iter().map(|&(address, prefix_len)| (IpAddr::V6(address), prefix_len, 128)))
        {
            if prefix_len > max {
                errors.push(AddressError::Prefix { address, prefix_len });
            } else if !is_unicast(address) || self.names_network(address) {
                errors.push(AddressError::NotUnicast { address });
            }
        }
        for gateway in self.gateway4.map(IpAddr::V4).into_iter().chain(self.gateway6.map(IpAddr::V6)) {
            let host_prefix = match gateway {
                IpAddr::V4(_) => self.ipv4.iter().any(|&(_, prefix_len)| prefix_len == 32),
                IpAddr::V6(_) => self.ipv6.iter().any(|&(_, prefix_len)| prefix_len == 128),
            };
            if self.owns(gateway) {
                errors.push(AddressError::GatewayOwn { gateway });
            } else if !is_unicast(gateway) || !(self.on_link(gateway) || host_prefix) {
                errors.push(AddressError::GatewayOffLink { gateway });
            }
        }
        errors
    }

    /// The neighbour through which `remote` is reached: itself when it is in a network of the port, else the gateway.
    pub fn check_next_hop(&self, remote: IpAddr) -> Result<IpAddr, NextHopError> {
        if !is_unicast(remote) || self.names_network(remote) {
            return Err(NextHopError::NotUnicast { remote });
        }
        if self.owns(remote) {
            return Err(NextHopError::Own { remote });
        }
        if self.source_for(remote).is_none() {
            return Err(NextHopError::NoAddress { remote });
        }
        if self.on_link(remote) {
            return Ok(remote);
        }
        let gateway = match remote {
            IpAddr::V4(_) => self.gateway4.map(IpAddr::V4),
            IpAddr::V6(_) => self.gateway6.map(IpAddr::V6),
        };
        gateway.ok_or(NextHopError::NoGateway { remote })
    }

    /// The own address to send from: the one in the longest network that holds `remote`, else the one in the gateway's
    /// network, else the first of the family. A link-local address is for link-local remotes only (RFC 4007,
    /// section 9: routers do not forward it).
    pub fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        match remote {
            IpAddr::V4(remote) => {
                let holding = |other: Ipv4Addr| {
                    self.own4()
                        .filter(|own| in_prefix4(*own, other))
                        .max_by_key(|&(_, prefix_len)| prefix_len)
                };
                holding(remote)
                    .or_else(|| self.gateway4.and_then(holding))
                    .or_else(|| self.own4().next())
                    .map(|(address, _)| address.into())
            }
            IpAddr::V6(remote) => {
                let local = remote.is_unicast_link_local();
                let scoped = || self.own6().filter(|(own, _)| local || !own.is_unicast_link_local());
                let holding = |other: Ipv6Addr| {
                    scoped().filter(|own| in_prefix6(*own, other)).max_by_key(|&(_, prefix_len)| prefix_len)
                };
                holding(remote)
                    .or_else(|| scoped().find(|(own, _)| local && own.is_unicast_link_local()))
                    .or_else(|| self.gateway6.and_then(holding))
                    .or_else(|| scoped().next())
                    .map(|(address, _)| address.into())
            }
        }
    }

    /// Whether `address` is one of the port's.
    pub fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.own4().any(|(own, _)| own == address),
            IpAddr::V6(address) => self.own6().any(|(own, _)| own == address),
        }
    }

    /// Whether `address` is on the link of the port: inside of one of its networks, or an IPv6 link-local address on a
    /// port that has any IPv6 address.
    pub fn on_link(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.own4().any(|own| in_prefix4(own, address)),
            IpAddr::V6(address) => {
                self.own6().any(|own| address.is_unicast_link_local() || in_prefix6(own, address))
            }
        }
    }

    /// The IPv4 addresses that count.
    pub(super) fn own4(&self) -> impl Iterator<Item = (Ipv4Addr, u8)> {
        self.ipv4.iter().copied().take(MAX_ADDRESSES)
    }

    /// The IPv6 addresses that count.
    pub(super) fn own6(&self) -> impl Iterator<Item = (Ipv6Addr, u8)> {
        self.ipv6.iter().copied().take(MAX_ADDRESSES)
    }

    /// Whether an address is [that of a network](InterfaceAddr::names_network) of the port.
    pub(super) fn names_network(&self, address: IpAddr) -> bool {
        let own = |(own, prefix_len): (Ipv4Addr, u8)| InterfaceAddr { address: own.into(), prefix_len };
        self.own4().any(|pair| own(pair).names_network(address))
    }
}

/// Whether an address is the address of one host, apart from what networks say.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    match address {
        // 0.0.0.0/8 is "this network", 240.0.0.0/4 is reserved and holds the broadcast address.
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => !address.is_unspecified() && !address.is_loopback() && !address.is_multicast(),
    }
}

/// Whether a MAC address is that of one station: not zero, no group (of which broadcast is one).
pub(super) fn is_station(mac: MacAddr) -> bool {
    mac.0[0] & 1 == 0 && mac.0 != [0; 6]
}

/// The mask of an IPv4 prefix; longer ones than the address are taken as the whole address.
fn mask4(prefix_len: u8) -> u32 {
    !u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0)
}

/// The mask of an IPv6 prefix.
fn mask6(prefix_len: u8) -> u128 {
    !u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0)
}

pub(super) fn in_prefix4((network, prefix_len): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    (network.to_bits() ^ address.to_bits()) & mask4(prefix_len) == 0
}

fn in_prefix6((network, prefix_len): (Ipv6Addr, u8), address: Ipv6Addr) -> bool {
    (network.to_bits() ^ address.to_bits()) & mask6(prefix_len) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn port() -> PortAddresses {
        PortAddresses {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ipv4: vec![("192.0.2.1".parse().unwrap(), 24), ("192.0.2.130".parse().unwrap(), 25)],
            ipv6: vec![("2001:db8::1".parse().unwrap(), 64), ("fe80::1".parse().unwrap(), 64)],
            gateway4: Some("192.0.2.254".parse().unwrap()),
            gateway6: Some("fe80::ff".parse().unwrap()),
        }
    }

    #[test]
    fn next_hops() {
        let port = port();
        assert_eq!(port.check(), []);
        for (remote, next_hop, source) in [
            ("192.0.2.9", "192.0.2.9", "192.0.2.1"),
            ("192.0.2.200", "192.0.2.200", "192.0.2.130"),
            ("198.51.100.1", "192.0.2.254", "192.0.2.130"),
            ("2001:db8::9", "2001:db8::9", "2001:db8::1"),
            ("2001:db8:1::9", "fe80::ff", "2001:db8::1"),
            ("fe80::9", "fe80::9", "fe80::1"),
        ] {
            assert_eq!(port.check_next_hop(ip(remote)), Ok(ip(next_hop)), "{remote}");
            assert_eq!(port.source_for(ip(remote)), Some(ip(source)), "{remote}");
        }
        for remote in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.0",
            "192.0.2.255",
            "192.0.2.128",
            "::",
            "::1",
            "ff02::1",
        ] {
            assert_eq!(
                port.check_next_hop(ip(remote)),
                Err(NextHopError::NotUnicast { remote: ip(remote) }),
                "{remote}"
            );
        }
        for remote in ["192.0.2.1", "fe80::1"] {
            assert_eq!(port.check_next_hop(ip(remote)), Err(NextHopError::Own { remote: ip(remote) }));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let v4 = PortAddresses { ipv6: vec![], gateway4: None, ..port() };
        let remote = ip("2001:db8::9");
        assert_eq!(v4.check_next_hop(remote), Err(NextHopError::NoAddress { remote }));
        let remote = ip("198.51.100.1");
        assert_eq!(v4.check_next_hop(remote), Err(NextHopError::NoGateway { remote }));
        let local = PortAddresses { ipv6: vec![("fe80::1".parse().unwrap(), 64)], ..port() };
        let remote = ip("2001:db8::9");
        assert_eq!(local.check_next_hop(remote), Err(NextHopError::NoAddress { remote }));
    }

    #[test]
    fn small_networks() {
        let mut port = PortAddresses { ipv4: vec![("192.0.2.0".parse().unwrap(), 31)], ..port() };
        assert_eq!(port.check_next_hop(ip("192.0.2.1")), Ok(ip("192.0.2.1")));
        port.ipv4 = vec![("192.0.2.7".parse().unwrap(), 32)];
        assert_eq!(port.check(), []);
        assert_eq!(port.check_next_hop(ip("192.0.2.1")), Ok(ip("192.0.2.254")));
        port.ipv4 = vec![("192.0.2.7".parse().unwrap(), 0)];
        assert_eq!(port.check_next_hop(ip("203.0.113.9")), Ok(ip("203.0.113.9")));
    }

    #[test]
    fn wrong_addresses_are_named_all_at_once() {
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let wrong = PortAddresses {
            mac: MacAddr([1, 0, 0x5e, 0, 0, 1]),
            ipv4: vec![(address("192.0.2.0"), 24), (address("192.0.2.1"), 33), (address("224.0.0.1"), 24)],
            ipv6: vec![("2001:db8::1".parse().unwrap(), 64); 9],
            gateway4: Some(address("198.51.100.1")),
            gateway6: Some("2001:db8::1".parse().unwrap()),
        };
        assert_eq!(
            wrong.check(),
            [
                AddressError::Mac { mac: wrong.mac },
                AddressError::TooMany { count: 9 },
                AddressError::NotUnicast { address: ip("192.0.2.0") },
                AddressError::Prefix { address: ip("192.0.2.1"), prefix_len: 33 },
                AddressError::NotUnicast { address: ip("224.0.0.1") },
                AddressError::GatewayOffLink { gateway: ip("198.51.100.1") },
                AddressError::GatewayOwn { gateway: ip("2001:db8::1") },
            ]
        );
    }
}
