//! Packets are literal, most of them from captures of other implementations; time is virtual.

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;
use sluice_model::MacAddr;

use super::*;
use crate::wire::checksum;

const SECOND: u64 = 1_000_000_000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn table(mac: &str, ipv4: &[&str], ipv6: &[&str]) -> NeighborTable {
    let addresses = PortAddresses {
        mac: mac.parse().unwrap(),
        ipv4: ipv4.iter().map(|text| (text.parse().unwrap(), 24)).collect(),
        ipv6: ipv6.iter().map(|text| (text.parse().unwrap(), 64)).collect(),
        gateway4: None,
        gateway6: None,
    };
    assert_eq!(addresses.check(), []);
    NeighborTable::new(addresses, NeighborConfig::default())
}

/// A table that has announced itself.
fn quiet(mac: &str, ipv4: &[&str], ipv6: &[&str]) -> NeighborTable {
    let mut table = table(mac, ipv4, ipv6);
    poll(&mut table, 0);
    poll(&mut table, 2 * SECOND);
    table
}

fn poll(table: &mut NeighborTable, now_ns: u64) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    table.poll(now_ns, &mut out);
    out
}

fn input(table: &mut NeighborTable, frame: &[u8], now_ns: u64) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    assert_eq!(table.input(frame, now_ns, &mut out), Input::Consumed);
    out
}

fn ignores(table: &mut NeighborTable, frame: &[u8]) {
    let mut out = Vec::new();
    assert_eq!(table.input(frame, 0, &mut out), Input::NotOurs);
    assert!(out.is_empty());
}

/// Consumed, invalid, without an answer.
fn rejects(table: &mut NeighborTable, frame: &[u8], why: &str) {
    let before = table.counters().invalid;
    assert_eq!(input(table, frame, 0), Vec::<Vec<u8>>::new(), "{why}");
    assert_eq!(table.counters().invalid, before + 1, "{why}");
}

fn is_resolved(table: &NeighborTable, address: &str) -> Option<(MacAddr, bool)> {
    match table.lookup(ip(address)) {
        NeighborState::Resolved { mac, probing, .. } => Some((mac, probing)),
        _ => None,
    }
}

/// The ICMPv6 checksum of a frame after its bytes were changed.
fn finish6(mut frame: Vec<u8>) -> Vec<u8> {
    frame[56..58].fill(0);
    let len = u16::from_be_bytes([frame[18], frame[19]]);
    let end = 54 + usize::from(len);
    let pseudo = checksum::sum(&frame[22..54], 58 + u64::from(len));
    let value = checksum::finish(checksum::sum(&frame[54..end.min(frame.len())], pseudo));
    frame[56..58].copy_from_slice(&value.to_be_bytes());
    frame
}

mod ipv4 {
    use super::*;

    const OWN_MAC: &str = "dc:53:60:2b:6a:4c";
    const OWN: &str = "192.168.0.11";
    const PEER: &str = "192.168.0.2";
    const PEER_MAC: &str = "64:70:02:fb:c0:e2";

    /// A request and its reply as two hosts exchanged them (capture of ipfixprobe).
    const REQUEST: &str =
        "ffffffffffff dc53602b6a4c 0806 0001080006040001 dc53602b6a4c c0a8000b 000000000000 c0a80002";
    const REPLY: &str =
        "dc53602b6a4c 647002fbc0e2 0806 0001080006040002 647002fbc0e2 c0a80002 dc53602b6a4c c0a8000b
                         000000000000000000000000000000000000";
    /// RFC 792's echo between two hosts (capture of Zeek), its checksums right.
    const ECHO: &str =
        "0010db88d2ef c8bcc896d2a0 0800 4500001c000100004001f6c6c0a80164c0a80165 0800f7ff00000000";

    fn padded(text: &str) -> Vec<u8> {
        let mut frame = hex(text);
        frame.resize(60, 0);
        frame
    }

    /// An ARP packet from the peer.
    fn arp(dst_mac: &str, operation: u16, sender_mac: &str, sender: &str, target: &str) -> Vec<u8> {
        let (sender, target): (std::net::Ipv4Addr, std::net::Ipv4Addr) =
            (sender.parse().unwrap(), target.parse().unwrap());
        let mut frame = Vec::new();
        frame.extend(mac(dst_mac).0);
        frame.extend(mac(PEER_MAC).0);
        frame.extend(hex("0806 000108000604"));
        frame.extend(operation.to_be_bytes());
        frame.extend(mac(sender_mac).0);
        frame.extend(sender.octets());
        frame.extend([0; 6]);
        frame.extend(target.octets());
        frame
    }

