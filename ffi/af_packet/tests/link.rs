//! Does the port tell what happens to its interface, and refuse to open what it cannot serve?

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::time::Duration;

use sluice_af_packet::{AfPacketConfig, AfPacketError, LinkState, RxConfig, TxConfig, open};
use support::*;

const PATIENCE: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_millis(200);

fn small() -> RxConfig {
    RxConfig { ring_bytes: 1 << 20, ..RxConfig::default() }
}

#[test]
fn down_up_gone_and_returned_are_told_and_survived() {
    let Some(_ns) = Netns::enter("link") else { return };
    veth("va", "vb", 1_500);
    let config =
        AfPacketConfig { interface: "vb".to_owned(), rx: Some(small()), tx: Some(TxConfig::default()) };
    let (port, rx, tx) = open(&config).unwrap();
    let (mut rx, mut tx) = (rx.unwrap(), tx.unwrap());
    let (peer_port, mut peer) = open_tx("va");
    let state = || port.link().unwrap();
    assert_eq!(state(), LinkState::Up);
    assert_eq!(port.mtu(), 1_500);
    assert_eq!(port.mac(), mac_of("vb"));
    let frame = frame(60, &[0x88, 0xb5], 1);
    send_all(&mut peer, std::slice::from_ref(&frame));
    assert_eq!(collect(&mut rx, 1, PATIENCE).len(), 1);

    run("ip link set dev vb mtu 9000");
    run("ip link set dev va down");
    // The kernel's link watch tells of carriers when it gets to it, up to a second later.
    wait_for("the carrier to be lost", || state() == LinkState::NoCarrier);
    assert_eq!(port.mtu(), 9_000);
    run("ip link set dev vb down");
    assert_eq!(state(), LinkState::Down);
    assert_eq!(collect(&mut rx, 1, SILENCE).len(), 0);
    for _ in 0..3 {
        assert_eq!(tx.tx_frames(&[&[&frame]], |_, _| panic!("not the frame's fault")), 0);
    }
    assert_eq!(port.stats().tx_down, 3);

    run("ip link set dev va up");
    run("ip link set dev vb up");
    wait_for("both ends to come up", || {
        state() == LinkState::Up && peer_port.link().unwrap() == LinkState::Up
    });
    send_all(&mut peer, std::slice::from_ref(&frame));
    assert_eq!(collect(&mut rx, 1, PATIENCE).len(), 1, "the same socket goes on");
    send_all(&mut tx, std::slice::from_ref(&frame));

    // A port that leaves a bridge is announced as a deleted link of the bridge family.
    run("ip link add name br0 type bridge");
    run("ip link set dev vb master br0");
    run("ip link set dev vb nomaster");
    assert_eq!(state(), LinkState::Up);

    run("ip link del dev va");
    assert_eq!(state(), LinkState::Gone);
    assert_eq!(collect(&mut rx, 1, SILENCE).len(), 0);
    assert_eq!(tx.tx_frames(&[&[&frame]], |_, _| panic!("not the frame's fault")), 0);
    assert_eq!(port.stats().tx_down, 4);
    let old_index = port.ifindex();
    assert!(matches!(open(&config), Err(AfPacketError::NoSuchInterface { .. })));

    veth("va", "vb", 1_500);
    let LinkState::Returned { ifindex } = state() else { panic!("{:?}", state()) };
    assert_ne!(ifindex, old_index);
    run("ip link set dev vb name vx");
    assert_eq!(state(), LinkState::Gone);
    run("ip link set dev vx name vb");
    assert_eq!(state(), LinkState::Returned { ifindex });
    let (new_port, new_rx, _) = open(&config).unwrap();
    assert_eq!(new_port.ifindex(), ifindex);
    run("ip link set dev vb up");
    let (peer_port, mut peer) = open_tx("va");
    wait_for("the peer to come up", || peer_port.link().unwrap() == LinkState::Up);
    send_all(&mut peer, std::slice::from_ref(&frame));
    assert_eq!(collect(&mut new_rx.unwrap(), 1, PATIENCE).len(), 1);
    run("ip link del dev va");
    assert_eq!(state(), LinkState::Gone);
}

