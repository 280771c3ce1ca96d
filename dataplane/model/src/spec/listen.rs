//! Which address and port does a text name?

use std::net::{IpAddr, SocketAddr};

use super::document::Fields;
use super::source::{At, Report};

/// The field `listen`; `usual` is the port of suggestions.
pub(super) fn listen(fields: &mut Fields<'_>, usual: u16, report: &Report<'_>) -> Option<At<SocketAddr>> {
    let text = fields.string("listen", &format!("\"127.0.0.1:{usual}\""))?;
    let field = fields.field("listen");
    match text.value.trim().parse::<SocketAddr>() {
        Ok(listen) if listen.port() == 0 => {
            let suggestion = format!("write listen = \"{}\"", SocketAddr::new(listen.ip(), usual));
            let reason = "port 0 is any port: nobody knows where to connect";
            report.error(&text.span, field, reason, suggestion);
            None
        }
        Ok(listen) => Some(At { value: listen, span: text.span }),
        Err(_) => {
            let (reason, suggestion) = problem(text.value.trim(), usual);
            report.error(&text.span, field, reason, suggestion);
            None
        }
    }
}

/// Whether only this machine reaches an address.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// What is wrong with a text that is no address and port, and what to write.
fn problem(text: &str, usual: u16) -> (String, String) {
    let reason = format!("{text:?} is not an address and a port");
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return (reason, format!("write listen = \"{}\"", SocketAddr::new(address, usual)));
    }
    if let Ok(port @ 1..) = text.trim_start_matches(':').parse::<u16>() {
        return (reason, format!("write listen = \"127.0.0.1:{port}\""));
    }
    if let Some(port @ 1..) = text.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok()) {
        return (reason, format!("write listen = \"127.0.0.1:{port}\""));
    }
    (reason, format!("write listen = \"127.0.0.1:{usual}\""))
}
