//! What does an IPv4 header say (RFC 791)?

use super::bytes::{be16, byte, bytes};
use super::parsed::Fragment;

/// Length in bytes without options.
pub const HEADER_LEN: usize = 20;
/// Flag of the fragment field: do not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// Flag of the fragment field: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The part of the fragment field that is the offset, in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// Offsets of the fields.
pub mod field {
    /// Version (4 bits) and header length in 32-bit words (4 bits).
    pub const VERSION_IHL: usize = 0;
    /// DSCP (6 bits) and ECN (2 bits).
    pub const TOS: usize = 1;
    /// Length of header and payload in bytes, 2 bytes.
    pub const TOTAL_LEN: usize = 2;
    /// Identification, 2 bytes.
    pub const IDENT: usize = 4;
    /// Flags (3 bits) and fragment offset (13 bits).
    pub const FRAGMENT: usize = 6;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol.
    pub const PROTOCOL: usize = 9;
    /// Header checksum, 2 bytes.
    pub const CHECKSUM: usize = 10;
    /// Source address, 4 bytes.
    pub const SRC_ADDR: usize = 12;
    /// Destination address, 4 bytes.
    pub const DST_ADDR: usize = 16;
}

/// IP protocol numbers (IANA "Protocol Numbers"), also for IPv6.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// No next header (IPv6).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// An IPv4 header without its options.
///
/// ```
/// use sluice_core::wire::ipv4::Ipv4Header;
/// let packet = [0x45, 0, 0, 20, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
/// let (header, _) = Ipv4Header::split(&packet).unwrap();
/// assert_eq!((header.protocol(), header.dst_addr()), (17, [192, 0, 2, 2]));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Ipv4Header<'a> {
    /// The fixed part at the front of `data` and what follows it (options first); `None` when `data` is too short.
    /// Nothing is checked: see [`version`](Self::version) and [`header_len`](Self::header_len).
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// The version field, 4 in an IPv4 header.
    #[inline]
    pub fn version(self) -> u8 {
        byte::<{ field::VERSION_IHL }, _>(self.0) >> 4
    }

    /// Length with options in bytes, as stated: 0 to 60; below [`HEADER_LEN`] it lies.
    #[inline]
    pub fn header_len(self) -> usize {
        usize::from(byte::<{ field::VERSION_IHL }, _>(self.0) & 0x0f) * 4
    }

    /// DSCP and ECN.
    #[inline]
    pub fn tos(self) -> u8 {
        byte::<{ field::TOS }, _>(self.0)
    }

    /// Length of header and payload in bytes, as stated; 0 in frames that a segmentation offload left unfinished.
    #[inline]
    pub fn total_len(self) -> u16 {
        be16::<{ field::TOTAL_LEN }, _>(self.0)
    }

    /// Identification.
    #[inline]
    pub fn ident(self) -> u16 {
        be16::<{ field::IDENT }, _>(self.0)
    }

    /// The flags and the fragment offset as one field.
    #[inline]
    pub fn fragment_field(self) -> u16 {
        be16::<{ field::FRAGMENT }, _>(self.0)
    }

    /// The place in a fragmented datagram.
    #[inline]
    pub fn fragment(self) -> Fragment {
        let field = self.fragment_field();
        if field & OFFSET_MASK != 0 {
            Fragment::Later
        } else if field & MORE_FRAGMENTS != 0 {
            Fragment::First
        } else {
            Fragment::Whole
        }
    }

    /// Time to live.
    #[inline]
    pub fn ttl(self) -> u8 {
        byte::<{ field::TTL }, _>(self.0)
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(self) -> u8 {
        byte::<{ field::PROTOCOL }, _>(self.0)
    }

    /// Header checksum.
    #[inline]
    pub fn checksum(self) -> u16 {
        be16::<{ field::CHECKSUM }, _>(self.0)
    }

    /// Source address.
    #[inline]
    pub fn src_addr(self) -> [u8; 4] {
        bytes::<{ field::SRC_ADDR }, 4, _>(self.0)
    }

    /// Destination address.
    #[inline]
    pub fn dst_addr(self) -> [u8; 4] {
        bytes::<{ field::DST_ADDR }, 4, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let data = [
            0x46, 0x10, 0x00, 0x3c, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0xb1, 0xe6, 172, 16, 10, 99, 172, 16,
            10, 12, 1, 1, 1, 1,
        ];
        let (header, rest) = Ipv4Header::split(&data).unwrap();
        assert_eq!((header.version(), header.header_len(), header.tos()), (4, 24, 0x10));
        assert_eq!(
            (header.total_len(), header.ident(), header.fragment_field()),
            (60, 0x1c46, DONT_FRAGMENT)
        );
        assert_eq!((header.ttl(), header.protocol(), header.checksum()), (64, 6, 0xb1e6));
        assert_eq!((header.src_addr(), header.dst_addr()), ([172, 16, 10, 99], [172, 16, 10, 12]));
        assert_eq!(rest, [1; 4]);
        assert!(Ipv4Header::split(&data[..19]).is_none());
    }

    #[test]
    fn fragments() {
        let mut data = [0u8; 20];
        for (field, expected) in [
            (0x0000u16, Fragment::Whole),
            (0x4000, Fragment::Whole),
            (0x8000, Fragment::Whole),
            (0x2000, Fragment::First),
            (0x2001, Fragment::Later),
            (0x00b9, Fragment::Later),
        ] {
            data[6..8].copy_from_slice(&field.to_be_bytes());
            assert_eq!(Ipv4Header::split(&data).unwrap().0.fragment(), expected, "{field:#x}");
        }
    }
}
