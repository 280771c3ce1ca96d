//! Which ports come and go while the engine runs?
//!
//! A port that comes is opened, then every thread begins with its queues, then the policies in force are put in force
//! anew with it. A port that goes takes the same steps backwards. Whatever fails, things are as they were.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use sluice_model::{BootConfig, DedupMode, Generation, PolicySet, PortConfig, PortId, PortSpec};

use super::control::ControlPort;
use super::deploy::{ControlMessage, DeployError, Deployed, Deployer, InForce};
use super::open::Opener;
use super::plan::MemoryPlan;
use super::port_state::PortState;
use super::ports::OpenPort;
use super::routes::PortFacts;
use super::share::{self, Spreading};
use super::tables::{limit_fits, table_bytes};
use super::{StartError, finished_checksums};
use crate::control_queues::PortChange;
use crate::machine::Machine;

/// How long threads may take for a change of a port: each looks every 64 polls, and sleeps for milliseconds at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for threads to take what a port has received by then: kernel interfaces hand over a block after 1 ms.
const LAST_PACKETS: Duration = Duration::from_millis(20);

/// Why a port did not come, or go. All is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum PortChangeError {
    /// What the engine was started with has no place for it.
    #[error("port \"{name}\": {reason}: restart the daemon for it")]
    NeedsRestart {
        /// The port.
        name: String,
        /// What it wants.
        reason: String,
    },
    /// It cannot be opened, or is too much for the machine.
    #[error(transparent)]
    Open(#[from] StartError),
    /// The policies in force cannot be put in force with it, or without it.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// A thread did not take it in time.
    #[error("port \"{name}\": a thread did not take the change within {} s", PATIENCE.as_secs())]
    Threads {
        /// The port.
        name: String,
    },
}

/// The ports as they are seen from outside the workers, by number.
#[derive(Debug)]
pub(super) struct PortStates {
    states: RwLock<Vec<Arc<PortState>>>,
    /// Packets that ports lost before they reached a worker whose numbers others have by now.
    lost: Mutex<u64>,
}

impl PortStates {
    pub(super) fn new(ports: &[OpenPort]) -> Self {
        Self { states: RwLock::new(ports.iter().map(OpenPort::state).collect()), lost: Mutex::default() }
    }

