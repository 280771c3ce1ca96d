//! Who owns a packet, and what may be done to its bytes.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use dpdk_sys::sluice_mbuf;

use crate::segment::Seg;

/// Bytes in front of a fresh mbuf's data (`RTE_PKTMBUF_HEADROOM`).
#[expect(clippy::cast_possible_truncation, reason = "a build-time constant of DPDK, 128")]
pub const HEADROOM: u16 = dpdk_sys::SLUICE_PKTMBUF_HEADROOM as u16;

/// A packet: a chain of one or more segments from a [`Mempool`](crate::Mempool), with one owner.
///
/// It is not `Clone`; [`share`](Self::share) makes a second packet over the same bytes. Dropping it gives the
/// segments back. It can move between threads, but not be used from two at once:
///
/// ```
/// fn send<T: Send>() {}
/// send::<dpdk::Mbuf>();
/// ```
/// ```compile_fail,E0277
/// fn sync<T: Sync>() {}
/// sync::<dpdk::Mbuf>();
/// ```
/// ```compile_fail,E0599
/// fn twice(packet: dpdk::Mbuf) -> (dpdk::Mbuf, dpdk::Mbuf) {
///     (packet.clone(), packet)
/// }
/// ```
/// Giving it away ends its use:
/// ```compile_fail,E0382
/// fn sent(packet: dpdk::Mbuf, burst: &mut dpdk::Burst) -> u32 {
///     let _ = burst.push(packet);
///     packet.pkt_len()
/// }
/// ```
#[repr(transparent)]
pub struct Mbuf(NonNull<sluice_mbuf>);

// SAFETY: an mbuf and the segments behind it belong to one owner and are bound to no thread; the reference
// counts that tie it to others are atomic, and pools may be used from every thread.
unsafe impl Send for Mbuf {}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own the chain; its pools are alive as long as mbufs are out of them.
        unsafe { dpdk_sys::sluice_mbuf_free(self.0.as_ptr()) }
    }
}

