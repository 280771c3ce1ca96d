//! Which blocks of the receive ring are ours right now? Owns the memory shared with the kernel.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::frame::BLOCK_HEADER_LEN;
use crate::sys;

/// Size and number of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RingGeometry {
    pub(crate) block_bytes: usize,
    pub(crate) blocks: usize,
}

/// Fewest blocks that still let the kernel fill one while another is read.
pub(crate) const MIN_BLOCKS: usize = 4;
/// Largest block: fewer, larger blocks cost less per frame but waste more at the time-out.
const BLOCK_BYTES_TARGET: usize = 256 << 10;
/// Blocks are enlarged to the target only while at least this many remain.
const BLOCKS_COMFORTABLE: usize = 64;
/// Frame header, address, alignment and virtio header, generously.
const FRAME_OVERHEAD: usize = 256;
/// `tp_frame_size` only has to divide the block and hold the headers: V3 packs frames by their length.
const NOMINAL_FRAME_BYTES: usize = 2048;

impl RingGeometry {
    /// Blocks that hold a frame of `max_frame` bytes whole, as many as `ring_bytes` allows; the error is the
    /// block size needed.
    pub(crate) fn choose(ring_bytes: usize, max_frame: usize) -> Result<Self, usize> {
        let mut block_bytes =
            (max_frame + FRAME_OVERHEAD + BLOCK_HEADER_LEN).next_power_of_two().max(16 << 10);
        while block_bytes < BLOCK_BYTES_TARGET && ring_bytes / (block_bytes * 2) >= BLOCKS_COMFORTABLE {
            block_bytes *= 2;
        }
        let blocks = ring_bytes / block_bytes;
        if blocks < MIN_BLOCKS { Err(block_bytes) } else { Ok(Self { block_bytes, blocks }) }
    }

    /// Memory of the ring.
    pub(crate) fn bytes(self) -> usize {
        self.block_bytes * self.blocks
    }

    /// The kernel's form of it.
    pub(crate) fn request(self, block_timeout_ms: u32) -> libc::tpacket_req3 {
        let int = |value: usize| libc::c_uint::try_from(value).unwrap_or(libc::c_uint::MAX);
        libc::tpacket_req3 {
            tp_block_size: int(self.block_bytes),
            tp_block_nr: int(self.blocks),
            tp_frame_size: int(NOMINAL_FRAME_BYTES),
            tp_frame_nr: int(self.bytes() / NOMINAL_FRAME_BYTES),
            tp_retire_blk_tov: block_timeout_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        }
    }
}

/// The mapped ring and the block that is next in turn.
#[derive(Debug)]
pub(crate) struct RxRing {
    base: NonNull<u8>,
    geometry: RingGeometry,
    current: usize,
    /// The current block was seen to be ours and not yet given back.
    held: bool,
}

// SAFETY: the mapping belongs to this value alone on the user side and may be used from any one thread; all
// access goes through `&mut self`.
unsafe impl Send for RxRing {}

/// A block that user space owns.
#[derive(Debug)]
pub(crate) struct Block<'ring> {
    /// Frames in the block.
    pub(crate) frame_count: u32,
    /// Offset of the first frame in `frames`.
    pub(crate) first: usize,
    /// The block without its descriptor.
    pub(crate) frames: &'ring mut [u8],
}

impl RxRing {
    /// Allocate the ring of a packet socket and map it. The socket must be at `TPACKET_V3`.
    pub(crate) fn new(fd: &OwnedFd, geometry: RingGeometry, block_timeout_ms: u32) -> io::Result<Self> {
        let request = geometry.request(block_timeout_ms);
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; no existing memory is touched.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                geometry.bytes(),
                protection,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self { base, geometry, current: 0, held: false })
    }

    /// The block next in turn, when the kernel has handed it over. The same block until [`Self::release`].
    #[inline]
    pub(crate) fn block(&mut self) -> Option<Block<'_>> {
        if !self.held {
            if self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return None;
            }
            self.held = true;
        }
        let frame_count = self.descriptor(12);
        let first = (self.descriptor(16) as usize).saturating_sub(BLOCK_HEADER_LEN);
        let len = self.geometry.block_bytes - BLOCK_HEADER_LEN;
        // SAFETY: within the mapping (`current < blocks`, and a block is longer than its descriptor).
        let start = unsafe { self.base.add(self.current * self.geometry.block_bytes + BLOCK_HEADER_LEN) };
        // SAFETY: `start..start + len` is mapped readable and writable, and initialised (the kernel zeroes
        // the ring). TP_STATUS_USER, read with acquire order, means that the kernel neither reads nor writes
        // it until `release`, which needs `&mut self` and so ends this borrow.
        let frames = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) };
        Some(Block { frame_count, first, frames })
    }

    /// Give the current block back to the kernel. Does nothing when it is not ours.
    #[inline]
    pub(crate) fn release(&mut self) {
        if !self.held {
            return;
        }
        self.held = false;
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.current = if self.current + 1 == self.geometry.blocks { 0 } else { self.current + 1 };
    }

    /// `block_status` of the current block, byte 8 of its descriptor.
    #[inline]
    fn status(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, as in `block`.
        let status = unsafe { self.base.add(self.current * self.geometry.block_bytes + 8) };
        // SAFETY: aligned (blocks are multiples of the page size), mapped for the life of `self`, and only
        // ever accessed atomically on this side; the kernel does single word-sized accesses.
        unsafe { AtomicU32::from_ptr(status.as_ptr().cast()) }
    }

    /// A 32-bit field of the current block's descriptor.
    #[inline]
    fn descriptor(&self, at: usize) -> u32 {
        debug_assert!(self.held && at + 4 <= BLOCK_HEADER_LEN, "descriptor of a block that is ours");
        // SAFETY: within the mapping, as in `block`.
        let field = unsafe { self.base.add(self.current * self.geometry.block_bytes + at) };
        // SAFETY: mapped and, for `at` a multiple of four, aligned; `read_unaligned` asks even less.
        unsafe { field.cast::<u32>().read_unaligned() }
    }
}

impl Drop for RxRing {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; no borrow of it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.geometry.bytes()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_the_largest_frame() {
        for (ring, frame) in [(4 << 20, 1518), (32 << 20, 65_550), (1 << 30, 524_300), (1 << 20, 9_018)] {
            let geometry = RingGeometry::choose(ring, frame).unwrap();
            assert!(geometry.block_bytes >= frame + FRAME_OVERHEAD);
            assert!(geometry.bytes() <= ring);
            assert!(geometry.blocks >= MIN_BLOCKS);
            assert_eq!(geometry.block_bytes % 4096, 0);
            assert_eq!(geometry.bytes() % NOMINAL_FRAME_BYTES, 0);
        }
    }

    #[test]
    fn a_ring_of_less_than_four_blocks_is_refused() {
        assert_eq!(RingGeometry::choose(256 << 10, 65_550), Err(128 << 10));
        assert_eq!(RingGeometry::choose(0, 1518), Err(16 << 10));
    }
}
