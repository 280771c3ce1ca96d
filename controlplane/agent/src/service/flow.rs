//! Who talks to whom now?

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sluice_api::v1;
use sluice_api::v1::flow_service_server::FlowService;
use sluice_api::{FlowMatch, flow_filter};
use sluice_core::flow::FlowSnapshot;
use sluice_core::flow::tcp::FlowState;
use sluice_engine::recent::RecentRow;
use sluice_engine::runtime::{FlowReadError, address};
use sluice_model::{AddressSet, BootConfig, MacAddr, MetricsKey};
use tonic::{Request, Response, Status};

use super::Service;
use super::guest::unknown_name;
use crate::policies::Policies;

const TCP: u8 = 6;
/// Flows of an answer where the request names no number, and at most.
const FLOWS: [u32; 2] = [100, 10_000];
/// The same for talkers.
const TALKERS: [u32; 2] = [20, 1000];
/// Seconds to look back where the request does not say, and at most.
const LOOK_BACK_S: [u32; 2] = [10, 60];
/// Seconds until all rows of a second are there: metrics wait for what comes late.
const SETTLED_S: u32 = 4;
/// Time that is farther from the clock than this is that of a capture file.
const CAPTURED_S: u32 = 3600;

/// `wanted`, or the first of `limits` for 0.
fn limited(field: &str, wanted: u32, [usual, most]: [u32; 2]) -> Result<u32, Status> {
    match wanted {
        0 => Ok(usual),
        wanted if wanted <= most => Ok(wanted),
        _ => Err(Status::invalid_argument(format!("{field}: at most {most}, or 0 for {usual}"))),
    }
}

/// The filter of a request, which may name the groups in force.
fn understood(policies: &Policies, filter: Option<&v1::FlowFilter>) -> Result<FlowMatch, Status> {
    let Some(filter) = filter else { return Ok(FlowMatch::default()) };
    let mut wanted = flow_filter(filter, &policies.current().spec.groups)
        .map_err(|findings| Status::invalid_argument(findings.to_string()))?;
    let words = filter.addresses.iter().chain(&filter.clients).chain(&filter.servers);
    if let Some(wrong) = unknown_name(policies, wanted.address_sets(), words) {
        return Err(Status::invalid_argument(format!("filter: {wrong}")));
    }
    let guests = policies.guests();
    for set in [&mut wanted.addresses, &mut wanted.clients, &mut wanted.servers].into_iter().flatten() {
        *set = Arc::new(set.resolved(&guests));
    }
    Ok(wanted)
}

/// One end: its address, and its Ethernet address where flows know it.
type FlowEnd = (Option<IpAddr>, Option<MacAddr>);

/// Whether ends, client first, are wanted.
fn fit_ends(wanted: &FlowMatch, ends: [FlowEnd; 2]) -> bool {
    let [client, server] = ends;
    let one = |sets: &[_], (address, mac): FlowEnd| FlowMatch::wants(sets, address, mac);
    (one(&wanted.addresses, client) || one(&wanted.addresses, server))
        && one(&wanted.clients, client)
        && one(&wanted.servers, server)
}

fn ends(flow: &FlowSnapshot) -> [Option<IpAddr>; 2] {
    flow.addresses.map(|bytes| address(flow.network, &bytes))
}

fn ends_with_macs(flow: &FlowSnapshot) -> [FlowEnd; 2] {
    let ([client, server], [client_mac, server_mac]) = (ends(flow), flow.macs);
    [(client, Some(client_mac)), (server, Some(server_mac))]
}

fn fits(wanted: &FlowMatch, flow: &FlowSnapshot) -> bool {
    let port = |set: &Option<sluice_model::PortSet>, from: usize| {
        let holds = |set: &sluice_model::PortSet| {
            flow.ports.is_some_and(|ports| ports.iter().skip(from).any(|&port| set.contains(port)))
        };
        set.as_ref().is_none_or(holds)
    };
    let tunnel_id = |set: &sluice_model::RangeSet<u32>| {
        flow.tunnels.iter().flatten().any(|tunnel| tunnel.depth > 0 && set.contains(tunnel.id))
    };
    wanted.tap.is_none_or(|tap| tap == u32::from(flow.tap))
        && wanted.protocol.as_ref().is_none_or(|set| set.contains(flow.protocol))
        && wanted.vlan.as_ref().is_none_or(|set| set.contains(flow.vlan))
        && wanted.tunnel_id.as_ref().is_none_or(tunnel_id)
        && port(&wanted.ports, 0)
        && port(&wanted.server_ports, 1)
        && flow.bytes.iter().sum::<u64>() >= wanted.min_bytes
        && fit_ends(wanted, ends_with_macs(flow))
}

