//! Do DPDK's own virtual devices work as ports: do they start, move packets, and leave the account in balance?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_capture::PcapWriter;
use sluice_tests::daemon::{Daemon, Summary, unprivileged};
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::tap::pattern;
use sluice_tests::tcpdump::{Frame, Tcpdump, assert_same, read, tshark};

/// A port of the boot config.
fn port(name: &str, spec: &str, role: &str) -> String {
    format!("[[port]]\nname = \"{name}\"\nspec = \"{spec}\"\nrole = \"{role}\"\n")
}

/// A plain destination, and a policy that sends there what comes in by `ingress`.
fn plain(name: &str, ingress: &str, kind: &str) -> String {
    format!(
        "[[destination]]\nname = \"{name}\"\n{kind}\n\
         [[policy]]\nname = \"to-{name}\"\ningress = [\"{ingress}\"]\nto = [\"{name}\"]\n"
    )
}

const FILE: &str = "type = \"pcap\"\nfile = \"copies.pcap\"";

/// Frames of all sizes up to a full one, of an EtherType that no kernel answers.
fn frames(count: u32) -> Vec<Frame> {
    let frame = |i: u32| {
        let mut data = vec![0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a, 0x88, 0xb5];
        data.extend(pattern(46 + i * 37 % 1455, i));
        Frame { wire_len: u32::try_from(data.len()).unwrap(), data }
    };
    (0..count).map(frame).collect()
}

fn write(path: &Path, frames: &[Frame]) {
    let mut writer = PcapWriter::new(std::fs::File::create(path).unwrap()).unwrap();
    for (number, frame) in (1_000_000_000..).step_by(1000).zip(frames) {
        writer.write(number, frame.wire_len, [frame.data.as_slice()]).unwrap();
    }
    writer.finish().unwrap();
}

