//! What does the `[api]` section say of TCP: where, with which certificates, and who may do what?
//!
//! Beyond loopback there is mutual TLS or nothing. Nobody has a role who was not given one.

use std::path::Path;

use super::api_section::path;
use super::document::Fields;
use super::listen::{is_loopback, listen};
use super::names::Names;
use super::source::{Report, quote};
use crate::{ApiClient, ApiRole, ApiTcp, ApiTls, ApiToken, TokenSecret};

/// The port in suggestions.
const PORT: u16 = 9465;
/// The fields that make TLS.
const TLS: [&str; 3] = ["cert", "key", "client_ca"];

/// Who is known.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) clients: Vec<ApiClient>,
    pub(super) tokens: Vec<ApiToken>,
}

impl Peers {
    pub(super) fn read<'d>(fields: &mut Fields<'d>, folder: &Path, report: &'d Report<'d>) -> Self {
        let mut names = Names::new("client");
        let mut clients = Vec::new();
        for (index, mut fields) in fields.tables("client").into_iter().enumerate() {
            let name = names.enter(&mut fields, index, report);
            let role = role(&mut fields, "role", true);
            fields.finish();
            if let (Some(name), Some(role)) = (name, role) {
                clients.push(ApiClient { name: name.value.to_owned(), role });
            }
        }
        let mut names = Names::new("token");
        let mut tokens = Vec::new();
        for (index, mut fields) in fields.tables("token").into_iter().enumerate() {
            let name = names.enter(&mut fields, index, report);
            let role = role(&mut fields, "role", true);
            let secret = secret(&mut fields, folder, report);
            fields.finish();
            if let (Some(name), Some(role), Some(secret)) = (name, role, secret) {
                tokens.push(ApiToken { name: name.value.to_owned(), role, secret });
            }
        }
        Self { clients, tokens }
    }
}

fn role(fields: &mut Fields<'_>, key: &'static str, needed: bool) -> Option<ApiRole> {
    let role = fields.choice(key, &ApiRole::NAMES);
    if needed && fields.place_of(key).is_none() {
        fields.missing(key, format!("write {key} = \"viewer\" or \"operator\""));
    }
    role.map(|at| at.value)
}

