//! What is known of a port from outside the workers: its link, and what it counted, whatever its device is by now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk::{Port, PortStats};
use sluice_af_packet::AfPacketPort;
use sluice_model::{MacAddr, PortConfig, PortSpec};

use super::vhost;
use crate::feed_watch::{FeedReport, FeedWatch};
use crate::output::{BreakerCell, BreakerReport};
use crate::port::{NicClock, NicClockNews};

/// A port as seen from outside the workers.
#[derive(Debug)]
pub struct PortState {
    name: String,
    /// Replaced when the device goes and comes back.
    device: Mutex<Device>,
    /// The kernel's name for it, where it is a kernel interface of our own driver.
    interface: Option<String>,
    /// Its MAC address, and its MTU as it was opened.
    link: (MacAddr, u16),
    /// Receive and transmit queues.
    queues: [u16; 2],
    /// Whether the link is up (control: w, workers and others: r).
    up: Arc<AtomicBool>,
    /// Whether it was removed while the engine ran.
    removed: AtomicBool,
    /// What earlier incarnations of the port counted (control: w, others: r).
    before: Mutex<PortReport>,
    /// Frames of a capture file handed to the worker so far (feeder: w, others: r).
    fed: AtomicU64,
    /// Of an output port that is watched for traffic of others.
    feed: Option<Arc<FeedWatch>>,
    /// Of a port that sends.
    breaker: Option<Arc<BreakerCell>>,
}

/// The control side of a driver.
#[derive(Debug)]
pub(super) enum Device {
    /// With its counters as they were read last: when it is gone it has no more to give; and with its clock, if it stamps
    /// packets.
    Dpdk(Port, PortStats, Option<Arc<NicClock>>),
    AfPacket(AfPacketPort),
    /// A capture file.
    File,
    /// Gone, or closed at the end of the run.
    Closed,
}

/// Whose time received packets have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StampedBy {
    /// The thread that took them from their queue: all of a batch have one time.
    #[default]
    Software,
    /// The kernel, as they came to an interface of its own.
    Kernel,
    /// The NIC, as they came from the wire.
    Hardware,
    /// What wrote the capture file.
    File,
}

impl StampedBy {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Kernel => "kernel",
            Self::Hardware => "hardware",
            Self::File => "file",
        }
    }
}

/// One port at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortReport {
    /// The name in the boot config.
    pub name: String,
    /// Whether the link is up.
    pub up: bool,
    /// Whether it was removed: then nothing changes any more.
    pub removed: bool,
    /// Packets that the device received, as far as it tells.
    pub rx_packets: u64,
    /// Bytes that the device received, without FCS, as far as it tells.
    pub rx_bytes: u64,
    /// Packets that the device sent.
    pub tx_packets: u64,
    /// Bytes that the device sent, without FCS, as far as it tells.
    pub tx_bytes: u64,
    /// Packets lost before they reached a worker.
    pub lost_before_rx: u64,
    /// Packets that the device accepted and then failed to send.
    pub tx_errors: u64,
    /// Frames received shorter than they were on the wire (snap length).
    pub rx_cut: u64,
    /// Super-frames received, which segmentation offloads made.
    pub rx_super_frames: u64,
    /// Checksums completed that the sender had left to its NIC.
    pub checksums_finished: u64,
    /// Whose time the packets that it receives have.
    pub rx_timestamps: StampedBy,
    /// Packets without a believable time stamp of the NIC, where it stamps.
    pub rx_unstamped: u64,
    /// Whether distribution by it is stopped, where there is a breaker.
    pub breaker: Option<BreakerReport>,
    /// Traffic of others, where it is watched for that.
    pub feed: Option<FeedReport>,
}

impl PortState {
    /// A port that was opened: with its MAC address and MTU, and its receive and transmit queues.
    pub(super) fn new(setup: &PortConfig, device: Device, link: (MacAddr, u16), queues: [usize; 2]) -> Self {
        Self {
            name: setup.name.clone(),
            device: Mutex::new(device),
            interface: kernel_interface(&setup.spec),
            link,
            queues: queues.map(|queues| u16::try_from(queues).unwrap_or(u16::MAX)),
            up: Arc::new(AtomicBool::new(true)),
            removed: AtomicBool::new(false),
            before: Mutex::default(),
            fed: AtomicU64::new(0),
            feed: setup.is_watched().then(|| Arc::new(FeedWatch::new(setup.feed_guard))),
            breaker: setup.role.sends().then(Arc::default),
        }
    }

    /// The name in the boot config.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The device at this moment. No packet waits for it.
    pub(super) fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its MAC address, and its MTU as it was opened.
    pub(super) fn link(&self) -> (MacAddr, u16) {
        self.link
    }

