//! What does a VLAN tag say (IEEE 802.1Q, 802.1ad)?

use super::bytes::be16;
use super::ethernet::ethertype;

/// Length of a tag in bytes, counted from its TCI to the EtherType after it (the TPID is the EtherType before).
pub const TAG_LEN: usize = 4;
/// The most tags that are followed; real networks stack two or three.
pub const MAX_TAGS: u8 = 8;

/// Whether an EtherType announces a VLAN tag: 0x8100, 0x88a8 or 0x9100.
#[inline]
pub fn is_tpid(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN | ethertype::OLD_SERVICE_VLAN)
}

/// The tag control information of the tag right behind the addresses of an Ethernet frame, if one is there, whole, with
/// the EtherType that follows it.
#[inline]
#[must_use]
pub fn outermost(frame: &[u8]) -> Option<u16> {
    let head: &[u8; 18] = frame.first_chunk()?;
    is_tpid(be16::<12, _>(head)).then(|| be16::<14, _>(head))
}

/// A VLAN tag after its TPID.
#[derive(Clone, Copy, Debug)]
pub struct VlanTag<'a>(&'a [u8; TAG_LEN]);

impl<'a> VlanTag<'a> {
    /// The tag at the front of `data` and what follows it; `None` when `data` is too short.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(tag, rest)| (Self(tag), rest))
    }

    /// Tag control information: priority (3 bits), drop eligible (1), VLAN id (12).
    #[inline]
    pub fn tci(self) -> u16 {
        be16::<0, _>(self.0)
    }

    /// The EtherType that follows.
    #[inline]
    pub fn ethertype(self) -> u16 {
        be16::<2, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let (tag, rest) = VlanTag::split(&[0xe0, 0x64, 0x08, 0x00, 9]).unwrap();
        assert_eq!((tag.tci(), tag.ethertype(), rest), (0xe064, 0x0800, &[9][..]));
        assert!(VlanTag::split(&[0; 3]).is_none());
        assert!(is_tpid(0x88a8) && !is_tpid(0x8847));
    }

    #[test]
    fn the_outermost_tag_is_there_with_what_follows_it() {
        let mut frame = [0; 22];
        frame[12..20].copy_from_slice(&[0x81, 0x00, 0xa0, 0x65, 0x81, 0x00, 0x00, 0x07]);
        assert_eq!(outermost(&frame), Some(0xa065));
        assert_eq!(
            (outermost(&frame[..18]), outermost(&frame[..17]), outermost(&[])),
            (Some(0xa065), None, None)
        );
        for tpid in [0x88a8_u16, 0x9100] {
            frame[12..14].copy_from_slice(&tpid.to_be_bytes());
            assert_eq!(outermost(&frame), Some(0xa065));
        }
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        assert_eq!(outermost(&frame), None);
    }
}