/// The first flows in some order.
struct First {
    flows: Vec<(u64, usize, FlowSnapshot)>,
    limit: usize,
    order: v1::FlowOrder,
}

impl First {
    fn add(&mut self, worker: usize, flow: &FlowSnapshot) {
        let rank = match self.order {
            v1::FlowOrder::Unspecified | v1::FlowOrder::Bytes => flow.bytes.iter().sum(),
            v1::FlowOrder::Packets => flow.packets.iter().sum(),
            v1::FlowOrder::Latest => flow.latest_ns,
            v1::FlowOrder::Newest => flow.first_ns,
            v1::FlowOrder::None => {
                if self.flows.len() < self.limit {
                    self.flows.push((0, worker, *flow));
                }
                return;
            }
        };
        self.flows.push((rank, worker, *flow));
        if self.flows.len() >= self.limit * 2 + 64 {
            self.cut();
        }
    }

    fn cut(&mut self) {
        // Stable, so that without an order they stay as they were found.
        self.flows.sort_by_key(|&(rank, ..)| std::cmp::Reverse(rank));
        self.flows.truncate(self.limit);
    }
}

fn list(
    policies: &Policies,
    request: &v1::ListFlowsRequest,
    goes_on: &dyn Fn() -> bool,
) -> Result<v1::ListFlowsResponse, Status> {
    let limit = limited("limit", request.limit, FLOWS)?;
    let order = v1::FlowOrder::try_from(request.order)
        .map_err(|_| Status::invalid_argument("order: no such order"))?;
    let wanted = understood(policies, request.filter.as_ref())?;
    let (mut matched, mut examined) = (0, 0);
    let mut first = First { flows: Vec::new(), limit: limit as usize, order };
    let read = policies.engine().read_flows(goes_on, |worker, flow| {
        examined += 1;
        if fits(&wanted, flow) {
            matched += 1;
            first.add(worker, flow);
        }
        ControlFlow::Continue(())
    });
    read.map_err(|error| unread(&error))?;
    first.cut();
    let boot = policies.boot();
    let flows = first.flows.iter().map(|(_, worker, flow)| told(&boot, *worker, flow)).collect();
    Ok(v1::ListFlowsResponse { flows, matched, examined })
}

/// The status of tables that were not read.
pub(super) fn unread(error: &FlowReadError) -> Status {
    match error {
        FlowReadError::NotMetered => Status::failed_precondition(error.to_string()),
        FlowReadError::Busy | FlowReadError::Cancelled | FlowReadError::Worker { .. } => {
            Status::unavailable(error.to_string())
        }
    }
}

fn text(address: Option<IpAddr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}

fn told(boot: &BootConfig, worker: usize, flow: &FlowSnapshot) -> v1::Flow {
    let [client, server] = ends(flow).map(text);
    let [client_mac, server_mac] = flow.macs.map(|mac| mac.to_string());
    let [client_packets, server_packets] = flow.packets;
    let [client_bytes, server_bytes] = flow.bytes;
    let tunnel = flow.tunnels.iter().flatten().find(|tunnel| tunnel.depth > 0);
    let time = |time_ns| i64::try_from(time_ns).unwrap_or(i64::MAX);
    v1::Flow {
        flow_id: flow.flow_id,
        client,
        server,
        client_port: flow.ports.map(|[client, _]| client.into()),
        server_port: flow.ports.map(|[_, server]| server.into()),
        protocol: flow.protocol.into(),
        ethertype: flow.ethertype.into(),
        client_mac,
        server_mac,
        vlan: flow.vlan.into(),
        tunnel: tunnel.map(|tunnel| tunnel.kind.name().to_owned()).unwrap_or_default(),
        tunnel_id: tunnel.map(|tunnel| tunnel.id).filter(|&id| id != 0),
        tap: flow.tap.into(),
        port: boot.ports.get(flow.port.index()).map(|port| port.name.clone()).unwrap_or_default(),
        first_ns: time(flow.first_ns),
        latest_ns: time(flow.latest_ns),
        client_packets,
        client_bytes,
        server_packets,
        server_bytes,
        tcp_state: if flow.protocol == TCP { state(flow.state) } else { "" }.to_owned(),
        direction_score: flow.direction_score.into(),
        worker: format!("worker{worker}"),
        rtt_ns: flow.rtt_ns,
        client_retransmissions: flow.retransmissions[0].into(),
        server_retransmissions: flow.retransmissions[1].into(),
    }
}

