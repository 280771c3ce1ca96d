//! The network of the soak, and what can be done to it.

use std::path::PathBuf;

use super::sender::Sender;
use super::witness::Witness;
use crate::netns::{Lab, Namespace};
use crate::ovs::Ovs;
use crate::sluiced::cli;

/// Capture interfaces: at the broker, at the sender, the name of the port.
pub const TAPS: [[&str; 3]; 2] = [["va", "pa", "tap0"], ["vb", "pb", "tap1"]];
/// The output interface at the broker, and its other end, a port of the tool's bridge.
pub const OUT: [&str; 2] = ["out0", "in0"];
/// Where the tool is.
pub const TOOL: &str = "192.0.2.10";
/// The tool's bridge: it stays when the interface below goes, and whoever listens on it as well.
const BRIDGE: &str = "tbr";
const TOOL_MAC: &str = "02:00:00:00:07:01";
/// Packets a second by each capture interface, and by OVS.
const RATES: [u32; 2] = [300, 100];
/// Room of the small disk: more than an hour's Parquet files take.
const DISK_KIB: u32 = 256 << 10;

/// The network.
#[derive(Debug)]
pub struct Network {
    /// A real OVS-DPDK, if there is to be one. Ends before its namespace and folder go.
    pub ovs: Option<Ovs>,
    /// The folder and the namespaces.
    pub lab: Lab,
    /// Where the daemon is.
    pub broker: Namespace,
    /// Where packets come from.
    pub net: Namespace,
    /// Where copies go.
    pub tool: Namespace,
    /// What the daemon writes to.
    pub disk: PathBuf,
    switch: Option<[Namespace; 2]>,
}

impl Network {
    /// All of it, and nothing on its way yet. `ovs`: with a real OVS-DPDK; without one that can be had, without. `None`
    /// without root, which is said.
    pub fn new(test: &str, ovs: bool) -> Option<Self> {
        let mut lab = Lab::new(test)?;
        let [broker, net, tool] = ["broker", "net", "tool"].map(|tag| lab.namespace(tag));
        let disk = lab.small_disk(DISK_KIB);
        std::fs::create_dir(disk.join("pcap")).unwrap();
        tool.ip(format!("link add name {BRIDGE} type bridge mcast_snooping 0"));
        tool.silent(BRIDGE);
        tool.ip(format!("link set dev {BRIDGE} address {TOOL_MAC} mtu 1600 up"));
        tool.address(BRIDGE, &[&format!("{TOOL}/24")]);
        // Any VNI: it has all tags, one after the other.
        tool.ip("link add name vx0 type vxlan external dstport 4789 nolearning");
        tool.silent("vx0");
        tool.run("ethtool -K vx0 gro off");
        tool.ip("link set dev vx0 up");
        let switch = ovs.then(|| ["switch", "guest"].map(|tag| lab.namespace(tag)));
        let ovs = switch.as_ref().and_then(|[switch, _]| Ovs::start(&lab, switch));
        let mut network = Self { ovs, lab, broker, net, tool, disk, switch };
        for tap in 0..TAPS.len() {
            network.connect_tap(tap);
        }
        network.connect_tool();
        if network.ovs.is_some() {
            network.attach();
        }
        Some(network)
    }

    /// Makes a capture interface and its other end.
    pub fn connect_tap(&self, tap: usize) {
        let [here, there, _] = TAPS[tap];
        self.broker.veth(here, &self.net, there, 1500);
        self.broker.offloads(here, false);
        self.net.offloads(there, false);
    }

    /// Makes the output interface, and the tool's.
    pub fn connect_tool(&self) {
        let [here, there] = OUT;
        self.broker.veth(here, &self.tool, there, 1600);
        self.broker.offloads(here, false);
        self.tool.offloads(there, false);
        self.tool.ip(format!("link set dev {there} master {BRIDGE}"));
    }

    /// A bridge of OVS with a guest, mirrored to the daemon.
    fn attach(&mut self) {
        let (Some(ovs), Some([switch, guest])) = (&self.ovs, &self.switch) else { return };
        ovs.vsctl(&["add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev"]);
        guest.veth("g0", switch, "p0", 1500);
        guest.offloads("g0", false);
        switch.offloads("p0", false);
        ovs.vsctl(&["add-port", "br0", "p0"]);
        let socket = self.mirror().display().to_string();
        let mut attach = std::process::Command::new(cli());
        attach.args(["ovs", "attach", "br0", "--mtu", "1500", "--socket", &socket, "--db", &ovs.db()]);
        let output = attach.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The socket of the mirror port.
    fn mirror(&self) -> PathBuf {
        self.lab.dir().join("mirror.sock")
    }

    /// The socket of the daemon's API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.lab.dir().join("api.sock")
    }

    /// Begins to send; the streams are numbered from 0 on.
    #[must_use]
    pub fn senders(&self) -> Vec<Sender> {
        let taps = (0_u8..).zip(TAPS);
        let mut senders: Vec<_> =
            taps.map(|(stream, [_, there, _])| Sender::start(&self.net, there, stream, RATES[0])).collect();
        if let (Some(_), Some([_, guest])) = (&self.ovs, &self.switch) {
            senders.push(Sender::start(guest, "g0", 2, RATES[1]));
        }
        senders
    }

    /// Begins to listen at the tool.
    #[must_use]
    pub fn witness(&self) -> Witness {
        Witness::start(self.tool.command("tcpdump"), BRIDGE)
    }

    /// Copies that the tool's kernel took out of their tunnel.
    #[must_use]
    pub fn taken_out(&self) -> u64 {
        self.tool.counters("vx0").rx_packets
    }

    /// The boot config of the daemon, but for what the harness adds. It writes everything to the small disk.
    #[must_use]
    pub fn boot(&self, flush_s: u32) -> String {
        let disk = self.disk.display();
        let mut boot = format!(
            "[metrics]\nlisten = \"{}\"\n\
             [flow]\nflows = 16384\ntimeouts = {{ one_way = 1, other = 1 }}\n\
             [flow.parquet]\nfolder = \"{disk}/records\"\nflush = {flush_s}\ncounters = {flush_s}\nreserve_mb = 1\n\
             [dedup]\nmode = \"drop\"\nwindow = \"1s\"\n\
             [protection]\ninterval = \"100ms\"\nfree_disk_mb = 3\n\
             [api]\nsocket = \"{}\"\npcap_folder = \"{disk}/pcap\"\n\
             [store]\nfolder = \"{disk}/kept\"\n\
             [memory]\nmbufs = 16383\n\
             [worker]\nlcores = [0]\nrx_descriptors = 1024\n",
            super::look::METRICS,
            self.socket().display()
        );
        for [device, _, name] in TAPS {
            boot.extend([format!(
                "[[port]]\nname = \"{name}\"\nspec = \"af_packet:{device}\"\nrole = \"capture\"\n"
            )]);
        }
        if self.ovs.is_some() {
            let socket = self.mirror();
            boot.extend([format!(
                "[[port]]\nname = \"mirror\"\nspec = \"vhost:{}\"\nrole = \"capture\"\n",
                socket.display()
            )]);
        }
        let [out, _] = OUT;
        boot + &format!(
            "[[port]]\nname = \"{out}\"\nspec = \"af_packet:{out}\"\nrole = \"output\"\naddresses = [\"192.0.2.1/24\"]\n"
        )
    }
}