    /// All of them, those that were removed among them.
    pub(super) fn all(&self) -> Vec<Arc<PortState>> {
        self.states.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of them.
    pub(super) fn get(&self, port: PortId) -> Option<Arc<PortState>> {
        self.states.read().unwrap_or_else(PoisonError::into_inner).get(port.index()).cloned()
    }

    /// Packets lost before they reached a worker, by all ports that there ever were.
    pub(super) fn lost_before_rx(&self) -> u64 {
        // In this order, so that none is counted twice.
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        let lost = *self.lost();
        lost + states.iter().map(|port| port.lost_before_rx()).sum::<u64>()
    }

    /// Puts a port in its place; gives what was there, which has been closed. Under the same name it goes on counting.
    fn put(&self, port: PortId, state: Arc<PortState>) -> Option<Arc<PortState>> {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = states.get_mut(port.index()) else {
            states.push(state);
            return None;
        };
        if own.name() == state.name() {
            state.count_on(own);
        } else {
            *self.lost() += own.lost_before_rx();
        }
        Some(std::mem::replace(own, state))
    }

    /// Puts back what was there before `failed`, which keeps the place if there was nothing. What it lost is not forgotten.
    fn put_back(&self, port: PortId, before: Option<Arc<PortState>>, failed: &PortState) {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        if let (Some(own), Some(before)) = (states.get_mut(port.index()), before) {
            let mut lost = self.lost();
            *lost = (*lost + failed.lost_before_rx()).saturating_sub(before.lost_before_rx());
            *own = before;
        }
    }

    fn lost(&self) -> MutexGuard<'_, u64> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deployer {
    /// Adds a port with this number; `policies` are those in force.
    pub(super) fn add_port(
        &mut self,
        id: PortId,
        setup: &PortConfig,
        policies: &PolicySet,
        states: &PortStates,
        in_force: &Mutex<InForce>,
    ) -> Result<Deployed, PortChangeError> {
        let mut boot = self.site.boot.clone();
        boot.set_port(id, setup.clone());
        self.can_add(setup, &boot)?;
        let captures = boot.ports.iter().take(id.index()).filter(|port| port.role.captures()).count();
        let mut port = self.opener.add(id, setup)?;
        let facts = PortFacts::of(&port);
        let state = port.state();
        let changes = share::changes(&mut port, &self.opener, self.threads, captures);
        let sends: Vec<bool> = changes.iter().map(PortChange::has_exit).collect();
        let before_state = states.put(id, Arc::clone(&state));
        let (reply, taken) = channel();
        let port = Box::new(ControlPort::new(port, captures));
        let added = self.control.send(ControlMessage::AddPort { port, changes, reply });
        added.map_err(|_| DeployError::Stopped)?;

        // From now on the workers have a way out for it, whatever becomes of the rest.
        let mut site = (*self.site).clone();
        for (exits, _) in site.exits.iter_mut().zip(sends).filter(|(_, sends)| *sends) {
            if !exits.contains(&id) {
                exits.push(id);
            }
        }
        self.site = Arc::new(site.clone());
        site.boot = boot;
        put(&mut site.ports, id, facts);
        put(&mut site.breakers, id, state.breaker());
        put(&mut site.feeds, id, state.feed());
        let before = std::mem::replace(&mut self.site, Arc::new(site));
        let taken = taken.recv_timeout(PATIENCE);
        let deployed = match taken {
            Ok(()) => self.deploy(policies, generation(in_force), in_force).map_err(PortChangeError::Deploy),
            Err(_) => Err(PortChangeError::Threads { name: setup.name.clone() }),
        };
        if deployed.is_err() {
            self.site = before;
            self.close_port(id, setup, &state);
            states.put_back(id, before_state, &state);
        }
        deployed
    }

    /// Removes the port with this number; `policies` are those in force.
    pub(super) fn remove_port(
        &mut self,
        id: PortId,
        policies: &PolicySet,
        states: &PortStates,
        in_force: &Mutex<InForce>,
    ) -> Result<Deployed, PortChangeError> {
        let mut site = (*self.site).clone();
        let (Some(setup), Some(state)) = (site.boot.ports.get_mut(id.index()), states.get(id)) else {
            let (name, reason) = (format!("number {}", id.0), "there is none".to_owned());
            return Err(PortChangeError::NeedsRestart { name, reason });
        };
        if matches!(setup.spec, PortSpec::Pcap(_)) {
            let (name, reason) = (setup.name.clone(), "a capture file is read to its end".to_owned());
            return Err(PortChangeError::NeedsRestart { name, reason });
        }
        let removed = setup.removed();
        setup.clone_from(&removed);
        put(&mut site.breakers, id, None);
        put(&mut site.feeds, id, None);
        let before = std::mem::replace(&mut self.site, Arc::new(site));
        let deployed = match self.deploy(policies, generation(in_force), in_force) {
            Ok(deployed) => deployed,
            Err(error) => {
                self.site = before;
                return Err(error.into());
            }
        };
        state.end_receive();
        std::thread::sleep(LAST_PACKETS);
        if !self.close_port(id, &removed, &state) {
            tracing::warn!(
                port = removed.name,
                "a thread still has the port: it is closed when all have let go"
            );
        }
        Ok(deployed)
    }

    /// Has every thread let go of a port, whose device is closed then; says whether that came in time.
    fn close_port(&self, id: PortId, setup: &PortConfig, state: &Arc<PortState>) -> bool {
        let (reply, closed) = channel();
        state.set_removed();
        let (setup, state) = (Box::new(setup.clone()), Arc::clone(state));
        let _stopped = self.control.send(ControlMessage::RemovePort { port: id, setup, state, reply });
        closed.recv_timeout(PATIENCE).is_ok()
    }

    /// Whether there is a place for a port in what runs; `boot` has it.
    fn can_add(&self, setup: &PortConfig, boot: &BootConfig) -> Result<(), PortChangeError> {
        let restart =
            |reason: String| Err(PortChangeError::NeedsRestart { name: setup.name.clone(), reason });
        let opener = &*self.opener;
        let Opener { spreading, plan, has_pci, .. } = opener;
        match &setup.spec {
            PortSpec::Pcap(_) => return restart("a capture file is read from the start".to_owned()),
            PortSpec::Vhost(_) => return restart("a switch is waited for at the start only".to_owned()),
            PortSpec::Devargs(args) if args.starts_with("net_virtio_user") && args.contains("server=1") => {
                return restart("its driver waits for its peer".to_owned());
            }
            PortSpec::Devargs(args) if args.starts_with("net_af_xdp") => {
                return restart("its driver keeps packet buffers for good".to_owned());
            }
            PortSpec::Pci(_) if !has_pci => {
                return restart("DPDK was started without PCI devices".to_owned());
            }
            PortSpec::Devargs(_) | PortSpec::Pci(_) | PortSpec::AfPacket(_) => {}
        }
        if setup.role.captures() && *spreading == Spreading::Rss {
            return restart(
                "the ports spread packets by RSS, and whether they agree is tested at the start".to_owned(),
            );
        }
        if !setup.decap.is_off() && !self.site.decapsulates {
            return restart("no other port takes tunnels or VLAN tags off".to_owned());
        }
        let relies = boot.dedup.mode != DedupMode::Off && boot.dedup.key.l4_checksum.is_none();
        if relies && opener.finished_checksums && !finished_checksums(boot) {
            return restart(
                "its frames may have unfinished checksums, which deduplication compares, as no port had them at the \
                 start; write `l4_checksum = false` in [dedup.key]"
                    .to_owned(),
            );
        }
        let machine = Machine::detect().limited(&boot.protection);
        let needed = MemoryPlan::new(boot, &opener.cores, &machine).needed;
        // Fewer than needed may be enough: whoever says so in the boot config is believed, for what there was then.
        if needed > plan.mbufs.max(plan.needed) {
            let least = needed.saturating_add(needed / 4);
            return restart(format!(
                "with it {needed} packet buffers can be held at once, and there are {}; set `mbufs = {least}` in [memory]",
                plan.mbufs
            ));
        }
        let flow = boot.flow.enabled.then_some(&boot.flow);
        let tables = table_bytes(flow, &boot.dedup, opener.cores.workers.len(), &machine);
        Ok(limit_fits(boot, plan, tables)?)
    }
}

fn generation(in_force: &Mutex<InForce>) -> Generation {
    in_force.lock().unwrap_or_else(PoisonError::into_inner).generation
}

/// Puts what belongs to a port in its place.
fn put<T>(all: &mut Vec<T>, port: PortId, new: T) {
    match all.get_mut(port.index()) {
        Some(own) => *own = new,
        None => all.push(new),
    }
}
