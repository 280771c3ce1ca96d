//! Opening ports, and what is known of them from outside the workers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::ArrayQueue;
use dpdk::{Eal, Mempool, Port, PortError, RssHash, RssState, RxQueue};
use sluice_af_packet::{AfPacketConfig, AfPacketPort, AfPacketRx, AfPacketTx, LinkState, RxConfig, TxConfig};
use sluice_capture::CaptureReader;
use sluice_core::neighbor::OwnFilter;
use sluice_model::{MacAddr, PortConfig, PortId, PortRole, PortSpec, SpreadBy};

use super::plan::MemoryPlan;
use super::{StartError, routes, vhost};
use crate::feed_watch::{FeedReport, FeedWatch};
use crate::output::BreakerReport;
use crate::port::{Feed, TxDriver, TxPort};

/// Drivers that take only as many receive queues as transmit queues (22.11), and do not say so beforehand.
const EQUAL_QUEUES: [&str; 2] = ["net_tap", "net_af_xdp"];
/// Drivers without receive interrupts (22.11), which DPDK would complain about.
const NO_INTERRUPTS: [&str; 5] = ["net_null", "net_ring", "net_pcap", "net_af_packet", "net_af_xdp"];
/// Drivers that do not free the mbufs that they hold to receive into, when they are closed (22.11).
const KEEP_MBUFS: [&str; 1] = ["net_af_xdp"];
/// Frames that wait between the reader of a capture file and its worker.
const FEED_QUEUE: usize = 1024;
/// MTU assumed where a device does not tell.
const DEFAULT_MTU: u16 = 1500;

/// A port as seen from outside the workers.
#[derive(Debug)]
pub struct PortState {
    name: String,
    device: Device,
    /// Receive and transmit queues.
    queues: [u16; 2],
    /// Whether the link is up (control: w, workers and others: r).
    up: Arc<AtomicBool>,
    /// What earlier incarnations of the interface counted (control: w, others: r).
    before: Mutex<PortReport>,
    /// Of an output port that is watched for traffic of others.
    feed: Option<Arc<FeedWatch>>,
}

/// The control side of a driver.
#[derive(Debug)]
pub(super) enum Device {
    Dpdk(Port),
    /// Replaced when the interface goes and comes back.
    AfPacket(Box<Mutex<AfPacketPort>>),
    /// A capture file: the frames handed to the worker so far (feeder: w, others: r).
    File(AtomicU64),
    /// Closed at the end of the run; this was its last report.
    Closed(PortReport),
}

/// One port at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortReport {
    /// The name in the boot config.
    pub name: String,
    /// Whether the link is up.
    pub up: bool,
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
    /// Whether distribution by it is stopped, where there is a breaker.
    pub breaker: Option<BreakerReport>,
    /// Traffic of others, where it is watched for that.
    pub feed: Option<FeedReport>,
}

impl PortState {
    /// The name in the boot config.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes that left by the device since it started, by whomever; `None` = it does not tell. The kernel counts for an
    /// interface of its own, whatever uses it.
    pub(super) fn sent_bytes(&self, interface: Option<&str>) -> Option<u64> {
        match (&self.device, interface) {
            (Device::Closed(_) | Device::File(_), _) | (Device::AfPacket(_), None) => None,
            (_, Some(interface)) => interface_sent_bytes(interface),
            (Device::Dpdk(port), None) => port.stats().ok().map(|stats| stats.obytes),
        }
    }

