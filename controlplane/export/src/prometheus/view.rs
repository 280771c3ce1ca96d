//! What an engine shows: plain data without any of its types.

use sluice_model::DropCounts;

/// The counts of a ledger: of the whole, or of one thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub struct Counts {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub replicas: u64,
    pub drops: DropCounts,
    pub to_files: u64,
    pub ctrl_rx: u64,
    pub ctrl_tx: u64,
    pub ctrl_lost: u64,
    pub truncated: u64,
    pub fragments_unmatched: u64,
    pub decapsulated: u64,
    pub vlan_stripped: u64,
    pub marks_stripped: u64,
    pub marks_unknown: u64,
    /// By the name of what was in the way.
    pub not_decapsulated: Vec<(&'static str, u64)>,
    pub to_workers: u64,
    pub from_distributors: u64,
    pub duplicates: u64,
    pub duplicate_bytes: u64,
    pub dedup_evicted: u64,
}

/// One port.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub struct Port {
    pub name: String,
    pub up: bool,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub lost_before_rx: u64,
    pub tx_errors: u64,
    pub rx_cut: u64,
    pub rx_super_frames: u64,
    pub checksums_finished: u64,
    pub rx_unstamped: u64,
    /// What its device counts, by the names of its driver.
    pub device: Vec<(String, u64)>,
    pub breaker: Option<Breaker>,
}

/// Counters of a device that are told, at most: some drivers have several for each of many queues.
const DEVICE_COUNTERS: usize = 256;

impl Port {
    /// What its device has counted, as far as it is told.
    pub(crate) fn device_counted(&self) -> impl Iterator<Item = &(String, u64)> {
        self.device.iter().filter(|(_, value)| *value > 0).take(DEVICE_COUNTERS)
    }
}

/// The breaker of a port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Breaker {
    /// Whether distribution is stopped.
    pub open: bool,
    /// How often it was.
    pub opened: u64,
    /// The average egress rate, bit/s.
    pub rate_bps: u64,
}

/// One policy in force.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub struct Policy {
    pub name: String,
    pub matched_packets: u64,
    pub matched_bytes: u64,
    pub sent_packets: u64,
    pub drops: DropCounts,
}

/// One destination in force.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub struct Destination {
    pub name: String,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub truncated: u64,
    pub drops: DropCounts,
    /// Of a group: how many of its members are away.
    pub away: Option<u64>,
}

/// Duplicates between two ports.
#[derive(Clone, Debug, Default)]
pub struct DedupPair {
    /// The port of the first copy.
    pub first: String,
    /// The port of the duplicate.
    pub second: String,
    /// Duplicates.
    pub packets: u64,
}

/// One tap, or those without a name together.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub struct Tap {
    pub name: String,
    pub packets: u64,
    pub bytes: u64,
    pub duplicates: u64,
}

/// All numbered tunnels of one kind.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub struct Tunnels {
    pub kind: &'static str,
    pub tunnels: u64,
    pub rx_packets: u64,
    pub lost: u64,
    pub reordered: u64,
    pub duplicates: u64,
    pub restarts: u64,
}

/// How many values are at most so large.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// The bound of each bucket, in the unit of the metric, and the values in it alone.
    pub buckets: Vec<(f64, u64)>,
    /// All values.
    pub count: u64,
    /// Their sum, in the unit of the metric.
    pub sum: f64,
}

/// What one stage did.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub struct Stage {
    pub name: &'static str,
    pub packets: u64,
    pub batches: u64,
    pub cycles: u64,
}

/// The flows of one worker.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub struct Flow {
    pub entries: u64,
    pub table_entries: u64,
    pub created: u64,
    pub table_full: u64,
    pub verdicts_kept: u64,
    pub records: u64,
    pub records_lost: u64,
    pub metrics: u64,
    pub metrics_lost: u64,
    pub metrics_overflows: u64,
    pub metrics_late: u64,
    pub ranges_exhausted: u64,
    /// Each ring out of the worker: its name, what is in it, what it holds at most.
    pub rings: Vec<(&'static str, u64, u64)>,
}

