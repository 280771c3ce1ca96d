//! A server with recorded answers, on a Unix socket in a folder of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluice_api::v1;
use sluice_api::v1::capture_service_server::{CaptureService, CaptureServiceServer};
use sluice_api::v1::counter_service_server::{CounterService, CounterServiceServer};
use sluice_api::v1::explain_service_server::{ExplainService, ExplainServiceServer};
use sluice_api::v1::flow_service_server::{FlowService, FlowServiceServer};
use sluice_api::v1::history_service_server::{HistoryService, HistoryServiceServer};
use sluice_api::v1::policy_service_server::{PolicyService, PolicyServiceServer};
use sluice_api::v1::status_service_server::{StatusService, StatusServiceServer};
use sluice_model::spec::{PolicySetSpec, parse_policy_spec};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{IntervalStream, TcpListenerStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Interceptor;
use tonic::transport::server::Router;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// What is in force.
pub(crate) const IN_FORCE: &str = include_str!("in_force.toml");

/// A moment, nanoseconds since the epoch.
const NOW: i64 = 1_795_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

/// Beginnings of names that a terminal would act on.
pub(crate) const HOSTILE: &str = "evil\u{1b}[2J\u{9b}31m\u{202e}";

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[expect(clippy::unnecessary_wraps, reason = "what methods of the traits return")]
fn stream<T: Send + 'static>(messages: Vec<T>) -> Answer<Streamed<T>> {
    Ok(Response::new(Box::pin(tokio_stream::iter(messages.into_iter().map(Ok)))))
}

/// The server, and the place of its socket.
pub(crate) struct Mock {
    folder: tempfile::TempDir,
    server: String,
    runtime: Mutex<Option<Runtime>>,
}

#[derive(Default)]
struct Recorded {
    asked: AtomicU64,
}

/// A token that each call must carry.
#[derive(Clone)]
struct Secret(Option<&'static str>);

impl Interceptor for Secret {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        match self.0 {
            Some(secret) if given != Some(&format!("Bearer {secret}")) => {
                Err(Status::unauthenticated("no such token"))
            }
            _ => Ok(request),
        }
    }
}

fn services(builder: Server, secret: Secret) -> Router {
    let mut builder = builder;
    builder
        .add_service(PolicyServiceServer::with_interceptor(Recorded::default(), secret.clone()))
        .add_service(HistoryServiceServer::with_interceptor(Recorded::default(), secret.clone()))
        .add_service(ExplainServiceServer::with_interceptor(Recorded::default(), secret.clone()))
        .add_service(StatusServiceServer::with_interceptor(Recorded::default(), secret.clone()))
        .add_service(CounterServiceServer::with_interceptor(Recorded::default(), secret.clone()))
        .add_service(FlowServiceServer::with_interceptor(Recorded::default(), secret.clone()))
        .add_service(CaptureServiceServer::with_interceptor(Recorded::default(), secret))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

impl Mock {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = runtime();
        let path = folder.path().join("s");
        let server = format!("unix:{}", path.display());
        let listener = runtime.block_on(async { UnixListener::bind(path).unwrap() });
        let services = services(Server::builder(), Secret(None));
        runtime.spawn(services.serve_with_incoming(UnixListenerStream::new(listener)));
        Self { folder, server, runtime: Mutex::new(Some(runtime)) }
    }

    /// One on TCP with TLS, to which each call must bring a token.
    pub(crate) fn start_tls(tls: ServerTlsConfig, secret: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = runtime();
        let listener = runtime.block_on(async { TcpListener::bind("127.0.0.1:0").await.unwrap() });
        let server = format!("https://{}", listener.local_addr().unwrap());
        let services = services(Server::builder().tls_config(tls).unwrap(), Secret(Some(secret)));
        runtime.spawn(services.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { folder, server, runtime: Mutex::new(Some(runtime)) }
    }

    /// Ends the server at once, and all its connections.
    pub(crate) fn leave(&self) {
        self.runtime.lock().unwrap().take().unwrap().shutdown_background();
    }

    /// The address.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// A folder for files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(arguments).env("SLUICE_SERVER", &self.server).current_dir(self.folder.path());
        command.env_remove("NO_COLOR");
        command
    }

    /// Runs `sluice` in the folder of the socket.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Writes a file beside the socket.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }
}

fn in_force() -> v1::PolicySet {
    let spec: PolicySetSpec = parse_policy_spec("in_force.toml", IN_FORCE).unwrap().value.0;
    v1::PolicySet::try_from(&spec).unwrap()
}

