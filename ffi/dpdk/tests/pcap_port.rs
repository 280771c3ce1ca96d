//! The pcap driver is found as a plug-in and delivers a capture byte for byte, jumbo frames in several segments.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // A test may panic.

use std::fs;

use dpdk::*;

/// A little-endian microsecond pcap file (the pcap file format, draft-ietf-opsawg-pcap).
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(65_535u32.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap().to_le_bytes();
        file.extend([0; 8]);
        file.extend(len);
        file.extend(len);
        file.extend(frame);
    }
    file
}

#[test]
fn a_capture_comes_in_and_goes_out_unchanged() {
    let frames: Vec<Vec<u8>> = [60, 1514, 9018, 64]
        .iter()
        .enumerate()
        .map(|(i, &len)| vec![u8::try_from(i).unwrap() + 1; len])
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    fs::write(&input, pcap(&frames)).unwrap();
    let eal = Eal::init(&EalConfig {
        memory_mb: 64,
        vdevs: vec![format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display())],
        ..EalConfig::default()
    })
    .unwrap();
    let config = MempoolConfig { name: "a".into(), mbufs: 1023, ..MempoolConfig::default() };
    let pool = Mempool::new(&eal, &config).unwrap();
    let (port, mut rx, mut tx) =
        Port::by_name(&eal, "net_pcap0").unwrap().configure(&PortConfig::new(pool.clone())).unwrap();
    assert_eq!(port.driver_name(), "net_pcap");
    assert!(port.capabilities().unwrap().tx_multi_segs);

    let mut burst = Burst::new();
    while rx[0].rx_burst(&mut burst) != 0 {}
    let got: Vec<Vec<u8>> = burst.iter().map(|p| p.segment_slices().collect::<Vec<_>>().concat()).collect();
    assert_eq!(got, frames);
    assert_eq!(burst.get(2).unwrap().segments(), 5);
    assert_eq!(burst.get(0).unwrap().port(), port.id());
    let stats = port.stats().unwrap();
    assert_eq!((stats.ipackets, stats.ibytes), (4, 60 + 1514 + 9018 + 64));

    // Out through the same port: views and chains too.
    let views: Vec<Mbuf> = burst.iter_mut().map(|p| p.share(0, p.pkt_len(), &pool).unwrap()).collect();
    assert_eq!(tx[0].tx_burst(&mut burst), 4);
    for view in views {
        burst.push(view).unwrap();
    }
    assert_eq!(tx[0].tx_burst(&mut burst), 4);
    assert_eq!(pool.in_use(), 0);
    drop((port, rx, tx));
    let written = fs::read(&output).unwrap();
    let both: Vec<u8> = frames.concat().repeat(2);
    // Per file 24 bytes of header, per packet 16.
    assert_eq!(written.len(), 24 + 8 * 16 + both.len());
    assert!(written.windows(60).any(|w| w == frames[0]));
}