/// A state in a word.
fn state(state: FlowState) -> &'static str {
    match state {
        FlowState::Raw | FlowState::Exception => "",
        FlowState::Opening1 | FlowState::Opening2 | FlowState::Syn1 => "opening",
        FlowState::Established | FlowState::SynAck1 => "established",
        FlowState::ClosingTx1
        | FlowState::ClosingTx2
        | FlowState::ClosingRx1
        | FlowState::ClosingRx2
        | FlowState::Closed => "closing",
        FlowState::Reset
        | FlowState::ResetEstablish
        | FlowState::ServerReset
        | FlowState::ServerQueueLack
        | FlowState::ClientPortReuse => "reset",
    }
}

/// What talkers are summed by; parts that are no part of the key are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Who {
    client: Option<IpAddr>,
    server: Option<IpAddr>,
    protocol: Option<u8>,
    server_port: Option<u16>,
}

/// What they did.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    packets: [u64; 2],
    bytes: [u64; 2],
    new_flows: u64,
    retransmissions: u64,
}

impl Sums {
    fn add(&mut self, row: &RecentRow) {
        for side in [0, 1] {
            self.packets[side] += row.packets[side];
            self.bytes[side] += row.bytes[side];
        }
        self.new_flows += u64::from(row.new_flows);
        self.retransmissions += u64::from(row.retransmissions);
    }

    fn rank(&self, order: v1::TalkerOrder) -> u64 {
        match order {
            v1::TalkerOrder::Unspecified | v1::TalkerOrder::Bytes => self.bytes.iter().sum(),
            v1::TalkerOrder::Packets => self.packets.iter().sum(),
            v1::TalkerOrder::NewFlows => self.new_flows,
            v1::TalkerOrder::Retransmissions => self.retransmissions,
        }
    }

    fn told(&self, who: &Who) -> v1::Talker {
        let [client_packets, server_packets] = self.packets;
        let [client_bytes, server_bytes] = self.bytes;
        v1::Talker {
            client: text(who.client),
            server: text(who.server),
            protocol: who.protocol.map(Into::into),
            server_port: who.server_port.map(Into::into),
            client_packets,
            client_bytes,
            server_packets,
            server_bytes,
            new_flows: self.new_flows,
            retransmissions: self.retransmissions,
        }
    }
}

/// Whom a row counts for: one, or both ends. Nobody where an address is asked for and there is none.
fn talkers(by: v1::TalkerKey, key: &MetricsKey) -> [Option<Who>; 2] {
    let [client, server] = key.addresses.map(|bytes| address(key.network, &bytes));
    let service = Who { protocol: Some(key.protocol), server_port: key.server_port, ..Who::default() };
    let both = client.is_some() && server.is_some();
    match by {
        v1::TalkerKey::Unspecified | v1::TalkerKey::Pair => {
            [both.then_some(Who { client, server, ..Who::default() }), None]
        }
        v1::TalkerKey::Client => [client.map(|_| Who { client, ..Who::default() }), None],
        v1::TalkerKey::Server => [server.map(|_| Who { server, ..Who::default() }), None],
        v1::TalkerKey::Address => [
            client.map(|_| Who { client, ..Who::default() }),
            server.filter(|_| client != server).map(|_| Who { client: server, ..Who::default() }),
        ],
        v1::TalkerKey::Service => [Some(service), None],
        v1::TalkerKey::Conversation => [both.then_some(Who { client, server, ..service }), None],
    }
}

fn wants_row(wanted: &FlowMatch, key: Option<&MetricsKey>) -> bool {
    // Of what found no place in the table nobody knows whether it fits.
    let Some(key) = key else { return *wanted == FlowMatch::default() };
    wanted.tap.is_none_or(|tap| tap == u32::from(key.tap))
        && wanted.protocol.as_ref().is_none_or(|set| set.contains(key.protocol))
        && wanted
            .server_ports
            .as_ref()
            .is_none_or(|set| key.server_port.is_some_and(|port| set.contains(port)))
        && fit_ends(wanted, key.addresses.map(|bytes| (address(key.network, &bytes), None)))
}