fn changed(name: &str) -> v1::ChangeResponse {
    let field = v1::FieldChange { field: "tag".into(), before: "1".into(), after: "2".into() };
    let change = v1::Change {
        kind: v1::ObjectKind::Policy.into(),
        name: name.into(),
        r#type: v1::ChangeType::Changed.into(),
        fields: vec![field],
    };
    v1::ChangeResponse {
        applied: true,
        generation: 8,
        diff: Some(v1::Diff { changes: vec![change] }),
        apply_us: 12_345,
        ..v1::ChangeResponse::default()
    }
}

fn refused() -> v1::ChangeResponse {
    let finding = v1::Finding {
        severity: v1::Severity::Error.into(),
        field: "destinations[0].port".into(),
        reason: "no port \"tool7\"".into(),
        suggestion: "did you mean \"tool0\"?".into(),
    };
    v1::ChangeResponse { generation: 7, findings: vec![finding], ..v1::ChangeResponse::default() }
}

/// What changes of one thing come to, by its name or comment.
fn change(name: &str, expected: Option<u64>) -> Answer<v1::ChangeResponse> {
    match (name, expected) {
        (_, Some(expected)) if expected != 7 => Err(Status::aborted("generation 7 is in force")),
        ("forbidden", _) => Err(Status::permission_denied("the role viewer may not")),
        ("refused", _) => Ok(Response::new(refused())),
        ("nothing", _) => Err(Status::not_found("no policy \"nothing\"")),
        (name, _) => Ok(Response::new(changed(name))),
    }
}

fn account(rx: u64) -> v1::Account {
    v1::Account {
        rx_packets: rx,
        replicas: 10,
        tx_packets: rx - 90,
        drops: 100,
        held: 0,
        lost_before_rx: 3,
        balanced: true,
    }
}

fn status() -> v1::Status {
    v1::Status {
        version: "0.1.0".into(),
        commit: "abc1234".into(),
        host: "tap1".into(),
        started_at_ns: NOW - 3_661 * SECOND,
        time_ns: NOW,
        state: v1::State::Exception.into(),
        state_since_ns: NOW - 61 * SECOND,
        exceptions: vec![v1::Exception {
            code: "port_down".into(),
            subject: HOSTILE.into(),
            text: "the link is down; look at the cable".into(),
            since_ns: NOW - 61 * SECOND,
        }],
        generation: 7,
        generation_applied_at_ns: NOW - 600 * SECOND,
        policy_revision: 1,
        policies: 2,
        destinations: 1,
        ports: 2,
        ports_up: 1,
        workers: 2,
        account: Some(account(1_000)),
        cpu_millicores: 1_980,
        cpu_limit_millicores: 2_000,
        memory_bytes: 3 << 29,
        memory_limit_bytes: 4 << 30,
        ovs: Some(v1::OvsStatus {
            database: "unix:/var/run/openvswitch/db.sock".into(),
            since_ns: NOW - 61 * SECOND,
            error: "the database closed the connection".into(),
            changed_at_ns: NOW - 600 * SECOND,
            vms: 3,
            ports: 7,
            silent_names: vec!["vm:web-9".into(), format!("port:{HOSTILE}")],
            applied: 4,
            connects: 1,
            updates: 5,
            ..v1::OvsStatus::default()
        }),
    }
}

fn port_counters(turn: u64) -> v1::PortCounters {
    v1::PortCounters {
        port: "tap0".into(),
        rx_packets: 1_000 + 250_000 * turn,
        rx_bytes: 64_000 + 125_000_000 * turn,
        tx_packets: 5,
        lost_before_rx: 3,
        device: [("rx_missed_errors".into(), 3), ("rx_q0_errors".into(), 0)].into(),
        ..v1::PortCounters::default()
    }
}

fn worker_counters(turn: u64) -> v1::WorkerCounters {
    let stage = v1::StageCounters { stage: "parse".into(), packets: 1_000, batches: 40, cycles: 25_000 };
    v1::WorkerCounters {
        worker: "worker0".into(),
        rx_packets: 1_000 + 250_000 * turn,
        tx_packets: 910 + 200_000 * turn,
        drops: BTreeMap::from([("no_policy".to_owned(), 100 + 50_000 * turn)]),
        idle_polls: 77,
        stages: vec![stage],
        delay_ns: Some(v1::Histogram { samples: 10, p50: 1_200, p99: 15_600, ..v1::Histogram::default() }),
        ..v1::WorkerCounters::default()
    }
}

