//! The validated boot config: what `sluiced run` needs to know before the first packet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::{
    ApiSettings, BreakerSettings, DecapSettings, DedupSettings, FeedGuard, FlowSettings, LogSettings,
    MacAddr, MetricsSettings, MirrorSettings, OvsSettings, PortId, ProtectionSettings, RateLimit, TapSide,
    WorkerSettings,
};

/// What the daemon is started with. Limits and ports of it may change while it runs
/// ([`BootChange`](crate::spec::BootChange)), and policies; all else does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootConfig {
    /// What the defaults are made for.
    pub profile: Profile,
    /// The policy file; a relative path in the file was taken relative to the folder of the boot config.
    pub policy: PathBuf,
    /// How DPDK's environment is started.
    pub eal: EalSettings,
    /// The cores that move packets.
    pub worker: WorkerSettings,
    /// The packet buffers.
    pub memory: MemorySettings,
    /// How duplicates are recognised.
    pub dedup: DedupSettings,
    /// How flows are metered.
    pub flow: FlowSettings,
    /// What is done with tunnels and VLAN tags where a port says nothing else.
    pub decap: DecapSettings,
    /// How much may leave for all destinations together; `None` = any.
    pub limit: Option<RateLimit>,
    /// When distribution by an interface stops; `None` = never.
    pub breaker: Option<BreakerSettings>,
    /// Where the API is served.
    pub api: ApiSettings,
    /// The ports by their numbers: in the order of the file, then those that were added later. One that was
    /// [removed](PortRole::Removed) keeps its number.
    pub ports: Vec<PortConfig>,
    /// The taps that have names, and how frames are marked with them.
    pub mirror: MirrorSettings,
    /// Whether Sluice ignores its own copies on capture ports.
    pub loop_guard: bool,
    /// Where metrics are served; `None` = nowhere.
    pub metrics: Option<MetricsSettings>,
    /// Where names of virtual machines and ports are learned; `None` = nowhere.
    pub ovs: Option<OvsSettings>,
    /// How much the daemon may take of its machine.
    pub protection: ProtectionSettings,
    /// Where logs go.
    pub log: LogSettings,
    /// How much is logged.
    pub log_level: LogLevel,
    /// Seconds between two lines of statistics in the log; `None` = no such lines.
    pub stats_interval_s: Option<u32>,
}

impl BootConfig {
    /// The names of the ports by number, as policies use them: none has that of one that was removed.
    #[must_use]
    pub fn port_names(&self) -> Vec<String> {
        let name = |port: &PortConfig| if port.is_removed() { String::new() } else { port.name.clone() };
        self.ports.iter().map(name).collect()
    }

    /// Puts a port in its place, which is the next one, or that of another one.
    pub fn set_port(&mut self, number: PortId, port: PortConfig) {
        match self.ports.get_mut(number.index()) {
            Some(own) => *own = port,
            None => self.ports.push(port),
        }
    }

    /// The number for a port of this name that comes while the daemon runs with room for so many ports, removed ones among
    /// them; `None` = there is no room. Under its name it goes on counting; what another one counted is best left alone.
    #[must_use]
    pub fn place_for(&self, name: &str, room: usize) -> Option<PortId> {
        let removed = |wanted: &dyn Fn(&PortConfig) -> bool| {
            self.ports.iter().position(|port| port.is_removed() && wanted(port))
        };
        let fresh = || Some(self.ports.len()).filter(|&next| next < room);
        let place = removed(&|port| port.name == name).or_else(fresh).or_else(|| removed(&|_| true));
        place.and_then(|place| u16::try_from(place).ok()).map(PortId)
    }
}

/// What the defaults of a boot config are made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// A machine of its own: tables and pools follow its memory.
    #[default]
    Standard,
    /// A share of a machine that does something else: one worker, no hugepages, 128 MB resident in all.
    Small,
}

impl Profile {
    /// The profiles by their names in configurations.
    pub const NAMES: [(&'static str, Self); 2] = [("standard", Self::Standard), ("small", Self::Small)];
}

/// How DPDK's environment abstraction layer is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EalSettings {
    /// Where packet memory comes from.
    pub hugepages: Hugepages,
    /// Memory for DPDK in MiB; `None` = as much as the memory plan asks for.
    pub memory_mb: Option<u32>,
    /// More arguments for EAL, as on the command line of any DPDK program.
    pub args: Vec<String>,
}

/// Where packet memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Hugepages if there are any, else ordinary pages.
    #[default]
    Auto,
    /// Ordinary pages.
    Never,
    /// Hugepages, or no start.
    Require,
}

