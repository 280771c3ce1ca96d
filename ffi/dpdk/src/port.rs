//! How a port is opened and configured, what it offers, and what it counts.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dpdk_sys::{
    sluice_link, sluice_port_conf, sluice_port_info, sluice_port_stats, sluice_rss, sluice_xstat,
};

use crate::SocketId;
use crate::eal::Eal;
use crate::mbuf_meta::RxTimestampField;
use crate::mempool::Mempool;
use crate::port_error::{PortError, PortStep};
use crate::queue::{RxQueue, TxQueue};

/// Ethernet header, CRC and two VLAN tags: what a frame has beyond the MTU.
const FRAME_OVERHEAD: u32 = 14 + 4 + 8;

/// Drivers that take packets of several segments and do not say so (22.11): `net_null` only frees them,
/// `net_pcap` gathers them.
const CHAINS_UNSAID: [&str; 2] = ["net_null", "net_pcap"];

/// The key that gives both directions of a flow one hash: 0x6d5a repeated (Woo and Park, 2012).
const SYMMETRIC_KEY: [u8; 64] = {
    let mut key = [0x6d; 64];
    let mut i = 1;
    while i < key.len() {
        key[i] = 0x5a;
        i += 2;
    }
    key
};

/// Counters of a driver that are read, at most: some have dozens for each queue.
pub const MAX_XSTATS: usize = 1_024;

/// What a NIC spreads packets over receive queues by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RssHash {
    /// Not at all: everything to queue 0.
    #[default]
    Off,
    /// IP addresses.
    Addresses,
    /// IP addresses, and TCP, UDP and SCTP ports where there are.
    AddressesPorts,
}

/// How to configure a [`Port`].
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of each receive queue; 0 = the driver's choice. Adjusted to what the driver takes.
    pub rx_desc: u16,
    /// Descriptors of each transmit queue; the same.
    pub tx_desc: u16,
    /// The MTU to set; `None` = leave it.
    pub mtu: Option<u16>,
    /// Where received packets go. A driver without scatter cuts or drops frames above its data room.
    pub pool: Mempool,
    /// Receive frames for all addresses; a driver that cannot filter is fine.
    pub promiscuous: bool,
    /// What spreads packets over several receive queues.
    pub rss: RssHash,
    /// One hash for both directions of a flow (with the key that is known for it, where the driver takes a key).
    pub rss_symmetric: bool,
    /// Receive interrupts, for a [`RxWaiter`](crate::RxWaiter); a driver without them is fine.
    pub rx_interrupts: bool,
    /// Let the NIC check checksums on receive.
    pub rx_checksum: bool,
    /// Let the NIC stamp what it receives ([`Mbuf::rx_timestamp`](crate::Mbuf::rx_timestamp)).
    pub rx_timestamps: bool,
    /// Let the NIC fill in UDP checksums on request ([`Mbuf::set_tx_udp_checksum`](crate::Mbuf::set_tx_udp_checksum)).
    pub tx_udp_checksum: bool,
}

impl PortConfig {
    /// One queue each way, promiscuous, the rest left to the driver.
    #[must_use]
    pub fn new(pool: Mempool) -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_desc: 0,
            tx_desc: 0,
            mtu: None,
            pool,
            promiscuous: true,
            rss: RssHash::Off,
            rss_symmetric: true,
            rx_interrupts: false,
            rx_checksum: false,
            rx_timestamps: false,
            tx_udp_checksum: true,
        }
    }
}

/// What a configured port does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCapabilities {
    /// Frames above the data room come in several segments (where the driver needs telling; some, such as
    /// `net_pcap` and `net_memif`, always do and do not say so).
    pub rx_scatter: bool,
    /// Packets of several segments can be sent.
    pub tx_multi_segs: bool,
    /// UDP checksums are filled in on request.
    pub tx_udp_checksum: bool,
    /// Checksums are checked on receive.
    pub rx_checksum: bool,
    /// Where received packets have the time stamp of the NIC; `None` = it does not stamp.
    pub rx_timestamps: Option<RxTimestampField>,
    /// Packets are spread over the receive queues.
    pub rss: bool,
    /// Receive interrupts were set up; some drivers say so and have none.
    pub rx_interrupts: bool,
    /// Descriptors of each receive queue.
    pub rx_desc: u16,
    /// Descriptors of each transmit queue.
    pub tx_desc: u16,
}

