//! Does deduplication ever take two packets for one that are not?
//!
//! Distinct packets of every size, alike but for one field, all within one window: 1 million by default, 10 million with
//! `SLUICE_LONG=1`.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use sluice_core::dedup::{DedupTable, Fingerprinter, KeyProfile, Verdict};
use sluice_core::wire;

const BATCH: u32 = 64;

/// An IPv4 (UDP, TCP) or IPv6 (TCP) frame with this much payload.
fn frame(kind: u32, payload: usize) -> Vec<u8> {
    let l4: &[u8] = if kind == 0 {
        &[0xc0, 0, 0, 53, 0, 0, 0, 0]
    } else {
        &[0xc0, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0]
    };
    let len = (l4.len() + payload) as u16;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if kind == 2 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([6, 64]);
        frame.extend([0x20; 32]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((len + 20).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, if kind == 0 { 17 } else { 6 }, 0, 0]);
        frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    }
    frame.extend(l4);
    frame.resize(frame.len() + payload, 0);
    frame
}

#[test]
fn no_distinct_packets_are_taken_for_duplicates() {
    let packets: u32 = if std::env::var_os("SLUICE_LONG").is_some() { 10_000_000 } else { 1_000_000 };
    let fingerprinter = Fingerprinter::new(KeyProfile::default(), 0x5eed);
    let mut table = DedupTable::new(packets, 10_000_000_000);
    // Where the number of the packet goes: into the payload, the sequence number, the last bytes.
    let mut templates = Vec::new();
    for (kind, payload, at) in
        [(0, 18, 42), (0, 128, 166), (1, 0, 38), (1, 6, 54), (1, 100, 150), (2, 12, 58), (2, 0, 58)]
    {
        let frame = frame(kind, payload);
        let headers = wire::parse(&frame);
        templates.push((frame, headers, at));
    }
    let mut time_ns = 1_700_000_000_000_000_000;
    let mut false_duplicates = 0;
    for number in 0..packets {
        let template = (number / BATCH) as usize % templates.len();
        let (frame, headers, at) = &mut templates[template];
        frame[*at..*at + 4].copy_from_slice(&number.to_be_bytes());
        let fingerprint = fingerprinter.fingerprint(frame, headers, 1514);
        false_duplicates += u32::from(table.offer(fingerprint, time_ns, 0) != Verdict::First);
        time_ns += 100;
    }
    assert_eq!((false_duplicates, table.evicted()), (0, 0));
    // They were all remembered: the last ones come again.
    for number in packets - 1000..packets {
        let template = (number / BATCH) as usize % templates.len();
        let (frame, headers, at) = &mut templates[template];
        frame[*at..*at + 4].copy_from_slice(&number.to_be_bytes());
        let fingerprint = fingerprinter.fingerprint(frame, headers, 1514);
        assert_eq!(table.offer(fingerprint, time_ns, 1), Verdict::Duplicate(0));
    }
}
