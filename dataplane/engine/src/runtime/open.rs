//! Opening ports, all at the start and one later: with how many queues, and does the self-test let them spread packets
//! over the workers?

use std::sync::Arc;

use dpdk::{Eal, Port};
use sluice_model::{BootConfig, DistributorMode, Polling, PortConfig, PortId, PortSpec};

use super::StartError;
use super::cores::{CorePlan, node_of};
use super::dedup_plan::finished_checksums;
use super::plan::MemoryPlan;
use super::pools::Pools;
use super::port_state::{Device, PortState};
use super::ports::{self, OpenPort, Queues};
use super::share::Spreading;
use super::spread::{self, RssRefusal, SpreadNeed};

/// What ports are opened with.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) eal: Eal,
    pub(super) pools: Arc<Pools>,
    pub(super) plan: MemoryPlan,
    pub(super) need: SpreadNeed,
    /// The cores that threads were made for.
    pub(super) cores: CorePlan,
    /// How packets get to the workers.
    pub(super) spreading: Spreading,
    /// Whether DPDK looks at PCI devices at all.
    pub(super) has_pci: bool,
    /// Whether deduplication was told at the start that L4 checksums can be relied on.
    pub(super) finished_checksums: bool,
    /// Whether receive interrupts are wanted.
    interrupts: bool,
    /// Packets that a thread takes from a port at once.
    pub(super) burst_pkts: usize,
}

/// All ports of a boot config, open.
#[derive(Debug)]
pub(super) struct OpenPorts {
    pub(super) ports: Vec<OpenPort>,
    pub(super) opener: Opener,
    /// Mbufs that drivers took and will not give back.
    pub(super) mbufs_kept: u32,
}

impl OpenPorts {
    /// Opens the ports of `boot`.
    pub(super) fn open(
        eal: &Eal,
        boot: &BootConfig,
        pools: &Arc<Pools>,
        (plan, cores): (MemoryPlan, CorePlan),
        need: SpreadNeed,
        burst_pkts: usize,
    ) -> Result<Self, StartError> {
        let mut probed = Vec::with_capacity(boot.ports.len());
        for (index, setup) in boot.ports.iter().enumerate() {
            probed.push(ports::probe(eal, index, setup)?);
        }
        let mut opener = Opener {
            eal: eal.clone(),
            pools: Arc::clone(pools),
            plan,
            cores,
            spreading: wanted(boot, &probed, &need),
            need,
            has_pci: boot.ports.iter().any(|port| matches!(port.spec, PortSpec::Pci(_))),
            finished_checksums: finished_checksums(boot),
            interrupts: boot.worker.polling == Polling::Adaptive,
            burst_pkts,
        };
        let mut ports = Vec::with_capacity(boot.ports.len());
        let mut mbufs_kept = 0;
        for (index, (setup, device)) in boot.ports.iter().zip(probed).enumerate() {
            let in_use = pools.packets_in_use();
            let port = opener.open(PortId(u16::try_from(index).unwrap_or(u16::MAX)), setup, device)?;
            if port.keeps_mbufs() {
                mbufs_kept += pools.packets_in_use() - in_use;
            }
            ports.push(port);
        }
        if opener.spreading == Spreading::Rss
            && let Err((name, refusal)) = self_test(&ports, &opener.need)
        {
            if boot.worker.distributor == DistributorMode::Never {
                tracing::warn!(port = name, %refusal, "packets that belong together may have different workers");
            } else {
                opener.spreading = Spreading::Distributors(format!("port \"{name}\": {refusal}"));
            }
        }
        Ok(Self { ports, opener, mbufs_kept })
    }
}

impl Opener {
    /// Opens a port; `device` is its device, if it is one of DPDK's.
    pub(super) fn open(
        &self,
        id: PortId,
        setup: &PortConfig,
        device: Option<Port>,
    ) -> Result<OpenPort, StartError> {
        let queues = self.queues(setup, device.as_ref())?;
        OpenPort::open(id, setup, device, &queues)
    }

