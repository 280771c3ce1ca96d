//! Which frames wait in the ring? The receive queue of one worker; no system call.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use dpdk::{Mbuf, Mempool};

use crate::frame::{self, GsoKind, PrepareOptions, RxChecksum, RxMeta, Slot};
use crate::port::Shared;
use crate::ring::RxRing;

/// Receive queue of a port: belongs to one worker.
#[derive(Debug)]
pub struct AfPacketRx {
    ring: RxRing,
    /// Where in the current block we are; `None` between blocks.
    cursor: Option<Cursor>,
    options: PrepareOptions,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Cursor {
    /// Slots of the block not yet left behind, the current one included.
    remaining: u32,
    /// Offset of the current slot.
    offset: usize,
    /// The current slot's frame, when it was prepared but nobody could take it.
    prepared: Option<Prepared>,
}

#[derive(Debug, Clone, Copy)]
struct Prepared {
    start: usize,
    cap_len: usize,
    meta: RxMeta,
    next: usize,
}

/// Sums of one burst, added to the shared counters at its end.
#[derive(Debug, Default)]
struct Tally {
    packets: u64,
    bytes: u64,
    cut: u64,
    no_mbuf: u64,
    finished: u64,
    unfinished: u64,
    super_frames: u64,
    kernel_refused: u64,
    malformed: u64,
}

impl AfPacketRx {
    pub(crate) fn new(ring: RxRing, options: PrepareOptions, shared: Arc<Shared>) -> Self {
        Self { ring, cursor: None, options, shared }
    }

    /// Copy up to `max` frames, oldest first, into mbufs of `pool` (as many segments as it takes) and hand
    /// them to `deliver` with what the kernel knows of them. Returns how many.
    ///
    /// When no mbuf is free the frame stays in the ring for the next call: while the ring has room nothing is
    /// lost, and after that the kernel counts it. An interface that is down or gone has no more frames.
    #[inline]
    pub fn rx_burst(&mut self, pool: &Mempool, max: usize, mut deliver: impl FnMut(Mbuf, RxMeta)) -> usize {
        self.rx_frames(max, |bytes, meta| match pool.copy_from(bytes) {
            Some(mbuf) => {
                deliver(mbuf, *meta);
                true
            }
            None => false,
        })
    }

    /// Show up to `max` frames, oldest first, to `take`: the captured bytes (tag and checksum in place) and
    /// what the kernel knows of them. When `take` returns `false` the frame stays in the ring, is shown again
    /// by the next call, and this call ends. Returns how many frames were taken.
    #[inline]
    pub fn rx_frames(&mut self, max: usize, mut take: impl FnMut(&[u8], &RxMeta) -> bool) -> usize {
        let mut tally = Tally::default();
        let mut taken = 0;
        'blocks: while taken < max {
            let Some(block) = self.ring.block() else { break };
            let cursor = self.cursor.get_or_insert(Cursor {
                remaining: block.frame_count,
                offset: block.first,
                prepared: None,
            });
            while cursor.remaining > 0 {
                if taken == max {
                    break 'blocks;
                }
                let prepared = match cursor.prepared {
                    Some(prepared) => prepared,
                    None => match frame::prepare(block.frames, cursor.offset, self.options) {
                        Slot::Frame { start, cap_len, meta, next } => Prepared { start, cap_len, meta, next },
                        Slot::Refused { next } => {
                            tally.kernel_refused += 1;
                            cursor.offset = next;
                            cursor.remaining -= 1;
                            continue;
                        }
                        Slot::Malformed => {
                            tally.malformed += 1;
                            cursor.remaining = 0;
                            continue;
                        }
                    },
                };
                let Prepared { start, cap_len, meta, next } = prepared;
                let bytes = block.frames.get(start..start + cap_len).unwrap_or_default();
                if !take(bytes, &meta) {
                    cursor.prepared = Some(prepared);
                    tally.no_mbuf += 1;
                    break 'blocks;
                }
                tally.count(&meta, cap_len);
                taken += 1;
                cursor.prepared = None;
                cursor.offset = next;
                cursor.remaining -= 1;
            }
            self.cursor = None;
            self.ring.release();
        }
        self.publish(&tally);
        taken
    }

    /// Whether a block is waiting, or was begun.
    #[must_use]
    pub fn is_pending(&mut self) -> bool {
        self.cursor.is_some() || self.ring.block().is_some()
    }

    #[inline]
    fn publish(&self, tally: &Tally) {
        let rx = &self.shared.rx;
        rx.packets.add(tally.packets);
        rx.bytes.add(tally.bytes);
        rx.cut.add(tally.cut);
        rx.no_mbuf.add(tally.no_mbuf);
        rx.checksums_finished.add(tally.finished);
        rx.checksums_unfinished.add(tally.unfinished);
        rx.super_frames.add(tally.super_frames);
        rx.kernel_refused.add(tally.kernel_refused);
        rx.malformed_blocks.add(tally.malformed);
    }
}

impl AsFd for AfPacketRx {
    /// The socket: it can be read when a block of the ring is waiting.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.socket.as_fd()
    }
}

impl Tally {
    #[inline]
    fn count(&mut self, meta: &RxMeta, cap_len: usize) {
        self.packets += 1;
        self.bytes += cap_len as u64;
        self.cut += u64::from(cap_len < meta.wire_len as usize);
        self.finished += u64::from(meta.checksum == RxChecksum::Finished);
        self.unfinished += u64::from(matches!(meta.checksum, RxChecksum::Unfinished { .. }));
        self.super_frames += u64::from(meta.gso != GsoKind::None);
    }
}
