//! Why a port could not be opened, configured or asked.

use crate::Errno;

/// Why a port could not be opened, configured or asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// No such port.
    #[error(
        "DPDK has no port {name:?} (it has: {known}); its own messages say if a driver failed. A PCI device must be there and bound to vfio-pci (dpdk-devbind.py --status)"
    )]
    NotFound {
        /// The name asked for.
        name: String,
        /// The names there are, or "none".
        known: String,
    },
    /// Another `Port` owns it.
    #[error("port {0:?} is open already; drop its port and queues first")]
    AlreadyOpen(String),
    /// It was configured already.
    #[error("port {0:?} is configured already; open it anew to configure it otherwise")]
    AlreadyConfigured(String),
    /// Too many queues.
    #[error(
        "port {name:?} offers at most {max} {direction} queues, {asked} were asked; use fewer workers on it"
    )]
    TooManyQueues {
        /// The port.
        name: String,
        /// "receive" or "transmit".
        direction: &'static str,
        /// Asked for.
        asked: u16,
        /// What the driver offers.
        max: u16,
    },
    /// The MTU is out of range.
    #[error("port {name:?}: MTU {mtu} is outside what the driver takes, {min} to {max}")]
    Mtu {
        /// The port.
        name: String,
        /// Asked for.
        mtu: u16,
        /// Smallest.
        min: u16,
        /// Largest.
        max: u16,
    },
    /// Not enough memory.
    #[error(
        "port {name:?}: no memory for its queues ({step}); give EAL more memory, or use fewer or shorter queues"
    )]
    NoMemory {
        /// The port.
        name: String,
        /// What was being done.
        step: PortStep,
    },
    /// The arguments were refused.
    #[error(
        "port {name:?}: the driver refuses {step}; with {data_room} bytes in an mbuf, are frames of the MTU and \
         the pool's mbufs large enough for it?"
    )]
    InvalidArguments {
        /// The port.
        name: String,
        /// What was being done.
        step: PortStep,
        /// Data room of the pool.
        data_room: u16,
    },
    /// Not offered.
    #[error("port {name:?}: the driver does not offer {step}")]
    NotSupported {
        /// The port.
        name: String,
        /// What was being done.
        step: PortStep,
    },
    /// No access.
    #[error("port {name:?}: permission denied at {step}; run as root or give CAP_NET_ADMIN and CAP_NET_RAW")]
    PermissionDenied {
        /// The port.
        name: String,
        /// What was being done.
        step: PortStep,
    },
    /// The device is gone.
    #[error("port {name:?}: the device is gone ({step})")]
    Removed {
        /// The port.
        name: String,
        /// What was being done.
        step: PortStep,
    },
    /// The driver failed with another error.
    #[error("port {name:?}: {step} failed: {errno}; the driver's message is on stderr")]
    Other {
        /// The port.
        name: String,
        /// What was being done.
        step: PortStep,
        /// What DPDK said.
        errno: Errno,
    },
}

/// What was being done with a port when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PortStep {
    /// Asking for its properties.
    Info,
    /// Setting queue numbers, MTU and offloads.
    Configure,
    /// Setting up a receive queue.
    RxQueue,
    /// Setting up a transmit queue.
    TxQueue,
    /// Setting the MTU.
    Mtu,
    /// Starting.
    Start,
    /// Receiving frames for all addresses.
    Promiscuous,
    /// Reading the counters.
    Stats,
    /// Reading the state of the link.
    Link,
    /// Reading how packets are spread over receive queues.
    Rss,
    /// Using receive interrupts.
    Interrupts,
    /// Reading the clock of the device.
    Clock,
}

impl PortStep {
    pub(crate) fn of_shim(step: u32) -> Self {
        match step {
            dpdk_sys::SLUICE_STEP_CONFIGURE => Self::Configure,
            dpdk_sys::SLUICE_STEP_RX_QUEUE => Self::RxQueue,
            dpdk_sys::SLUICE_STEP_TX_QUEUE => Self::TxQueue,
            dpdk_sys::SLUICE_STEP_MTU => Self::Mtu,
            dpdk_sys::SLUICE_STEP_START => Self::Start,
            dpdk_sys::SLUICE_STEP_PROMISCUOUS => Self::Promiscuous,
            _ => Self::Info,
        }
    }
}

impl std::fmt::Display for PortStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Info => "asking for its properties",
            Self::Configure => "configuring queues, MTU and offloads",
            Self::RxQueue => "setting up a receive queue",
            Self::TxQueue => "setting up a transmit queue",
            Self::Mtu => "setting the MTU",
            Self::Start => "starting",
            Self::Promiscuous => "promiscuous mode",
            Self::Stats => "reading the counters",
            Self::Link => "reading the link state",
            Self::Rss => "reading the RSS settings",
            Self::Interrupts => "receive interrupts",
            Self::Clock => "reading its clock",
        })
    }
}

impl PortError {
    /// Names what a driver returned.
    pub(crate) fn of(name: &str, step: PortStep, ret: i32, data_room: u16) -> Self {
        let name = name.to_owned();
        let errno = Errno::from_ret(ret);
        match errno.code() {
            libc::ENOMEM | libc::ENOBUFS => Self::NoMemory { name, step },
            libc::EINVAL | libc::ERANGE => Self::InvalidArguments { name, step, data_room },
            libc::ENOTSUP | libc::ENOSYS => Self::NotSupported { name, step },
            libc::EPERM | libc::EACCES => Self::PermissionDenied { name, step },
            libc::ENODEV | libc::EIO | libc::ENXIO => Self::Removed { name, step },
            _ => Self::Other { name, step, errno },
        }
    }
}