    #[test]
    fn requests_and_replies_are_those_of_other_hosts() {
        let mut table = quiet(OWN_MAC, &[OWN], &[]);
        assert_eq!(table.lookup(ip(PEER)), NeighborState::Unknown);
        assert!(table.want(ip(PEER), 5 * SECOND));
        assert_eq!(table.next_due_ns(), Some(5 * SECOND));
        assert_eq!(poll(&mut table, 5 * SECOND), [padded(REQUEST)]);
        assert_eq!(table.lookup(ip(PEER)), NeighborState::Unresolved { attempts: 1, since_ns: 5 * SECOND });
        assert_eq!(input(&mut table, &hex(REPLY), 5 * SECOND + 7), Vec::<Vec<u8>>::new());
        assert_eq!(
            table.lookup(ip(PEER)),
            NeighborState::Resolved {
                mac: mac(PEER_MAC),
                confirmed_ns: Some(5 * SECOND + 7),
                probing: false,
                router: false
            }
        );
        assert_eq!(table.changes().collect::<Vec<_>>(), [(ip(PEER), Some(mac(PEER_MAC)))]);
        assert_eq!(table.changes().count(), 0);

        // The other way round: the peer answers the request as its real owner did.
        let mut peer = quiet(PEER_MAC, &[PEER], &[]);
        assert_eq!(input(&mut peer, &hex(REQUEST), 0), [hex(REPLY)]);
        assert_eq!(peer.lookup(ip(OWN)), NeighborState::Unknown, "who asks is not learned");
    }

    #[test]
    fn three_requests_then_back_off_for_ever() {
        let mut table = quiet(OWN_MAC, &[OWN], &[]);
        table.want(ip(PEER), 10 * SECOND);
        let mut sent = Vec::new();
        for tenth in 100..400 {
            let now_ns = tenth * SECOND / 10;
            table.want(ip(PEER), now_ns); // again and again, changes nothing
            if !poll(&mut table, now_ns).is_empty() {
                sent.push(tenth);
            }
            if tenth == 130 {
                assert_eq!(
                    table.lookup(ip(PEER)),
                    NeighborState::Failed { attempts: 3, since_ns: 13 * SECOND }
                );
            }
        }
        assert_eq!(sent, [100, 110, 120, 180, 230, 280, 330, 380]);
        assert!(matches!(table.lookup(ip(PEER)), NeighborState::Failed { attempts: 8, .. }));
        // And it comes back.
        input(&mut table, &hex(REPLY), 40 * SECOND);
        assert_eq!(is_resolved(&table, PEER), Some((mac(PEER_MAC), false)));
    }

    #[test]
    fn refreshed_without_a_gap_and_dropped_after_failures() {
        let mut table = quiet(OWN_MAC, &[OWN], &[]);
        table.want(ip(PEER), 10 * SECOND);
        poll(&mut table, 10 * SECOND);
        input(&mut table, &hex(REPLY), 10 * SECOND);
        assert_eq!(table.changes().count(), 1);
        assert_eq!(table.next_due_ns(), Some(40 * SECOND));
        assert!(poll(&mut table, 40 * SECOND - 1).is_empty());
        let probes = poll(&mut table, 40 * SECOND);
        assert_eq!(probes.len(), 1);
        assert_eq!(probes[0][..6], mac(PEER_MAC).0, "unicast first");
        assert_eq!(probes[0][14..42], hex(REQUEST)[14..42]);
        assert_eq!(is_resolved(&table, PEER), Some((mac(PEER_MAC), true)));
        input(&mut table, &hex(REPLY), 40 * SECOND + 5);
        assert_eq!(is_resolved(&table, PEER), Some((mac(PEER_MAC), false)));
        assert_eq!(table.next_due_ns(), Some(70 * SECOND + 5));

        // Now silence: three unicast probes, three to all, each a second apart; the MAC is used all the while.
        let mut to = Vec::new();
        for second in 71..=76 {
            let probes = poll(&mut table, second * SECOND);
            assert_eq!(probes.len(), 1);
            to.push(MacAddr(probes[0][..6].try_into().unwrap()));
            assert_eq!(is_resolved(&table, PEER), Some((mac(PEER_MAC), true)));
        }
        let broadcast = MacAddr([0xff; 6]);
        assert_eq!(to, [[mac(PEER_MAC); 3], [broadcast; 3]].concat());
        assert!(poll(&mut table, 77 * SECOND).is_empty());
        assert_eq!(table.lookup(ip(PEER)), NeighborState::Failed { attempts: 3, since_ns: 77 * SECOND });
        assert_eq!(table.changes().collect::<Vec<_>>(), [(ip(PEER), None)]);
    }

    #[test]
    fn own_addresses_are_announced_twice() {
        let mut table = table(OWN_MAC, &[OWN], &[]);
        // RFC 5227, section 3: a request with sender = target = the own address.
        let announcement = padded(
            "ffffffffffff dc53602b6a4c 0806 0001080006040001 dc53602b6a4c c0a8000b 000000000000 c0a8000b",
        );
        let announcement = std::slice::from_ref(&announcement);
        assert_eq!(poll(&mut table, 7), announcement);
        assert!(poll(&mut table, 2 * SECOND).is_empty());
        assert_eq!(poll(&mut table, 2 * SECOND + 7), announcement);
        assert_eq!((poll(&mut table, 99 * SECOND).len(), table.next_due_ns()), (0, None));
        table.link_up(100 * SECOND);
        assert_eq!(poll(&mut table, 100 * SECOND), announcement);
    }

