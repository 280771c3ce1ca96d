//! How duplicates are recognised: the `[dedup]` section of the boot config.

/// How duplicates are recognised, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupSettings {
    /// What becomes of a duplicate.
    pub mode: DedupMode,
    /// How long after the first copy a packet is a duplicate, nanoseconds.
    pub window_ns: u64,
    /// Fingerprints that each worker remembers; `None` = as many as memory allows.
    pub entries: Option<u32>,
    /// What of two packets has to be equal.
    pub key: DedupKey,
}

impl DedupSettings {
    /// The shortest window: 50 us.
    pub const MIN_WINDOW_NS: u64 = 50_000;
    /// The longest window: 10 s.
    pub const MAX_WINDOW_NS: u64 = 10_000_000_000;
}

impl Default for DedupSettings {
    fn default() -> Self {
        Self { mode: DedupMode::Off, window_ns: 50_000_000, entries: None, key: DedupKey::default() }
    }
}

/// What becomes of a duplicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DedupMode {
    /// Nobody looks.
    #[default]
    Off,
    /// It ends as `duplicate`.
    Drop,
    /// It is counted, and goes on.
    Count,
}

impl DedupMode {
    /// Every mode with its name in configs and on the command line.
    pub const NAMES: [(&str, Self); 3] = [("off", Self::Off), ("drop", Self::Drop), ("count", Self::Count)];

    /// The name in configs and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Drop => "drop",
            Self::Count => "count",
        }
    }
}

/// What of two IP packets has to be equal, beside the rest of the IP header and the L4 header. Other frames have to be
/// equal in every byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupKey {
    /// Ethernet addresses.
    pub macs: bool,
    /// VLAN ids.
    pub vlan: bool,
    /// TTL or hop limit.
    pub ttl: bool,
    /// TOS or traffic class.
    pub tos: bool,
    /// The checksum of TCP, UDP and SCTP; `None` = not when a kernel interface captures, as its offloads leave it
    /// unfinished.
    pub l4_checksum: Option<bool>,
    /// Which headers of a tunnelled packet.
    pub headers: DedupHeaders,
    /// Bytes after the L4 header.
    pub payload_bytes: u16,
}

impl DedupKey {
    /// The most payload bytes.
    pub const MAX_PAYLOAD_BYTES: u16 = 1500;
}

impl Default for DedupKey {
    fn default() -> Self {
        Self {
            macs: false,
            vlan: false,
            ttl: false,
            tos: false,
            l4_checksum: None,
            headers: DedupHeaders::Auto,
            payload_bytes: 128,
        }
    }
}

/// Which headers of a tunnelled packet are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DedupHeaders {
    /// Those that policies match: the inner ones where tunnels are stripped or looked through.
    #[default]
    Auto,
    /// The outer ones of the packet as it is after stripping.
    Outer,
}
