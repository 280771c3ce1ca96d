//! How is the appliance?

use std::time::{Duration, UNIX_EPOCH};

use sluice_api::v1;
use sluice_api::v1::status_service_server::StatusService;
use sluice_engine::runtime::{PortReport, ThreadReport};
use sluice_model::{DecapMode, MacAddr, Polling, PortConfig, PortSpec};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::counter::{account, port, worker};
use super::guest::{guests, ovs_status};
use super::{Answers, Service, caller, moments};
use crate::life::{Exception, LifeError, State};
use crate::policies::{Policies, now_ns};

/// The shortest and the longest time between two messages of a stream of states, and that of who names none.
const WATCH: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_secs(3_600), Duration::from_secs(10)];
/// Characters of a comment, at most.
const LONGEST_COMMENT: usize = 1_000;

impl Service {
    pub(super) fn started_at_ns(&self) -> i64 {
        let since = self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    fn status(&self) -> v1::Status {
        let engine = self.policies.engine();
        let current = self.policies.current();
        let ports: Vec<_> = engine.ports().into_iter().filter(|port| !port.removed).collect();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let life = self.policies.life().report();
        v1::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("SLUICE_COMMIT").to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            started_at_ns: self.started_at_ns(),
            time_ns: now_ns(),
            state: state(life.state).into(),
            state_since_ns: life.state_since_ns,
            exceptions: life.exceptions.into_iter().map(exception).collect(),
            generation: current.generation.0,
            generation_applied_at_ns: current.applied_at_ns,
            policy_revision: sluice_api::POLICY_REVISION,
            policies: count(current.policies.policies().len()),
            destinations: count(current.policies.destinations().len()),
            ports: count(ports.len()),
            ports_up: count(ports.iter().filter(|port| port.up).count()),
            workers: count(engine.worker_stats().len()),
            account: Some(account(&engine.account())),
            cpu_millicores: life.cpu_millicores,
            cpu_limit_millicores: life.cpu_limit_millicores,
            memory_bytes: life.memory_bytes,
            memory_limit_bytes: life.memory_limit_bytes,
            ovs: self.policies.book().map(|book| ovs_status(&book.report())),
        }
    }

    fn port(
        setup: &PortConfig,
        report: &PortReport,
        (mac, mtu): (MacAddr, u16),
        [rx_queues, tx_queues]: [u16; 2],
        device_counters: Vec<(String, u64)>,
    ) -> v1::PortStatus {
        let device = match &setup.spec {
            PortSpec::AfPacket(interface) => format!("/sys/class/net/{interface}"),
            PortSpec::Pci(device) => {
                format!("/sys/bus/pci/devices/{}", device.split(',').next().unwrap_or_default())
            }
            PortSpec::Devargs(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_) => String::new(),
        };
        // The kernel has -1 for what it does not know.
        let number = |file: &str| {
            let text = std::fs::read_to_string(format!("{device}/{file}")).ok()?;
            text.trim().parse::<u32>().ok()
        };
        v1::PortStatus {
            speed_mbps: number("speed").unwrap_or(0),
            numa_node: number("device/numa_node").or_else(|| number("numa_node")),
            name: report.name.clone(),
            spec: setup.spec.to_string(),
            captures: setup.role.captures(),
            sends: setup.role.sends(),
            up: report.up,
            mac: mac.to_string(),
            mtu: mtu.into(),
            addresses: setup.addresses.iter().map(ToString::to_string).collect(),
            breaker: report.breaker.map(|breaker| v1::Breaker {
                open: breaker.open,
                opened: breaker.opened,
                rate_mbps: breaker.rate_bps / 1_000_000,
                ..v1::Breaker::default()
            }),
            tap: setup.tap.into(),
            decap: match setup.decap.mode {
                DecapMode::Off => "off",
                DecapMode::Strip => "strip",
                DecapMode::LookThrough => "look_through",
            }
            .to_owned(),
            rx_timestamps: if setup.role.captures() { report.rx_timestamps.name() } else { "" }.to_owned(),
            rx_queues: rx_queues.into(),
            tx_queues: tx_queues.into(),
            counters: Some(port((report, device_counters))),
            neighbors: Vec::new(),
        }
    }
}