/// The packet buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemorySettings {
    /// The number of mbufs; `None` = computed from ports and queues.
    pub mbufs: Option<u32>,
    /// Bytes of packet data in one mbuf, headroom not counted; `None` = the engine's own number.
    pub data_room_bytes: Option<u16>,
    /// The number of small mbufs for headers and shared copies; `None` = as many as there are mbufs, or more.
    pub headers: Option<u32>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the levels of every logger")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Whose time the packets of a DPDK port have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxTimestamps {
    /// That of the thread that takes them from their queue.
    #[default]
    Software,
    /// That of the NIC; without, the port is not opened.
    Hardware,
    /// That of the NIC where its driver has it.
    Auto,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// The name that policies use: `[A-Za-z0-9_.-]{1,63}`.
    pub name: String,
    /// The device.
    pub spec: PortSpec,
    /// What it is for.
    pub role: PortRole,
    /// The MTU to set, in bytes; `None` = left as it is.
    pub mtu: Option<u16>,
    /// Own addresses: sources of tunnels, answered by ARP and ND.
    pub addresses: Vec<InterfaceAddr>,
    /// The IPv4 next hop for what is in none of the networks.
    pub gateway: Option<Ipv4Addr>,
    /// The IPv6 next hop for what is in none of the networks.
    pub gateway6: Option<Ipv6Addr>,
    /// The own source MAC address; `None` = the device's.
    pub mac: Option<MacAddr>,
    /// Whether frames to other machines are received.
    pub promiscuous: bool,
    /// Bytes kept of each frame at reception; `None` = all.
    pub snaplen_bytes: Option<u32>,
    /// Whose time its packets have.
    pub rx_timestamps: RxTimestamps,
    /// KiB of the ring that a kernel interface receives into; `None` = the driver's own number.
    pub ring_kib: Option<u32>,
    /// The number of the tap that its frames are of unless they are [marked](MirrorSettings), from 1: flows of different
    /// taps are different flows, ports of one tap (the two directions of a link, say) share them.
    pub tap: u16,
    /// Which side of the path it sees: the `tap_side` of flow records.
    pub tap_side: TapSide,
    /// What is done with tunnels and VLAN tags of its packets.
    pub decap: DecapSettings,
    /// What is done where plain copies would leave by it into a network that is in use.
    pub feed_guard: FeedGuard,
}

impl PortConfig {
    /// What is left of it when it is removed while the daemon runs: its name, beside what it counted.
    #[must_use]
    pub fn removed(&self) -> Self {
        Self {
            role: PortRole::Removed,
            addresses: Vec::new(),
            gateway: None,
            gateway6: None,
            decap: DecapSettings::default(),
            feed_guard: FeedGuard::Off,
            ..self.clone()
        }
    }

    /// Whether it was removed.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.role == PortRole::Removed
    }

    /// Whether it is watched for traffic of others, since plain copies may leave by it: they only may where nothing is
    /// captured, and no address of ours is.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.feed_guard != FeedGuard::Off && self.role == PortRole::Output && self.addresses.is_empty()
    }
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortRole {
    /// Packets come in and are matched.
    Capture,
    /// Copies go out; what comes in is only ARP, ND and the like.
    Output,
    /// Both of these.
    Both,
    /// Neither: it was removed while the daemon runs, and nothing can name it.
    Removed,
}

impl PortRole {
    /// Whether its packets are matched against policies.
    #[must_use]
    pub const fn captures(self) -> bool {
        matches!(self, Self::Capture | Self::Both)
    }

    /// Whether copies may leave by it.
    #[must_use]
    pub const fn sends(self) -> bool {
        matches!(self, Self::Output | Self::Both)
    }
}

/// An own address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceAddr {
    /// The address.
    pub address: IpAddr,
    /// The prefix length: at most 32 or 128.
    pub prefix_len: u8,
}

impl InterfaceAddr {
    /// Whether `other` is in the network of this address, so that it is reached without a gateway.
    #[must_use]
    pub fn on_link(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let hosts = u32::MAX.checked_shr(self.prefix_len.into()).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & !hosts == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let hosts = u128::MAX.checked_shr(self.prefix_len.into()).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & !hosts == 0
            }
            _ => false,
        }
    }

    /// Whether `other` stands for the network of this address, or for all machines in it, and so for none: the first and
    /// the last address of an IPv4 network of more than two (RFC 1122 section 3.2.1.3, RFC 3021).
    #[must_use]
    pub fn names_network(&self, other: IpAddr) -> bool {
        let IpAddr::V4(v4) = other else { return false };
        let hosts = u32::MAX.checked_shr(self.prefix_len.into()).unwrap_or(0);
        let host = v4.to_bits() & hosts;
        self.on_link(other) && hosts > 1 && (host == 0 || host == hosts)
    }
}

