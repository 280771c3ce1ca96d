//! How is a checksum completed that the sender's kernel left to a NIC that never came?

/// Offset of the checksum field in an SCTP common header (RFC 9260, 3.1). No protocol with an Internet
/// checksum has its field there, so it tells CRC32c apart: the kernel's metadata does not.
const SCTP_CHECKSUM_OFFSET: u16 = 8;

/// Complete the checksum of a frame in place, as the kernel's `skb_checksum_help` and
/// `skb_crc32c_csum_help` do: the field at `start + offset` holds the folded pseudo-header sum, the
/// result covers everything from `start` to the end. Returns `false`, frame unchanged, when the field
/// does not lie in the frame.
pub(crate) fn finish(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let Some(covered) = frame.get_mut(usize::from(start)..) else { return false };
    let at = usize::from(offset);
    if offset == SCTP_CHECKSUM_OFFSET {
        let Some(field) = covered.get_mut(at..at + 4) else { return false };
        field.fill(0);
        let crc = crc32c(covered);
        if let Some(field) = covered.get_mut(at..at + 4) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        return true;
    }
    if covered.len() < at + 2 {
        return false;
    }
    // All ones instead of zero: zero means "no checksum" in UDP (RFC 768), and is the same number elsewhere.
    let sum = match !internet_sum(covered) {
        0 => 0xffff,
        sum => sum,
    };
    if let Some(field) = covered.get_mut(at..at + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// One's complement sum of RFC 1071, folded to 16 bits, not inverted.
fn internet_sum(bytes: &[u8]) -> u16 {
    // Sums of 32-bit words fold to the same as sums of 16-bit words; 64 kB cannot overflow 64 bits.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut last = [0u8; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum += u64::from(u32::from_be_bytes(last));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// CRC32c (Castagnoli), as SCTP uses it: RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        let [low, ..] = crc.to_le_bytes();
        crc = (crc >> 8) ^ CRC32C_TABLE[usize::from(low ^ byte)];
    }
    !crc
}

const CRC32C_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut value = 0u32;
    while value < 256 {
        let mut crc = value;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[value as usize] = crc;
        value += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_rfc_3720_vectors() {
        // RFC 3720 B.4: 32 bytes of zeroes, of ones, ascending.
        assert_eq!(crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c(&[0xff; 32]).to_le_bytes(), [0x43, 0xab, 0xa8, 0x62]);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending).to_le_bytes(), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn internet_sum_of_the_rfc_1071_example() {
        // RFC 1071, section 3: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2.
        assert_eq!(internet_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(internet_sum(&[0x00, 0x01, 0xf2]), 0xf201, "an odd byte is the high half of a word");
    }

    #[test]
    fn a_field_beyond_the_frame_leaves_it_alone() {
        let mut frame = [7u8; 40];
        assert!(!finish(&mut frame, 41, 0));
        assert!(!finish(&mut frame, 30, 9));
        assert!(!finish(&mut frame, 30, 8), "four bytes of CRC32c do not fit");
        assert!(!finish(&mut frame, u16::MAX, u16::MAX));
        assert_eq!(frame, [7u8; 40]);
    }

    #[test]
    fn a_finished_field_makes_the_whole_sum_all_ones() {
        for len in [42usize, 43, 1514] {
            let mut frame: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            assert!(finish(&mut frame, 20, 6));
            // The pseudo-header sum was in the field; put back what it was and compare with the definition.
            let mut before: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let field = [frame[26], frame[27]];
            let expected = !slow_sum(&before[20..]);
            assert_eq!(u16::from_be_bytes(field), if expected == 0 { 0xffff } else { expected });
            before[26..28].copy_from_slice(&field);
            assert_eq!(before, frame);
        }
    }

    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}
