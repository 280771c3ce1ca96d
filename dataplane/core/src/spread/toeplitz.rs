//! What number does a NIC give a packet? The Toeplitz hash of receive-side scaling.
//!
//! As in Microsoft's "RSS Hashing Functions", which every NIC follows: for each bit that is set in the input, from the
//! most significant of the first byte on, the 32 bits of the key that start there are added without carry.

/// The key that gives both directions of a flow one hash: 0x6d5a repeated (Woo and Park, "Scalable TCP Session
/// Monitoring with Symmetric Receive-side Scaling", 2012). As its period is 16 bits, 16-bit words of the input that
/// change places change nothing.
pub const SYMMETRIC_KEY: [u8; 40] = {
    let mut key = [0x6d; 40];
    let mut i = 1;
    while i < key.len() {
        key[i] = 0x5a;
        i += 2;
    }
    key
};

/// The key of Microsoft's verification suite, and the default of many drivers: not symmetric.
pub const MICROSOFT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// The hash of `input` under `key`; bits beyond the end of the key count as zero.
#[must_use]
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
    let mut hash = 0;
    for (at, bits) in input.iter().enumerate() {
        // The 40 bits of the key that the eight bits of this byte look at.
        let window = (0..5).fold(0, |word, ahead| word << 8 | byte(at + ahead));
        for bit in 0..8 {
            if bits & (0x80 >> bit) != 0 {
                hash ^= window >> (8 - bit);
            }
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "the lower 32 bits are meant")]
    let hash = hash as u32;
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Source and destination address, source and destination port, hash with and without ports.
    type Vector<A> = (A, A, u16, u16, u32, u32);

    /// "Verifying the RSS hash calculation" (Windows driver documentation): destination, source, hashes.
    const V4: [Vector<[u8; 4]>; 5] = [
        ([66, 9, 149, 187], [161, 142, 100, 80], 2794, 1766, 0x51cc_c178, 0x323e_8fc2),
        ([199, 92, 111, 2], [65, 69, 140, 83], 14230, 4739, 0xc626_b0ea, 0xd718_262a),
        ([24, 19, 198, 95], [12, 22, 207, 184], 12898, 38024, 0x5c2b_394a, 0xd2d0_a5de),
        ([38, 27, 205, 30], [209, 142, 163, 6], 48228, 2217, 0xafc7_327f, 0x8298_9176),
        ([153, 39, 163, 191], [202, 188, 127, 2], 44251, 1303, 0x10e8_28a2, 0x5d18_09c5),
    ];
    const V6: [Vector<&str>; 3] = [
        ("3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1", 2794, 1766, 0x4020_7d3d, 0x2cc1_8cd5),
        ("3ffe:501:8::260:97ff:fe40:efab", "ff02::1", 14230, 4739, 0xdde5_1bbf, 0x0f0c_461c),
        (
            "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
            "fe80::200:f8ff:fe21:67cf",
            44251,
            38024,
            0x02d1_feef,
            0x4b61_e985,
        ),
    ];

    fn check(src: &[u8], dst: &[u8], ports: (u16, u16), with_ports: u32, without: u32) {
        let addresses = [src, dst].concat();
        assert_eq!(toeplitz(&MICROSOFT_KEY, &addresses), without);
        let all = [&addresses[..], &ports.0.to_be_bytes(), &ports.1.to_be_bytes()].concat();
        assert_eq!(toeplitz(&MICROSOFT_KEY, &all), with_ports);
    }

    #[test]
    fn the_verification_suite_holds() {
        for (src, dst, src_port, dst_port, with_ports, without) in V4 {
            check(&Ipv4Addr::from(src).octets(), &dst, (src_port, dst_port), with_ports, without);
        }
        for (src, dst, src_port, dst_port, with_ports, without) in V6 {
            let [src, dst] = [src, dst].map(|address| address.parse::<Ipv6Addr>().unwrap().octets());
            check(&src, &dst, (src_port, dst_port), with_ports, without);
        }
    }

    proptest! {
        #[test]
        fn the_symmetric_key_does_not_see_the_direction(
            src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(), ports in any::<(u16, u16)>(), ipv6 in any::<bool>(),
        ) {
            let len = if ipv6 { 16 } else { 4 };
            let input = |a: &[u8; 16], b: &[u8; 16], p: u16, q: u16| {
                [&a[..len], &b[..len], &p.to_be_bytes(), &q.to_be_bytes()].concat()
            };
            let there = input(&src, &dst, ports.0, ports.1);
            let back = input(&dst, &src, ports.1, ports.0);
            let addresses = 2 * len;
            prop_assert_eq!(toeplitz(&SYMMETRIC_KEY, &there), toeplitz(&SYMMETRIC_KEY, &back));
            prop_assert_eq!(
                toeplitz(&SYMMETRIC_KEY, &there[..addresses]),
                toeplitz(&SYMMETRIC_KEY, &back[..addresses])
            );
        }

        #[test]
        fn bit_by_bit_it_is_the_same(key in prop::collection::vec(any::<u8>(), 40..=52),
                                     input in prop::collection::vec(any::<u8>(), 0..=36)) {
            let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
            let mut expected = 0_u32;
            for at in 0..input.len() * 8 {
                if bit(&input, at) == 1 {
                    expected ^= (0..32).fold(0, |word, i| word << 1 | u32::from(bit(&key, at + i)));
                }
            }
            prop_assert_eq!(toeplitz(&key, &input), expected);
        }
    }
}
