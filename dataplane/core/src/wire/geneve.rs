//! What does a GENEVE header say (RFC 8926, section 3.4)?

use super::bytes::{be16, be24, byte};

/// Length in bytes without options.
pub const HEADER_LEN: usize = 8;
/// UDP destination port (IANA).
pub const PORT: u16 = 6081;

/// Offsets of the fields.
pub mod field {
    /// Version (2 bits) and length of the options in 32-bit words (6 bits).
    pub const VERSION_OPT_LEN: usize = 0;
    /// EtherType of the payload, 2 bytes.
    pub const PROTOCOL: usize = 2;
    /// VNI, 3 bytes.
    pub const VNI: usize = 4;
}

/// A GENEVE header without its options.
#[derive(Clone, Copy, Debug)]
pub struct GeneveHeader<'a>(&'a [u8; HEADER_LEN]);

impl<'a> GeneveHeader<'a> {
    /// The fixed part at the front of `data` and what follows it (options first); `None` when `data` is too short.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// The version, 0.
    #[inline]
    pub fn version(self) -> u8 {
        byte::<{ field::VERSION_OPT_LEN }, _>(self.0) >> 6
    }

    /// Length with options in bytes: 8 to 260.
    #[inline]
    pub fn header_len(self) -> usize {
        HEADER_LEN + usize::from(byte::<{ field::VERSION_OPT_LEN }, _>(self.0) & 0x3f) * 4
    }

    /// EtherType of the payload.
    #[inline]
    pub fn protocol(self) -> u16 {
        be16::<{ field::PROTOCOL }, _>(self.0)
    }

    /// Virtual network identifier (24 bits).
    #[inline]
    pub fn vni(self) -> u32 {
        be24::<{ field::VNI }, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let (header, rest) = GeneveHeader::split(&[0x02, 0x40, 0x65, 0x58, 0, 0, 10, 0, 1]).unwrap();
        assert_eq!((header.version(), header.header_len()), (0, 16));
        assert_eq!((header.protocol(), header.vni(), rest), (0x6558, 10, &[1][..]));
        assert!(GeneveHeader::split(&[0; 7]).is_none());
    }
}
