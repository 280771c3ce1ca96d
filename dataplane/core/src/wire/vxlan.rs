//! What does a VXLAN header say (RFC 7348, section 5)?

use super::bytes::{be24, byte};

/// Length in bytes.
pub const HEADER_LEN: usize = 8;
/// UDP destination port (IANA).
pub const PORT: u16 = 4789;
/// UDP destination port of Linux before the assignment, still the default there.
pub const LINUX_PORT: u16 = 8472;
/// The flag that says that the VNI is valid.
pub const FLAG_VNI: u8 = 0x08;

/// Offsets of the fields.
pub mod field {
    /// Flags, 1 byte.
    pub const FLAGS: usize = 0;
    /// Reserved, 3 bytes; a sequence number with flags 0xff.
    pub const RESERVED: usize = 1;
    /// VNI, 3 bytes.
    pub const VNI: usize = 4;
    /// Reserved, 1 byte; the direction in its lowest bit with flags 0xff.
    pub const RESERVED_LOW: usize = 7;
}

/// A VXLAN header.
#[derive(Clone, Copy, Debug)]
pub struct VxlanHeader<'a>(&'a [u8; HEADER_LEN]);

impl<'a> VxlanHeader<'a> {
    /// The header at the front of `data` and what follows it; `None` when `data` is too short. Nothing is checked: see
    /// [`flags`](Self::flags).
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(header, rest)| (Self(header), rest))
    }

    /// The flags: [`FLAG_VNI`] must be set; 0xff marks the variant with sequence number and direction.
    #[inline]
    pub fn flags(self) -> u8 {
        byte::<{ field::FLAGS }, _>(self.0)
    }

    /// The three bytes after the flags.
    #[inline]
    pub fn reserved(self) -> u32 {
        be24::<{ field::RESERVED }, _>(self.0)
    }

    /// VXLAN network identifier (24 bits).
    #[inline]
    pub fn vni(self) -> u32 {
        be24::<{ field::VNI }, _>(self.0)
    }

    /// The last byte.
    #[inline]
    pub fn reserved_low(self) -> u8 {
        byte::<{ field::RESERVED_LOW }, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let (header, rest) = VxlanHeader::split(&[0xff, 0, 0, 5, 0x12, 0x34, 0x56, 1, 2]).unwrap();
        assert_eq!((header.flags(), header.reserved()), (0xff, 5));
        assert_eq!((header.vni(), header.reserved_low(), rest), (0x12_3456, 1, &[2][..]));
        assert!(VxlanHeader::split(&[8; 7]).is_none());
    }
}
