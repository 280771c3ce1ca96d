//! What a full transmit queue or ring refuses stays owned, in order; nothing leaks when the ends go.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // A test may panic.

use std::thread;

use dpdk::*;

fn number(packet: &Mbuf) -> u32 {
    u32::from_be_bytes(packet.data()[..4].try_into().unwrap())
}

fn numbers(burst: &Burst) -> Vec<u32> {
    burst.iter().map(number).collect()
}

fn fill(pool: &Mempool, burst: &mut Burst, next: &mut u32) {
    while !burst.is_full() {
        burst.push(pool.copy_from(&next.to_be_bytes()).unwrap()).unwrap();
        *next += 1;
    }
}

#[test]
fn what_is_refused_stays_owned() {
    let eal =
        Eal::init(&EalConfig { memory_mb: 64, vdevs: vec!["net_ring0".into()], ..EalConfig::default() })
            .unwrap();
    let config = MempoolConfig { name: "a".into(), mbufs: 8191, cache: 128, ..MempoolConfig::default() };
    let pool = Mempool::new(&eal, &config).unwrap();

    full_port(&eal, &pool);
    assert_eq!(pool.in_use(), 0, "after the port");
    full_ring(&eal, &pool);
    assert_eq!(pool.in_use(), 0, "after the ring");
    between_threads(&eal, &pool);
    assert_eq!(pool.in_use(), 0, "after the threads");
    bursts_and_slots(&pool);
    assert_eq!(pool.in_use(), 0, "after the bursts");
    names_and_limits(&eal, &pool);
    unregistered_and_registered(&eal, &pool);
    hot_plug(&eal, &pool);
    assert_eq!(pool.in_use(), 0, "after all");

    // A packet that outlives every handle stays usable and is given back to living memory.
    let mut stray = pool.copy_from(b"stray").unwrap();
    let mut view = stray.share(1, 3, &pool).unwrap();
    drop((pool, eal));
    assert_eq!((stray.data(), view.data()), (&b"stray"[..], &b"tra"[..]));
    assert!(view.prepend(1).is_none());
    drop(stray);
    assert_eq!(view.data(), b"tra");
}

/// The net_ring port loops what it sends back to its receive side, until its ring is full.
fn full_port(eal: &Eal, pool: &Mempool) {
    let port = Port::by_name(eal, "net_ring0").unwrap();
    let (port, mut rx, mut tx) = port.configure(&PortConfig::new(pool.clone())).unwrap();
    let (mut burst, mut next, mut accepted) = (Burst::new(), 0, 0);
    loop {
        fill(pool, &mut burst, &mut next);
        let before = numbers(&burst);
        let n = tx[0].tx_burst(&mut burst);
        accepted += n as u32;
        assert_eq!(numbers(&burst), before[n..], "the refused rest, in order");
        if n < before.len() {
            break;
        }
    }
    assert!(!burst.is_empty());
    assert_eq!(tx[0].tx_burst(&mut burst), 0, "full");
    assert_eq!(pool.in_use(), accepted + burst.len() as u32);
    assert_eq!(port.stats().unwrap().opackets, u64::from(accepted));

    let (mut received, mut expected) = (Burst::new(), 0);
    while rx[0].rx_burst(&mut received) != 0 {
        for packet in received.drain() {
            assert_eq!(number(&packet), expected);
            expected += 1;
        }
        if expected > 500 {
            break;
        }
    }
    // The rest is inside the port when it closes: the driver's ring keeps what was looped.
    while rx[0].rx_burst(&mut received) != 0 {
        received.free_all();
    }
}

fn full_ring(eal: &Eal, pool: &Mempool) {
    let (mut producer, mut consumer) = Ring::spsc(eal, "r", 100).unwrap();
    let (mut burst, mut next) = (Burst::new(), 0);
    fill(pool, &mut burst, &mut next);
    assert_eq!(producer.enqueue_burst(&mut burst), 64);
    fill(pool, &mut burst, &mut next);
    assert_eq!(producer.enqueue_burst(&mut burst), 36);
    assert_eq!(numbers(&burst), (100..128).collect::<Vec<_>>());
    assert_eq!((producer.len(), producer.capacity()), (100, 100));

    let mut out = Burst::new();
    out.push(pool.copy_from(&7u32.to_be_bytes()).unwrap()).unwrap();
    assert_eq!(consumer.dequeue_burst(&mut out), 63, "as far as there is room");
    assert_eq!(number(out.get(0).unwrap()), 7);
    assert_eq!(numbers(&out)[1..], (0..63).collect::<Vec<_>>());
    assert_eq!(consumer.dequeue_burst(&mut out), 0, "full burst");
    // 37 are still inside when both ends are dropped.
    assert_eq!(consumer.len(), 37);
}

