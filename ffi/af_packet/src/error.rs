//! Why could a kernel interface not be opened, and what can the operator do about it?

use std::io;

/// Errors of [`open`](crate::open) and of the control handle.
#[derive(Debug, thiserror::Error)]
pub enum AfPacketError {
    /// No interface of that name in this network namespace.
    #[error("interface '{interface}' does not exist in this network namespace (see `ip link`)")]
    NoSuchInterface {
        /// The name asked for.
        interface: String,
    },
    /// The process may not open packet sockets.
    #[error(
        "interface '{interface}': not permitted to open a packet socket: run as root or grant CAP_NET_RAW \
         (`setcap cap_net_raw+ep`)"
    )]
    Permission {
        /// The interface.
        interface: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The interface carries something other than Ethernet frames.
    #[error(
        "interface '{interface}' is not Ethernet (ARPHRD type {arphrd}); use an Ethernet or veth/tap device"
    )]
    NotEthernet {
        /// The interface.
        interface: String,
        /// Hardware type, `ARPHRD_*` of `linux/if_arp.h`.
        arphrd: u16,
    },
    /// A setting is out of range.
    #[error("af_packet {field} = {value}: {reason}")]
    InvalidConfig {
        /// Name of the setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        reason: &'static str,
    },
    /// The ring is smaller than two blocks of the largest frame.
    #[error(
        "interface '{interface}': ring_bytes = {ring_bytes} is too small: its largest frame needs blocks of \
         {block_bytes} bytes and at least {min_blocks} of them"
    )]
    RingTooSmall {
        /// The interface.
        interface: String,
        /// What was asked for.
        ring_bytes: usize,
        /// Block size needed.
        block_bytes: usize,
        /// Least number of blocks.
        min_blocks: usize,
    },
    /// The kernel could not get the memory of the ring.
    #[error("interface '{interface}': the kernel has no {ring_bytes} bytes for the ring: lower ring_bytes")]
    RingMemory {
        /// The interface.
        interface: String,
        /// What was asked for.
        ring_bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel lacks something the driver needs.
    #[error("interface '{interface}': this kernel refuses {feature}; Linux 5.4 or later is needed")]
    Unsupported {
        /// The interface.
        interface: String,
        /// The socket option.
        feature: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Any other refused system call.
    #[error("interface '{interface}': {operation} failed")]
    System {
        /// The interface.
        interface: String,
        /// The call.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl AfPacketError {
    /// A closure for `map_err` that names the interface and the call.
    pub(crate) fn system(interface: &str, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { interface: interface.to_owned(), operation, source }
    }
}
