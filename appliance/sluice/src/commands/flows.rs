//! `sluice flows`: flows in the table.

use sluice_api::v1;
use sluice_api::v1::flow_service_client::FlowServiceClient;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::table::table;
use crate::text::{bytes, or_dash, safe, span};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// The most flows that are listed, up to 10000.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Which come first.
    #[arg(long, value_enum, default_value = "bytes")]
    order: Order,
}

/// What rows of flows and of seconds have: all that is given must fit. Lists are given with commas, or by giving the
/// option again.
#[derive(Debug, clap::Args)]
pub(crate) struct Ends {
    /// Addresses of either end: host, network, range, MAC address, vm:NAME, port:NAME or @group.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    address: Vec<String>,
    /// Addresses of the client.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    from: Vec<String>,
    /// Addresses of the server.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    to: Vec<String>,
    /// IP protocols: tcp, udp, numbers.
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    protocol: Vec<String>,
    /// Ports of the server.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    server_port: Vec<String>,
    /// The tap.
    #[arg(long, value_name = "N")]
    tap: Option<u32>,
}

impl From<Ends> for v1::FlowFilter {
    fn from(ends: Ends) -> Self {
        Self {
            addresses: ends.address,
            clients: ends.from,
            servers: ends.to,
            protocol: ends.protocol,
            server_ports: ends.server_port,
            tap: ends.tap,
            ..Self::default()
        }
    }
}

/// Which flows.
#[derive(Debug, clap::Args)]
struct Filter {
    #[command(flatten)]
    ends: Ends,
    /// Ports of either end.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    port: Vec<String>,
    /// VLAN ids.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    vlan: Vec<String>,
    /// Tunnel ids.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    tunnel_id: Vec<String>,
    /// At least so many bytes, both ends together.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = crate::text::parse_size)]
    min_bytes: u64,
}

impl From<Filter> for v1::FlowFilter {
    fn from(filter: Filter) -> Self {
        Self {
            ports: filter.port,
            vlan: filter.vlan,
            tunnel_id: filter.tunnel_id,
            min_bytes: filter.min_bytes,
            ..filter.ends.into()
        }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Order {
    /// The most bytes.
    Bytes,
    /// The most packets.
    Packets,
    /// The latest packet.
    Latest,
    /// The latest begin.
    Newest,
    /// As they are found.
    None,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let order = match args.order {
        Order::Bytes => v1::FlowOrder::Bytes,
        Order::Packets => v1::FlowOrder::Packets,
        Order::Latest => v1::FlowOrder::Latest,
        Order::Newest => v1::FlowOrder::Newest,
        Order::None => v1::FlowOrder::None,
    };
    let request =
        v1::ListFlowsRequest { filter: Some(args.filter.into()), limit: args.limit, order: order.into() };
    let mut client = FlowServiceClient::new(context.connection.open().await?)
        .max_decoding_message_size(sluice_api::MAX_POLICY_SET_BYTES);
    let response = client.list_flows(request).await?.into_inner();
    if context.out.json {
        context.out.message("ListFlowsResponse", &response)?;
    } else {
        context.out.line(&shown(&response))?;
    }
    Ok(Exit::Ok)
}

pub(crate) fn shown(response: &v1::ListFlowsResponse) -> String {
    let mut flows = table(&[
        "client", "server", "protocol", "vlan", "tunnel", "state", "packets", "bytes", "lasts", "port",
    ]);
    for flow in &response.flows {
        let tunnel = match (flow.tunnel.as_str(), flow.tunnel_id) {
            ("", _) => "-".to_owned(),
            (kind, None) => safe(kind),
            (kind, Some(id)) => format!("{} {id}", safe(kind)),
        };
        flows.add_row([
            end(&flow.client, &flow.client_mac, flow.client_port),
            end(&flow.server, &flow.server_mac, flow.server_port),
            match (flow.protocol, flow.ethertype) {
                (0, ARP) => "arp".to_owned(),
                (0, other) if ![IPV4, IPV6].contains(&other) => format!("{other:#06x}"),
                (number, _) => protocol(number),
            },
            or_dash(if flow.vlan == 0 { String::new() } else { flow.vlan.to_string() }),
            tunnel,
            or_dash(safe(&flow.tcp_state)),
            format!("{} / {}", flow.client_packets, flow.server_packets),
            format!("{} / {}", bytes(flow.client_bytes), bytes(flow.server_bytes)),
            span(flow.first_ns, flow.latest_ns),
            or_dash(safe(&flow.port)),
        ]);
    }
    format!(
        "{flows}\n{} of {} flows that fit, out of {}",
        response.flows.len(),
        response.matched,
        response.examined
    )
}

/// An end of a flow: address and port.
pub(crate) fn end(address: &str, mac: &str, port: Option<u32>) -> String {
    let address = if address.is_empty() { safe(mac) } else { safe(address) };
    match port {
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => or_dash(address),
    }
}

const IPV4: u32 = 0x0800;
const ARP: u32 = 0x0806;
const IPV6: u32 = 0x86dd;

/// The usual name of an IP protocol.
pub(crate) fn protocol(number: u32) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        number => number.to_string(),
    }
}
