//! What can be wrong with a switch, and what to do about it.

/// Why a mirror is not set up, found or taken away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OvsError {
    /// `ovs-vsctl` is not on this machine.
    #[error("there is no ovs-vsctl on this machine")]
    NotInstalled,
    /// The database does not answer.
    #[error("the database of Open vSwitch cannot be reached: {0}")]
    Unreachable(String),
    /// The database is not for this user.
    #[error("the database of Open vSwitch may not be opened: {0}")]
    NotAllowed(String),
    /// `ovs-vsctl` gave up.
    #[error("the database of Open vSwitch did not answer within 10 s")]
    Timeout,
    /// `ovs-vsctl` refused.
    #[error("{0}")]
    Refused(String),
    /// What `ovs-vsctl` printed is not what version 2.17 and later print.
    #[error("what ovs-vsctl printed cannot be understood: {0}")]
    Garbled(&'static str),
    /// There is no such bridge.
    #[error("there is no bridge {name}; there is {known}")]
    NoBridge {
        /// What was asked for.
        name: String,
        /// What is there.
        known: String,
    },
    /// The datapath of the bridge is the kernel's.
    #[error(
        "bridge {bridge} has the datapath \"{datapath}\": a vhost-user mirror needs \"netdev\", that of OVS-DPDK"
    )]
    NotNetdev {
        /// The bridge.
        bridge: String,
        /// Its `datapath_type`.
        datapath: String,
    },
    /// OVS runs without DPDK.
    #[error("ovs-vswitchd runs without DPDK")]
    NoDpdk {
        /// Whether it is told to use it.
        wanted: bool,
    },
    /// A name or value that ovs-vsctl, or a socket, cannot have.
    #[error("{what} {value:?} cannot be used: {rule}")]
    BadValue {
        /// Which option.
        what: &'static str,
        /// What it was.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A port or interface of that name is not ours.
    #[error("there is a port {0} already, which is not Sluice's")]
    PortTaken(String),
    /// A mirror of that name is not ours.
    #[error("bridge {bridge} has a mirror {mirror} already, which is not Sluice's")]
    MirrorTaken {
        /// The bridge.
        bridge: String,
        /// The mirror.
        mirror: String,
    },
    /// A mirror that is not ours sends to our port.
    #[error("mirror {mirror}, which is not Sluice's, outputs to port {port}")]
    Foreign {
        /// That mirror.
        mirror: String,
        /// Our port.
        port: String,
    },
    /// Another port has the socket.
    #[error("port {port} has the socket {socket} already")]
    SocketTaken {
        /// The socket.
        socket: String,
        /// That port.
        port: String,
    },
    /// A port to be mirrored is not on the bridge.
    #[error("bridge {bridge} has no port {port}")]
    NoPort {
        /// The bridge.
        bridge: String,
        /// The port.
        port: String,
    },
    /// It is attached in another way.
    #[error("bridge {bridge} is attached already, with {difference}")]
    Differs {
        /// The bridge.
        bridge: String,
        /// What is not as it is asked for.
        difference: String,
    },
    /// Somebody took a part away.
    #[error("the mirror of bridge {0} is not whole: its port or the mirror itself is gone")]
    Incomplete(String),
    /// There is nothing to take away.
    #[error("bridge {0} has no mirror of Sluice's")]
    NotAttached(String),
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OvsErrorKind {
    /// It was refused, or failed.
    Failed,
    /// The arguments make no sense.
    Usage,
    /// The switch cannot be reached.
    Unreachable,
    /// This user may not.
    NotAllowed,
    /// There is no such thing.
    NotFound,
}

impl OvsError {
    /// What `ovs-vsctl` complained of.
    pub(super) fn told(told: &str) -> Self {
        // Twice the name: of the program that failed, and its own in front of its message.
        let text = told.strip_prefix("ovs-vsctl: ").unwrap_or(told);
        let text = text.strip_prefix("ovs-vsctl: ").unwrap_or(text).trim().to_owned();
        if text.contains("database connection failed") {
            if text.contains("Permission denied") { Self::NotAllowed(text) } else { Self::Unreachable(text) }
        } else if text.contains("Alarm clock") || text.contains("signal 14") {
            Self::Timeout
        } else if text.starts_with("No such file or directory") {
            Self::NotInstalled
        } else if text.starts_with("Permission denied") {
            Self::NotAllowed(text)
        } else {
            Self::Refused(text)
        }
    }

    /// What kind of error it is.
    #[must_use]
    pub const fn kind(&self) -> OvsErrorKind {
        match self {
            Self::NotInstalled | Self::Unreachable(_) | Self::Timeout => OvsErrorKind::Unreachable,
            Self::NotAllowed(_) => OvsErrorKind::NotAllowed,
            Self::NoBridge { .. } | Self::NoPort { .. } | Self::NotAttached(_) => OvsErrorKind::NotFound,
            Self::BadValue { .. } => OvsErrorKind::Usage,
            _ => OvsErrorKind::Failed,
        }
    }

    /// What to do about it; `None` = the message says it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::NotInstalled => "install OVS-DPDK: apt-get install openvswitch-switch-dpdk".to_owned(),
            Self::Unreachable(_) => {
                "is ovsdb-server running (systemctl status openvswitch-switch)? Its database is named with --db".to_owned()
            }
            Self::NotAllowed(_) => "run this as root, or as a user of the group that the socket has".to_owned(),
            Self::Timeout => "is ovsdb-server overloaded or stopped? Look at its log".to_owned(),
            Self::NotNetdev { .. } => {
                "traffic of the kernel's datapath is captured from kernel interfaces (spec = \"af_packet:IFACE\")".to_owned()
            }
            Self::NoDpdk { wanted: true } => {
                "dpdk-init is set: look at the log of ovs-vswitchd for why DPDK did not start, and whether ovs-vswitchd is \
                 the one of openvswitch-switch-dpdk (update-alternatives --display ovs-vswitchd)"
                    .to_owned()
            }
            Self::NoDpdk { wanted: false } => {
                "ovs-vsctl set Open_vSwitch . other_config:dpdk-init=true, then restart ovs-vswitchd".to_owned()
            }
            Self::PortTaken(_) => "name another one with --port".to_owned(),
            Self::MirrorTaken { .. } => "name another one with --mirror".to_owned(),
            Self::Foreign { mirror, .. } => format!("whoever made it must end it first (ovs-vsctl list Mirror {mirror})"),
            Self::SocketTaken { .. } => "give each bridge a socket of its own: --socket PATH, and a port of Sluice".to_owned(),
            Self::Differs { bridge, .. } | Self::Incomplete(bridge) => {
                format!("sluice ovs detach {bridge}, then attach again")
            }
            Self::NoPort { bridge, .. } => format!("ovs-vsctl list-ports {bridge} tells which there are"),
            Self::Refused(_)
            | Self::Garbled(_)
            | Self::NoBridge { .. }
            | Self::BadValue { .. }
            | Self::NotAttached(_) => return None,
        })
    }
}
