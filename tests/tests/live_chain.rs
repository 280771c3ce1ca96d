//! A chain of two appliances: does the tool behind a decapsulation node get, byte for byte, what a collector sent to it; and
//! does the node know what was lost on the way?
//!
//! ```text
//! source s0 ---- cap0 collector out0 ---- b0 [wire] b1 ---- n0 node t0 ---- in0 tool
//! ```
//!
//! `SLUICE_LONG=1` sends a million frames where otherwise there are some ten thousand.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::daemon::{Daemon, Summary, binary};
use sluice_tests::dropper::Dropper;
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::pcap_file::{Builder, ETHERNET, Record};
use sluice_tests::sluiced::cli;
use sluice_tests::stream::{self, Frames, Receiver};
use sluice_tests::tcpdump::{Frame, Tcpdump, tshark};
use sluice_tests::traffic::{End, ip_frame};

/// The MTU of all links: room for a tunnel around frames of 9,014 bytes.
const MTU: u32 = 9_216;
/// Frames that are looked at by tshark on their way, before the others.
const SAMPLE: u64 = 200;

const COLLECTOR: &str = r#"
[[port]]
name = "cap0"
spec = "af_packet:cap0"
role = "capture"

[[port]]
name = "out0"
spec = "af_packet:out0"
role = "output"
addresses = ["192.0.2.1/24", "2001:db8::1/64"]
"#;

const NODE: &str = r#"
[[port]]
name = "net"
spec = "af_packet:n0"
role = "capture"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]
decap = "strip"
decap_to = "own"
decap_kinds = ["vxlan", "erspan"]

[[port]]
name = "tool0"
spec = "af_packet:t0"
role = "output"
"#;

/// Only what carries the tag of the collector is copied, so that a tag that got lost would show.
const TO_TOOL: &str = "[[destination]]\nname = \"tool\"\ntype = \"port\"\nport = \"tool0\"\n\
                       [[policy]]\nname = \"all\"\ntunnel_id = 7\nto = [\"tool\"]\n";

fn is_long() -> bool {
    std::env::var_os("SLUICE_LONG").is_some_and(|long| long == "1")
}

/// How many frames: `short`, or `long` in a long run.
fn frames(short: u64, long: u64) -> u64 {
    if is_long() { long } else { short }
}

/// A daemon with files of its own, and a CPU of its own where there are two.
fn daemon(lab: &Lab, namespace: &Namespace, name: &str, cpu: usize, boot: &str, policy: &str) -> Daemon {
    let folder = lab.dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get();
    let boot = format!("{boot}\n[worker]\nlcores = [{}]\n", cpu.min(cpus - 1));
    let daemon = Daemon::spawn(namespace.command(binary()), &folder, &boot, policy);
    daemon.wait_log("running;");
    daemon
}

/// A link without offloads.
fn link(one: &Namespace, here: &str, other: &Namespace, there: &str) {
    one.veth(here, other, there, MTU);
    one.offloads(here, false);
    other.offloads(there, false);
}

/// A tunnel between collector and node.
struct Way {
    what: &'static str,
    destination: &'static str,
    /// Its row among the numbered tunnels of the node; `None` = it has no numbers.
    numbered: Option<&'static str>,
    /// What tshark calls the tag.
    tag: &'static str,
    /// What tshark calls the fields that hold the number.
    number: Number,
}

/// Where the number of a tunnel packet is.
#[derive(Clone, Copy)]
enum Number {
    /// GRE has a field for it.
    Gre,
    /// VXLAN has none: flags, then what RFC 7348 reserves. With the reference marking all flags are set, and the 24 bits
    /// hold the number; else only the flag of a valid VNI is, and the bits are 0.
    Vxlan,
}

impl Number {
    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Gre => &["gre.sequence_number"],
            Self::Vxlan => &["vxlan.flags", "vxlan.gbp"],
        }
    }

    /// What the fields of 16 bits hold, one after the other, in packet `number`.
    const fn expected(self, number: u64, numbered: bool) -> u64 {
        match (self, numbered) {
            (Self::Gre, _) => number,
            (Self::Vxlan, true) => 0xff00_0000 | number,
            (Self::Vxlan, false) => 0x0800_0000,
        }
    }
}

