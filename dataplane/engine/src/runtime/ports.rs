//! Opening ports, and what is known of them from outside the workers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::ArrayQueue;
use dpdk::{Eal, Mempool, Port, RxQueue};
use sluice_af_packet::{AfPacketConfig, AfPacketPort, AfPacketRx, AfPacketTx, LinkState, RxConfig, TxConfig};
use sluice_capture::CaptureReader;
use sluice_core::neighbor::OwnFilter;
use sluice_model::{MacAddr, PortConfig, PortId, PortRole, PortSpec};

use super::{StartError, routes};
use crate::port::{Feed, Source, SourceKind, TxDriver, TxPort};

/// Descriptors of a receive and of a transmit queue.
const DESCRIPTORS: u16 = 1024;
/// Drivers that take only as many receive queues as transmit queues (22.11), and do not say so beforehand.
const EQUAL_QUEUES: [&str; 2] = ["net_tap", "net_af_xdp"];
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
    /// Whether the link is up (control: w, workers and others: r).
    up: Arc<AtomicBool>,
    /// What earlier incarnations of the interface counted (control: w, others: r).
    before: Mutex<PortReport>,
}

/// The control side of a driver.
#[derive(Debug)]
pub(super) enum Device {
    Dpdk(Port),
    /// Replaced when the interface goes and comes back.
    AfPacket(Box<Mutex<AfPacketPort>>),
    /// A capture file has no state of its own.
    File,
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
    /// Packets that the device sent.
    pub tx_packets: u64,
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
}

impl PortState {
    /// The name in the boot config.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Notes the link state; says whether it changed.
    pub(super) fn set_up(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::Relaxed) != up
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
        self.device = Device::Closed(report);
    }

    /// The port at this moment.
    #[must_use]
    pub fn report(&self) -> PortReport {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut report =
            PortReport { name: self.name.clone(), up: self.up.load(Ordering::Relaxed), ..before };
        match &self.device {
            Device::Closed(report) => return report.clone(),
            Device::Dpdk(port) => {
                // A port that is gone has no more counts to give.
                let stats = port.stats().unwrap_or_default();
                report.rx_packets = stats.ipackets;
                report.tx_packets = stats.opackets;
                report.tx_errors = stats.oerrors;
                report.lost_before_rx += stats.imissed + stats.ierrors + stats.rx_nombuf;
            }
            Device::AfPacket(port) => {
                let port = port.lock().unwrap_or_else(PoisonError::into_inner);
                let stats = port.stats();
                report.rx_packets += stats.rx_packets;
                report.tx_packets += stats.tx_packets;
                report.lost_before_rx += stats.kernel_drops;
                report.tx_errors += stats.tx_errors;
                report.rx_cut += stats.rx_cut;
                report.rx_super_frames += stats.rx_super_frames;
                report.checksums_finished += stats.checksums_finished;
            }
            Device::File => {}
        }
        report
    }
}

/// A port that is open but not yet shared out to workers.
#[derive(Debug)]
pub(super) struct OpenPort {
    pub(super) setup: PortConfig,
    id: PortId,
    state: Arc<PortState>,
    mac: MacAddr,
    mtu: u16,
    multi_segment: bool,
    udp_checksum_offload: bool,
    rx: Option<Rx>,
    /// One per worker.
    tx: Vec<TxDriver>,
}

#[derive(Debug)]
enum Rx {
    Dpdk(Vec<RxQueue>),
    AfPacket(Box<AfPacketRx>),
    Feed(Arc<Feed>, Option<CaptureReader>),
}

impl OpenPort {
    pub(super) fn open(
        eal: &Eal,
        index: usize,
        setup: &PortConfig,
        pool: &Mempool,
        workers: usize,
    ) -> Result<Self, StartError> {
        let id = PortId(u16::try_from(index).unwrap_or(u16::MAX));
        let mut port = match &setup.spec {
            PortSpec::Pci(args) | PortSpec::Devargs(args) => {
                let name = args.split(',').next().unwrap_or(args);
                Self::open_dpdk(eal, id, setup, name, pool, workers)?
            }
            PortSpec::AfPacket(interface) => Self::open_af_packet(id, setup, interface, workers)?,
            PortSpec::Pcap(path) => Self::open_file(id, setup, path)?,
        };
        port.mac = setup.mac.unwrap_or(port.mac);
        port.mtu = setup.mtu.unwrap_or(port.mtu);
        Ok(port)
    }

