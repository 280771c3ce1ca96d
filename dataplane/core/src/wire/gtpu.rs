//! What does a GTP-U header say (3GPP TS 29.281, section 5)?

use super::bytes::{be16, be32, byte};
use super::parsed::Stop;

/// Length in bytes without the optional fields.
pub const HEADER_LEN: usize = 8;
/// UDP destination port (section 4.4.2).
pub const PORT: u16 = 2152;
/// Message type: a user packet follows (T-PDU).
pub const T_PDU: u8 = 255;
/// The most extension headers that are followed.
pub const MAX_EXTENSIONS: u8 = 8;

/// A GTP-U header, version 1, with its optional fields and extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GtpuHeader {
    /// Message type; [`T_PDU`] carries a packet.
    pub message: u8,
    /// Tunnel endpoint identifier.
    pub teid: u32,
    /// Length with everything optional in bytes.
    pub header_len: usize,
}

impl GtpuHeader {
    /// The header at the front of `data` and what follows it.
    ///
    /// # Errors
    /// [`Stop::Truncated`] when `data` ends inside it, [`Stop::Malformed`] for another version, GTP' or an extension
    /// header of length 0, [`Stop::Unknown`] for more than [`MAX_EXTENSIONS`] extension headers.
    #[inline]
    pub fn split(data: &[u8]) -> Result<(Self, &[u8]), Stop> {
        let (head, mut rest) = data.split_first_chunk::<HEADER_LEN>().ok_or(Stop::Truncated)?;
        let flags = byte::<0, _>(head);
        // Version 1 (3 bits), protocol type GTP (1 bit).
        if flags & 0xf0 != 0x30 {
            return Err(Stop::Malformed);
        }
        // Any of E, S and PN brings all of sequence number, N-PDU number and next extension type.
        if flags & 0x07 != 0 {
            let (optional, after) = rest.split_first_chunk::<4>().ok_or(Stop::Truncated)?;
            rest = after;
            if flags & 0x04 != 0 {
                rest = skip_extensions(byte::<3, _>(optional), rest)?;
            }
        }
        let header_len = data.len() - rest.len();
        Ok((Self { message: byte::<1, _>(head), teid: be32::<4, _>(head), header_len }, rest))
    }

    /// The length field of the header at the front of `data`: bytes after the first eight, as stated.
    #[inline]
    pub fn stated_len(data: &[u8; HEADER_LEN]) -> u16 {
        be16::<2, _>(data)
    }
}

/// Extension headers: length in units of four bytes, content, type of the next in the last byte; 0 ends them.
fn skip_extensions(mut kind: u8, mut data: &[u8]) -> Result<&[u8], Stop> {
    for _ in 0..MAX_EXTENSIONS {
        if kind == 0 {
            return Ok(data);
        }
        let units = data.first().ok_or(Stop::Truncated)?;
        let len = usize::from(*units) * 4;
        if len == 0 {
            return Err(Stop::Malformed);
        }
        let (extension, rest) = data.split_at_checked(len).ok_or(Stop::Truncated)?;
        kind = extension.last().copied().unwrap_or(0);
        data = rest;
    }
    if kind == 0 { Ok(data) } else { Err(Stop::Unknown) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_optional() {
        let plain = [0x30, 0xff, 0, 1, 0, 0, 0x12, 0x34, 0x45];
        let (header, rest) = GtpuHeader::split(&plain).unwrap();
        assert_eq!(header, GtpuHeader { message: T_PDU, teid: 0x1234, header_len: 8 });
        assert_eq!(rest, [0x45]);
        assert_eq!(GtpuHeader::stated_len(plain.first_chunk().unwrap()), 1);
        let sequence = [0x32, 0xff, 0, 5, 0, 0, 0, 1, 0, 7, 0, 0, 0x45];
        assert_eq!(GtpuHeader::split(&sequence).unwrap().0.header_len, 12);
        for cut in 0..12 {
            assert_eq!(GtpuHeader::split(&sequence[..cut]), Err(Stop::Truncated));
        }
    }

    #[test]
    fn extensions() {
        // PDU session container (0x85), one unit, then the end.
        let data = [0x34, 0xff, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0x10, 9, 0, 0x60];
        let (header, rest) = GtpuHeader::split(&data).unwrap();
        assert_eq!((header.header_len, rest), (16, &[0x60][..]));
        assert_eq!(GtpuHeader::split(&data[..14]), Err(Stop::Truncated));
        let mut zero = data;
        zero[12] = 0;
        assert_eq!(GtpuHeader::split(&zero), Err(Stop::Malformed));
        let mut endless = data[..12].to_vec();
        endless.extend([1, 0, 0, 0x85].repeat(20));
        assert_eq!(GtpuHeader::split(&endless), Err(Stop::Unknown));
    }

    #[test]
    fn other_versions() {
        assert_eq!(GtpuHeader::split(&[0x48, 1, 0, 4, 0, 0, 0, 0]), Err(Stop::Malformed));
        assert_eq!(GtpuHeader::split(&[0x20, 1, 0, 4, 0, 0, 0, 0]), Err(Stop::Malformed));
    }
}
