//! `sluice talkers`: who sent the most in the last seconds.

use sluice_api::v1;
use sluice_api::v1::flow_service_client::FlowServiceClient;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::table::table;
use crate::text::{bytes, or_dash, safe};

use super::flows::{Ends, protocol};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    filter: Ends,
    /// What to sum by.
    #[arg(long, value_enum, default_value = "pair")]
    by: Key,
    /// What to order by.
    #[arg(long, value_enum, default_value = "bytes")]
    order: Order,
    /// The most rows.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    /// How many seconds to look back, up to 60.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Key {
    Pair,
    Client,
    Server,
    Address,
    Service,
    Conversation,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Order {
    Bytes,
    Packets,
    NewFlows,
    Retransmissions,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let key = match args.by {
        Key::Pair => v1::TalkerKey::Pair,
        Key::Client => v1::TalkerKey::Client,
        Key::Server => v1::TalkerKey::Server,
        Key::Address => v1::TalkerKey::Address,
        Key::Service => v1::TalkerKey::Service,
        Key::Conversation => v1::TalkerKey::Conversation,
    };
    let order = match args.order {
        Order::Bytes => v1::TalkerOrder::Bytes,
        Order::Packets => v1::TalkerOrder::Packets,
        Order::NewFlows => v1::TalkerOrder::NewFlows,
        Order::Retransmissions => v1::TalkerOrder::Retransmissions,
    };
    let request = v1::ListTopTalkersRequest {
        key: key.into(),
        order: order.into(),
        limit: args.limit,
        filter: Some(args.filter.into()),
        seconds: args.seconds,
    };
    let mut client = FlowServiceClient::new(context.connection.open().await?);
    let response = client.list_top_talkers(request).await?.into_inner();
    if context.out.json {
        context.out.message("ListTopTalkersResponse", &response)?;
    } else {
        context.out.line(&shown(&response))?;
    }
    Ok(Exit::Ok)
}

pub(crate) fn shown(response: &v1::ListTopTalkersResponse) -> String {
    let mut talkers =
        table(&["client", "server", "service", "packets", "bytes", "new flows", "retransmissions"]);
    let total = response.total.iter().map(|total| ("all".to_owned(), total));
    let rows = response.talkers.iter().map(|talker| (or_dash(safe(&talker.client)), talker));
    for (name, talker) in rows.chain(total) {
        let service = match (talker.protocol, talker.server_port) {
            (None, _) => "-".to_owned(),
            (Some(number), None) => protocol(number),
            (Some(number), Some(port)) => format!("{} {port}", protocol(number)),
        };
        talkers.add_row([
            name,
            or_dash(safe(&talker.server)),
            service,
            format!("{} / {}", talker.client_packets, talker.server_packets),
            format!("{} / {}", bytes(talker.client_bytes), bytes(talker.server_bytes)),
            talker.new_flows.to_string(),
            talker.retransmissions.to_string(),
        ]);
    }
    format!("{talkers}\nover {} s; packets and bytes are those of clients / servers", response.seconds)
}
