//! What does an Ethernet header say (IEEE 802.3, clause 3.2), and what does its type field mean?

use super::bytes::{be16, bytes};

/// Length in bytes, without preamble.
pub const HEADER_LEN: usize = 14;
/// The largest value of the type field that is an 802.3 length (an LLC frame) and not an EtherType.
pub const LENGTH_MAX: u16 = 1500;

/// Offsets of the fields.
pub mod field {
    /// Destination address, 6 bytes.
    pub const DST: usize = 0;
    /// Source address, 6 bytes.
    pub const SRC: usize = 6;
    /// EtherType or 802.3 length, 2 bytes.
    pub const ETHERTYPE: usize = 12;
}

/// EtherTypes (IANA "IEEE 802 Numbers").
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// ERSPAN type III in GRE.
    pub const ERSPAN3: u16 = 0x22eb;
    /// Transparent Ethernet bridging: Ethernet in GRE or GENEVE.
    pub const TEB: u16 = 0x6558;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// MPLS.
    pub const MPLS: u16 = 0x8847;
    /// MPLS with an upstream-assigned label (RFC 5332).
    pub const MPLS_UPSTREAM: u16 = 0x8848;
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// ERSPAN types I and II in GRE.
    pub const ERSPAN: u16 = 0x88be;
    /// The outer tag of stacked VLANs before 802.1ad.
    pub const OLD_SERVICE_VLAN: u16 = 0x9100;
}

/// An Ethernet header.
///
/// ```
/// use sluice_core::wire::ethernet::{EthernetHeader, ethertype};
/// let mut frame = [0u8; 60];
/// frame[12..14].copy_from_slice(&ethertype::ARP.to_be_bytes());
/// let (header, rest) = EthernetHeader::split(&frame).unwrap();
/// assert_eq!((header.ethertype(), rest.len()), (ethertype::ARP, 46));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct EthernetHeader<'a>(&'a [u8; HEADER_LEN]);

impl<'a> EthernetHeader<'a> {
    /// The header at the front of `data` and what follows it; `None` when `data` is too short.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// Destination address.
    #[inline]
    pub fn dst(self) -> [u8; 6] {
        bytes::<{ field::DST }, 6, _>(self.0)
    }

    /// Source address.
    #[inline]
    pub fn src(self) -> [u8; 6] {
        bytes::<{ field::SRC }, 6, _>(self.0)
    }

    /// EtherType, or an 802.3 length when at most [`LENGTH_MAX`].
    #[inline]
    pub fn ethertype(self) -> u16 {
        be16::<{ field::ETHERTYPE }, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let frame = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60];
        let (header, rest) = EthernetHeader::split(&frame).unwrap();
        assert_eq!(header.dst(), [0xff; 6]);
        assert_eq!(header.src(), [2, 0, 0, 0, 0, 1]);
        assert_eq!(header.ethertype(), ethertype::IPV6);
        assert_eq!(rest, [0x60]);
        assert!(EthernetHeader::split(&frame[..13]).is_none());
    }
}