    #[test]
    fn who_is_behind_a_link_that_came_back_is_asked_at_once() {
        let mut table = quiet(OWN_MAC, &[OWN], &[]);
        let other = "192.168.0.3";
        for wanted in [PEER, other] {
            table.want(ip(wanted), 10 * SECOND);
        }
        // One answers, the other is given up.
        poll(&mut table, 10 * SECOND);
        input(&mut table, &hex(REPLY), 10 * SECOND);
        for second in 11..15 {
            poll(&mut table, second * SECOND);
        }
        assert!(matches!(table.lookup(ip(other)), NeighborState::Failed { .. }));
        assert_eq!(table.changes().count(), 1);

        table.link_up(16 * SECOND);
        let sent = poll(&mut table, 16 * SECOND);
        assert_eq!(sent.len(), 3, "an announcement and two requests");
        assert!(sent.iter().all(|frame| frame[..6] == [0xff; 6]));
        assert_eq!(is_resolved(&table, PEER), Some((mac(PEER_MAC), true)), "in use meanwhile");
        let replaced = "02:00:00:00:00:99";
        for station in [PEER, other] {
            input(&mut table, &arp(OWN_MAC, 2, replaced, station, OWN), 16 * SECOND + 1);
            assert_eq!(is_resolved(&table, station), Some((mac(replaced), false)));
        }
        assert_eq!(table.changes().count(), 2);
    }

    #[test]
    fn probes_are_answered_and_conflicts_defended() {
        let mut table = quiet(OWN_MAC, &[OWN], &[]);
        // RFC 5227, section 2.1.1: a probe has no sender address.
        let probe = arp("ff:ff:ff:ff:ff:ff", 1, PEER_MAC, "0.0.0.0", OWN);
        let replies = input(&mut table, &probe, 0);
        assert_eq!(replies.len(), 1);
        assert_eq!(replies[0][..6], mac(PEER_MAC).0);
        assert_eq!(replies[0][20..42], hex("0002 dc53602b6a4c c0a8000b 647002fbc0e2 00000000"));
        assert_eq!(table.counters().conflicts, 0);

        // Section 2.4: somebody sends from our address; one announcement in ten seconds.
        let thief = arp("ff:ff:ff:ff:ff:ff", 1, PEER_MAC, OWN, OWN);
        let defence = input(&mut table, &thief, SECOND);
        assert_eq!(defence.len(), 1);
        assert_eq!(
            defence[0][..42],
            hex(
                "ffffffffffff dc53602b6a4c 0806 0001080006040001 dc53602b6a4c c0a8000b 000000000000 c0a8000b"
            )
        );
        assert!(input(&mut table, &thief, 11 * SECOND - 1).is_empty());
        assert_eq!(input(&mut table, &thief, 11 * SECOND).len(), 1);
        assert_eq!(table.counters().conflicts, 3);
        assert_eq!(table.last_conflict(), Some(Conflict { address: ip(OWN), mac: mac(PEER_MAC) }));
    }

    #[test]
    fn nothing_is_learned_that_was_not_asked() {
        let mut table = quiet(OWN_MAC, &[OWN], &[]);
        input(&mut table, &hex(REPLY), 0);
        assert_eq!(table.lookup(ip(PEER)), NeighborState::Unknown);
        assert_eq!(table.counters().unasked, 1);
        // Wanted, but the request is not out yet: usable, to be confirmed.
        table.want(ip(PEER), 5 * SECOND);
        input(&mut table, &hex(REPLY), 5 * SECOND);
        assert_eq!(is_resolved(&table, PEER), Some((mac(PEER_MAC), true)));
        let probes = poll(&mut table, 5 * SECOND);
        assert_eq!(probes[0][..6], mac(PEER_MAC).0);
        input(&mut table, &hex(REPLY), 5 * SECOND);
        assert_eq!(is_resolved(&table, PEER), Some((mac(PEER_MAC), false)));
    }

