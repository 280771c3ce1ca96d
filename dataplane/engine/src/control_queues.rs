//! What passes between a worker and those who steer it: frames, interfaces, policies, trials, captures, pages of flows.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use dpdk::Mbuf;
use sluice_af_packet::AfPacketRx;
use sluice_model::PortId;

use crate::deployment::Deployment;
use crate::flow_read::PageQueues;
use crate::port::TxDriver;
use crate::shadow::Shadow;
use crate::tap::{TAPS, Tap};

/// A frame for the control thread: ARP, ND or echo for one of our own addresses.
#[derive(Debug)]
pub struct ControlFrame {
    /// The port it came in by, or leaves by.
    pub port: PortId,
    /// The frame.
    pub mbuf: Mbuf,
}

/// New queues of a kernel interface that went away and came back.
#[derive(Debug)]
pub struct Replacement {
    /// Which port.
    pub port: PortId,
    /// The receive side, if this worker has it.
    pub source: Option<Box<AfPacketRx>>,
    /// The transmit side.
    pub exit: Option<TxDriver>,
}

/// The queues between a worker and the control thread.
#[derive(Clone, Debug)]
pub struct ControlQueues {
    /// Worker to control.
    pub received: Arc<ArrayQueue<ControlFrame>>,
    /// Control to worker: frames to send.
    pub to_send: Arc<ArrayQueue<ControlFrame>>,
    /// Control to worker: interfaces that came back.
    pub replace: Arc<ArrayQueue<Replacement>>,
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
            replace: Arc::new(ArrayQueue::new(16)),
            deploy: Arc::new(ArrayQueue::new(1)),
            retired: Arc::new(ArrayQueue::new(1)),
            shadow: Arc::new(ArrayQueue::new(1)),
            shadow_back: Arc::new(ArrayQueue::new(1)),
            pages: PageQueues::default(),
            taps: Arc::new(ArrayQueue::new(TAPS)),
        }
    }
}
