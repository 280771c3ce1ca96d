//! How is the appliance?

use std::time::UNIX_EPOCH;

use sluice_api::v1;
use sluice_api::v1::status_service_server::StatusService;
use sluice_engine::runtime::{PortReport, ThreadReport};
use sluice_model::{DecapMode, MacAddr, Polling, PortConfig};
use tonic::{Request, Response, Status};

use super::counter::{account, port, worker};
use super::{Answers, Service};
use crate::policies::now_ns;

impl Service {
    pub(super) fn started_at_ns(&self) -> i64 {
        let since = self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    fn status(&self) -> v1::Status {
        let engine = self.policies.engine();
        let current = self.policies.current();
        let ports = engine.ports();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let usage = super::process::usage();
        v1::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            started_at_ns: self.started_at_ns(),
            time_ns: now_ns(),
            state: v1::State::Running.into(),
            state_since_ns: self.started_at_ns(),
            generation: current.generation.0,
            generation_applied_at_ns: current.applied_at_ns,
            policy_revision: sluice_api::POLICY_REVISION,
            policies: count(current.policies.policies().len()),
            destinations: count(current.policies.destinations().len()),
            ports: count(ports.len()),
            ports_up: count(ports.iter().filter(|port| port.up).count()),
            workers: count(engine.worker_stats().len()),
            account: Some(account(&engine.account())),
            memory_bytes: usage.memory_bytes,
            ..v1::Status::default()
        }
    }

    fn port(setup: &PortConfig, report: &PortReport, (mac, mtu): (MacAddr, u16)) -> v1::PortStatus {
        v1::PortStatus {
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
            counters: Some(port(report)),
            ..v1::PortStatus::default()
        }
    }
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
        Ok(Response::new(self.repeat(request.get_ref().interval_ms, Self::status)))
    }

    async fn list_ports(
        &self,
        _request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsResponse>, Status> {
        let engine = self.policies.engine();
        let reports = engine.ports();
        let ports = self.policies.boot().ports.iter().zip(&reports).zip(engine.links());
        let ports = ports.map(|((setup, report), &link)| Self::port(setup, report, link)).collect();
        Ok(Response::new(v1::ListPortsResponse { ports }))
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
            numa_node: None,
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

    async fn start(&self, _request: Request<v1::StartRequest>) -> Result<Response<v1::Status>, Status> {
        Err(Status::unimplemented("the states of the appliance are not there yet"))
    }

    async fn stop(&self, _request: Request<v1::StopRequest>) -> Result<Response<v1::Status>, Status> {
        Err(Status::unimplemented("the states of the appliance are not there yet"))
    }
}
