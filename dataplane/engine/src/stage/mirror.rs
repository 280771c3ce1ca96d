//! Which tap does each packet come from? What a TAP switch marked says so itself; of all else the port does.
//!
//! A mark is the outermost VLAN tag, where its PCP is that of the mirror; its VLAN id is the tap's. It is read before
//! anything else, and may be taken off: then nothing behind this stage knows of it.

use std::sync::Arc;

use dpdk::Mbuf;
use sluice_core::decap::Obstacle;
use sluice_core::wire::vlan;
use sluice_model::{BootConfig, MirrorSettings, PortId};

use super::decap::{VLAN_TAG, move_addresses};
use super::parse::PREFETCH_AHEAD;
use crate::batch::{Batch, RxInfo};
use crate::ledger::Ledger;
use crate::tap_rows::TapRows;

/// VLAN ids (IEEE 802.1Q).
const VLAN_IDS: usize = 4096;
/// Tap numbers.
const NUMBERS: usize = 1 << 16;
/// The tap of ports that name none.
const DEFAULT_TAP: u16 = 1;

/// The taps of a worker.
#[derive(Debug)]
pub struct Mirror {
    /// By port: the number of its tap.
    ports: Box<[u16]>,
    /// `None` = nothing is marked.
    marks: Option<Marks>,
    /// By tap number: its row of counters.
    rows: Box<[u8]>,
    counts: Arc<TapRows>,
}

/// How frames are marked.
#[derive(Debug)]
struct Marks {
    pcp: u8,
    strip: bool,
    /// By VLAN id: the number of the tap; 0 = none.
    taps: Box<[u16]>,
}

impl Mirror {
    /// The stage as `settings` say; `ports` are the numbers of the ports' taps. `None` when no tap has a name.
    #[must_use]
    pub fn new(settings: &MirrorSettings, ports: &[u16]) -> Option<Self> {
        if settings.taps.is_empty() {
            return None;
        }
        let others = u8::try_from(settings.taps.len()).unwrap_or(u8::MAX);
        let mut rows = vec![others; NUMBERS].into_boxed_slice();
        let mut taps = vec![0; VLAN_IDS].into_boxed_slice();
        for (row, tap) in (0..others).zip(&settings.taps) {
            if let Some(place) = rows.get_mut(usize::from(tap.number)) {
                *place = row;
            }
            if let Some(place) = tap.vlan.and_then(|id| taps.get_mut(usize::from(id))) {
                *place = tap.number;
            }
        }
        let marked = settings.taps.iter().any(|tap| tap.vlan.is_some());
        Some(Self {
            ports: ports.into(),
            marks: settings.pcp.filter(|_| marked).map(|pcp| Marks { pcp, strip: settings.strip_mark, taps }),
            rows,
            counts: Arc::new(TapRows::new(settings.taps.len())),
        })
    }

    /// The stage for the ports of a boot config, with room for others.
    #[must_use]
    pub fn of(boot: &BootConfig, spare: usize) -> Option<Self> {
        let ports = boot.ports.iter().map(|port| port.tap);
        let ports: Vec<_> = ports.chain(std::iter::repeat_n(DEFAULT_TAP, spare)).collect();
        Self::new(&boot.mirror, &ports)
    }

    /// Changes the number of a port's tap; of a port beyond those that the stage was made for, nothing changes.
    pub(crate) fn set_port(&mut self, port: PortId, tap: u16) {
        if let Some(own) = self.ports.get_mut(port.index()) {
            *own = tap;
        }
    }

    /// The counters by tap.
    #[must_use]
    pub fn counts(&self) -> Arc<TapRows> {
        Arc::clone(&self.counts)
    }

    /// Says of every live packet where it comes from, takes its mark off, and counts it. Frames are as they were received,
    /// their headers in one piece.
    #[inline]
    pub fn run(&mut self, batch: &mut Batch, ledger: &mut Ledger) {
        batch.tapped = true;
        for place in batch.live_places() {
            let port = batch.ingress[place].index();
            batch.tap[place] = self.ports.get(port).copied().unwrap_or(DEFAULT_TAP);
        }
        let bytes = batch.info.map(|info| info.wire_len);
        if let Some(marks) = &self.marks {
            marks.run(batch, ledger);
        }
        for place in batch.live_places() {
            self.counts.received(self.row(batch.tap[place]), bytes[place]);
        }
    }