    #[test]
    fn impossible_stations_are_refused() {
        let mut table = quiet(OWN_MAC, &[OWN], &[]);
        table.want(ip(PEER), 0);
        poll(&mut table, 3 * SECOND);
        for bad in
            ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "33:33:00:00:00:01", OWN_MAC]
        {
            rejects(&mut table, &arp(OWN_MAC, 2, bad, PEER, OWN), bad);
            assert_eq!(is_resolved(&table, PEER), None, "{bad}");
        }
        for sender in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1"] {
            rejects(&mut table, &arp(OWN_MAC, 2, PEER_MAC, sender, OWN), sender);
        }
    }

    #[test]
    fn a_neighbour_may_move_and_must_confirm() {
        let mut table = quiet(OWN_MAC, &[OWN], &[]);
        table.want(ip(PEER), 10 * SECOND);
        poll(&mut table, 10 * SECOND);
        input(&mut table, &hex(REPLY), 10 * SECOND);
        let moved = "02:00:00:00:00:99";
        let announcement = arp("ff:ff:ff:ff:ff:ff", 1, moved, PEER, PEER);
        // Too early for a change: the known one is asked, no oftener than once a second.
        input(&mut table, &announcement, 10 * SECOND + 1);
        assert_eq!(is_resolved(&table, PEER), Some((mac(PEER_MAC), true)));
        assert_eq!(table.next_due_ns(), Some(11 * SECOND));
        assert_eq!(poll(&mut table, 11 * SECOND)[0][..6], mac(PEER_MAC).0);
        // An answer of somebody else to a unicast probe changes it, but confirms nothing.
        input(&mut table, &arp(OWN_MAC, 2, moved, PEER, OWN), 11 * SECOND + 1);
        assert_eq!(is_resolved(&table, PEER), Some((mac(moved), true)));
        assert_eq!(poll(&mut table, 12 * SECOND)[0][..6], mac(moved).0);
        input(&mut table, &arp(OWN_MAC, 2, moved, PEER, OWN), 12 * SECOND);
        assert_eq!(is_resolved(&table, PEER), Some((mac(moved), false)));
        assert_eq!(table.counters().mac_changes, 1);
        assert_eq!(table.changes().collect::<Vec<_>>(), [(ip(PEER), Some(mac(moved)))]);
    }

    #[test]
    fn echo_is_mirrored() {
        let mut table = quiet("00:10:db:88:d2:ef", &["192.168.1.101"], &[]);
        let replies = input(&mut table, &hex(ECHO), 0);
        // The reply by hand: addresses swapped, type 0, and so a checksum of 0xffff.
        let expected = padded(
            "c8bcc896d2a0 0010db88d2ef 0800 4500001c000040004001b6c7c0a80165c0a80164 0000ffff00000000",
        );
        assert_eq!(replies, [expected]);
    }

    #[test]
    fn echo_requests_that_lie_are_not_answered() {
        let mut table = quiet("00:10:db:88:d2:ef", &["192.168.1.101"], &[]);
        for (at, value, why) in [
            (36, 0xf6, "ICMP checksum"),
            (24, 0xf7, "IP checksum"),
            (35, 1, "code"),
            (16, 1, "total length longer than the frame"),
            (17, 20, "total length without ICMP"),
            (6, 0xff, "a group as sender"),
        ] {
            let mut frame = hex(ECHO);
            frame[at] = value;
            rejects(&mut table, &frame, why);
        }
        for (at, value) in [
            (0, 2),
            (6, 0),
            (12, 0x81),
            (14, 0x44),
            (14, 0x4f),
            (14, 0x65),
            (20, 0x20),
            (21, 1),
            (23, 17),
            (33, 0x66),
            (34, 3),
        ] {
            let mut frame = hex(ECHO);
            frame[at] = value;
            if at == 6 {
                frame[6..12].copy_from_slice(&hex("0010db88d2ef"));
            }
            ignores(&mut table, &frame);
        }
        for len in 0..42 {
            let mut out = Vec::new();
            table.input(&hex(ECHO)[..len], 0, &mut out);
            assert!(out.is_empty(), "{len}");
        }
    }

    #[test]
    fn echo_is_limited() {
        let mut table = quiet("00:10:db:88:d2:ef", &["192.168.1.101"], &[]);
        let mut answered = 0;
        for ms in 0..2_000 {
            answered += input(&mut table, &hex(ECHO), ms * 1_000_000).len();
        }
        assert_eq!(answered, 10 + 199, "a burst of ten, then 100 a second");
        assert_eq!((table.counters().echo_replies, table.counters().limited), (209, 2_000 - 209));
    }

    #[test]
    fn other_links_and_other_hosts_are_not_ours() {
        let mut table = quiet(PEER_MAC, &[PEER], &[]);
        let request = hex(REQUEST);
        let mut tagged = request.clone();
        tagged.splice(12..12, hex("8100 0005"));
        ignores(&mut table, &tagged);
        let mut other = request.clone();
        other[41] = 3;
        ignores(&mut table, &other);
        for len in 0..42 {
            ignores(&mut table, &request[..len]);
        }
        // The announcement of a neighbour on the link is for us, that of a stranger is not.
        let mut table = quiet("02:00:00:00:00:01", &[PEER], &[]);
        assert!(table.filter().matches(&arp(
            "ff:ff:ff:ff:ff:ff",
            1,
            OWN_MAC,
            "192.168.0.77",
            "192.168.0.77"
        )));
        ignores(&mut table, &arp("ff:ff:ff:ff:ff:ff", 1, OWN_MAC, "192.168.7.7", "192.168.7.7"));
    }

    #[test]
    fn the_table_is_bounded() {
        let addresses =
            PortAddresses { mac: mac(OWN_MAC), ipv4: vec![(OWN.parse().unwrap(), 16)], ..Default::default() };
        let config = NeighborConfig { max_neighbors: 10, ..Default::default() };
        let mut table = NeighborTable::new(addresses, config);
        let wanted = (0..100).filter(|host| table.want(IpAddr::from([192, 168, 1, *host]), 0)).count();
        assert_eq!((wanted, table.iter().count()), (10, 10));
        for bad in [OWN, "192.168.0.0", "192.168.255.255", "0.0.0.0", "224.0.0.1", "2001:db8::1"] {
            table.retain(|_| false);
            assert!(!table.want(ip(bad), 0), "{bad}");
        }
    }
}

