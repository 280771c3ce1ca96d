//! How is a field read from a header array without a panic or a bounds check left in the code?
//!
//! The place is a constant, checked against the array's length at compile time.

/// `N` bytes at `AT`.
#[inline(always)]
pub(crate) fn bytes<const AT: usize, const N: usize, const M: usize>(header: &[u8; M]) -> [u8; N] {
    const { assert!(AT + N <= M, "the field lies inside the header") };
    match header.get(AT..).and_then(|from| from.first_chunk::<N>()) {
        Some(field) => *field,
        None => [0; N],
    }
}

/// One byte at `AT`.
#[inline(always)]
pub(crate) fn byte<const AT: usize, const M: usize>(header: &[u8; M]) -> u8 {
    let [value] = bytes::<AT, 1, M>(header);
    value
}

/// A 16-bit field in network order at `AT`.
#[inline(always)]
pub(crate) fn be16<const AT: usize, const M: usize>(header: &[u8; M]) -> u16 {
    u16::from_be_bytes(bytes::<AT, 2, M>(header))
}

/// A 24-bit field in network order at `AT`.
#[inline(always)]
pub(crate) fn be24<const AT: usize, const M: usize>(header: &[u8; M]) -> u32 {
    let [high, middle, low] = bytes::<AT, 3, M>(header);
    u32::from_be_bytes([0, high, middle, low])
}

/// A 32-bit field in network order at `AT`.
#[inline(always)]
pub(crate) fn be32<const AT: usize, const M: usize>(header: &[u8; M]) -> u32 {
    u32::from_be_bytes(bytes::<AT, 4, M>(header))
}

/// An offset in a frame of at most 65,535 bytes; what would not fit saturates, but the parser bounds its frames.
#[inline(always)]
pub(crate) fn offset16(offset: usize) -> u16 {
    u16::try_from(offset).unwrap_or(u16::MAX)
}
