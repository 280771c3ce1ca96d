//! How the packets of a batch are held when they are taken out of order.

use std::fmt;
use std::mem::ManuallyDrop;

use dpdk_sys::sluice_mbuf;

use crate::burst::{BURST_CAPACITY, Burst};
use crate::mbuf::Mbuf;

/// [`BURST_CAPACITY`] places, each with an mbuf or empty. As large as an array of pointers.
pub struct Slots([Option<Mbuf>; BURST_CAPACITY]);

// What the layout of the array rests on: an empty place is a null pointer.
const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut sluice_mbuf>());

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

impl Slots {
    /// All empty.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self([const { None }; BURST_CAPACITY])
    }

    /// The mbuf at `i`; `None` when the place is empty or there is no such place.
    #[inline]
    #[must_use]
    pub fn get(&self, i: usize) -> Option<&Mbuf> {
        self.0.get(i)?.as_ref()
    }

    /// The mbuf at `i`, to change.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, i: usize) -> Option<&mut Mbuf> {
        self.0.get_mut(i)?.as_mut()
    }

    /// Takes the mbuf at `i` and leaves the place empty.
    #[inline]
    #[must_use]
    pub fn take(&mut self, i: usize) -> Option<Mbuf> {
        self.0.get_mut(i)?.take()
    }

    /// Puts an mbuf at `i`, giving back the one that was there. The mbuf itself comes back when there is no
    /// such place.
    #[inline]
    pub fn put(&mut self, i: usize, mbuf: Mbuf) -> Option<Mbuf> {
        match self.0.get_mut(i) {
            Some(place) => place.replace(mbuf),
            None => Some(mbuf),
        }
    }

    /// How many places are taken; walks all of them.
    #[must_use]
    pub fn occupied(&self) -> usize {
        self.0.iter().filter(|place| place.is_some()).count()
    }

    /// Moves a burst into the places from 0 on; returns how many. What was there is freed.
    #[inline]
    pub fn load(&mut self, burst: &mut Burst) -> usize {
        let n = burst.len();
        for (place, mbuf) in self.0.iter_mut().zip(burst.drain()) {
            *place = Some(mbuf);
        }
        n
    }

    /// Moves all into the burst, in order, as far as it has room; returns how many.
    #[inline]
    pub fn unload(&mut self, burst: &mut Burst) -> usize {
        let mut moved = 0;
        for place in &mut self.0 {
            if burst.is_full() {
                break;
            }
            if let Some(mbuf) = place.take() {
                // There is room: checked above.
                *place = burst.push(mbuf).err();
                moved += 1;
            }
        }
        moved
    }

    /// All places as a slice.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Option<Mbuf>; BURST_CAPACITY] {
        &self.0
    }

    /// All places as a slice, to change.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [Option<Mbuf>; BURST_CAPACITY] {
        &mut self.0
    }

    /// Frees all in one call.
    #[inline]
    pub fn free_all(&mut self) {
        let mut pointers = [std::ptr::null_mut::<sluice_mbuf>(); BURST_CAPACITY];
        let mut n = 0;
        for place in &mut self.0 {
            if let Some(mbuf) = place.take() {
                pointers[n] = ManuallyDrop::new(mbuf).seg().as_ptr();
                n += 1;
            }
        }
        if n != 0 {
            #[expect(clippy::cast_possible_truncation, reason = "at most BURST_CAPACITY")]
            // SAFETY: n mbufs that we owned; their pools are alive as long as they are out of them.
            unsafe {
                dpdk_sys::sluice_mbuf_free_bulk(pointers.as_mut_ptr(), n as u32);
            }
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.free_all();
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.0.iter().enumerate().filter_map(|(i, place)| Some((i, place.as_ref()?)));
        f.debug_map().entries(taken).finish()
    }
}
