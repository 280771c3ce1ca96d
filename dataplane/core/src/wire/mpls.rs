//! What does an entry of an MPLS label stack say (RFC 3032)?

use super::bytes::{be24, byte};

/// Length of an entry in bytes.
pub const ENTRY_LEN: usize = 4;
/// The most entries that are followed; segment routing uses about ten.
pub const MAX_ENTRIES: u8 = 16;

/// An entry of the label stack.
#[derive(Clone, Copy, Debug)]
pub struct LabelEntry<'a>(&'a [u8; ENTRY_LEN]);

impl<'a> LabelEntry<'a> {
    /// The entry at the front of `data` and what follows it; `None` when `data` is too short.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        data.split_first_chunk().map(|(entry, rest)| (Self(entry), rest))
    }

    /// The label (20 bits).
    #[inline]
    pub fn label(self) -> u32 {
        be24::<0, _>(self.0) >> 4
    }

    /// Whether this is the last entry of the stack.
    #[inline]
    pub fn is_bottom(self) -> bool {
        byte::<2, _>(self.0) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let (entry, rest) = LabelEntry::split(&[0x00, 0x01, 0xd1, 0xff, 7]).unwrap();
        assert_eq!((entry.label(), entry.is_bottom(), rest), (29, true, &[7][..]));
        assert!(!LabelEntry::split(&[0, 1, 0xd0, 0xff]).unwrap().0.is_bottom());
        assert!(LabelEntry::split(&[0; 3]).is_none());
    }
}
