//! What does a UDP header say (RFC 768)?

use super::bytes::be16;

/// Length in bytes.
pub const HEADER_LEN: usize = 8;

/// Offsets of the fields, 2 bytes each.
pub mod field {
    /// Source port.
    pub const SRC_PORT: usize = 0;
    /// Destination port.
    pub const DST_PORT: usize = 2;
    /// Length of header and payload in bytes.
    pub const LEN: usize = 4;
    /// Checksum; 0 = none.
    pub const CHECKSUM: usize = 6;
}

/// A UDP header.
#[derive(Clone, Copy, Debug)]
pub struct UdpHeader<'a>(&'a [u8; HEADER_LEN]);

impl<'a> UdpHeader<'a> {
    /// The header at the front of `data` and what follows it; `None` when `data` is too short.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// Source port.
    #[inline]
    pub fn src_port(self) -> u16 {
        be16::<{ field::SRC_PORT }, _>(self.0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(self) -> u16 {
        be16::<{ field::DST_PORT }, _>(self.0)
    }

    /// Length of header and payload in bytes, as stated; 0 in frames that a segmentation offload left unfinished.
    #[inline]
    pub fn stated_len(self) -> u16 {
        be16::<{ field::LEN }, _>(self.0)
    }

    /// Checksum; 0 = none.
    #[inline]
    pub fn checksum(self) -> u16 {
        be16::<{ field::CHECKSUM }, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let (header, rest) = UdpHeader::split(&[0x00, 0x35, 0x12, 0xb5, 0, 10, 0xbe, 0xef, 1, 2]).unwrap();
        assert_eq!((header.src_port(), header.dst_port()), (53, 4789));
        assert_eq!((header.stated_len(), header.checksum(), rest), (10, 0xbeef, &[1, 2][..]));
        assert!(UdpHeader::split(&[0; 7]).is_none());
    }
}
