//! What does an ICMP header say (RFC 792)?

use super::bytes::{be16, byte};

/// Length in bytes: type, code, checksum and four bytes whose meaning depends on the type.
pub const HEADER_LEN: usize = 8;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 8;

/// Offsets of the fields.
pub mod field {
    /// Type, 1 byte.
    pub const TYPE: usize = 0;
    /// Code, 1 byte.
    pub const CODE: usize = 1;
    /// Checksum over the whole message, 2 bytes.
    pub const CHECKSUM: usize = 2;
}

/// An ICMP header.
#[derive(Clone, Copy, Debug)]
pub struct IcmpHeader<'a>(&'a [u8; HEADER_LEN]);

impl<'a> IcmpHeader<'a> {
    /// The header at the front of `data` and what follows it; `None` when `data` is too short.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// Type.
    #[inline]
    pub fn kind(self) -> u8 {
        byte::<{ field::TYPE }, _>(self.0)
    }

    /// Code.
    #[inline]
    pub fn code(self) -> u8 {
        byte::<{ field::CODE }, _>(self.0)
    }

    /// Checksum.
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
        let (header, rest) = IcmpHeader::split(&[3, 1, 0xab, 0xcd, 0, 0, 0, 0, 0x45]).unwrap();
        assert_eq!((header.kind(), header.code(), header.checksum(), rest), (3, 1, 0xabcd, &[0x45][..]));
        assert!(IcmpHeader::split(&[0; 7]).is_none());
    }
}
