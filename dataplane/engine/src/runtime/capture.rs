//! Live captures: a tap in each worker, and their packets in the order of time.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Engine;
use crate::counters::Counter;
use crate::tap::{
    CHUNK_BYTES, Chunk, ChunkQueues, TAPS, Tap, TapControl, TapCounts, TapSettings, TappedPacket,
};

/// How long workers may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for taps that come back; who is later is waited for before another capture begins.
const LAST_TAPS: Duration = Duration::from_millis(200);
/// How often to look.
const ROUND: Duration = Duration::from_millis(1);
/// Bytes for the packets of one capture, over all workers.
const CAPTURE_BYTES: usize = 16 << 20;
/// Chunks of a worker: the fewest and the most.
const CHUNKS: [usize; 2] = [8, 32];
/// Chunks that are taken at once.
const CHUNKS_AT_ONCE: usize = 8;

/// Why there is no capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// As many run as may.
    #[error("{TAPS} captures run already, which is the most: end one of them first")]
    TooMany,
    /// A worker does not begin; it has ended, or is stuck.
    #[error("a worker did not begin the capture within {} s", PATIENCE.as_secs())]
    Worker,
}

/// Captures since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureTotals {
    /// Those that run.
    pub running: u64,
    /// Those that were begun.
    pub begun: u64,
    /// Packets that were handed to readers.
    pub packets: u64,
    /// Packets that fitted and were left out, as the reader was too slow.
    pub lost: u64,
}

/// The captures of an engine.
#[derive(Debug, Default)]
pub(super) struct Captures {
    running: Mutex<Vec<Running>>,
    begun: AtomicU64,
    packets: AtomicU64,
    /// Of captures that have ended.
    lost: AtomicU64,
}

/// A capture whose taps are not all back.
#[derive(Debug)]
struct Running {
    control: Arc<TapControl>,
    counts: Vec<Arc<TapCounts>>,
    /// Taps that are in workers, or on their way there.
    outside: usize,
    /// Whether somebody still reads.
    is_read: bool,
}

impl Captures {
    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the taps that came back.
    fn reap(&self, running: &mut Vec<Running>) {
        running.retain_mut(|capture| {
            while capture.control.back.pop().is_some() {
                capture.outside = capture.outside.saturating_sub(1);
            }
            // A worker that just gave its tap back may still hold the control: it shall not be the one that frees it.
            let stays = capture.outside > 0 || capture.is_read || Arc::strong_count(&capture.control) > 1;
            if !stays {
                let lost = capture.counts.iter().map(|counts| counts.lost()).sum();
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
            stays
        });
    }

    fn totals(&self) -> CaptureTotals {
        let running = self.running();
        let lost: u64 = running.iter().flat_map(|capture| &capture.counts).map(|counts| counts.lost()).sum();
        CaptureTotals {
            running: running.iter().filter(|capture| capture.is_read).count() as u64,
            begun: self.begun.load(Ordering::Relaxed),
            packets: self.packets.load(Ordering::Relaxed),
            lost: lost + self.lost.load(Ordering::Relaxed),
        }
    }
}

/// A capture. Dropped, it ends: workers give their taps back at once.
#[derive(Debug)]
pub struct Capture {
    captures: Arc<Captures>,
    control: Arc<TapControl>,
    counts: Vec<Arc<TapCounts>>,
    queues: Vec<ChunkQueues>,
    /// Whose chunks are taken first.
    next_worker: usize,
}

impl Engine {
    /// Begins a capture in all workers. To be called from a thread that may wait: memory is taken here, 16 MiB or, with
    /// many workers, 1 MiB for each.
    ///
    /// # Errors
    /// When too many run, or a worker does not begin.
    pub fn capture(&self, settings: &TapSettings) -> Result<Capture, CaptureError> {
        let workers = self.queues.len();
        let control = TapControl::new(workers);
        let counts: Vec<_> = (0..workers).map(|_| TapCounts::new(self.port_room())).collect();
        {
            let mut running = self.captures.running();
            self.captures.reap(&mut running);
            if running.len() >= TAPS {
                return Err(CaptureError::TooMany);
            }
            running.push(Running {
                control: Arc::clone(&control),
                counts: counts.clone(),
                outside: 0,
                is_read: true,
            });
        }
        let [fewest, most] = CHUNKS;
        let chunks = (CAPTURE_BYTES / CHUNK_BYTES / workers.max(1)).clamp(fewest, most);
        let capture = Capture {
            captures: Arc::clone(&self.captures),
            control,
            counts,
            queues: (0..workers).map(|_| ChunkQueues::new(chunks)).collect(),
            next_worker: 0,
        };
        self.captures.begun.fetch_add(1, Ordering::Relaxed);
        for ((worker, queues), counts) in self.queues.iter().zip(&capture.queues).zip(&capture.counts) {
            let control = Arc::clone(&capture.control);
            let tap = Tap::new(settings, queues.clone(), Arc::clone(counts), control);
            if worker.taps.push(tap).is_err() {
                return Err(CaptureError::Worker);
            }
            capture.update(|running| running.outside += 1);
        }
        let deadline = Instant::now() + PATIENCE;
        while capture.control.begun.load(Ordering::Acquire) < workers {
            if Instant::now() >= deadline {
                return Err(CaptureError::Worker);
            }
            std::thread::sleep(ROUND);
        }
        Ok(capture)
    }

