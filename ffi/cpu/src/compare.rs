//! Which of a line's small numbers equal one? A wide compare where the CPU has one.

/// The places of `values` that equal `value`, as bits.
#[inline(always)]
#[must_use]
pub fn equal_u16x8(values: &[u16; 8], value: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x, _mm_set1_epi16,
            _mm_setzero_si128,
        };
        // The compiler makes one load of this.
        let [low, high] = [word(values, 0), word(values, 4)];
        // SAFETY: SSE2 is part of x86-64.
        let own = unsafe { _mm_set_epi64x(high, low) };
        // SAFETY: as above.
        let wanted = unsafe { _mm_set1_epi16(value.cast_signed()) };
        // SAFETY: as above.
        let nothing = unsafe { _mm_setzero_si128() };
        // SAFETY: as above.
        let equal = unsafe { _mm_cmpeq_epi16(own, wanted) };
        // SAFETY: as above. Sixteen bits are made eight, so that a place is one bit.
        let bytes = unsafe { _mm_packs_epi16(equal, nothing) };
        // SAFETY: as above.
        let mask = unsafe { _mm_movemask_epi8(bytes) };
        mask.cast_unsigned()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let bits = values.iter().enumerate().map(|(place, own)| u32::from(*own == value) << place);
        bits.fold(0, |all, bit| all | bit)
    }
}

/// Four of the numbers, as one.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn word(values: &[u16; 8], first: usize) -> i64 {
    let part = &values[first..first + 4];
    let bits = part.iter().rev().fold(0_u64, |bits, value| bits << 16 | u64::from(*value));
    bits.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_all_places() {
        let values = [0, 7, 0x8000, 7, u16::MAX, 1, 2, 7];
        for value in [0, 1, 2, 3, 7, 0x8000, u16::MAX] {
            let expected: u32 = (0..8).filter(|&place| values[place] == value).map(|place| 1 << place).sum();
            assert_eq!(equal_u16x8(&values, value), expected, "{value}");
        }
    }
}