/// One worker or distributor.
#[derive(Clone, Debug, Default)]
pub struct Thread {
    /// `worker0`, `distributor0`.
    pub name: String,
    /// Its own ledger.
    pub counts: Counts,
    /// Times that it slept.
    pub sleeps: u64,
    /// Polls that brought nothing.
    pub idle_polls: u64,
    /// What each stage did.
    pub stages: Vec<Stage>,
    /// Packets that a poll brought.
    pub polls: Histogram,
    /// Packets in a batch; `None` of a distributor.
    pub batches: Option<Histogram>,
    /// Seconds that packets were inside; `None` of a distributor.
    pub delays: Option<Histogram>,
    /// Its flows, where they are metered.
    pub flow: Option<Flow>,
}

/// State and exceptions of the appliance, and what it uses.
#[derive(Clone, Debug, Default)]
pub struct LifeView {
    /// Every state, and whether it is that one.
    pub states: Vec<(&'static str, bool)>,
    /// Every code of exceptions, and how many of them there are.
    pub exceptions: Vec<(&'static str, u64)>,
    /// Processor time over the last interval, thousandths of a core.
    pub cpu_millicores: u64,
    /// The limit of it; 0 = none.
    pub cpu_limit_millicores: u64,
    /// Memory, hugepages included.
    pub memory_bytes: u64,
    /// The limit of it; 0 = none.
    pub memory_limit_bytes: u64,
}

/// A running engine.
#[derive(Clone, Debug, Default)]
pub struct EngineView {
    /// The generation of policies in force.
    pub generation: u64,
    /// The whole account.
    pub counts: Counts,
    /// Packets that are neither sent nor dropped yet.
    pub held: u64,
    /// Packets lost before a driver handed them over.
    pub lost_before_rx: u64,
    /// Workers, then distributors.
    pub threads: Vec<Thread>,
    /// Every port.
    pub ports: Vec<Port>,
    /// Every policy in force.
    pub policies: Vec<Policy>,
    /// Every destination in force.
    pub destinations: Vec<Destination>,
    /// Duplicates by ports.
    pub dedup_pairs: Vec<DedupPair>,
    /// The taps that have names, and the others together.
    pub taps: Vec<Tap>,
    /// Numbered tunnels by kind.
    pub tunnels: Vec<Tunnels>,
    /// Packets of numbered tunnels for which there was no room.
    pub tunnels_full: u64,
    /// Live captures that run.
    pub captures: u64,
    /// Packets handed to their readers.
    pub capture_packets: u64,
    /// Packets that they left out.
    pub capture_lost_packets: u64,
    /// Packet buffers in use.
    pub mbufs_taken: u64,
    /// Packet buffers that there are.
    pub mbufs: u64,
    /// How often the system clock was set.
    pub clock_steps: u64,
    /// How far it is away, nanoseconds.
    pub clock_error_ns: u64,
}

/// What is learned from Open vSwitch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OvsView {
    /// Whether the database is connected.
    pub connected: bool,
    /// For how long it has been away, nanoseconds; 0 = it is not.
    pub away_ns: u64,
    /// How often it was connected.
    pub connects: u64,
    /// How often what it tells changed.
    pub updates: u64,
    /// Names that are known, by their kind.
    pub names: Vec<(&'static str, u64)>,
    /// Names in the policies in force that stand for nothing.
    pub silent: u64,
    /// Policies put in force anew: how it went, and how often.
    pub applies: Vec<(&'static str, u64)>,
}

/// What the API took and refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiView {
    /// Transport, open connections, connections that were let in.
    pub connections: Vec<(&'static str, u64, u64)>,
    /// Requests that were let in, by role.
    pub requests: Vec<(&'static str, u64)>,
    /// Refusals by reason.
    pub refused: Vec<(&'static str, u64)>,
}