    /// The captures since the start.
    #[must_use]
    pub fn capture_totals(&self) -> CaptureTotals {
        self.captures.totals()
    }
}

impl Capture {
    /// Hands what was captured to `take`, in the order of time within what is there now, until that breaks off: then the
    /// rest of it is gone. Returns how many packets `take` was given. A part of what there is at a time.
    pub fn drain(&mut self, mut take: impl FnMut(&TappedPacket<'_>) -> ControlFlow<()>) -> u64 {
        let mut taken: Vec<(usize, Box<Chunk>)> = Vec::new();
        let workers = self.queues.len();
        // Each worker has its turn, until none has any more.
        for turn in 0..CHUNKS_AT_ONCE * workers {
            let worker = (self.next_worker + turn) % workers;
            let chunk = self.queues.get(worker).and_then(|queues| queues.full.pop());
            taken.extend(chunk.map(|chunk| (worker, chunk)));
            if taken.len() == CHUNKS_AT_ONCE {
                self.next_worker = worker + 1;
                break;
            }
        }
        let mut packets: Vec<_> = taken.iter().flat_map(|(_, chunk)| chunk.packets()).collect();
        // Stable: what came at the same time stays in the order of its worker.
        packets.sort_by_key(|packet| packet.timestamp_ns);
        let mut count = 0;
        for packet in &packets {
            count += 1;
            if take(packet).is_break() {
                break;
            }
        }
        drop(packets);
        for (worker, mut chunk) in taken {
            chunk.clear();
            if let Some(queues) = self.queues.get(worker) {
                drop(queues.free.push(chunk));
            }
        }
        self.captures.packets.fetch_add(count, Ordering::Relaxed);
        count
    }

    /// Packets that fitted and were left out so far, as there was no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.counts.iter().map(|counts| counts.lost()).sum()
    }

    /// The same by port number; the last one for copies to files.
    #[must_use]
    pub fn lost_by_port(&self) -> Vec<u64> {
        let ports = self.counts.iter().map(|counts| counts.lost.len()).max().unwrap_or(0);
        let of = |port: usize| {
            self.counts.iter().filter_map(move |counts| counts.lost.get(port)).map(Counter::get)
        };
        (0..ports).map(|port| of(port).sum()).collect()
    }

    /// Has the workers capture no more. What they have captured is still to be drained.
    pub fn end(&self) {
        self.control.ended.store(true, Ordering::Release);
        let deadline = Instant::now() + LAST_TAPS;
        loop {
            let mut running = self.captures.running();
            self.captures.reap(&mut running);
            let left = running.iter().find(|capture| Arc::ptr_eq(&capture.control, &self.control));
            if left.is_none_or(|capture| capture.outside == 0) || Instant::now() >= deadline {
                return;
            }
            drop(running);
            std::thread::sleep(ROUND);
        }
    }

    fn update(&self, change: impl FnOnce(&mut Running)) {
        let mut running = self.captures.running();
        running.iter_mut().find(|own| Arc::ptr_eq(&own.control, &self.control)).map(change);
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.update(|running| running.is_read = false);
        self.end();
    }
}
