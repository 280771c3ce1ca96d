//! Does a tunnel end here, by the address that it is sent to?

use std::net::IpAddr;

use super::walk::is_mpls;
use crate::wire::{L3, Parsed};

/// An address as [`Parsed`] holds it.
pub type End = (L3, [u8; 16]);

/// The [`End`] that is this address.
///
/// ```
/// use sluice_core::decap::end;
/// use sluice_core::wire::L3;
/// assert_eq!(end("192.0.2.1".parse().unwrap()), (L3::Ipv4, [192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
/// ```
#[must_use]
pub fn end(address: IpAddr) -> End {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (L3::Ipv4, bytes)
        }
        IpAddr::V6(v6) => (L3::Ipv6, v6.octets()),
    }
}

/// Which tunnels come off, by the address that they are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends<'a> {
    /// All.
    Any,
    /// Those that are sent to one of these, each by itself: a tunnel inside another one may go elsewhere, and stays.
    /// Label stacks are sent to nobody.
    Own(&'a [End]),
}

impl Ends<'_> {
    /// Whether a tunnel whose own packet has these headers ends here.
    #[inline(always)]
    #[must_use]
    pub fn has(self, view: &Parsed) -> bool {
        match self {
            Self::Any => true,
            Self::Own(ends) => !is_mpls(view.ethertype) && ends.contains(&(view.l3, view.dst_addr)),
        }
    }

    /// Whether only some tunnels do.
    #[inline(always)]
    #[must_use]
    pub fn are_own(self) -> bool {
        matches!(self, Self::Own(_))
    }
}
