//! How are names, times, counts and rates written for people, without harm to the terminal?

use std::time::{Duration, SystemTime};

/// The text with every character that a terminal might act on, or that might make it show something else, written as an
/// escape. Names come from other machines.
pub(crate) fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if harmful(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// [`safe`] for text that may have several lines.
pub(crate) fn safe_lines(text: &str) -> String {
    text.lines().map(safe).collect::<Vec<_>>().join("\n  ")
}

/// Control characters (C0, DEL, C1), and what is invisible or turns the direction of writing.
pub(crate) fn harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

/// Several names, each safe, with a separator between.
pub(crate) fn list<S: AsRef<str>>(names: &[S], separator: &str) -> String {
    names.iter().map(|name| safe(name.as_ref())).collect::<Vec<_>>().join(separator)
}

/// `list`, or a dash for none.
pub(crate) fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Nanoseconds since the epoch as a time in UTC, to the second.
pub(crate) fn time(ns: i64) -> String {
    let Ok(since) = u64::try_from(ns) else { return "-".to_owned() };
    if since == 0 {
        return "-".to_owned();
    }
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_nanos(since)).to_string()
}

/// The time between two moments in nanoseconds, to the second.
pub(crate) fn span(from_ns: i64, to_ns: i64) -> String {
    let seconds = u64::try_from(to_ns.saturating_sub(from_ns)).unwrap_or(0) / 1_000_000_000;
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// A number with a unit prefix and at most one decimal: `12.3 M`.
pub(crate) fn si(number: u64) -> String {
    for (unit, prefix) in [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")] {
        if number >= unit {
            let tenths = number / (if unit == 10_000 { 1_000 } else { unit } / 10);
            return format!("{}.{} {prefix}", tenths / 10, tenths % 10);
        }
    }
    number.to_string()
}

/// How many there are of what has these names for one and for several.
pub(crate) fn counted<N: Copy + std::fmt::Display + PartialEq + From<u8>>(
    number: N,
    one: &str,
    several: &str,
) -> String {
    format!("{number} {}", if number == N::from(1) { one } else { several })
}

/// Bytes in units of 1024.
pub(crate) fn bytes(number: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if number >> shift > 0 {
            let tenths = (u128::from(number) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{number} B")
}

/// A size as people give it: `500`, `10k`, `64MiB`; prefixes are powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("{text:?} is no size; write bytes, or 10k, 64M, 1G")),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{text:?} is no size; write bytes, or 10k, 64M, 1G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// How much a counter grew in a second; 0 when it began anew.
pub(crate) fn per_second(before: u64, after: u64, ns: i64) -> u64 {
    let Some(ns) = u128::try_from(ns).ok().filter(|ns| *ns > 0) else { return 0 };
    let grown = u128::from(after.saturating_sub(before));
    u64::try_from(grown * 1_000_000_000 / ns).unwrap_or(u64::MAX)
}

/// A span of time as people give it: `10s`, `1m 30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 10s, 500ms, 2m"))
}

/// Milliseconds for a message, at most what its field holds.
pub(crate) fn ms32(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The word of an enumeration's name: `STATE_SELF_CHECK` without `STATE_`, in lower case.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    let word = name.strip_prefix(prefix).unwrap_or(name);
    if word == "UNSPECIFIED" { "-".to_owned() } else { word.to_ascii_lowercase().replace('_', " ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_the_terminal() {
        let hostile = "a\u{1b}[2J\u{7f}\u{9b}31m\r\n\u{202e}b\u{200b}é日";
        let shown = safe(hostile);
        assert_eq!(shown, "a\\u{1b}[2J\\u{7f}\\u{9b}31m\\u{d}\\u{a}\\u{202e}b\\u{200b}é日");
        assert!(!shown.chars().any(harmful));
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            [0, 9_999, 10_000, 1_250_000, u64::MAX].map(si),
            ["0", "9999", "10.0 k", "1.2 M", "18446744.0 T"]
        );
        assert_eq!([5, 1536, u64::MAX].map(bytes), ["5 B", "1.5 KiB", "16777215.9 TiB"]);
        assert_eq!(
            ["7", "10k", "64MiB", "1G", "2TB"].map(|s| parse_size(s).unwrap()),
            [7, 10 << 10, 64 << 20, 1 << 30, 2 << 40]
        );
        assert!(parse_size("x").is_err() && parse_size("99999999999T").is_err() && parse_size("1x").is_err());
        assert_eq!(time(1_700_000_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!((per_second(5, 25, 2_000_000_000), per_second(25, 5, 1), per_second(0, 1, 0)), (10, 0, 0));
        assert_eq!(word("STATE_SELF_CHECK", "STATE_"), "self check");
    }
}
