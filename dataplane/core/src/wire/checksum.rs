//! What is the Internet checksum of these bytes (RFC 1071), or how does it change with a field (RFC 1624)?
//!
//! An accumulator is a `u64` that stands for a sum of big-endian 16-bit words, modulo 0xffff. Start with 0 or with a
//! pseudo-header, add slices with [`sum`], and end with [`finish`] (or [`finish_udp`]). Accumulators of parts may be
//! added to one another as long as each comes from fewer than 2^31 bytes.
//!
//! ```
//! use sluice_core::wire::checksum;
//!
//! let mut header = [
//!     0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0, 0, 192, 168, 0, 1, 192, 168, 0, 199,
//! ];
//! let value = checksum::finish(checksum::sum(&header, 0));
//! assert_eq!(value, 0xb861);
//! header[10..12].copy_from_slice(&value.to_be_bytes());
//! assert_eq!(checksum::fold(checksum::sum(&header, 0)), 0xffff); // a header that is right sums up to all ones
//! ```

/// Adds the bytes of `data` to `acc`. A last odd byte counts as the high byte of a word whose low byte is zero, so
/// only the last slice of a sequence may be odd; see [`swap`] for others.
#[inline]
pub fn sum(data: &[u8], acc: u64) -> u64 {
    // Room for 2^31 words of 32 bits on top of whatever came in.
    let mut acc = reduce(acc);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        acc += u64::from(u32::from_be_bytes(*word));
    }
    let tail = match *rest {
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => [0; 4],
    };
    acc + u64::from(u32::from_be_bytes(tail))
}

/// The accumulator of a slice that starts at an odd byte of the whole: every byte changes its place in the word
/// (RFC 1071, section 2 (B)). For multi-segment frames: `total += if odd { swap(sum(part, 0)) } else { sum(part, 0) }`.
#[inline]
pub fn swap(acc: u64) -> u64 {
    u64::from(fold(acc).swap_bytes())
}

/// The one's-complement sum in 16 bits, not inverted: 0xffff over data whose checksum field is right.
#[inline]
pub fn fold(acc: u64) -> u16 {
    // 33 bits, 17 bits (twice), 16 bits.
    let acc = reduce(acc);
    let acc = (acc & 0xffff) + ((acc >> 16) & 0xffff) + (acc >> 32);
    let acc = (acc & 0xffff) + (acc >> 16);
    let acc = (acc & 0xffff) + (acc >> 16);
    low16(acc)
}

/// The checksum to write: the inverted sum, computed with the checksum field zero (or left out).
#[inline]
pub fn finish(acc: u64) -> u16 {
    !fold(acc)
}

/// The checksum to write into a UDP header: as [`finish`], but zero, which means "none", becomes 0xffff (RFC 768).
#[inline]
pub fn finish_udp(acc: u64) -> u16 {
    match finish(acc) {
        0 => 0xffff,
        value => value,
    }
}

/// The pseudo-header of TCP and UDP over IPv4 (RFC 9293, section 3.1): `len` is the length in bytes of the transport
/// header and its payload.
#[inline]
pub fn pseudo_ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, len: u16) -> u64 {
    u64::from(u32::from_be_bytes(src))
        + u64::from(u32::from_be_bytes(dst))
        + u64::from(protocol)
        + u64::from(len)
}

/// The pseudo-header of an upper layer over IPv6 (RFC 8200, section 8.1): `len` is the length in bytes of the upper
/// layer's header and payload, `next_header` its protocol number, `dst` the final destination.
#[inline]
pub fn pseudo_ipv6(src: [u8; 16], dst: [u8; 16], next_header: u8, len: u32) -> u64 {
    sum(&src, sum(&dst, 0)) + u64::from(next_header) + u64::from(len)
}

/// The checksum after one 16-bit word of the data changed from `old` to `new` (RFC 1624, equation 3).
///
/// Not for a UDP checksum of zero, which means "none"; and what comes out for UDP needs zero turned into 0xffff.
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    finish(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// As [`update`], for an aligned 32-bit field such as an IPv4 address.
#[inline]
pub fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    finish(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// Folds 64 bits to at most 33, keeping the value modulo 0xffff.
#[inline]
fn reduce(acc: u64) -> u64 {
    (acc & 0xffff_ffff) + (acc >> 32)
}

#[inline]
fn low16(acc: u64) -> u16 {
    (acc & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 4.1, word by word.
    fn slow(data: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in data.chunks(2) {
            total += (u32::from(pair[0]) << 8) + u32::from(*pair.get(1).unwrap_or(&0));
            if total > 0xffff {
                total = (total & 0xffff) + 1;
            }
        }
        total as u16
    }

    #[test]
    fn rfc1071_example() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)), 0xddf2);
    }

    #[test]
    fn rfc1624_example() {
        // Section 4: the case in which the equation of RFC 1141 gives 0xffff.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn udp_over_ipv4_and_ipv6() {
        // A datagram with its pseudo-header written out, summed by the slow reference.
        let udp = [0x00, 0x35, 0x04, 0xd2, 0x00, 0x0a, 0, 0, b'h', b'i'];
        let v4 = pseudo_ipv4([127, 0, 0, 1], [127, 0, 0, 1], 17, 10);
        let value = finish_udp(sum(&udp, v4));
        assert_eq!(fold(sum(&udp, v4) + u64::from(value)), 0xffff);
        let one = {
            let mut a = [0u8; 16];
            a[15] = 1;
            a
        };
        let mut bytes = [one, one].concat();
        bytes.extend([0, 0, 0, 10, 0, 0, 0, 17]);
        bytes.extend(udp);
        assert_eq!(fold(sum(&udp, pseudo_ipv6(one, one, 17, 10))), slow(&bytes));
        assert_eq!(finish_udp(0xffff), 0xffff);
        assert_eq!(finish(0xffff), 0);
    }

    proptest! {
        #[test]
        fn equals_the_slow_sum(data in proptest::collection::vec(any::<u8>(), 0..600), skip in 0usize..8) {
            let data = data.get(skip..).unwrap_or(&[]);
            prop_assert_eq!(fold(sum(data, 0)), slow(data));
        }

        #[test]
        fn parts_add_up(data in proptest::collection::vec(any::<u8>(), 1..600), at in any::<prop::sample::Index>()) {
            let (a, b) = data.split_at(at.index(data.len()));
            let second = if a.len() % 2 == 1 { swap(sum(b, 0)) } else { sum(b, 0) };
            // Zero has two forms (0 and 0xffff); only all-zero data gives the first.
            prop_assert_eq!(fold(sum(a, 0) + second), slow(&data));
        }

        #[test]
        fn update_equals_computing_anew(
            mut data in proptest::collection::vec(any::<u8>(), 20..=20), word in 0usize..9, new in any::<u16>()
        ) {
            data[18] |= 1; // never all zeroes, as no packet is
            let before = finish(sum(&data, 0));
            let old = u16::from_be_bytes([data[word * 2], data[word * 2 + 1]]);
            data[word * 2..word * 2 + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), finish(sum(&data, 0)));
        }

        #[test]
        fn any_accumulator_is_taken(acc in any::<u64>(), data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let expected = (u128::from(acc) + u128::from(slow(&data))) % 0xffff;
            prop_assert_eq!(u128::from(fold(sum(&data, acc))) % 0xffff, expected);
        }
    }
}
