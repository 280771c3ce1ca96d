//! What happened on the port so far, and is its link up? The control side; workers only add to counters.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::AfPacketError;
use crate::link::{LinkState, LinkWatch};
use crate::sys;

/// A counter with one writer (a worker) and any number of readers (control threads).
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Add; only ever called by the one writer.
    #[inline]
    pub(crate) fn add(&self, value: u64) {
        if value != 0 {
            self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Written by the receiving worker, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RxCounters {
    pub(crate) packets: Counter,
    pub(crate) bytes: Counter,
    pub(crate) cut: Counter,
    pub(crate) no_mbuf: Counter,
    pub(crate) checksums_finished: Counter,
    pub(crate) checksums_unfinished: Counter,
    pub(crate) super_frames: Counter,
    pub(crate) kernel_refused: Counter,
    pub(crate) malformed_blocks: Counter,
}

/// Written by the transmitting worker, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct TxCounters {
    pub(crate) packets: Counter,
    pub(crate) bytes: Counter,
    pub(crate) refused_too_long: Counter,
    pub(crate) refused_invalid: Counter,
    pub(crate) full: Counter,
    pub(crate) down: Counter,
    pub(crate) errors: Counter,
}

/// The kernel's counters since the socket was made.
#[derive(Debug, Default, Clone, Copy)]
struct KernelCounters {
    packets: u64,
    drops: u64,
    freezes: u64,
}

/// What the three handles of a port share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) socket: OwnedFd,
    pub(crate) rx: RxCounters,
    pub(crate) tx: TxCounters,
}

/// Control handle of a port: counters and link state. `Send + Sync`; for control threads, not for workers.
///
/// The socket (and with it the kernel's part of the ring) lives until this handle and the queues are dropped.
///
/// # An interface that went away
/// A packet socket follows its interface by index: after [`LinkState::Down`] traffic goes on by itself,
/// after [`LinkState::Gone`] never. When [`AfPacketPort::link`] says [`LinkState::Returned`], the control
/// thread calls [`open`](crate::open) with the same configuration and sends the new queues to the worker in
/// a message; the worker puts them in the place of the old ones at a batch boundary and sends those back to
/// be dropped. The old port's last [`AfPacketStats`] are kept as a base for the new one's, which start at 0.
#[derive(Debug)]
pub struct AfPacketPort {
    shared: Arc<Shared>,
    /// Sockets that only send, for further workers.
    senders: Vec<Arc<Shared>>,
    interface: String,
    memory_bytes: usize,
    link: Mutex<LinkWatch>,
    kernel: Mutex<KernelCounters>,
}

/// Counters of a port, cumulative since it was opened. Fields are read one by one: a running port's are not
/// from the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AfPacketStats {
    /// Frames that reached the socket, those dropped for a full ring included (`PACKET_STATISTICS`).
    pub kernel_packets: u64,
    /// Frames that the kernel dropped: ring full, or an offload type it could not describe.
    pub kernel_drops: u64,
    /// Times the ring was full and the kernel stopped filling it (`tp_freeze_q_cnt`).
    pub kernel_freezes: u64,
    /// Frames delivered.
    pub rx_packets: u64,
    /// Captured bytes delivered, re-inserted tags included.
    pub rx_bytes: u64,
    /// Delivered frames that hold less than was on the wire.
    pub rx_cut: u64,
    /// Bursts that ended early because no mbuf was free. The frame stays in the ring: nothing is lost until
    /// the kernel says so in `kernel_drops`.
    pub rx_refused_no_mbuf: u64,
    /// Unfinished checksums completed.
    pub checksums_finished: u64,
    /// Frames delivered with an unfinished checksum.
    pub checksums_unfinished: u64,
    /// Delivered super-frames (segmentation offload).
    pub rx_super_frames: u64,
    /// Slots that the kernel took and then gave up; it counted each in `kernel_drops` too.
    pub rx_kernel_refused: u64,
    /// Blocks whose contents contradicted themselves and were given up half read.
    pub rx_malformed_blocks: u64,
    /// Frames handed to the kernel.
    pub tx_packets: u64,
    /// Bytes of these.
    pub tx_bytes: u64,
    /// Frames refused one by one because they exceed the MTU.
    pub tx_refused_too_long: u64,
    /// Frames refused one by one for another fault of theirs (no whole Ethernet header, too many segments).
    pub tx_refused_invalid: u64,
    /// Bursts that stopped at a full socket or queue.
    pub tx_full: u64,
    /// Bursts that stopped because the interface is down or gone.
    pub tx_down: u64,
    /// Bursts that stopped at any other error.
    pub tx_errors: u64,
}

