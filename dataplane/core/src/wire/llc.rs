//! Which EtherType hides in an 802.3 length frame (IEEE 802.2 LLC with SNAP, RFC 1042)?

use super::bytes::{be16, byte, bytes};

/// LLC (3 bytes) and SNAP (5 bytes) headers together.
pub const SNAP_LEN: usize = 8;

/// An LLC header that carries SNAP with an EtherType.
#[derive(Clone, Copy, Debug)]
pub struct SnapHeader<'a>(&'a [u8; SNAP_LEN]);

impl<'a> SnapHeader<'a> {
    /// The header at the front of `data`; `None` when it is too short, or anything but SNAP with an EtherType.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = data.split_first_chunk::<SNAP_LEN>()?;
        // DSAP and SSAP 0xaa, unnumbered information; the organisation is 0 (RFC 1042) or 0x0000f8 (802.1H).
        let snap = bytes::<0, 3, _>(header) == [0xaa, 0xaa, 0x03]
            && bytes::<3, 2, _>(header) == [0, 0]
            && matches!(byte::<5, _>(header), 0 | 0xf8);
        snap.then_some((Self(header), rest))
    }

    /// The EtherType.
    #[inline]
    pub fn ethertype(self) -> u16 {
        be16::<6, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_snap_with_an_ethertype() {
        let mut data = [0xaa, 0xaa, 0x03, 0, 0, 0, 0x08, 0x00, 0x45];
        let (header, rest) = SnapHeader::split(&data).unwrap();
        assert_eq!((header.ethertype(), rest), (0x0800, &[0x45][..]));
        assert!(SnapHeader::split(&data[..7]).is_none());
        data[5] = 0x0c; // Cisco's own protocols
        assert!(SnapHeader::split(&data).is_none());
        assert!(SnapHeader::split(&[0x42, 0x42, 0x03, 0, 0, 0, 0, 0]).is_none()); // spanning tree
    }
}