const WAYS: [Way; 5] = [
    Way {
        what: "VXLAN, reference marking",
        destination: "type = \"vxlan\"\nremote = \"192.0.2.2\"\nmarking = \"reference\"",
        numbered: Some("vxlan from 192.0.2.1"),
        tag: "vxlan.vni",
        number: Number::Vxlan,
    },
    Way {
        what: "VXLAN",
        destination: "type = \"vxlan\"\nremote = \"192.0.2.2\"",
        numbered: None,
        tag: "vxlan.vni",
        number: Number::Vxlan,
    },
    Way {
        what: "ERSPAN II over IPv6",
        destination: "type = \"erspan2\"\nremote = \"2001:db8::2\"",
        numbered: Some("erspan2 from 2001:db8::1"),
        tag: "erspan.spanid",
        number: Number::Gre,
    },
    Way {
        what: "ERSPAN III",
        destination: "type = \"erspan3\"\nremote = \"192.0.2.2\"",
        numbered: Some("erspan3 from 192.0.2.1"),
        tag: "erspan.spanid",
        number: Number::Gre,
    },
    Way {
        what: "ERSPAN III, reference marking",
        destination: "type = \"erspan3\"\nremote = \"192.0.2.2\"\nmarking = \"reference\"",
        numbered: Some("erspan3 from 192.0.2.1"),
        tag: "gre.key",
        number: Number::Gre,
    },
];

/// What tshark is asked of the frames themselves, before, in and behind the tunnel.
const FRAME: [&str; 11] = [
    "eth.src",
    "eth.dst",
    "eth.type",
    "vlan.id",
    "ip.src",
    "ip.dst",
    "ip.frag_offset",
    "ipv6.src",
    "ipv6.dst",
    "tcp.dstport",
    "udp.dstport",
];

/// VXLAN is dissected on its own port only.
const VXLAN: &[&str] = &["udp.port==4789,vxlan"];

/// A number as tshark writes it.
fn number(text: &str) -> u64 {
    let digits = text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
    digits.unwrap_or_else(|| text.parse()).unwrap()
}

/// The namespaces of a chain; `between` has a wire that loses packets.
struct Chain {
    source: Namespace,
    collector: Namespace,
    between: Option<Namespace>,
    node: Namespace,
    tool: Namespace,
}

impl Chain {
    fn new(lab: &mut Lab, loses: bool) -> Self {
        let [source, collector, node, tool] =
            ["source", "collector", "node", "tool"].map(|tag| lab.namespace(tag));
        link(&source, "s0", &collector, "cap0");
        link(&node, "t0", &tool, "in0");
        let between = loses.then(|| {
            let between = lab.namespace("between");
            link(&collector, "out0", &between, "b0");
            link(&between, "b1", &node, "n0");
            between
        });
        if !loses {
            link(&collector, "out0", &node, "n0");
        }
        Self { source, collector, between, node, tool }
    }