    /// Counts the packets that deduplication found.
    #[inline]
    pub fn count_duplicates(&self, batch: &Batch) {
        for place in batch.live_places_of(batch.duplicates) {
            self.counts.duplicate(self.row(batch.tap[place]));
        }
    }

    #[inline]
    fn row(&self, tap: u16) -> usize {
        self.rows.get(usize::from(tap)).copied().unwrap_or(0).into()
    }
}

impl Marks {
    #[inline]
    fn run(&self, batch: &mut Batch, ledger: &mut Ledger) {
        for place in batch.live_places() {
            // Here the frame is read for the first time.
            if let Some(Some(ahead)) = batch.mbufs.get(place + PREFETCH_AHEAD) {
                ahead.prefetch_data();
            }
            let Some(mbuf) = &mut batch.mbufs[place] else { continue };
            let Some(tci) = vlan::outermost(mbuf.data()) else { continue };
            if tci >> 13 != u16::from(self.pcp) {
                continue;
            }
            match self.taps.get(usize::from(tci & 0x0fff)).copied().unwrap_or(0) {
                0 => ledger.marks_unknown += 1,
                tap => {
                    batch.tap[place] = tap;
                    if self.strip {
                        strip(mbuf, &mut batch.info[place], ledger);
                    }
                }
            }
        }
    }
}

