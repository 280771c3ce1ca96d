//! Metadata of reception is read, kept by views, and checksum requests write the right pseudo-header.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // A test may panic.

use dpdk::*;

/// UDP over IPv4 over Ethernet, 192.0.2.1 -> 192.0.2.2, ports 1000 -> 2000, 4 bytes of payload.
const FRAME: &[u8] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8, 0, // Ethernet
    0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
    0x03, 0xe8, 0x07, 0xd0, 0, 12, 0, 0, // UDP
    1, 2, 3, 4,
];

#[test]
fn metadata_is_kept_and_checksums_requested() {
    let eal = Eal::init(&EalConfig { memory_mb: 32, ..EalConfig::default() }).unwrap();
    let config = MempoolConfig { name: "a".into(), mbufs: 255, cache: 0, ..MempoolConfig::default() };
    let pool = Mempool::new(&eal, &config).unwrap();
    let mut packet = pool.copy_from(FRAME).unwrap();
    assert_eq!((packet.rx_vlan(), packet.rss_hash()), (RxVlan::default(), None));
    assert_eq!(
        (packet.rx_ip_checksum(), packet.rx_l4_checksum()),
        (RxChecksum::Unknown, RxChecksum::Unknown)
    );
    assert_eq!((packet.headroom(), packet.tailroom()), (HEADROOM, 2048 - 46));

    let vlan = RxVlan { stripped: Some(0x2064), outer_stripped: Some(7) };
    packet.set_rx_vlan(vlan);
    packet.set_port(3);
    packet.prefetch();
    packet.prefetch_data();
    assert!(packet.set_tx_udp_checksum(14, 20, false));
    assert_eq!(packet.rx_vlan(), vlan, "requests leave what was received");
    // c000 + 0201 + c000 + 0202 + 0011 + 000c = 18420 -> 8421 (RFC 768, RFC 1071).
    assert_eq!(packet.data()[40..42], [0x84, 0x21]);

    let note = Note { timestamp_ns: u64::MAX - 1, wire_len: 70_000, gso_size: 1448, port: 255 };
    packet.set_note(note);
    assert_eq!(packet.note(), note);
    assert_eq!((packet.rx_vlan(), packet.data().len()), (vlan, 46), "the note is beside all else");

    let view = packet.share(14, 20, &pool).unwrap();
    assert_eq!((view.rx_vlan(), view.port()), (vlan, 3));
    assert!(!packet.set_tx_udp_checksum(14, 20, false), "shared bytes are not written");
    // The headroom is in no view: the owner may still put headers there, and take them away again.
    packet.prepend(50).unwrap().fill(0xee);
    assert_eq!(view.data(), &FRAME[14..34]);
    assert!(packet.adj(64) && packet.prepend(14).is_some(), "up to the first viewed byte");
    assert!(packet.adj(20) && packet.prepend(1).is_none(), "but not over it");
    assert_eq!(view.data(), &FRAME[14..34]);
    drop(view);
    assert!(packet.prepend(1).is_some(), "nobody looks any more");

    assert!(!packet.set_tx_udp_checksum(14, 40, true), "headers beyond the bytes");
    assert!(!packet.set_tx_udp_checksum(200, 20, false), "wider than the field");
    packet.set_rx_vlan(RxVlan::default());
    assert_eq!(packet.rx_vlan(), RxVlan::default());
    assert!(format!("{packet:?}").contains("pkt_len"));
    drop(packet);
    assert_eq!(pool.in_use(), 0);
}
