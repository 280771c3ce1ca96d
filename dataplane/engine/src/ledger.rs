//! Where did every packet end? One ledger per worker, readable from any thread as a consistent snapshot.
//!
//! `rx + replicas = tx + sum(drops) + to_files`, and what went to the file writer is either written, dropped there, or
//! held. A worker adds to its own plain [`Ledger`] and publishes it once per batch.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crossbeam_utils::CachePadded;
use sluice_core::decap::{Obstacle, ObstacleCounts};
use sluice_model::{DropCounts, DropReason};

/// The counts of one worker (or a sum of them), in packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Packets that the drivers handed to us, control packets not included.
    pub rx_packets: u64,
    /// Their original lengths in bytes, without FCS.
    pub rx_bytes: u64,
    /// Packets that a port accepted (or a file holds).
    pub tx_packets: u64,
    /// Their lengths in bytes, as sent.
    pub tx_bytes: u64,
    /// Copies after the first of a packet, and outer fragments or segments after the first of a copy.
    pub replicas: u64,
    /// Packets and copies that ended without being sent.
    pub drops: DropCounts,
    /// Packets handed to the thread that writes capture files.
    pub to_files: u64,
    /// Control packets (ARP, ND, ICMP echo) received for our own addresses; on neither side of the identity.
    pub ctrl_rx: u64,
    /// Control packets that we sent ourselves; on neither side of the identity.
    pub ctrl_tx: u64,
    /// Copies cut to the MTU of their destination.
    pub truncated: u64,
    /// Later IP fragments whose first fragment was not seen: policies with ports did not match them.
    pub fragments_unmatched: u64,
    /// Packets that tunnels were taken off, or that were looked through.
    pub decapsulated: u64,
    /// Packets that VLAN tags were taken off.
    pub vlan_stripped: u64,
    /// Packets that the mark of their tap was taken off.
    pub marks_stripped: u64,
    /// Packets marked with the VLAN id of no tap: they are of the tap of their port.
    pub marks_unknown: u64,
    /// Packets with a tunnel that was not taken off, by what was in the way.
    pub decap_obstacles: ObstacleCounts,
    /// Control packets lost because the queue to or from the control thread was full.
    pub ctrl_lost: u64,
    /// Of a distributor: packets handed to workers.
    pub to_workers: u64,
    /// Of a worker: those of its `rx_packets` that a distributor received.
    pub from_distributors: u64,
    /// Packets seen before within the deduplication window, whether dropped or only counted.
    pub duplicates: u64,
    /// Their original lengths in bytes.
    pub duplicate_bytes: u64,
    /// Packets forgotten before the deduplication window was over, as its table was full: their duplicates pass.
    pub dedup_evicted: u64,
}

/// Words before the counts by reason.
const COUNTS: usize = 20;
const WORDS: usize = COUNTS + Obstacle::COUNT + DropReason::COUNT;

impl Ledger {
    fn to_words(self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        let (head, drops) = words.split_at_mut(COUNTS);
        head.copy_from_slice(&[
            self.rx_packets,
            self.rx_bytes,
            self.tx_packets,
            self.tx_bytes,
            self.replicas,
            self.to_files,
            self.ctrl_rx,
            self.ctrl_tx,
            self.truncated,
            self.fragments_unmatched,
            self.ctrl_lost,
            self.to_workers,
            self.from_distributors,
            self.duplicates,
            self.duplicate_bytes,
            self.dedup_evicted,
            self.decapsulated,
            self.vlan_stripped,
            self.marks_stripped,
            self.marks_unknown,
        ]);
        let (obstacles, drops) = drops.split_at_mut(Obstacle::COUNT);
        obstacles.copy_from_slice(&self.decap_obstacles.0);
        drops.copy_from_slice(&self.drops.0);
        words
    }