/// Takes the outermost tag off.
#[inline]
fn strip(mbuf: &mut Mbuf, info: &mut RxInfo, ledger: &mut Ledger) {
    let moved = mbuf.data_mut().is_some_and(|frame| move_addresses(frame, 0, VLAN_TAG.into()));
    if !moved || !mbuf.adj(VLAN_TAG) {
        ledger.decap_obstacles.add(Obstacle::Unwritable);
        return;
    }
    ledger.marks_stripped += 1;
    let came = info.wire_len;
    info.wire_len = came.saturating_sub(VLAN_TAG.into()).max(mbuf.pkt_len());
    // As it came; the rest is counted with the other packets.
    ledger.rx_bytes += u64::from(came.saturating_sub(info.wire_len));
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use dpdk::{Eal, EalConfig, Hugepages, Mempool, MempoolConfig, SocketId};
    use sluice_model::Tap;

    use super::*;
    use crate::tap_rows::TapTotals;

    fn pool() -> Mempool {
        // Once in a process.
        static EAL: LazyLock<Eal> = LazyLock::new(|| {
            let config = EalConfig { hugepages: Hugepages::Never, memory_mb: 64, ..EalConfig::default() };
            Eal::init(&config).unwrap()
        });
        let name = format!("mirror{:?}", std::thread::current().id()).replace(['(', ')'], "");
        let config = MempoolConfig { name, mbufs: 255, cache: 0, data_room: 2048, socket: SocketId::ANY };
        Mempool::new(&EAL, &config).unwrap()
    }

    /// An Ethernet frame with these tags (TPID and TCI) before its EtherType, `bytes` long.
    fn frame(tags: &[(u16, u16)], bytes: usize) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for (tpid, tci) in tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        frame.extend([0x88, 0xb5]);
        frame.resize(bytes, 0xa5);
        frame
    }

    fn settings(strip_mark: bool) -> MirrorSettings {
        let tap = |name: &str, number, vlan| Tap { name: name.to_owned(), number, vlan, side: None };
        let taps = vec![tap("core", 4, Some(101)), tap("edge", 65_535, Some(4094)), tap("port", 9, None)];
        MirrorSettings { pcp: Some(5), strip_mark, taps }
    }

    #[test]
    fn marks_say_the_tap_and_are_taken_off() {
        let pool = pool();
        let mark = |pcp: u16, id: u16| (0x8100, pcp << 13 | id);
        // The frame, its tap, and whether the mark is one of a tap.
        let cases = [
            (frame(&[mark(5, 101)], 64), 4, Some(true)),
            (frame(&[(0x8100, 0xb065)], 64), 4, Some(true)),
            (frame(&[mark(5, 4094), mark(5, 101)], 1518), 65_535, Some(true)),
            (frame(&[(0x88a8, 0xa065), mark(1, 7)], 64), 4, Some(true)),
            (frame(&[mark(5, 101)], 18), 4, Some(true)),
            // The mark of nobody.
            (frame(&[mark(5, 102)], 64), 9, Some(false)),
            (frame(&[mark(5, 0)], 64), 9, Some(false)),
            (frame(&[mark(5, 4095)], 64), 9, Some(false)),
            // No mark: another PCP, a tag further in, a tag that was cut, no tag, no header.
            (frame(&[mark(4, 101)], 64), 9, None),
            (frame(&[mark(0, 7), mark(5, 101)], 64), 9, None),
            (frame(&[mark(5, 101)], 17), 9, None),
            (frame(&[mark(5, 101)], 13), 9, None),
            (frame(&[], 60), 9, None),
            (frame(&[], 1), 9, None),
            (Vec::new(), 9, None),
        ];
        for strips in [true, false] {
            let mut mirror = Mirror::new(&settings(strips), &[1, 9]).unwrap();
            for (given, tap, known) in &cases {
                let (mut batch, mut ledger) = (Batch::default(), Ledger::default());
                let wire_len = u32::try_from(given.len()).unwrap() + 100;
                let info = RxInfo { wire_len, ..RxInfo::default() };
                batch.push(pool.copy_from(given).unwrap(), info, PortId(1)).unwrap();
                mirror.run(&mut batch, &mut ledger);
                assert_eq!((batch.tapped, batch.tap[0]), (true, *tap), "{given:02x?}");
                let stripped = strips && *known == Some(true);
                assert_eq!(ledger.marks_stripped, u64::from(stripped));
                assert_eq!(ledger.marks_unknown, u64::from(*known == Some(false)));
                let left = batch.mbufs[0].as_ref().unwrap().data();
                if stripped {
                    assert_eq!(left, [&given[..12], &given[16..]].concat());
                    assert_eq!((batch.info[0].wire_len, ledger.rx_bytes), (wire_len - 4, 4));
                } else {
                    assert_eq!((left, batch.info[0].wire_len, ledger.rx_bytes), (&given[..], wire_len, 0));
                }
                drop(batch.take(0));
            }
        }
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn taps_are_counted_by_name() {
        let pool = pool();
        let mut mirror = Mirror::new(&settings(true), &[1, 9]).unwrap();
        let (mut batch, mut ledger) = (Batch::default(), Ledger::default());
        let push = |batch: &mut Batch, frame: &[u8], port| {
            let info = RxInfo { wire_len: u32::try_from(frame.len()).unwrap(), ..RxInfo::default() };
            batch.push(pool.copy_from(frame).unwrap(), info, PortId(port)).unwrap();
        };
        push(&mut batch, &frame(&[(0x8100, 0xa065)], 64), 0);
        push(&mut batch, &frame(&[(0x8100, 0xa065)], 100), 1);
        push(&mut batch, &frame(&[], 60), 1);
        push(&mut batch, &frame(&[], 61), 0);
        // A port that there is not is of tap 1.
        push(&mut batch, &frame(&[], 62), 7);
        mirror.run(&mut batch, &mut ledger);
        batch.duplicates = 0b10010;
        mirror.count_duplicates(&batch);
        (0..5).for_each(|place| drop(batch.take(place)));
        let totals =
            TapRows::totals(&[&mirror.counts(), &mirror.counts()], ["core", "edge", "port"].into_iter());
        let total = |name: &str, packets: u64, bytes: u64, duplicates: u64| TapTotals {
            name: name.to_owned(),
            packets: 2 * packets,
            bytes: 2 * bytes,
            duplicates: 2 * duplicates,
        };
        let expected = [
            total("core", 2, 164, 1),
            total("edge", 0, 0, 0),
            total("port", 1, 60, 0),
            total("(others)", 2, 123, 1),
        ];
        assert_eq!(totals, expected);
        assert!(TapRows::totals(&[], [].into_iter()).is_empty());
        assert!(Mirror::new(&MirrorSettings::default(), &[1]).is_none());
    }
}
