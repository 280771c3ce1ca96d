//! How a packet of several segments is read, joined, cut, shared and made contiguous.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::eal::share_low_offset;
use crate::mbuf::Mbuf;
use crate::mempool::Mempool;
use crate::segment::Seg;

/// Two packets were not joined: the chain would have more than 65,535 segments or 4 GiB. Gives the tail back.
#[derive(Debug, thiserror::Error)]
#[error("the joined packet would have more than 65,535 segments or 4 GiB")]
pub struct ChainError(pub Mbuf);

/// Iterator over the bytes of each segment, from [`Mbuf::segment_slices`].
#[derive(Clone)]
pub struct SegmentSlices<'a> {
    next: Option<Seg>,
    packet: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for SegmentSlices<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let seg = self.next?;
        self.next = seg.next();
        // SAFETY: the packet is borrowed for 'a.
        Some(unsafe { seg.data() })
    }
}

impl fmt::Debug for SegmentSlices<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SegmentSlices")
    }
}

impl Mbuf {
    /// The bytes of each segment, in order; segments may be empty.
    #[inline]
    #[must_use]
    pub fn segment_slices(&self) -> SegmentSlices<'_> {
        SegmentSlices { next: Some(self.seg()), packet: PhantomData }
    }

    /// Copies bytes from `offset` on, across segments; returns how many there were.
    pub fn read_at(&self, offset: u32, out: &mut [u8]) -> usize {
        let mut skip = offset as usize;
        let mut done = 0;
        for slice in self.segment_slices() {
            if done == out.len() {
                break;
            }
            let Some(from) = slice.get(skip..) else {
                skip -= slice.len();
                continue;
            };
            skip = 0;
            let n = from.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&from[..n]);
            done += n;
        }
        done
    }

    /// Joins `tail` to the end. The metadata of `tail` (port, VLAN tags, flags) no longer counts.
    pub fn chain(&mut self, tail: Mbuf) -> Result<(), ChainError> {
        self.link_after(self.seg().last(), tail).map(drop)
    }

    /// Joins `tail` behind `last`, the last segment of this packet; returns the new last segment.
    pub(crate) fn link_after(&mut self, last: Seg, tail: Mbuf) -> Result<Seg, ChainError> {
        let (head, second) = (self.seg(), tail.seg());
        let segs = head.nb_segs().checked_add(second.nb_segs());
        let len = head.pkt_len().checked_add(second.pkt_len());
        let (Some(segs), Some(len)) = (segs, len) else { return Err(ChainError(tail)) };
        // SAFETY: the segments of `tail` become ours, and we are mutably borrowed.
        let second = unsafe { Seg::new(tail.into_raw()) };
        last.set_next(Some(second));
        head.set_nb_segs(segs);
        head.set_pkt_len(len);
        // As rte_pktmbuf_chain does: the length of a packet is only in its first segment.
        second.set_pkt_len(u32::from(second.data_len()));
        Ok(second.last())
    }

    /// Cuts the packet to `pkt_len` bytes, giving back the segments behind; no change when it is not longer.
    /// The first segment stays, even with no bytes in it.
    pub fn truncate(&mut self, pkt_len: u32) {
        let head = self.seg();
        if pkt_len >= head.pkt_len() {
            return;
        }
        let mut left = pkt_len;
        let mut seg = head;
        let mut segs: u16 = 1;
        loop {
            match u16::try_from(left) {
                Ok(keep) if keep <= seg.data_len() => {
                    seg.set_data_len(keep);
                    break;
                }
                _ => left -= u32::from(seg.data_len()),
            }
            // pkt_len is the sum of all data_len, so there is a next one; else the driver lied, and the
            // packet is what there is.
            let Some(next) = seg.next() else {
                head.set_pkt_len(pkt_len - left);
                return;
            };
            seg = next;
            segs = segs.saturating_add(1);
        }
        let rest = seg.next();
        seg.set_next(None);
        head.set_nb_segs(segs);
        head.set_pkt_len(pkt_len);
        free_chain(rest);
    }

    /// A second packet over the bytes [`offset`, `offset + len`), without copying them: a chain of indirect
    /// mbufs from `headers`, whose data room may be 0. The bytes are read-only for all who share them.
    ///
    /// Metadata of reception (port, VLAN tags, checksum state, RSS hash) is taken over, wishes for
    /// transmission are not. `None`, and nothing taken or changed, when `headers` is exhausted or the range
    /// is not inside the packet.
    #[inline]
    #[must_use]
    pub fn share(&mut self, offset: u32, len: u32, headers: &Mempool) -> Option<Mbuf> {
        // SAFETY: we own the chain and are mutably borrowed, so no writable reference to its bytes is alive;
        // the pool is alive; the offset is of the field that EAL reserved.
        let view = unsafe {
            dpdk_sys::sluice_mbuf_share(self.seg().as_ptr(), offset, len, headers.raw(), share_low_offset())
        };
        // SAFETY: a fresh chain has no other owner.
        NonNull::new(view).map(|view| unsafe { Mbuf::from_raw(view) })
    }

    /// Makes the first `n` bytes contiguous in the first segment; false, and no byte changed, when `n` is more
    /// than the packet, or more than a segment holds, or when a new segment is needed and the pool is
    /// exhausted. Bytes that others share are copied, not moved.
    #[inline]
    pub fn pull_up(&mut self, n: u16) -> bool {
        n <= self.seg().data_len() || self.pull_up_slow(n)
    }

    fn pull_up_slow(&mut self, n: u16) -> bool {
        let head = self.seg();
        if u32::from(n) > head.pkt_len() {
            return false;
        }
        let have = head.data_len();
        let more = n - have;
        if head.is_exclusive() && u32::from(head.headroom()) + u32::from(head.tailroom()) >= u32::from(more) {
            if head.tailroom() < more {
                move_to_front(head, more - head.tailroom());
            }
            // SAFETY: we are mutably borrowed, the buffer is ours alone, and the tailroom is large enough.
            let to = unsafe { head.bytes_mut(have, more) };
            self.read_at(u32::from(have), to);
            head.set_data_len(n);
            self.drop_front(head, more);
            return true;
        }
        self.pull_up_into_new(n)
    }

    /// A new first segment from the pool of the old one takes the first `n` bytes.
    fn pull_up_into_new(&mut self, n: u16) -> bool {
        let head = self.seg();
        // SAFETY: the pool is alive: our first segment is out of it.
        let Some(new) = NonNull::new(unsafe { dpdk_sys::sluice_mbuf_alloc(head.pool()) }) else {
            return false;
        };
        // SAFETY: a fresh mbuf has no other owner.
        let new = unsafe { Mbuf::from_raw(new) };
        let seg = new.seg();
        if n > seg.tailroom() || head.nb_segs() == u16::MAX {
            return false;
        }
        // SAFETY: `new` is ours and a fresh buffer unshared; the tailroom is large enough.
        self.read_at(0, unsafe { seg.bytes_mut(0, n) });
        seg.set_data_len(n);
        seg.set_port(head.port());
        seg.set_packet_type(head.packet_type());
        seg.set_vlan_tci(head.vlan_tci());
        seg.set_vlan_tci_outer(head.vlan_tci_outer());
        seg.set_hash_rss(head.hash_rss());
        seg.set_tx_offload(head.tx_offload());
        let attached = dpdk_sys::SLUICE_MBUF_F_INDIRECT | dpdk_sys::SLUICE_MBUF_F_EXTERNAL;
        seg.set_ol_flags(head.ol_flags() & !attached);
        seg.set_pkt_len(head.pkt_len());
        seg.set_nb_segs(head.nb_segs() + 1);
        seg.set_next(Some(head));
        // The old chain now belongs to the new head, and we own that.
        self.replace_head(seg);
        std::mem::forget(new);
        self.drop_front(seg, n);
        true
    }

    /// Removes `n` bytes, which are in `head` already, from the segments behind it, and those that get empty.
    fn drop_front(&mut self, head: Seg, n: u16) {
        let mut left = n;
        while let Some(seg) = head.next() {
            let len = seg.data_len();
            if len > left {
                seg.set_data_off(seg.data_off() + left);
                seg.set_data_len(len - left);
                break;
            }
            left -= len;
            head.set_next(seg.next());
            head.set_nb_segs(self.seg().nb_segs().saturating_sub(1));
            seg.set_next(None);
            free_chain(Some(seg));
        }
    }

    /// Makes the packet one segment; false, and no byte changed, when no segment holds all of it.
    pub fn linearize(&mut self) -> bool {
        if self.segments() == 1 {
            return true;
        }
        u16::try_from(self.pkt_len()).is_ok_and(|n| self.pull_up(n)) && {
            // What may be left are empty segments.
            let rest = self.seg().next();
            self.seg().set_next(None);
            self.seg().set_nb_segs(1);
            free_chain(rest);
            true
        }
    }
}

/// Moves the data of an unshared segment `by` bytes towards the start of its buffer.
fn move_to_front(seg: Seg, by: u16) {
    let (data, len) = (seg.data_ptr(), usize::from(seg.data_len()));
    seg.set_data_off(seg.data_off() - by);
    // SAFETY: source and destination lie within the buffer, which is ours alone; they may overlap.
    unsafe { std::ptr::copy(data, seg.data_ptr(), len) }
}

/// Frees the segments from `seg` on, which no chain refers to any more.
fn free_chain(seg: Option<Seg>) {
    if let Some(seg) = seg {
        // SAFETY: the caller has taken the segments out of a chain that it owns.
        drop(unsafe { Mbuf::from_raw(seg.as_non_null()) });
    }
}
