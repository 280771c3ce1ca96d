//! Does the parser keep its promises on real frames that are cut, changed and lied to?
//!
//! The first frames of every capture, and some of each kind of frame: each cut at every offset of its first 200 bytes, each of these
//! bytes changed in several ways, and each pair of bytes there made an extreme length.
#![allow(clippy::panic)]

use std::collections::HashSet;

use sluice_capture::CaptureReader;
use sluice_core::wire::{self, Parsed};
use sluice_tests::captures;

/// Headers are in the first bytes.
const HEAD_LEN: usize = 200;
/// So many of every capture.
const FIRST_FRAMES: u64 = 5;
/// Frames of one kind over all captures; more of them reach nothing new.
const FRAMES_OF_A_KIND: usize = 10;

fn holds(frame: &[u8]) {
    let outer = wire::parse(frame);
    let inner = wire::parse_innermost(frame, &outer, 8);
    if let Err(promise) = outer.check(frame.len()).and(inner.check(frame.len())) {
        panic!("{promise}: {outer:?}, inside {inner:?}, of {frame:x?}");
    }
}

/// What makes frames go the same way through the parser.
fn kind(parsed: &Parsed) -> impl Eq + std::hash::Hash + use<> {
    (
        (parsed.ethertype, parsed.vlan_count, parsed.l3 as u8, parsed.protocol, parsed.fragment as u8),
        (parsed.tunnel as u8, parsed.stop as u8, parsed.l4_offset, parsed.header_end, parsed.inner_offset),
    )
}

fn mutate(frame: &[u8]) {
    let head = frame.len().min(HEAD_LEN);
    for cut in 0..head {
        holds(&frame[..cut]);
    }
    let mut changed = frame.to_vec();
    for at in 0..head {
        let byte = frame[at];
        for value in [0, 0xff, byte ^ 0x80, byte ^ 0x10, byte ^ 0x01, byte.wrapping_add(1), byte << 4] {
            changed[at] = value;
            holds(&changed);
        }
        changed[at] = byte;
    }
    for at in 0..head.saturating_sub(1) {
        for length in [[0, 0], [0, 1], [0, 19], [0xff, 0xff]] {
            changed[at..at + 2].copy_from_slice(&length);
            holds(&changed);
            holds(&changed[..head]);
        }
        changed[at..at + 2].copy_from_slice(&frame[at..at + 2]);
    }
}

#[test]
fn mutated_captures() {
    let Some(folder) = captures::folder() else { return };
    let mut seen = HashSet::new();
    let (mut frames, mut mutated) = (0u64, 0u64);
    for path in captures::files(&folder) {
        let Ok(mut reader) = CaptureReader::open(&path) else { continue };
        let mut number = 0;
        // A damaged capture counts as far as it goes.
        while let Ok(Some(frame)) = reader.next_frame() {
            frames += 1;
            number += 1;
            holds(frame.data);
            let outer = wire::parse(frame.data);
            let inner = wire::parse_innermost(frame.data, &outer, 8);
            if number <= FIRST_FRAMES
                || (0..FRAMES_OF_A_KIND).any(|nth| seen.insert((nth, kind(&outer), kind(&inner))))
            {
                mutated += 1;
                mutate(frame.data);
            }
        }
    }
    eprintln!("{frames} frames, {mutated} of them mutated");
    assert!(mutated > 1000, "the captures hold many kinds");
}