impl fmt::Display for InterfaceAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// The device of a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortSpec {
    /// A NIC by its PCI address with the domain, and driver options after a comma: `0000:01:00.0`.
    Pci(String),
    /// Any other device that DPDK drives, in DPDK's words: `net_af_packet0,iface=eth0`.
    Devargs(String),
    /// A capture file that is read once: `pcap:FILE`.
    Pcap(PathBuf),
    /// A kernel interface by Sluice's own driver: `af_packet:IFACE`.
    AfPacket(String),
    /// The socket that a vhost-user switch, such as OVS-DPDK, connects to: `vhost:PATH`.
    Vhost(PathBuf),
}

/// Text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortSpecError {
    /// A short form without its argument.
    #[error("{0}: needs {1} after the colon")]
    Empty(&'static str, &'static str),
    /// The name cannot be that of a kernel interface.
    #[error("{0:?} is no name of a network interface (1 to 15 characters, no slash, no space)")]
    Interface(String),
    /// The path cannot be that of a socket, or not be told to DPDK.
    #[error("{0:?} is no path of a socket (1 to 107 letters, digits and / . _ - + @)")]
    Socket(String),
    /// Nothing of all that.
    #[error(
        "{0:?} is no port: write a PCI address (0000:01:00.0), DPDK devargs (net_af_packet0,iface=eth0), \
         pcap:FILE, af_packet:IFACE or vhost:SOCKET"
    )]
    Unknown(String),
}

impl PortSpec {
    /// What no two ports can share: the device without its options.
    #[must_use]
    pub fn device(&self) -> String {
        match self {
            Self::Pci(devargs) | Self::Devargs(devargs) => devargs.split(',').next().unwrap_or("").to_owned(),
            Self::Pcap(_) | Self::AfPacket(_) | Self::Vhost(_) => self.to_string(),
        }
    }
}

impl FromStr for PortSpec {
    type Err = PortSpecError;

    fn from_str(text: &str) -> Result<Self, PortSpecError> {
        if let Some(file) = text.strip_prefix("pcap:") {
            let empty = PortSpecError::Empty("pcap", "a file");
            return if file.is_empty() { Err(empty) } else { Ok(Self::Pcap(file.into())) };
        }
        if let Some(interface) = text.strip_prefix("af_packet:") {
            return match interface {
                "" => Err(PortSpecError::Empty("af_packet", "an interface")),
                _ if is_interface(interface) => Ok(Self::AfPacket(interface.to_owned())),
                _ => Err(PortSpecError::Interface(interface.to_owned())),
            };
        }
        if let Some(socket) = text.strip_prefix("vhost:") {
            return match socket {
                "" => Err(PortSpecError::Empty("vhost", "the path of a socket")),
                _ if is_socket(socket) => Ok(Self::Vhost(socket.into())),
                _ => Err(PortSpecError::Socket(socket.to_owned())),
            };
        }
        let device = text.split(',').next().unwrap_or("");
        if let Some(address) = pci_address(device) {
            let options = text.strip_prefix(device).unwrap_or("");
            return Ok(Self::Pci(address + options));
        }
        let rest = device.strip_prefix("net_").unwrap_or("");
        let is_driver = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if is_driver {
            Ok(Self::Devargs(text.to_owned()))
        } else {
            Err(PortSpecError::Unknown(text.to_owned()))
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(devargs) | Self::Devargs(devargs) => f.write_str(devargs),
            Self::Pcap(file) => write!(f, "pcap:{}", file.display()),
            Self::AfPacket(interface) => write!(f, "af_packet:{interface}"),
            Self::Vhost(socket) => write!(f, "vhost:{}", socket.display()),
        }
    }
}