fn secret(fields: &mut Fields<'_>, folder: &Path, report: &Report<'_>) -> Option<TokenSecret> {
    let file = path(fields, "file", "the path of a file with the token", folder, report);
    let digest = fields.string("sha256", "\"9f86d0...\"");
    match (fields.place_of("file"), fields.place_of("sha256")) {
        (None, None) => {
            fields.missing("file", "write file = \"ci.token\", or sha256 = the output of sha256sum");
            None
        }
        (Some(_), Some(place)) => {
            let reason = "the token is in a file already";
            report.error(&place, fields.field("sha256"), reason, "remove one of the two".to_owned());
            None
        }
        (Some(_), None) => file.map(TokenSecret::File),
        (None, Some(_)) => {
            let digest = digest?;
            let bytes = hex(digest.value);
            if bytes.is_none() {
                let reason = format!("{} is not a SHA-256", quote(digest.value));
                let suggestion = "write its 64 hexadecimal digits, as sha256sum prints them".to_owned();
                report.error(&digest.span, fields.field("sha256"), reason, suggestion);
            }
            bytes.map(TokenSecret::Sha256)
        }
    }
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits = text.len() == 2 * bytes.len() && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !digits {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Where it is served over TCP, if anywhere.
pub(super) fn tcp(
    fields: &mut Fields<'_>,
    folder: &Path,
    peers: &Peers,
    report: &Report<'_>,
) -> Option<ApiTcp> {
    let listen = listen(fields, PORT, report);
    let mut file = |key| path(fields, key, "the path of a PEM file", folder, report);
    let [cert, key, client_ca] = TLS.map(&mut file);
    let client_crl = file("client_crl");
    let anonymous = role(fields, "anonymous", false);
    if let (Some(ApiRole::Operator), Some(place)) = (anonymous, fields.place_of("anonymous")) {
        let reason = "everybody on this machine may change policies";
        let suggestion = "write anonymous = \"viewer\", and give operators an [[api.token]]".to_owned();
        report.warning(&place, fields.field("anonymous"), reason, suggestion);
    }
    let given = |key: &&str| fields.place_of(key).is_some();
    if !given(&"listen") {
        let unused = TLS.iter().chain(&["client_crl", "anonymous", "client", "token"]);
        for key in unused.filter(|key| given(key)) {
            let place = fields.place_of(key).unwrap_or_default();
            let reason = "only for TCP, which is not listened on";
            let suggestion = format!("write listen = \"127.0.0.1:{PORT}\", or remove it");
            report.error(&place, fields.field(key), reason, suggestion);
        }
        return None;
    }
    let tls = TLS.iter().any(given) || given(&"client_crl");
    if tls {
        for key in TLS.iter().filter(|key| !given(key)) {
            let why = match *key {
                "client_ca" => "mutual TLS needs the CA of the clients: client_ca = \"ca.pem\"",
                "key" => "TLS needs the server's private key: key = \"server.key\"",
                _ => "TLS needs the server's certificate: cert = \"server.pem\"",
            };
            fields.missing(key, why);
        }
        if let Some(place) = fields.place_of("anonymous") {
            let reason = "with TLS, everybody shows a certificate";
            report.error(&place, fields.field("anonymous"), reason, "remove it".to_owned());
        }
    }
    let listen = listen?;
    if !tls && !is_loopback(listen.value) {
        let reason = format!("{} is not loopback: there it takes mutual TLS", listen.value);
        let suggestion =
            format!("add cert, key and client_ca, or write listen = \"127.0.0.1:{}\"", listen.value.port());
        report.error(&listen.span, fields.field("listen"), reason, suggestion);
        return None;
    }
    let place_of_peers = given(&"client") || given(&"token");
    if !tls && given(&"client") {
        let place = fields.place_of("client").unwrap_or_default();
        let reason = "without TLS nobody shows a certificate";
        let suggestion = "add cert, key and client_ca, or use [[api.token]]".to_owned();
        report.error(&place, fields.field("client"), reason, suggestion);
    }
    if peers.clients.is_empty() && peers.tokens.is_empty() && anonymous.is_none() && !place_of_peers {
        let suggestion = if tls {
            "add [[api.client]] with the name in a certificate and a role, or [[api.token]]"
        } else {
            "add [[api.token]], or write anonymous = \"viewer\" to let everybody on this machine look"
        };
        let reason = "nobody has a role: every request would be refused";
        report.error(&listen.span, fields.field("listen"), reason, suggestion.to_owned());
    }
    let tls = match (cert, key, client_ca) {
        (Some(cert), Some(key), Some(client_ca)) => Some(ApiTls { cert, key, client_ca, client_crl }),
        _ if tls => return None,
        _ => None,
    };
    Some(ApiTcp { listen: listen.value, tls, anonymous })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::ApiSettings;
    use crate::spec::parse_boot;

    const PORTS: &str = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";
    const FILES: &str = "cert = \"s.pem\"\nkey = \"/k\"\nclient_ca = \"ca.pem\"\n";

    fn parse(section: &str) -> Result<ApiSettings, String> {
        let loaded = parse_boot("/etc/sluice/boot.toml", &format!("{PORTS}[api]\n{section}"));
        loaded.map(|loaded| loaded.value.api).map_err(|errors| errors.to_string())
    }

    #[test]
    fn tls_with_clients_and_tokens_is_read() {
        let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let text = format!(
            "listen = \"192.0.2.1:9465\"\n{FILES}client_crl = \"crl.pem\"\n\
             [[api.client]]\nname = \"alice.example.net\"\nrole = \"operator\"\n\
             [[api.client]]\nname = \"wall\"\nrole = \"viewer\"\n\
             [[api.token]]\nname = \"ci\"\nrole = \"operator\"\nfile = \"ci.token\"\n\
             [[api.token]]\nname = \"nagios\"\nrole = \"viewer\"\nsha256 = \"{digest}\"\n"
        );
        let api = parse(&text).unwrap();
        let tcp = api.tcp.unwrap();
        assert_eq!((tcp.listen.to_string().as_str(), tcp.anonymous), ("192.0.2.1:9465", None));
        let folder = PathBuf::from("/etc/sluice");
        let tls = ApiTls {
            cert: folder.join("s.pem"),
            key: "/k".into(),
            client_ca: folder.join("ca.pem"),
            client_crl: Some(folder.join("crl.pem")),
        };
        assert_eq!(tcp.tls, Some(tls));
        let clients: Vec<_> = api.clients.iter().map(|client| (&*client.name, client.role)).collect();
        assert_eq!(clients, [("alice.example.net", ApiRole::Operator), ("wall", ApiRole::Viewer)]);
        assert_eq!(api.tokens[0].secret, TokenSecret::File(folder.join("ci.token")));
        let TokenSecret::Sha256(bytes) = api.tokens[1].secret else { panic!("{:?}", api.tokens) };
        assert_eq!((bytes[0], bytes[31]), (0x9f, 0x08));
    }

    #[test]
    fn plain_tcp_is_for_loopback_and_by_choice() {
        let api = parse("listen = \"[::1]:9465\"\nanonymous = \"viewer\"\n").unwrap();
        let tcp = api.tcp.unwrap();
        assert_eq!((tcp.tls, tcp.anonymous), (None, Some(ApiRole::Viewer)));
        let token = "[[api.token]]\nname = \"a\"\nrole = \"viewer\"\nfile = \"f\"\n";
        assert!(parse(&format!("listen = \"127.0.0.1:1\"\n{token}")).unwrap().tcp.is_some());
        for open in ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "[2001:db8::1]:1"] {
            for more in ["anonymous = \"viewer\"\n", token, ""] {
                let told = parse(&format!("listen = \"{open}\"\n{more}")).unwrap_err();
                assert!(told.contains("boot.toml:7:10: error: api.listen: "), "{told}");
                assert!(told.contains("is not loopback: there it takes mutual TLS"), "{told}");
            }
        }
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        let client = "[[api.client]]\nname = \"a\"\nrole = \"viewer\"\n";
        let listen = "listen = \"127.0.0.1:1\"\n";
        for (lines, told) in [
            (listen.to_owned(), "nobody has a role"),
            (format!("{listen}{FILES}"), "add [[api.client]]"),
            (format!("{listen}cert = \"a\"\n{client}"), "api.client_ca: missing"),
            (format!("{listen}client_crl = \"a\"\n{client}"), "api.cert: missing"),
            (format!("{listen}{FILES}anonymous = \"viewer\"\n{client}"), "everybody shows a certificate"),
            (format!("{listen}{client}"), "without TLS nobody shows a certificate"),
            (FILES.to_owned(), "only for TCP"),
            (client.to_owned(), "only for TCP"),
            ("listen = \":1\"\n".to_owned(), "write listen = \"127.0.0.1:1\""),
            (format!("{listen}{FILES}[[api.client]]\nname = \"a\"\n"), "role = \"viewer\" or \"operator\""),
            (format!("{listen}{FILES}{client}{client}"), "a second client \"a\""),
            (format!("{listen}[[api.token]]\nname = \"a\"\nrole = \"root\"\nfile = \"f\"\n"), "choices"),
            (format!("{listen}[[api.token]]\nname = \"a\"\nrole = \"viewer\"\n"), "sha256sum"),
            (
                format!("{listen}[[api.token]]\nname = \"a\"\nrole = \"viewer\"\nsha256 = \"12\"\n"),
                "64 hexadecimal digits",
            ),
            (
                format!(
                    "{listen}[[api.token]]\nname = \"a\"\nrole = \"viewer\"\nsha256 = \"1\"\nfile = \"f\"\n"
                ),
                "remove one of the two",
            ),
        ] {
            let errors = parse(&lines).unwrap_err();
            assert!(errors.contains(told), "{lines}: {errors}");
        }
    }
}
