//! Does the whole pipeline survive real frames that are cut, changed and lied to, and pass them on as they are?
//!
//! Frames of every capture: cut at every offset of their first 200 bytes, bytes flipped, lengths made extreme. They go
//! through `sluiced replay` with policies that look at everything; a copy of each must arrive unchanged, and a
//! truncated copy must be its beginning. By default the first frames of every capture and some of each kind; with
//! `SLUICE_LONG=1` every frame.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::HashSet;
use std::env;

use sluice_core::wire::{self, Parsed};
use sluice_tests::pcap_file::{self, Builder, ETHERNET, Record};
use sluice_tests::reference::{self, Frame};
use sluice_tests::{captures, sluiced};

/// Headers are in the first bytes.
const HEAD_LEN: usize = 200;
/// So many of every capture by default.
const FIRST_FRAMES: usize = 5;
/// Frames of one kind over all captures; more of them reach nothing new.
const FRAMES_OF_A_KIND: usize = 10;
/// Mutants of one replay, in bytes.
const REPLAYED_AT_ONCE: usize = 48 << 20;

/// Policies that look at outer and inner headers, fragments, flags, tags and tunnels.
const POLICY: &str = r#"
[[destination]]
name = "whole"
type = "vxlan"
remote = "192.0.2.10"

[[destination]]
name = "short"
type = "pcap"
file = "short.pcap"

[[destination]]
name = "tagged"
type = "erspan3"
marking = "reference"
remote = "2001:db8::a"
inner_vlan = true
mtu = 1400
oversize = "segment"

[[destination]]
name = "pieces"
type = "vxlan"
remote = "2001:db8::b"
mtu = 1280
oversize = "fragment"

[[destination]]
name = "fitting"
type = "erspan2"
remote = "192.0.2.11"
mtu = 200
oversize = "drop"

[[group]]
name = "some"
addresses = ["10.0.0.0/8", "192.168.0.0-192.168.127.255", "2000::/4", "fe80::/10"]

[[policy]]
name = "whole"
tag = 1
to = ["whole"]

[[policy]]
name = "short"
payload = 16
to = ["short"]

[[policy]]
name = "inner"
headers = "inner"
protocol = "tcp"
payload = 1
to = ["short", "tagged"]

[[policy]]
name = "ports"
collect = { addresses = ["@some"], ports = "1-1024,4789" }
tag = 3
to = ["tagged", "pieces", "fitting"]

[[policy]]
name = "flags"
tcp_flags = "syn,!ack"
tag = 4
to = ["tagged", "fitting"]

[[policy]]
name = "later"
fragment = "later"
tag = 5
to = ["pieces"]

[[policy]]
name = "vlan"
vlan = "1-4095"
payload = 0
tag = 6
to = ["fitting", "pieces"]

[[policy]]
name = "long"
length = "1000-65535"
tag = 7
to = ["tagged", "pieces"]
"#;

/// What makes frames go the same way through the parser.
fn kind(parsed: &Parsed) -> impl Eq + std::hash::Hash + use<> {
    (
        (parsed.ethertype, parsed.vlan_count, parsed.l3 as u8, parsed.protocol, parsed.fragment as u8),
        (parsed.tunnel as u8, parsed.stop as u8),
    )
}

/// Adds the mutants of a frame.
fn mutate(frame: &Frame, seed: usize, into: &mut Builder) {
    let head = frame.data.len().min(HEAD_LEN);
    let mut push = |data: &[u8], wire_len: usize| {
        // Times that run backwards now and then.
        let timestamp_ns = 1_700_000_000_000_000_000 + (into.records() * 7_919 % 1_000_003) as u64;
        into.push(Record { timestamp_ns, wire_len: wire_len as u32, data });
    };
    for cut in 0..head {
        // Cut by the capture, or on the wire.
        let wire_len = if (cut + seed).is_multiple_of(2) { frame.wire_len as usize } else { cut };
        push(&frame.data[..cut], wire_len.max(cut));
    }
    // Long frames are as good as their beginnings.
    let mut changed = frame.data[..frame.data.len().min(4 * HEAD_LEN)].to_vec();
    let wire_len = frame.wire_len as usize;
    for at in 0..head {
        let byte = frame.data[at];
        let values = [0, 0xff, byte ^ 0x80, byte ^ 0x10, byte ^ 0x01, byte.wrapping_add(1), byte << 4];
        for value in [values[(at + seed) % values.len()], values[(at * 3 + seed / 7) % values.len()]] {
            changed[at] = value;
            push(&changed, wire_len);
        }
        changed[at] = byte;
    }
    for at in 0..head.saturating_sub(1) {
        let lengths = [[0, 0], [0, 1], [0, 19], [0xff, 0xff], [0x7f, 0xff]];
        changed[at..at + 2].copy_from_slice(&lengths[(at + seed) % lengths.len()]);
        push(&changed, wire_len);
        changed[at..at + 2].copy_from_slice(&frame.data[at..at + 2]);
    }
}

