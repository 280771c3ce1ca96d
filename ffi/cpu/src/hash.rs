//! Which 64-bit number stands for a key of a few words: well spread in all bits, and keyed by a seed, so that
//! nobody who does not know the seed can choose keys that collide.
//!
//! Folded 64x64 -> 128-bit multiplications (as in wyhash and the hashers of the Rust ecosystem), one for each
//! pair of words, all independent of each other: MULX on x86-64-v3, UMULH on aarch64. The values are the same
//! on every machine.
//!
//! Two lanes of the CRC32 instruction were the other candidate. They take longer for keys of three words and
//! more (three cycles for each word in turn), and a CRC is linear: a seed only adds a constant to all values, so
//! keys that collide under one seed collide under all, and two lanes that differ by seed are one lane.

/// Odd constants without structure: the fractional digits of pi, in hexadecimal.
const KEYS: [u64; 10] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6d,
    0xc0ac_29b7_c97c_50dd,
    0x3f84_d5b5_b547_0917,
    0x9216_d5d9_8979_fb1b,
    0xd131_0ba6_98df_b5ad,
];

/// High and low half of the product, together.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

/// Hashes `N` words, `N` from 0 to 8 (more words share keys and lose no soundness, only speed).
///
/// ```
/// let (a, b) = (0x0a00_0001_0a00_0002, 0x01bb_c350_0006_0000);
/// assert_eq!(sluice_cpu::hash_words(&[a, b], 7), sluice_cpu::hash_words(&[a, b], 7));
/// assert_ne!(sluice_cpu::hash_words(&[a, b], 7), sluice_cpu::hash_words(&[a, b], 8));
/// assert_ne!(sluice_cpu::hash_words(&[a, b], 7), sluice_cpu::hash_words(&[b, a], 7));
/// ```
#[inline(always)]
#[must_use]
pub fn hash_words<const N: usize>(words: &[u64; N], seed: u64) -> u64 {
    let turned = seed.rotate_left(32) ^ KEYS[9];
    let mut sum = KEYS[8] ^ N as u64;
    let mut i = 0;
    while i < N {
        let second = if i + 1 < N { words[i + 1] } else { 0 };
        let (key, next) = (KEYS[i % 8], KEYS[(i + 1) % 8]);
        // Beyond 8 words the keys repeat: turning the sum keeps equal words apart.
        if i % 8 == 0 {
            sum = sum.rotate_left(23);
        }
        sum = sum.wrapping_add(fold(words[i] ^ seed ^ key, second ^ turned ^ next));
        i += 2;
    }
    fold(sum ^ turned, seed ^ KEYS[8])
}

macro_rules! sizes {
    ($($(#[$doc:meta])* $name:ident: $n:literal;)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            #[must_use]
            pub fn $name(words: &[u64; $n], seed: u64) -> u64 {
                hash_words(words, seed)
            }
        )*
    };
}

sizes! {
    /// [`hash_words`] of two words: an IPv4 5-tuple.
    hash_u64x2: 2;
    /// [`hash_words`] of three words: an IPv4 5-tuple with tunnel or VLAN.
    hash_u64x3: 3;
    /// [`hash_words`] of four words: two IPv6 addresses.
    hash_u64x4: 4;
    /// [`hash_words`] of five words: an IPv6 5-tuple.
    hash_u64x5: 5;
    /// [`hash_words`] of six words: an IPv6 5-tuple with tunnel or VLAN.
    hash_u64x6: 6;
    /// [`hash_words`] of eight words: a cache line.
    hash_u64x8: 8;
}

/// [`hash_words`] of one word.
#[inline(always)]
#[must_use]
pub fn hash_u64(word: u64, seed: u64) -> u64 {
    hash_words(&[word], seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chi-squared of `bits` bits at `shift` over keys that count up in one word: the worst real key sets do.
    fn chi_squared(n: u64, shift: u32, bits: u32, hash: impl Fn(u64) -> u64) -> f64 {
        let buckets = 1usize << bits;
        let mut counts = vec![0u32; buckets];
        for i in 0..n {
            counts[((hash(i) >> shift) as usize) & (buckets - 1)] += 1;
        }
        let expected = n as f64 / buckets as f64;
        counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn counting_keys_spread_evenly_in_every_byte() {
        for shift in [0, 8, 16, 24, 32, 40, 48, 56] {
            for (name, x) in [
                ("low", chi_squared(1 << 16, shift, 8, |i| hash_u64x2(&[i, 0], 1))),
                ("second", chi_squared(1 << 16, shift, 8, |i| hash_u64x2(&[0, i], 1))),
                ("high", chi_squared(1 << 16, shift, 8, |i| hash_u64x5(&[0, 0, i << 48, 0, 0], 1))),
                ("last", chi_squared(1 << 16, shift, 8, |i| hash_u64x5(&[0, 0, 0, 0, i << 16], 1))),
                ("seed", chi_squared(1 << 16, shift, 8, |i| hash_u64x2(&[1, 2], i))),
            ] {
                // 255 degrees of freedom: mean 255, standard deviation 22.6; 6 sigma.
                assert!((120.0..391.0).contains(&x), "{name} at {shift}: {x}");
            }
        }
    }

    #[test]
    fn each_input_bit_changes_half_of_the_output() {
        let base = [0x0a00_0001_0a00_0002, 0x01bb_c350_0006_0000, 0, u64::MAX];
        for word in 0..4 {
            for bit in 0..64 {
                let mut changed = 0;
                for seed in 0..64 {
                    let mut other = base;
                    other[word] ^= 1 << bit;
                    changed += (hash_u64x4(&base, seed) ^ hash_u64x4(&other, seed)).count_ones();
                }
                // 64 seeds x 64 bits: mean 2048, standard deviation 32; 7 sigma.
                assert!((1824..=2272).contains(&changed), "word {word} bit {bit}: {changed}");
            }
        }
    }

    #[test]
    fn no_collisions_where_there_should_be_none() {
        let mut seen = std::collections::HashSet::new();
        for a in 0..300u64 {
            for b in 0..300u64 {
                assert!(seen.insert(hash_u64x2(&[a, b], 5)), "{a} {b}");
            }
        }
        // Lengths count: trailing zeros make another key.
        assert_ne!(hash_words(&[1], 5), hash_words(&[1, 0], 5));
        assert_ne!(hash_words(&[0; 8], 5), hash_words(&[0; 16], 5));
    }
}
