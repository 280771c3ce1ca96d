//! What does a TCP header say (RFC 9293, section 3.1)?

use super::bytes::{be16, be32, byte};

/// Length in bytes without options.
pub const HEADER_LEN: usize = 20;

/// Offsets of the fields.
pub mod field {
    /// Source port, 2 bytes.
    pub const SRC_PORT: usize = 0;
    /// Destination port, 2 bytes.
    pub const DST_PORT: usize = 2;
    /// Sequence number, 4 bytes.
    pub const SEQ: usize = 4;
    /// Acknowledgment number, 4 bytes.
    pub const ACK: usize = 8;
    /// Data offset in 32-bit words (high 4 bits).
    pub const DATA_OFFSET: usize = 12;
    /// Flags, 1 byte.
    pub const FLAGS: usize = 13;
    /// Window, 2 bytes.
    pub const WINDOW: usize = 14;
    /// Checksum, 2 bytes.
    pub const CHECKSUM: usize = 16;
    /// Urgent pointer, 2 bytes.
    pub const URGENT: usize = 18;
}

/// Bits of the flags byte.
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// URG.
    pub const URG: u8 = 0x20;
    /// ECE.
    pub const ECE: u8 = 0x40;
    /// CWR.
    pub const CWR: u8 = 0x80;
}

/// A TCP header without its options.
#[derive(Clone, Copy, Debug)]
pub struct TcpHeader<'a>(&'a [u8; HEADER_LEN]);

impl<'a> TcpHeader<'a> {
    /// The fixed part at the front of `data` and what follows it (options first); `None` when `data` is too short.
    /// Nothing is checked: see [`header_len`](Self::header_len).
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

    /// Sequence number.
    #[inline]
    pub fn seq(self) -> u32 {
        be32::<{ field::SEQ }, _>(self.0)
    }

    /// Acknowledgment number.
    #[inline]
    pub fn ack(self) -> u32 {
        be32::<{ field::ACK }, _>(self.0)
    }

    /// Length with options in bytes, as stated: 0 to 60; below [`HEADER_LEN`] it lies.
    #[inline]
    pub fn header_len(self) -> usize {
        usize::from(byte::<{ field::DATA_OFFSET }, _>(self.0) >> 4) * 4
    }

    /// The flags, FIN 0x01 to CWR 0x80.
    #[inline]
    pub fn flags(self) -> u8 {
        byte::<{ field::FLAGS }, _>(self.0)
    }

    /// Window, unscaled.
    #[inline]
    pub fn window(self) -> u16 {
        be16::<{ field::WINDOW }, _>(self.0)
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
        let data = [
            0x01, 0xbb, 0xd0, 0x31, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x80, 0x18, 0x01, 0xf6,
            0xab, 0xcd, 0, 0, 1,
        ];
        let (header, rest) = TcpHeader::split(&data).unwrap();
        assert_eq!((header.src_port(), header.dst_port()), (443, 0xd031));
        assert_eq!((header.seq(), header.ack()), (0x1122_3344, 0x5566_7788));
        assert_eq!((header.header_len(), header.flags()), (32, flags::PSH | flags::ACK));
        assert_eq!((header.window(), header.checksum(), rest), (0x1f6, 0xabcd, &[1][..]));
        assert!(TcpHeader::split(&data[..19]).is_none());
    }
}
