//! What passes between a worker and those who steer it: frames, ports, policies, trials, captures, pages of flows.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use dpdk::Mbuf;
use sluice_core::decap::End;
use sluice_core::flow::TapPort;
use sluice_model::{DecapSettings, PortId};

use crate::deployment::Deployment;
use crate::flow_read::PageQueues;
use crate::port::{Source, TxDriver, TxPort};
use crate::shadow::Shadow;
use crate::tap::{TAPS, Tap};

/// Ports that can be added while the engine runs, beside those that are there at the start.
pub(crate) const SPARE_PORTS: usize = 16;

/// A frame for the control thread: ARP, ND or echo for one of our own addresses.
#[derive(Debug)]
pub struct ControlFrame {
    /// The port it came in by, or leaves by.
    pub port: PortId,
    /// The frame.
    pub mbuf: Mbuf,
}

/// What a thread has of a port from now on. The thread puts in its place what it had before and gives it back: nothing
/// is freed where packets move.
#[derive(Debug)]
pub struct PortChange {
    /// Which port.
    pub port: PortId,
    /// What is done with its packets; `None` = what was.
    pub rules: Option<PortRules>,
    /// Its receive queues at this thread.
    sources: Vec<Source>,
    /// The way out of this worker; `None` = it is closed, if there is one.
    exit: Option<TxPort>,
    /// What was closed.
    closed: Option<TxDriver>,
}

impl PortChange {
    /// A change to these receive queues and this way out, for a thread that has up to `before` receive queues of the port.
    #[must_use]
    pub fn new(port: PortId, mut sources: Vec<Source>, exit: Option<TxPort>, before: usize) -> Self {
        sources.reserve(before);
        Self { port, rules: None, sources, exit, closed: None }
    }

    /// Whether a worker can send by the port then.
    #[must_use]
    pub fn has_exit(&self) -> bool {
        self.exit.is_some()
    }

    /// The same, with what is done with the port's packets.
    #[must_use]
    pub fn with_rules(self, rules: PortRules) -> Self {
        Self { rules: Some(rules), ..self }
    }

    /// Changes the receive queues of a thread, which stay in order; says whether there was anything to change.
    pub(crate) fn exchange_sources(&mut self, own: &mut Vec<Source>) -> bool {
        let come = self.sources.len();
        let mut place = 0;
        while let Some(source) = own.get(place) {
            if source.port == self.port {
                self.sources.push(own.remove(place));
            } else {
                place += 1;
            }
        }
        own.extend(self.sources.drain(..come));
        come > 0 || !self.sources.is_empty()
    }

    /// Changes the way out of a worker. Its place among the others never changes: copies are sent by it.
    pub(crate) fn exchange_exit(&mut self, own: &mut Vec<TxPort>) {
        match (own.iter_mut().find(|own| own.id == self.port), &mut self.exit) {
            (Some(own), Some(exit)) => std::mem::swap(own, exit),
            (Some(own), None) => self.closed = Some(own.close()),
            (None, _) => own.extend(self.exit.take()),
        }
    }
}

/// What is done with the packets of a port.
#[derive(Clone, Debug)]
pub struct PortRules {
    /// What is done with tunnels and VLAN tags.
    pub decap: DecapSettings,
    /// Where tunnels end that come off only at own addresses.
    pub ends: Box<[End]>,
    /// The tap of packets without a mark.
    pub tap: TapPort,
}

/// The queues between a worker and the control thread.
#[derive(Clone, Debug)]
pub struct ControlQueues {
    /// Worker to control.
    pub received: Arc<ArrayQueue<ControlFrame>>,
    /// Control to worker: frames to send.
    pub to_send: Arc<ArrayQueue<ControlFrame>>,
    /// Control to worker: ports that come, go, or came back.
    pub ports: Arc<ArrayQueue<Box<PortChange>>>,
    /// Worker to control: what it had before, which says that it has changed.
    pub ports_back: Arc<ArrayQueue<Box<PortChange>>>,
    /// Control to worker: the next generation of policies. One at a time; what was not taken yet can be taken back.
    pub deploy: Arc<ArrayQueue<Box<Deployment>>>,
    /// Worker to control: the generation that it has left, which says that the next one is in force there.
    pub retired: Arc<ArrayQueue<Box<Deployment>>>,
    /// Control to worker: policies to try from now on; `None` = no more.
    pub shadow: Arc<ArrayQueue<Option<Box<Shadow>>>>,
    /// Worker to control: those that it tried before.
    pub shadow_back: Arc<ArrayQueue<Box<Shadow>>>,
    /// Pages for flows, to the worker and back.
    pub pages: PageQueues,
    /// Control to worker: captures that begin.
    pub taps: Arc<ArrayQueue<Box<Tap>>>,
}

impl ControlQueues {
    /// Queues of `frames` entries each.
    #[must_use]
    pub fn new(frames: usize) -> Self {
        Self {
            received: Arc::new(ArrayQueue::new(frames)),
            to_send: Arc::new(ArrayQueue::new(frames)),
            ports: Arc::new(ArrayQueue::new(16)),
            ports_back: Arc::new(ArrayQueue::new(16)),
            deploy: Arc::new(ArrayQueue::new(1)),
            retired: Arc::new(ArrayQueue::new(1)),
            shadow: Arc::new(ArrayQueue::new(1)),
            shadow_back: Arc::new(ArrayQueue::new(1)),
            pages: PageQueues::default(),
            taps: Arc::new(ArrayQueue::new(TAPS)),
        }
    }
}