    /// Sends frames `0..total` through the chain by `way`, and holds what came out against what went in. `choice` says which
    /// of the tunnel packets are lost in between.
    fn run(&self, lab: &Lab, way: &Way, total: u64, choice: impl Fn(u64) -> bool + Send + 'static) {
        let dropper = self.between.as_ref().map(|between| Dropper::start(between, "b0", "b1", choice));
        let node_boot = format!("{NODE}\n[api]\nsocket = \"api.sock\"\n");
        let node = daemon(lab, &self.node, "node", 1, &node_boot, TO_TOOL);
        let policy = format!(
            "[[destination]]\nname = \"node\"\n{}\n[[policy]]\nname = \"all\"\ntag = 7\nto = [\"node\"]\n",
            way.destination
        );
        let collector = daemon(lab, &self.collector, "collector", 0, COLLECTOR, &policy);
        // The node answers ARP and ND for the end of its tunnels.
        collector.wait_resolved(1);
        let receiver = Receiver::start(&self.tool, "in0", total);

        // What arrived, or was dropped on purpose.
        let done = {
            let (seen, dropped) = (receiver.counter(), dropper.as_ref().map(Dropper::counter));
            Arc::new(move || {
                let dropped = dropped.as_ref().map_or(0, |dropped| dropped.load(Ordering::Relaxed));
                seen.load(Ordering::Relaxed) + dropped
            })
        };
        let at_node = Tcpdump::start(lab, &self.node, "n0");
        let at_tool = Tcpdump::start(lab, &self.tool, "in0");
        let done_so_far = Arc::clone(&done);
        stream::send(&self.source, "s0", 0..SAMPLE, move || done_so_far());
        wait_for("the first frames", Duration::from_secs(10), || (done() >= SAMPLE).then_some(()));
        let dropped = dropper.as_ref().map_or(0, Dropper::dropped);
        assert_eq!(dropped, 0, "none of the first frames is lost on purpose");
        let read = Self::behind(lab, way, at_tool);
        Self::hop(way, at_node, &read);

        let so_far = Arc::clone(&done);
        let took = stream::send(&self.source, "s0", SAMPLE..total, move || so_far() - SAMPLE);
        let expected = total - dropper.as_ref().map_or(0, Dropper::dropped);
        let arrived = receiver.finish(expected);
        let dropped = dropper.as_ref().map_or(0, Dropper::dropped);
        let meter = way.numbered.map(|_| Self::meter(&lab.dir().join("node/api.sock")));
        let summaries = [collector.stop(), node.stop()];
        if let Some(dropper) = dropper {
            assert_eq!(dropper.passed() + dropper.dropped(), total, "tunnel packets on the wire");
            dropper.stop();
        }
        let rate = u128::from(total - SAMPLE) * 1_000_000 / took.as_micros().max(1);
        eprintln!("{}: {total} frames at {rate} per second: {arrived}; {dropped} lost on purpose", way.what);

        assert_eq!((arrived.others, arrived.kernel_drops), (0, 0), "{arrived:?}");
        assert_eq!((arrived.twice, arrived.out_of_order), (0, 0), "{arrived}");
        assert_eq!(arrived.same + dropped, total, "{arrived}");
        Self::accounts(&summaries, way, total, dropped);
        if let Some(meter) = meter {
            assert_eq!(
                meter,
                [total - dropped, dropped, 0, 0, 0],
                "received, lost, reordered, duplicates, restarts"
            );
        }
    }

    /// How tshark reads the first frames behind the node: as it reads them when they are made, and no tunnel of ours is left.
    fn behind(lab: &Lab, way: &Way, dump: Tcpdump) -> Vec<String> {
        let (frames, mut file, mut frame) = (Frames::default(), Builder::new(ETHERNET), Vec::new());
        for number in 0..SAMPLE {
            frames.write(number, &mut frame);
            let wire_len = u32::try_from(frame.len()).unwrap();
            file.push(Record { timestamp_ns: number, wire_len, data: &frame });
        }
        let sent = lab.dir().join("sent.pcap");
        file.save(&sent);
        let arrived = dump.file().to_owned();
        dump.stop();
        let [sent, arrived] = [sent, arrived].map(|file| tshark(&file, "frame", &FRAME, VXLAN));
        assert_eq!((sent.len() as u64, &arrived), (SAMPLE, &sent), "{}", way.what);
        sent
    }