/// All ports. Waits while a generation is put in force, whose next hops are told.
fn ports(policies: &Policies) -> Vec<v1::PortStatus> {
    let engine = policies.engine();
    let (boot, reports, hops) = (policies.boot(), engine.ports(), engine.next_hops());
    let mut ports: Vec<_> = boot
        .ports
        .iter()
        .zip(&reports)
        .zip(engine.links())
        .zip(engine.port_queues())
        .zip(engine.device_counters())
        .map(|((((setup, report), link), queues), device)| {
            let is_there = !setup.is_removed() && !report.removed;
            is_there.then(|| Service::port(setup, report, link, queues, device))
        })
        .collect();
    for hop in hops {
        let Some(Some(port)) = ports.get_mut(hop.port.index()) else { continue };
        port.neighbors.push(v1::Neighbor {
            address: hop.address.to_string(),
            mac: hop.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            state: if hop.mac.is_some() { "resolved" } else { "resolving" }.to_owned(),
        });
    }
    if let Some(settings) = &boot.breaker {
        for breaker in ports.iter_mut().flatten().filter_map(|port| port.breaker.as_mut()) {
            breaker.threshold_mbps = settings.threshold_mbps.into();
        }
    }
    ports.into_iter().flatten().collect()
}

#[tonic::async_trait]
impl StatusService for Service {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::Status>, Status> {
        Ok(Response::new(self.status()))
    }

    type WatchStatusStream = Answers<v1::Status>;

    async fn watch_status(
        &self,
        request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let changes = WatchStream::from_changes(self.policies.life().subscribe()).map(|_| ());
        let moments = moments(request.get_ref().interval_ms, WATCH).merge(changes);
        Ok(Response::new(self.repeat(moments, Self::status)))
    }

    async fn list_ports(
        &self,
        _request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsResponse>, Status> {
        self.blocking(|policies| Ok(v1::ListPortsResponse { ports: ports(policies) }))
            .await
            .map(Response::new)
    }

    async fn list_guests(
        &self,
        _request: Request<v1::ListGuestsRequest>,
    ) -> Result<Response<v1::ListGuestsResponse>, Status> {
        self.blocking(|policies| Ok(guests(policies))).await.map(Response::new)
    }

    async fn list_workers(
        &self,
        _request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let generation = self.policies.current().generation.0;
        let status = |thread: &ThreadReport| v1::WorkerStatus {
            counters: Some(worker(thread)),
            name: thread.name.clone(),
            lcore: thread.lcore.into(),
            numa_node: Some(thread.numa_node.into()),
            generation,
            polling: match self.policies.boot().worker.polling {
                Polling::Adaptive => "adaptive",
                Polling::Always => "always",
            }
            .to_owned(),
        };
        let workers = self.policies.engine().threads().iter().map(status).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<v1::Status>, Status> {
        let (by, comment) = switched(&request, &request.get_ref().comment)?;
        self.blocking(move |policies| policies.life().start(&by, &comment).map_err(|error| unkept(&error)))
            .await?;
        Ok(Response::new(self.status()))
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::Status>, Status> {
        let (by, comment) = switched(&request, &request.get_ref().comment)?;
        self.blocking(move |policies| policies.life().stop(&by, &comment).map_err(|error| unkept(&error)))
            .await?;
        Ok(Response::new(self.status()))
    }
}

/// Who uses the switch, and why.
fn switched<T>(request: &Request<T>, comment: &str) -> Result<(String, String), Status> {
    if comment.chars().count() > LONGEST_COMMENT {
        return Err(Status::invalid_argument(format!("comment: longer than {LONGEST_COMMENT} characters")));
    }
    Ok((caller(request), comment.to_owned()))
}

fn unkept(error: &LifeError) -> Status {
    Status::failed_precondition(error.to_string())
}

fn state(state: State) -> v1::State {
    match state {
        State::SelfCheck => v1::State::SelfCheck,
        State::Running => v1::State::Running,
        State::Protection => v1::State::Protection,
        State::Exception => v1::State::Exception,
        State::Stopped => v1::State::Stopped,
    }
}

fn exception(exception: Exception) -> v1::Exception {
    let Exception { code, subject, text, since_ns } = exception;
    v1::Exception { code: code.name().to_owned(), subject, text, since_ns }
}
