//! Opening ports: devices with their queues, before they are shared out to threads.

use std::path::Path;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use dpdk::{Eal, Mempool, Port, PortError, PortStats, RssHash, RssState, RxQueue};
use sluice_af_packet::{
    AfPacketConfig, AfPacketPort, AfPacketRx, AfPacketTx, LinkState, RxConfig, TxConfig, interface_index,
};
use sluice_capture::CaptureReader;
use sluice_core::neighbor::OwnFilter;
use sluice_model::{MacAddr, PortConfig, PortId, PortRole, PortSpec, RxTimestamps, SpreadBy};

use super::plan::MemoryPlan;
use super::port_state::{Device, PortState};
use super::{StartError, routes, vhost};
use crate::port::{Feed, NicClock, TxDriver, TxPort};

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

/// A port that is open but not yet shared out to workers.
#[derive(Debug)]
pub(super) struct OpenPort {
    pub(super) setup: PortConfig,
    pub(super) rx: Option<Rx>,
    id: PortId,
    state: Arc<PortState>,
    multi_segment: bool,
    udp_checksum_offload: bool,
    /// Where the NIC stamps what it receives.
    nic_clock: Option<Arc<NicClock>>,
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
    nic_clock: Option<Arc<NicClock>>,
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
        let link = (setup.mac.unwrap_or(opened.mac), setup.mtu.unwrap_or(opened.mtu));
        let state = PortState::new(setup, opened.device, link, opened.queues);
        Ok(Self {
            setup: setup.clone(),
            id,
            state: Arc::new(state),
            multi_segment: opened.multi_segment,
            udp_checksum_offload: opened.udp_checksum_offload,
            nic_clock: opened.nic_clock,
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
        let opened = Opened::open(setup, probed, queues, Some(state.link().0))?;
        let port = Self {
            setup: setup.clone(),
            id,
            state: Arc::clone(state),
            multi_segment: opened.multi_segment,
            udp_checksum_offload: opened.udp_checksum_offload,
            nic_clock: opened.nic_clock,
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
        self.state.link().0
    }

    pub(super) fn mtu(&self) -> u16 {
        self.state.link().1
    }

    /// Whether the driver will not give back, at the end, what it took from the pool at the start.
    pub(super) fn keeps_mbufs(&self) -> bool {
        matches!(&*self.state.device(), Device::Dpdk(port, ..) if keeps_mbufs(port))
    }

    /// The clock of the NIC, where it stamps what it receives.
    pub(super) fn nic_clock(&self) -> Option<Arc<NicClock>> {
        self.nic_clock.clone()
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
            Device::Dpdk(port, ..) => port.rss().ok(),
            Device::AfPacket(_) | Device::File | Device::Closed => None,
        }
    }

    /// The transmit queue for the next worker.
    pub(super) fn next_exit(&mut self) -> Option<TxPort> {
        let driver = self.tx.pop()?;
        Some(TxPort::new(self.id, driver, self.multi_segment, self.state.up()))
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
            rx_timestamps: setup.rx_timestamps != RxTimestamps::Software && setup.role.captures(),
            ..dpdk::PortConfig::new(queues.pool.clone())
        };
        let (port, rx, tx) = port.configure(&config).map_err(error)?;
        let nic_clock = nic_clock(setup, &port)?;
        let queues = [rx.len(), tx.len()];
        let exits = if setup.role.sends() { tx.len() } else { usize::from(answers(setup)) };
        Ok(Self {
            mac: MacAddr(port.mac().0),
            mtu: port.mtu().unwrap_or(DEFAULT_MTU),
            multi_segment: port.info().tx_multi_segs,
            udp_checksum_offload: port.info().tx_udp_checksum,
            nic_clock: nic_clock.clone(),
            device: Device::Dpdk(port, PortStats::default(), nic_clock),
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
            nic_clock: None,
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
            nic_clock: None,
            rx: Some(Rx::Feed(Arc::new(ArrayQueue::new(FEED_QUEUE)), Some(reader))),
            tx: Vec::new(),
        })
    }
}

/// The clock that a started port stamps by, where that is wanted and the driver has it.
fn nic_clock(setup: &PortConfig, port: &Port) -> Result<Option<Arc<NicClock>>, StartError> {
    if setup.rx_timestamps == RxTimestamps::Software || !setup.role.captures() {
        return Ok(None);
    }
    let field = port.capabilities().and_then(|capabilities| capabilities.rx_timestamps);
    let measured = field.map(|field| NicClock::measure(port, field));
    let lack = match measured {
        Some(Ok(clock)) => return Ok(Some(Arc::new(clock))),
        Some(Err(error)) => error.to_string(),
        None => "it does not stamp what it receives".to_owned(),
    };
    let driver = port.driver_name();
    if setup.rx_timestamps == RxTimestamps::Hardware {
        let (name, driver) = (setup.name.clone(), driver.to_owned());
        return Err(StartError::NoTimestamps { name, driver, lack });
    }
    tracing::info!(
        port = setup.name,
        driver,
        lack,
        "no hardware time stamps: packets have the time of their batch"
    );
    Ok(None)
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