    /// How tshark reads their copies on the link to the node: a tunnel to the node with tag and number, and in it `frames`.
    fn hop(way: &Way, dump: Tcpdump, frames: &[String]) {
        let file = dump.file().to_owned();
        dump.stop();
        let address = if way.destination.contains("2001:db8::2") { "ipv6.dst" } else { "ip.dst" };
        let fields = [&[address, way.tag], way.number.fields()].concat();
        let tunnels = "udp.port == 4789 || gre";
        let lines = tshark(&file, tunnels, &fields, VXLAN);
        assert_eq!(lines.len() as u64, SAMPLE, "{}", way.what);
        for (place, line) in (0..).zip(&lines) {
            // Frames that carry tunnels of others have the outermost values first.
            let values: Vec<_> = line.split('\t').map(|value| value.split(',').next().unwrap()).collect();
            assert!(["192.0.2.2", "2001:db8::2"].contains(&values[0]), "{}: {line}", way.what);
            assert_eq!(number(values[1]), 7, "{}: {line}", way.what);
            let found = values[2..].iter().fold(0, |high, value| high << 16 | number(value));
            let expected = way.number.expected(place, way.numbered.is_some());
            assert_eq!(found, expected, "{}: {line}", way.what);
        }
        // Of what the tunnel has, too, the first value is the tunnel's.
        let own = if address == "ip.dst" { "ip.src" } else { "ipv6.src" };
        for (line, frame) in tshark(&file, tunnels, &FRAME, VXLAN).iter().zip(frames) {
            let inner: Vec<_> = (FRAME.iter().zip(line.split('\t')))
                .map(|(name, value)| {
                    let tunnels = name.starts_with("eth.")
                        || name.split('.').next() == own.split('.').next()
                        || *name == "udp.dstport" && way.tag == "vxlan.vni";
                    if tunnels { value.split_once(',').map_or("", |(_, inner)| inner) } else { value }
                })
                .collect();
            assert_eq!(inner.join("\t"), *frame, "{}: {line}", way.what);
        }
    }

    /// What `sluice counters` says of the one numbered tunnel.
    fn meter(socket: &std::path::Path) -> [u64; 5] {
        let mut command = Command::new(cli());
        command.args(["counters", "--json"]).env("SLUICE_SERVER", format!("unix:{}", socket.display()));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tunnels = json["tunnels"].as_array().unwrap();
        assert_eq!(tunnels.len(), 1, "{json}");
        ["received", "lost", "reordered", "duplicates", "restarts"].map(|name| match &tunnels[0][name] {
            Value::Null => 0,
            Value::String(digits) => digits.parse().unwrap(),
            number => number.as_u64().unwrap(),
        })
    }

    fn accounts([collector, node]: &[Summary; 2], way: &Way, total: u64, lost: u64) {
        let passed = total - lost;
        for (summary, destination, expected) in [(collector, "node", total), (node, "tool", passed)] {
            assert_eq!(summary.rx(), expected, "{}", summary.text);
            assert_eq!(summary.copies(destination), expected, "{}", summary.text);
            assert_eq!(summary.drops(), 0, "{}", summary.text);
            assert_eq!(summary.total("lost before rx"), 0, "{}", summary.text);
            assert_eq!(summary.total("cut to the MTU"), 0, "{}", summary.text);
        }
        assert_eq!(node.total("decapsulated"), passed, "{}", node.text);
        if let Some(row) = way.numbered {
            let meter: Vec<_> = (0..6).map(|column| node.get("numbered tunnel", row, column)).collect();
            assert_eq!(meter, [7, passed, lost, 0, 0, 0], "{}", node.text);
        }
    }
}

#[test]
fn what_a_collector_sends_arrives_at_the_tool_behind_a_node() {
    let Some(mut lab) = Lab::new("chain") else { return };
    let chain = Chain::new(&mut lab, false);
    for (place, way) in WAYS.iter().enumerate() {
        // The first one is the long one.
        let total = if place == 0 { frames(30_000, 1_000_000) } else { frames(5_000, 100_000) };
        chain.run(&lab, way, total, |_| false);
    }
}

#[test]
fn what_is_lost_between_collector_and_node_is_metered() {
    let Some(mut lab) = Lab::new("lossy chain") else { return };
    let chain = Chain::new(&mut lab, true);
    for (way, total) in [(&WAYS[0], frames(15_000, 1_000_000)), (&WAYS[3], frames(5_000, 100_000))] {
        // About one in sixteen, alone and in a row. What is lost before the first packet, or after the last one, no receiver
        // can know of.
        let choice = move |number: u64| {
            let bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (300..total - 300).contains(&number) && (bits >> 59 == 0 || number / 7 % 47 == 3)
        };
        chain.run(&lab, way, total, choice);
    }
}

