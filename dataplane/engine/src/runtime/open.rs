//! Opening all ports: with how many queues, and does the self-test let them spread packets over the workers?

use dpdk::{Eal, Port};
use sluice_model::{BootConfig, DistributorMode, Polling, PortConfig};

use super::StartError;
use super::cores::node_of;
use super::plan::MemoryPlan;
use super::pools::Pools;
use super::ports::{self, OpenPort, Queues};
use super::share::Spreading;
use super::spread::{self, RssRefusal, SpreadNeed};

/// All ports, open.
#[derive(Debug)]
pub(super) struct OpenPorts {
    pub(super) ports: Vec<OpenPort>,
    /// How packets get to the workers.
    pub(super) spreading: Spreading,
    /// Mbufs that drivers took and will not give back.
    pub(super) mbufs_kept: u32,
}

impl OpenPorts {
    /// Opens the ports of `boot`.
    pub(super) fn open(
        eal: &Eal,
        boot: &BootConfig,
        pools: &Pools,
        plan: &MemoryPlan,
        need: &SpreadNeed,
    ) -> Result<Self, StartError> {
        let mut probed = Vec::with_capacity(boot.ports.len());
        for (index, setup) in boot.ports.iter().enumerate() {
            probed.push(ports::probe(eal, index, setup)?);
        }
        let mut spreading = wanted(boot, &probed, need);
        let mut ports = Vec::with_capacity(boot.ports.len());
        let mut mbufs_kept = 0;
        for (index, (setup, device)) in boot.ports.iter().zip(probed).enumerate() {
            let in_use = pools.packets_in_use();
            let spreads = spreading == Spreading::Rss
                && setup.role.captures()
                && device
                    .as_ref()
                    .is_some_and(|port| spread::before(port.driver_name(), port.info(), need).is_ok());
            let queues = Queues {
                rx: if spreads { need.workers } else { 1 },
                workers: need.workers,
                by: need.by,
                interrupts: boot.worker.polling == Polling::Adaptive,
                pool: pools.packets(node_of(setup)).ok_or(StartError::NoPool)?,
                plan,
            };
            let port = OpenPort::open(index, setup, device, &queues)?;
            if port.keeps_mbufs() {
                mbufs_kept += pools.packets_in_use() - in_use;
            }
            ports.push(port);
        }
        if spreading == Spreading::Rss
            && let Err((name, refusal)) = self_test(&ports, need)
        {
            if boot.worker.distributor == DistributorMode::Never {
                tracing::warn!(port = name, %refusal, "packets that belong together may have different workers");
            } else {
                spreading = Spreading::Distributors(format!("port \"{name}\": {refusal}"));
            }
        }
        Ok(Self { ports, spreading, mbufs_kept })
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
