//! The two text formats: OpenMetrics 1.0 as the encoder writes it, and 0.0.4, which older readers want.
//!
//! 0.0.4 (Prometheus docs, "Exposition formats") names a counter's family with its `_total`, has neither units nor infos,
//! and no mark at the end. The samples are the same.

use std::collections::HashMap;
use std::fmt;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::declare::Metric;
use super::family::Families;

/// A format of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics text format 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that a client with this `Accept` header gets: OpenMetrics if it asks for that, and does not like plain
    /// text better (RFC 9110, section 12.5.1).
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let (mut open, mut plain) = (0, 0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let quality =
                parts.filter_map(|part| part.strip_prefix("q=")).find_map(thousandths).unwrap_or(1000);
            if kind.eq_ignore_ascii_case("application/openmetrics-text") {
                open = quality.max(open);
            } else if kind.eq_ignore_ascii_case("text/plain") {
                plain = quality.max(plain);
            }
        }
        if open > 0 && open >= plain { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of the answer.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A weight of RFC 9110: 0 to 1 with at most three decimals.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, decimals) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let digits: String = decimals.chars().chain("000".chars()).take(3).collect();
    Some((whole.parse::<u32>().ok()?.min(1) * 1000 + digits.parse::<u32>().ok()?).min(1000))
}

/// The text of one scrape.
///
/// # Errors
/// Never, in fact: a string takes everything.
pub(super) fn render(families: Families, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(families));
    let mut open = String::new();
    text::encode(&mut open, &registry)?;
    Ok(match format {
        Format::OpenMetrics => open,
        Format::Text => plain(&open),
    })
}

/// OpenMetrics text as text of 0.0.4.
fn plain(open: &str) -> String {
    let families: HashMap<_, _> = Metric::ALL.iter().map(|metric| (metric.family(), *metric)).collect();
    let mut plain = String::with_capacity(open.len() + open.len() / 16);
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        let mark = (words.next(), words.next());
        let known = |name| families.get(name).map(|metric| (metric, metric.name()));
        match (mark, words.next().and_then(known)) {
            ((Some("#"), Some("HELP")), Some((metric, name))) => {
                plain.extend(["# HELP ", &name, " ", metric.help()]);
            }
            ((Some("#"), Some("TYPE")), Some((metric, name))) => {
                plain.extend(["# TYPE ", &name, " ", metric.kind().name()]);
            }
            ((Some("#"), _), _) => continue,
            _ => plain.push_str(line),
        }
        plain.push('\n');
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_header_has_a_format(accept in "(application/openmetrics-text|text/plain|[;,=. q0-9]|\\PC){0,20}") {
            let _format = Format::accepted(Some(&accept));
        }
    }

    #[test]
    fn openmetrics_is_for_those_who_ask() {
        for (accept, format) in [
            (None, Format::Text),
            (Some(""), Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/html, text/plain"), Format::Text),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text; q=0"), Format::Text),
            (Some("Application/OpenMetrics-Text ; version=1.0.0"), Format::OpenMetrics),
            // Prometheus 2.42.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                     text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
            (Some("application/openmetrics-text;q=0.2,text/plain;q=0.25"), Format::Text),
            (Some("application/openmetrics-text;q=x.5,;;,=,q=9.9999999999"), Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }
}
