//! How up to 64 mbufs are handed over in one call.

use std::fmt;
use std::mem::MaybeUninit;

use dpdk_sys::sluice_mbuf;

use crate::mbuf::Mbuf;

/// Mbufs in a full burst.
pub const BURST_CAPACITY: usize = 64;

/// Up to [`BURST_CAPACITY`] mbufs in order, laid out as the burst calls of DPDK read and write them.
pub struct Burst {
    len: usize,
    /// The first `len` are initialised.
    slots: [MaybeUninit<Mbuf>; BURST_CAPACITY],
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl Burst {
    /// An empty one.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self { len: 0, slots: [const { MaybeUninit::uninit() }; BURST_CAPACITY] }
    }

    /// Number of mbufs.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no more fits.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == BURST_CAPACITY
    }

    /// How many more fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        BURST_CAPACITY - self.len
    }

    /// Appends; gives the mbuf back when full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        let Some(slot) = self.slots.get_mut(self.len) else { return Err(mbuf) };
        slot.write(mbuf);
        self.len += 1;
        Ok(())
    }

    /// Takes the last.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        let last = self.len.checked_sub(1)?;
        self.len = last;
        // SAFETY: below the old len, so initialised; now behind len, so read once.
        Some(unsafe { self.slots[last].assume_init_read() })
    }

    /// The mbufs in order.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first len slots are initialised, and MaybeUninit<Mbuf> has the layout of Mbuf.
        unsafe { std::slice::from_raw_parts(self.slots.as_ptr().cast(), self.len) }
    }

    /// The mbufs in order, to change.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: the first len slots are initialised, and MaybeUninit<Mbuf> has the layout of Mbuf.
        unsafe { std::slice::from_raw_parts_mut(self.slots.as_mut_ptr().cast(), self.len) }
    }

    /// The mbuf at `i`.
    #[inline]
    #[must_use]
    pub fn get(&self, i: usize) -> Option<&Mbuf> {
        self.as_slice().get(i)
    }

    /// The mbuf at `i`, to change.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, i: usize) -> Option<&mut Mbuf> {
        self.as_mut_slice().get_mut(i)
    }

    /// Iterates in order.
    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, Mbuf> {
        self.as_slice().iter()
    }

    /// Iterates in order, to change.
    #[inline]
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Mbuf> {
        self.as_mut_slice().iter_mut()
    }

    /// Takes all out in order; what the iterator does not give out is freed.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_> {
        let end = self.len;
        // The iterator owns them; if it is forgotten, they leak.
        self.len = 0;
        Drain { burst: self, at: 0, end }
    }

    /// Frees all in one call.
    #[inline]
    pub fn free_all(&mut self) {
        self.consume_prefix(|slots, n| {
            // SAFETY: n mbufs that we own; their pools are alive as long as they are out of them.
            unsafe { dpdk_sys::sluice_mbuf_free_bulk(slots, n) };
            n as usize
        });
    }

    /// Lets `fill` write up to `room()` mbufs behind the last; it returns how many it wrote.
    ///
    /// Every pointer that `fill` writes must be a chain of its own without another owner.
    #[inline(always)]
    pub(crate) fn append_with(&mut self, fill: impl FnOnce(*mut *mut sluice_mbuf, u16) -> usize) -> usize {
        let room = self.room();
        if room == 0 {
            return 0;
        }
        let tail = self.slots[self.len..].as_mut_ptr().cast::<*mut sluice_mbuf>();
        #[expect(clippy::cast_possible_truncation, reason = "at most BURST_CAPACITY")]
        let n = fill(tail, room as u16).min(room);
        self.len += n;
        n
    }

    /// Lets `fill` write exactly `n` mbufs behind the last, or none and return false. As for `append_with`.
    #[inline(always)]
    pub(crate) fn fill_from(
        &mut self,
        n: usize,
        fill: impl FnOnce(*mut *mut sluice_mbuf, u32) -> bool,
    ) -> bool {
        if n > self.room() {
            return false;
        }
        if n == 0 {
            return true;
        }
        let tail = self.slots[self.len..].as_mut_ptr().cast::<*mut sluice_mbuf>();
        #[expect(clippy::cast_possible_truncation, reason = "at most BURST_CAPACITY")]
        let filled = fill(tail, n as u32);
        if filled {
            self.len += n;
        }
        filled
    }

    /// Lets `take` have a prefix of the mbufs; it returns how many it took over. The rest moves to the front.
    #[inline(always)]
    pub(crate) fn consume_prefix(&mut self, take: impl FnOnce(*mut *mut sluice_mbuf, u32) -> usize) -> usize {
        let len = self.len;
        if len == 0 {
            return 0;
        }
        let slots = self.slots.as_mut_ptr().cast::<*mut sluice_mbuf>();
        #[expect(clippy::cast_possible_truncation, reason = "at most BURST_CAPACITY")]
        let taken = take(slots, len as u32).min(len);
        if taken < len {
            // SAFETY: taken is below the capacity.
            let rest = unsafe { slots.add(taken) };
            // SAFETY: both ranges lie within the slots; what is overwritten has been taken.
            unsafe { std::ptr::copy(rest, slots, len - taken) };
        }
        self.len = len - taken;
        taken
    }
}

impl Drop for Burst {
    #[inline]
    fn drop(&mut self) {
        self.free_all();
    }
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Burst {
    type Item = &'a Mbuf;
    type IntoIter = std::slice::Iter<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Burst {
    type Item = &'a mut Mbuf;
    type IntoIter = std::slice::IterMut<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// Iterator that takes mbufs out of a [`Burst`], from [`Burst::drain`].
#[derive(Debug)]
pub struct Drain<'a> {
    burst: &'a mut Burst,
    at: usize,
    end: usize,
}

impl Iterator for Drain<'_> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        if self.at == self.end {
            return None;
        }
        let slot = &self.burst.slots[self.at];
        self.at += 1;
        // SAFETY: initialised when drain() began, and each slot is read once.
        Some(unsafe { slot.assume_init_read() })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.at, Some(self.end - self.at))
    }
}

impl ExactSizeIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    fn drop(&mut self) {
        for mbuf in self.by_ref() {
            drop(mbuf);
        }
    }
}