/// Counters that grow in each turn, a second apart.
fn counters(turn: u64) -> v1::Counters {
    let drops = BTreeMap::from([("no_policy".to_owned(), 90 + 50_000 * turn), ("tx_full".to_owned(), 10)]);
    let totals = v1::TotalCounters {
        account: Some(account(1_000 + 250_000 * turn)),
        rx_bytes: 64_000 + 125_000_000 * turn,
        tx_bytes: 60_000 + 100_000_000 * turn,
        drops: drops.clone(),
        truncated: 4,
        flow: Some(v1::FlowCounters { flows: 5_000, capacity: 1_048_576, ..v1::FlowCounters::default() }),
        ..v1::TotalCounters::default()
    };
    let policy = |name: &str, factor: u64| v1::PolicyCounters {
        policy: name.into(),
        matched_packets: 10 + factor * turn,
        matched_bytes: 640 + factor * 500 * turn,
        sent_packets: 10 + factor * turn,
        drops: BTreeMap::from([("tx_full".to_owned(), 10)]),
    };
    let destination = v1::DestinationCounters {
        destination: "ids".into(),
        packets: 910 + 200_000 * turn,
        bytes: 60_000 + 100_000_000 * turn,
        truncated: 4,
        ..v1::DestinationCounters::default()
    };
    v1::Counters {
        time_ns: NOW + i64::try_from(turn).unwrap() * SECOND,
        since_ns: NOW - 3_661 * SECOND,
        generation: 7,
        totals: Some(totals),
        ports: vec![port_counters(turn)],
        workers: vec![worker_counters(turn)],
        policies: vec![policy("dns", 10), policy("web", 190_000), policy(HOSTILE, 0)],
        destinations: vec![destination],
        ..v1::Counters::default()
    }
}

#[tonic::async_trait]
impl PolicyService for Recorded {
    async fn get_policy_set(&self, _: Request<v1::GetPolicySetRequest>) -> Answer<v1::GetPolicySetResponse> {
        Ok(Response::new(v1::GetPolicySetResponse { set: Some(in_force()), generation: 7 }))
    }

    async fn apply_policy_set(
        &self,
        request: Request<v1::ApplyPolicySetRequest>,
    ) -> Answer<v1::ChangeResponse> {
        let request = request.into_inner();
        change(&request.comment, request.expected_generation)
    }

    type DryRunStream = Streamed<v1::DryRunResponse>;

    async fn dry_run(&self, request: Request<v1::DryRunRequest>) -> Answer<Self::DryRunStream> {
        use v1::dry_run_response::Step;
        let change = changed("web");
        let plan =
            v1::DryRunPlan { valid: true, diff: change.diff, generation: 7, ..v1::DryRunPlan::default() };
        let mut steps = vec![Step::Plan(plan)];
        let live_ms = request.into_inner().live_ms;
        if live_ms > 0 {
            steps.push(Step::Counts(v1::LiveCounts {
                elapsed_ms: live_ms.into(),
                packets: 500,
                unmatched_packets: 20,
                policies: vec![v1::LivePolicy { name: "web".into(), packets: 480, bytes: 48_000 }],
                destinations: vec![v1::LiveDestination { name: "ids".into(), copies: 480, bytes: 40_000 }],
                last: true,
                sampling: 1,
                ..v1::LiveCounts::default()
            }));
        }
        stream(steps.into_iter().map(|step| v1::DryRunResponse { step: Some(step) }).collect())
    }

    async fn list_policies(&self, request: Request<v1::ListRequest>) -> Answer<v1::ListPoliciesResponse> {
        // Two pages of one policy each.
        let set = in_force();
        let page = usize::from(!request.into_inner().page_token.is_empty());
        Ok(Response::new(v1::ListPoliciesResponse {
            policies: vec![set.policies[page].clone()],
            next_page_token: if page == 0 { "more".into() } else { String::new() },
            generation: 7,
        }))
    }

    async fn get_policy(&self, request: Request<v1::GetRequest>) -> Answer<v1::Policy> {
        let name = request.into_inner().name;
        let found = in_force().policies.into_iter().find(|policy| policy.name == name);
        found.map(Response::new).ok_or_else(|| Status::not_found(format!("no policy {name:?}\u{9b}31m")))
    }

    async fn put_policy(&self, request: Request<v1::PutPolicyRequest>) -> Answer<v1::ChangeResponse> {
        let request = request.into_inner();
        change(&request.policy.unwrap().name, request.expected_generation)
    }

