//! What do an IPv6 header and its extension headers say (RFC 8200)?

use super::bytes::{be16, byte, bytes};
use super::parsed::Fragment;

/// Length in bytes of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Length in bytes that every extension header has at least.
pub const EXTENSION_LEN: usize = 8;
/// The most extension headers that are followed; RFC 8200 recommends at most seven.
pub const MAX_EXTENSIONS: u8 = 16;

/// Offsets of the fields.
pub mod field {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub const VERSION_CLASS_LABEL: usize = 0;
    /// Length of what follows the fixed header in bytes, 2 bytes.
    pub const PAYLOAD_LEN: usize = 4;
    /// Next header.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address, 16 bytes.
    pub const SRC_ADDR: usize = 8;
    /// Destination address, 16 bytes.
    pub const DST_ADDR: usize = 24;
}

/// Next-header values of extension headers (IANA "IPv6 Extension Header Types").
pub mod extension {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
    /// Mobility (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol (RFC 7401).
    pub const HIP: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;
}

/// Whether a next-header value announces an extension header that [`Extension`] understands.
#[inline]
pub fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        extension::HOP_BY_HOP
            | extension::ROUTING
            | extension::FRAGMENT
            | extension::AUTHENTICATION
            | extension::DESTINATION
            | extension::MOBILITY
            | extension::HIP
            | extension::SHIM6
    )
}

/// The fixed header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Ipv6Header<'a> {
    /// The fixed header at the front of `data` and what follows it; `None` when `data` is too short. Nothing is checked:
    /// see [`version`](Self::version).
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// The version field, 6 in an IPv6 header.
    #[inline]
    pub fn version(self) -> u8 {
        byte::<{ field::VERSION_CLASS_LABEL }, _>(self.0) >> 4
    }

    /// Traffic class (DSCP and ECN).
    #[inline]
    pub fn traffic_class(self) -> u8 {
        let [_, low] = (be16::<{ field::VERSION_CLASS_LABEL }, _>(self.0) >> 4).to_be_bytes();
        low
    }

    /// Length in bytes of what follows this header, as stated; 0 with a jumbo payload option (RFC 2675).
    #[inline]
    pub fn payload_len(self) -> u16 {
        be16::<{ field::PAYLOAD_LEN }, _>(self.0)
    }

    /// The type of the header that follows.
    #[inline]
    pub fn next_header(self) -> u8 {
        byte::<{ field::NEXT_HEADER }, _>(self.0)
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(self) -> u8 {
        byte::<{ field::HOP_LIMIT }, _>(self.0)
    }

    /// Source address.
    #[inline]
    pub fn src_addr(self) -> [u8; 16] {
        bytes::<{ field::SRC_ADDR }, 16, _>(self.0)
    }

    /// Destination address.
    #[inline]
    pub fn dst_addr(self) -> [u8; 16] {
        bytes::<{ field::DST_ADDR }, 16, _>(self.0)
    }
}

/// The first eight bytes of an extension header.
#[derive(Clone, Copy, Debug)]
pub struct Extension<'a> {
    kind: u8,
    head: &'a [u8; EXTENSION_LEN],
}

impl<'a> Extension<'a> {
    /// The extension header of type `kind` at the front of `data`; `None` when `data` is too short.
    #[inline]
    pub fn new(kind: u8, data: &'a [u8]) -> Option<Self> {
        data.first_chunk().map(|head| Self { kind, head })
    }

    /// The type of the header that follows.
    #[inline]
    pub fn next_header(self) -> u8 {
        byte::<0, _>(self.head)
    }

    /// Length in bytes, as stated: at least 8.
    #[inline]
    pub fn header_len(self) -> usize {
        let field = usize::from(byte::<1, _>(self.head));
        match self.kind {
            extension::FRAGMENT => EXTENSION_LEN,
            extension::AUTHENTICATION => (field + 2) * 4,
            _ => (field + 1) * 8,
        }
    }

    /// What a fragment header says; [`Fragment::Whole`] for the other types and for atomic fragments (RFC 6946).
    #[inline]
    pub fn fragment(self) -> Fragment {
        let field = be16::<2, _>(self.head);
        if self.kind != extension::FRAGMENT || field & 0xfff9 == 0 {
            Fragment::Whole
        } else if field & 0xfff8 == 0 {
            Fragment::First
        } else {
            Fragment::Later
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let mut data = [0u8; 41];
        data[..8].copy_from_slice(&[0x6b, 0x81, 0x23, 0x45, 0x01, 0x02, 17, 64]);
        data[8] = 0x20;
        data[39] = 0x09;
        let (header, rest) = Ipv6Header::split(&data).unwrap();
        assert_eq!((header.version(), header.traffic_class()), (6, 0xb8));
        assert_eq!((header.payload_len(), header.next_header(), header.hop_limit()), (0x102, 17, 64));
        assert_eq!((header.src_addr()[0], header.dst_addr()[15], rest.len()), (0x20, 0x09, 1));
        assert!(Ipv6Header::split(&data[..39]).is_none());
    }

    #[test]
    fn extension_lengths() {
        let data = [6, 4, 0, 0, 0, 0, 0, 0];
        for (kind, len) in [(0, 40), (43, 40), (44, 8), (51, 24), (60, 40), (135, 40), (139, 40), (140, 40)] {
            assert!(is_extension(kind));
            let header = Extension::new(kind, &data).unwrap();
            assert_eq!((header.header_len(), header.next_header()), (len, 6), "{kind}");
        }
        assert!(!is_extension(50) && !is_extension(59));
        assert!(Extension::new(0, &data[..7]).is_none());
    }

    #[test]
    fn fragments() {
        for (field, expected) in [
            (0x0000u16, Fragment::Whole),
            (0x0006, Fragment::Whole), // reserved bits
            (0x0001, Fragment::First),
            (0x0008, Fragment::Later),
            (0x05a9, Fragment::Later),
        ] {
            let [high, low] = field.to_be_bytes();
            let data = [17, 0, high, low, 0, 0, 0, 1];
            assert_eq!(Extension::new(44, &data).unwrap().fragment(), expected);
            assert_eq!(Extension::new(60, &data).unwrap().fragment(), Fragment::Whole);
        }
    }
}