impl Mbuf {
    /// # Safety
    ///
    /// The mbuf is the head of a chain that nobody else owns.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(mbuf: NonNull<sluice_mbuf>) -> Self {
        Self(mbuf)
    }

    /// Gives up ownership without freeing.
    #[inline(always)]
    pub(crate) fn into_raw(self) -> NonNull<sluice_mbuf> {
        ManuallyDrop::new(self).0
    }

    /// The first segment.
    #[inline(always)]
    pub(crate) fn seg(&self) -> Seg {
        // SAFETY: we own the chain; callers use it while they borrow us.
        unsafe { Seg::new(self.0) }
    }

    /// Makes another chain the packet, which must hold what is left of the present one.
    #[inline(always)]
    pub(crate) fn replace_head(&mut self, head: Seg) {
        self.0 = head.as_non_null();
    }

    /// The bytes of the first segment.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        // SAFETY: we are borrowed for as long as the result.
        unsafe { self.seg().data() }
    }

    /// The bytes of the first segment, to write; `None` when another packet shares them.
    #[inline]
    #[must_use]
    pub fn data_mut(&mut self) -> Option<&mut [u8]> {
        let seg = self.seg();
        if !seg.is_exclusive() {
            return None;
        }
        // SAFETY: we are mutably borrowed for as long as the result, the data is ours alone, and data_len
        // bytes lie within the buffer.
        Some(unsafe { seg.bytes_mut(0, seg.data_len()) })
    }

    /// Bytes of the packet, in all segments.
    #[inline]
    #[must_use]
    pub fn pkt_len(&self) -> u32 {
        self.seg().pkt_len()
    }

    /// Bytes in the first segment.
    #[inline]
    #[must_use]
    pub fn data_len(&self) -> u16 {
        self.seg().data_len()
    }

    /// Number of segments.
    #[inline]
    #[must_use]
    pub fn segments(&self) -> u16 {
        self.seg().nb_segs()
    }

    /// Bytes in front of the data, in the first segment.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> u16 {
        self.seg().headroom()
    }

    /// Bytes behind the data, in the last segment.
    #[inline]
    #[must_use]
    pub fn tailroom(&self) -> u16 {
        self.seg().last().tailroom()
    }

    /// Whether another packet shares bytes of any segment, or this one only views another's.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        let mut seg = Some(self.seg());
        while let Some(s) = seg {
            if !s.is_exclusive() {
                return true;
            }
            seg = s.next();
        }
        false
    }

    /// Puts `n` new bytes in front of the packet and returns them; their content is undefined.
    ///
    /// `None`, and nothing changed, when the headroom is too small, when this packet is itself a view, or when
    /// the bytes could lie inside a view that [`share`](Self::share) gave out. A packet whose data is viewed
    /// by others can still be prepended to, since its headroom is in no view.
    #[inline]
    #[must_use]
    pub fn prepend(&mut self, n: u16) -> Option<&mut [u8]> {
        let seg = self.seg();
        let data_off = seg.data_off().checked_sub(n)?;
        let data_len = seg.data_len().checked_add(n)?;
        let pkt_len = seg.pkt_len().checked_add(u32::from(n))?;
        if !seg.may_prepend() {
            return None;
        }
        seg.set_data_off(data_off);
        seg.set_data_len(data_len);
        seg.set_pkt_len(pkt_len);
        // SAFETY: we are mutably borrowed for as long as the result; the bytes are the last n of what was
        // headroom, where no live view reaches.
        Some(unsafe { seg.bytes_mut(0, n) })
    }

    /// Removes `n` bytes at the front; false, and nothing changed, when the first segment is shorter.
    #[inline]
    pub fn adj(&mut self, n: u16) -> bool {
        let seg = self.seg();
        let Some(data_len) = seg.data_len().checked_sub(n) else { return false };
        seg.set_data_len(data_len);
        // data_off + data_len fit into the buffer, so neither sum overflows; pkt_len counts data_len.
        seg.set_data_off(seg.data_off().saturating_add(n));
        seg.set_pkt_len(seg.pkt_len().saturating_sub(u32::from(n)));
        true
    }

    /// Puts `n` new bytes at the end of the packet, into the last segment, and returns them; their content is
    /// undefined. `None`, and nothing changed, when the tailroom is too small or the segment is shared.
    #[inline]
    #[must_use]
    pub fn append(&mut self, n: u16) -> Option<&mut [u8]> {
        let head = self.seg();
        let last = head.last();
        let at = last.data_len();
        let pkt_len = head.pkt_len().checked_add(u32::from(n))?;
        if n > last.tailroom() || !last.is_exclusive() {
            return None;
        }
        // Cannot overflow: the sum is at most buf_len.
        last.set_data_len(at.saturating_add(n));
        head.set_pkt_len(pkt_len);
        // SAFETY: we are mutably borrowed for as long as the result; the bytes were tailroom of a buffer that
        // is ours alone.
        Some(unsafe { last.bytes_mut(at, n) })
    }

    /// Fills an mbuf fresh from the pool; takes no more than its tailroom.
    #[inline]
    pub(crate) fn fill_fresh(&mut self, bytes: &[u8]) {
        let seg = self.seg();
        let room = seg.tailroom();
        let len = u16::try_from(bytes.len()).map_or(room, |len| len.min(room));
        // SAFETY: we are mutably borrowed, a fresh mbuf is ours alone, and len is at most the tailroom.
        let to = unsafe { seg.bytes_mut(0, len) };
        to.copy_from_slice(&bytes[..usize::from(len)]);
        seg.set_data_len(len);
        seg.set_pkt_len(u32::from(len));
    }

    /// Asks the CPU to fetch the line of the mbuf's fields that [`data`](Self::data) reads.
    #[inline(always)]
    pub fn prefetch(&self) {
        prefetch(self.0.as_ptr().cast_const().cast());
    }

    /// Asks the CPU to fetch the first line of the packet's bytes. Reads the mbuf's fields.
    #[inline(always)]
    pub fn prefetch_data(&self) {
        prefetch(self.seg().data_ptr().cast_const());
    }
}

/// A hint; any address is allowed.
#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags))
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _: *const u8 = address;
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("pkt_len", &self.pkt_len())
            .field("data_len", &self.data_len())
            .field("segments", &self.segments())
            .field("headroom", &self.headroom())
            .field("shared", &self.is_shared())
            .finish_non_exhaustive()
    }
}
