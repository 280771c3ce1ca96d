//! What do an ICMPv6 header (RFC 4443) and the messages of neighbour discovery (RFC 4861) say?

use super::bytes::{be16, byte, bytes};

/// Length in bytes: type, code, checksum and four bytes whose meaning depends on the type.
pub const HEADER_LEN: usize = 8;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Type: neighbour solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// Type: neighbour advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Length in bytes of a neighbour solicitation or advertisement without options.
pub const NEIGHBOR_LEN: usize = 24;
/// Option: source link-layer address.
pub const OPTION_SOURCE_LINK_LAYER: u8 = 1;
/// Option: target link-layer address.
pub const OPTION_TARGET_LINK_LAYER: u8 = 2;

/// Offsets of the fields.
pub mod field {
    /// Type, 1 byte.
    pub const TYPE: usize = 0;
    /// Code, 1 byte.
    pub const CODE: usize = 1;
    /// Checksum with pseudo-header, 2 bytes.
    pub const CHECKSUM: usize = 2;
    /// Flags of a neighbour advertisement: router, solicited, override in the highest bits.
    pub const ADVERTISEMENT_FLAGS: usize = 4;
    /// Target address of neighbour solicitations and advertisements, 16 bytes.
    pub const TARGET: usize = 8;
}

/// An ICMPv6 header.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv6Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Icmpv6Header<'a> {
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

/// A neighbour solicitation or advertisement without its options.
#[derive(Clone, Copy, Debug)]
pub struct NeighborMessage<'a>(&'a [u8; NEIGHBOR_LEN]);

impl<'a> NeighborMessage<'a> {
    /// The message at the front of `data` and its options; `None` when `data` is too short or another type or code.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (message, options) = data.split_first_chunk::<NEIGHBOR_LEN>()?;
        let kind = byte::<{ field::TYPE }, _>(message);
        let known = matches!(kind, NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT);
        (known && byte::<{ field::CODE }, _>(message) == 0).then_some((Self(message), options))
    }

    /// Type: [`NEIGHBOR_SOLICITATION`] or [`NEIGHBOR_ADVERTISEMENT`].
    #[inline]
    pub fn kind(self) -> u8 {
        byte::<{ field::TYPE }, _>(self.0)
    }

    /// The flags of an advertisement: router 0x80, solicited 0x40, override 0x20.
    #[inline]
    pub fn flags(self) -> u8 {
        byte::<{ field::ADVERTISEMENT_FLAGS }, _>(self.0)
    }

    /// Target address.
    #[inline]
    pub fn target(self) -> [u8; 16] {
        bytes::<{ field::TARGET }, 16, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let mut data = [0u8; 25];
        data[..5].copy_from_slice(&[136, 0, 0xab, 0xcd, 0x60]);
        data[23] = 9;
        let (header, _) = Icmpv6Header::split(&data).unwrap();
        assert_eq!((header.kind(), header.code(), header.checksum()), (NEIGHBOR_ADVERTISEMENT, 0, 0xabcd));
        let (message, options) = NeighborMessage::split(&data).unwrap();
        assert_eq!((message.kind(), message.flags(), message.target()[15]), (136, 0x60, 9));
        assert_eq!(options.len(), 1);
        assert!(NeighborMessage::split(&data[..23]).is_none());
        data[1] = 1;
        assert!(NeighborMessage::split(&data).is_none());
    }
}
