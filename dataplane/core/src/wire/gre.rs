//! What does a GRE header say (RFC 2784, 2890; with routing RFC 1701; version 1 RFC 2637)?

use super::bytes::{be16, be32};
use super::parsed::Stop;

/// Length in bytes of flags and protocol, before the optional fields.
pub const HEADER_LEN: usize = 4;
/// The most source routes (RFC 1701) that are followed.
pub const MAX_ROUTES: u8 = 16;

/// Bits of the first 16-bit word.
pub mod flags {
    /// Checksum present.
    pub const CHECKSUM: u16 = 0x8000;
    /// Routing present (RFC 1701).
    pub const ROUTING: u16 = 0x4000;
    /// Key present.
    pub const KEY: u16 = 0x2000;
    /// Sequence number present.
    pub const SEQUENCE: u16 = 0x1000;
    /// Acknowledgment number present (version 1 only).
    pub const ACKNOWLEDGMENT: u16 = 0x0080;
    /// The version.
    pub const VERSION: u16 = 0x0007;
}

/// A GRE header with its optional fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreHeader {
    /// The first 16-bit word: see [`flags`].
    pub flags: u16,
    /// EtherType of the payload.
    pub protocol: u16,
    /// The key, 0 without one. In version 1: payload length and call id.
    pub key: u32,
    /// The sequence number, 0 without one.
    pub sequence: u32,
    /// Length with all optional fields in bytes.
    pub header_len: usize,
}

impl GreHeader {
    /// The header at the front of `data` and what follows it.
    ///
    /// # Errors
    /// [`Stop::Truncated`] when `data` ends inside it, [`Stop::Malformed`] for versions above 1 (and version 1
    /// without a key, which RFC 2637 demands), [`Stop::Unknown`] for more than [`MAX_ROUTES`] source routes.
    #[inline]
    pub fn split(data: &[u8]) -> Result<(Self, &[u8]), Stop> {
        let (head, mut rest) = data.split_first_chunk::<HEADER_LEN>().ok_or(Stop::Truncated)?;
        let flags = be16::<0, _>(head);
        let protocol = be16::<2, _>(head);
        let version = flags & flags::VERSION;
        if version > 1 || (version == 1 && flags & flags::KEY == 0) {
            return Err(Stop::Malformed);
        }
        let mut header = Self { flags, protocol, key: 0, sequence: 0, header_len: HEADER_LEN };
        // Only these bits are optional fields of their version; the others are reserved and ignored.
        let routed = version == 0 && flags & flags::ROUTING != 0;
        if version == 0 && flags & (flags::CHECKSUM | flags::ROUTING) != 0 {
            (_, rest) = word(rest)?;
        }
        if flags & flags::KEY != 0 {
            (header.key, rest) = word(rest)?;
        }
        if flags & flags::SEQUENCE != 0 {
            (header.sequence, rest) = word(rest)?;
        }
        if version == 1 && flags & flags::ACKNOWLEDGMENT != 0 {
            (_, rest) = word(rest)?;
        }
        if routed {
            rest = skip_routes(rest)?;
        }
        header.header_len = data.len() - rest.len();
        Ok((header, rest))
    }

    /// The version: 0, or 1 for PPTP.
    #[inline]
    pub fn version(&self) -> u16 {
        self.flags & flags::VERSION
    }
}

fn word(data: &[u8]) -> Result<(u32, &[u8]), Stop> {
    let (value, rest) = data.split_first_chunk::<4>().ok_or(Stop::Truncated)?;
    Ok((be32::<0, _>(value), rest))
}

/// RFC 1701: entries of address family (2), offset (1), length (1) and as many bytes; family and length 0 end them.
fn skip_routes(mut data: &[u8]) -> Result<&[u8], Stop> {
    for _ in 0..MAX_ROUTES {
        let ([family_high, family_low, _, len], rest) =
            data.split_first_chunk::<4>().ok_or(Stop::Truncated)?;
        if (*family_high, *family_low, *len) == (0, 0, 0) {
            return Ok(rest);
        }
        data = rest.get(usize::from(*len)..).ok_or(Stop::Truncated)?;
    }
    Err(Stop::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields() {
        let all =
            [0xb0, 0x00, 0x65, 0x58, 0xaa, 0xbb, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 7, /* payload */ 0xfe];
        let (header, rest) = GreHeader::split(&all).unwrap();
        assert_eq!((header.protocol, header.key, header.sequence), (0x6558, 0x102, 7));
        assert_eq!((header.header_len, header.version(), rest), (16, 0, &[0xfe][..]));
        for cut in 0..16 {
            assert_eq!(GreHeader::split(&all[..cut]), Err(Stop::Truncated), "{cut}");
        }
        let (header, _) = GreHeader::split(&[0, 0, 8, 0]).unwrap();
        assert_eq!((header.header_len, header.key, header.sequence), (4, 0, 0));
    }

    #[test]
    fn routing() {
        let data = [
            0x40, 0, 8, 0, 0, 0, 0, 0, /* route */ 8, 0, 0, 4, 1, 2, 3, 4, /* end */ 0, 0, 0, 0,
            0x45,
        ];
        let (header, rest) = GreHeader::split(&data).unwrap();
        assert_eq!((header.header_len, rest), (20, &[0x45][..]));
        assert_eq!(GreHeader::split(&data[..14]), Err(Stop::Truncated));
        let mut endless = vec![0x40, 0, 8, 0, 0, 0, 0, 0];
        endless.extend([8, 0, 0, 0].repeat(100));
        assert_eq!(GreHeader::split(&endless), Err(Stop::Unknown));
    }

    #[test]
    fn versions() {
        let pptp = [0x30, 0x81, 0x88, 0x0b, 0, 10, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0xff];
        let (header, rest) = GreHeader::split(&pptp).unwrap();
        assert_eq!((header.version(), header.header_len, rest), (1, 16, &[0xff][..]));
        assert_eq!(GreHeader::split(&[0x10, 0x81, 0x88, 0x0b]), Err(Stop::Malformed));
        assert_eq!(GreHeader::split(&[0, 2, 8, 0]), Err(Stop::Malformed));
    }
}
