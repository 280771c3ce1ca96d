//! Sluice's own driver for kernel interfaces: how do frames get from a kernel interface into the broker, and
//! back, with nothing changed and nothing lost uncounted?
//!
//! Receive is a `TPACKET_V3` ring (no system call) with `PACKET_VNET_HDR`, so that every frame comes with its
//! original length, its stripped tag (put back: 0x8100 and 0x88a8), the state of its checksum (completed when
//! the sender left it to its NIC), its segment size when it is a super-frame, and a time stamp in
//! nanoseconds. Transmit is one `sendmmsg` per burst, on the same socket, so that a port does not receive what
//! it sends. The control handle reads the kernel's drop counters and follows the link by netlink.
//! There is no fanout, and so no reassembly of fragments by the kernel.
//!
//! What the kernel still keeps from us: a super-frame of a kind that `virtio_net_hdr` cannot name (SCTP) is
//! dropped by it, and counted in [`AfPacketStats::kernel_drops`].
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod checksum;
mod config;
mod error;
mod frame;
mod link;
mod netlink;
mod port;
mod ring;
mod rx;
mod sys;
mod tx;

pub use config::{AfPacketConfig, RxConfig, TxConfig};
pub use error::AfPacketError;
pub use frame::{GsoKind, RxChecksum, RxMeta};
pub use link::LinkState;
pub use port::{AfPacketPort, AfPacketStats};
pub use rx::AfPacketRx;
pub use sys::interface_index;
pub use tx::{AfPacketTx, TxRefusal};

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use frame::PrepareOptions;
use link::LinkWatch;
use netlink::LinkInfo;
use port::{RxCounters, Shared, TxCounters};
use ring::{MIN_BLOCKS, RingGeometry, RxRing};

/// Entry points for fuzzing the two parsers of kernel data; not part of the driver's interface.
#[doc(hidden)]
pub mod fuzz {
    /// Read the frames of a ring block (without its descriptor) one after another.
    pub fn ring_block(frames: &mut [u8]) {
        let options = super::PrepareOptions { snaplen: 256, finish_checksums: true };
        let mut offset = 0;
        for _ in 0..64 {
            match super::frame::prepare(frames, offset, options) {
                super::frame::Slot::Frame { start, cap_len, next, .. } => {
                    assert!(frames.get(start..start + cap_len).is_some(), "a frame lies in its block");
                    offset = next;
                }
                super::frame::Slot::Refused { next } => offset = next,
                super::frame::Slot::Malformed => return,
            }
        }
    }

    /// Read a datagram from the routing netlink socket.
    pub fn link_messages(datagram: &[u8]) {
        super::netlink::for_each_message(datagram, |_, _| {});
    }
}

/// The kernel's default limit of a super-frame (`GSO_LEGACY_MAX_SIZE`): assumed at least, since merging on
/// receive may be switched on later.
const SUPER_FRAME_BYTES: u32 = 65_536;
/// Ethernet header and two tags.
const LINK_HEADER_BYTES: usize = 22;

/// Open an interface of the calling thread's network namespace.
///
/// An interface that is down is no error: [`AfPacketPort::link`] says so, and traffic starts when it is up.
///
/// # Errors
/// [`AfPacketError`]: no such interface, no permission (CAP_NET_RAW), not Ethernet, settings out of range, no
/// memory for the ring, kernel too old.
pub fn open(
    config: &AfPacketConfig,
) -> Result<(AfPacketPort, Option<AfPacketRx>, Option<AfPacketTx>), AfPacketError> {
    config.validate()?;
    let name = config.interface.as_str();
    let link = LinkWatch::new(name)
        .map_err(AfPacketError::system(name, "RTM_GETLINK"))?
        .ok_or_else(|| AfPacketError::NoSuchInterface { interface: name.to_owned() })?;
    let info = link.info().clone();
    if ![libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&info.arphrd) {
        return Err(AfPacketError::NotEthernet { interface: name.to_owned(), arphrd: info.arphrd });
    }
    // Protocol 0: nothing is received before everything is set up.
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AfPacketError::Permission { interface: name.to_owned(), source },
        _ => AfPacketError::System { interface: name.to_owned(), operation: "socket(AF_PACKET)", source },
    })?;
    let mut memory_bytes = 0;
    let ring = match &config.rx {
        Some(rx) => {
            let ring = set_up_rx(&socket, name, rx, &info)?;
            memory_bytes += ring.1.bytes();
            Some(ring.0)
        }
        None => None,
    };
    if let Some(tx) = &config.tx {
        set_up_tx(&socket, name, tx)?;
        memory_bytes += AfPacketTx::MEMORY_BYTES;
    }
    let protocol = if config.rx.is_some() { u16::try_from(libc::ETH_P_ALL).unwrap_or(3) } else { 0 };
    sys::bind_packet(&socket, info.ifindex, protocol).map_err(|source| match source.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => AfPacketError::NoSuchInterface { interface: name.to_owned() },
        _ => AfPacketError::System { interface: name.to_owned(), operation: "bind", source },
    })?;

    let shared = Arc::new(Shared { socket, rx: RxCounters::default(), tx: TxCounters::default() });
    let rx = ring.zip(config.rx.as_ref()).map(|(ring, rx)| {
        let snaplen = rx.snaplen.map_or(usize::MAX, |snaplen| snaplen as usize);
        let options = PrepareOptions { snaplen, finish_checksums: rx.finish_checksums };
        AfPacketRx::new(ring, options, Arc::clone(&shared))
    });
    let tx = config.tx.as_ref().map(|_| AfPacketTx::new(rx.is_some(), Arc::clone(&shared)));
    Ok((AfPacketPort::new(shared, name, memory_bytes, link), rx, tx))
}

