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