    /// What stops distribution by it, if anybody asked for that.
    pub(super) fn breaker(&self) -> Option<Arc<BreakerCell>> {
        self.breaker.clone()
    }

    /// Bytes that left by the device since it started, by whomever; `None` = it does not tell. The kernel counts for an
    /// interface of its own, whatever uses it.
    pub(super) fn sent_bytes(&self, interface: Option<&str>) -> Option<u64> {
        match (&*self.device(), interface) {
            (Device::Closed | Device::File, _) | (Device::AfPacket(_), None) => None,
            (_, Some(interface)) => interface_sent_bytes(interface),
            (Device::Dpdk(port, ..), None) => port.stats().ok().map(|stats| stats.obytes),
        }
    }

    /// What the device counts beyond its report, by the names of its driver; of a kernel interface, those of the kernel.
    /// Counts in the network namespace of this thread. Empty where there is no device, or it does not tell.
    pub(super) fn device_counters(&self) -> Vec<(String, u64)> {
        match (&*self.device(), self.interface.as_deref()) {
            (Device::Closed | Device::File, _) | (Device::AfPacket(_), None) => Vec::new(),
            (Device::Dpdk(port, ..), _) => port.xstats().unwrap_or_default(),
            (Device::AfPacket(_), Some(interface)) => interface_counters(interface)
                .map(|numbers| {
                    let named = INTERFACE_COUNTERS.iter().zip(numbers);
                    named.map(|(name, number)| ((*name).to_owned(), number)).collect()
                })
                .unwrap_or_default(),
        }
    }

    /// Receive and transmit queues; 0 of a capture file.
    pub(super) fn queues(&self) -> [u16; 2] {
        self.queues
    }

    /// Whether the link is up.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// The link state, for workers.
    pub(super) fn up(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.up)
    }

    /// What counts traffic of others, if it is watched for that.
    pub(super) fn feed(&self) -> Option<Arc<FeedWatch>> {
        self.feed.clone()
    }

    /// Notes that it was removed.
    pub(super) fn set_removed(&self) {
        self.removed.store(true, Ordering::Relaxed);
        self.set_up(false);
    }

    /// Notes the link state; says whether it changed.
    pub(super) fn set_up(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::Relaxed) != up
    }

    /// Counts a frame of a capture file.
    pub(super) fn count_fed(&self) {
        self.fed.fetch_add(1, Ordering::Relaxed);
    }

    /// Compares the clock of a NIC that stamps packets with ours.
    pub(super) fn calibrate(&self) {
        let news = match &*self.device() {
            Device::Dpdk(port, _, Some(nic_clock)) => nic_clock.calibrate(port),
            _ => return,
        };
        for news in news {
            match news {
                NicClockNews::Set => tracing::warn!(
                    port = self.name,
                    "the clock of the NIC was set: for up to a second its time stamps were off, or not believed"
                ),
                NicClockNews::Blind => tracing::warn!(
                    port = self.name,
                    "most packets have no believable time stamp of the NIC, so they have the time of their batch: the \
                     driver may stamp by another clock than the one that can be read; write rx_timestamps = \"software\""
                ),
                NicClockNews::Seeing => {
                    tracing::info!(port = self.name, "packets have believable time stamps of the NIC again");
                }
            }
        }
    }

    /// Goes on counting from what an earlier port of its name counted.
    pub(super) fn count_on(&self, before: &Self) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = before.report();
    }

    /// Replaces a device that went away by the one that came back; what the old one counted stays counted.
    pub(super) fn replace(&self, new: Device) {
        let mut device = self.device();
        let report = self.report_of(&mut device);
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = report;
        *device = new;
    }

    /// Packets lost before they reached a worker: the device's and the kernel's drops.
    #[must_use]
    pub fn lost_before_rx(&self) -> u64 {
        self.report().lost_before_rx
    }

    /// Ends reception where the driver can, so that what was received by now is all that is left to do.
    pub(super) fn end_receive(&self) {
        if let Device::AfPacket(port) = &*self.device()
            && let Err(error) = port.end_receive()
        {
            tracing::warn!(port = self.name, %error, "reception goes on until the end");
        }
    }

    /// Closes the device, which gives back the mbufs that it held to receive into. The counts stay. No worker has its
    /// queues any more: what was left in a ring is lost.
    pub(super) fn close(&self) {
        let mut device = self.device();
        let mut report = self.report_of(&mut device);
        if let Device::AfPacket(port) = &*device {
            let stats = port.stats();
            report.lost_before_rx +=
                stats.kernel_packets.saturating_sub(stats.kernel_drops + stats.rx_packets);
        }
        if let Device::Dpdk(port, ..) = &*device {
            vhost::settle(port);
        }
        *device = Device::Closed;
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// The port at this moment.
    #[must_use]
    pub fn report(&self) -> PortReport {
        self.report_of(&mut self.device())
    }

    /// The port with this device, which is locked: what it counted changes places with it.
    fn report_of(&self, device: &mut Device) -> PortReport {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut report = PortReport {
            name: self.name.clone(),
            up: self.is_up(),
            removed: self.removed.load(Ordering::Relaxed),
            ..before
        };
        if !report.removed {
            report.feed = self.feed.as_ref().map(|feed| feed.report());
            report.breaker = self.breaker.as_ref().filter(|cell| !cell.is_off()).map(|cell| cell.report());
        }
        match device {
            Device::Closed => {}
            Device::Dpdk(port, last, nic_clock) => {
                // What an earlier device had counts no more.
                report.rx_timestamps =
                    if nic_clock.is_some() { StampedBy::Hardware } else { StampedBy::Software };
                report.rx_unstamped += nic_clock.as_ref().map_or(0, |clock| clock.unstamped());
                *last = port.stats().unwrap_or(*last);
                report.rx_packets += last.ipackets;
                report.tx_packets += last.opackets;
                report.rx_bytes += last.ibytes;
                report.tx_bytes += last.obytes;
                report.tx_errors += last.oerrors;
                report.lost_before_rx += last.imissed + last.ierrors + last.rx_nombuf;
            }
            Device::AfPacket(port) => {
                let stats = port.stats();
                report.rx_timestamps = StampedBy::Kernel;
                report.rx_packets += stats.rx_packets;
                report.tx_packets += stats.tx_packets;
                report.rx_bytes += stats.rx_bytes;
                report.tx_bytes += stats.tx_bytes;
                report.lost_before_rx += stats.kernel_drops;
                report.tx_errors += stats.tx_errors;
                report.rx_cut += stats.rx_cut;
                report.rx_super_frames += stats.rx_super_frames;
                report.checksums_finished += stats.checksums_finished;
            }
            Device::File => {
                report.rx_timestamps = StampedBy::File;
                report.rx_packets = self.fed.load(Ordering::Relaxed);
            }
        }
        report
    }
}

