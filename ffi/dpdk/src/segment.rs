//! What one segment of an mbuf chain says: reads and writes of the fields of `struct rte_mbuf`, in line.
//!
//! Fields are reached through the pointer, never through a reference to the whole structure: the reference
//! count of a segment may be changed at any time by the owners of views of its data.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use dpdk_sys::{rte_mempool, sluice_mbuf, sluice_note};

use crate::eal::{note_offset, share_low_offset};
use crate::mbuf_meta::RxTimestampField;

/// A segment that is alive. Whoever holds one must own, by an `Mbuf`, the chain it lies in, for as long as it
/// is used; that is what the safety of all methods rests on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seg(NonNull<sluice_mbuf>);

macro_rules! fields {
    ($($get:ident $set:ident $field:ident : $type:ty;)*) => {
        $(
            #[inline(always)]
            pub(crate) fn $get(self) -> $type {
                // SAFETY: the segment is alive, and only the owner of the chain touches this field.
                unsafe { (*self.0.as_ptr()).$field }
            }

            #[inline(always)]
            #[allow(dead_code)] // One for each field; not all are needed.
            pub(crate) fn $set(self, value: $type) {
                // SAFETY: the segment is alive, and only the owner of the chain touches this field.
                unsafe { (*self.0.as_ptr()).$field = value }
            }
        )*
    };
}

impl Seg {
    /// # Safety
    ///
    /// The segment is alive and its chain is owned by the caller while the value is in use.
    #[inline(always)]
    pub(crate) unsafe fn new(mbuf: NonNull<sluice_mbuf>) -> Self {
        Self(mbuf)
    }

    #[inline(always)]
    pub(crate) fn as_non_null(self) -> NonNull<sluice_mbuf> {
        self.0
    }

    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *mut sluice_mbuf {
        self.0.as_ptr()
    }

    fields! {
        data_off set_data_off data_off: u16;
        data_len set_data_len data_len: u16;
        pkt_len set_pkt_len pkt_len: u32;
        nb_segs set_nb_segs nb_segs: u16;
        buf_len set_buf_len buf_len: u16;
        port set_port port: u16;
        ol_flags set_ol_flags ol_flags: u64;
        packet_type set_packet_type packet_type: u32;
        vlan_tci set_vlan_tci vlan_tci: u16;
        vlan_tci_outer set_vlan_tci_outer vlan_tci_outer: u16;
        hash_rss set_hash_rss hash_rss: u32;
        tx_offload set_tx_offload tx_offload: u64;
        pool set_pool pool: *mut rte_mempool;
        buf_addr set_buf_addr buf_addr: *mut u8;
    }

    #[inline(always)]
    pub(crate) fn next(self) -> Option<Self> {
        // SAFETY: the segment is alive; next is null or the next segment, as much ours as this one.
        NonNull::new(unsafe { (*self.0.as_ptr()).next }).map(Self)
    }

    #[inline(always)]
    pub(crate) fn set_next(self, next: Option<Self>) {
        let next = next.map_or(std::ptr::null_mut(), Self::as_ptr);
        // SAFETY: the segment is alive, and only the owner of the chain touches this field.
        unsafe { (*self.0.as_ptr()).next = next }
    }

    /// The last segment of the chain.
    #[inline]
    pub(crate) fn last(self) -> Self {
        let mut seg = self;
        while let Some(next) = seg.next() {
            seg = next;
        }
        seg
    }

    /// How many mbufs use this one's data, itself included.
    ///
    /// Acquire: whoever reads 1 may write where the owners of the views that are gone have read.
    #[inline(always)]
    fn refcnt(self) -> u16 {
        // SAFETY: the segment is alive; taking the field's address makes no reference.
        let refcnt = unsafe { &raw mut (*self.0.as_ptr()).refcnt };
        // SAFETY: aligned, alive, and changed by DPDK through atomics (or by the sole owner).
        unsafe { AtomicU16::from_ptr(refcnt) }.load(Ordering::Acquire)
    }

    /// Whether nobody else can see the data, so that it may be written. A view (an indirect mbuf) never may.
    #[inline(always)]
    pub(crate) fn is_exclusive(self) -> bool {
        let attached = dpdk_sys::SLUICE_MBUF_F_INDIRECT | dpdk_sys::SLUICE_MBUF_F_EXTERNAL;
        if self.ol_flags() & attached == 0 { self.refcnt() == 1 } else { self.is_exclusive_external() }
    }