/// How a started port spreads packets over its receive queues, as far as its driver tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RssState {
    /// Whether addresses alone are hashed (of packets without ports, or of all).
    pub addresses: bool,
    /// Whether ports of TCP, UDP or SCTP are hashed with the addresses.
    pub ports: bool,
    /// The key of the Toeplitz hash; empty = the driver does not tell.
    pub key: Vec<u8>,
    /// The queue for each remainder of the hash by the length of the table; empty = the driver does not tell.
    pub table: Vec<u16>,
}

/// What a driver says about a port before it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Largest frame it receives, with CRC; some drivers say 4 GiB for "any".
    pub max_rx_frame_len: u32,
    /// Smallest MTU.
    pub min_mtu: u16,
    /// Largest MTU.
    pub max_mtu: u16,
    /// Most receive queues.
    pub max_rx_queues: u16,
    /// Most transmit queues.
    pub max_tx_queues: u16,
    /// Sends packets of several segments.
    pub tx_multi_segs: bool,
    /// Fills in UDP checksums.
    pub tx_udp_checksum: bool,
    /// Stamps what it receives.
    pub rx_timestamps: bool,
    /// Spreads over queues by addresses.
    pub rss: bool,
    /// The NUMA node it is at.
    pub socket: SocketId,
    /// The kernel interface behind it, by index; 0 = none.
    pub if_index: u32,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// The counters of a port, as its driver keeps them (`rte_eth_stats`). Not consistent across fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub ipackets: u64,
    /// Packets sent.
    pub opackets: u64,
    /// Bytes received.
    pub ibytes: u64,
    /// Bytes sent.
    pub obytes: u64,
    /// Packets the NIC dropped because the receive queues were full.
    pub imissed: u64,
    /// Packets received with errors.
    pub ierrors: u64,
    /// Packets that failed to be sent.
    pub oerrors: u64,
    /// Packets dropped because the mempool was empty.
    pub rx_nombuf: u64,
}

/// The state of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Megabits a second; `None` = unknown.
    pub speed_mbps: Option<u32>,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// A port, from its opening to its closing. It is closed when it and all its queues are dropped.
///
/// Counters and link state may be read from a control thread while workers use the queues.
#[derive(Debug)]
pub struct Port(Arc<PortInner>);

pub(crate) struct PortInner {
    pub(crate) id: u16,
    name: String,
    driver: String,
    info: PortInfo,
    /// Set when started.
    configured: OnceLock<Configured>,
    /// Control calls on one port must not run beside each other.
    control: Mutex<()>,
    eal: Eal,
}

#[derive(Debug)]
struct Configured {
    capabilities: PortCapabilities,
    /// Where the driver puts received packets: alive until the port is closed.
    _pool: Mempool,
}

impl PortInner {
    /// The name of the device.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether receive interrupts were set up.
    pub(crate) fn has_rx_interrupts(&self) -> bool {
        self.configured.get().is_some_and(|configured| configured.capabilities.rx_interrupts)
    }
}

impl fmt::Debug for PortInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for PortInner {
    fn drop(&mut self) {
        let id = self.id;
        self.eal.release_port(id, || {
            // SAFETY: EAL is up, and no queue of the port exists any more: each holds us.
            // A device that is gone cannot be closed, which changes nothing for us.
            let _ret: i32 = unsafe { dpdk_sys::sluice_port_close(id) };
        });
    }
}

