//! Did this packet come in a moment ago, by this port or another? Duplicates end here, or are marked and go on.

use std::sync::Arc;

use sluice_core::dedup::{DedupTable, Fingerprinter, KeyProfile, MAX_KEY_BYTES, Scratch, Verdict};
use sluice_cpu::prefetch_index;
use sluice_model::{DedupHeaders, DedupKey, DedupMode, DedupSettings};

use crate::batch::{BATCH, Batch};
use crate::ledger::Ledger;
use crate::port_pairs::PortPairs;

/// Packets whose bytes behind the first line are fetched ahead.
const PREFETCH_AHEAD: usize = 6;
/// Bytes of a cache line: the parser has fetched the first one.
const LINE: usize = 64;
/// Packets up to this length lie in the line that was fetched for parsing.
const SHORT: u32 = 64;

/// A worker's memory of the packets within the window.
#[derive(Debug)]
pub struct Dedup {
    fingerprinter: Fingerprinter,
    table: DedupTable,
    mode: DedupMode,
    headers: DedupHeaders,
    pairs: Arc<PortPairs>,
    scratch: Box<Scratch>,
}

impl Dedup {
    /// The stage as `settings` say, for packets from `ports` ports, with room for `entries` fingerprints; `None` when it
    /// is off. `finished` says whether L4 checksums can be relied on where the settings leave it open.
    #[must_use]
    pub fn new(settings: &DedupSettings, entries: u32, ports: usize, finished: bool) -> Option<Self> {
        if settings.mode == DedupMode::Off {
            return None;
        }
        Some(Self {
            fingerprinter: Fingerprinter::new(profile(settings.key, finished), secret()),
            table: DedupTable::new(entries, settings.window_ns),
            mode: settings.mode,
            headers: settings.key.headers,
            pairs: Arc::new(PortPairs::new(ports)),
            scratch: Box::new([0; MAX_KEY_BYTES]),
        })
    }

    /// The counters by where the copies came in.
    #[must_use]
    pub fn pairs(&self) -> Arc<PortPairs> {
        Arc::clone(&self.pairs)
    }

    /// Marks the live packets that are duplicates, in order, and counts them; returns those that shall end, as bits.
    #[inline]
    pub fn run(&mut self, batch: &mut Batch, ledger: &mut Ledger) -> u64 {
        if batch.looked_through == 0 || self.headers == DedupHeaders::Outer {
            self.run_over::<false>(batch, ledger)
        } else {
            self.run_over::<true>(batch, ledger)
        }
    }

    /// The same over the outermost headers, or over those inside tunnels that are looked through.
    #[inline(always)]
    fn run_over<const INNER: bool>(&mut self, batch: &mut Batch, ledger: &mut Ledger) -> u64 {
        let mut fingerprints = [0; BATCH];
        for (place, slot) in fingerprints.iter_mut().enumerate().take(batch.len) {
            // Of a short packet the line is there already.
            let later = place + PREFETCH_AHEAD;
            if batch.info.get(later).is_some_and(|info| info.wire_len > SHORT)
                && let Some(Some(ahead)) = batch.mbufs.get(later)
            {
                let data = ahead.data();
                prefetch_index(data, LINE);
                prefetch_index(data, 2 * LINE);
            }
            let Some(mbuf) = &batch.mbufs[place] else { continue };
            let headers = batch.view_if::<INNER>(place);
            let wire_len = batch.info[place].wire_len;
            let fingerprint = if mbuf.segments() == 1 {
                self.fingerprinter.fingerprint(mbuf.data(), headers, wire_len)
            } else {
                let segments = mbuf.segment_slices();
                self.fingerprinter.fingerprint_segments(segments, headers, wire_len, &mut self.scratch)
            };
            self.table.prefetch(fingerprint);
            *slot = fingerprint;
        }

        let evicted = self.table.evicted();
        let mut duplicates = 0;
        for place in batch.live_places() {
            let info = &batch.info[place];
            let port = batch.ingress[place];
            // Ports beyond share a row, too.
            let number = u8::try_from(port.0).unwrap_or(u8::MAX);
            if let Verdict::Duplicate(first) =
                self.table.offer(fingerprints[place], info.timestamp_ns, number)
            {
                duplicates |= 1 << place;
                let bytes = u64::from(info.wire_len);
                ledger.duplicates += 1;
                ledger.duplicate_bytes += bytes;
                self.pairs.add(first.into(), port.0.into(), bytes);
            }
        }
        ledger.dedup_evicted += self.table.evicted() - evicted;
        batch.duplicates = duplicates;
        if self.mode == DedupMode::Drop { duplicates } else { 0 }
    }
}

fn profile(key: DedupKey, finished: bool) -> KeyProfile {
    KeyProfile {
        macs: key.macs,
        vlan: key.vlan,
        ttl: key.ttl,
        tos: key.tos,
        l4_checksum: key.l4_checksum.unwrap_or(finished),
        payload_bytes: key.payload_bytes,
    }
}

/// A number that nobody else knows, from the operating system: the seed that the standard library takes for its maps.
fn secret() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u64)
}
