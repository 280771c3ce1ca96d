//! Where do large tables lie? In large pages where the system has them, so that a look-up costs no page walk.

/// A table of `len` copies of `value`, all of it touched, in large pages where the kernel gives them.
///
/// A hint only (madvise(2), `MADV_HUGEPAGE`): without large pages the table is just slower.
#[must_use]
pub fn large_table<T: Clone>(value: T, len: usize) -> Box<[T]> {
    let mut table = Vec::with_capacity(len);
    // The advice must come before the first touch: pages are given then.
    advise(table.spare_capacity_mut());
    table.resize(len, value);
    table.into()
}

/// Asks for large pages under `memory`.
fn advise<T>(memory: &mut [std::mem::MaybeUninit<T>]) {
    /// Less than a few large pages is not worth a call.
    const LEAST: usize = 4 << 20;
    const PAGE: usize = 4096;
    let bytes = size_of_val(memory);
    if bytes < LEAST {
        return;
    }
    let start = memory.as_mut_ptr().cast::<libc::c_void>();
    let skip = start.align_offset(PAGE);
    if skip >= bytes {
        return;
    }
    let first = start.wrapping_byte_add(skip);
    let len = (bytes - skip) / PAGE * PAGE;
    // SAFETY: first..first + len lies in memory that the caller holds exclusively; MADV_HUGEPAGE changes only which
    // pages back it, never what it holds.
    let _ignored: i32 = unsafe { libc::madvise(first, len, libc::MADV_HUGEPAGE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_hold_what_they_are_given() {
        assert!(large_table(7_u8, 0).is_empty());
        let large = large_table(0x55_u64, 1 << 20);
        assert_eq!(large.len(), 1 << 20);
        assert!(large.iter().all(|&word| word == 0x55));
    }
}
