//! What does the `[log]` section of a boot config say?

use super::document::Fields;
use super::source::Report;
use crate::{LogFormat, LogLevel, LogSettings, LogTarget};

/// Names of levels.
pub(super) const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// The section, and its level if it names one.
pub(super) fn log_settings(mut fields: Fields<'_>, report: &Report<'_>) -> (LogSettings, Option<LogLevel>) {
    let default = LogSettings::default();
    let level = fields.choice("level", &LEVELS);
    let to = fields.choice(
        "to",
        &[("auto", LogTarget::Auto), ("stderr", LogTarget::Stderr), ("journald", LogTarget::Journald)],
    );
    let format = fields.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let lines = fields.integer("lines_per_second", 0..=1_000_000, "lines_per_second (0 = no limit)");
    let lines =
        lines.map_or(default.lines_per_second, |at| u32::try_from(at.value).ok().filter(|&lines| lines > 0));
    let to = to.map_or(default.to, |at| at.value);
    if let (Some(place), LogTarget::Journald) = (fields.place_of("format"), to) {
        let field = fields.field("format");
        report.warning(&place, field, "the journal has fields of its own: this is for stderr", None);
    }
    fields.finish();
    let format = format.map_or(default.format, |at| at.value);
    (LogSettings { to, format, lines_per_second: lines }, level.map(|at| at.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_boot;

    const PORT: &str = "[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";

    fn parse(top: &str, section: &str) -> Result<(LogSettings, LogLevel, usize), String> {
        let loaded = parse_boot("boot.toml", &format!("policy = \"p\"\n{top}{PORT}{section}"));
        let loaded = loaded.map_err(|errors| errors.to_string())?;
        Ok((loaded.value.log, loaded.value.log_level, loaded.warnings.len()))
    }

    #[test]
    fn all_of_it() {
        assert_eq!(parse("", "").unwrap(), (LogSettings::default(), LogLevel::Info, 0));
        let text = "[log]\nlevel = \"debug\"\nto = \"stderr\"\nformat = \"json\"\nlines_per_second = 0\n";
        let expected = LogSettings { to: LogTarget::Stderr, format: LogFormat::Json, lines_per_second: None };
        assert_eq!(parse("", text).unwrap(), (expected, LogLevel::Debug, 0));
        let (_, _, warnings) = parse("", "[log]\nto = \"journald\"\nformat = \"json\"\n").unwrap();
        assert_eq!(warnings, 1);
    }

    #[test]
    fn the_level_may_stand_at_the_top_and_only_once() {
        assert_eq!(parse("log_level = \"warn\"\n", "[log]\n").unwrap().1, LogLevel::Warn);
        let errors = parse("log_level = \"warn\"\n", "[log]\nlevel = \"info\"\n").unwrap_err();
        assert!(errors.contains("log_level") && errors.contains("[log]"), "{errors}");
        assert!(parse("", "[log]\nlevel = \"loud\"\n").is_err());
    }
}
