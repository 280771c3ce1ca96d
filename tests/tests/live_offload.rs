//! Is every byte of payload delivered when segmentation offloads make frames far above the tool's MTU?

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use sluice_tests::daemon::Daemon;
use sluice_tests::netns::Lab;
use sluice_tests::tap::{SERVER, TOOL, Tap, pattern};
use sluice_tests::tcpdump::{Frame, Tcpdump, tshark};

const BOOT: &str = r#"
[[port]]
name = "tap0"
spec = "af_packet:tap0"
role = "capture"

[[port]]
name = "out0"
spec = "af_packet:out0"
role = "output"
addresses = ["192.0.2.1/24", "2001:db8::1/64"]
"#;

/// What `oversize` is, under which VNI, and over which outer address family.
const TOOLS: [(&str, u32, usize); 4] =
    [("segment", 7, 0), ("fragment", 8, 0), ("truncate", 9, 0), ("fragment", 10, 1)];

/// The link to the tool carries less than one full frame of the tap with its tunnel.
const TOOL_MTU: u32 = 1500;

/// The TCP payload to `port`, put together by sequence number; bytes that no frame brought are `None`.
fn stream(frames: &[Frame], port: u16, len: usize) -> Vec<Option<u8>> {
    let mut stream = vec![None; len];
    let mut first = None;
    for Frame { data, .. } in frames {
        let (l4, end) = match data[12..14] {
            [0x08, 0x00] if data[23] == 6 => (
                14 + usize::from(data[14] & 15) * 4,
                14 + usize::from(u16::from_be_bytes([data[16], data[17]])),
            ),
            [0x86, 0xdd] if data[20] == 6 => (54, 54 + usize::from(u16::from_be_bytes([data[18], data[19]]))),
            _ => continue,
        };
        if u16::from_be_bytes([data[l4 + 2], data[l4 + 3]]) != port {
            continue;
        }
        let sequence = u32::from_be_bytes(data[l4 + 4..l4 + 8].try_into().unwrap());
        if data[l4 + 13] & 2 != 0 {
            first = Some(sequence.wrapping_add(1));
            continue;
        }
        let payload = data.get(l4 + usize::from(data[l4 + 12] >> 4) * 4..end.min(data.len())).unwrap_or(&[]);
        let at = sequence.wrapping_sub(first.expect("SYN first")) as usize;
        for (place, byte) in stream.iter_mut().skip(at).zip(payload) {
            *place = Some(*byte);
        }
    }
    stream
}

fn assert_whole(what: &str, frames: &[Frame], data: &[u8]) {
    let stream = stream(frames, 5001, data.len());
    let missing = stream.iter().filter(|byte| byte.is_none()).count();
    assert_eq!(missing, 0, "{what}: payload bytes missing");
    assert!(stream.iter().zip(data).all(|(got, sent)| *got == Some(*sent)), "{what}: other payload");
}

fn longest(frames: &[Frame]) -> usize {
    frames.iter().map(|frame| frame.data.len()).max().unwrap()
}

#[test]
fn super_frames_lose_no_payload() {
    let Some(mut lab) = Lab::new("offloads") else { return };
    let tap = Tap::new(&mut lab, 1500, TOOL_MTU, true);
    let policy = TOOLS.map(|(oversize, vni, family)| {
        let local = TOOL[family];
        tap.vxlan(vni, local);
        format!(
            "[[destination]]\nname = \"tool{vni}\"\ntype = \"vxlan\"\nremote = \"{local}\"\n\
             oversize = \"{oversize}\"\n\
             [[policy]]\nname = \"{oversize}{vni}\"\ntag = {vni}\nto = [\"tool{vni}\"]\n"
        )
    });
    let policy = policy.concat();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy);
    daemon.wait_resolved(2);

    let before = tap.broker.counters("tap0");
    let at_tap = Tcpdump::start(&lab, &tap.broker, "tap0");
    let at_tools = TOOLS.map(|(_, vni, _)| Tcpdump::start(&lab, &tap.tool, &format!("vx{vni}")));
    let files = TOOLS.map(|(_, vni, _)| lab.dir().join(format!("vx{vni}.pcap")));
    let data = pattern(3_000_000, 1);
    tap.tcp(SERVER[0], &data, b"");
    let tapped = at_tap.stop();
    let [segments, fragments, cut, fragments6] = at_tools.map(Tcpdump::stop);

    let counted = tap.broker.counters("tap0") - before;
    assert_eq!(counted.rx_packets + counted.tx_packets, tapped.len() as u64);
    let over = |frame: &&Frame| frame.data.len() > TOOL_MTU as usize - 36;
    let oversized = tapped.iter().filter(over).count() as u64;
    assert!(longest(&tapped) > 20_000, "no super-frames: the longest frame has {} bytes", longest(&tapped));

    assert_whole("tap", &tapped, &data);
    assert_whole("segments", &segments, &data);
    assert_whole("fragments over IPv4", &fragments, &data);
    assert_whole("fragments over IPv6", &fragments6, &data);
    assert!(longest(&segments) <= TOOL_MTU as usize - 36, "{}", longest(&segments));
    for frames in [&fragments, &fragments6] {
        assert_eq!(longest(frames), longest(&tapped));
        assert_eq!(frames.len(), tapped.len());
    }
    assert_eq!(cut.len(), tapped.len());
    assert_eq!(longest(&cut), TOOL_MTU as usize - 36);
    // Where the tap's frames had to be finished by a NIC, ours are finished. Of cut frames nothing can be verified.
    for file in [&files[0], &files[1], &files[3]] {
        let status = tshark(file, "tcp", &["ip.checksum.status", "tcp.checksum.status"], &[]);
        assert!(status.len() > 40, "{status:?}");
        assert!(status.iter().all(|status| status == "1\t1"), "{}: {status:?}", file.display());
    }

    let summary = daemon.stop();
    let seen = tapped.len() as u64;
    assert_eq!(summary.port("tap0"), [seen, 0, 0]);
    assert_eq!(summary.drops(), summary.dropped("not_capture_port"));
    assert_eq!(summary.get("destination", "tool9", 2), oversized, "cut");
    assert_eq!(summary.total("cut to the MTU"), oversized);
    for (oversize, vni, _) in TOOLS {
        let sent = summary.get("policy", &format!("{oversize}{vni}"), 2);
        assert_eq!(sent, seen, "a copy counts once, however many pieces it left in");
    }
    // Segments are what the device received; of fragments the device saw what they were put together to.
    assert_eq!(summary.copies("tool7"), segments.len() as u64);
    assert!(summary.copies("tool8") > 10 * oversized);
    let pieces: u64 = ["tool7", "tool8", "tool10"].iter().map(|tool| summary.copies(tool) - seen).sum();
    assert_eq!(summary.total("replicas"), 3 * seen + pieces);
}