    /// What the device counts beyond its report, by the names of its driver; of a kernel interface, those of the kernel.
    /// Counts in the network namespace of this thread. Empty where there is no device, or it does not tell.
    pub(super) fn device_counters(&self, interface: Option<&str>) -> Vec<(String, u64)> {
        match (&self.device, interface) {
            (Device::Closed(_) | Device::File(_), _) | (Device::AfPacket(_), None) => Vec::new(),
            (Device::Dpdk(port), _) => port.xstats().unwrap_or_default(),
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

    /// What counts traffic of others, if it is watched for that.
    pub(super) fn feed(&self) -> Option<Arc<FeedWatch>> {
        self.feed.clone()
    }

    /// Notes the link state; says whether it changed.
    pub(super) fn set_up(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::Relaxed) != up
    }

    /// Counts a frame of a capture file.
    pub(super) fn count_fed(&self) {
        if let Device::File(frames) = &self.device {
            frames.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Replaces the handle of a kernel interface that came back; what the old one counted stays counted.
    pub(super) fn replace(&self, port: AfPacketPort) {
        if let Device::AfPacket(current) = &self.device {
            let so_far = self.report();
            *self.before.lock().unwrap_or_else(PoisonError::into_inner) = so_far;
            *current.lock().unwrap_or_else(PoisonError::into_inner) = port;
        }
    }

    /// Packets lost before they reached a worker: the device's and the kernel's drops.
    #[must_use]
    pub fn lost_before_rx(&self) -> u64 {
        self.report().lost_before_rx
    }

    /// Ends reception where the driver can, so that what was received by now is all that is left to do.
    pub(super) fn end_receive(&self) {
        if let Device::AfPacket(port) = &self.device {
            let port = port.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = port.end_receive() {
                tracing::warn!(port = self.name, %error, "reception goes on until the end");
            }
        }
    }

    /// Closes the device, which gives back the mbufs that it held to receive into. The counts stay. The workers have
    /// ended: what they left in a ring is lost.
    pub(super) fn close(&mut self) {
        let mut report = self.report();
        if let Device::AfPacket(port) = &self.device {
            let stats = port.lock().unwrap_or_else(PoisonError::into_inner).stats();
            report.lost_before_rx +=
                stats.kernel_packets.saturating_sub(stats.kernel_drops + stats.rx_packets);
        }
        if let Device::Dpdk(port) = &self.device {
            vhost::settle(port);
        }
        self.device = Device::Closed(report);
    }

    /// The port at this moment.
    #[must_use]
    pub fn report(&self) -> PortReport {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut report =
            PortReport { name: self.name.clone(), up: self.up.load(Ordering::Relaxed), ..before };
        report.feed = self.feed.as_ref().map(|feed| feed.report());
        match &self.device {
            Device::Closed(report) => return report.clone(),
            Device::Dpdk(port) => {
                // A port that is gone has no more counts to give.
                let stats = port.stats().unwrap_or_default();
                report.rx_packets = stats.ipackets;
                report.tx_packets = stats.opackets;
                (report.rx_bytes, report.tx_bytes) = (stats.ibytes, stats.obytes);
                report.tx_errors = stats.oerrors;
                report.lost_before_rx += stats.imissed + stats.ierrors + stats.rx_nombuf;
            }
            Device::AfPacket(port) => {
                let port = port.lock().unwrap_or_else(PoisonError::into_inner);
                let stats = port.stats();
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
            Device::File(frames) => report.rx_packets = frames.load(Ordering::Relaxed),
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

/// A port that is open but not yet shared out to workers.
#[derive(Debug)]
pub(super) struct OpenPort {
    pub(super) setup: PortConfig,
    pub(super) rx: Option<Rx>,
    id: PortId,
    state: Arc<PortState>,
    mac: MacAddr,
    mtu: u16,
    multi_segment: bool,
    udp_checksum_offload: bool,
    /// One per worker.
    tx: Vec<TxDriver>,
}

/// The receive side of a port.
#[derive(Debug)]
pub(super) enum Rx {
    Dpdk(Vec<RxQueue>),
    AfPacket(Box<AfPacketRx>),
    Feed(Arc<Feed>, Option<CaptureReader>),
}

impl OpenPort {
    /// Opens port `index`; `probed` is its device, if it is one of DPDK's.
    pub(super) fn open(
        index: usize,
        setup: &PortConfig,
        probed: Option<Port>,
        queues: &Queues<'_>,
    ) -> Result<Self, StartError> {
        let id = PortId(u16::try_from(index).unwrap_or(u16::MAX));
        let mut port = match (&setup.spec, probed) {
            (PortSpec::Pci(_) | PortSpec::Devargs(_) | PortSpec::Vhost(_), Some(port)) => {
                Self::open_dpdk(id, setup, port, queues)?
            }
            (PortSpec::Vhost(_), None) => {
                let source = PortError::NotFound { name: setup.spec.to_string(), known: "none".to_owned() };
                return Err(StartError::Port { name: setup.name.clone(), source });
            }
            (PortSpec::Pci(args) | PortSpec::Devargs(args), None) => {
                let source = PortError::NotFound { name: args.clone(), known: "none".to_owned() };
                return Err(StartError::Port { name: setup.name.clone(), source });
            }
            (PortSpec::AfPacket(interface), _) => Self::open_af_packet(id, setup, interface, queues.workers)?,
            (PortSpec::Pcap(path), _) => Self::open_file(id, setup, path)?,
        };
        port.mac = setup.mac.unwrap_or(port.mac);
        port.mtu = setup.mtu.unwrap_or(port.mtu);
        Ok(port)
    }

    fn new(id: PortId, setup: &PortConfig, device: Device, queues: [usize; 2]) -> Self {
        let state = PortState {
            name: setup.name.clone(),
            device,
            queues: queues.map(|queues| u16::try_from(queues).unwrap_or(u16::MAX)),
            up: Arc::new(AtomicBool::new(true)),
            before: Mutex::default(),
            feed: setup.is_watched().then(|| Arc::new(FeedWatch::new(setup.feed_guard))),
        };
        Self {
            setup: setup.clone(),
            id,
            state: Arc::new(state),
            mac: MacAddr::default(),
            mtu: DEFAULT_MTU,
            multi_segment: true,
            udp_checksum_offload: false,
            rx: None,
            tx: Vec::new(),
        }
    }

    fn open_dpdk(
        id: PortId,
        setup: &PortConfig,
        port: Port,
        queues: &Queues<'_>,
    ) -> Result<Self, StartError> {
        let error = |source| StartError::Port { name: setup.name.clone(), source };
        if port.name().starts_with("net_af_xdp") && setup.mtu.is_some_and(|mtu| mtu > DEFAULT_MTU) {
            return Err(StartError::JumboAfXdp { name: setup.name.clone() });
        }
        let is_vhost = matches!(setup.spec, PortSpec::Vhost(_));
        // Some drivers do not start without a transmit queue.
        let tx_queues =
            if setup.role.sends() { u16::try_from(queues.workers).unwrap_or(u16::MAX) } else { 1 };
        let rx_queues = u16::try_from(queues.rx).unwrap_or(u16::MAX);
        let equal = EQUAL_QUEUES.contains(&port.driver_name());
        let most = rx_queues.max(tx_queues);
        let config = dpdk::PortConfig {
            rx_queues: if equal { most } else { rx_queues },
            tx_queues: if equal { most } else { tx_queues },
            rx_desc: queues.plan.rx_descriptors,
            tx_desc: queues.plan.tx_descriptors,
            mtu: setup.mtu.or(is_vhost.then_some(vhost::MTU)),
            promiscuous: setup.promiscuous || setup.mac.is_some_and(|mac| mac.0 != port.mac().0),
            rss: match queues.by {
                _ if rx_queues < 2 => RssHash::Off,
                SpreadBy::Addresses => RssHash::Addresses,
                SpreadBy::Ports => RssHash::AddressesPorts,
            },
            // Without, net_virtio_user (22.11) leaves a closed socket with the interrupt thread, which aborts for it.
            rx_interrupts: is_vhost
                || queues.interrupts && setup.role.captures() && !NO_INTERRUPTS.contains(&port.driver_name()),
            ..dpdk::PortConfig::new(queues.pool.clone())
        };
        let (port, rx, tx) = port.configure(&config).map_err(error)?;
        let mut open = Self {
            mac: MacAddr(port.mac().0),
            mtu: port.mtu().unwrap_or(DEFAULT_MTU),
            multi_segment: port.info().tx_multi_segs,
            udp_checksum_offload: port.info().tx_udp_checksum,
            ..Self::new(id, setup, Device::Dpdk(port), [rx.len(), tx.len()])
        };
        open.rx = Some(Rx::Dpdk(rx));
        if setup.role.sends() {
            open.tx = tx.into_iter().map(TxDriver::Dpdk).collect();
        } else if answers(setup) {
            open.tx = tx.into_iter().take(1).map(TxDriver::Dpdk).collect();
        }
        Ok(open)
    }

    fn open_af_packet(
        id: PortId,
        setup: &PortConfig,
        interface: &str,
        workers: usize,
    ) -> Result<Self, StartError> {
        if workers > 1 && setup.role == PortRole::Both {
            return Err(StartError::BothWays { name: setup.name.clone() });
        }
        let (port, rx, tx) = open_interface(setup, interface, workers, setup.mac)
            .map_err(|source| StartError::AfPacket { name: setup.name.clone(), source })?;
        let mtu = u16::try_from(port.mtu()).unwrap_or(u16::MAX);
        let mac = MacAddr(port.mac());
        let queues = [rx.iter().len(), tx.len()];
        let device = Device::AfPacket(Box::new(port.into()));
        let mut open = Self { mac, mtu, ..Self::new(id, setup, device, queues) };
        open.rx = rx.map(|rx| Rx::AfPacket(Box::new(rx)));
        open.tx = tx.into_iter().map(TxDriver::AfPacket).collect();
        Ok(open)
    }

    fn open_file(id: PortId, setup: &PortConfig, path: &Path) -> Result<Self, StartError> {
        if setup.role.sends() {
            return Err(StartError::FileOutput { name: setup.name.clone() });
        }
        let error = |source| StartError::Capture { name: setup.name.clone(), source };
        let reader = CaptureReader::open(path).map_err(error)?;
        let mut open = Self::new(id, setup, Device::File(AtomicU64::new(0)), [0, 0]);
        open.rx = Some(Rx::Feed(Arc::new(ArrayQueue::new(FEED_QUEUE)), Some(reader)));
        Ok(open)
    }

    pub(super) fn id(&self) -> PortId {
        self.id
    }

    pub(super) fn state(&self) -> Arc<PortState> {
        Arc::clone(&self.state)
    }

    pub(super) fn mac(&self) -> MacAddr {
        self.mac
    }

    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether the driver will not give back, at the end, what it took from the pool at the start.
    pub(super) fn keeps_mbufs(&self) -> bool {
        matches!(self.state.device(), Device::Dpdk(port) if KEEP_MBUFS.contains(&port.driver_name()))
    }

    pub(super) fn udp_checksum_offload(&self) -> bool {
        self.udp_checksum_offload
    }

    /// The reader of a capture file and the queue it fills, once.
    pub(super) fn take_feed(&mut self) -> Option<(CaptureReader, Arc<Feed>)> {
        match &mut self.rx {
            Some(Rx::Feed(queue, reader)) => Some((reader.take()?, Arc::clone(queue))),
            _ => None,
        }
    }

    /// How a DPDK port spreads packets, by its own words.
    pub(super) fn rss(&self) -> Option<RssState> {
        match self.state.device() {
            Device::Dpdk(port) => port.rss().ok(),
            Device::AfPacket(_) | Device::File(_) | Device::Closed(_) => None,
        }
    }

    /// The transmit queue for the next worker.
    pub(super) fn next_exit(&mut self) -> Option<TxPort> {
        let driver = self.tx.pop()?;
        Some(TxPort::new(self.id, driver, self.multi_segment, Arc::clone(&self.state.up)))
    }

    /// Recognises frames for the port's own addresses.
    pub(super) fn own_filter(&self) -> Option<OwnFilter> {
        let addresses = routes::port_addresses(&self.setup, self.mac);
        (!self.setup.addresses.is_empty()).then(|| OwnFilter::new(&addresses))
    }
}

/// What the queues of a port are to be.
#[derive(Debug)]
pub(super) struct Queues<'a> {
    /// Receive queues wanted.
    pub(super) rx: usize,
    /// Workers, each with a transmit queue.
    pub(super) workers: usize,
    /// What spreads packets over several receive queues.
    pub(super) by: SpreadBy,
    /// Whether receive interrupts are wanted.
    pub(super) interrupts: bool,
    /// Where received packets go.
    pub(super) pool: &'a Mempool,
    /// Descriptors.
    pub(super) plan: &'a MemoryPlan,
}

/// Finds a port's DPDK device, before anything is set up; `None` = it is not one of DPDK's.
pub(super) fn probe(eal: &Eal, index: usize, setup: &PortConfig) -> Result<Option<Port>, StartError> {
    let name = match &setup.spec {
        PortSpec::Pci(args) | PortSpec::Devargs(args) => args.split(',').next().unwrap_or(args).to_owned(),
        PortSpec::Vhost(_) => vhost::device(index),
        PortSpec::Pcap(_) | PortSpec::AfPacket(_) => return Ok(None),
    };
    let error = |source| StartError::Port { name: setup.name.clone(), source };
    Port::by_name(eal, &name).map(Some).map_err(error)
}

/// Opens a kernel interface: one receive ring, and one transmit socket per worker. `mac` is the Ethernet address that we
/// use on it; where the interface has another, it must receive what is sent to ours nevertheless.
pub(super) fn open_interface(
    setup: &PortConfig,
    interface: &str,
    workers: usize,
    mac: Option<MacAddr>,
) -> Result<(AfPacketPort, Option<AfPacketRx>, Vec<AfPacketTx>), sluice_af_packet::AfPacketError> {
    let mut config = AfPacketConfig {
        interface: interface.to_owned(),
        rx: Some(RxConfig {
            snaplen: setup.snaplen_bytes,
            promiscuous: setup.promiscuous,
            // A port that only sends sees its own copies otherwise.
            ignore_outgoing: !setup.role.captures(),
            ring_bytes: setup.ring_kib.map_or(RxConfig::default().ring_bytes, |kib| {
                usize::try_from(kib).unwrap_or(usize::MAX) << 10
            }),
            ..RxConfig::default()
        }),
        tx: (setup.role.sends() || answers(setup)).then(TxConfig::default),
    };
    let (mut port, mut rx, mut first) = sluice_af_packet::open(&config)?;
    if !setup.promiscuous && mac.is_some_and(|mac| mac.0 != port.mac()) {
        if let Some(rx) = &mut config.rx {
            rx.promiscuous = true;
        }
        (port, rx, first) = sluice_af_packet::open(&config)?;
    }
    let mut tx: Vec<_> = first.into_iter().collect();
    config.rx = None;
    while setup.role.sends() && tx.len() < workers {
        let (other, _, queue) = sluice_af_packet::open(&config)?;
        port.count_with(other);
        tx.extend(queue);
    }
    Ok((port, rx, tx))
}

/// Whether a port that only captures sends nevertheless: what it says for its own addresses, by the first worker.
fn answers(setup: &PortConfig) -> bool {
    !setup.role.sends() && !setup.addresses.is_empty() && !matches!(setup.spec, PortSpec::Pcap(_))
}

/// Whether traffic can flow.
pub(super) fn is_up(state: LinkState) -> bool {
    state == LinkState::Up
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