impl Port {
    /// Opens the port of this name: `net_null0`, `0000:01:00.0`.
    pub fn by_name(eal: &Eal, name: &str) -> Result<Self, PortError> {
        let mut id = 0;
        let found = CString::new(name).is_ok_and(|text| {
            // SAFETY: EAL is up, the string is NUL-terminated, and the number is written to a local.
            eal.control(|| unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(text.as_ptr(), &raw mut id) }) == 0
        });
        if !found {
            let known = Self::names(eal).join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            return Err(PortError::NotFound { name: name.to_owned(), known });
        }
        Self::open(eal, id, name)
    }

    /// Opens all ports that are not open.
    pub fn all(eal: &Eal) -> Result<Vec<Self>, PortError> {
        let mut ports = Vec::new();
        for id in Self::ids(eal) {
            match Self::open(eal, id, &format!("port {id}")) {
                Ok(port) => ports.push(port),
                Err(PortError::AlreadyOpen(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ports)
    }

    /// The names of all ports, open or not.
    #[must_use]
    pub fn names(eal: &Eal) -> Vec<String> {
        Self::ids(eal).into_iter().filter_map(|id| Some(text(&raw_info(eal, id).ok()?.name))).collect()
    }

    fn ids(eal: &Eal) -> Vec<u16> {
        eal.control(|| {
            let mut ids = Vec::new();
            let mut from = 0;
            loop {
                // SAFETY: EAL is up; any number may be asked for.
                let id = unsafe { dpdk_sys::sluice_port_next(from) };
                if id == u16::MAX {
                    return ids;
                }
                ids.push(id);
                from = id + 1;
            }
        })
    }

    fn open(eal: &Eal, id: u16, asked: &str) -> Result<Self, PortError> {
        if !eal.claim_port(id) {
            return Err(PortError::AlreadyOpen(asked.to_owned()));
        }
        let raw = raw_info(eal, id).map_err(|ret| {
            eal.release_port(id, || {});
            PortError::of(asked, PortStep::Info, ret, 0)
        })?;
        let info = PortInfo {
            max_rx_frame_len: raw.max_rx_pktlen,
            min_mtu: raw.min_mtu,
            max_mtu: raw.max_mtu,
            max_rx_queues: raw.max_rx_queues,
            max_tx_queues: raw.max_tx_queues,
            tx_multi_segs: raw.tx_offload_capa & dpdk_sys::SLUICE_ETH_TX_OFFLOAD_MULTI_SEGS != 0
                || CHAINS_UNSAID.contains(&text(&raw.driver).as_str()),
            tx_udp_checksum: raw.tx_offload_capa & dpdk_sys::SLUICE_ETH_TX_OFFLOAD_UDP_CKSUM != 0,
            rx_timestamps: raw.rx_offload_capa & dpdk_sys::SLUICE_ETH_RX_OFFLOAD_TIMESTAMP != 0,
            rss: raw.rss_capa & dpdk_sys::SLUICE_ETH_RSS_IP != 0,
            socket: SocketId::from_raw(raw.socket),
            if_index: raw.if_index,
        };
        Ok(Self(Arc::new(PortInner {
            id,
            name: text(&raw.name),
            driver: text(&raw.driver),
            info,
            configured: OnceLock::new(),
            control: Mutex::new(()),
            eal: eal.clone(),
        })))
    }

    /// Configures and starts the port, and gives out its queues. When it fails, the port is closed.
    pub fn configure(self, config: &PortConfig) -> Result<(Self, Vec<RxQueue>, Vec<TxQueue>), PortError> {
        let inner = &self.0;
        let info = &inner.info;
        if inner.configured.get().is_some() {
            return Err(PortError::AlreadyConfigured(inner.name.clone()));
        }
        for (direction, asked, max) in [
            ("receive", config.rx_queues, info.max_rx_queues),
            ("transmit", config.tx_queues, info.max_tx_queues),
        ] {
            if asked > max {
                return Err(PortError::TooManyQueues { name: inner.name.clone(), direction, asked, max });
            }
        }
        if let Some(mtu) = config.mtu {
            // 0 in dev_info: the driver does not say.
            if mtu < info.min_mtu || (info.max_mtu != 0 && mtu > info.max_mtu) {
                let (min, max) = (info.min_mtu, info.max_mtu);
                return Err(PortError::Mtu { name: inner.name.clone(), mtu, min, max });
            }
        }
        // Where mbufs have no room left for the field there are no stamps.
        let stamps = (config.rx_timestamps && info.rx_timestamps)
            .then(|| RxTimestampField::register(&inner.eal).ok())
            .flatten();
        let data_room = config.pool.data_room();
        let key = SYMMETRIC_KEY;
        let mut conf = self.shim_config(config, &key);
        if stamps.is_some() {
            conf.rx_offloads |= dpdk_sys::SLUICE_ETH_RX_OFFLOAD_TIMESTAMP;
        }
        let ret = inner.eal.control(|| {
            // SAFETY: EAL is up; the port is ours and not started; pool and key are alive, the pool until the
            // port is closed (kept below, or closed at once by the drop of `self` on an error).
            unsafe { dpdk_sys::sluice_port_start(inner.id, &raw mut conf) }
        });
        if ret != 0 {
            let error = PortError::of(&inner.name, PortStep::of_shim(conf.failed_step), ret, data_room);
            // Close before the caller's pool can go.
            drop(self);
            return Err(error);
        }
        let capabilities = PortCapabilities {
            rx_scatter: conf.rx_offloads & dpdk_sys::SLUICE_ETH_RX_OFFLOAD_SCATTER != 0,
            tx_multi_segs: info.tx_multi_segs,
            tx_udp_checksum: conf.tx_offloads & dpdk_sys::SLUICE_ETH_TX_OFFLOAD_UDP_CKSUM != 0,
            rx_checksum: conf.rx_offloads & dpdk_sys::SLUICE_ETH_RX_OFFLOAD_UDP_CKSUM != 0,
            rx_timestamps: stamps
                .filter(|_| conf.rx_offloads & dpdk_sys::SLUICE_ETH_RX_OFFLOAD_TIMESTAMP != 0),
            rss: conf.rss_hf != 0,
            rx_interrupts: conf.rx_interrupts != 0,
            rx_desc: conf.rx_desc,
            tx_desc: conf.tx_desc,
        };
        inner.configured.get_or_init(|| Configured { capabilities, _pool: config.pool.clone() });
        let rx = (0..config.rx_queues).map(|queue| RxQueue::new(Arc::clone(inner), queue)).collect();
        let tx = (0..config.tx_queues).map(|queue| TxQueue::new(Arc::clone(inner), queue)).collect();
        Ok((self, rx, tx))
    }

    fn shim_config(&self, config: &PortConfig, key: &[u8; 64]) -> sluice_port_conf {
        let inner = &self.0;
        let mut rx_offloads = 0;
        let mtu = config.mtu.or_else(|| self.mtu()).unwrap_or(1500);
        if u32::from(mtu) + FRAME_OVERHEAD > u32::from(config.pool.data_room()) {
            rx_offloads |= dpdk_sys::SLUICE_ETH_RX_OFFLOAD_SCATTER;
        }
        if config.rx_checksum {
            rx_offloads |= dpdk_sys::SLUICE_ETH_RX_OFFLOAD_IPV4_CKSUM
                | dpdk_sys::SLUICE_ETH_RX_OFFLOAD_UDP_CKSUM
                | dpdk_sys::SLUICE_ETH_RX_OFFLOAD_TCP_CKSUM;
        }
        let mut tx_offloads = dpdk_sys::SLUICE_ETH_TX_OFFLOAD_MULTI_SEGS;
        if config.tx_udp_checksum {
            tx_offloads |= dpdk_sys::SLUICE_ETH_TX_OFFLOAD_UDP_CKSUM;
        }
        let ports =
            dpdk_sys::SLUICE_ETH_RSS_TCP | dpdk_sys::SLUICE_ETH_RSS_UDP | dpdk_sys::SLUICE_ETH_RSS_SCTP;
        let rss_hf = match config.rss {
            RssHash::Off => 0,
            RssHash::Addresses => dpdk_sys::SLUICE_ETH_RSS_IP,
            RssHash::AddressesPorts => dpdk_sys::SLUICE_ETH_RSS_IP | ports,
        };
        let key_len = raw_info(&inner.eal, inner.id).map_or(0, |raw| raw.hash_key_size);
        let key_len = u8::try_from(key_len).unwrap_or(0);
        let with_key = config.rss_symmetric && usize::from(key_len) <= key.len();
        sluice_port_conf {
            rx_queues: config.rx_queues,
            tx_queues: config.tx_queues,
            rx_desc: config.rx_desc,
            tx_desc: config.tx_desc,
            mtu: config.mtu.unwrap_or(0),
            promiscuous: u8::from(config.promiscuous),
            rx_interrupts: u8::from(config.rx_interrupts),
            data_room: u32::from(config.pool.data_room()),
            socket: inner.info.socket.raw(),
            rx_offloads,
            tx_offloads,
            rss_hf,
            rss_key: if with_key { key.as_ptr() } else { std::ptr::null() },
            rss_key_len: if with_key { key_len } else { 0 },
            pool: config.pool.raw(),
            failed_step: 0,
        }
    }

    /// DPDK's number of the port, as in [`Mbuf::port`](crate::Mbuf::port).
    #[must_use]
    pub fn id(&self) -> u16 {
        self.0.id
    }

    /// The name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name of the driver: `net_null`, `net_ixgbe`.
    #[must_use]
    pub fn driver_name(&self) -> &str {
        &self.0.driver
    }

    /// What the driver said when the port was opened.
    #[must_use]
    pub fn info(&self) -> &PortInfo {
        &self.0.info
    }

    /// What the port was configured to do; `None` before that.
    #[must_use]
    pub fn capabilities(&self) -> Option<PortCapabilities> {
        self.0.configured.get().map(|configured| configured.capabilities)
    }

    /// Its Ethernet address.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        MacAddress(self.locked(|| raw_info_unlocked(self.0.id)).map_or([0; 6], |raw| raw.mac))
    }

    /// Its MTU; `None` when the device is gone.
    #[must_use]
    pub fn mtu(&self) -> Option<u16> {
        let mut mtu = 0;
        // SAFETY: EAL is up, the port is ours, and the number is written to a local.
        let ret = self.locked(|| unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.0.id, &raw mut mtu) });
        (ret == 0).then_some(mtu)
    }

    /// Reads the counters.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        let mut raw = sluice_port_stats::default();
        // SAFETY: EAL is up, the port is ours, and the counters are written to a local.
        let ret = self.locked(|| unsafe { dpdk_sys::sluice_port_stats(self.0.id, &raw mut raw) });
        if ret != 0 {
            return Err(PortError::of(&self.0.name, PortStep::Stats, ret, 0));
        }
        Ok(PortStats {
            ipackets: raw.ipackets,
            opackets: raw.opackets,
            ibytes: raw.ibytes,
            obytes: raw.obytes,
            imissed: raw.imissed,
            ierrors: raw.ierrors,
            oerrors: raw.oerrors,
            rx_nombuf: raw.rx_nombuf,
        })
    }

    /// Reads the further counters that the driver has (`rte_eth_xstats_get`), by its own names, [`MAX_XSTATS`] at most.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>, PortError> {
        let mut raw = vec![sluice_xstat::default(); MAX_XSTATS];
        let room = u32::try_from(raw.len()).unwrap_or(0);
        let id = self.0.id;
        // SAFETY: EAL is up, the port is ours, and at most `room` entries are written to an array of so many.
        let ret = self.locked(|| unsafe { dpdk_sys::sluice_port_xstats(id, raw.as_mut_ptr(), room) });
        let Ok(count) = usize::try_from(ret) else {
            return Err(PortError::of(&self.0.name, PortStep::Stats, ret, 0));
        };
        Ok(raw.iter().take(count).map(|counter| (text(&counter.name), counter.value)).collect())
    }

    /// Reads how the port spreads packets over its receive queues. Only of a configured port.
    pub fn rss(&self) -> Result<RssState, PortError> {
        let mut raw = sluice_rss::default();
        // SAFETY: EAL is up, the port is ours, and the answer is written to a local.
        let ret = self.locked(|| unsafe { dpdk_sys::sluice_port_rss(self.0.id, &raw mut raw) });
        if ret != 0 {
            return Err(PortError::of(&self.0.name, PortStep::Rss, ret, 0));
        }
        let ports =
            dpdk_sys::SLUICE_ETH_RSS_TCP | dpdk_sys::SLUICE_ETH_RSS_UDP | dpdk_sys::SLUICE_ETH_RSS_SCTP;
        let key = raw.key.get(..raw.key_len as usize).unwrap_or_default();
        let table = raw.table.get(..raw.table_len as usize).unwrap_or_default();
        Ok(RssState {
            addresses: raw.hf & dpdk_sys::SLUICE_ETH_RSS_IP != 0,
            ports: raw.hf & ports != 0,
            key: key.to_vec(),
            table: table.to_vec(),
        })
    }

    /// Reads the state of the link, without waiting for it to come up.
    pub fn link(&self) -> Result<Link, PortError> {
        let mut raw = sluice_link::default();
        // SAFETY: EAL is up, the port is ours, and the state is written to a local.
        let ret = self.locked(|| unsafe { dpdk_sys::sluice_port_link(self.0.id, &raw mut raw) });
        if ret != 0 {
            return Err(PortError::of(&self.0.name, PortStep::Link, ret, 0));
        }
        Ok(Link {
            up: raw.up != 0,
            speed_mbps: (raw.speed_mbps != 0).then_some(raw.speed_mbps),
            full_duplex: raw.full_duplex != 0,
        })
    }

    /// Reads the clock that received packets are stamped by (`rte_eth_timesync_read_time`; of drivers without PTP,
    /// `rte_eth_read_clock`): ticks of a rate and an epoch that the driver does not tell. Only of a started port.
    pub fn clock(&self) -> Result<u64, PortError> {
        let mut ticks = 0;
        // SAFETY: EAL is up, the port is ours, and the number is written to a local.
        let ret = self.locked(|| unsafe { dpdk_sys::sluice_port_clock(self.0.id, &raw mut ticks) });
        if ret != 0 {
            return Err(PortError::of(&self.0.name, PortStep::Clock, ret, 0));
        }
        Ok(ticks)
    }

    /// Whether the device was pulled out.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        // SAFETY: EAL is up and the port is ours.
        self.locked(|| unsafe { dpdk_sys::rte_eth_dev_is_removed(self.0.id) }) == 1
    }

    fn locked<T>(&self, call: impl FnOnce() -> T) -> T {
        let _lock = self.0.control.lock().unwrap_or_else(PoisonError::into_inner);
        call()
    }
}

fn raw_info(eal: &Eal, id: u16) -> Result<sluice_port_info, i32> {
    eal.control(|| raw_info_unlocked(id))
}

/// Asks for a port's properties; EAL is up, as the callers' handles prove.
fn raw_info_unlocked(id: u16) -> Result<sluice_port_info, i32> {
    // SAFETY: integers and arrays of them, for which all-zero is a value.
    let mut raw: sluice_port_info = unsafe { std::mem::zeroed() };
    // SAFETY: EAL is up; an unknown number gives an error; the answer is written to a local.
    let ret = unsafe { dpdk_sys::sluice_port_info(id, &raw mut raw) };
    if ret == 0 { Ok(raw) } else { Err(ret) }
}

/// A string of the shim, always NUL-terminated within its array.
fn text(bytes: &[c_char]) -> String {
    debug_assert!(bytes.contains(&0));
    // SAFETY: the shim zeroes the array and leaves the last byte alone.
    unsafe { CStr::from_ptr(bytes.as_ptr()) }.to_string_lossy().into_owned()
}