/// Order is kept between two registered threads, and every mbuf comes back whoever frees it.
fn between_threads(eal: &Eal, pool: &Mempool) {
    const COUNT: u32 = 100_000;
    let (mut producer, mut consumer) = Ring::spsc(eal, "t", 256).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let _lcore = LcoreThread::register(eal).unwrap();
            let (mut burst, mut next) = (Burst::new(), 0);
            while next < COUNT || !burst.is_empty() {
                while next < COUNT && !burst.is_full() {
                    let Some(packet) = pool.copy_from(&next.to_be_bytes()) else { break };
                    burst.push(packet).unwrap();
                    next += 1;
                }
                if producer.enqueue_burst(&mut burst) == 0 {
                    thread::yield_now();
                }
            }
        });
        scope.spawn(move || {
            let lcore = LcoreThread::register(eal).unwrap();
            assert_eq!(LcoreId::current(), Some(lcore.id()));
            assert!(matches!(LcoreThread::register(eal), Err(LcoreError::AlreadyRegistered(_))));
            let (mut burst, mut expected) = (Burst::new(), 0);
            while expected < COUNT {
                if consumer.dequeue_burst(&mut burst) == 0 {
                    thread::yield_now();
                }
                for packet in &burst {
                    assert_eq!(number(packet), expected);
                    expected += 1;
                }
                burst.free_all();
            }
        });
    });
}

fn bursts_and_slots(pool: &Mempool) {
    let mut burst = Burst::new();
    assert!(!pool.alloc_burst(65, &mut burst), "more than there is room");
    assert!(pool.alloc_burst(0, &mut burst) && burst.is_empty());
    assert!(pool.alloc_burst(64, &mut burst) && burst.is_full());
    let extra = pool.alloc().unwrap();
    assert!(burst.push(extra).is_err());
    assert_eq!(burst.drain().len(), 64);
    assert!(burst.is_empty(), "a dropped drain frees the rest");
    assert_eq!(pool.in_use(), 0);

    let mut next = 0;
    fill(pool, &mut burst, &mut next);
    let mut slots = Slots::new();
    assert_eq!(slots.load(&mut burst), 64);
    assert_eq!((slots.occupied(), burst.len()), (64, 0));
    assert_eq!(number(&slots.take(5).unwrap()), 5);
    assert!(slots.take(5).is_none() && slots.get(5).is_none() && slots.get(64).is_none());
    let back = slots.put(5, pool.copy_from(&99u32.to_be_bytes()).unwrap());
    assert!(back.is_none());
    assert_eq!(number(&slots.put(5, pool.copy_from(&98u32.to_be_bytes()).unwrap()).unwrap()), 99);
    assert!(slots.put(64, pool.alloc().unwrap()).is_some());
    assert!(slots.take(0).is_some());
    assert_eq!(slots.unload(&mut burst), 63);
    assert_eq!((number(burst.get(0).unwrap()), number(&burst.pop().unwrap())), (1, 63));
    assert_eq!(slots.load(&mut burst), 62);
    slots.free_all();

    // A pool that runs out gives all or nothing.
    let mut all = Vec::new();
    while pool.capacity() - pool.in_use() >= 64 {
        let mut burst = Burst::new();
        if !pool.alloc_burst(64, &mut burst) {
            break;
        }
        all.push(burst);
    }
    let held = pool.in_use();
    assert!(!pool.alloc_burst(64, &mut burst) && burst.is_empty());
    assert_eq!(pool.in_use(), held);
    let room = usize::from(pool.data_room());
    assert!(pool.copy_from(&vec![1; room * 64]).is_none());
    assert_eq!(pool.in_use(), held);
}

