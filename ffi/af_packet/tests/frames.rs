//! Do frames arrive byte for byte, whatever their size, tags and snap length?

#![allow(clippy::cast_possible_truncation, reason = "patterns of bytes")]

mod support;

use std::time::{Duration, SystemTime};

use sluice_af_packet::{AfPacketConfig, GsoKind, RxChecksum, RxConfig, TxConfig, TxRefusal};
use support::*;

const PATIENCE: Duration = Duration::from_secs(1);
/// Local experimental EtherType 1 (RFC 9542, 3): nothing in the kernel wants it.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];

#[test]
fn every_size_and_tag_arrives_as_sent() {
    let Some(_ns) = Netns::enter("size") else { return };
    veth("a", "b", 65_535);
    let (port, mut rx) = open_rx("b", RxConfig::default());
    let (_tx_port, mut tx) = open_tx("a");
    let tags: [&[u8]; 7] = [
        &EXPERIMENTAL,
        &[0x81, 0x00, 0x00, 0x64, 0x88, 0xb5],
        &[0x88, 0xa8, 0x0f, 0xff, 0x88, 0xb5],
        &[0x81, 0x00, 0xf0, 0x00, 0x88, 0xb5], // priority 7, DEI, VLAN 0
        &[0x88, 0xa8, 0x20, 0x01, 0x81, 0x00, 0xe0, 0x02, 0x88, 0xb5],
        &[0x81, 0x00, 0x00, 0x01, 0x88, 0xa8, 0x00, 0x02, 0x81, 0x00, 0x00, 0x03, 0x88, 0xb5],
        &[0x00, 0x20], // an 802.3 length
    ];
    let sizes = [14, 15, 17, 18, 21, 22, 59, 60, 64, 65, 127, 128, 1499, 1500, 1514, 1518, 2047, 2048, 9018];
    let sizes = sizes.into_iter().chain([16_384, 32_768, 65_000, 65_535, 65_549]);
    let mut sent = vec![];
    for (i, len) in sizes.enumerate() {
        for (j, tag) in tags.iter().enumerate() {
            // The kernel drops a tagged frame without two bytes of payload (skb_vlan_untag).
            if tag.len() == 2 || len >= 12 + tag.len() + 2 {
                sent.push(frame(len, tag, (i * 7 + j) as u8));
            }
        }
    }
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    send_all(&mut tx, &sent);
    let received = collect(&mut rx, sent.len(), PATIENCE);
    let after = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    assert_eq!(received.len(), sent.len());
    let mut last = before;
    for (expected, (bytes, meta)) in sent.iter().zip(&received) {
        assert!(bytes == expected, "{} bytes, tag {:02x?}", expected.len(), &expected[12..14]);
        assert_eq!(meta.wire_len as usize, expected.len());
        assert_eq!((meta.gso, meta.gso_size, meta.outgoing), (GsoKind::None, 0, false));
        let stamp = u128::from(meta.timestamp_ns);
        assert!(last <= stamp && stamp <= after, "time stamps in order and between send and receive");
        last = stamp;
    }
    let stats = port.stats();
    assert_eq!(stats.rx_packets, sent.len() as u64);
    assert_eq!(stats.kernel_packets, sent.len() as u64);
    assert_eq!(stats.rx_bytes, sent.iter().map(|f| f.len() as u64).sum::<u64>());
    assert_eq!((stats.kernel_drops, stats.rx_cut, stats.rx_malformed_blocks), (0, 0, 0));
}

#[test]
fn snap_lengths_cut_and_count() {
    let Some(_ns) = Netns::enter("snap") else { return };
    veth("a", "b", 9_000);
    let snapped = |finish_checksums| RxConfig {
        snaplen: Some(128),
        finish_checksums,
        ring_bytes: 4 << 20,
        ..RxConfig::default()
    };
    let (kernel_port, mut cut_by_kernel) = open_rx("b", snapped(false));
    let (driver_port, mut cut_by_driver) = open_rx("b", snapped(true));
    let (_tx_port, mut tx) = open_tx("a");
    let tag = [0x88, 0xa8, 0x00, 0x07, 0x88, 0xb5];
    let sent: Vec<_> = [60, 124, 127, 128, 129, 132, 133, 1514, 9_014]
        .into_iter()
        .flat_map(|len| [frame(len, &EXPERIMENTAL, 1), frame(len, &tag, 2)])
        .collect();
    send_all(&mut tx, &sent);
    for (port, rx) in [(kernel_port, &mut cut_by_kernel), (driver_port, &mut cut_by_driver)] {
        let received = collect(rx, sent.len(), PATIENCE);
        assert_eq!(received.len(), sent.len());
        for (expected, (bytes, meta)) in sent.iter().zip(&received) {
            assert_eq!(bytes[..], expected[..expected.len().min(128)]);
            assert_eq!(meta.wire_len as usize, expected.len());
        }
        assert_eq!(port.stats().rx_cut, sent.iter().filter(|f| f.len() > 128).count() as u64);
    }
}

