//! `sluice guests`: which virtual machines and ports of Open vSwitch does the daemon know?

use sluice_api::v1;
use sluice_api::v1::status_service_client::StatusServiceClient;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::table::table;
use crate::text::{list, or_dash, safe, span, time};

/// Names that stand for nothing, shown at most.
const SILENT_NAMES: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the interfaces that this is a name of: of a machine, a port, an interface, an iface-id, or an address
    /// [default: all].
    name: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let mut client = StatusServiceClient::new(context.connection.open().await?)
        .max_decoding_message_size(sluice_api::MAX_POLICY_SET_BYTES);
    let mut response = client.list_guests(v1::ListGuestsRequest {}).await?.into_inner();
    let Some(ovs) = &response.ovs else {
        return Err(Failure::failed("the daemon learns nothing from Open vSwitch").help(
            "its boot config names the database: [ovs] database = \"unix:/var/run/openvswitch/db.sock\"",
        ));
    };
    if let Some(name) = &args.name {
        response.interfaces.retain(|interface| is_called(interface, name));
        if response.interfaces.is_empty() {
            let text = format!("Open vSwitch has nothing called {}", safe(name));
            return Err(Failure::new(Exit::NotFound, text).help(summary(ovs, 0)));
        }
    }
    if context.out.json {
        context.out.message("ListGuestsResponse", &response)?;
    } else {
        context.out.line(&shown(&response))?;
    }
    Ok(Exit::Ok)
}

/// Whether an interface has a name, as policies write it or without its kind.
fn is_called(interface: &v1::GuestInterface, name: &str) -> bool {
    let bare = name.strip_prefix("vm:").or_else(|| name.strip_prefix("port:")).unwrap_or(name);
    let vms = !name.starts_with("port:") && interface.vms.iter().any(|vm| vm == bare);
    let own = [&interface.interface, &interface.port, &interface.iface_id];
    let ports = !name.starts_with("vm:") && own.into_iter().any(|own| own == bare);
    vms || ports || interface.macs.iter().chain(&interface.addresses).any(|address| address == name)
}

/// What is known of the database, in a line or two.
pub(crate) fn summary(ovs: &v1::OvsStatus, time_ns: i64) -> String {
    let (database, error) = (safe(&ovs.database), safe(&ovs.error));
    let since = || if time_ns > 0 { span(ovs.since_ns, time_ns) } else { time(ovs.since_ns) };
    let state = match (ovs.connected, ovs.changed_at_ns) {
        (true, _) => format!("connected to {database} ({})", since()),
        (false, 0) => format!("{database} never told anything: {}", or_dash(error)),
        (false, _) => {
            format!("{database} is away ({}): {}; what it told last counts", since(), or_dash(error))
        }
    };
    let (names, more) = match ovs.silent_names.get(..SILENT_NAMES) {
        Some(first) if first.len() < ovs.silent_names.len() => (first, ", ..."),
        _ => (&*ovs.silent_names, ""),
    };
    let silent = if names.is_empty() {
        String::new()
    } else {
        format!("; without an address, so that they match nothing: {}{more}", list(names, ", "))
    };
    format!("{state}; names: {} of machines, {} of ports{silent}", ovs.vms, ovs.ports)
}

pub(crate) fn shown(response: &v1::ListGuestsResponse) -> String {
    let mut rows =
        table(&["machine", "interface", "bridge", "iface-id", "MAC", "addresses", "in policies", "state"]);
    for interface in &response.interfaces {
        let state = match interface.ofport {
            _ if !interface.error.is_empty() => safe(&interface.error),
            _ if !interface.active => "not in use".to_owned(),
            None => "not made".to_owned(),
            Some(number) => format!("port {number}"),
        };
        let name = safe(&interface.interface);
        let bond = interface.port != interface.interface && !interface.port.is_empty();
        let bridge = safe(&interface.bridge);
        rows.add_row([
            or_dash(list(&interface.vms, " ")),
            if bond { format!("{name} of {}", safe(&interface.port)) } else { name },
            or_dash(bridge),
            or_dash(safe(&interface.iface_id)),
            or_dash(list(&interface.macs, " ")),
            or_dash(list(&interface.addresses, " ")),
            or_dash(list(&interface.used_as, " ")),
            state,
        ]);
    }
    let ovs = response.ovs.clone().unwrap_or_default();
    format!("{}\n\n{rows}", summary(&ovs, 0))
}
