//! What does the `[metrics]` section of a boot config say?

use super::document::Fields;
use super::listen::{is_loopback, listen};
use super::source::Report;
use crate::MetricsSettings;

/// The port in suggestions.
const PORT: u16 = 9464;

/// The section; metrics are served when it is there, on loopback unless it says otherwise.
pub(super) fn metrics_settings(mut fields: Fields<'_>, report: &Report<'_>) -> MetricsSettings {
    let mut settings = MetricsSettings::default();
    if let Some(listen) = listen(&mut fields, PORT, report) {
        if !is_loopback(listen.value) {
            let reason =
                format!("{} is not loopback: whoever reaches it reads all counters and names", listen.value);
            let suggestion = "filter who may connect, or listen on 127.0.0.1".to_owned();
            report.warning(&listen.span, fields.field("listen"), reason, suggestion);
        }
        settings.listen = listen.value;
    }
    fields.finish();
    settings
}

#[cfg(test)]
mod tests {

    use crate::spec::parse_boot;

    const PORT: &str = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";

    fn parse(section: &str) -> crate::spec::Loaded<crate::BootConfig> {
        parse_boot("boot.toml", &format!("{PORT}{section}")).unwrap()
    }

    #[test]
    fn metrics_are_served_when_asked_for_and_on_loopback_unless_told() {
        assert_eq!(parse("").value.metrics, None);
        let loaded = parse("[metrics]\n");
        assert_eq!(loaded.value.metrics.unwrap().listen.to_string(), "127.0.0.1:9464");
        for loopback in ["127.0.0.2:9", "[::1]:9464", "[::ffff:127.0.0.1]:80"] {
            let loaded = parse(&format!("[metrics]\nlisten = \"{loopback}\"\n"));
            assert_eq!(loaded.value.metrics.unwrap().listen.to_string(), loopback);
            assert!(loaded.warnings.is_empty(), "{loopback}");
        }
    }

    #[test]
    fn other_addresses_are_taken_with_a_warning() {
        for open in ["0.0.0.0:9464", "192.0.2.1:80", "[::]:1"] {
            let loaded = parse(&format!("[metrics]\nlisten = \"{open}\"\n"));
            assert_eq!(loaded.value.metrics.unwrap().listen.to_string(), open);
            assert!(loaded.warnings[0].to_string().contains("not loopback"), "{}", loaded.warnings[0]);
        }
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        for (lines, told) in [
            ("listen = 9464", "listen"),
            ("listen = \":9464\"", "write listen = \"127.0.0.1:9464\""),
            ("listen = \"80\"", "write listen = \"127.0.0.1:80\""),
            ("listen = \"localhost:81\"", "write listen = \"127.0.0.1:81\""),
            ("listen = \"::1\"", "write listen = \"[::1]:9464\""),
            ("listen = \"127.0.0.1\"", "write listen = \"127.0.0.1:9464\""),
            ("listen = \"127.0.0.1:0\"", "write listen = \"127.0.0.1:9464\""),
            ("listen = \"http://127.0.0.1:1/metrics\"", "is not an address"),
            ("listn = \"127.0.0.1:1\"", "listen"),
        ] {
            let errors = parse_boot("boot.toml", &format!("{PORT}[metrics]\n{lines}\n")).unwrap_err();
            assert_eq!(errors.0.len(), 1, "{errors}");
            let error = errors.0[0].to_string();
            assert!(error.contains("boot.toml:7") && error.contains(told), "{lines}: {error}");
        }
    }
}