/// A machine that sends tunnels to a node, and two tools behind it.
struct Site {
    peer: Namespace,
    node: Namespace,
    tool: Namespace,
    /// The address of the node's port.
    mac: [u8; 6],
}

/// The second tool port.
const SECOND: &str = "[[port]]\nname = \"tool1\"\nspec = \"af_packet:t1\"\nrole = \"output\"\n";
/// Everything to the first tool as it is, and to the second one with the tag of its tunnel as VLAN.
const TO_BOTH: &str = "[[destination]]\nname = \"plain\"\ntype = \"port\"\nport = \"tool0\"\n\
                       [[destination]]\nname = \"tagged\"\ntype = \"port\"\nport = \"tool1\"\n\
                       inner_vlan = true\nvlan_from = \"tunnel\"\n\
                       [[policy]]\nname = \"all\"\nto = [\"plain\", \"tagged\"]\n";
const PEER: [&str; 2] = ["192.0.2.9/24", "2001:db8::9/64"];

impl Site {
    fn new(lab: &mut Lab) -> Self {
        let [peer, node, tool] = ["peer", "node", "tool"].map(|tag| lab.namespace(tag));
        link(&peer, "p0", &node, "n0");
        for number in 0..2 {
            link(&node, &format!("t{number}"), &tool, &format!("in{number}"));
        }
        peer.address("p0", &PEER);
        let mut mac = [0; 6];
        for (byte, digits) in mac.iter_mut().zip(node.mac("n0").split(':')) {
            *byte = u8::from_str_radix(digits, 16).unwrap();
        }
        Self { peer, node, tool, mac }
    }

    /// A tunnel packet from the peer to `to`, by the node's port.
    fn tunnel(&self, to: [u8; 4], protocol: u8, header: &[u8], inner: &[u8]) -> Vec<u8> {
        let ends = (End::new([192, 0, 2, 9].into(), 0), End::new(to.into(), 0));
        let mut frame = ip_frame(&ends.0, &ends.1, &[], protocol, &[header, inner].concat());
        frame[..6].copy_from_slice(&self.mac);
        frame
    }

    /// VXLAN (RFC 7348) with these flags and bytes.
    fn vxlan(&self, to: [u8; 4], header: [u8; 8], inner: &[u8]) -> Vec<u8> {
        let length = u16::try_from(16 + inner.len()).unwrap().to_be_bytes();
        let udp = [0xc0, 0x00, 0x12, 0xb5, length[0], length[1], 0, 0];
        self.tunnel(to, 17, &[udp, header].concat(), inner)
    }