    async fn delete_policy(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::ChangeResponse> {
        let request = request.into_inner();
        change(&request.name, request.expected_generation)
    }

    async fn list_groups(&self, _: Request<v1::ListRequest>) -> Answer<v1::ListGroupsResponse> {
        let groups = in_force().groups;
        Ok(Response::new(v1::ListGroupsResponse { groups, generation: 7, ..Default::default() }))
    }

    async fn get_group(&self, _: Request<v1::GetRequest>) -> Answer<v1::Group> {
        Ok(Response::new(in_force().groups.remove(0)))
    }

    async fn put_group(&self, request: Request<v1::PutGroupRequest>) -> Answer<v1::ChangeResponse> {
        change(&request.into_inner().group.unwrap().name, None)
    }

    async fn delete_group(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::ChangeResponse> {
        change(&request.into_inner().name, None)
    }

    async fn list_destinations(&self, _: Request<v1::ListRequest>) -> Answer<v1::ListDestinationsResponse> {
        let destinations = in_force().destinations;
        Ok(Response::new(v1::ListDestinationsResponse { destinations, generation: 7, ..Default::default() }))
    }

    async fn get_destination(&self, _: Request<v1::GetRequest>) -> Answer<v1::Destination> {
        Ok(Response::new(in_force().destinations.remove(0)))
    }

    async fn put_destination(
        &self,
        request: Request<v1::PutDestinationRequest>,
    ) -> Answer<v1::ChangeResponse> {
        change(&request.into_inner().destination.unwrap().name, None)
    }

    async fn delete_destination(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::ChangeResponse> {
        change(&request.into_inner().name, None)
    }
}

fn generation(number: u64) -> v1::Generation {
    let number_ns = i64::try_from(number).unwrap() * SECOND;
    v1::Generation {
        generation: number,
        applied_at_ns: NOW + number_ns,
        applied_by: "root".into(),
        comment: if number == 7 { HOSTILE.into() } else { "watch DNS".into() },
        origin: if number == 7 { v1::Origin::Rollback } else { v1::Origin::Apply }.into(),
        rolled_back_to: (number == 7).then_some(5),
        policies: 2,
        groups: 1,
        destinations: 1,
        in_force: number == 7,
    }
}

#[tonic::async_trait]
impl HistoryService for Recorded {
    async fn list_generations(
        &self,
        _: Request<v1::ListGenerationsRequest>,
    ) -> Answer<v1::ListGenerationsResponse> {
        Ok(Response::new(v1::ListGenerationsResponse { generations: vec![generation(7), generation(6)] }))
    }

    async fn get_generation(
        &self,
        request: Request<v1::GetGenerationRequest>,
    ) -> Answer<v1::GetGenerationResponse> {
        let number = request.into_inner().generation;
        let diff = changed("web").diff;
        Ok(Response::new(v1::GetGenerationResponse { generation: Some(generation(number)), set: None, diff }))
    }

    async fn diff_generations(&self, _: Request<v1::DiffGenerationsRequest>) -> Answer<v1::Diff> {
        Err(Status::unimplemented(""))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Answer<v1::ChangeResponse> {
        let request = request.into_inner();
        match request.generation {
            Some(1) => Err(Status::not_found("generation 1 is not kept any more")),
            _ => change("web", request.expected_generation),
        }
    }
}

#[tonic::async_trait]
impl ExplainService for Recorded {
    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        use v1::explain_request::Packet;
        let packet = request.into_inner().packet;
        let Some(Packet::Description(description)) = packet else {
            return match packet {
                Some(Packet::Captured(captured)) => Err(Status::invalid_argument(format!(
                    "packet {} of {} bytes cannot be read",
                    captured.packet,
                    captured.file.len()
                ))),
                _ => Err(Status::not_found("no such flow")),
            };
        };
        let headers = v1::ParsedHeaders {
            view: "outer".into(),
            src: description.src,
            dst: description.dst,
            protocol: Some(6),
            src_port: description.src_port,
            dst_port: description.dst_port,
            tcp_flags: vec!["syn".into()],
            ethertype: 0x0800,
            vlan: description.vlan,
            ..v1::ParsedHeaders::default()
        };
        let explanation = |policy: &str, egress, mismatches: &[(&str, &str, &str)]| v1::PolicyExplanation {
            policy: policy.into(),
            matches: mismatches.is_empty(),
            enabled: true,
            egress,
            mismatches: mismatches
                .iter()
                .map(|(field, wanted, found)| v1::Mismatch {
                    field: (*field).into(),
                    wanted: (*wanted).into(),
                    found: (*found).into(),
                })
                .collect(),
            ..v1::PolicyExplanation::default()
        };
        let copy = v1::CopyExplanation {
            destination: "ids".into(),
            tag: 7,
            egress: true,
            policies: vec!["web".into()],
            length: 60,
            port: "tool0".into(),
            next_hop: "192.0.2.1".into(),
            dropped_as: "next_hop_unresolved".into(),
            ..v1::CopyExplanation::default()
        };
        Ok(Response::new(v1::ExplainResponse {
            headers: vec![headers],
            outcome: v1::Outcome::Copied.into(),
            policies: vec![
                explanation("web", true, &[]),
                explanation("dns", false, &[("peer.ports", "53", "80"), ("protocol", "udp", "tcp")]),
            ],
            copies: vec![copy],
            generation: Some(7),
            ..v1::ExplainResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl StatusService for Recorded {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::Status> {
        Ok(Response::new(status()))
    }

    type WatchStatusStream = Streamed<v1::Status>;

    async fn watch_status(&self, _: Request<v1::WatchStatusRequest>) -> Answer<Self::WatchStatusStream> {
        let samples = IntervalStream::new(tokio::time::interval(Duration::from_millis(100)));
        Ok(Response::new(Box::pin(samples.map(|_| Ok(status())))))
    }

    async fn list_guests(&self, _: Request<v1::ListGuestsRequest>) -> Answer<v1::ListGuestsResponse> {
        let vnet = |number: u32, name: &str, vm: &str| v1::GuestInterface {
            interface: name.into(),
            port: name.into(),
            bridge: "br-int".into(),
            ofport: Some(number),
            iface_id: format!("f{number}"),
            vms: vec![vm.into()],
            macs: vec![format!("52:54:00:00:00:0{number}")],
            active: true,
            used_as: vec![format!("vm:{vm}")],
            ..v1::GuestInterface::default()
        };
        let bond = v1::GuestInterface { port: "bond0".into(), ofport: None, ..vnet(2, "eth1", HOSTILE) };
        let lost =
            v1::GuestInterface { error: "could not open network device".into(), ..vnet(3, "vnet2", "db") };
        let interfaces = vec![bond, vnet(1, "vnet0", "web-1"), lost];
        Ok(Response::new(v1::ListGuestsResponse { ovs: status().ovs, interfaces }))
    }

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Answer<v1::ListPortsResponse> {
        let tap = v1::PortStatus {
            name: "tap0".into(),
            spec: "af_packet:eth0".into(),
            captures: true,
            up: true,
            mtu: 1_500,
            speed_mbps: 10_000,
            counters: Some(port_counters(0)),
            ..v1::PortStatus::default()
        };
        let neighbor =
            v1::Neighbor { address: "192.0.2.1".into(), mac: String::new(), state: "resolving".into() };
        let tool = v1::PortStatus {
            name: "tool0".into(),
            spec: "0000:01:00.0".into(),
            sends: true,
            addresses: vec!["192.0.2.9/24".into()],
            neighbors: vec![neighbor],
            breaker: Some(v1::Breaker { open: true, opened: 2, rate_mbps: 900, threshold_mbps: 800 }),
            ..v1::PortStatus::default()
        };
        Ok(Response::new(v1::ListPortsResponse { ports: vec![tap, tool] }))
    }

    async fn list_workers(&self, _: Request<v1::ListWorkersRequest>) -> Answer<v1::ListWorkersResponse> {
        let worker = v1::WorkerStatus {
            name: "worker0".into(),
            lcore: 3,
            generation: 7,
            counters: Some(worker_counters(0)),
            ..v1::WorkerStatus::default()
        };
        Ok(Response::new(v1::ListWorkersResponse { workers: vec![worker] }))
    }

    async fn start(&self, _: Request<v1::StartRequest>) -> Answer<v1::Status> {
        Ok(Response::new(v1::Status { state: v1::State::Running.into(), ..status() }))
    }

    async fn stop(&self, _: Request<v1::StopRequest>) -> Answer<v1::Status> {
        Ok(Response::new(v1::Status { state: v1::State::Stopped.into(), ..status() }))
    }
}

#[tonic::async_trait]
impl CounterService for Recorded {
    async fn get_counters(&self, request: Request<v1::GetCountersRequest>) -> Answer<v1::Counters> {
        let v1::GetCountersRequest { parts, names, .. } = request.into_inner();
        let mut found = counters(self.asked.fetch_add(1, Ordering::Relaxed));
        if !names.is_empty() {
            found.ports.retain(|row| names.contains(&row.port));
            found.workers.retain(|row| names.contains(&row.worker));
            found.policies.retain(|row| names.contains(&row.policy));
            found.destinations.retain(|row| names.contains(&row.destination));
        }
        if !parts.is_empty() && !parts.contains(&v1::CounterPart::Totals.into()) {
            found.totals = None;
        }
        Ok(Response::new(found))
    }

    type WatchCountersStream = Streamed<v1::Counters>;

    async fn watch_counters(
        &self,
        request: Request<v1::WatchCountersRequest>,
    ) -> Answer<Self::WatchCountersStream> {
        let interval = Duration::from_millis(request.into_inner().interval_ms.into());
        // Time goes as fast as the samples of a second say.
        let mut turn = 0;
        let samples = IntervalStream::new(tokio::time::interval(interval));
        Ok(Response::new(Box::pin(samples.map(move |_| {
            turn += 1;
            Ok(counters(turn - 1))
        }))))
    }
}

#[tonic::async_trait]
impl FlowService for Recorded {
    async fn list_flows(&self, request: Request<v1::ListFlowsRequest>) -> Answer<v1::ListFlowsResponse> {
        let request = request.into_inner();
        if request.filter.unwrap_or_default().protocol == ["bad"] {
            return Err(Status::invalid_argument("protocol[0]: \"bad\" is no protocol"));
        }
        let flow = v1::Flow {
            client: "10.0.0.1".into(),
            server: "2001:db8::1".into(),
            client_port: Some(40_000),
            server_port: Some(443),
            protocol: 6,
            vlan: 7,
            tunnel: "vxlan".into(),
            tunnel_id: Some(99),
            port: "tap0".into(),
            first_ns: NOW - 5 * SECOND,
            latest_ns: NOW,
            client_packets: 3,
            client_bytes: 200,
            server_packets: 4,
            server_bytes: 5_000,
            tcp_state: "established".into(),
            ..v1::Flow::default()
        };
        // More than a pipe holds, if so many are asked for.
        let flows = vec![flow; usize::try_from(request.limit / 100).unwrap()];
        Ok(Response::new(v1::ListFlowsResponse { flows, matched: 20, examined: 500 }))
    }

    async fn list_top_talkers(
        &self,
        _: Request<v1::ListTopTalkersRequest>,
    ) -> Answer<v1::ListTopTalkersResponse> {
        let talker = v1::Talker {
            client: "10.0.0.1".into(),
            server: "10.0.0.2".into(),
            client_packets: 5,
            client_bytes: 500,
            server_packets: 6,
            server_bytes: 6_000,
            new_flows: 1,
            ..v1::Talker::default()
        };
        let total = Some(v1::Talker { client: String::new(), server: String::new(), ..talker.clone() });
        Ok(Response::new(v1::ListTopTalkersResponse {
            talkers: vec![talker],
            total,
            begin_s: 0,
            seconds: 10,
        }))
    }
}

#[tonic::async_trait]
impl CaptureService for Recorded {
    type CaptureStream = Streamed<v1::CaptureChunk>;

    async fn capture(&self, request: Request<v1::CaptureRequest>) -> Answer<Self::CaptureStream> {
        let request = request.into_inner();
        if request.snaplen == 13 {
            return Err(Status::invalid_argument("snaplen: 13 is out of range"));
        }
        let chunk = |bytes: &[u8], end| v1::CaptureChunk {
            pcapng: bytes.to_vec(),
            packets: 2,
            lost: 1,
            end: v1::CaptureEnd::into(end),
        };
        let begin = chunk(b"section", v1::CaptureEnd::Unspecified);
        match request.snaplen {
            // Nothing comes after the beginning.
            14 => {
                let begin = tokio_stream::iter([Ok(begin)]);
                Ok(Response::new(Box::pin(begin.chain(tokio_stream::pending()))))
            }
            // The daemon goes without a word.
            15 => stream(vec![begin]),
            // More than any pipe holds, for ever.
            16 => {
                let much = chunk(&vec![0; 1 << 20], v1::CaptureEnd::Unspecified);
                Ok(Response::new(Box::pin(tokio_stream::iter(std::iter::repeat_with(move || {
                    Ok(much.clone())
                })))))
            }
            _ => stream(vec![begin, chunk(b"packets", v1::CaptureEnd::Packets)]),
        }
    }
}