fn set_up_rx(
    socket: &OwnedFd,
    name: &str,
    rx: &RxConfig,
    info: &LinkInfo,
) -> Result<(RxRing, RingGeometry), AfPacketError> {
    let unsupported =
        |feature| move |source| AfPacketError::Unsupported { interface: name.to_owned(), feature, source };
    let on: libc::c_int = 1;
    sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_VERSION, &sys::TPACKET_V3)
        .map_err(unsupported("TPACKET_V3"))?;
    // Must precede the ring: the kernel refuses to change the headers of one that exists.
    sys::set_option(socket, libc::SOL_PACKET, sys::PACKET_VNET_HDR, &on)
        .map_err(unsupported("PACKET_VNET_HDR"))?;
    if rx.ignore_outgoing {
        sys::set_option(socket, libc::SOL_PACKET, sys::PACKET_IGNORE_OUTGOING, &on)
            .map_err(unsupported("PACKET_IGNORE_OUTGOING"))?;
    }
    if let Some(snaplen) = rx.snaplen.filter(|_| !rx.finish_checksums) {
        sys::attach_snaplen(socket, snaplen).map_err(AfPacketError::system(name, "SO_ATTACH_FILTER"))?;
    }
    let max_frame = info.mtu.max(info.gso_max_bytes).max(SUPER_FRAME_BYTES) as usize + LINK_HEADER_BYTES;
    let geometry = RingGeometry::choose(rx.ring_bytes, max_frame).map_err(|block_bytes| {
        AfPacketError::RingTooSmall {
            interface: name.to_owned(),
            ring_bytes: rx.ring_bytes,
            block_bytes,
            min_blocks: MIN_BLOCKS,
        }
    })?;
    let ring =
        RxRing::new(socket, geometry, rx.block_timeout_ms).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOMEM) => {
                AfPacketError::RingMemory { interface: name.to_owned(), ring_bytes: rx.ring_bytes, source }
            }
            _ => AfPacketError::System { interface: name.to_owned(), operation: "PACKET_RX_RING", source },
        })?;
    if rx.promiscuous {
        let membership = libc::packet_mreq {
            mr_ifindex: info.ifindex,
            mr_type: u16::try_from(libc::PACKET_MR_PROMISC).unwrap_or(1),
            mr_alen: 0,
            mr_address: [0; 8],
        };
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
            .map_err(AfPacketError::system(name, "promiscuous mode"))?;
    }
    Ok((ring, geometry))
}

fn set_up_tx(socket: &OwnedFd, name: &str, tx: &TxConfig) -> Result<(), AfPacketError> {
    let on: libc::c_int = 1;
    if let Some(bytes) = tx.sndbuf_bytes {
        let bytes = libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX / 2);
        // FORCE passes net.core.wmem_max but needs CAP_NET_ADMIN; without it, as much as is allowed.
        sys::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
            .or_else(|_| sys::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes))
            .map_err(AfPacketError::system(name, "SO_SNDBUF"))?;
    }
    if tx.qdisc_bypass {
        sys::set_option(socket, libc::SOL_PACKET, sys::PACKET_QDISC_BYPASS, &on)
            .map_err(AfPacketError::system(name, "PACKET_QDISC_BYPASS"))?;
    }
    Ok(())
}
