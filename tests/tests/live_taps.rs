//! A TAP switch on four ports, sixteen marked taps: does each tap get its own, as it was before it was marked?

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "test code")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::captures;
use sluice_tests::daemon::{Daemon, Summary};
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::tap::TOOL;
use sluice_tests::tcpdump::{Frame, Tcpdump, read, tshark};
use sluice_tests::traffic::{End, udp};

/// The marked taps.
const TAPS: u16 = 16;
/// The ports of the broker that look at the switch.
const PORTS: u16 = 4;
/// The PCP of marks.
const PCP: u16 = 6;
/// The tool's VXLAN header, with all before it.
const TUNNEL: usize = 14 + 20 + 8 + 8;
/// A real capture with many kinds of frames.
const CAPTURE: &str = "PcapPlusPlus";

/// The VLAN id that marks a tap.
fn mark_of(tap: u16) -> u16 {
    if tap == TAPS { 4094 } else { 100 + tap }
}

fn boot(more: &str) -> String {
    let mut text = String::from("[mirror]\npcp = 6\n");
    for tap in 1..=TAPS {
        let vlan = mark_of(tap);
        writeln!(text, "[[tap]]\nname = \"t{tap}\"\nnumber = {}\nvlan = {vlan}", tap + 1000).unwrap();
    }
    text += "[[tap]]\nname = \"wire\"\nnumber = 30\nports = [\"cap3\"]\n";
    for port in 0..PORTS {
        writeln!(text, "[[port]]\nname = \"cap{port}\"\nspec = \"af_packet:cap{port}\"\nrole = \"capture\"")
            .unwrap();
    }
    text += "[[port]]\nname = \"out0\"\nspec = \"af_packet:out0\"\nrole = \"output\"\naddresses = [\"192.0.2.1/24\"]\n";
    text + more
}

/// What comes from a tap goes to the tool under the tap's number as VNI; from the wire as 99.
fn policy() -> String {
    let mut text = format!("[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n", TOOL[0]);
    for tap in 1..=TAPS {
        writeln!(text, "[[policy]]\nname = \"t{tap}\"\ntaps = [\"t{tap}\"]\ntag = {tap}\nto = [\"tool\"]")
            .unwrap();
    }
    text + "[[policy]]\nname = \"wire\"\ntaps = [\"wire\"]\ntag = 99\nto = [\"tool\"]\n"
}

/// The network: a switch with four links to the broker, and a tool.
struct Net {
    switch: Namespace,
    broker: Namespace,
    tool: Namespace,
}

impl Net {
    fn new(lab: &mut Lab) -> Self {
        let [switch, broker, tool] = ["switch", "broker", "tool"].map(|tag| lab.namespace(tag));
        for port in 0..PORTS {
            switch.veth(&format!("sw{port}"), &broker, &format!("cap{port}"), 2000);
            switch.offloads(&format!("sw{port}"), false);
            broker.offloads(&format!("cap{port}"), false);
        }
        broker.veth("out0", &tool, "in0", 2100);
        broker.offloads("out0", false);
        tool.offloads("in0", false);
        tool.address("in0", &["192.0.2.10/24"]);
        Self { switch, broker, tool }
    }

    /// Sends frames as they are by port `port` of the switch.
    fn send(&self, port: u16, frames: &[Vec<u8>]) {
        let interface = format!("sw{port}");
        let config = AfPacketConfig { interface, rx: None, tx: Some(TxConfig::default()) };
        let frames = frames.to_vec();
        let send = move || {
            let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
            let mut tx = tx.unwrap();
            for frame in &frames {
                let end = Instant::now() + Duration::from_secs(2);
                let refused = |_, why| panic!("{} bytes: {why:?}", frame.len());
                while tx.tx_frames(&[&[frame]], refused) == 0 {
                    assert!(Instant::now() < end, "the kernel takes no frame");
                }
            }
        };
        self.switch.inside(send).join().unwrap();
    }