/// `0000:01:00.0` or `01:00.0`, given back with the domain.
fn pci_address(text: &str) -> Option<String> {
    let hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
    let (slot, function) = text.rsplit_once('.')?;
    let parts: Vec<&str> = slot.split(':').collect();
    let (domain, bus, device) = match *parts.as_slice() {
        [domain, bus, device] if hex(domain, 4) || hex(domain, 8) => (domain, bus, device),
        [bus, device] => ("0000", bus, device),
        _ => return None,
    };
    let good = hex(bus, 2) && hex(device, 2) && matches!(function.as_bytes(), [b'0'..=b'7']);
    good.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

/// Whether the kernel would take this as an interface's name (IFNAMSIZ; `dev_valid_name`).
fn is_interface(name: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c == ',' || c.is_whitespace() || c.is_control();
    name.len() <= 15 && name != "." && name != ".." && !name.contains(bad)
}

/// Whether this may be the path of a socket (`sun_path` of unix(7)) and a value of DPDK's devargs.
fn is_socket(path: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    (1..=107).contains(&path.len()) && path.chars().all(good) && !path.ends_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_specs_parse_and_print() {
        for (text, spec, shown) in [
            ("0000:01:00.0", PortSpec::Pci("0000:01:00.0".into()), "0000:01:00.0"),
            ("AF:00.1,mprq_en=1", PortSpec::Pci("0000:af:00.1,mprq_en=1".into()), "0000:af:00.1,mprq_en=1"),
            ("net_null0", PortSpec::Devargs("net_null0".into()), "net_null0"),
            (
                "net_pcap0,rx_pcap=/tmp/a.pcap",
                PortSpec::Devargs("net_pcap0,rx_pcap=/tmp/a.pcap".into()),
                "net_pcap0,rx_pcap=/tmp/a.pcap",
            ),
            ("pcap:a,b.pcap", PortSpec::Pcap("a,b.pcap".into()), "pcap:a,b.pcap"),
            ("af_packet:eth0.5", PortSpec::AfPacket("eth0.5".into()), "af_packet:eth0.5"),
            ("vhost:/run/m.sock", PortSpec::Vhost("/run/m.sock".into()), "vhost:/run/m.sock"),
        ] {
            assert_eq!(text.parse::<PortSpec>().as_ref(), Ok(&spec), "{text}");
            assert_eq!(spec.to_string(), shown);
        }
        for bad in [
            "",
            "eth0",
            "net_",
            "pcap:",
            "af_packet:",
            "af_packet:a/b",
            "01:00.8",
            "1:00.0",
            "net-null0",
            "vhost:",
            "vhost:/run/a,server=0",
            "vhost:/run/",
        ] {
            assert!(bad.parse::<PortSpec>().is_err(), "{bad}");
        }
        assert!(format!("vhost:/{}", "a".repeat(106)).parse::<PortSpec>().is_ok());
        assert!(format!("vhost:/{}", "a".repeat(107)).parse::<PortSpec>().is_err());
    }

    #[test]
    fn a_port_that_comes_back_has_its_number() {
        let port =
            |name: &str| format!("[[port]]\nname = \"{name}\"\nspec = \"net_null0\"\nrole = \"capture\"\n");
        let text =
            format!("policy = \"p\"\n{}", ["a", "b", "c"].map(port).concat().replacen("null0", "null1", 1));
        let mut boot = crate::spec::parse_boot("b", &text.replacen("null0", "null2", 1)).unwrap().value;
        assert_eq!(boot.place_for("d", 4), Some(PortId(3)));
        assert_eq!(boot.place_for("d", 3), None);
        for port in &mut boot.ports[1..] {
            *port = port.removed();
        }
        assert_eq!(boot.place_for("c", 4), Some(PortId(2)));
        assert_eq!(boot.place_for("d", 4), Some(PortId(3)));
        assert_eq!(boot.place_for("d", 3), Some(PortId(1)), "the oldest, where there is no other");
        assert_eq!(boot.place_for("a", 3), Some(PortId(1)), "what is there is not removed");
    }

    #[test]
    fn on_link_compares_the_prefix() {
        let own = |address: &str, prefix_len| InterfaceAddr { address: address.parse().unwrap(), prefix_len };
        let on_link = |own: InterfaceAddr, other: &str| own.on_link(other.parse().unwrap());
        assert!(on_link(own("192.0.2.1", 24), "192.0.2.254"));
        assert!(!on_link(own("192.0.2.1", 24), "192.0.3.1"));
        assert!(!on_link(own("192.0.2.1", 32), "192.0.2.2"));
        assert!(on_link(own("192.0.2.1", 0), "8.8.8.8"));
        assert!(on_link(own("2001:db8::1", 64), "2001:db8::ffff"));
        assert!(!on_link(own("2001:db8::1", 64), "192.0.2.1"));
    }
}
