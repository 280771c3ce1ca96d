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
}