fn names_and_limits(eal: &Eal, pool: &Mempool) {
    let config = |name: &str, mbufs, cache| MempoolConfig {
        name: name.into(),
        mbufs,
        cache,
        ..MempoolConfig::default()
    };
    let error = |c: &MempoolConfig| Mempool::new(eal, c).unwrap_err();
    assert_eq!(error(&config("a", 64, 0)), MempoolError::NameTaken("a".into()));
    assert!(matches!(error(&config("", 64, 0)), MempoolError::BadName(_)));
    assert!(matches!(error(&config(&"n".repeat(26), 64, 0)), MempoolError::BadName(_)));
    assert!(matches!(error(&config("b", 0, 0)), MempoolError::Empty(_)));
    assert!(matches!(error(&config("b", 64, 50)), MempoolError::CacheTooLarge { .. }));
    let big = error(&config("big", 1_000_000, 0));
    assert!(matches!(big, MempoolError::NoMemory { need_mb: 2000..2600, have_mb: 64, .. }), "{big}");
    Mempool::new(eal, &config(&"n".repeat(25), 64, 0)).unwrap();
    // The name is free again once the pool is gone.
    Mempool::new(eal, &config(&"n".repeat(25), 64, 0)).unwrap();

    let ring = |name: &str, size| Ring::spsc(eal, name, size).unwrap_err();
    assert!(matches!(ring("r", 0), RingError::BadSize { .. }));
    assert!(matches!(ring("r", u32::MAX), RingError::BadSize { .. }));
    assert!(matches!(ring(&"n".repeat(29), 8), RingError::BadName(_)));
    let _kept = Ring::mpsc(eal, &"n".repeat(28), 8).unwrap();
    assert_eq!(ring(&"n".repeat(28), 8), RingError::NameTaken("n".repeat(28)));
    assert!(Port::by_name(eal, "net_ring0").is_err(), "closed");
    assert_eq!(pool.in_use(), 0);
}

fn unregistered_and_registered(eal: &Eal, pool: &Mempool) {
    assert_eq!(LcoreId::current(), None, "the thread that started EAL is an ordinary one");
    let guard = LcoreThread::register(eal).unwrap();
    drop(pool.copy_from(b"into the cache").unwrap());
    // A pool that goes while a thread has an lcore id waits until the id is gone.
    let config = MempoolConfig { name: "late".into(), mbufs: 64, cache: 32, ..MempoolConfig::default() };
    drop(Mempool::new(eal, &config).unwrap());
    assert!(matches!(Mempool::new(eal, &config), Err(MempoolError::NameTaken(_))));
    drop(guard);
    Mempool::new(eal, &config).unwrap();
}

fn hot_plug(eal: &Eal, pool: &Mempool) {
    eal.attach("net_null7,size=100").unwrap();
    assert!(matches!(eal.attach("net_null7"), Err(EalError::DeviceExists(_))));
    assert!(matches!(
        eal.attach("no_such_driver0"),
        Err(EalError::NoSuchDevice(_) | EalError::Attach { .. })
    ));
    let port = Port::by_name(eal, "net_null7").unwrap();
    assert!(matches!(eal.detach("net_null7"), Err(EalError::DeviceInUse(_))));
    let (port, mut rx, mut tx) = port.configure(&PortConfig::new(pool.clone())).unwrap();
    assert_eq!(port.driver_name(), "net_null");
    assert!(port.link().unwrap().up && !port.is_removed());
    let mut burst = Burst::new();
    assert_eq!(rx[0].rx_burst(&mut burst), 64);
    assert_eq!(burst.get(0).unwrap().pkt_len(), 100);
    assert_eq!(tx[0].tx_burst(&mut burst), 64);
    assert_eq!(pool.in_use(), 0);
    assert!(matches!(port.configure(&PortConfig::new(pool.clone())), Err(PortError::AlreadyConfigured(_))));
    assert!(matches!(eal.detach("net_null7"), Err(EalError::DeviceInUse(_))), "the queues hold it");
    drop((rx, tx));
    // The port is closed, the device still on its bus: it can be had again.
    eal.attach("net_null7").unwrap();
    drop(Port::by_name(eal, "net_null7").unwrap());
    eal.detach("net_null7").unwrap();
    assert!(matches!(eal.detach("net_null7"), Err(EalError::NoSuchDevice(_))));
}