impl AfPacketPort {
    pub(crate) fn new(shared: Arc<Shared>, interface: &str, memory_bytes: usize, link: LinkWatch) -> Self {
        Self {
            shared,
            senders: Vec::new(),
            interface: interface.to_owned(),
            memory_bytes,
            link: Mutex::new(link),
            kernel: Mutex::default(),
        }
    }

    /// Lets [`AfPacketPort::stats`] count what `other` sends, too: a port of the same interface that does not receive,
    /// opened for the transmit queue of one more worker.
    pub fn count_with(&mut self, other: Self) {
        self.senders.push(other.shared);
        self.senders.extend(other.senders);
    }

    /// Ends reception: the kernel offers no more frames to the ring and counts none, those in it may still be taken.
    /// The transmit side works on.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn end_receive(&self) -> Result<(), AfPacketError> {
        // A filter that keeps 0 bytes refuses the frame before it is counted (packet_rcv: drop_n_restore).
        sys::attach_snaplen(&self.shared.socket, 0)
            .map_err(AfPacketError::system(&self.interface, "SO_ATTACH_FILTER"))
    }

    /// All counters. Reads the kernel's too (one system call).
    pub fn stats(&self) -> AfPacketStats {
        let kernel = self.kernel_counters();
        let rx = &self.shared.rx;
        let sum = |counter: fn(&TxCounters) -> &Counter| {
            let senders = self.senders.iter().chain([&self.shared]);
            senders.map(|sender| counter(&sender.tx).get()).fold(0, u64::wrapping_add)
        };
        AfPacketStats {
            kernel_packets: kernel.packets,
            kernel_drops: kernel.drops,
            kernel_freezes: kernel.freezes,
            rx_packets: rx.packets.get(),
            rx_bytes: rx.bytes.get(),
            rx_cut: rx.cut.get(),
            rx_refused_no_mbuf: rx.no_mbuf.get(),
            checksums_finished: rx.checksums_finished.get(),
            checksums_unfinished: rx.checksums_unfinished.get(),
            rx_super_frames: rx.super_frames.get(),
            rx_kernel_refused: rx.kernel_refused.get(),
            rx_malformed_blocks: rx.malformed_blocks.get(),
            tx_packets: sum(|tx| &tx.packets),
            tx_bytes: sum(|tx| &tx.bytes),
            tx_refused_too_long: sum(|tx| &tx.refused_too_long),
            tx_refused_invalid: sum(|tx| &tx.refused_invalid),
            tx_full: sum(|tx| &tx.full),
            tx_down: sum(|tx| &tx.down),
            tx_errors: sum(|tx| &tx.errors),
        }
    }

    /// Link state now, from the netlink events since the last call. Never blocks; for a control loop, some
    /// times a second.
    ///
    /// # Errors
    /// [`AfPacketError::System`] when the netlink socket fails.
    pub fn link(&self) -> Result<LinkState, AfPacketError> {
        self.watch().poll().map_err(AfPacketError::system(&self.interface, "reading link events"))
    }

    /// Name the port was opened with.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Index of the interface that the port is bound to.
    pub fn ifindex(&self) -> i32 {
        self.watch().info().ifindex
    }

    /// Layer 3 MTU in bytes, as of the last [`AfPacketPort::link`].
    pub fn mtu(&self) -> u32 {
        self.watch().info().mtu
    }

    /// MAC address, as of the last [`AfPacketPort::link`].
    pub fn mac(&self) -> [u8; 6] {
        self.watch().info().mac.unwrap_or_default()
    }

    /// Memory pinned by the port: the ring and the transmit descriptors.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    fn watch(&self) -> MutexGuard<'_, LinkWatch> {
        // A panic while it was held cannot leave the watch in a state worse than stale.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kernel_counters(&self) -> KernelCounters {
        let mut total = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        // The kernel counts in 32 bits and resets at each read, under the lock so that no reader's share is
        // lost. The call fails only for a closed socket.
        let since: io::Result<_> = sys::packet_statistics(&self.shared.socket);
        if let Ok(since) = since {
            total.packets += u64::from(since.tp_packets);
            total.drops += u64::from(since.tp_drops);
            total.freezes += u64::from(since.tp_freeze_q_cnt);
        }
        *total
    }
}
