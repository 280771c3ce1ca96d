//! Small numbers as bits: the RLE and bit-packing hybrid, and deltas (parquet-format, "Encodings.md").

/// Equal values in a row that are worth a run of their own: two groups of eight.
const RUN: usize = 16;
/// Values of a block of deltas, in this many miniblocks.
const BLOCK: usize = 128;
const MINIBLOCKS: usize = 4;
const MINIBLOCK: usize = BLOCK / MINIBLOCKS;

/// Bits that numbers up to `most` need.
pub(super) fn bits(most: u64) -> u32 {
    u64::BITS - most.leading_zeros()
}

/// Appends a number in ULEB128.
pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

/// Appends `values` in the hybrid encoding, without width and length in front.
pub(super) fn hybrid<T: Copy + PartialEq + Into<u64>>(values: &[T], width: u32, out: &mut Vec<u8>) {
    let (mut place, mut literals) = (0, 0);
    while let Some((first, rest)) = values.get(place..).and_then(<[T]>::split_first) {
        let run = 1 + rest.iter().take_while(|value| *value == first).count();
        if run >= RUN {
            // Groups are of eight: the run fills up the last one.
            let fill = (place - literals).wrapping_neg() % 8;
            groups(values.get(literals..place + fill).unwrap_or_default(), width, out);
            varint(((run - fill) as u64) << 1, out);
            let value: u64 = (*first).into();
            out.extend(value.to_le_bytes().iter().take(width.div_ceil(8) as usize));
            literals = place + run;
        }
        place += run;
    }
    groups(values.get(literals..).unwrap_or_default(), width, out);
}

/// Appends groups of eight, bit-packed; the last one is filled up with zeros.
fn groups<T: Copy + Into<u64>>(values: &[T], width: u32, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(8);
    varint((groups as u64) << 1 | 1, out);
    let bytes = out.len() + groups * width as usize;
    pack(values.iter().map(|&value| value.into()), width, out);
    out.resize(bytes, 0);
}

/// Appends the low `width` bits of each value, the first in the lowest bits.
fn pack(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut pending, mut count) = (0_u128, 0);
    for value in values {
        pending |= u128::from(value) << count;
        count += width;
        if count >= 64 {
            let [low, _] = halves(pending);
            out.extend_from_slice(&low.to_le_bytes());
            pending >>= 64;
            count -= 64;
        }
    }
    let [low, _] = halves(pending);
    out.extend(low.to_le_bytes().iter().take(count.div_ceil(8) as usize));
}

