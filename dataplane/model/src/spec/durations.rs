//! Which span of time does a text like `"50us"` or `"1.5 ms"` name?

use std::ops::RangeInclusive;

use super::document::Fields;
use super::source::{Report, quote};

/// Units with their nanoseconds.
const UNITS: [(&str, u64); 5] =
    [("ns", 1), ("us", 1_000), ("\u{b5}s", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

/// A span within `range` (nanoseconds) in the field `key`; `example` is one.
pub(super) fn duration(
    fields: &mut Fields<'_>,
    key: &'static str,
    range: RangeInclusive<u64>,
    example: &str,
    report: &Report<'_>,
) -> Option<u64> {
    let text = fields.string(key, &quote(example))?;
    let field = fields.field(key);
    match nanoseconds(text.value) {
        Some(span) if range.contains(&span) => Some(span),
        Some(_) => {
            let reason = format!(
                "{} is not in {} to {}",
                quote(text.value),
                shown(*range.start()),
                shown(*range.end())
            );
            report.error(&text.span, field, reason, format!("write {key} = {}", quote(example)));
            None
        }
        None => {
            let reason = format!("{} is no span of time: a number and ns, us, ms or s", quote(text.value));
            report.error(&text.span, field, reason, format!("write {key} = {}", quote(example)));
            None
        }
    }
}

/// A span in the largest unit that needs no fraction.
pub(super) fn shown(span_ns: u64) -> String {
    let fits = |&&(unit, ns): &&(&str, u64)| unit.is_ascii() && span_ns.is_multiple_of(ns);
    UNITS.iter().rev().find(fits).map_or_else(String::new, |(unit, ns)| format!("{}{unit}", span_ns / ns))
}

/// A decimal number and a unit, as whole nanoseconds.
fn nanoseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at_checked(end)?;
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.len() > 9 {
        return None;
    }
    let digits: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let parts = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let part = digits.checked_mul(*scale)?;
    if !part.is_multiple_of(parts) {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(*scale)?.checked_add(part / parts)
}