    /// Waits until the broker's ports have seen so many packets, and a moment more.
    fn wait_received(&self, packets: u64) {
        wait_for("the frames to cross", Duration::from_secs(10), || {
            let received = |port| self.broker.counters(&format!("cap{port}")).rx_packets;
            ((0..PORTS).map(received).sum::<u64>() >= packets).then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The frame as the switch sends it on.
fn marked(frame: &[u8], id: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let tag = 0x8100_0000 | u32::from(PCP << 13 | id);
    frame.splice(12..12, tag.to_be_bytes());
    frame
}

/// Copies, whatever they carry, and nothing that quotes them.
const OURS: &str = "frame.protocols matches \"^eth:ethertype:ip:udp:vxlan\"";

/// What arrived at the tool, by VNI as tshark reads it, in the order of arrival.
fn arrived(dump: Tcpdump) -> BTreeMap<u16, Vec<Vec<u8>>> {
    let file = dump.file().to_owned();
    dump.stop();
    let vnis: BTreeMap<usize, u16> =
        tshark(&file, OURS, &["frame.number", "vxlan.vni"], &["udp.port==4789,vxlan"])
            .iter()
            .map(|line| {
                let (number, vni) = line.split_once('\t').unwrap();
                (number.parse().unwrap(), vni.split(',').next().unwrap().parse().unwrap())
            })
            .collect();
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (number, Frame { data, .. }) in (1..).zip(read(&file)) {
        if let Some(&vni) = vnis.get(&number) {
            all.entry(vni).or_default().push(data[TUNNEL..].to_vec());
        }
    }
    all
}

/// Packets, bytes, duplicates.
fn row(summary: &Summary, tap: &str) -> [u64; 3] {
    [0, 1, 2].map(|column| summary.get("tap", tap, column))
}

/// What came in, but for what the tool's kernel says about copies that nobody listens to.
fn captured(summary: &Summary) -> u64 {
    summary.rx() - summary.dropped("not_capture_port")
}

/// Packet `number` from host `host`.
fn packet(host: u8, number: u16) -> Vec<u8> {
    let (client, server) = (End::new([10, 0, 0, host].into(), 4000), End::new([10, 0, 1, 1].into(), 53));
    let payload: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(18 + usize::from(number)).collect();
    udp(&client, &server, &[], &payload)
}

#[test]
fn sixteen_taps_on_four_ports_with_duplicates() {
    const EACH: u16 = 40;
    let Some(mut lab) = Lab::new("taps") else { return };
    let net = Net::new(&mut lab);
    let boot = boot("[dedup]\nmode = \"drop\"\nwindow = \"10s\"\n[flow]\njsonl = \"flows.jsonl\"\n");
    let daemon = Daemon::start(&lab, &net.broker, &boot, &policy());
    daemon.wait_resolved(1);
    let dump = Tcpdump::start(&lab, &net.tool, "in0");

    // Each tap has packets of its own, spread over the ports; then all of them come once more from the tap after it, by
    // another port. Some carry a tag of their own inside the mark, or are the shortest that there are.
    let own = |tap: u16| -> Vec<Vec<u8>> {
        let mut frames: Vec<_> = (0..EACH).map(|number| packet(tap as u8, number)).collect();
        frames[1].splice(12..12, [0x81, 0x00, 0xa0, 0x07]);
        frames[2].splice(12..12, [0x88, 0xa8, 0x00, 0x65, 0x81, 0x00, 0x00, 0x07]);
        frames
    };
    let mut sent = 0;
    for round in 0..2 {
        for port in 0..PORTS {
            let mut frames = Vec::new();
            for tap in 1..=TAPS {
                let by = if round == 0 { tap } else { tap % TAPS + 1 };
                let of_port = own(tap).into_iter().enumerate();
                let of_port = of_port.filter(|(at, _)| (*at as u16 + round) % PORTS == port);
                frames.extend(of_port.map(|(_, frame)| marked(&frame, mark_of(by))));
            }
            sent += frames.len() as u64;
            net.send(port, &frames);
        }
        net.wait_received(sent);
    }
    // What is of no tap, or of the tap of its port.
    let odd = [
        marked(&packet(100, 1), 999),
        marked(&packet(100, 2), 0),
        marked(&packet(100, 3), 4095),
        packet(100, 4),
        // Hardly anything behind the mark: the kernel lets nothing shorter through.
        [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..], &[0x81, 0, 0xc0, 99, 0x88, 0xb5, 1, 2]].concat(),
    ];
    let wire = [packet(101, 1), marked(&packet(101, 2), 999)];
    net.send(0, &odd);
    net.send(3, &wire);
    net.wait_received(sent + 7);

    let all = arrived(dump);
    let summary = daemon.stop();
    let taps: Vec<u16> = (1..=TAPS).chain([99]).collect();
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), taps);
    for tap in 1..=TAPS {
        // In order by port: compared as the ports sent.
        let mut expected = own(tap);
        expected.sort_unstable();
        let mut got = all[&tap].clone();
        got.sort_unstable();
        assert_eq!(got, expected, "tap {tap}");
        let bytes = |tap: u16| own(tap).iter().map(|frame| frame.len() as u64 + 4).sum::<u64>();
        let before = if tap == 1 { TAPS } else { tap - 1 };
        let each = u64::from(EACH);
        assert_eq!(
            row(&summary, &format!("t{tap}")),
            [2 * each, bytes(tap) + bytes(before), each],
            "tap {tap}"
        );
        assert_eq!(summary.get("policy", &format!("t{tap}"), 2), each);
    }
    // A mark of nobody is a tag like any other.
    assert_eq!(all[&99], wire);
    let bytes = |frames: &[Vec<u8>]| frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
    assert_eq!(row(&summary, "wire"), [2, bytes(&wire), 0]);
    assert_eq!(row(&summary, "(others)"), [5, bytes(&odd), 0]);
    assert_eq!([summary.total("marks stripped"), summary.total("marks of no tap")], [sent, 5]);
    assert_eq!(captured(&summary), sent + 7);
    assert_eq!(summary.dropped("duplicate"), sent / 2);
    assert_eq!(summary.dropped("no_policy"), 5);
    assert_eq!(summary.total("lost before rx"), 0);

    // Flows of a tap have its number, and count what came from it and was no duplicate.
    let text = std::fs::read_to_string(lab.dir().join("flows.jsonl")).unwrap();
    let mut types = BTreeMap::<u64, u64>::new();
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let count = |name: &str| record[name].as_u64().unwrap();
        *types.entry(count("tap_type")).or_default() += count("packet_tx") + count("packet_rx");
    }
    let marked = (1..=TAPS).map(|tap| (u64::from(tap) + 1000, u64::from(EACH)));
    assert_eq!(types, marked.chain([(30, 2), (1, 5)]).collect());
}

