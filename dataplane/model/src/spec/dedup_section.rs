//! What does the `[dedup]` section of a boot config say?

use super::boot_file::narrow;
use super::document::Fields;
use super::durations::duration;
use super::source::Report;
use crate::{DedupHeaders, DedupKey, DedupMode, DedupSettings};

/// Entries of one worker's table.
const ENTRIES: std::ops::RangeInclusive<u64> = 1024..=1 << 28;

/// The section; duplicates are dropped when it is there, unless it names another mode.
pub(super) fn dedup_settings(mut fields: Fields<'_>, report: &Report<'_>) -> DedupSettings {
    let defaults = DedupSettings::default();
    let mode = fields.choice("mode", &DedupMode::NAMES);
    let window = DedupSettings::MIN_WINDOW_NS..=DedupSettings::MAX_WINDOW_NS;
    let window_ns = duration(&mut fields, "window", window, "50ms", report);
    let entries = fields.integer("entries", ENTRIES, "entries (of each worker)");
    let key = fields.table("key", "{ ttl = true }").map(key);
    fields.finish();
    DedupSettings {
        mode: mode.map_or(DedupMode::Drop, |at| at.value),
        window_ns: window_ns.unwrap_or(defaults.window_ns),
        entries: narrow(entries),
        key: key.unwrap_or_default(),
    }
}

fn key(mut fields: Fields<'_>) -> DedupKey {
    let defaults = DedupKey::default();
    let mut flag = |name, default| fields.boolean(name).map_or(default, |at| at.value);
    let (macs, vlan) = (flag("macs", defaults.macs), flag("vlan", defaults.vlan));
    let (ttl, tos) = (flag("ttl", defaults.ttl), flag("tos", defaults.tos));
    let l4_checksum = fields.boolean_or("l4_checksum", "auto");
    let headers = fields.choice("headers", &[("auto", DedupHeaders::Auto), ("outer", DedupHeaders::Outer)]);
    let most = u64::from(DedupKey::MAX_PAYLOAD_BYTES);
    let payload = fields.integer("payload_bytes", 0..=most, "payload_bytes");
    fields.finish();
    DedupKey {
        macs,
        vlan,
        ttl,
        tos,
        l4_checksum,
        headers: headers.map(|at| at.value).unwrap_or_default(),
        payload_bytes: narrow(payload).unwrap_or(defaults.payload_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_boot;

    const PORT: &str = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";

    fn parse(section: &str) -> DedupSettings {
        parse_boot("boot.toml", &format!("{PORT}{section}")).unwrap().value.dedup
    }

    fn errors(section: &str) -> Vec<String> {
        let found = parse_boot("boot.toml", &format!("{PORT}[dedup]\n{section}")).unwrap_err();
        found.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everything_has_a_default() {
        assert_eq!(parse(""), DedupSettings::default());
        assert_eq!(parse("[dedup]"), DedupSettings { mode: DedupMode::Drop, ..DedupSettings::default() });
    }

    #[test]
    fn everything_can_be_set() {
        let settings = parse(
            "[dedup]\nmode = \"count\"\nwindow = \"1.5ms\"\nentries = 2_000_000\nkey = { macs = true, vlan = true, \
             ttl = true, tos = true, l4_checksum = false, headers = \"outer\", payload_bytes = 64 }\n",
        );
        let key = DedupKey {
            macs: true,
            vlan: true,
            ttl: true,
            tos: true,
            l4_checksum: Some(false),
            headers: DedupHeaders::Outer,
            payload_bytes: 64,
        };
        let expected =
            DedupSettings { mode: DedupMode::Count, window_ns: 1_500_000, entries: Some(2_000_000), key };
        assert_eq!(settings, expected);
        assert_eq!(parse("[dedup.key]\nl4_checksum = true").key.l4_checksum, Some(true));
        assert_eq!(parse("[dedup.key]\nl4_checksum = \"auto\"").key.l4_checksum, None);
        for (text, window_ns) in
            [("50us", 50_000), ("50 µs", 50_000), ("10s", 10_000_000_000), ("0.05s", 50_000_000)]
        {
            assert_eq!(parse(&format!("[dedup]\nwindow = \"{text}\"")).window_ns, window_ns, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        for (section, told) in [
            ("window = \"49us\"", "50us to 10s"),
            ("window = \"11s\"", "50us to 10s"),
            ("window = \"50\"", "\"50ms\""),
            ("window = \"50 lightyears\"", "\"50ms\""),
            ("window = \"0.0000001ms\"", "\"50ms\""),
            ("window = 50", "\"50ms\""),
            ("mode = \"dorp\"", "drop"),
            ("entries = 3", "1024"),
            ("key = { l4_checksum = \"maybe\" }", "auto"),
            ("key = { l4_checksum = 1 }", "auto"),
            ("key = { headers = \"inner\" }", "not one of the choices"),
            ("key = { payload_bytes = 4000 }", "1500"),
            ("key = { mac = true }", "macs"),
        ] {
            let errors = errors(section);
            assert!(errors.len() == 1 && errors[0].contains(told), "{section}: {errors:?}");
        }
    }
}
