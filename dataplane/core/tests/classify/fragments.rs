//! Later fragments take the ports of their first one, within time and memory.

use std::collections::HashMap;
use std::net::IpAddr;

use sluice_core::classify::{FragmentOutcome, FragmentTable, FragmentTableConfig};
use sluice_core::wire::{self, Parsed};
use sluice_model::MacAddr;

use crate::generate::Dice;
use crate::packet::{self, Cut, L4, Layer, Net};
use crate::reference::Place;

const SECOND: u64 = 1_000_000_000;

fn frame(ends: [&str; 2], place: Place, ident: u16, l4: L4) -> (Vec<u8>, Parsed) {
    let [src, dst]: [IpAddr; 2] = ends.map(|end| end.parse().unwrap());
    let net = Net::Ip { src, dst, place, ident, l4 };
    let built = packet::build(&Layer { macs: Some((MacAddr([2; 6]), MacAddr([4; 6]))), vlans: vec![], net });
    (built.frame, built.parsed_outer)
}

fn tcp(src: u16, dst: u16) -> L4 {
    L4::Tcp { src, dst, flags: 0x12, cut: Cut::No }
}

fn resolve(
    table: &mut FragmentTable,
    (bytes, parsed): &(Vec<u8>, Parsed),
    now: u64,
) -> (FragmentOutcome, Parsed) {
    let mut parsed = *parsed;
    (table.resolve(&mut parsed, bytes, now), parsed)
}

#[test]
fn later_fragments_take_the_ports_of_the_first() {
    let mut table = FragmentTable::new(&FragmentTableConfig::default());
    for ends in [["10.0.0.1", "10.0.0.2"], ["2001:db8::1", "2001:db8::2"]] {
        let first = frame(ends, Place::First, 7, tcp(1234, 80));
        let later = frame(ends, Place::Later, 7, tcp(0, 0));
        let whole = frame(ends, Place::Whole, 7, tcp(1234, 80));
        assert_eq!(resolve(&mut table, &whole, SECOND), (FragmentOutcome::NotNeeded, whole.1));
        assert_eq!(resolve(&mut table, &later, SECOND), (FragmentOutcome::Unknown, later.1));
        assert_eq!(resolve(&mut table, &first, SECOND), (FragmentOutcome::Noted, first.1));
        // Ten seconds later they are still there, after that no more.
        for now in [SECOND, 11 * SECOND] {
            let (outcome, parsed) = resolve(&mut table, &later, now);
            assert_eq!(outcome, FragmentOutcome::Resolved);
            assert!(parsed.has_ports && parsed.protocol == 6);
            assert_eq!((parsed.src_port, parsed.dst_port, parsed.tcp_flags), (1234, 80, 0x12));
        }
        assert_eq!(resolve(&mut table, &later, 11 * SECOND + 1), (FragmentOutcome::Unknown, later.1));
        // Another identification, or the other way: another datagram.
        let other = frame(ends, Place::Later, 8, tcp(0, 0));
        let back = frame([ends[1], ends[0]], Place::Later, 7, tcp(0, 0));
        assert_eq!(resolve(&mut table, &other, SECOND).0, FragmentOutcome::Unknown);
        assert_eq!(resolve(&mut table, &back, SECOND).0, FragmentOutcome::Unknown);
    }
    // In IPv4 the protocol is part of a datagram's identity (RFC 791).
    let udp = frame(["10.0.0.1", "10.0.0.2"], Place::Later, 7, L4::Udp { src: 0, dst: 0 });
    assert_eq!(resolve(&mut table, &udp, SECOND).0, FragmentOutcome::Unknown);
}

#[test]
fn a_first_fragment_without_ports_is_not_noted() {
    let mut table = FragmentTable::new(&FragmentTableConfig::default());
    let ends = ["10.0.0.1", "10.0.0.2"];
    let ping = frame(ends, Place::First, 7, L4::Other(1));
    let cut = frame(ends, Place::First, 8, L4::Tcp { src: 1, dst: 2, flags: 2, cut: Cut::BeforePorts });
    for first in [ping, cut] {
        assert_eq!(resolve(&mut table, &first, SECOND).0, FragmentOutcome::NotNeeded);
    }
}

#[test]
fn the_later_fragment_of_an_ipv6_datagram_learns_its_protocol() {
    // RFC 8200 section 4.5: the next header of a later fragment is the first header of the fragmentable part, here
    // destination options (60), while TCP is behind them.
    let head = |place_bits: u8, payload: &[u8]| {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0];
        frame.extend(((8 + payload.len()) as u16).to_be_bytes());
        frame.extend([44, 64]);
        frame.extend([0x20; 32]);
        frame.extend([60, 0, 0, place_bits, 0, 0, 0, 9]);
        frame.extend(payload);
        let parsed = wire::parse(&frame);
        (frame, parsed)
    };
    let tcp = [0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
    let first = head(1, &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp].concat());
    let later = head(0x40, &[0xa5; 16]);
    let mut table = FragmentTable::new(&FragmentTableConfig::default());
    assert_eq!(resolve(&mut table, &first, SECOND).0, FragmentOutcome::Noted);
    let (outcome, parsed) = resolve(&mut table, &later, SECOND);
    assert_eq!(outcome, FragmentOutcome::Resolved);
    assert_eq!((parsed.protocol, parsed.src_port, parsed.dst_port), (6, 0x1234, 80));
}

#[test]
fn a_flood_ends_in_bounded_memory_and_never_in_wrong_ports() {
    let ends = ["10.0.0.1", "10.0.0.2"];
    let mut dice = Dice::new(3);
    let mut table = FragmentTable::new(&FragmentTableConfig { datagrams: 64, life_ns: SECOND });
    let mut model: HashMap<u16, (u16, u64)> = HashMap::new();
    let mut resolved = 0;
    let allocated = allocation_counter::measure(|| {
        table.resolve(&mut Parsed::EMPTY.clone(), &[], 0);
    });
    assert_eq!(allocated.count_total, 0);
    for step in 0..20_000_u64 {
        let now = SECOND + step * 1_000_000;
        let ident = dice.below(256) as u16;
        if dice.one_in(2) {
            let port = dice.next() as u16;
            let first = frame(ends, Place::First, ident, tcp(port, 80));
            assert_eq!(resolve(&mut table, &first, now).0, FragmentOutcome::Noted);
            model.insert(ident, (port, now));
            let later = frame(ends, Place::Later, ident, tcp(0, 0));
            assert_eq!(resolve(&mut table, &later, now).1.src_port, port, "the newest is always there");
        } else {
            let later = frame(ends, Place::Later, ident, tcp(0, 0));
            let (outcome, parsed) = resolve(&mut table, &later, now);
            let alive = model.get(&ident).filter(|(_, seen)| now - seen <= SECOND);
            match outcome {
                FragmentOutcome::Resolved => {
                    resolved += 1;
                    assert_eq!(Some(parsed.src_port), alive.map(|(port, _)| *port));
                }
                outcome => assert_eq!(outcome, FragmentOutcome::Unknown),
            }
        }
    }
    assert!(resolved > 1_000, "{resolved}");
}