/// What the kernel counts for an interface, in the order of its table, by the names that it has for them elsewhere.
const INTERFACE_COUNTERS: [&str; 16] = [
    "rx_bytes",
    "rx_packets",
    "rx_errors",
    "rx_dropped",
    "rx_fifo_errors",
    "rx_frame_errors",
    "rx_compressed",
    "multicast",
    "tx_bytes",
    "tx_packets",
    "tx_errors",
    "tx_dropped",
    "tx_fifo_errors",
    "collisions",
    "tx_carrier_errors",
    "tx_compressed",
];
/// Where the bytes sent are among them.
const SENT_BYTES: usize = 8;

/// Bytes sent by a kernel interface, out of the network namespace of this thread.
fn interface_sent_bytes(interface: &str) -> Option<u64> {
    interface_counters(interface)?.get(SENT_BYTES).copied()
}

/// All counters of a kernel interface, out of the network namespace of this thread.
fn interface_counters(interface: &str) -> Option<Vec<u64>> {
    counters_of(interface, &std::fs::read_to_string("/proc/thread-self/net/dev").ok()?)
}

fn counters_of(interface: &str, table: &str) -> Option<Vec<u64>> {
    let of = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers = || numbers.split_ascii_whitespace().map(|number| number.parse().ok()).collect();
        (name.trim() == interface).then(numbers)?
    };
    table.lines().find_map(of)
}

/// The kernel's name of an interface of our own driver.
fn kernel_interface(spec: &PortSpec) -> Option<String> {
    match spec {
        PortSpec::AfPacket(interface) => Some(interface.clone()),
        PortSpec::Pci(_) | PortSpec::Devargs(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of proc_net_dev(5), as the kernel prints them.
    #[test]
    fn counters_of_interfaces_are_read_by_name() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:    1310      13    0    0    0     0          0         0     1310      13    0    0    0     0       0          0\n  \
             eth0: 977 9 1 2 3 4 0 5 88 7 6 0 0 8 9 0\n  eth00: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 x\n";
        let eth0 = counters_of("eth0", table).unwrap();
        assert_eq!(eth0, [977, 9, 1, 2, 3, 4, 0, 5, 88, 7, 6, 0, 0, 8, 9, 0]);
        assert_eq!(INTERFACE_COUNTERS.len(), eth0.len());
        assert_eq!((eth0[SENT_BYTES], INTERFACE_COUNTERS[SENT_BYTES]), (88, "tx_bytes"));
        assert_eq!(counters_of("lo", table).map(|lo| lo[SENT_BYTES]), Some(1310));
        assert_eq!(counters_of("eth", table), None);
        assert_eq!(counters_of("eth00", table), None, "what cannot be read is not told");
    }
}
