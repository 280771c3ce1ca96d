//! Which word of a policy file does a number of an enumeration stand for?

use crate::v1;

/// The words of an enumeration, by its numbers; 0 = not given.
type Words = [(i32, &'static str)];

pub(crate) const HEADER_VIEW: &Words =
    &[(v1::HeaderView::Outer as i32, "outer"), (v1::HeaderView::Inner as i32, "inner")];

pub(crate) const FRAGMENT_MATCH: &Words = &[
    (v1::FragmentMatch::Fragments as i32, "fragments"),
    (v1::FragmentMatch::Later as i32, "later"),
    (v1::FragmentMatch::Whole as i32, "whole"),
];

pub(crate) const ACTION: &Words = &[(v1::Action::Copy as i32, "copy"), (v1::Action::Drop as i32, "drop")];

pub(crate) const DESTINATION_TYPE: &Words = &[
    (v1::DestinationType::Vxlan as i32, "vxlan"),
    (v1::DestinationType::Erspan2 as i32, "erspan2"),
    (v1::DestinationType::Erspan3 as i32, "erspan3"),
    (v1::DestinationType::Port as i32, "port"),
    (v1::DestinationType::Pcap as i32, "pcap"),
    (v1::DestinationType::Group as i32, "group"),
];

pub(crate) const MARKING: &Words =
    &[(v1::Marking::Standard as i32, "standard"), (v1::Marking::Reference as i32, "reference")];

pub(crate) const VLAN_FROM: &Words =
    &[(v1::VlanFrom::Tag as i32, "tag"), (v1::VlanFrom::Tunnel as i32, "tunnel")];

pub(crate) const UDP_CHECKSUM: &Words = &[
    (v1::UdpChecksum::Auto as i32, "auto"),
    (v1::UdpChecksum::On as i32, "on"),
    (v1::UdpChecksum::Off as i32, "off"),
];

pub(crate) const OVERSIZE: &Words = &[
    (v1::Oversize::Truncate as i32, "truncate"),
    (v1::Oversize::Fragment as i32, "fragment"),
    (v1::Oversize::Segment as i32, "segment"),
    (v1::Oversize::Drop as i32, "drop"),
];

pub(crate) const GROUP_HASH: &Words = &[
    (v1::GroupHash::Auto as i32, "auto"),
    (v1::GroupHash::Outer as i32, "outer"),
    (v1::GroupHash::Inner as i32, "inner"),
];

/// The word for a number. One that is not known is shown as it is, so that validation refuses it like any wrong word.
pub(crate) fn word(number: i32, words: &Words) -> Option<String> {
    if number == 0 {
        return None;
    }
    let known = words.iter().find(|(known, _)| *known == number);
    Some(known.map_or_else(|| number.to_string(), |(_, word)| (*word).to_owned()))
}

/// The number for a word; `Err` gives back a word that has none.
pub(crate) fn number<'w>(word: Option<&'w str>, words: &Words) -> Result<i32, &'w str> {
    let Some(word) = word else { return Ok(0) };
    words.iter().find(|(_, known)| *known == word).map(|(number, _)| *number).ok_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every message of a descriptor set has an enumeration for.
    #[test]
    fn every_number_has_a_word() {
        for (words, count) in [
            (HEADER_VIEW, 2),
            (FRAGMENT_MATCH, 3),
            (ACTION, 2),
            (DESTINATION_TYPE, 6),
            (MARKING, 2),
            (VLAN_FROM, 2),
            (UDP_CHECKSUM, 3),
            (OVERSIZE, 4),
            (GROUP_HASH, 3),
        ] {
            let numbers: Vec<i32> = words.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
            for (known, name) in words {
                assert_eq!(word(*known, words).as_deref(), Some(*name));
                assert_eq!(number(Some(name), words), Ok(*known));
            }
            assert_eq!(word(99, words).as_deref(), Some("99"));
            assert_eq!(number(Some("99"), words), Err("99"));
            assert_eq!((word(0, words), number(None, words)), (None, Ok(0)));
        }
    }
}
