//! How do packets come in from a port?

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use dpdk::{Burst, Mbuf, Mempool, RingConsumer, RxQueue, RxWaiter, Tsc};
use sluice_af_packet::AfPacketRx;
use sluice_core::neighbor::OwnFilter;
use sluice_model::{DecapSettings, MacAddr, PortId};

use super::nic_clock::NicClock;
use super::template::TemplateSource;
use crate::batch::{BATCH, Batch, RxInfo};
use crate::clock::Clock;
use crate::feed_watch::FeedWatch;

/// Frames on their way from the reader of a capture file to its worker.
pub type Feed = ArrayQueue<(Mbuf, RxInfo)>;

/// The receive side of a driver.
#[derive(Debug)]
pub enum SourceKind {
    /// A queue of a DPDK port.
    Dpdk(RxQueue),
    /// A kernel interface, and the pool its frames are copied into.
    AfPacket(Box<AfPacketRx>, Mempool),
    /// Frames that another thread reads from a capture file.
    Queue(Arc<Feed>),
    /// What a distributor hands over, with the notes that it wrote.
    Ring(RingConsumer),
    /// Frames made from templates in memory, for measuring.
    Template(TemplateSource),
}

/// One receive queue of a worker, and what the worker needs to know of its port.
#[derive(Debug)]
pub struct Source {
    /// The port.
    pub port: PortId,
    /// Whether its packets go through the policies; otherwise only what is for ourselves is taken.
    pub capture: bool,
    /// Recognises frames for the port's own addresses; `None` = it has none.
    pub own_filter: Option<OwnFilter>,
    /// What is done with its tunnels: a distributor goes by the headers that are left.
    pub decap: DecapSettings,
    /// Of an output port that is watched for traffic of others: where that is counted, and the port's own address.
    pub feed: Option<(Arc<FeedWatch>, MacAddr)>,
    /// Bytes kept of each frame.
    pub snaplen: u32,
    /// Of a queue whose NIC stamps what it receives.
    pub nic_clock: Option<Arc<NicClock>>,
    /// Packets taken at once, at most [`BATCH`].
    pub burst_pkts: usize,
    kind: SourceKind,
    burst: Burst,
    /// The latest time given to a packet that was stamped before it came here.
    last_ns: u64,
}

/// How far a kernel time stamp may lie behind our clock before the system clock must have been set back, nanoseconds.
const STEP_BACK_NS: u64 = 1_000_000_000;

impl Source {
    /// A source over a driver, keeping whole frames and taking full batches.
    #[must_use]
    pub fn new(port: PortId, capture: bool, own_filter: Option<OwnFilter>, kind: SourceKind) -> Self {
        let burst = Burst::new();
        Self {
            port,
            capture,
            own_filter,
            decap: DecapSettings::default(),
            feed: None,
            nic_clock: None,
            snaplen: u32::MAX,
            burst_pkts: BATCH,
            kind,
            burst,
            last_ns: 0,
        }
    }

    /// The queue of a DPDK port, if it is one.
    #[must_use]
    pub fn into_rx_queue(self) -> Option<RxQueue> {
        match self.kind {
            SourceKind::Dpdk(queue) => Some(queue),
            _ => None,
        }
    }

    /// Lets the source end the sleep of its core: `true` if it does.
    pub(crate) fn add_to(&self, waiter: Option<&mut RxWaiter>) -> bool {
        match &self.kind {
            SourceKind::Dpdk(queue) => waiter.is_some_and(|waiter| waiter.add(queue).is_ok()),
            SourceKind::AfPacket(..) | SourceKind::Ring(_) => true,
            SourceKind::Queue(_) | SourceKind::Template(_) => false,
        }
    }

    /// What can be read when packets are waiting, for sources outside DPDK.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            SourceKind::AfPacket(rx, _) => Some(rx.as_fd()),
            _ => None,
        }
    }

    /// Whether packets are known to be waiting.
    pub(crate) fn is_pending(&mut self) -> bool {
        match &mut self.kind {
            SourceKind::AfPacket(rx, _) => rx.is_pending(),
            SourceKind::Ring(ring) => !ring.is_empty(),
            SourceKind::Queue(queue) => !queue.is_empty(),
            SourceKind::Dpdk(_) | SourceKind::Template(_) => false,
        }
    }

    /// Whether packets that are not taken now are lost by nobody: those of a capture file.
    #[inline]
    #[must_use]
    pub fn can_wait(&self) -> bool {
        matches!(self.kind, SourceKind::Queue(_))
    }

    /// Whether it takes what a distributor received.
    #[inline]
    #[must_use]
    pub fn is_ring(&self) -> bool {
        matches!(self.kind, SourceKind::Ring(_))
    }

    /// Whether a distributor left packets that were not taken yet.
    #[must_use]
    pub fn holds_packets(&self) -> bool {
        matches!(&self.kind, SourceKind::Ring(ring) if !ring.is_empty())
    }

    /// Receives up to a batch at `now`; returns how many packets came.
    #[inline]
    pub fn receive(&mut self, batch: &mut Batch, clock: &Clock, now: Tsc) -> usize {
        let port = self.port;
        let now_ns = clock.now_ns(now);
        match &mut self.kind {
            SourceKind::Dpdk(queue) => {
                queue.rx_burst_up_to(&mut self.burst, self.burst_pkts);
            }
            SourceKind::Ring(ring) => {
                ring.dequeue_burst(&mut self.burst);
                batch.push_noted(&mut self.burst);
                return batch.len;
            }
            SourceKind::Template(source) => source.rx_burst(&mut self.burst),
            SourceKind::AfPacket(rx, pool) => {
                let last_ns = &mut self.last_ns;
                rx.rx_frames(self.burst_pkts.min(BATCH - batch.len), |bytes, meta| {
                    // Without an mbuf the frame waits in the ring; the kernel counts what it then has to drop.
                    let Some(mbuf) = pool.copy_from(bytes) else { return false };
                    // The kernel's clock may step; ours does not, and no frame is older than the one before it.
                    let stepped = meta.timestamp_ns + STEP_BACK_NS < now_ns;
                    *last_ns = if stepped { now_ns } else { meta.timestamp_ns }.max(*last_ns);
                    let info =
                        RxInfo { wire_len: meta.wire_len, timestamp_ns: *last_ns, gso_size: meta.gso_size };
                    batch.push(mbuf, info, port).is_ok()
                });
                return batch.len;
            }
            SourceKind::Queue(queue) => {
                while batch.len < self.burst_pkts {
                    let Some((mut mbuf, info)) = queue.pop() else { break };
                    mbuf.truncate(self.snaplen);
                    drop(batch.push(mbuf, info, port));
                }
                return batch.len;
            }
        }
        let first = batch.len;
        batch.push_burst(&mut self.burst, now_ns, port, self.snaplen);
        if let Some(nic) = &self.nic_clock {
            let received = first..batch.len;
            let packets = batch.info[received.clone()].iter_mut().zip(batch.mbufs[received].iter().flatten());
            nic.stamp(packets, clock, &mut self.last_ns);
        }
        if let SourceKind::Template(source) = &self.kind {
            source.set_wire_lens(&mut batch.info[first..batch.len]);
        }
        batch.len
    }
}