    fn from_words(words: &[u64; WORDS]) -> Self {
        let mut drops = DropCounts::default();
        let (obstacles, dropped) = words[COUNTS..].split_at(Obstacle::COUNT);
        drops.0.copy_from_slice(dropped);
        let mut decap_obstacles = ObstacleCounts::default();
        decap_obstacles.0.copy_from_slice(obstacles);
        Self {
            rx_packets: words[0],
            rx_bytes: words[1],
            tx_packets: words[2],
            tx_bytes: words[3],
            replicas: words[4],
            to_files: words[5],
            ctrl_rx: words[6],
            ctrl_tx: words[7],
            truncated: words[8],
            fragments_unmatched: words[9],
            ctrl_lost: words[10],
            to_workers: words[11],
            from_distributors: words[12],
            duplicates: words[13],
            duplicate_bytes: words[14],
            dedup_evicted: words[15],
            decapsulated: words[16],
            vlan_stripped: words[17],
            marks_stripped: words[18],
            marks_unknown: words[19],
            decap_obstacles,
            drops,
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        let mut words = self.to_words();
        for (mine, theirs) in words.iter_mut().zip(other.to_words()) {
            *mine += theirs;
        }
        *self = Self::from_words(&words);
    }

    /// Whether every packet of this worker (or distributor) is accounted for.
    #[must_use]
    pub fn balances(&self) -> bool {
        let ended = self.tx_packets + self.drops.total() + self.to_files + self.to_workers;
        self.rx_packets + self.replicas == ended
    }
}

/// A ledger that one worker publishes and any thread reads (a sequence lock: worker: w, others: r).
#[derive(Debug)]
pub struct LedgerCell {
    /// Odd while the worker writes.
    sequence: CachePadded<AtomicU64>,
    words: CachePadded<[AtomicU64; WORDS]>,
}

impl Default for LedgerCell {
    fn default() -> Self {
        Self {
            sequence: CachePadded::new(AtomicU64::new(0)),
            words: CachePadded::new([const { AtomicU64::new(0) }; WORDS]),
        }
    }
}

impl LedgerCell {
    /// Makes `ledger` visible. Only the one owning worker may call this.
    #[inline]
    pub fn publish(&self, ledger: &Ledger) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (cell, word) in self.words.iter().zip(ledger.to_words()) {
            cell.store(word, Ordering::Relaxed);
        }
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// The ledger as it was at some batch boundary: consistent across all its fields.
    #[must_use]
    pub fn snapshot(&self) -> Ledger {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let mut words = [0; WORDS];
            for (word, cell) in words.iter_mut().zip(self.words.iter()) {
                *word = cell.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                return Ledger::from_words(&words);
            }
            std::hint::spin_loop();
        }
    }
}

/// The whole account of an engine at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The sum of the workers' ledgers, with `tx` and `drops` of the file writer added.
    pub ledger: Ledger,
    /// Packets that are neither sent nor dropped yet.
    pub held: u64,
    /// Packets that were lost before a driver handed them to us, as far as drivers tell.
    pub lost_before_rx: u64,
}

impl Account {
    /// Sums worker and distributor ledgers and the file writer's. `files` must have been read before the others, and
    /// the workers before the distributors, so that nothing is counted as taken that was not yet counted as handed over.
    ///
    /// What went through a distributor was received there, once; between it and the worker it is held.
    pub fn new(files: &Ledger, workers: impl IntoIterator<Item = Ledger>, lost_before_rx: u64) -> Self {
        let mut ledger = Ledger::default();
        for worker in workers {
            ledger.merge(&worker);
        }
        let in_rings = ledger.to_workers.saturating_sub(ledger.from_distributors);
        ledger.rx_packets -= ledger.from_distributors.min(ledger.rx_packets);
        let held = ledger.to_files.saturating_sub(files.tx_packets + files.drops.total()) + in_rings;
        ledger.merge(files);
        Self { ledger, held, lost_before_rx }
    }

    /// The accounting identity: rx + replicas = tx + drops + held.
    #[must_use]
    pub fn balances(&self) -> bool {
        let ledger = &self.ledger;
        ledger.rx_packets + ledger.replicas == ledger.tx_packets + ledger.drops.total() + self.held
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn balanced(n: u64) -> Ledger {
        let mut ledger =
            Ledger { rx_packets: 3 * n, rx_bytes: 64 * n, tx_packets: 2 * n, ..Ledger::default() };
        ledger.drops.add(DropReason::NoPolicy, n);
        ledger
    }

    #[test]
    fn snapshots_are_consistent_while_the_worker_writes() {
        let cell = Arc::new(LedgerCell::default());
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (cell, stop) = (Arc::clone(&cell), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    cell.publish(&balanced(n));
                }
                n
            })
        };
        for _ in 0..20_000 {
            let snapshot = cell.snapshot();
            assert!(snapshot.balances(), "{snapshot:?}");
        }
        stop.store(true, Ordering::Relaxed);
        let last = writer.join().unwrap();
        assert_eq!(cell.snapshot(), balanced(last));
    }

    #[test]
    fn what_goes_through_a_distributor_is_received_once() {
        let mut distributor = Ledger { rx_packets: 100, to_workers: 90, ..Ledger::default() };
        distributor.drops.add(DropReason::DistributorFull, 10);
        let worker = |taken| Ledger {
            rx_packets: taken + 5,
            tx_packets: taken + 5,
            from_distributors: taken,
            ..Ledger::default()
        };
        assert!(distributor.balances() && worker(40).balances());
        let account = Account::new(&Ledger::default(), [worker(40), worker(43), distributor], 0);
        assert!(account.balances());
        assert_eq!((account.ledger.rx_packets, account.ledger.tx_packets, account.held), (110, 93, 7));
    }

    #[test]
    fn what_the_writer_has_not_finished_is_held() {
        let worker = Ledger { rx_packets: 10, to_files: 7, tx_packets: 3, ..Ledger::default() };
        let mut files = Ledger { tx_packets: 4, ..Ledger::default() };
        files.drops.add(DropReason::FileWrite, 1);
        let account = Account::new(&files, [worker], 0);
        assert_eq!(account.held, 2);
        assert!(account.balances());
    }
}