    /// Buffers that drivers attach have a count of their own.
    #[cold]
    fn is_exclusive_external(self) -> bool {
        if self.ol_flags() & dpdk_sys::SLUICE_MBUF_F_INDIRECT != 0 {
            return false;
        }
        // SAFETY: the segment is alive, and only the owner of the chain touches this field.
        let shared = unsafe { (*self.0.as_ptr()).shinfo };
        if shared.is_null() {
            return false;
        }
        // SAFETY: the flag says that the buffer is external, so shinfo points to its live count.
        let refcnt = unsafe { &raw const (*shared).refcnt };
        // SAFETY: aligned and alive as above; a volatile read of a field that others change atomically.
        let one = unsafe { refcnt.read_volatile() } == 1;
        fence(Ordering::Acquire);
        one && self.refcnt() == 1
    }

    /// Whether bytes in front of the data may be written although views of the data may be alive.
    #[inline(always)]
    pub(crate) fn may_prepend(self) -> bool {
        self.is_exclusive() || self.may_prepend_shared()
    }

    /// Views of a direct mbuf start at or behind the mark that `share` keeps; what lies before is the owner's.
    #[inline]
    fn may_prepend_shared(self) -> bool {
        let attached = dpdk_sys::SLUICE_MBUF_F_INDIRECT | dpdk_sys::SLUICE_MBUF_F_EXTERNAL;
        if self.ol_flags() & attached != 0 {
            return false;
        }
        let Ok(offset) = usize::try_from(share_low_offset()) else { return false };
        // SAFETY: the offset is of a u16 field that EAL reserved inside struct rte_mbuf.
        let low = unsafe { self.0.as_ptr().byte_add(offset) };
        // SAFETY: alive, and only touched by the owner of the mbuf.
        let low = unsafe { low.cast::<u16>().read() };
        self.data_off() <= low
    }

    /// The note field of the mbuf.
    #[inline(always)]
    pub(crate) fn note_ptr(self) -> *mut sluice_note {
        let offset = usize::try_from(note_offset()).unwrap_or(0);
        // SAFETY: the offset is of a note that EAL reserved inside struct rte_mbuf, aligned for it.
        unsafe { self.0.as_ptr().byte_add(offset) }.cast()
    }

    /// The time stamp of the NIC, as far as the flags say that there is one.
    #[inline(always)]
    pub(crate) fn rx_timestamp(self, field: RxTimestampField) -> u64 {
        // SAFETY: the offset is of a u64 field that DPDK reserved inside struct rte_mbuf.
        let stamp = unsafe { self.0.as_ptr().byte_add(field.offset) };
        // SAFETY: aligned, initialised by the pool that zeroes its mbufs, and only touched by the owner of the mbuf.
        unsafe { stamp.cast::<u64>().read() }
    }

    /// The first byte of the data.
    #[inline(always)]
    pub(crate) fn data_ptr(self) -> *mut u8 {
        let (addr, off) = (self.buf_addr(), usize::from(self.data_off()));
        // SAFETY: DPDK keeps data_off within the buffer.
        unsafe { addr.add(off) }
    }

    /// The bytes of the data.
    ///
    /// # Safety
    ///
    /// The owner of the chain is borrowed for the lifetime.
    #[inline(always)]
    pub(crate) unsafe fn data<'a>(self) -> &'a [u8] {
        let (data, len) = (self.data_ptr(), usize::from(self.data_len()));
        // SAFETY: data_off + data_len lie within the buffer; while the chain is borrowed nobody writes: its
        // owner cannot, and others never write what is shared.
        unsafe { std::slice::from_raw_parts(data, len) }
    }

    /// `len` bytes from offset `at` of the data on, to write.
    ///
    /// # Safety
    ///
    /// The owner of the chain is mutably borrowed for the lifetime, nobody else may see the bytes, and
    /// `data_off + at + len` is at most `buf_len`.
    #[inline(always)]
    pub(crate) unsafe fn bytes_mut<'a>(self, at: u16, len: u16) -> &'a mut [u8] {
        // SAFETY: within the buffer, as the caller says.
        let start = unsafe { self.data_ptr().add(usize::from(at)) };
        // SAFETY: within the buffer, and exclusive, as the caller says.
        unsafe { std::slice::from_raw_parts_mut(start, usize::from(len)) }
    }

    /// Bytes in front of the data.
    #[inline(always)]
    pub(crate) fn headroom(self) -> u16 {
        self.data_off()
    }

    /// Bytes behind the data.
    #[inline(always)]
    pub(crate) fn tailroom(self) -> u16 {
        self.buf_len().saturating_sub(self.data_off()).saturating_sub(self.data_len())
    }
}
