//! How packets come from and go to a port: one thread, one queue, one call per burst.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::burst::Burst;
use crate::port::PortInner;

/// A receive queue. Moves into one thread; the port stays open as long as it lives.
///
/// ```
/// fn send<T: Send>() {}
/// send::<dpdk::RxQueue>();
/// send::<dpdk::TxQueue>();
/// ```
/// ```compile_fail,E0277
/// fn sync<T: Sync>() {}
/// sync::<dpdk::RxQueue>();
/// ```
/// ```compile_fail,E0599
/// fn twice(queue: dpdk::RxQueue) -> (dpdk::RxQueue, dpdk::RxQueue) {
///     (queue.clone(), queue)
/// }
/// ```
pub struct RxQueue {
    pub(crate) port: Arc<PortInner>,
    pub(crate) queue: u16,
    not_sync: PhantomData<Cell<()>>,
}

/// A transmit queue. Moves into one thread; the port stays open as long as it lives.
///
/// ```compile_fail,E0277
/// fn sync<T: Sync>() {}
/// sync::<dpdk::TxQueue>();
/// ```
/// ```compile_fail,E0599
/// fn twice(queue: dpdk::TxQueue) -> (dpdk::TxQueue, dpdk::TxQueue) {
///     (queue.clone(), queue)
/// }
/// ```
pub struct TxQueue {
    port: Arc<PortInner>,
    queue: u16,
    not_sync: PhantomData<Cell<()>>,
}

impl RxQueue {
    /// Made once for each queue of a started port.
    pub(crate) fn new(port: Arc<PortInner>, queue: u16) -> Self {
        Self { port, queue, not_sync: PhantomData }
    }

    /// Appends received packets to the burst, as far as it has room; returns how many.
    #[inline]
    pub fn rx_burst(&mut self, burst: &mut Burst) -> usize {
        self.rx_burst_up_to(burst, crate::BURST_CAPACITY)
    }

    /// As [`rx_burst`](Self::rx_burst), but at most `max` packets.
    #[inline]
    pub fn rx_burst_up_to(&mut self, burst: &mut Burst, max: usize) -> usize {
        let (port, queue) = (self.port.id, self.queue);
        let max = u16::try_from(max).unwrap_or(u16::MAX);
        burst.append_with(|slots, n| {
            let n = n.min(max);
            // SAFETY: the port is started and stays so while we hold it; the queue is polled by this thread
            // only (&mut self, not Sync, not Clone); `slots` has room for n pointers.
            usize::from(unsafe { dpdk_sys::sluice_rx_burst(port, queue, slots, n) })
        })
    }

    /// DPDK's number of the port.
    #[must_use]
    pub fn port_id(&self) -> u16 {
        self.port.id
    }

    /// The number of the queue.
    #[must_use]
    pub fn queue_id(&self) -> u16 {
        self.queue
    }
}

impl TxQueue {
    /// Made once for each queue of a started port.
    pub(crate) fn new(port: Arc<PortInner>, queue: u16) -> Self {
        Self { port, queue, not_sync: PhantomData }
    }

    /// Gives the packets to the driver; returns how many it accepted. Exactly those leave the burst; the rest
    /// stays in it, in order.
    #[inline]
    pub fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        let (port, queue) = (self.port.id, self.queue);
        burst.consume_prefix(|slots, n| {
            #[expect(clippy::cast_possible_truncation, reason = "at most BURST_CAPACITY")]
            let n = n as u16;
            // SAFETY: the port is started and stays so while we hold it; the queue is used by this thread only
            // (&mut self, not Sync, not Clone); the n mbufs are ours, and those accepted become the driver's.
            usize::from(unsafe { dpdk_sys::sluice_tx_burst(port, queue, slots, n) })
        })
    }

    /// DPDK's number of the port.
    #[must_use]
    pub fn port_id(&self) -> u16 {
        self.port.id
    }

    /// The number of the queue.
    #[must_use]
    pub fn queue_id(&self) -> u16 {
        self.queue
    }
}

impl fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxQueue")
            .field("port", &self.port)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxQueue")
            .field("port", &self.port)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