/// Appends values of 64 bits as differences (`DELTA_BINARY_PACKED`).
pub(super) fn deltas(values: &[u64], out: &mut Vec<u8>) {
    varint(BLOCK as u64, out);
    varint(MINIBLOCKS as u64, out);
    varint(values.len() as u64, out);
    let Some((first, rest)) = values.split_first() else { return varint(0, out) };
    varint(zigzag(first.cast_signed()), out);
    let mut before = *first;
    let mut differences = [0_i64; BLOCK];
    for block in rest.chunks(BLOCK) {
        for (difference, value) in differences.iter_mut().zip(block) {
            *difference = value.wrapping_sub(before).cast_signed();
            before = *value;
        }
        let used = differences.get(..block.len()).unwrap_or_default();
        let least = used.iter().copied().min().unwrap_or(0);
        varint(zigzag(least), out);
        let above = |difference: &i64| difference.wrapping_sub(least).cast_unsigned();
        let widths = out.len();
        out.extend([0; MINIBLOCKS]);
        for (place, part) in used.chunks(MINIBLOCK).enumerate() {
            let width = bits(part.iter().map(above).fold(0, |all, value| all | value));
            if let Some(byte) = out.get_mut(widths + place) {
                *byte = low_byte(width.into());
            }
            let end = out.len() + MINIBLOCK * width as usize / 8;
            pack(part.iter().map(above), width, out);
            out.resize(end, 0);
        }
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn low_byte(value: u64) -> u8 {
    let [byte, ..] = value.to_le_bytes();
    byte
}

/// The lower and the upper half.
pub(super) fn halves(value: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = value.to_le_bytes();
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads as the format says, a bit at a time.
    struct Reader<'a> {
        bytes: &'a [u8],
        bit: usize,
    }

    impl Reader<'_> {
        fn bits(&mut self, width: u32) -> u64 {
            let mut value = 0;
            for place in 0..width {
                let bit = self.bytes[self.bit / 8] >> (self.bit % 8) & 1;
                value |= u64::from(bit) << place;
                self.bit += 1;
            }
            value
        }

        fn varint(&mut self) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = self.bits(8);
                value |= (byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        }

        fn signed(&mut self) -> i64 {
            let value = self.varint();
            (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
        }
    }

    fn read_hybrid(bytes: &[u8], width: u32, count: usize) -> Vec<u64> {
        let mut reader = Reader { bytes, bit: 0 };
        let mut values = Vec::new();
        while values.len() < count {
            let header = reader.varint();
            if header & 1 == 1 {
                for _ in 0..(header >> 1) * 8 {
                    values.push(reader.bits(width));
                }
            } else {
                let value = reader.bits(width.div_ceil(8) * 8);
                values.extend((0..header >> 1).map(|_| value));
            }
        }
        assert_eq!(reader.bit, bytes.len() * 8, "nothing is left over");
        assert!(values.len() < count + 8);
        values.truncate(count);
        values
    }

    fn read_deltas(bytes: &[u8]) -> Vec<u64> {
        let mut reader = Reader { bytes, bit: 0 };
        let (block, parts, count) = (reader.varint(), reader.varint(), reader.varint() as usize);
        let mut values = vec![reader.signed().cast_unsigned()];
        while values.len() < count {
            let least = reader.signed();
            let widths: Vec<_> = (0..parts).map(|_| reader.bits(8) as u32).collect();
            for width in widths.into_iter().take((count - values.len()).div_ceil(32)) {
                for _ in 0..block / parts {
                    let delta = least.wrapping_add(reader.bits(width).cast_signed());
                    values.push(values.last().unwrap().wrapping_add(delta.cast_unsigned()));
                }
            }
        }
        assert_eq!(reader.bit, bytes.len() * 8, "nothing is left over");
        values.truncate(count);
        values
    }

    proptest! {
        #[test]
        fn the_hybrid_reads_back(runs in prop::collection::vec((0_u32..9, 1_usize..40), 1..20), width in 0_u32..=32) {
            let mask = if width == 0 { 0 } else { u32::MAX >> (32 - width) };
            let values: Vec<u32> = runs
                .iter()
                .flat_map(|(value, count)| vec![value.wrapping_mul(0x9e37_79b9) & mask; *count])
                .collect();
            let mut out = Vec::new();
            hybrid(&values, width, &mut out);
            prop_assert_eq!(read_hybrid(&out, width, values.len()), values.iter().map(|v| u64::from(*v)).collect::<Vec<_>>());
        }

        #[test]
        fn deltas_read_back(values in prop::collection::vec(prop_oneof![any::<u64>(), 0_u64..1000], 1..400)) {
            let mut out = Vec::new();
            deltas(&values, &mut out);
            prop_assert_eq!(read_deltas(&out), values);
        }
    }

    /// The examples of Encodings.md.
    #[test]
    fn the_examples_of_the_format() {
        let mut out = Vec::new();
        hybrid(&[0_u32, 1, 2, 3, 4, 5, 6, 7], 3, &mut out);
        assert_eq!(out, [0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010]);
        out.clear();
        deltas(&[7, 5, 3, 1, 2, 3, 4, 5], &mut out);
        // Header 128, 4, 8 and 7; least delta -2; widths 2, 0, 0, 0; then 0 0 0 3 3 3 3.
        assert_eq!(out, [0x80, 1, 4, 8, 14, 3, 2, 0, 0, 0, 0b1100_0000, 0b0011_1111, 0, 0, 0, 0, 0, 0]);
    }
}
