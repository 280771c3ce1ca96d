//! What do the ERSPAN headers of types II and III say (draft-foschiano-erspan, sections 4.2 and 4.3)?
//!
//! Type I has no header: the Ethernet frame follows a GRE header without a sequence number.

use super::bytes::{be16, be32, byte};

/// Length in bytes of the type II header.
pub const TYPE2_LEN: usize = 8;
/// Length in bytes of the type III header without its platform sub-header.
pub const TYPE3_LEN: usize = 12;
/// Length in bytes of the platform sub-header of type III.
pub const SUB_HEADER_LEN: usize = 8;
/// The version field of type II.
pub const TYPE2_VERSION: u8 = 1;
/// The version field of type III.
pub const TYPE3_VERSION: u8 = 2;
/// The session id's place in the second 16-bit word of both types.
pub const SESSION_MASK: u16 = 0x03ff;
/// Frame type of type III: an Ethernet frame follows.
pub const FRAME_ETHERNET: u8 = 0;
/// Frame type of type III: an IP packet follows.
pub const FRAME_IP: u8 = 2;

/// The first eight bytes, which types II and III have in common as far as they are read here.
#[derive(Clone, Copy, Debug)]
pub struct ErspanHeader<'a>(&'a [u8; TYPE2_LEN]);

impl<'a> ErspanHeader<'a> {
    /// The header at the front of `data` and what follows it; `None` when `data` is too short.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// The version: [`TYPE2_VERSION`] or [`TYPE3_VERSION`].
    #[inline]
    pub fn version(self) -> u8 {
        byte::<0, _>(self.0) >> 4
    }

    /// The VLAN of the mirrored frame (12 bits).
    #[inline]
    pub fn vlan(self) -> u16 {
        be16::<0, _>(self.0) & 0x0fff
    }

    /// Whether the mirrored frame was truncated (T).
    #[inline]
    pub fn is_truncated(self) -> bool {
        be16::<2, _>(self.0) & 0x0400 != 0
    }

    /// Session id (10 bits).
    #[inline]
    pub fn session(self) -> u16 {
        be16::<2, _>(self.0) & SESSION_MASK
    }

    /// Type II: the index (20 bits, after 12 reserved ones). Type III: the timestamp.
    #[inline]
    pub fn index_or_timestamp(self) -> u32 {
        be32::<4, _>(self.0)
    }
}

/// The last four bytes of a type III header.
#[derive(Clone, Copy, Debug)]
pub struct Type3Tail<'a>(&'a [u8; TYPE3_LEN - TYPE2_LEN]);

impl<'a> Type3Tail<'a> {
    /// The four bytes at the front of `data`, which follow an [`ErspanHeader`]; `None` when `data` is too short.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(tail, rest)| (Self(tail), rest))
    }

    /// Security group tag.
    #[inline]
    pub fn sgt(self) -> u16 {
        be16::<0, _>(self.0)
    }

    /// Frame type (5 bits): [`FRAME_ETHERNET`], [`FRAME_IP`] or another.
    #[inline]
    pub fn frame_type(self) -> u8 {
        (byte::<2, _>(self.0) >> 2) & 0x1f
    }

    /// Direction (D).
    #[inline]
    pub fn is_egress(self) -> bool {
        byte::<3, _>(self.0) & 0x08 != 0
    }

    /// Whether a platform sub-header follows (O).
    #[inline]
    pub fn has_sub_header(self) -> bool {
        byte::<3, _>(self.0) & 0x01 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let data = [
            0x20, 0x64, 0x06, 0x02, 0x01, 0x02, 0x03, 0x04, 0x00, 0x09, 0x08, 0x09,
            /* sub-header */ 0x0c,
        ];
        let (header, rest) = ErspanHeader::split(&data).unwrap();
        assert_eq!((header.version(), header.vlan()), (TYPE3_VERSION, 100));
        assert!(header.is_truncated());
        assert_eq!((header.session(), header.index_or_timestamp()), (0x202, 0x0102_0304));
        let (tail, rest) = Type3Tail::split(rest).unwrap();
        assert_eq!((tail.sgt(), tail.frame_type(), rest.len()), (9, FRAME_IP, 1));
        assert!(tail.is_egress() && tail.has_sub_header());
        assert!(ErspanHeader::split(&data[..7]).is_none() && Type3Tail::split(&data[..3]).is_none());
    }
}
