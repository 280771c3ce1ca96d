//! What may an operator set on a kernel interface, and what is refused before any socket is made?

use crate::error::AfPacketError;

/// Longest interface name the kernel takes: `IFNAMSIZ` less the terminating zero.
const INTERFACE_NAME_MAX: usize = 15;
/// Smallest snap length: room for Ethernet, two tags, IPv6 and a TCP header without options.
const SNAPLEN_MIN: u32 = 96;
/// Largest ring: the kernel pins all of it, outside every cgroup's page cache limits.
const RING_BYTES_MAX: usize = 4 << 30;

/// How to open one kernel interface. `rx`, `tx` or both must be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfPacketConfig {
    /// Name of the interface in the network namespace of the calling thread.
    pub interface: String,
    /// Receive side, if wanted.
    pub rx: Option<RxConfig>,
    /// Transmit side, if wanted.
    pub tx: Option<TxConfig>,
}

/// The receive ring and what is done to a frame before it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RxConfig {
    /// Memory of the ring. Rounded down to whole blocks; the kernel allocates all of it at once.
    pub ring_bytes: usize,
    /// Longest time a received frame waits in a block that is not full. 1 ms or more.
    pub block_timeout_ms: u32,
    /// Bytes kept of each frame (re-inserted tag included); `None` keeps all.
    pub snaplen: Option<u32>,
    /// Receive frames for other hosts too.
    pub promiscuous: bool,
    /// Leave out what this host sends through the interface (`PACKET_IGNORE_OUTGOING`). What this very
    /// port transmits is never seen by its receive side, whatever this says.
    pub ignore_outgoing: bool,
    /// Complete checksums that the sender left to its NIC (`CHECKSUM_PARTIAL`). Needs whole frames: a
    /// snap length is then applied after the kernel has copied the frame, not before.
    pub finish_checksums: bool,
}

impl Default for RxConfig {
    fn default() -> Self {
        Self {
            ring_bytes: 32 << 20,
            block_timeout_ms: 1,
            snaplen: None,
            promiscuous: true,
            ignore_outgoing: false,
            finish_checksums: true,
        }
    }
}

/// The transmit side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxConfig {
    /// Bytes (kernel accounting, about twice the payload) that may wait below the socket; `None` leaves
    /// the system default. More than `net.core.wmem_max` needs CAP_NET_ADMIN.
    pub sndbuf_bytes: Option<u32>,
    /// Hand frames straight to the driver (`PACKET_QDISC_BYPASS`): faster, but a full driver queue drops,
    /// and other captures on this host do not see the frames.
    pub qdisc_bypass: bool,
}

impl AfPacketConfig {
    /// Refuse what the kernel would refuse with a bare `EINVAL`.
    pub(crate) fn validate(&self) -> Result<(), AfPacketError> {
        let refuse =
            |field, value: String, reason| Err(AfPacketError::InvalidConfig { field, value, reason });
        if self.interface.is_empty() || self.interface.len() > INTERFACE_NAME_MAX {
            return refuse("interface", self.interface.clone(), "a name has 1 to 15 bytes");
        }
        if self.interface.bytes().any(|b| b == 0 || b == b'/' || b.is_ascii_whitespace()) {
            return refuse("interface", self.interface.clone(), "no '/', blanks or zero bytes in a name");
        }
        if self.rx.is_none() && self.tx.is_none() {
            return refuse("rx/tx", "none".to_owned(), "give a receive side, a transmit side or both");
        }
        if let Some(rx) = &self.rx {
            if rx.block_timeout_ms == 0 || rx.block_timeout_ms > 10_000 {
                return refuse("block_timeout_ms", rx.block_timeout_ms.to_string(), "1 to 10000");
            }
            if rx.snaplen.is_some_and(|snaplen| snaplen < SNAPLEN_MIN) {
                return refuse("snaplen", rx.snaplen.unwrap_or(0).to_string(), "at least 96 bytes");
            }
            if rx.ring_bytes > RING_BYTES_MAX {
                return refuse("ring_bytes", rx.ring_bytes.to_string(), "at most 4 GiB");
            }
        }
        Ok(())
    }
}