fn mac_of(interface: &str) -> [u8; 6] {
    let text = output_of(std::process::Command::new("ip").args(["-o", "link", "show", "dev", interface]));
    let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn a_flood_of_events_is_caught_up_with() {
    let Some(_ns) = Netns::enter("flood") else { return };
    veth("va", "vb", 1_500);
    let (gone, _rx) = open_rx("vb", small());
    run("ip link add name vc mtu 1500 type veth peer name vd");
    let (stays, _rx2) = open_rx("vd", small());
    // More events than the socket's buffer holds: the kernel drops the rest and says so once.
    let script = std::env::temp_dir().join(format!("sluice-flood-{}", std::process::id()));
    let lines: Vec<_> = (0..600).map(|i| format!("link set dev lo mtu {}\n", 60_000 + i)).collect();
    std::fs::write(
        &script,
        lines.concat()
            + "link set dev vd mtu 4321\nlink del dev va\nlink add name vb type veth peer name va\n",
    )
    .unwrap();
    run(&format!("ip -batch {}", script.display()));
    std::fs::remove_file(script).unwrap();
    assert!(matches!(gone.link().unwrap(), LinkState::Returned { .. }));
    assert_eq!(stays.link().unwrap(), LinkState::Down);
    assert_eq!(stays.mtu(), 4_321);
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let Some(_ns) = Netns::enter("refuse") else { return };
    veth("va", "vb", 1_500);
    let with = |interface: &str, rx| open(&rx_config(interface, rx)).map(drop).unwrap_err();
    assert!(
        matches!(with("nosuch", small()), AfPacketError::NoSuchInterface { interface } if interface == "nosuch")
    );
    for name in ["", "sixteen-bytes-xx", "a/b", "a b"] {
        assert!(matches!(with(name, small()), AfPacketError::InvalidConfig { field: "interface", .. }));
    }
    run("ip tuntap add dev tun0 mode tun");
    assert!(matches!(with("tun0", small()), AfPacketError::NotEthernet { arphrd: 65_534, .. }));
    let tiny = RxConfig { ring_bytes: 100_000, ..RxConfig::default() };
    assert!(matches!(with("vb", tiny), AfPacketError::RingTooSmall { block_bytes: 131_072, .. }));
    let snap = RxConfig { snaplen: Some(20), ..RxConfig::default() };
    assert!(matches!(with("vb", snap), AfPacketError::InvalidConfig { field: "snaplen", .. }));
    let timeout = RxConfig { block_timeout_ms: 0, ..RxConfig::default() };
    assert!(matches!(with("vb", timeout), AfPacketError::InvalidConfig { field: "block_timeout_ms", .. }));
    let neither = AfPacketConfig { interface: "vb".to_owned(), rx: None, tx: None };
    assert!(matches!(open(&neither), Err(AfPacketError::InvalidConfig { .. })));

    run("ip link set dev vb down");
    let (port, _rx) = open_rx("vb", small());
    assert_eq!(port.link().unwrap(), LinkState::Down, "a port that is down opens, and says so");
    assert_eq!(port.memory_bytes(), 1 << 20);

    // Without the capability: the raw system call changes this thread only.
    // SAFETY: setresuid takes no pointers.
    let rc = unsafe { libc::syscall(libc::SYS_setresuid, -1i64, 65_534i64, -1i64) };
    assert_eq!(rc, 0);
    let denied = with("vb", small());
    // SAFETY: as above; the saved and real user id are still root's.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1i64, 0i64, -1i64) }, 0);
    assert!(matches!(denied, AfPacketError::Permission { .. }));
    assert!(denied.to_string().contains("CAP_NET_RAW"));
}

#[test]
fn the_kernels_drops_are_counted_to_the_frame() {
    let Some(_ns) = Netns::enter("drop") else { return };
    veth("va", "vb", 1_500);
    let config = RxConfig { ring_bytes: 512 << 10, ..RxConfig::default() };
    let (port, mut rx) = open_rx("vb", config);
    let (_tx_port, mut tx) = open_tx("va");
    let frames: Vec<_> = (0..64u8).map(|i| frame(1_514, &[0x88, 0xb5], i)).collect();
    let mut sent = 0u64;
    let mut received = 0u64;
    for round in 1..=3u64 {
        for _ in 0..30 {
            send_all(&mut tx, &frames);
            sent += 64;
        }
        let before = port.stats();
        assert!(before.kernel_drops > 0 && before.kernel_freezes >= round);
        assert_eq!(before.kernel_packets, sent);
        received += collect(&mut rx, usize::MAX, SILENCE).len() as u64;
        let after = port.stats();
        assert_eq!(after.kernel_drops, before.kernel_drops);
        assert_eq!((after.rx_packets, after.rx_packets + after.kernel_drops), (received, sent));
    }
    assert!(received > 0);
}
