//! How the CPU is asked to fetch memory before it is needed. Hints only: nothing is read or written.

/// Asks for the line at the start of `value`, to read it soon.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(value: &T) {
    read(std::ptr::from_ref(value).cast());
}

/// Asks for the line at the start of `value`, to write it soon.
///
/// A shared reference is enough, since nothing is written yet.
#[inline(always)]
pub fn prefetch_write<T: ?Sized>(value: &T) {
    write(std::ptr::from_ref(value).cast());
}

/// Asks for the line of element `i`, to read it soon; nothing happens when there is no such element.
#[inline(always)]
pub fn prefetch_index<T>(slice: &[T], i: usize) {
    // wrapping_add: a prefetch takes any address, and without a bounds check there is no branch.
    read(slice.as_ptr().wrapping_add(i).cast());
}

#[inline(always)]
fn read(address: *const u8) {
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
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _: *const u8 = address;
}

#[inline(always)]
fn write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.cast()) }
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe {
            std::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _: *const u8 = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_index_is_harmless() {
        let values = [1u64, 2, 3];
        prefetch_index(&values, 0);
        prefetch_index(&values, 3);
        prefetch_index(&values, usize::MAX);
        prefetch_index::<u64>(&[], 7);
        prefetch_read(&values);
        prefetch_write(&values[1]);
        prefetch_read("text");
    }
}