    fn new(id: PortId, setup: &PortConfig, device: Device) -> Self {
        let state = PortState {
            name: setup.name.clone(),
            device,
            up: Arc::new(AtomicBool::new(true)),
            before: Mutex::default(),
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
        eal: &Eal,
        id: PortId,
        setup: &PortConfig,
        name: &str,
        pool: &Mempool,
        workers: usize,
    ) -> Result<Self, StartError> {
        let error = |source| StartError::Port { name: setup.name.clone(), source };
        if name.starts_with("net_af_xdp") && setup.mtu.is_some_and(|mtu| mtu > DEFAULT_MTU) {
            return Err(StartError::JumboAfXdp { name: setup.name.clone() });
        }
        let port = Port::by_name(eal, name).map_err(error)?;
        // Some drivers do not start without a transmit queue.
        let tx_queues = if setup.role.sends() { u16::try_from(workers).unwrap_or(u16::MAX) } else { 1 };
        let config = dpdk::PortConfig {
            rx_queues: if EQUAL_QUEUES.contains(&port.driver_name()) { tx_queues } else { 1 },
            tx_queues,
            rx_desc: DESCRIPTORS,
            tx_desc: DESCRIPTORS,
            mtu: setup.mtu,
            promiscuous: setup.promiscuous,
            ..dpdk::PortConfig::new(pool.clone())
        };
        let (port, rx, tx) = port.configure(&config).map_err(error)?;
        let mut open = Self {
            mac: MacAddr(port.mac().0),
            mtu: port.mtu().unwrap_or(DEFAULT_MTU),
            multi_segment: port.info().tx_multi_segs,
            udp_checksum_offload: port.info().tx_udp_checksum,
            ..Self::new(id, setup, Device::Dpdk(port))
        };
        open.rx = Some(Rx::Dpdk(rx));
        if setup.role.sends() {
            open.tx = tx.into_iter().map(TxDriver::Dpdk).collect();
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
        let (port, rx, tx) = open_interface(setup, interface, workers)
            .map_err(|source| StartError::AfPacket { name: setup.name.clone(), source })?;
        let mtu = u16::try_from(port.mtu()).unwrap_or(u16::MAX);
        let mac = MacAddr(port.mac());
        let mut open = Self { mac, mtu, ..Self::new(id, setup, Device::AfPacket(Box::new(port.into()))) };
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
        let mut open = Self::new(id, setup, Device::File);
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

    /// Recognises frames for the port's own addresses.
    fn own_filter(&self) -> Option<OwnFilter> {
        let addresses = routes::port_addresses(&self.setup, self.mac);
        (!self.setup.addresses.is_empty()).then(|| OwnFilter::new(&addresses))
    }
}

/// Opens a kernel interface: one receive ring, and one transmit socket per worker.
pub(super) fn open_interface(
    setup: &PortConfig,
    interface: &str,
    workers: usize,
) -> Result<(AfPacketPort, Option<AfPacketRx>, Vec<AfPacketTx>), sluice_af_packet::AfPacketError> {
    let mut config = AfPacketConfig {
        interface: interface.to_owned(),
        rx: Some(RxConfig {
            snaplen: setup.snaplen_bytes,
            promiscuous: setup.promiscuous,
            // A port that only sends sees its own copies otherwise.
            ignore_outgoing: !setup.role.captures(),
            ..RxConfig::default()
        }),
        tx: setup.role.sends().then(TxConfig::default),
    };
    let (port, rx, first) = sluice_af_packet::open(&config)?;
    let mut tx: Vec<_> = first.into_iter().collect();
    config.rx = None;
    while setup.role.sends() && tx.len() < workers {
        tx.extend(sluice_af_packet::open(&config)?.2);
    }
    Ok((port, rx, tx))
}

/// The sources and exits of worker `index` of `workers`: each port is received by one worker, and sent on by all.
pub(super) fn share(
    open: &mut [OpenPort],
    index: usize,
    workers: usize,
    pool: &Mempool,
    burst_pkts: usize,
) -> (Vec<Source>, Vec<TxPort>) {
    let mut sources = Vec::new();
    let mut exits = Vec::new();
    for (number, port) in open.iter_mut().enumerate() {
        if number % workers == index {
            let filter = port.own_filter();
            let kinds = match port.rx.take() {
                Some(Rx::Dpdk(queues)) => queues.into_iter().map(SourceKind::Dpdk).collect(),
                Some(Rx::AfPacket(rx)) => vec![SourceKind::AfPacket(rx, pool.clone())],
                Some(Rx::Feed(queue, reader)) => {
                    port.rx = Some(Rx::Feed(Arc::clone(&queue), reader));
                    vec![SourceKind::Queue(queue)]
                }
                None => Vec::new(),
            };
            for kind in kinds {
                let mut source = Source::new(port.id, port.setup.role.captures(), filter, kind);
                source.snaplen = port.setup.snaplen_bytes.unwrap_or(u32::MAX);
                source.burst_pkts = burst_pkts;
                sources.push(source);
            }
        }
        if let Some(driver) = port.tx.pop() {
            exits.push(TxPort::new(port.id, driver, port.multi_segment, Arc::clone(&port.state.up)));
        }
    }
    (sources, exits)
}

/// Whether traffic can flow.
pub(super) fn is_up(state: LinkState) -> bool {
    state == LinkState::Up
}
