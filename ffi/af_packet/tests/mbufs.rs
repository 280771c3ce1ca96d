//! Do frames pass through mbufs whole, and does every mbuf come back to its pool?

#![allow(clippy::cast_possible_truncation, reason = "patterns of bytes")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::time::{Duration, Instant};

use dpdk::{Burst, Eal, EalConfig, Mbuf, Mempool, MempoolConfig};
use sluice_af_packet::{AfPacketConfig, AfPacketRx, RxConfig, RxMeta, TxConfig, TxRefusal, open};
use support::*;

const TAG: [u8; 6] = [0x88, 0xa8, 0x00, 0x07, 0x88, 0xb5];

fn bytes_of(mbuf: &Mbuf) -> Vec<u8> {
    mbuf.segment_slices().collect::<Vec<_>>().concat()
}

fn receive(rx: &mut AfPacketRx, pool: &Mempool, count: usize) -> Vec<(Mbuf, RxMeta)> {
    let mut all = vec![];
    let deadline = Instant::now() + Duration::from_secs(2);
    while all.len() < count && Instant::now() < deadline {
        let before = all.len();
        let n = rx.rx_burst(pool, 64, |mbuf, meta| all.push((mbuf, meta)));
        assert_eq!(all.len() - before, n);
        std::thread::sleep(Duration::from_micros(100));
    }
    all
}

/// One test: EAL starts once in a process.
#[test]
fn frames_pass_through_mbufs_and_none_leaks() {
    let Some(_ns) = Netns::enter("mbuf") else { return };
    veth("va", "vb", 65_535);
    let eal = Eal::init(&EalConfig::default()).unwrap();
    let config =
        MempoolConfig { name: "frames".to_owned(), mbufs: 511, cache: 0, ..MempoolConfig::default() };
    let pool = Mempool::new(&eal, &config).unwrap();
    let side = |interface: &str| AfPacketConfig {
        interface: interface.to_owned(),
        rx: Some(RxConfig::default()),
        tx: Some(TxConfig::default()),
    };
    let (port_a, _, tx) = open(&side("va")).unwrap();
    let (port_b, rx, _) = open(&side("vb")).unwrap();
    let (mut tx, mut rx) = (tx.unwrap(), rx.unwrap());

    // Sizes around a segment, jumbo, super; sent from several segments, received into several.
    let sizes = [14usize, 60, 64, 2_047, 2_048, 2_049, 4_096, 9_018, 40_000, 65_000, 65_549];
    let sent: Vec<_> = sizes.iter().map(|len| frame(*len, if *len < 60 { &[] } else { &TAG }, 3)).collect();
    let mut burst = Burst::new();
    for frame in &sent {
        burst.push(pool.copy_from(frame).unwrap()).unwrap();
    }
    assert_eq!(tx.tx_burst(&mut burst, |_, _, why| panic!("{why:?}")), sent.len());
    assert!(burst.is_empty());
    assert_eq!(pool.in_use(), 0);
    let received = receive(&mut rx, &pool, sent.len());
    assert_eq!(received.len(), sent.len());
    for (expected, (mbuf, meta)) in sent.iter().zip(&received) {
        assert!(bytes_of(mbuf) == *expected, "{} bytes", expected.len());
        assert_eq!((mbuf.pkt_len(), meta.wire_len), (expected.len() as u32, expected.len() as u32));
    }
    drop(received);
    assert_eq!(pool.in_use(), 0);

    // A frame that no interface takes, between others: handed back by itself.
    run("ip link set dev va mtu 1500");
    for len in [1_514, 1_600, 60] {
        burst.push(pool.copy_from(&frame(len, &[0x88, 0xb5], 4)).unwrap()).unwrap();
    }
    let mut refused = vec![];
    assert_eq!(tx.tx_burst(&mut burst, |_, mbuf, why| refused.push((mbuf, why))), 2);
    assert!(burst.is_empty());
    assert_eq!((refused[0].0.pkt_len(), refused[0].1, refused.len()), (1_600, TxRefusal::TooLong, 1));
    assert_eq!(pool.in_use(), 1);
    drop(refused);
    assert_eq!(receive(&mut rx, &pool, 2).len(), 2);

    // The pool runs out: frames wait in the ring, in order, and come when there are mbufs again.
    run("ip link set dev va mtu 65535");
    let hoard: Vec<_> = std::iter::from_fn(|| pool.alloc()).take(501).collect();
    let sent: Vec<_> =
        (0..40).map(|i| frame(if i % 8 == 7 { 9_000 } else { 200 + i }, &TAG, i as u8)).collect();
    let slices: Vec<[&[u8]; 1]> = sent.iter().map(|frame| [&frame[..]]).collect();
    let slices: Vec<&[&[u8]]> = slices.iter().map(|frame| &frame[..]).collect();
    assert_eq!(tx.tx_frames(&slices, |_, why| panic!("{why:?}")), sent.len());
    let mut got: Vec<Vec<u8>> = vec![];
    let first = receive(&mut rx, &pool, 8);
    assert_eq!(first.len(), 7, "seven small ones; the jumbo needs five mbufs of the three that are left");
    assert_eq!(pool.in_use(), 501 + 7, "a frame that does not fit takes nothing");
    assert!(port_b.stats().rx_refused_no_mbuf > 0);
    got.extend(first.iter().map(|(mbuf, _)| bytes_of(mbuf)));
    drop(first);
    drop(hoard);
    got.extend(receive(&mut rx, &pool, 33).iter().map(|(mbuf, _)| bytes_of(mbuf)));
    assert!(got == sent, "{} of {}", got.len(), sent.len());
    assert_eq!(pool.in_use(), 0);
    assert_eq!(port_b.stats().kernel_drops, 0);

    // Interface down, then gone: the burst stays with its owner.
    for (command, times) in [("ip link set dev va down", 1), ("ip link del dev va", 2)] {
        run(command);
        burst.push(pool.copy_from(&sent[0]).unwrap()).unwrap();
        assert_eq!(tx.tx_burst(&mut burst, |_, _, why| panic!("{why:?}")), 0);
        assert_eq!((burst.len(), port_a.stats().tx_down), (times, times as u64));
    }
    assert_eq!(rx.rx_burst(&pool, 64, |_, _| panic!("nothing comes from nowhere")), 0);
    assert_eq!(pool.in_use(), 2);
    drop(burst);
    assert_eq!(pool.in_use(), 0);
}