/// Refuses what talkers cannot be asked for: they have no Ethernet addresses, and half an answer looks like a whole one.
fn check_talker_addresses(policies: &Policies, wanted: &FlowMatch) -> Result<(), Status> {
    let guests = policies.guests();
    let has_macs = |set: &AddressSet| !set.macs.is_empty();
    let Some(set) = wanted.address_sets().find(|set| has_macs(set)) else { return Ok(()) };
    let named = set.guests.iter().find(|name| guests.get(name).is_some_and(has_macs));
    let what = named.map(ToString::to_string);
    let what = what.or_else(|| set.macs.first().map(ToString::to_string)).unwrap_or_default();
    Err(Status::invalid_argument(format!(
        "filter: talkers are counted by IP address, and {what} is known by its MAC address only; list flows"
    )))
}

/// Metrics are kept by address, protocol, server port and tap.
fn check_talker_filter(filter: &v1::FlowFilter) -> Result<(), Status> {
    let unknown = [
        ("ports", !filter.ports.is_empty()),
        ("vlan", !filter.vlan.is_empty()),
        ("tunnel_id", !filter.tunnel_id.is_empty()),
        ("min_bytes", filter.min_bytes > 0),
    ];
    match unknown.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((field, _)) => Err(Status::invalid_argument(format!(
            "filter.{field}: talkers are counted by address, protocol, server port and tap only; \
             filter by these, or list flows"
        ))),
    }
}

fn top(
    policies: &Policies,
    request: &v1::ListTopTalkersRequest,
) -> Result<v1::ListTopTalkersResponse, Status> {
    let limit = limited("limit", request.limit, TALKERS)?;
    let seconds = limited("seconds", request.seconds, LOOK_BACK_S)?;
    let by =
        v1::TalkerKey::try_from(request.key).map_err(|_| Status::invalid_argument("key: no such key"))?;
    let order = v1::TalkerOrder::try_from(request.order)
        .map_err(|_| Status::invalid_argument("order: no such order"))?;
    if let Some(filter) = &request.filter {
        check_talker_filter(filter)?;
    }
    let wanted = understood(policies, request.filter.as_ref())?;
    check_talker_addresses(policies, &wanted)?;
    let boot = policies.boot();
    if !(boot.flow.enabled && boot.flow.metrics) {
        return Err(Status::failed_precondition(
            "talkers are counted by the metrics of flows, which are off: set `enabled = true` and `metrics = true` in \
             [flow] and restart the daemon",
        ));
    }
    let flows = policies.engine().flows();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_s = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
    let settled_s = now_s.saturating_sub(SETTLED_S);
    let latest_s = flows.iter().filter_map(|flow| flow.rings.recent.latest_s()).max().unwrap_or(settled_s);
    // The times of a capture file are its own: then its latest second is what counts.
    let last_s = if latest_s.abs_diff(now_s) > CAPTURED_S { latest_s } else { settled_s };
    let end_s = last_s.saturating_add(1);
    let whole_from_s = flows.iter().map(|flow| flow.rings.recent.whole_from_s()).max().unwrap_or(0);
    let begin_s = end_s.saturating_sub(seconds).max(whole_from_s).min(end_s);
    let mut sums: HashMap<Who, Sums> = HashMap::new();
    let mut total = Sums::default();
    for flow in &flows {
        flow.rings.recent.read(begin_s..end_s, |row| {
            if !wants_row(&wanted, row.key.as_ref()) {
                return;
            }
            total.add(row);
            let who = row.key.as_ref().map_or([None; 2], |key| talkers(by, key));
            for who in who.into_iter().flatten() {
                sums.entry(who).or_default().add(row);
            }
        });
    }
    let mut rows: Vec<(Who, Sums)> = sums.into_iter().collect();
    // Equal ones by name, so that the answer does not depend on the table.
    rows.sort_by_key(|(who, sums)| (std::cmp::Reverse(sums.rank(order)), *who));
    rows.truncate(limit as usize);
    Ok(v1::ListTopTalkersResponse {
        talkers: rows.iter().map(|(who, sums)| sums.told(who)).collect(),
        total: Some(total.told(&Who::default())),
        begin_s: begin_s.into(),
        seconds: end_s - begin_s,
    })
}

#[tonic::async_trait]
impl FlowService for Service {
    async fn list_flows(
        &self,
        request: Request<v1::ListFlowsRequest>,
    ) -> Result<Response<v1::ListFlowsResponse>, Status> {
        let request = request.into_inner();
        self.reading_flows(move |policies, goes_on| list(policies, &request, goes_on))
            .await
            .map(Response::new)
    }

    async fn list_top_talkers(
        &self,
        request: Request<v1::ListTopTalkersRequest>,
    ) -> Result<Response<v1::ListTopTalkersResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |policies| top(policies, &request)).await.map(Response::new)
    }
}