/// Sends frames by a kernel interface, at a pace that a small ring can bear.
fn send(from: &Namespace, device: &str, frames: &[Frame]) {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let frames = frames.to_vec();
    let send = move || {
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        for (number, frame) in frames.iter().enumerate() {
            let end = Instant::now() + Duration::from_secs(2);
            while tx.tx_frames(&[&[&frame.data]], |_, why| panic!("{why:?}")) == 0 {
                assert!(Instant::now() < end, "the kernel takes no frame");
            }
            if number % 50 == 49 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    };
    from.inside(send).join().unwrap();
}

/// Only the frames of [`frames`]: the kernel adds words of its own.
fn ours(frames: &[Frame]) -> Vec<Frame> {
    frames.iter().filter(|frame| frame.data[12..14] == [0x88, 0xb5]).cloned().collect()
}

/// Waits until the daemon is done with a capture file.
fn wait_ended(daemon: &Daemon) {
    daemon.wait_log("the capture file has ended");
    std::thread::sleep(Duration::from_millis(100));
}

/// A lab with one namespace.
fn lab(test: &str) -> Option<(Lab, Namespace, PathBuf)> {
    let mut lab = Lab::new(test)?;
    let broker = lab.namespace("broker");
    let input = lab.dir().join("input.pcap");
    write(&input, &frames(1000));
    Some((lab, broker, input))
}

#[test]
fn a_capture_file_is_read_once() {
    let Some((lab, broker, input)) = lab("pcap:FILE") else { return };
    let boot = port("in", &format!("pcap:{}", input.display()), "capture");
    let daemon = Daemon::start(&lab, &broker, &boot, &plain("file", "in", FILE));
    wait_ended(&daemon);
    let summary = daemon.stop();
    assert_eq!((summary.rx(), summary.copies("file")), (1000, 1000));
    let copies = lab.dir().join("copies.pcap");
    assert_eq!(std::fs::read(&copies).unwrap(), std::fs::read(&input).unwrap(), "time stamps, too");
    assert_eq!(tshark(&copies, "frame", &["frame.number"], &[]).len(), 1000);
}

#[test]
fn files_need_no_privilege() {
    let Some((lab, broker, input)) = lab("no privilege") else { return };
    let boot = port("in", &format!("pcap:{}", input.display()), "capture");
    let command = unprivileged(&lab, &broker);
    let daemon = Daemon::spawn(command, lab.dir(), &boot, &plain("file", "in", FILE));
    daemon.wait_log("running;");
    wait_ended(&daemon);
    let summary = daemon.stop();
    assert_eq!(summary.copies("file"), 1000);
    assert_eq!(read(&lab.dir().join("copies.pcap")), frames(1000));
}

#[test]
fn net_pcap_reads_and_writes() {
    let Some((lab, broker, input)) = lab("net_pcap") else { return };
    let output = lab.dir().join("tx.pcap");
    let spec = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let policy = plain("back", "file", "type = \"port\"\nport = \"file\"");
    let daemon = Daemon::start(&lab, &broker, &port("file", &spec, "both"), &policy);
    std::thread::sleep(Duration::from_millis(300));
    let summary = daemon.stop();
    assert_eq!(summary.port("file"), [1000, 1000, 0]);
    assert_eq!(read(&output), frames(1000));
}

#[test]
fn net_null_is_endless_and_swallows_all() {
    let Some((lab, broker, _)) = lab("net_null") else { return };
    let boot = [port("in", "net_null0", "capture"), port("out", "net_null1", "output")].concat();
    let policy = plain("out", "in", "type = \"port\"\nport = \"out\"");
    let daemon = Daemon::start(&lab, &broker, &boot, &policy);
    std::thread::sleep(Duration::from_millis(200));
    let summary = daemon.stop();
    let [received, _, _] = summary.port("in");
    assert!(received > 100_000);
    assert_eq!(summary.copies("out"), received);
    assert_eq!(summary.port("out")[1], received);
}

#[test]
fn net_ring_gives_back_what_it_is_given() {
    let Some((lab, broker, input)) = lab("net_ring") else { return };
    let boot =
        [port("in", &format!("pcap:{}", input.display()), "capture"), port("ring", "net_ring0", "both")]
            .concat();
    let policy =
        [plain("ring", "in", "type = \"port\"\nport = \"ring\""), plain("file", "ring", FILE)].concat();
    let daemon = Daemon::start(&lab, &broker, &boot, &policy);
    wait_ended(&daemon);
    let summary = daemon.stop();
    assert_eq!(summary.rx(), 2000);
    assert_eq!(summary.port("ring"), [1000, 1000, 0]);
    assert_eq!(read(&lab.dir().join("copies.pcap")), frames(1000));
}

#[test]
fn net_af_packet_captures_and_sends() {
    let Some((mut lab, broker, _)) = lab("net_af_packet") else { return };
    let peer = lab.namespace("peer");
    for (here, there) in [("va", "pa"), ("vb", "pb")] {
        broker.veth(here, &peer, there, 1500);
    }
    let boot =
        [port("in", "net_af_packet0,iface=va", "capture"), port("out", "net_af_packet1,iface=vb", "output")]
            .concat();
    let policy = plain("out", "in", "type = \"port\"\nport = \"out\"");
    let daemon = Daemon::start(&lab, &broker, &boot, &policy);
    let at_peer = Tcpdump::start(&lab, &peer, "pb");
    send(&peer, "pa", &frames(1000));
    assert_same("net_af_packet", &ours(&at_peer.stop()), &frames(1000));
    let summary = daemon.stop();
    assert_eq!(summary.port("in")[0], 1000);
    assert_eq!(summary.copies("out"), 1000);
}

#[test]
fn net_tap_is_an_interface_of_the_kernel() {
    let Some((lab, broker, _)) = lab("net_tap") else { return };
    let boot = [port("in", "net_tap0,iface=dtap0", "capture"), port("out", "net_tap1,iface=dtap1", "output")]
        .concat();
    let policy = [plain("out", "in", "type = \"port\"\nport = \"out\""), plain("file", "in", FILE)].concat();
    let daemon = Daemon::start(&lab, &broker, &boot, &policy);
    let at_tap = Tcpdump::start(&lab, &broker, "dtap1");
    send(&broker, "dtap0", &frames(1000));
    assert_same("net_tap", &ours(&at_tap.stop()), &frames(1000));
    let summary = daemon.stop();
    assert_eq!(ours(&read(&lab.dir().join("copies.pcap"))), frames(1000));
    assert_eq!(summary.copies("out"), summary.copies("file"));
}

#[test]
fn net_af_xdp_captures_from_a_veth() {
    let Some((mut lab, broker, _)) = lab("net_af_xdp") else { return };
    let peer = lab.namespace("peer");
    broker.veth("va", &peer, "pa", 1500);
    let boot = port("in", "net_af_xdp0,iface=va", "capture");
    let daemon = Daemon::start(&lab, &broker, &boot, &plain("file", "in", FILE));
    send(&peer, "pa", &frames(1000));
    std::thread::sleep(Duration::from_millis(100));
    let summary = daemon.stop();
    assert_eq!(summary.port("in")[0], 1000);
    assert_eq!(ours(&read(&lab.dir().join("copies.pcap"))), frames(1000));
    assert!(summary.text.contains("kept by their driver"), "{}", summary.text);
}

/// Two daemons: one sends what a null port makes, the other writes what comes to a file.
fn two_daemons(test: &str, receiver: &str, sender: &str) {
    let Some((lab, broker, _)) = lab(test) else { return };
    let socket = lab.dir().join("peer.sock").display().to_string();
    let [receiver, sender] = [receiver, sender].map(|spec| spec.replace("SOCKET", &socket));
    let receiving =
        Daemon::start(&lab, &broker, &port("peer", &receiver, "capture"), &plain("file", "peer", FILE));
    let boot = [port("in", "net_null0", "capture"), port("peer", &sender, "output")].concat();
    let policy = plain("peer", "in", "type = \"port\"\nport = \"peer\"");
    let sending = Daemon::start(&lab, &broker, &boot, &policy);
    receiving.wait_log("link up");
    let file = lab.dir().join("copies.pcap");
    let grows = || (std::fs::metadata(&file).unwrap().len() > 1_000_000).then_some(());
    wait_for("copies", Duration::from_secs(10), grows);
    let sent: Summary = sending.stop();
    // The peer is gone: what it left in the shared rings has been taken.
    receiving.wait_log_times("link down", 2);
    let received = receiving.stop();
    assert!(sent.copies("peer") > 10_000);
    assert_eq!(received.rx(), sent.copies("peer"), "nothing is lost between them");
    assert_eq!(sent.rx(), sent.tx() + sent.drops());
}

#[test]
fn net_memif_joins_two_daemons() {
    two_daemons(
        "net_memif",
        "net_memif0,role=server,id=0,socket=SOCKET,socket-abstract=no",
        "net_memif0,role=client,id=0,socket=SOCKET,socket-abstract=no",
    );
}

#[test]
fn net_vhost_serves_net_virtio_user() {
    two_daemons("net_virtio_user", "net_vhost0,iface=SOCKET", "net_virtio_user0,path=SOCKET");
}

#[test]
fn a_virtio_user_server_waits_and_says_so() {
    let Some((lab, broker, _)) = lab("net_virtio_user server") else { return };
    let socket = lab.dir().join("server.sock");
    let boot = port("in", &format!("net_virtio_user0,path={},server=1", socket.display()), "capture");
    let command = broker.command(sluice_tests::sluiced::binary());
    let mut daemon = Daemon::spawn(command, lab.dir(), &boot, &plain("file", "in", FILE));
    daemon.wait_log("waits for its peer");
    wait_for("the socket", Duration::from_secs(10), || socket.exists().then_some(()));
    // Nothing runs yet, so nothing has to be drained.
    daemon.signal(rustix::process::Signal::INT);
    assert_eq!(daemon.wait().0.code(), Some(130));
}
