//! What do the `[api]` and `[store]` sections of a boot config say?

use std::path::{Path, PathBuf};

use super::api_tcp::{self, Peers};
use super::boot_file::narrow;
use super::destinations::non_empty;
use super::document::Fields;
use super::source::{Report, quote};
use crate::{ApiLimits, ApiSettings};

/// The longest path of a Unix socket, bytes (unix(7): `sun_path` without its end).
const MAX_SOCKET_PATH: usize = 107;

/// The section.
pub(super) fn api_settings<'d>(mut fields: Fields<'d>, folder: &Path, report: &'d Report<'d>) -> ApiSettings {
    let default = ApiSettings::default();
    let enabled = fields.boolean("enabled").is_none_or(|at| at.value);
    let socket = path(&mut fields, "socket", "the path of a Unix socket", folder, report);
    if let (Some(place), Some(socket)) = (fields.place_of("socket"), &socket)
        && socket.as_os_str().len() > MAX_SOCKET_PATH
    {
        let hint = Some("choose a shorter one, or a relative one in a folder near the root".to_owned());
        let reason = format!("longer than {MAX_SOCKET_PATH} bytes: {}", socket.display());
        report.error(&place, fields.field("socket"), reason, hint);
    }
    let socket_mode = socket_mode(&mut fields, report).unwrap_or(default.socket_mode);
    let socket_group = non_empty(&mut fields, "socket_group", "the name of a group", report);
    let pcap_folder = path(&mut fields, "pcap_folder", "the path of a folder", folder, report);
    let limits = limits(&mut fields);
    let peers = Peers::read(&mut fields, folder, report);
    let tcp = api_tcp::tcp(&mut fields, folder, &peers, report);
    fields.finish();
    let Peers { clients, tokens } = peers;
    ApiSettings {
        enabled,
        socket,
        socket_mode,
        socket_group,
        store: None,
        tcp,
        clients,
        tokens,
        pcap_folder,
        limits,
    }
}

/// A path, relative to `folder`.
pub(super) fn path(
    fields: &mut Fields<'_>,
    key: &'static str,
    what: &str,
    folder: &Path,
    report: &Report<'_>,
) -> Option<PathBuf> {
    non_empty(fields, key, what, report).map(|path| folder.join(path))
}

/// Rights of a file, as `chmod` has them.
fn socket_mode(fields: &mut Fields<'_>, report: &Report<'_>) -> Option<u32> {
    let text = fields.string("socket_mode", "\"0660\"")?;
    let digits = !text.value.is_empty() && text.value.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = u32::from_str_radix(text.value, 8).ok().filter(|mode| digits && *mode <= 0o777);
    let Some(mode) = mode else {
        let reason = format!("{} is not the rights of a file", quote(text.value));
        let suggestion = "write three octal digits: socket_mode = \"0660\"".to_owned();
        report.error(&text.span, fields.field("socket_mode"), reason, suggestion);
        return None;
    };
    if mode & 0o002 != 0 {
        let suggestion = "use socket_group, and write socket_mode = \"0660\"".to_owned();
        let reason = "everybody on this machine may change policies";
        report.warning(&text.span, fields.field("socket_mode"), reason, suggestion);
    }
    Some(mode)
}

fn limits(fields: &mut Fields<'_>) -> ApiLimits {
    let default = ApiLimits::default();
    let mut number =
        |key, bounds, unit: &str, default| narrow(fields.integer(key, bounds, unit)).unwrap_or(default);
    let second = "requests in a second";
    ApiLimits {
        connections: number("max_connections", 1..=4_096, "max_connections", default.connections),
        requests_per_s: number("requests_per_s", 1..=1_000_000, second, default.requests_per_s),
        all_requests_per_s: number("all_requests_per_s", 1..=1_000_000, second, default.all_requests_per_s),
        request_timeout_s: number("request_timeout_s", 1..=3_600, "seconds", default.request_timeout_s),
        handshake_timeout_s: number("handshake_timeout_s", 1..=60, "seconds", default.handshake_timeout_s),
        idle_timeout_s: number("idle_timeout_s", 1..=86_400, "seconds", default.idle_timeout_s),
    }
}

/// The `[store]` section: the folder.
pub(super) fn store_folder(mut fields: Fields<'_>, folder: &Path, report: &Report<'_>) -> Option<PathBuf> {
    if fields.place_of("folder").is_none() {
        fields.missing("folder", "write folder = \"/var/lib/sluice\"");
    }
    let store = path(&mut fields, "folder", "the path of a folder", folder, report);
    fields.finish();
    store
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
    fn rights_limits_and_the_folder_are_read() {
        let api = parse(
            "[api]\nsocket_mode = \"600\"\nsocket_group = \"adm\"\npcap_folder = \"c\"\nrequests_per_s = 7\n",
        )
        .unwrap();
        assert_eq!((api.socket_mode, api.socket_group.as_deref()), (0o600, Some("adm")));
        assert_eq!(api.pcap_folder, Some(PathBuf::from("/etc/sluice/c")));
        assert_eq!(api.limits, ApiLimits { requests_per_s: 7, ..ApiLimits::default() });
    }

    #[test]
    fn mistakes_are_told() {
        for (section, told) in [
            ("[api]\nsocket = \"\"\n", "the path of a Unix socket"),
            ("[api]\nsockets = \"a\"\n", "socket"),
            ("[api]\nenabled = 1\n", "true"),
            ("[api]\nsocket_mode = \"rw\"\n", "socket_mode = \"0660\""),
            ("[api]\nsocket_mode = \"1777\"\n", "not the rights"),
            ("[api]\nmax_connections = 0\n", "1 to 4096"),
            ("[store]\n", "folder = "),
            ("[store]\nfolder = \"\"\n", "the path of a folder"),
            (&format!("[api]\nsocket = \"/{}\"\n", "a".repeat(107)), "longer than 107 bytes"),
        ] {
            let errors = parse(section).unwrap_err();
            assert!(errors.contains(told), "{section}: {errors}");
        }
    }
}