    /// Opens a port while the engine runs. A device of DPDK's is looked for anew.
    pub(super) fn add(&self, id: PortId, setup: &PortConfig) -> Result<OpenPort, StartError> {
        let device = self.attach(id, setup)?;
        self.open(id, setup, device).inspect_err(|_| self.forget(id, setup))
    }

    /// Opens the device of a port that went away and came back.
    pub(super) fn reopen(
        &self,
        id: PortId,
        setup: &PortConfig,
        state: &Arc<PortState>,
    ) -> Result<(OpenPort, Device), StartError> {
        let device = self.attach(id, setup)?;
        let queues = self.queues(setup, device.as_ref())?;
        OpenPort::reopen(id, setup, state, device, &queues)
    }

    /// Takes a device of DPDK's that is closed off its bus, so that another one may come there.
    pub(super) fn forget(&self, id: PortId, setup: &PortConfig) {
        if let Some(name) = ports::device_name(id.index(), setup)
            && let Err(error) = self.eal.detach(&name)
        {
            tracing::debug!(%error, "a device that is closed is still known");
        }
    }

    /// The device of a port, if it is one of DPDK's, which learns of it here.
    fn attach(&self, id: PortId, setup: &PortConfig) -> Result<Option<Port>, StartError> {
        if ports::device_name(id.index(), setup).is_some() {
            self.eal.attach(&setup.spec.to_string())?;
        }
        ports::probe(&self.eal, id.index(), setup).inspect_err(|_| self.forget(id, setup))
    }

    fn queues(&self, setup: &PortConfig, device: Option<&Port>) -> Result<Queues<'_>, StartError> {
        let can = |port: &Port| spread::before(port.driver_name(), port.info(), &self.need).is_ok();
        let spreads = self.spreading == Spreading::Rss && setup.role.captures() && device.is_some_and(can);
        Ok(Queues {
            rx: if spreads { self.need.workers } else { 1 },
            workers: self.need.workers,
            by: self.need.by,
            interrupts: self.interrupts,
            pool: self.pools.packets(node_of(setup)).ok_or(StartError::NoPool)?,
            plan: &self.plan,
        })
    }
}

/// How packets shall get to the workers, as far as can be said before ports are configured.
fn wanted(boot: &BootConfig, probed: &[Option<Port>], need: &SpreadNeed) -> Spreading {
    let mode = boot.worker.distributor;
    if mode == DistributorMode::Always {
        return Spreading::Distributors("distributor = \"always\"".to_owned());
    }
    if need.workers < 2 {
        return Spreading::Apart;
    }
    let mut captures = boot.ports.iter().zip(probed).filter(|(setup, _)| setup.role.captures());
    if mode == DistributorMode::Never {
        return if captures.any(|(_, device)| device.is_some()) { Spreading::Rss } else { Spreading::Apart };
    }
    let refusal = captures.find_map(|(setup, device)| {
        let refusal = refusal(setup, device.as_ref(), need)?;
        Some(format!("port \"{}\": {refusal}", setup.name))
    });
    refusal.map_or(Spreading::Rss, Spreading::Distributors)
}

fn refusal(setup: &PortConfig, device: Option<&Port>, need: &SpreadNeed) -> Option<RssRefusal> {
    if need.innermost {
        return Some(RssRefusal::Innermost);
    }
    match device {
        Some(port) => spread::before(port.driver_name(), port.info(), need).err(),
        None => Some(RssRefusal::OneQueue(setup.spec.to_string())),
    }
}

/// Tests every capture port, and that all agree; else names one that does not do.
fn self_test(ports: &[OpenPort], need: &SpreadNeed) -> Result<(), (String, RssRefusal)> {
    let mut first: Option<(&str, Vec<u16>)> = None;
    for port in ports.iter().filter(|port| port.setup.role.captures()) {
        let name = port.setup.name.as_str();
        let state = port.rss().unwrap_or_default();
        let queues = spread::test(&state, need).map_err(|refusal| (name.to_owned(), refusal))?;
        match &first {
            Some((other, known)) if *known != queues => {
                return Err((name.to_owned(), RssRefusal::Disagrees((*other).to_owned())));
            }
            Some(_) => {}
            None => first = Some((name, queues)),
        }
    }
    Ok(())
}
