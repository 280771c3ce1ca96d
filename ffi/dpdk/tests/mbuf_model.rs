//! Random operations on mbuf chains, compared after each with plain byte vectors; the pools are so small that
//! they run out on the way.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // A test may panic.

use std::sync::OnceLock;

use dpdk::*;
use proptest::prelude::*;

const ROOM: u16 = 100;

fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| Eal::init(&EalConfig { memory_mb: 32, ..EalConfig::default() }).unwrap())
}

fn pools() -> &'static (Mempool, Mempool) {
    static POOLS: OnceLock<(Mempool, Mempool)> = OnceLock::new();
    POOLS.get_or_init(|| {
        let make = |name: &str, mbufs, data_room| {
            let config =
                MempoolConfig { name: name.into(), mbufs, cache: 0, data_room, socket: SocketId::ANY };
            Mempool::new(eal(), &config).unwrap()
        };
        (make("data", 40, ROOM), make("headers", 30, 0))
    })
}

#[derive(Clone, Debug)]
enum Op {
    Copy { len: usize, fill: u8 },
    Share { at: usize, offset: u16, len: u16 },
    Adj { at: usize, n: u16 },
    Prepend { at: usize, n: u16, fill: u8 },
    Append { at: usize, n: u16, fill: u8 },
    Truncate { at: usize, len: u16 },
    Chain { at: usize, tail: usize },
    PullUp { at: usize, n: u16 },
    Linearize { at: usize },
    Write { at: usize, fill: u8 },
    Drop { at: usize },
    FreeAll { at: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..8usize;
    prop_oneof![
        6 => (0..700usize, any::<u8>()).prop_map(|(len, fill)| Op::Copy { len, fill }),
        4 => (at(), 0..600u16, 0..600u16).prop_map(|(at, offset, len)| Op::Share { at, offset, len }),
        2 => (at(), 0..110u16).prop_map(|(at, n)| Op::Adj { at, n }),
        4 => (at(), 0..140u16, any::<u8>()).prop_map(|(at, n, fill)| Op::Prepend { at, n, fill }),
        2 => (at(), 0..110u16, any::<u8>()).prop_map(|(at, n, fill)| Op::Append { at, n, fill }),
        2 => (at(), 0..600u16).prop_map(|(at, len)| Op::Truncate { at, len }),
        2 => (at(), at()).prop_map(|(at, tail)| Op::Chain { at, tail }),
        3 => (at(), 0..240u16).prop_map(|(at, n)| Op::PullUp { at, n }),
        1 => at().prop_map(|at| Op::Linearize { at }),
        2 => (at(), any::<u8>()).prop_map(|(at, fill)| Op::Write { at, fill }),
        2 => at().prop_map(|at| Op::Drop { at }),
        1 => (2..8usize).prop_map(|at| Op::FreeAll { at }),
    ]
}

/// Bytes that differ from place to place.
fn pattern(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|i| fill.wrapping_add((i % 251) as u8)).collect()
}

fn check(packet: &Mbuf, model: &[u8]) {
    assert_eq!(packet.pkt_len() as usize, model.len());
    let slices: Vec<&[u8]> = packet.segment_slices().collect();
    assert_eq!(slices.len(), usize::from(packet.segments()));
    assert_eq!(slices.concat(), model);
    assert_eq!(slices[0], packet.data());
    assert_eq!(packet.data().len(), usize::from(packet.data_len()));
    let mut out = vec![0xa5; model.len() + 3];
    for offset in [0, 1, model.len() / 2, model.len(), model.len() + 7] {
        let n = packet.read_at(offset as u32, &mut out);
        assert_eq!(&out[..n], model.get(offset..).unwrap_or_default());
    }
}

