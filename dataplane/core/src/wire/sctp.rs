//! What does the common header of SCTP say (RFC 9260, section 3.1)?

use super::bytes::{be16, be32};

/// Length in bytes.
pub const HEADER_LEN: usize = 12;

/// Offsets of the fields.
pub mod field {
    /// Source port, 2 bytes.
    pub const SRC_PORT: usize = 0;
    /// Destination port, 2 bytes.
    pub const DST_PORT: usize = 2;
    /// Verification tag, 4 bytes.
    pub const VERIFICATION_TAG: usize = 4;
    /// CRC32c, 4 bytes.
    pub const CHECKSUM: usize = 8;
}

/// The common header.
#[derive(Clone, Copy, Debug)]
pub struct SctpHeader<'a>(&'a [u8; HEADER_LEN]);

impl<'a> SctpHeader<'a> {
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

    /// Verification tag.
    #[inline]
    pub fn verification_tag(self) -> u32 {
        be32::<{ field::VERIFICATION_TAG }, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let data = [0x0b, 0x59, 0x0b, 0x5a, 0, 0, 0, 7, 1, 2, 3, 4, 9];
        let (header, rest) = SctpHeader::split(&data).unwrap();
        assert_eq!((header.src_port(), header.dst_port(), header.verification_tag()), (2905, 2906, 7));
        assert_eq!(rest, [9]);
        assert!(SctpHeader::split(&data[..11]).is_none());
    }
}
