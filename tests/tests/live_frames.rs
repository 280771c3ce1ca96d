//! Do jumbo frames and VLAN tags of both kinds come through a tap and a tunnel as they are?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::time::{Duration, Instant};

use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, Namespace};
use sluice_tests::tap::{BROKER, SERVER, TOOL, Tap, pattern};
use sluice_tests::tcpdump::{Frame, Tcpdump, assert_same, read, tshark};

const BOOT: &str = sluice_tests::tap::PORTS;

const POLICY: &str = r#"
[[destination]]
name = "tool"
type = "vxlan"
remote = "192.0.2.10"

[[policy]]
name = "all"
tag = 7
to = ["tool"]

[[destination]]
name = "tagged"
type = "vxlan"
remote = "192.0.2.10"
inner_vlan = true

[[policy]]
name = "tagged"
tag = 8
to = ["tagged"]
"#;

/// Sends frames as they are.
fn send(from: &Namespace, device: &str, frames: &[Frame]) {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let frames = frames.to_vec();
    let send = move || {
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        for frame in &frames {
            let end = Instant::now() + Duration::from_secs(2);
            let refused = |_, why| panic!("{} bytes: {why:?}", frame.data.len());
            while tx.tx_frames(&[&[&frame.data]], refused) == 0 {
                assert!(Instant::now() < end, "the kernel takes no frame");
            }
        }
    };
    from.inside(send).join().unwrap();
}

/// A frame with these bytes after the addresses, then something like a packet, `len` bytes in all.
fn frame(tags: &[u8], len: usize) -> Frame {
    let mut data = vec![0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a];
    data.extend_from_slice(tags);
    data.extend([0x08, 0x00, 0x45, 0x00]);
    data.extend(u16::try_from(len - data.len() + 2).unwrap().to_be_bytes());
    data.extend([0, 1, 0, 0, 64, 253, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
    data.extend(pattern(u32::try_from(len - data.len()).unwrap(), 5));
    Frame { wire_len: u32::try_from(len).unwrap(), data }
}

#[test]
fn jumbo_frames_and_vlan_tags_come_through_intact() {
    let Some(mut lab) = Lab::new("jumbo frames and tags") else { return };
    let tap = Tap::new(&mut lab, 9000, 9100, false);
    tap.vxlan(7, TOOL[0]);
    tap.vxlan(8, TOOL[0]);
    let c_tag = [0x81, 0x00, 0xa0, 0x64];
    let s_tag = [0x88, 0xa8, 0x00, 0x65];
    let both = [s_tag, c_tag].concat();
    let three = [s_tag, c_tag, c_tag].concat();
    let priority = [0x81, 0x00, 0xe0, 0x00];
    let odd = [0x91, 0x00, 0x00, 0x66];
    let mut sent = vec![];
    for tags in [&[][..], &c_tag, &s_tag, &both, &three, &priority, &odd] {
        sent.extend([64, 65, 1514, 2048, 2049, 4200, 9014].map(|len| frame(tags, len)));
    }
    // The kernel lets one tag of 0x8100 exceed the MTU.
    sent.push(frame(&c_tag, 9018));

    let daemon = Daemon::start(&lab, &tap.broker, BOOT, POLICY);
    daemon.wait_resolved(1);
    // What the kernel can send in one frame comes back: 9100 bytes without the headers of IPv4 and ICMP.
    let echo = concat!(env!("CARGO_MANIFEST_DIR"), "/netns/echo.py");
    let own = BROKER[0].split('/').next().unwrap();
    eprintln!("{}", tap.tool.run(&format!("python3 {echo} 2048 {} {own}", 9100 - 20 - 8)));
    let at_tap = Tcpdump::start(&lab, &tap.broker, "tap0");
    let at_tool = Tcpdump::start(&lab, &tap.tool, "vx7");
    let at_tagged = Tcpdump::start(&lab, &tap.tool, "vx8");
    send(&tap.client, "c0", &sent);
    let data = pattern(500_000, 1);
    tap.tcp(SERVER[0], &data, &data);
    let tapped = at_tap.stop();
    let delivered = at_tool.stop();
    let tagged = at_tagged.stop();

    assert_eq!(&tapped[..sent.len()], &sent[..], "the kernel's own way to the tap");
    assert_eq!(&delivered[..sent.len()], &sent[..]);
    assert_same("all", &delivered, &tapped);
    assert!(tapped.iter().filter(|frame| frame.data.len() == 9014).count() > 100, "jumbo frames of TCP");
    // VLAN id 8; the top bit of PCP set. From client to server, or back: with an empty collection point both readings
    // match, and a match as source makes it egress.
    let expected: Vec<_> = tapped
        .iter()
        .map(|frame| {
            let mut data = frame.data.clone();
            data.splice(12..12, [0x81, 0x00, 0xa0, 0x08]);
            Frame { data, wire_len: frame.wire_len + 4 }
        })
        .collect();
    assert_same("inner VLAN", &tagged, &expected);

    let summary = daemon.stop();
    let seen = tapped.len() as u64;
    assert_eq!(summary.port("tap0"), [seen, 0, 0]);
    assert_eq!([summary.copies("tool"), summary.copies("tagged")], [seen, seen]);
    assert_eq!(summary.total("cut to the MTU"), 0);
}

#[test]
fn a_snap_length_keeps_the_original_length() {
    let Some(mut lab) = Lab::new("snap length") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let boot = BOOT.replacen("role = \"capture\"", "role = \"capture\"\nsnaplen = 128", 1);
    let policy = r#"
[[destination]]
name = "file"
type = "pcap"
file = "copies.pcap"

[[destination]]
name = "three"
type = "erspan3"
remote = "192.0.2.10"

[[policy]]
name = "all"
tag = 7
to = ["file", "three"]
"#;
    let daemon = Daemon::start(&lab, &tap.broker, &boot, policy);
    daemon.wait_resolved(1);
    let at_tool = Tcpdump::start(&lab, &tap.tool, "in0");
    let tunnels = at_tool.file().to_owned();
    let lengths = [60, 127, 128, 129, 700, 1514];
    let sent = lengths.map(|len| frame(&[], len));
    send(&tap.client, "c0", &sent);
    at_tool.stop();
    let summary = daemon.stop();
    let cut =
        |frame: &Frame| Frame { data: frame.data[..frame.data.len().min(128)].to_vec(), ..frame.clone() };
    assert_eq!(read(&lab.dir().join("copies.pcap")), sent.each_ref().map(cut));
    let truncated = tshark(&tunnels, "erspan && !icmp", &["erspan.truncated"], &[]);
    assert_eq!(truncated, ["0", "0", "0", "1", "1", "1"]);
    assert_eq!(summary.get("policy", "all", 1), lengths.iter().sum::<usize>() as u64, "original bytes");
}
