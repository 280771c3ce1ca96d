//! What does an entry of an MPLS label stack say (RFC 3032)?

use super::bytes::{be16, be24, byte};
use super::ethernet::{self, ethertype};
use super::vlan;

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

/// Length in bytes of a pseudowire control word (RFC 4385).
pub const CONTROL_WORD_LEN: usize = 4;

/// Where the Ethernet frame starts in what follows a label stack, if it is one: MPLS itself does not tell.
///
/// With a control word, whose 16 reserved bits are 0 (RFC 4448, section 4.6), or without. What is taken for a frame has
/// a source address of one machine and an EtherType, or length, that fits what follows it. Bytes that start like IP or
/// like an associated channel (RFC 5586) are none.
#[must_use]
pub fn pseudowire(data: &[u8]) -> Option<usize> {
    let (first, _) = data.split_first()?;
    match first >> 4 {
        1 | 4 | 6 => None,
        _ if data.starts_with(&[0, 0]) && is_frame(data.get(CONTROL_WORD_LEN..)?) => Some(CONTROL_WORD_LEN),
        _ if is_frame(data) => Some(0),
        _ => None,
    }
}

/// Whether `data` looks like an Ethernet frame.
fn is_frame(data: &[u8]) -> bool {
    let Some((header, rest)) = data.split_first_chunk::<{ ethernet::HEADER_LEN }>() else { return false };
    let source = be24::<6, _>(header);
    // A group address is no source, and vendor 0 is nearly always a sign of something else.
    if byte::<6, _>(header) & 1 != 0 || source == 0 {
        return false;
    }
    let version = rest.first().map(|first| first >> 4);
    match be16::<12, _>(header) {
        ethertype::IPV4 => version == Some(4),
        ethertype::IPV6 => version == Some(6),
        ethertype::ARP | ethertype::MPLS | ethertype::MPLS_UPSTREAM => true,
        kind if vlan::is_tpid(kind) => true,
        // 802.3: at least an LLC header.
        len if len <= ethernet::LENGTH_MAX => (3..=rest.len()).contains(&usize::from(len)),
        _ => false,
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

    #[test]
    fn pseudowires_are_told_from_other_payloads() {
        let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45];
        frame.resize(60, 0);
        assert_eq!(pseudowire(&frame), Some(0));
        let with_word: Vec<u8> = [0, 0, 0, 7].into_iter().chain(frame.iter().copied()).collect();
        assert_eq!(pseudowire(&with_word), Some(4));
        // An associated channel, IP, a group address as source, a payload that is not what the EtherType says.
        for (at, value) in [(0, 0x10), (0, 0x45), (0, 0x60), (6, 0x01), (14, 0x65)] {
            let mut other = frame.clone();
            other[at] = value;
            assert_eq!(pseudowire(&other), None, "{at} {value}");
        }
        // 802.3 with a length that is there, and one that is not.
        frame[12..14].copy_from_slice(&[0, 46]);
        assert_eq!(pseudowire(&frame), Some(0));
        frame[12..14].copy_from_slice(&[0, 47]);
        assert_eq!(pseudowire(&frame), None);
        assert_eq!(pseudowire(&frame[..13]), None);
        assert_eq!(pseudowire(&[]), None);
    }
}
