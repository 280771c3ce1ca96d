//! The network that most live tests use: a client and a server, a broker that sees both, and a tool.
//!
//! ```text
//! client c0 ---- tap0 [br0] srv0 ---- s0 server
//!                     broker
//!                      out0 ---- in0 tool
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::netns::{Lab, Namespace, wait_for};

/// Ports of a boot config on the two interfaces of the broker, as a literal.
#[macro_export]
macro_rules! tap_ports {
    () => {
        r#"
[[port]]
name = "tap0"
spec = "af_packet:tap0"
role = "capture"

[[port]]
name = "out0"
spec = "af_packet:out0"
role = "output"
addresses = ["192.0.2.1/24"]
"#
    };
}

/// Ports of a boot config on the two interfaces of the broker.
pub const PORTS: &str = tap_ports!();

/// Addresses of client and server.
pub const CLIENT: [&str; 2] = ["10.1.0.1", "fd01::1"];
/// Addresses of the server.
pub const SERVER: [&str; 2] = ["10.1.0.2", "fd01::2"];
/// Addresses of the tool on the link to the broker.
pub const TOOL: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
/// Own addresses of the broker on that link, with prefix lengths.
pub const BROKER: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];

/// The four namespaces.
#[derive(Debug)]
pub struct Tap {
    /// Where the traffic comes from.
    pub client: Namespace,
    /// Where it goes.
    pub server: Namespace,
    /// Where the daemon runs.
    pub broker: Namespace,
    /// Where the copies go.
    pub tool: Namespace,
}

impl Tap {
    /// Namespaces and links, all quiet; `mtu` of the tapped links, `tool_mtu` of the link to the tool, offloads on or off everywhere.
    pub fn new(lab: &mut Lab, mtu: u32, tool_mtu: u32, offloads: bool) -> Self {
        let [client, server, broker, tool] =
            ["client", "server", "broker", "tool"].map(|tag| lab.namespace(tag));
        broker.ip("link add name br0 type bridge mcast_snooping 0");
        broker.silent("br0");
        broker.ip(format!("link set dev br0 mtu {mtu} up"));
        client.veth("c0", &broker, "tap0", mtu);
        server.veth("s0", &broker, "srv0", mtu);
        for port in ["tap0", "srv0"] {
            broker.ip(format!("link set dev {port} master br0"));
        }
        broker.veth("out0", &tool, "in0", tool_mtu);
        for (namespace, device) in [
            (&client, "c0"),
            (&broker, "tap0"),
            (&broker, "srv0"),
            (&server, "s0"),
            (&broker, "out0"),
            (&tool, "in0"),
        ] {
            namespace.offloads(device, offloads);
        }
        client.address("c0", &CLIENT.map(with_prefix));
        server.address("s0", &SERVER.map(with_prefix));
        tool.address("in0", &TOOL.map(with_prefix));
        // Client and server know one another for good: probing would come in the midst of a count.
        for (namespace, device, others, mac) in
            [(&client, "c0", SERVER, server.mac("s0")), (&server, "s0", CLIENT, client.mac("c0"))]
        {
            for other in others {
                namespace.ip(format!("neigh add {other} lladdr {mac} dev {device} nud permanent"));
            }
        }
        // What the kernel says about its new addresses (RFC 3810 section 9.11) it says within a second.
        std::thread::sleep(Duration::from_millis(1300));
        Self { client, server, broker, tool }
    }

    /// A VXLAN device `vx<VNI>` at the tool, for copies to `local`. It delivers frames as they come, unmerged.
    pub fn vxlan(&self, vni: u32, local: &str) {
        let device = format!("vx{vni}");
        self.tool
            .ip(format!("link add name {device} type vxlan id {vni} local {local} dstport 4789 nolearning"));
        self.tool.silent(&device);
        self.tool.run(&format!("ethtool -K {device} gro off"));
        self.tool.ip(format!("link set dev {device} up"));
    }

    /// Sends UDP packets from the client to the discard port of the server, and waits until they crossed the tap.
    /// Nobody may answer them: see [`Tap::sink`].
    pub fn flood(&self, packets: u32, bytes: usize) {
        let before = self.server.counters("s0").rx_packets;
        let send = move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let data = vec![0x5a; bytes];
            for _ in 0..packets {
                // A queue on the way may be full for a moment.
                while socket.send_to(&data, (SERVER[0], 9)).is_err() {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        };
        self.client.inside(send).join().unwrap();
        // On a busy machine the kernel lets packets wait between two interfaces, where it already counted them.
        wait_for("the packets to cross", Duration::from_secs(5), || {
            (self.server.counters("s0").rx_packets >= before + u64::from(packets)).then_some(())
        });
    }

    /// A socket that swallows what [`Tap::flood`] sends.
    #[must_use]
    pub fn sink(&self) -> UdpSocket {
        self.server.inside(|| UdpSocket::bind("0.0.0.0:9").unwrap()).join().unwrap()
    }

    /// Sends `to_server` and `to_client` over one TCP connection to `server`; panics unless all of it arrives.
    pub fn tcp(&self, server: &str, to_server: &[u8], to_client: &[u8]) {
        let address: SocketAddr =
            format!("[{server}]:5001").parse().unwrap_or_else(|_| format!("{server}:5001").parse().unwrap());
        let listener = self.server.inside(move || TcpListener::bind(address).unwrap()).join().unwrap();
        let (up, down) = (to_server.to_vec(), to_client.to_vec());
        let serving = std::thread::spawn(move || talk(listener.accept().unwrap().0, &down));
        let asking = self.client.inside(move || talk(TcpStream::connect(address).unwrap(), &up));
        assert!(serving.join().unwrap() == to_server, "the server received something else");
        assert!(asking.join().unwrap() == to_client, "the client received something else");
    }
}

fn with_prefix(address: &str) -> &'static str {
    let prefix = if address.contains(':') { 64 } else { 24 };
    String::leak(format!("{address}/{prefix}"))
}

/// Sends `data` and receives until the other end is done.
fn talk(mut stream: TcpStream, data: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let data = data.to_vec();
    let writing = std::thread::spawn(move || {
        writer.write_all(&data).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = vec![];
    stream.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    received
}

/// Bytes without a short period, different for each seed.
#[must_use]
pub fn pattern(len: u32, seed: u32) -> Vec<u8> {
    (0..len)
        .map(|i| i.wrapping_add(seed).wrapping_mul(0x9e37_79b1).rotate_left(i % 31).to_le_bytes()[3])
        .collect()
}
