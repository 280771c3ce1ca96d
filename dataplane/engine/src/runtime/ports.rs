//! Opening ports, and what is known of them from outside the workers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_queue::ArrayQueue;
use dpdk::{Eal, Mempool, Port, PortError, PortStats, RssHash, RssState, RxQueue};
use sluice_af_packet::{
    AfPacketConfig, AfPacketPort, AfPacketRx, AfPacketTx, LinkState, RxConfig, TxConfig, interface_index,
};
use sluice_capture::CaptureReader;
use sluice_core::neighbor::OwnFilter;
use sluice_model::{MacAddr, PortConfig, PortId, PortRole, PortSpec, SpreadBy};

use super::plan::MemoryPlan;
use super::{StartError, routes, vhost};
use crate::feed_watch::{FeedReport, FeedWatch};
use crate::output::{BreakerCell, BreakerReport};
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
    /// With its counters as they were read last: when it is gone it has no more to give.
    Dpdk(Port, PortStats),
    AfPacket(AfPacketPort),
    /// A capture file.
    File,
    /// Gone, or closed at the end of the run.
    Closed,
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
            (Device::Dpdk(port, _), None) => port.stats().ok().map(|stats| stats.obytes),
        }
    }

    /// What the device counts beyond its report, by the names of its driver; of a kernel interface, those of the kernel.
    /// Counts in the network namespace of this thread. Empty where there is no device, or it does not tell.
    pub(super) fn device_counters(&self) -> Vec<(String, u64)> {
        match (&*self.device(), self.interface.as_deref()) {
            (Device::Closed | Device::File, _) | (Device::AfPacket(_), None) => Vec::new(),
            (Device::Dpdk(port, _), _) => port.xstats().unwrap_or_default(),
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
        if let Device::Dpdk(port, _) = &*device {
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
            Device::Dpdk(port, last) => {
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
            Device::File => report.rx_packets = self.fed.load(Ordering::Relaxed),
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

/// A device that is open.
#[derive(Debug)]
struct Opened {
    device: Device,
    queues: [usize; 2],
    mac: MacAddr,
    mtu: u16,
    multi_segment: bool,
    udp_checksum_offload: bool,
    rx: Option<Rx>,
    tx: Vec<TxDriver>,
}

impl OpenPort {
    /// Opens port `id`; `probed` is its device, if it is one of DPDK's.
    pub(super) fn open(
        id: PortId,
        setup: &PortConfig,
        probed: Option<Port>,
        queues: &Queues<'_>,
    ) -> Result<Self, StartError> {
        let opened = Opened::open(setup, probed, queues, setup.mac)?;
        let state = PortState {
            name: setup.name.clone(),
            interface: kernel_interface(&setup.spec),
            link: (setup.mac.unwrap_or(opened.mac), setup.mtu.unwrap_or(opened.mtu)),
            queues: opened.queues.map(|queues| u16::try_from(queues).unwrap_or(u16::MAX)),
            device: Mutex::new(opened.device),
            up: Arc::new(AtomicBool::new(true)),
            removed: AtomicBool::new(false),
            before: Mutex::default(),
            fed: AtomicU64::new(0),
            feed: setup.is_watched().then(|| Arc::new(FeedWatch::new(setup.feed_guard))),
            breaker: setup.role.sends().then(Arc::default),
        };
        Ok(Self {
            setup: setup.clone(),
            id,
            state: Arc::new(state),
            multi_segment: opened.multi_segment,
            udp_checksum_offload: opened.udp_checksum_offload,
            rx: opened.rx,
            tx: opened.tx,
        })
    }

    /// Opens the device of a port that went away and came back, for [`PortState::replace`]. The port keeps the MAC address
    /// that it had.
    pub(super) fn reopen(
        id: PortId,
        setup: &PortConfig,
        state: &Arc<PortState>,
        probed: Option<Port>,
        queues: &Queues<'_>,
    ) -> Result<(Self, Device), StartError> {
        let opened = Opened::open(setup, probed, queues, Some(state.link.0))?;
        let port = Self {
            setup: setup.clone(),
            id,
            state: Arc::clone(state),
            multi_segment: opened.multi_segment,
            udp_checksum_offload: opened.udp_checksum_offload,
            rx: opened.rx,
            tx: opened.tx,
        };
        Ok((port, opened.device))
    }

    pub(super) fn id(&self) -> PortId {
        self.id
    }

    pub(super) fn state(&self) -> Arc<PortState> {
        Arc::clone(&self.state)
    }

    pub(super) fn mac(&self) -> MacAddr {
        self.state.link.0
    }

    pub(super) fn mtu(&self) -> u16 {
        self.state.link.1
    }

    /// Whether the driver will not give back, at the end, what it took from the pool at the start.
    pub(super) fn keeps_mbufs(&self) -> bool {
        matches!(&*self.state.device(), Device::Dpdk(port, _) if keeps_mbufs(port))
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
        match &*self.state.device() {
            Device::Dpdk(port, _) => port.rss().ok(),
            Device::AfPacket(_) | Device::File | Device::Closed => None,
        }
    }

    /// The transmit queue for the next worker.
    pub(super) fn next_exit(&mut self) -> Option<TxPort> {
        let driver = self.tx.pop()?;
        Some(TxPort::new(self.id, driver, self.multi_segment, Arc::clone(&self.state.up)))
    }

    /// Recognises frames for the port's own addresses.
    pub(super) fn own_filter(&self) -> Option<OwnFilter> {
        let addresses = routes::port_addresses(&self.setup, self.mac());
        (!self.setup.addresses.is_empty()).then(|| OwnFilter::new(&addresses))
    }
}

impl Opened {
    /// Opens the device of a port that uses this MAC address, if not the device's own.
    fn open(
        setup: &PortConfig,
        probed: Option<Port>,
        queues: &Queues<'_>,
        mac: Option<MacAddr>,
    ) -> Result<Self, StartError> {
        let not_found = |name: String| {
            let source = PortError::NotFound { name, known: "none".to_owned() };
            StartError::Port { name: setup.name.clone(), source }
        };
        match (&setup.spec, probed) {
            (PortSpec::Pci(_) | PortSpec::Devargs(_) | PortSpec::Vhost(_), Some(port)) => {
                Self::dpdk(setup, port, queues, mac)
            }
            (spec @ (PortSpec::Vhost(_) | PortSpec::Pci(_) | PortSpec::Devargs(_)), None) => {
                Err(not_found(spec.to_string()))
            }
            (PortSpec::AfPacket(interface), _) => Self::af_packet(setup, interface, queues.workers, mac),
            (PortSpec::Pcap(path), _) => Self::file(setup, path),
        }
    }

    fn dpdk(
        setup: &PortConfig,
        port: Port,
        queues: &Queues<'_>,
        mac: Option<MacAddr>,
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
            promiscuous: setup.promiscuous || mac.is_some_and(|mac| mac.0 != port.mac().0),
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
        let queues = [rx.len(), tx.len()];
        let exits = if setup.role.sends() { tx.len() } else { usize::from(answers(setup)) };
        Ok(Self {
            mac: MacAddr(port.mac().0),
            mtu: port.mtu().unwrap_or(DEFAULT_MTU),
            multi_segment: port.info().tx_multi_segs,
            udp_checksum_offload: port.info().tx_udp_checksum,
            device: Device::Dpdk(port, PortStats::default()),
            queues,
            rx: Some(Rx::Dpdk(rx)),
            tx: tx.into_iter().take(exits).map(TxDriver::Dpdk).collect(),
        })
    }

    fn af_packet(
        setup: &PortConfig,
        interface: &str,
        workers: usize,
        mac: Option<MacAddr>,
    ) -> Result<Self, StartError> {
        if workers > 1 && setup.role == PortRole::Both {
            return Err(StartError::BothWays { name: setup.name.clone() });
        }
        let (port, rx, tx) = open_interface(setup, interface, workers, mac)
            .map_err(|source| StartError::AfPacket { name: setup.name.clone(), source })?;
        Ok(Self {
            mac: MacAddr(port.mac()),
            mtu: u16::try_from(port.mtu()).unwrap_or(u16::MAX),
            queues: [rx.iter().len(), tx.len()],
            device: Device::AfPacket(port),
            multi_segment: true,
            udp_checksum_offload: false,
            rx: rx.map(|rx| Rx::AfPacket(Box::new(rx))),
            tx: tx.into_iter().map(TxDriver::AfPacket).collect(),
        })
    }

    fn file(setup: &PortConfig, path: &Path) -> Result<Self, StartError> {
        if setup.role.sends() {
            return Err(StartError::FileOutput { name: setup.name.clone() });
        }
        let error = |source| StartError::Capture { name: setup.name.clone(), source };
        let reader = CaptureReader::open(path).map_err(error)?;
        Ok(Self {
            device: Device::File,
            queues: [0, 0],
            mac: MacAddr::default(),
            mtu: DEFAULT_MTU,
            multi_segment: true,
            udp_checksum_offload: false,
            rx: Some(Rx::Feed(Arc::new(ArrayQueue::new(FEED_QUEUE)), Some(reader))),
            tx: Vec::new(),
        })
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

/// Whether a driver will not give back what it took from the pool.
pub(super) fn keeps_mbufs(port: &Port) -> bool {
    KEEP_MBUFS.contains(&port.driver_name())
}

/// DPDK's name of a port's device; `None` = it is not one of DPDK's.
pub(super) fn device_name(index: usize, setup: &PortConfig) -> Option<String> {
    match &setup.spec {
        PortSpec::Pci(args) | PortSpec::Devargs(args) => args.split(',').next().map(str::to_owned),
        PortSpec::Vhost(_) => Some(vhost::device(index)),
        PortSpec::Pcap(_) | PortSpec::AfPacket(_) => None,
    }
}

/// The kernel's name of an interface of our own driver.
fn kernel_interface(spec: &PortSpec) -> Option<String> {
    match spec {
        PortSpec::AfPacket(interface) => Some(interface.clone()),
        PortSpec::Pci(_) | PortSpec::Devargs(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_) => None,
    }
}

/// Finds a port's DPDK device, before anything is set up; `None` = it is not one of DPDK's.
pub(super) fn probe(eal: &Eal, index: usize, setup: &PortConfig) -> Result<Option<Port>, StartError> {
    let Some(name) = device_name(index, setup) else { return Ok(None) };
    let error = |source| StartError::Port { name: setup.name.clone(), source };
    Port::by_name(eal, &name).map(Some).map_err(error)
}

/// Opens a kernel interface: one receive ring, and one transmit socket per worker. `mac` is the Ethernet address that we
/// use on it; where the interface has another, it must receive what is sent to ours nevertheless.
fn open_interface(
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

/// Whether a device of DPDK's was pulled out, or is one over a kernel interface that is not there any more.
pub(super) fn is_gone(device: &Port, spec: &PortSpec) -> bool {
    let other = |interface| interface_index(interface) != Some(device.info().if_index);
    // A driver that keeps packet buffers would take more each time.
    let is_over_interface = device.info().if_index != 0 && !keeps_mbufs(device);
    device.is_removed() || is_over_interface && interface_below(spec).is_some_and(other)
}

/// Whether a device of DPDK's that was gone can be looked for.
pub(super) fn may_be_back(spec: &PortSpec) -> bool {
    match spec {
        // It has to be bound to a driver that DPDK knows before it is looked for.
        PortSpec::Pci(device) => {
            let address = device.split(',').next().unwrap_or_default();
            Path::new("/sys/bus/pci/devices").join(address).join("driver").exists()
        }
        spec => interface_below(spec).is_none_or(|interface| interface_index(interface).is_some()),
    }
}

/// The kernel interface below a device of DPDK's.
pub(super) fn interface_below(spec: &PortSpec) -> Option<&str> {
    match spec {
        PortSpec::Devargs(args) if args.starts_with("net_af_") => {
            args.split(',').find_map(|arg| arg.strip_prefix("iface="))
        }
        PortSpec::Devargs(_)
        | PortSpec::AfPacket(_)
        | PortSpec::Pci(_)
        | PortSpec::Pcap(_)
        | PortSpec::Vhost(_) => None,
    }
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
