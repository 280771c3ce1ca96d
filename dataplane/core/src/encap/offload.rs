//! How is a checksum finished that a transmit offload left to the NIC?
//!
//! A kernel interface that taps its own host sees frames whose transport checksum field holds only the sum of the
//! pseudo-header (`CHECKSUM_PARTIAL`, `VIRTIO_NET_HDR_F_NEEDS_CSUM`); copies of them must be right on the wire.

use crate::wire::checksum;

/// Finishes the checksum of a contiguous frame: sums up everything from `csum_start` to the end, the field included
/// (it holds the pseudo-header sum), and writes the result `csum_offset` bytes after `csum_start`. Offsets count as in
/// `virtio_net_hdr`, from the first byte of the frame: add 4 to `csum_start` where a stripped VLAN tag was put back.
///
/// The frame must be whole (a cut one has no checksum that can be finished). Returns false, and changes nothing, when
/// the offsets do not lie within the frame.
#[inline]
pub fn finish_checksum(frame: &mut [u8], csum_start: u16, csum_offset: u16) -> bool {
    let Some(covered) = frame.get_mut(usize::from(csum_start)..) else { return false };
    let at = usize::from(csum_offset);
    let acc = checksum::sum(covered, 0);
    let Some(field) = covered.get_mut(at..at + 2) else { return false };
    // Zero means "no checksum" in UDP, and the two zeroes are equal to TCP: always the safe one, as Linux does.
    field.copy_from_slice(&checksum::finish_udp(acc).to_be_bytes());
    true
}

/// The sum of bytes that come in parts of any length, such as the segments of an mbuf chain.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartsSum {
    acc: u64,
    odd: bool,
}

impl PartsSum {
    /// Adds the part that follows the parts so far.
    #[inline]
    pub fn add(&mut self, part: &[u8]) {
        if self.odd {
            self.acc += checksum::swap(checksum::sum(part, 0));
        } else {
            self.acc = checksum::sum(part, self.acc);
        }
        self.odd ^= part.len() % 2 == 1;
    }

    /// The accumulator, for [`checksum::finish`] or as a part of another sum at an even place.
    #[inline]
    #[must_use]
    pub fn sum(self) -> u64 {
        self.acc
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encap::tests::naive_sum;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unfinished_checksums_are_finished(
            mut frame in proptest::collection::vec(any::<u8>(), 8..400), start in 0usize..300, pseudo: u16, odd: bool
        ) {
            // What the kernel leaves: the sum of the pseudo-header in the field.
            let start = start.min(frame.len() - 8);
            let offset = if odd { 6 } else { 2 };
            frame[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
            prop_assert!(finish_checksum(&mut frame, start as u16, offset as u16));
            // A receiver sums up the pseudo-header and everything with the checksum in it.
            let sum = u32::from(naive_sum(&frame[start..])) + u32::from(pseudo);
            prop_assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        }

        #[test]
        fn lying_offsets_change_nothing(frame in proptest::collection::vec(any::<u8>(), 0..80), start: u16, offset: u16) {
            let mut copy = frame.clone();
            let inside = usize::from(start) + usize::from(offset) + 2 <= frame.len();
            prop_assert_eq!(finish_checksum(&mut copy, start, offset), inside);
            prop_assert!(inside || copy == frame);
        }

        #[test]
        fn parts_sum_up_to_the_whole(parts in proptest::collection::vec(proptest::collection::vec(1u8.., 0..9), 1..9)) {
            let mut sum = PartsSum::default();
            for part in &parts {
                sum.add(part);
            }
            prop_assert_eq!(checksum::fold(sum.sum()), naive_sum(&parts.concat()));
        }
    }

    #[test]
    fn zero_is_never_written() {
        // 0xffff sums up to all ones already: the inverse, zero, would mean "none" in UDP.
        let mut frame = [0, 0, 0xff, 0xff, 0, 0, 0, 0];
        assert!(finish_checksum(&mut frame, 2, 4));
        assert_eq!(frame, [0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    }
}