#[test]
fn a_port_sees_what_the_host_sends_but_not_what_it_sends_itself() {
    let Some(_ns) = Netns::enter("dir") else { return };
    veth("a", "b", 1_500);
    let both = AfPacketConfig {
        interface: "a".to_owned(),
        rx: Some(RxConfig { ring_bytes: 4 << 20, ..RxConfig::default() }),
        tx: Some(TxConfig::default()),
    };
    let (_port, rx, tx) = sluice_af_packet::open(&both).unwrap();
    let (mut own_rx, mut own_tx) = (rx.unwrap(), tx.unwrap());
    let inbound_only = RxConfig { ignore_outgoing: true, ring_bytes: 4 << 20, ..RxConfig::default() };
    let (_inbound_port, mut inbound) = open_rx("a", inbound_only);
    let (_far_port, mut far) = open_rx("b", RxConfig::default());
    let (_host_port, mut host) = open_tx("a");
    let (_peer_port, mut peer) = open_tx("b");
    let (own, by_host, by_peer) =
        (frame(60, &EXPERIMENTAL, 1), frame(61, &EXPERIMENTAL, 2), frame(62, &EXPERIMENTAL, 3));
    send_all(&mut own_tx, std::slice::from_ref(&own));
    send_all(&mut host, std::slice::from_ref(&by_host));
    send_all(&mut peer, std::slice::from_ref(&by_peer));
    let seen: Vec<_> =
        collect(&mut own_rx, 9, PATIENCE).into_iter().map(|(f, meta)| (f, meta.outgoing)).collect();
    assert_eq!(seen, [(by_host.clone(), true), (by_peer.clone(), false)]);
    let seen: Vec<_> = collect(&mut inbound, 9, PATIENCE).into_iter().map(|(f, _)| f).collect();
    assert_eq!(seen, std::slice::from_ref(&by_peer));
    let seen: Vec<_> =
        collect(&mut far, 9, PATIENCE).into_iter().map(|(f, meta)| (f, meta.outgoing)).collect();
    assert_eq!(seen, [(own, false), (by_host, false), (by_peer, true)]);
}

#[test]
fn transmit_gathers_segments_and_refuses_only_the_oversized() {
    let Some(_ns) = Netns::enter("tx") else { return };
    veth("a", "b", 1_500);
    let (_rx_port, mut rx) = open_rx("b", RxConfig::default());
    let (port, mut tx) = open_tx("a");
    let fits = frame(1_514, &EXPERIMENTAL, 1);
    let tagged = frame(1_518, &[0x81, 0x00, 0x00, 0x05, 0x88, 0xb5], 2);
    let too_long = frame(1_519, &EXPERIMENTAL, 3);
    let short = vec![1u8; 13];
    let pieces: Vec<&[u8]> = fits.chunks(1).take(600).chain(fits[600..].chunks(7)).collect();
    let whole: [&[u8]; 1] = [&tagged];
    let long: [&[u8]; 3] = [&too_long[..9], &[], &too_long[9..]];
    let bad: [&[u8]; 1] = [&short];
    let empty: [&[u8]; 0] = [];
    let too_many: Vec<&[u8]> = fits.chunks(1).collect();
    // More frames than one system call takes, with faults at both ends and in the middle.
    let mut burst: Vec<&[&[u8]]> = vec![&long, &pieces, &bad, &long, &whole, &empty, &too_many];
    burst.extend(std::iter::repeat_n(&pieces[..], 4));
    burst.extend(std::iter::repeat_n(&whole[..], 150));
    burst.push(&long);
    let mut refused = vec![];
    assert_eq!(tx.tx_frames(&burst, |at, why| refused.push((at, why))), burst.len());
    let (invalid, long_ones) = (TxRefusal::Invalid, TxRefusal::TooLong);
    let last = burst.len() - 1;
    assert_eq!(
        refused,
        [(0, long_ones), (2, invalid), (3, long_ones), (5, invalid), (6, invalid), (last, long_ones)]
    );
    let received: Vec<_> = collect(&mut rx, 156, PATIENCE).into_iter().map(|(f, _)| f).collect();
    let mut expected = vec![fits.clone(), tagged.clone()];
    expected.extend(std::iter::repeat_n(fits, 4));
    expected.extend(std::iter::repeat_n(tagged, 150));
    assert!(received == expected, "{} frames of {}", received.len(), expected.len());
    let stats = port.stats();
    assert_eq!((stats.tx_packets, stats.tx_refused_too_long, stats.tx_refused_invalid), (156, 3, 3));
    assert_eq!(stats.tx_bytes, expected.iter().map(|f| f.len() as u64).sum::<u64>());
}

#[test]
fn a_frame_that_nobody_takes_stays_in_the_ring() {
    let Some(_ns) = Netns::enter("stay") else { return };
    veth("a", "b", 1_500);
    let (port, mut rx) = open_rx("b", RxConfig::default());
    let (_tx_port, mut tx) = open_tx("a");
    let tag = [0x81, 0x00, 0x00, 0x05, 0x88, 0xb5];
    let sent: Vec<_> = (0..10).map(|i| frame(100 + i, &tag, i as u8)).collect();
    send_all(&mut tx, &sent);
    wait_for("a frame", || {
        let mut shown = vec![];
        rx.rx_frames(64, |bytes, _| {
            shown.push(bytes.to_vec());
            false
        });
        assert!(shown.is_empty() || shown == sent[..1]);
        !shown.is_empty()
    });
    let mut got = vec![];
    let mut rounds = 0;
    wait_for("all frames", || {
        rounds += 1;
        // Three at a time, the fourth refused: nothing is lost or shown out of turn.
        rx.rx_frames(64, |bytes, meta| {
            assert_eq!(meta.checksum, RxChecksum::AsReceived);
            let room = got.len() % 4 != 3 || got.last() == Some(&vec![]);
            if got.last() == Some(&vec![]) {
                got.pop();
            }
            got.push(if room { bytes.to_vec() } else { vec![] });
            room
        });
        // However the kernel put them into blocks.
        got.last() == sent.last()
    });
    assert!(rounds >= 3);
    got.retain(|f| !f.is_empty());
    assert_eq!(got, sent);
    let stats = port.stats();
    assert!(stats.rx_refused_no_mbuf >= 3);
    assert_eq!((stats.rx_packets, stats.kernel_drops), (10, 0));
}
