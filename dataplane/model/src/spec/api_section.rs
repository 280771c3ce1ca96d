//! What do the `[api]` and `[store]` sections of a boot config say?

use std::path::{Path, PathBuf};

use super::destinations::non_empty;
use super::document::Fields;
use super::source::Report;
use crate::ApiSettings;

/// The longest path of a Unix socket, bytes (unix(7): `sun_path` without its end).
const MAX_SOCKET_PATH: usize = 107;

/// The section.
pub(super) fn api_settings(mut fields: Fields<'_>, folder: &Path, report: &Report<'_>) -> ApiSettings {
    let enabled = fields.boolean("enabled").is_none_or(|at| at.value);
    let place = fields.place_of("socket");
    let socket = non_empty(&mut fields, "socket", "the path of a Unix socket", report);
    let socket = socket.map(|socket| folder.join(socket));
    if let (Some(place), Some(socket)) = (place, &socket)
        && socket.as_os_str().len() > MAX_SOCKET_PATH
    {
        let hint = Some("choose a shorter one, or a relative one in a folder near the root".to_owned());
        let reason = format!("longer than {MAX_SOCKET_PATH} bytes: {}", socket.display());
        report.error(&place, fields.field("socket"), reason, hint);
    }
    fields.finish();
    ApiSettings { enabled, socket, store: None }
}

/// The `[store]` section: the folder.
pub(super) fn store_folder(mut fields: Fields<'_>, folder: &Path, report: &Report<'_>) -> Option<PathBuf> {
    if fields.place_of("folder").is_none() {
        fields.missing("folder", "write folder = \"/var/lib/sluice\"");
    }
    let store = non_empty(&mut fields, "folder", "the path of a folder", report);
    fields.finish();
    store.map(|store| folder.join(store))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_boot;

    const PORT: &str = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";

    fn parse(section: &str) -> Result<ApiSettings, String> {
        let loaded = parse_boot("/etc/sluice/boot.toml", &format!("{PORT}{section}"));
        loaded.map(|loaded| loaded.value.api).map_err(|errors| errors.to_string())
    }

    #[test]
    fn it_is_served_unless_switched_off() {
        assert_eq!(parse("").unwrap(), ApiSettings::default());
        let socket = Some(PathBuf::from("/etc/sluice/x.sock"));
        assert_eq!(
            parse("[api]\nsocket = \"x.sock\"\n").unwrap(),
            ApiSettings { socket, ..ApiSettings::default() }
        );
        let store = Some(PathBuf::from("/etc/sluice/kept"));
        assert_eq!(
            parse("[store]\nfolder = \"kept\"\n").unwrap(),
            ApiSettings { store, ..ApiSettings::default() }
        );
        assert!(!parse("[api]\nenabled = false\n").unwrap().enabled);
    }

    #[test]
    fn mistakes_are_told() {
        for (section, told) in [
            ("[api]\nsocket = \"\"\n", "the path of a Unix socket"),
            ("[api]\nsockets = \"a\"\n", "socket"),
            ("[api]\nenabled = 1\n", "true"),
            ("[store]\n", "folder = "),
            ("[store]\nfolder = \"\"\n", "the path of a folder"),
            (&format!("[api]\nsocket = \"/{}\"\n", "a".repeat(107)), "longer than 107 bytes"),
        ] {
            let errors = parse(section).unwrap_err();
            assert!(errors.contains(told), "{section}: {errors}");
        }
    }
}