fn apply(op: &Op, packets: &mut Vec<(Mbuf, Vec<u8>)>) {
    let (data, headers) = pools();
    let before = (data.in_use(), headers.in_use());
    let count = packets.len();
    // Whatever the number drawn, one of the packets there are.
    let pick = |at: usize| at % count.max(1);
    match *op {
        Op::Copy { len, fill } => {
            let model = pattern(len, fill);
            match data.copy_from(&model) {
                Some(packet) => {
                    assert!(!packet.is_shared());
                    packets.push((packet, model));
                }
                None => assert_eq!((data.in_use(), headers.in_use()), before, "a refused copy keeps nothing"),
            }
        }
        Op::FreeAll { at } => {
            let mut burst = Burst::new();
            for (packet, _) in packets.drain(at.min(count)..) {
                burst.push(packet).unwrap();
            }
            burst.free_all();
            assert!(burst.is_empty());
        }
        Op::Share { at, .. }
        | Op::Adj { at, .. }
        | Op::Prepend { at, .. }
        | Op::Append { at, .. }
        | Op::Truncate { at, .. }
        | Op::Chain { at, .. }
        | Op::PullUp { at, .. }
        | Op::Linearize { at }
        | Op::Write { at, .. }
        | Op::Drop { at }
            if pick(at) >= count => {}
        Op::Share { at, offset, len } => {
            let (packet, model) = &mut packets[pick(at)];
            // Mostly inside the packet, now and then beyond it.
            let offset = if offset < 550 { offset % (model.len() as u16 + 1) } else { offset };
            let len =
                if len < 550 { len % (model.len() as u16 + 1).saturating_sub(offset).max(1) } else { len };
            let (from, to) = (usize::from(offset), usize::from(offset) + usize::from(len));
            if let Some(view) = packet.share(u32::from(offset), u32::from(len), headers) {
                assert!(view.is_shared() && packet.is_shared());
                let model = model[from..to].to_vec();
                packets.push((view, model));
            } else {
                assert!(to > model.len() || headers.capacity() - before.1 < u32::from(packet.segments()));
                assert_eq!((data.in_use(), headers.in_use()), before, "a refused share keeps nothing");
            }
        }
        Op::Adj { at, n } => {
            let (packet, model) = &mut packets[pick(at)];
            let fits = n <= packet.data_len();
            assert_eq!(packet.adj(n), fits);
            if fits {
                model.drain(..usize::from(n));
            }
        }
        Op::Prepend { at, n, fill } => {
            let (packet, model) = &mut packets[pick(at)];
            let may = n <= packet.headroom() && !packet.is_shared();
            match packet.prepend(n) {
                Some(bytes) => {
                    let new = pattern(usize::from(n), fill);
                    assert_eq!(bytes.len(), new.len());
                    bytes.copy_from_slice(&new);
                    model.splice(..0, new);
                }
                None => assert!(!may, "an unshared packet with headroom takes a header"),
            }
        }
        Op::Append { at, n, fill } => {
            let (packet, model) = &mut packets[pick(at)];
            let may = n <= packet.tailroom() && !packet.is_shared();
            match packet.append(n) {
                Some(bytes) => {
                    let new = pattern(usize::from(n), fill);
                    bytes.copy_from_slice(&new);
                    model.extend(new);
                }
                None => assert!(!may, "an unshared packet with tailroom takes a trailer"),
            }
        }
        Op::Truncate { at, len } => {
            let (packet, model) = &mut packets[pick(at)];
            packet.truncate(u32::from(len));
            model.truncate(usize::from(len));
        }
        Op::Chain { at, tail } => {
            let tail = pick(tail);
            if count > 1 {
                let (tail, bytes) = packets.remove(tail);
                let at = at % packets.len();
                packets[at].0.chain(tail).unwrap();
                packets[at].1.extend(bytes);
            }
        }
        Op::PullUp { at, n } => {
            let (packet, model) = &mut packets[pick(at)];
            let len = packet.data_len();
            if packet.pull_up(n) {
                assert!(packet.data_len() >= n.max(len.min(n)));
                assert!(usize::from(n) <= model.len());
            } else {
                assert!(n > len);
                let unshared = !packet.is_shared() && n <= ROOM && usize::from(n) <= model.len();
                assert!(!unshared, "what fits an own buffer can be pulled up");
            }
        }
        Op::Linearize { at } => {
            let (packet, model) = &mut packets[pick(at)];
            if packet.linearize() {
                assert_eq!(packet.segments(), 1);
            } else {
                assert!(packet.is_shared() || model.len() > usize::from(ROOM));
            }
        }
        Op::Write { at, fill } => {
            let (packet, model) = &mut packets[pick(at)];
            if let Some(bytes) = packet.data_mut() {
                bytes.fill(fill);
                let n = bytes.len();
                model[..n].fill(fill);
            } else {
                assert!(packet.is_shared());
            }
        }
        Op::Drop { at } => drop(packets.remove(pick(at))),
    }
    for (packet, model) in packets.iter() {
        check(packet, model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chains_behave_as_byte_vectors(ops in prop::collection::vec(op(), 0..100)) {
        let (data, headers) = pools();
        let mut packets: Vec<(Mbuf, Vec<u8>)> = Vec::new();
        for op in &ops {
            if packets.len() >= 8 {
                packets.remove(0);
            }
            apply(op, &mut packets);
        }
        drop(packets);
        prop_assert_eq!((data.in_use(), headers.in_use()), (0, 0));
    }
}
