//! EAL starts without hugepages and root, and packets go through a pool and the software ports.

use dpdk::*;

#[test]
fn packets_go_round_and_come_back() {
    let before = current_affinity().unwrap();
    let eal = Eal::init(&EalConfig {
        memory_mb: 64,
        vdevs: vec!["net_null0".into(), "net_ring0".into()],
        ..EalConfig::default()
    })
    .unwrap();
    assert_eq!(current_affinity().unwrap(), before);
    assert!(matches!(Eal::init(&EalConfig::default()), Err(EalError::AlreadyInitialized)));
    assert!(dpdk_version().starts_with("DPDK "), "{}", dpdk_version());
    assert!(Tsc::hz(&eal) > 1_000_000);

    let pool = Mempool::new(
        &eal,
        &MempoolConfig { name: "a".into(), mbufs: 4095, cache: 64, ..MempoolConfig::default() },
    )
    .unwrap();
    assert_eq!(pool.capacity(), 4095);
    let (null, mut null_rx, mut null_tx) =
        Port::by_name(&eal, "net_null0").unwrap().configure(&PortConfig::new(pool.clone())).unwrap();
    println!("{:?} {:?} {} {:?}", null.info(), null.capabilities(), null.driver_name(), null.link());
    let mut burst = Burst::new();
    assert_eq!(null_rx[0].rx_burst(&mut burst), 64);
    assert_eq!(burst.len(), 64);
    assert_eq!(null_tx[0].tx_burst(&mut burst), 64);
    assert_eq!(null.stats().unwrap().opackets, 64);
    let xstats = null.xstats().unwrap();
    assert!(xstats.contains(&("tx_good_packets".to_owned(), 64)), "{xstats:?}");
    assert!(xstats.iter().all(|(name, _)| !name.is_empty()), "{xstats:?}");

    let (ring, mut rx, mut tx) =
        Port::by_name(&eal, "net_ring0").unwrap().configure(&PortConfig::new(pool.clone())).unwrap();
    println!("{:?} {:?} {} {:?}", ring.info(), ring.capabilities(), ring.driver_name(), ring.link());
    burst.push(pool.copy_from(b"hello").unwrap()).unwrap();
    assert_eq!(tx[0].tx_burst(&mut burst), 1);
    assert!(burst.is_empty());
    assert_eq!(rx[0].rx_burst(&mut burst), 1);
    assert_eq!(burst.get(0).unwrap().data(), b"hello");
    assert!(matches!(Port::by_name(&eal, "net_ring0"), Err(PortError::AlreadyOpen(_))));
    println!("{}", Port::by_name(&eal, "nope").unwrap_err());
    drop((ring, rx, tx, null, null_rx, null_tx));
    drop(burst);
    assert_eq!(pool.in_use(), 0);
}