mod ipv6 {
    use super::*;

    const OWN_MAC: &str = "c2:02:03:e4:00:00";
    const OWN: &str = "fe80::c002:3ff:fee4:0";
    const PEER_MAC: &str = "c2:01:02:40:00:00";
    const PEER: &str = "fe80::c001:2ff:fe40:0";

    /// Two routers confirm one another (capture of FlowTest): the unicast solicitation and two advertisements, one with
    /// a link-layer option and one without.
    const SOLICITATION: &str =
        "c20102400000 c20203e40000 86dd 6e00000000203aff fe80000000000000c00203fffee40000
        fe80000000000000c00102fffe400000 870070d000000000 fe80000000000000c00102fffe400000 0101c20203e40000";
    const ADVERTISEMENT: &str =
        "c20102400000 c20203e40000 86dd 6e00000000203aff fe80000000000000c00203fffee40000
        fe80000000000000c00102fffe400000 88000d2b60000000 fe80000000000000c00203fffee40000 0201c20203e40000";
    const ADVERTISEMENT_BARE: &str = "c20203e40000 c20102400000 86dd 6e00000000183aff
        fe80000000000000c00102fffe400000 fe80000000000000c00203fffee40000 8800f6bf40000000
        fe80000000000000c00102fffe400000";
    /// A solicitation to the solicited-node group and one for duplicate address detection (capture of Arkime).
    const GROUP: &str = "3333ff8295b5 0011258295b5 86dd 6000000000203aff fe80000000000000021125fffe8295b5
        ff0200000000000000000001ff8295b5 870079e600000000 200106f8102d0000021125fffe8295b5 01010011258295b5";
    const DETECTION: &str = "3333ff9806e1 00d009e3e8de 86dd 6000000000183aff 00000000000000000000000000000000
        ff0200000000000000000001ff9806e1 8700231f00000000 200106f8102d0000099939d7ce9806e1";
    /// An echo request (capture of Zeek), the destination MAC changed from broadcast.
    const ECHO: &str = "02e081529a6b 02e08152ffff 86dd 60000000000f3a40 200104f80004000702e081fffe52ffff
        200104f80004000702e081fffe529a6b 800054cf00000000 7770 44464e5736";

    /// The traffic class of the routers in the captures, which is not ours.
    fn same_but_class(ours: &[u8], theirs: &str) {
        let mut theirs = hex(theirs);
        theirs[14] = 0x60;
        assert_eq!(ours, theirs);
    }

    #[test]
    fn a_router_is_resolved_and_probed() {
        let mut table = quiet(OWN_MAC, &[], &[OWN]);
        assert!(table.want(ip(PEER), 10 * SECOND));
        let request = poll(&mut table, 10 * SECOND).remove(0);
        assert_eq!(request[..6], hex("3333ff400000"), "RFC 2464, section 7");
        assert_eq!(request[38..54], "ff02::1:ff40:0".parse::<Ipv6Addr>().unwrap().octets());

        // RFC 4861, section 7.2.5: without a link-layer address an advertisement for an unknown one says nothing.
        input(&mut table, &hex(ADVERTISEMENT_BARE), 10 * SECOND);
        assert_eq!(is_resolved(&table, PEER), None);
        let mut full = hex(ADVERTISEMENT_BARE);
        full[19] = 32;
        full[58] = 0xe0; // router, solicited, override
        full.extend(hex("0201c20102400000"));
        let full = finish6(full);
        input(&mut table, &full, 10 * SECOND + 3);
        assert_eq!(
            table.lookup(ip(PEER)),
            NeighborState::Resolved {
                mac: mac(PEER_MAC),
                confirmed_ns: Some(10 * SECOND + 3),
                probing: false,
                router: true
            }
        );
        // The unicast probe is the literal one, and the literal bare answer confirms it.
        let probes = poll(&mut table, 40 * SECOND + 3);
        assert_eq!(probes.len(), 1);
        same_but_class(&probes[0], SOLICITATION);
        input(&mut table, &hex(ADVERTISEMENT_BARE), 40 * SECOND + 9);
        assert_eq!(is_resolved(&table, PEER), Some((mac(PEER_MAC), false)));
        assert_eq!(table.next_due_ns(), Some(70 * SECOND + 9));
    }