/// Replays the mutants and compares what came out.
fn replay(mutants: &Builder) {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("mutants.pcap");
    mutants.save(&input);
    let replayed = sluiced::replay(dir.path(), POLICY, &[&input]);
    if replayed.code != Some(0) {
        let kept = env::temp_dir().join("sluice-mutants.pcap");
        std::fs::copy(&input, &kept).unwrap();
        panic!("exit code {:?} on {}: {}", replayed.code, kept.display(), replayed.stderr);
    }
    let report = replayed.report();
    let count = mutants.records() as u64;
    assert_eq!(report.number("rx_packets"), count);
    assert_eq!(report.policy("whole").sent_packets, count);
    for (reason, packets) in report.drops() {
        assert_eq!(reason, "oversize", "{packets} packets");
    }

    let input = pcap_file::records(mutants.bytes());
    let whole = replayed.output("whole");
    let short = replayed.output("short");
    let (whole, short) = (pcap_file::records(&whole), pcap_file::records(&short));
    assert_eq!((whole.len(), short.len()), (input.len(), input.len()));
    for (index, ((whole, short), input)) in whole.iter().zip(&short).zip(&input).enumerate() {
        let header_len = 14 + 20 + 8 + 8;
        assert_eq!(&whole.data[header_len..], input.data, "mutant {index}");
        assert_eq!(whole.timestamp_ns, input.timestamp_ns, "mutant {index}");
        assert!(input.data.starts_with(short.data), "mutant {index}");
        assert_eq!(
            (short.timestamp_ns, short.wire_len),
            (input.timestamp_ns, input.wire_len),
            "mutant {index}"
        );
    }
    for other in ["tagged", "pieces", "fitting"] {
        let packets = pcap_file::records(&replayed.output(other)).len() as u64;
        assert_eq!(packets, report.destination(other).0, "packets to {other}");
    }
}

#[test]
fn mutated_captures_pass_unchanged() {
    let Some(folder) = captures::folder() else { return };
    let long = env::var_os("SLUICE_LONG").is_some();
    let captures = reference::captures(&folder).taken;
    let frames = reference::frames(&captures);
    let mut seen = HashSet::new();
    let mut mutants = Builder::new(ETHERNET);
    let (mut mutated, mut total) = (0, 0);
    let mut of_captures = HashSet::new();
    for (seed, frame) in frames.iter().enumerate() {
        let outer = wire::parse(&frame.data);
        let inner = wire::parse_innermost(&frame.data, &outer, 8);
        let chosen = frame.number < FIRST_FRAMES
            || (0..FRAMES_OF_A_KIND).any(|nth| seen.insert((nth, kind(&outer), kind(&inner))));
        if !(chosen || long) {
            continue;
        }
        mutated += 1;
        of_captures.insert(frame.capture);
        mutate(frame, seed, &mut mutants);
        if mutants.bytes().len() > REPLAYED_AT_ONCE {
            total += mutants.records();
            replay(&mutants);
            mutants = Builder::new(ETHERNET);
        }
    }
    total += mutants.records();
    replay(&mutants);
    eprintln!("{total} mutants of {mutated} frames of {} captures", of_captures.len());
    // One capture holds no packet.
    assert!(of_captures.len() + 20 > captures.len(), "{} of {} captures", of_captures.len(), captures.len());
}