    /// Waits until the tool's interfaces have received so many packets more.
    fn wait_arrived(&self, before: [u64; 2], more: [u64; 2]) {
        let expected = [before[0] + more[0], before[1] + more[1]];
        wait_for(&format!("{more:?} copies"), Duration::from_secs(10), || {
            (self.arrived() >= expected).then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(self.arrived(), expected);
    }

    fn arrived(&self) -> [u64; 2] {
        ["in0", "in1"].map(|device| self.tool.counters(device).rx_packets)
    }
}

/// Sends frames as they are.
fn send(namespace: &Namespace, device: &str, frames: &[Vec<u8>]) {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let frames = frames.to_vec();
    let send = move || {
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        for frame in &frames {
            while tx.tx_frames(&[&[frame]], |_, why| panic!("{why:?}")) == 0 {}
        }
    };
    namespace.inside(send).join().unwrap();
}

/// So many frames of at most 1,400 bytes, of all kinds.
fn small_frames(count: usize) -> Vec<Vec<u8>> {
    let (frames, mut frame) = (Frames::default(), Vec::new());
    let made = (0_u64..).map(|number| {
        frames.write(number, &mut frame);
        frame.clone()
    });
    made.filter(|frame| frame.len() <= 1_400).take(count).collect()
}

/// The frame with an 802.1Q tag after its addresses.
fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.splice(12..12, [[0x81, 0x00], tci.to_be_bytes()].concat());
    frame
}

fn bytes(frames: &[Frame]) -> Vec<Vec<u8>> {
    frames.iter().map(|frame| frame.data.clone()).collect()
}

#[test]
fn a_node_is_a_host_of_its_link_and_opens_what_is_sent_to_it() {
    let Some(mut lab) = Lab::new("decapsulation node") else { return };
    let site = Site::new(&mut lab);
    let node = daemon(&lab, &site.node, "node", 0, &[NODE, SECOND].concat(), TO_BOTH);

    // To the kernel it is a host like others: ARP, ND, echo.
    let echo: PathBuf = [env!("CARGO_MANIFEST_DIR"), "netns", "echo.py"].iter().collect();
    eprintln!("{}", site.peer.run(&format!("python3 {} 192.0.2.2 2001:db8::2", echo.display())));
    for address in ["192.0.2.2", "2001:db8::2"] {
        assert_eq!(site.peer.neighbor(address), Some(site.node.mac("n0")), "{address}");
    }

    let dumps = ["in0", "in1"].map(|device| Tcpdump::start(&lab, &site.tool, device));
    let frames = small_frames(60);
    let (mut plain, mut with_vlan) = (Vec::new(), Vec::new());
    let mut expect = |inner: &[u8], tci: u16| {
        plain.push(inner.to_vec());
        with_vlan.push(tagged(inner, tci));
    };
    // From the VXLAN device of a kernel.
    site.peer
        .ip("link add name vx7 type vxlan id 7 local 192.0.2.9 remote 192.0.2.2 dstport 4789 nolearning");
    site.peer.silent("vx7");
    site.peer.ip("link set dev vx7 up");
    send(&site.peer, "vx7", &frames);
    for frame in &frames {
        expect(frame, 0x8007);
    }
    site.wait_arrived([0; 2], [60; 2]);

    // Each way of marking; the direction is in the PCP.
    let own = [192, 0, 2, 2];
    let inner = &frames[0];
    let erspan3 = |direction: u8| [0x20, 0, 0x03, 0x45, 0, 0, 0, 1, 0, 0, 0, direction];
    let gre = |flags: u16, protocol: u16, rest: &[u8]| {
        [&flags.to_be_bytes()[..], &protocol.to_be_bytes(), rest].concat()
    };
    let packets = [
        // Flags 0xff, number 0, VNI 0x1007, direction 1.
        (site.vxlan(own, [0xff, 0, 0, 0, 0, 0x10, 7, 1], inner), 0xa007),
        // Type I: no sequence number, no header.
        (site.tunnel(own, 47, &gre(0, 0x88be, &[]), inner), 0x8000),
        // Type II, session 0x145.
        (
            site.tunnel(own, 47, &gre(0x1000, 0x88be, &[0, 0, 0, 0, 0x10, 0, 1, 0x45, 0, 0, 0, 0]), inner),
            0x8145,
        ),
        // Type III, session 0x345, egress.
        (site.tunnel(own, 47, &gre(0x1000, 0x22eb, &[&[0; 4][..], &erspan3(0x08)].concat()), inner), 0xa345),
        // Type III with a key of 0x12f45: the session has its low bits only.
        (
            site.tunnel(
                own,
                47,
                &gre(0x3000, 0x22eb, &[&[0, 1, 0x2f, 0x45, 0, 0, 0, 0][..], &erspan3(0)].concat()),
                inner,
            ),
            0x8f45,
        ),
    ];
    let before = site.arrived();
    for (packet, tci) in &packets {
        send(&site.peer, "p0", std::slice::from_ref(packet));
        expect(inner, *tci);
    }
    site.wait_arrived(before, [packets.len() as u64; 2]);

    // What is sent elsewhere, or is no tunnel, is not for the tools.
    let elsewhere = [
        site.vxlan([192, 0, 2, 3], [8, 0, 0, 0, 0, 0, 7, 0], inner),
        site.tunnel([192, 0, 2, 3], 47, &gre(0, 0x88be, &[]), inner),
        site.tunnel(own, 17, &[0x30, 0x39, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4], &[]),
        frames[1].clone(),
    ];
    let before = site.arrived();
    send(&site.peer, "p0", &elsewhere);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(site.arrived(), before);

    let [at_plain, at_tagged] = dumps.map(Tcpdump::stop);
    assert_eq!(bytes(&at_plain), plain);
    assert_eq!(bytes(&at_tagged), with_vlan);
    let summary = node.stop();
    assert_eq!(summary.total("decapsulated"), 60 + packets.len() as u64);
    // The kernel says a few things of its own: it joins groups.
    assert!(summary.dropped("not_tunnelled") >= elsewhere.len() as u64, "{}", summary.text);
    assert_eq!(summary.drops(), summary.dropped("not_tunnelled"), "{}", summary.text);
    assert_eq!(summary.total("lost before rx"), 0);

    // Unless the config says so: then it goes on as it came.
    let boot = [&NODE.replace("decap_to", "decap_rest = \"pass\"\ndecap_to"), SECOND].concat();
    let node = daemon(&lab, &site.node, "node", 0, &boot, TO_BOTH);
    let dumps = ["in0", "in1"].map(|device| Tcpdump::start(&lab, &site.tool, device));
    let before = site.arrived();
    send(&site.peer, "p0", &elsewhere);
    let count = elsewhere.len() as u64;
    site.wait_arrived(before, [count; 2]);
    for dump in dumps {
        assert_eq!(bytes(&dump.stop()), elsewhere, "no tag without a tunnel");
    }
    let summary = node.stop();
    assert_eq!((summary.copies("plain"), summary.copies("tagged")), (count, count));
}

#[test]
fn a_tool_port_that_leads_into_a_network_in_use_is_stopped() {
    let Some(mut lab) = Lab::new("feed guard") else { return };
    let site = Site::new(&mut lab);
    let node = daemon(&lab, &site.node, "node", 0, &[NODE, SECOND].concat(), TO_BOTH);
    let inner = &small_frames(1)[0];
    let copies: Vec<_> =
        (0..5).map(|_| site.vxlan([192, 0, 2, 2], [8, 0, 0, 0, 0, 0, 7, 0], inner)).collect();
    let send_copies = |arrive: [u64; 2]| {
        let before = site.arrived();
        send(&site.peer, "p0", &copies);
        site.wait_arrived(before, arrive);
    };
    // A tool may say this and that.
    let from = [2, 0, 0, 0, 0, 0xaa];
    let frame = |dst: [u8; 6]| {
        let mut frame = [dst, from].concat();
        frame.resize(60, 0x88);
        frame
    };
    let harmless: Vec<_> =
        (0..100).map(|at| if at % 2 == 0 { frame([0xff; 6]) } else { frame(from) }).collect();
    send(&site.tool, "in0", &harmless);
    send_copies([5, 5]);
    // Frames of others show that this is no tool.
    let foreign: Vec<_> = (0..40).map(|at| frame([2, 0, 0, 0, 1, at])).collect();
    send(&site.tool, "in0", &foreign);
    node.wait_log("this is no port of a tool");
    std::thread::sleep(Duration::from_millis(300));
    send_copies([0, 5]);
    // With another cable it is another port.
    site.tool.ip("link set dev in0 down");
    // Both at once would be no change to the kernel.
    node.wait_log("link down: its packets are missed");
    site.tool.ip("link set dev in0 up");
    node.wait_log("link up");
    std::thread::sleep(Duration::from_millis(300));
    send_copies([5, 5]);
    let summary = node.stop();
    assert_eq!(summary.dropped("feed_guard"), 5, "{}", summary.text);
    assert_eq!(summary.dropped("not_capture_port"), 140, "{}", summary.text);
    assert_eq!((summary.copies("plain"), summary.copies("tagged")), (10, 15), "{}", summary.text);
}