/// Frames of real captures, of a size that the links carry.
fn real_frames() -> Vec<Vec<u8>> {
    let Some(folder) = captures::folder() else { return Vec::new() };
    let mut frames = Vec::new();
    for path in captures::files(&folder.join(CAPTURE)) {
        if frames.len() < 4000 && path.extension().is_some_and(|end| end == "pcap") {
            let Ok(mut reader) = sluice_capture::CaptureReader::open(&path) else { continue };
            while let Ok(Some(frame)) = reader.next_frame() {
                if (18..=1900).contains(&frame.data.len()) && frame.data.len() == frame.wire_len as usize {
                    frames.push(frame.data.to_vec());
                }
            }
        }
    }
    frames.truncate(4000);
    frames
}

#[test]
fn real_traffic_leaves_as_it_was_before_it_was_marked() {
    let Some(mut lab) = Lab::new("real taps") else { return };
    let mut frames = real_frames();
    if frames.is_empty() {
        frames = (0..2000).map(|number| packet((number % 7) as u8, number % 1000)).collect();
    }
    let net = Net::new(&mut lab);
    let daemon = Daemon::start(&lab, &net.broker, &boot("[flow]\n"), &policy());
    daemon.wait_resolved(1);
    let dump = Tcpdump::start(&lab, &net.tool, "in0");
    // By turns over the taps; each tap comes by one port, so that its order is kept.
    let mut of_taps = BTreeMap::<u16, Vec<Vec<u8>>>::new();
    let mut of_ports = vec![Vec::new(); usize::from(PORTS)];
    for (at, frame) in frames.iter().enumerate() {
        let tap = at as u16 % TAPS + 1;
        of_taps.entry(tap).or_default().push(frame.clone());
        of_ports[usize::from(tap % PORTS)].push(marked(frame, mark_of(tap)));
    }
    for (port, frames) in (0..).zip(&of_ports) {
        net.send(port, frames);
    }
    net.wait_received(frames.len() as u64);
    let all = arrived(dump);
    let summary = daemon.stop();
    assert_eq!(captured(&summary), frames.len() as u64);
    assert_eq!(summary.total("marks stripped"), frames.len() as u64);
    for (tap, expected) in &of_taps {
        let bytes = expected.iter().map(|frame| frame.len() as u64 + 4).sum();
        assert_eq!(row(&summary, &format!("t{tap}")), [expected.len() as u64, bytes, 0]);
        let got = &all[tap];
        assert_eq!(got.len(), expected.len(), "tap {tap}");
        for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert_eq!(got, expected, "frame {at} of tap {tap}");
        }
    }
    assert_eq!(summary.copies("tool"), frames.len() as u64);
    assert_eq!(row(&summary, "(others)"), [0, 0, 0]);
}
