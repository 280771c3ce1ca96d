//! What does the `[ovs]` section of a boot config say?

use std::net::SocketAddr;
use std::path::Path;

use super::document::Fields;
use super::listen::is_loopback;
use super::source::{Report, quote};
use crate::{OvsDatabase, OvsSettings};

/// The usual one, in suggestions.
pub(super) const USUAL: &str = "database = \"unix:/var/run/openvswitch/db.sock\"";
/// The longest path that a socket can have (`sun_path`, unix(7)).
const MAX_PATH: usize = 107;

/// The section; `None` when the database is missing or wrong, which was reported.
pub(super) fn ovs_settings(
    mut fields: Fields<'_>,
    folder: &Path,
    report: &Report<'_>,
) -> Option<OvsSettings> {
    let text = fields.string("database", "\"unix:/var/run/openvswitch/db.sock\"");
    if fields.place_of("database").is_none() {
        fields.missing("database", format!("name it: {USUAL}"));
    }
    let field = fields.field("database");
    fields.finish();
    let text = text?;
    match database(text.value.trim(), folder) {
        Ok(database) => {
            if let OvsDatabase::Tcp(address) = database
                && !is_loopback(address)
            {
                let reason =
                    format!("{address} is not this machine: whoever answers there says what names stand for");
                report.warning(&text.span, field, reason, format!("write {USUAL}"));
            }
            Some(OvsSettings { database })
        }
        Err((reason, suggestion)) => {
            report.error(&text.span, field, reason, suggestion);
            None
        }
    }
}

fn database(text: &str, folder: &Path) -> Result<OvsDatabase, (String, String)> {
    let usual = || format!("write {USUAL}, or \"tcp:127.0.0.1:6640\"");
    if let Some(path) = text.strip_prefix("unix:") {
        let named = !path.is_empty() && !path.ends_with('/');
        let path = folder.join(path);
        let bytes = path.as_os_str().len();
        if !named || bytes > MAX_PATH {
            let reason =
                format!("{} is no path of a socket, which has at most {MAX_PATH} bytes", quote(text));
            return Err((reason, usual()));
        }
        return Ok(OvsDatabase::Unix(path));
    }
    if let Some(address) = text.strip_prefix("tcp:") {
        let parsed = address.parse::<SocketAddr>().ok().filter(|address| address.port() > 0);
        return parsed.map(OvsDatabase::Tcp).ok_or_else(|| {
            let reason = format!("{} is not an address and a port", quote(address));
            (reason, "write \"tcp:127.0.0.1:6640\", or \"tcp:[::1]:6640\"".to_owned())
        });
    }
    if text.starts_with('/') {
        return Err((format!("{} names no transport", quote(text)), format!("write \"unix:{text}\"")));
    }
    let reason = if text.starts_with("ssl:") {
        "ssl: is not supported".to_owned()
    } else {
        format!("{} is no database", quote(text))
    };
    Err((reason, usual()))
}

#[cfg(test)]
mod tests {
    use crate::spec::parse_boot;

    const PORT: &str = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";

    fn parse(lines: &str) -> Result<crate::spec::Loaded<crate::BootConfig>, crate::spec::Diagnostics> {
        parse_boot("/etc/sluice/boot.toml", &format!("{PORT}{lines}"))
    }

    #[test]
    fn a_database_is_named_or_not() {
        assert_eq!(parse("").unwrap().value.ovs, None);
        for (written, means) in [
            ("unix:/var/run/openvswitch/db.sock", "unix:/var/run/openvswitch/db.sock"),
            ("unix:db.sock", "unix:/etc/sluice/db.sock"),
            ("tcp:127.0.0.1:6640", "tcp:127.0.0.1:6640"),
            ("tcp:[::1]:6640", "tcp:[::1]:6640"),
        ] {
            let loaded = parse(&format!("[ovs]\ndatabase = \"{written}\"\n")).unwrap();
            assert_eq!(loaded.value.ovs.unwrap().database.to_string(), means);
            assert!(loaded.warnings.is_empty(), "{written}");
        }
        let loaded = parse("[ovs]\ndatabase = \"tcp:192.0.2.1:6640\"\n").unwrap();
        assert!(loaded.warnings[0].to_string().contains("is not this machine"), "{}", loaded.warnings[0]);
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        for (lines, told) in [
            ("", "name it: database = \"unix:/var/run/openvswitch/db.sock\""),
            ("database = 6640", "database"),
            ("database = \"/run/openvswitch/db.sock\"", "write \"unix:/run/openvswitch/db.sock\""),
            ("database = \"unix:\"", "is no path of a socket"),
            ("database = \"tcp:localhost:6640\"", "write \"tcp:127.0.0.1:6640\""),
            ("database = \"tcp:127.0.0.1\"", "is not an address and a port"),
            ("database = \"ssl:127.0.0.1:6640\"", "ssl: is not supported"),
            ("database = \"db\"", "is no database"),
            ("databse = \"unix:/x\"", "databse"),
        ] {
            let errors = parse(&format!("[ovs]\n{lines}\n")).unwrap_err();
            assert!(errors.0.iter().any(|error| error.to_string().contains(told)), "{lines}: {errors}");
        }
        let long = format!("[ovs]\ndatabase = \"unix:/{}\"\n", "x".repeat(120));
        assert!(parse(&long).unwrap_err().to_string().contains("at most 107"));
    }
}