    #[test]
    fn solicitations_are_answered() {
        // The peer solicits us, as in the capture; our advertisement is what the other router's was in frame 1.
        let mut table = quiet(PEER_MAC, &[], &[PEER]);
        table.want(ip(OWN), 5 * SECOND);
        let replies = input(&mut table, &hex(SOLICITATION), 5 * SECOND);
        assert_eq!(replies.len(), 1);
        let mut mirrored = quiet(OWN_MAC, &[], &[OWN]);
        let mut from_peer = hex(SOLICITATION);
        for (at, bytes) in [
            (0, hex("c20203e40000 c20102400000")),
            (22, hex("fe80000000000000c00102fffe400000 fe80000000000000c00203fffee40000")),
            (62, hex("fe80000000000000c00203fffee40000 0101c20102400000")),
        ] {
            from_peer[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        same_but_class(&input(&mut mirrored, &finish6(from_peer), 0)[0], ADVERTISEMENT);
        // What the solicitation told is used, and confirmed at once.
        assert_eq!(is_resolved(&table, OWN), Some((mac(OWN_MAC), true)));
        assert_eq!(poll(&mut table, 5 * SECOND)[0][..6], mac(OWN_MAC).0);
        // A bare solicited advertisement was never asked for by somebody who does not want it.
        assert_eq!(mirrored.lookup(ip(PEER)), NeighborState::Unknown);
    }

    #[test]
    fn groups_and_duplicate_detection() {
        let own = "2001:6f8:102d:0:211:25ff:fe82:95b5";
        let mut table = quiet("02:00:00:00:00:01", &[], &[own]);
        // The host of the capture uses another source, which is where the answer goes.
        let replies = input(&mut table, &hex(GROUP), 0);
        assert_eq!(replies.len(), 1);
        assert_eq!(replies[0][..6], hex("0011258295b5"));
        assert_eq!(replies[0][58], 0x60, "solicited, override");

        let own = "2001:6f8:102d:0:999:39d7:ce98:6e1";
        let mut table = quiet("02:00:00:00:00:01", &[], &[own]);
        let replies = input(&mut table, &hex(DETECTION), 0);
        assert_eq!(replies.len(), 1);
        assert_eq!(replies[0][..6], hex("333300000001"), "RFC 4861, section 7.2.4: to all nodes");
        assert_eq!(replies[0][58], 0x20, "override, not solicited");
        assert_eq!(table.counters().conflicts, 1);
    }

    #[test]
    fn what_rfc4861_forbids_is_not_believed() {
        let mut table = quiet(PEER_MAC, &[], &[PEER]);
        table.want(ip(OWN), 3 * SECOND);
        poll(&mut table, 3 * SECOND);
        let changed = |text: &str, changes: &[(usize, u8)]| {
            let mut frame = hex(text);
            for &(at, value) in changes {
                frame[at] = value;
            }
            frame
        };
        // Section 7.1.2, then 7.1.1, item by item.
        for text in [ADVERTISEMENT, SOLICITATION] {
            rejects(&mut table, &changed(text, &[(21, 254)]), "hop limit");
            rejects(&mut table, &changed(text, &[(56, 0xff)]), "checksum");
            rejects(&mut table, &finish6(changed(text, &[(55, 1)])), "code");
            rejects(&mut table, &finish6(changed(text, &[(62, 0xff)])), "target is a group");
            rejects(&mut table, &finish6(changed(text, &[(79, 0)])), "option without length");
            rejects(&mut table, &finish6(changed(text, &[(79, 2)])), "option longer than the packet");
            rejects(&mut table, &finish6(changed(text, &[(80, 0xff)])), "link-layer address of a group");
            rejects(&mut table, &finish6(changed(text, &[(19, 23)])), "shorter than 24 bytes");
            rejects(&mut table, &finish6(changed(text, &[(19, 25)])), "one byte of an option");
            rejects(&mut table, &changed(text, &[(19, 33)]), "longer than the frame");
        }
        let mut to_all = changed(ADVERTISEMENT, &[]);
        to_all[..6].copy_from_slice(&hex("333300000001"));
        to_all[38..54].copy_from_slice(&hex("ff020000000000000000000000000001"));
        rejects(&mut table, &finish6(to_all.clone()), "solicited to a group");
        let mut unspecified = changed(SOLICITATION, &[]);
        unspecified[22..38].fill(0);
        rejects(&mut table, &finish6(unspecified), "unspecified source with link-layer option");
        assert_eq!(is_resolved(&table, OWN), None);
        // Unknown options are passed over.
        let mut longer = changed(ADVERTISEMENT, &[(19, 48)]);
        longer.splice(78..78, hex("fd02 0000000000000000000000000000"));
        input(&mut table, &finish6(longer), 4 * SECOND);
        assert_eq!(is_resolved(&table, OWN), Some((mac(OWN_MAC), false)));
    }

    #[test]
    fn flags_of_advertisements() {
        let mut table = quiet(PEER_MAC, &[], &[PEER]);
        table.want(ip(OWN), 3 * SECOND);
        poll(&mut table, 3 * SECOND);
        input(&mut table, &hex(ADVERTISEMENT), 3 * SECOND);
        assert_eq!(is_resolved(&table, OWN), Some((mac(OWN_MAC), false)));
        let other = |flags: u8| {
            let mut frame = hex(ADVERTISEMENT);
            frame[58] = flags;
            frame[85] = 0x99;
            finish6(frame)
        };
        // Section 7.2.5: without override another address is not taken, but the known one is in doubt.
        input(&mut table, &other(0x40), 10 * SECOND);
        assert_eq!(is_resolved(&table, OWN), Some((mac(OWN_MAC), true)));
        poll(&mut table, 10 * SECOND);
        input(&mut table, &hex(ADVERTISEMENT), 10 * SECOND);
        // With override it is, and probed.
        input(&mut table, &other(0x20), 20 * SECOND);
        assert_eq!(is_resolved(&table, OWN), Some((mac("c2:02:03:e4:00:99"), true)));
        assert_eq!(poll(&mut table, 20 * SECOND)[0][..6], hex("c20203e40099"));
    }

    #[test]
    fn echo_is_mirrored() {
        let own = "2001:4f8:4:7:2e0:81ff:fe52:9a6b";
        let mut table = quiet("02:e0:81:52:9a:6b", &[], &[own]);
        let replies = input(&mut table, &hex(ECHO), 0);
        assert_eq!(replies.len(), 1);
        let reply = &replies[0];
        assert_eq!(reply[..12], hex("02e08152ffff 02e081529a6b"));
        // Type 129 instead of 128: the checksum 0x54cf less 0x0100.
        assert_eq!(reply[54..], hex("810053cf00000000777044464e5736"));
        let mut bad = hex(ECHO);
        bad[68] ^= 1;
        rejects(&mut table, &bad, "checksum");
        let mut group = hex(ECHO);
        group[22] = 0xff;
        rejects(&mut table, &finish6(group), "from a group");
    }

    #[test]
    fn long_echo_requests_are_not_answered() {
        let own = "2001:4f8:4:7:2e0:81ff:fe52:9a6b";
        let mut table = quiet("02:e0:81:52:9a:6b", &[], &[own]);
        for (len, answers) in [(1_460_u16, 1), (1_461, 0)] {
            let mut frame = hex(ECHO);
            frame[18..20].copy_from_slice(&len.to_be_bytes());
            frame.resize(54 + usize::from(len), 0x5a);
            assert_eq!(input(&mut table, &finish6(frame), 9 * SECOND).len(), answers, "{len}");
        }
    }

    #[test]
    fn own_addresses_are_announced() {
        let mut table = table(OWN_MAC, &[], &[OWN]);
        let announcements = poll(&mut table, 0);
        assert_eq!(announcements.len(), 1);
        let mut expected = hex(ADVERTISEMENT);
        expected[..6].copy_from_slice(&hex("333300000001"));
        expected[14] = 0x60;
        expected[38..54].copy_from_slice(&hex("ff020000000000000000000000000001"));
        expected[58] = 0x20;
        assert_eq!(announcements[0], finish6(expected));
        assert_eq!(poll(&mut table, 2 * SECOND).len(), 1);
    }

    #[test]
    fn who_claims_an_own_address_is_noted() {
        let mut table = quiet(PEER_MAC, &[], &[PEER]);
        let mut thief = hex(ADVERTISEMENT);
        thief[62..78].copy_from_slice(&"fe80::c001:2ff:fe40:0".parse::<Ipv6Addr>().unwrap().octets());
        let thief = finish6(thief);
        assert_eq!(input(&mut table, &thief, SECOND)[0][..6], hex("333300000001"));
        assert!(input(&mut table, &thief, SECOND).is_empty());
        assert_eq!(table.last_conflict(), Some(Conflict { address: ip(PEER), mac: mac(OWN_MAC) }));
    }
}

/// Two tables on one link, and what is sent on it.
#[test]
fn two_ports_find_one_another() {
    let mut ports = [
        table("02:00:00:00:00:01", &["192.0.2.1"], &["2001:db8::1", "fe80::1"]),
        table("02:00:00:00:00:02", &["192.0.2.2"], &["2001:db8::2", "fe80::2"]),
    ];
    let wanted = [["192.0.2.2", "2001:db8::2", "fe80::2"], ["192.0.2.1", "2001:db8::1", "fe80::1"]];
    for (port, wanted) in ports.iter_mut().zip(wanted) {
        for address in wanted {
            assert!(port.want(ip(address), 0));
        }
    }
    let mut changed = 0;
    let mut now_ns = 0;
    while now_ns < 300 * SECOND {
        for sender in 0..2 {
            let mut frames = poll(&mut ports[sender], now_ns);
            let mut receiver = 1 - sender;
            while !frames.is_empty() {
                let answers: Vec<_> =
                    frames.iter().flat_map(|frame| input(&mut ports[receiver], frame, now_ns)).collect();
                frames = answers;
                receiver = 1 - receiver;
            }
        }
        changed += ports.iter_mut().map(|port| port.changes().count()).sum::<usize>();
        assert_eq!(changed, 6, "resolved at once and for ever");
        now_ns = ports.iter().filter_map(NeighborTable::next_due_ns).min().unwrap().max(now_ns + 1);
    }
    for (index, (port, wanted)) in ports.iter().zip(wanted).enumerate() {
        for address in wanted {
            let (mac, _) = is_resolved(port, address).unwrap();
            assert_eq!(usize::from(mac.0[5]), 2 - index);
        }
        let counters = port.counters();
        assert_eq!((counters.invalid, counters.conflicts, counters.mac_changes), (0, 0, 0));
    }
}

/// A valid frame for the port, to be spoiled.
fn seed() -> impl Strategy<Value = Vec<u8>> {
    let port = || table("02:00:00:00:00:01", &["192.0.2.1"], &["2001:db8::1"]);
    let mut peer = table("02:00:00:00:00:02", &["192.0.2.2"], &["2001:db8::2"]);
    peer.want(ip("192.0.2.1"), 0);
    peer.want(ip("2001:db8::1"), 0);
    let mut frames = poll(&mut peer, 0);
    let mut answers = Vec::new();
    for frame in &frames {
        answers.extend(input(&mut port(), frame, 0));
    }
    for frame in answers {
        input(&mut peer, &frame, 0);
    }
    frames.extend(poll(&mut peer, 30 * SECOND));
    let mac = |host| MacAddr([2, 0, 0, 0, 0, host]);
    let mut wanting = port();
    wanting.want(ip("192.0.2.2"), 0);
    wanting.want(ip("2001:db8::2"), 0);
    for frame in poll(&mut wanting, 0) {
        frames.extend(input(&mut peer, &frame, 0));
    }
    // Replies turned into requests.
    let mut echo = emit::echo_reply4(
        (mac(2), mac(1)),
        ("192.0.2.2".parse().unwrap(), "192.0.2.1".parse().unwrap()),
        0,
        &[8, 0, 0, 0, 1, 2, 3, 4, 5],
    );
    echo[34] = 8;
    echo[36] = echo[36].wrapping_sub(8);
    frames.push(echo);
    let mut echo = emit::echo_reply6(
        (mac(2), mac(1)),
        ("2001:db8::2".parse().unwrap(), "2001:db8::1".parse().unwrap()),
        &[128, 0, 0, 0, 1, 2, 3, 4, 5],
    );
    echo[54] = 128;
    frames.push(finish6(echo));
    frames.retain(|frame| port().filter().matches(frame));
    assert!(frames.len() >= 8, "{}", frames.len());
    proptest::sample::select(frames)
}

proptest! {
    /// Spoiled frames: nothing panics, nothing is learned but wanted stations, answers are valid frames of bounded
    /// number and size, and the filter and the table agree on what is ours.
    #[test]
    fn hostile_frames(
        steps in proptest::collection::vec(
            (
                seed(),
                proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
                proptest::option::of(any::<prop::sample::Index>()),
                any::<bool>(),
                0..2_000_u64,
            ),
            1..40,
        )
    ) {
        let mut table = table("02:00:00:00:00:01", &["192.0.2.1"], &["2001:db8::1"]);
        let wanted = [ip("192.0.2.2"), ip("2001:db8::2")];
        let mut now_ns = 0;
        for address in wanted {
            table.want(address, 0);
        }
        for (mut frame, changes, cut, finish, ms) in steps {
            now_ns += ms * 1_000_000;
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if finish && frame[12..14] == [0x86, 0xdd] {
                frame = finish6(frame);
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len() + 1));
            }
            check_input(&mut table, &frame, now_ns);
            prop_assert!(poll(&mut table, now_ns).len() <= 4);
            for (address, state) in table.iter() {
                prop_assert!(wanted.contains(&address));
                if let NeighborState::Resolved { mac, .. } = state {
                    prop_assert!(mac.0[0] & 1 == 0 && mac.0 != [0; 6] && mac.0 != [2, 0, 0, 0, 0, 1]);
                }
            }
        }
    }

    #[test]
    fn random_bytes(frame in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4_usize) {
        let mut frame = frame;
        // Far enough in to matter.
        let head = [&[][..], &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4][..],
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45][..],
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, 58, 255][..]][kind];
        frame.splice(0..head.len().min(frame.len()), head.iter().copied());
        check_input(&mut table("02:00:00:00:00:01", &["192.0.2.1"], &["2001:db8::1"]), &frame, 0);
    }
}

fn check_input(table: &mut NeighborTable, frame: &[u8], now_ns: u64) {
    let mut out = Vec::new();
    let ours = table.filter().matches(frame);
    assert_eq!(table.input(frame, now_ns, &mut out) == Input::Consumed, ours);
    assert!(out.len() <= 1 && (ours || out.is_empty()));
    for answer in out {
        assert!((60..=1_514).contains(&answer.len()));
        assert_eq!(answer[6..12], [2, 0, 0, 0, 0, 1]);
        assert!(receive::read(&answer, MacAddr([2, 0, 0, 0, 0, 9])).is_some(), "{answer:02x?}");
    }
}
