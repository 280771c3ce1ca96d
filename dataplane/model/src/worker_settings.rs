//! The cores that move packets, and how packets are spread over them.

/// The `[worker]` section of the boot config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerSettings {
    /// The CPUs that workers are pinned to, ascending; empty = chosen from the machine.
    pub lcores: Vec<u16>,
    /// Whether packets go to the workers through distributors.
    pub distributor: DistributorMode,
    /// The CPUs of the distributors, ascending; empty = chosen from the machine, if any is needed.
    pub distributor_lcores: Vec<u16>,
    /// What of a packet decides which worker has it.
    pub spread: SpreadBy,
    /// Packets that may wait between a distributor and a worker; `None` = the engine's own number.
    pub ring_size: Option<u32>,
    /// Descriptors of each receive queue; `None` = the engine's own number.
    pub rx_descriptors: Option<u16>,
    /// Descriptors of each transmit queue; `None` = the engine's own number.
    pub tx_descriptors: Option<u16>,
    /// Packets taken from a queue at once; `None` = the engine's own number.
    pub burst_pkts: Option<u16>,
    /// What a core does when nothing comes.
    pub polling: Polling,
    /// The longest that an idle core sleeps, and so the most that it adds to the delay of a packet, microseconds;
    /// `None` = the engine's own number.
    pub max_sleep_us: Option<u32>,
}

/// Whether packets go to the workers through distributors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DistributorMode {
    /// Where the ports cannot spread packets themselves so that what belongs together stays together.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: RSS of the ports whatever the self-test says, and one worker for a port without.
    Never,
}

/// What of a packet decides which worker has it; the same for both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpreadBy {
    /// Its two IP addresses: all flows between two addresses, with all their fragments, are on one worker.
    #[default]
    Addresses,
    /// Addresses and ports: also the flows between two busy addresses spread. Fragments follow the first one of their
    /// datagram when they come behind it.
    Ports,
}

/// What a core does when nothing comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Polling {
    /// Busy under load; with nothing to do it pauses, then sleeps a little, and is woken where the driver can.
    #[default]
    Adaptive,
    /// Polls, without a pause.
    Always,
}
