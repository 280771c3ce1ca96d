//! Lists of numbers: which values does `"80,8000-8100"` name, and does the list contradict itself?

use crate::{RangeSet, RangeValue};

use super::document::Word;
use super::source::{Report, quote};

/// What the numbers of a list are.
#[derive(Debug)]
pub(super) struct Kind {
    /// In the plural, for messages: "ports".
    pub(super) what: &'static str,
    pub(super) min: u64,
    pub(super) max: u64,
    /// Names that stand for a number.
    pub(super) names: &'static [(&'static str, u64)],
}

/// TCP, UDP and SCTP ports.
pub(super) const PORTS: Kind = Kind { what: "ports", min: 0, max: 0xffff, names: &[] };
/// VLAN ids (12 bits).
pub(super) const VLANS: Kind = Kind { what: "VLAN ids", min: 0, max: 0xfff, names: &[] };
/// VNI, GRE key, TEID.
pub(super) const TUNNEL_IDS: Kind = Kind { what: "tunnel ids", min: 0, max: 0xffff_ffff, names: &[] };
/// Frame lengths.
pub(super) const LENGTHS: Kind = Kind { what: "frame lengths", min: 0, max: 0xffff, names: &[] };
/// IP protocol numbers (IANA registry) with the names people use.
pub(super) const PROTOCOLS: Kind = Kind {
    what: "IP protocols",
    min: 0,
    max: 255,
    names: &[
        ("ah", 51),
        ("esp", 50),
        ("gre", 47),
        ("icmp", 1),
        ("icmpv6", 58),
        ("igmp", 2),
        ("ipip", 4),
        ("ospf", 89),
        ("sctp", 132),
        ("tcp", 6),
        ("udp", 17),
    ],
};
/// EtherTypes; 0 stands for frames without one (802.3 length frames).
pub(super) const ETHERTYPES: Kind = Kind {
    what: "EtherTypes",
    min: 0,
    max: 0xffff,
    names: &[("arp", 0x0806), ("ipv4", 0x0800), ("ipv6", 0x86dd), ("lldp", 0x88cc), ("mpls", 0x8847)],
};

/// The set that a list names; `None`, with the errors reported, if it is wrong.
pub(super) fn range_set<T: RangeValue + TryFrom<u64>>(
    words: &[Word<'_>],
    kind: &Kind,
    field: &str,
    report: &Report<'_>,
) -> Option<RangeSet<T>> {
    let errors = report.errors();
    let mut ranges: Vec<(u64, u64, usize)> = Vec::with_capacity(words.len());
    for (i, word) in words.iter().enumerate() {
        if let Some((low, high)) = range(word, kind, field, report) {
            ranges.push((low, high, i));
        }
    }
    overlaps(&mut ranges, |i| words.get(i), field, report);
    if report.errors() > errors {
        return None;
    }
    let typed = |value: u64| T::try_from(value).ok();
    Some(ranges.iter().filter_map(|&(low, high, _)| Some(typed(low)?..=typed(high)?)).collect())
}

/// One element: a name, a number, or two numbers with a hyphen.
fn range(word: &Word<'_>, kind: &Kind, field: &str, report: &Report<'_>) -> Option<(u64, u64)> {
    let text = word.text.as_ref();
    let named = kind.names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    if let Some(&(_, value)) = named {
        return Some((value, value));
    }
    let (low, high) = match text.split_once('-') {
        Some((low, high)) => (low.trim(), high.trim()),
        None => (text, text),
    };
    let (Some(low), Some(high)) = (number(low), number(high)) else {
        let looks_like_name = text.starts_with(|c: char| c.is_ascii_alphabetic());
        let suggestion = if looks_like_name && !kind.names.is_empty() {
            report.did_you_mean(text, kind.names.iter().map(|&(name, _)| name))
        } else {
            Some(format!("{} are numbers {} to {} or ranges such as 10-20", kind.what, kind.min, kind.max))
        };
        let reason = format!("{} is no number and no range", quote(text));
        report.error(&word.span, field, reason, suggestion);
        return None;
    };
    if low > high {
        report.error(
            &word.span,
            field,
            format!("reversed range {low}-{high}"),
            format!("write {high}-{low}"),
        );
        return None;
    }
    if high > kind.max || low < kind.min {
        let suggestion = format!("{} may be {} to {}", kind.what, kind.min, kind.max);
        report.error(&word.span, field, format!("{} is out of range", quote(text)), suggestion);
        return None;
    }
    Some((low, high))
}

/// A decimal or hexadecimal (0x) number.
pub(super) fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if plain { u64::from_str_radix(digits, radix).ok() } else { None }
}

/// Reports every range that shares a value with another of the list.
fn overlaps<'w, 'd: 'w>(
    ranges: &mut [(u64, u64, usize)],
    word: impl Fn(usize) -> Option<&'w Word<'d>>,
    field: &str,
    report: &Report<'_>,
) {
    ranges.sort_unstable();
    let mut widest: Option<(u64, u64, usize)> = None;
    for &mut (low, high, i) in ranges {
        if let Some((wide_low, wide_high, wide)) = widest
            && low <= wide_high
            && let (Some(first), Some(second)) = (word(wide.min(i)), word(wide.max(i)))
        {
            let union = show(low.min(wide_low), high.max(wide_high));
            let (reason, suggestion) = if (low, high) == (wide_low, wide_high) {
                (format!("{} is given twice", second.text), "remove one of them".to_owned())
            } else {
                (format!("{} overlaps {}", second.text, first.text), format!("write {union} for both"))
            };
            report.error(&second.span, field, reason, suggestion);
        }
        if widest.is_none_or(|(_, wide_high, _)| high > wide_high) {
            widest = Some((low, high, i));
        }
    }
}

fn show(low: u64, high: u64) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}
