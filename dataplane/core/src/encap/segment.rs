//! How is a TCP super-frame, which a segmentation or receive offload made, cut into wire-sized segments again?
//!
//! As a NIC would (RFC 9293): every segment gets the headers of the super-frame, with its own lengths, IPv4
//! identification, sequence number, flags and checksums. Checksums are computed anew, as those of the super-frame may be
//! unfinished. Only whole frames whose outermost transport is TCP are cut; others are left to the caller.

use std::ops::Range;

use super::{len16, low16};
use crate::wire::{Fragment, L3, Parsed, checksum};

const PROTOCOL_TCP: u8 = 6;
const TCP_MIN_LEN: usize = 20;
const IPV4_MIN_LEN: usize = 20;
const IPV6_LEN: usize = 40;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// How one super-frame is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentPlan {
    header_len: usize,
    l3_offset: usize,
    l4_offset: usize,
    mss: u32,
    payload_len: u32,
    count: u32,
    ipv6: bool,
}

/// A plan for the frame whose first bytes are `frame_headers` (at least up to `parsed.header_end`) and of which
/// `cap_len` bytes are there. `max_frame_len` is the longest segment in bytes, Ethernet header included (an 802.1Q tag
/// that is inserted later not: subtract it). `mss` is the payload of a segment as the sender had it (`gso_size`), if
/// known; segments carry no more.
///
/// `None` when the frame is no TCP segment with payload, is an IP fragment, is not all there, when its headers
/// contradict themselves, or when no offload makes such a frame: SYN or RST set, an 802.3 length, a final destination
/// elsewhere than in the IP header (source routes), an authentication header.
#[must_use]
pub fn plan(
    frame_headers: &[u8],
    parsed: &Parsed,
    cap_len: u32,
    max_frame_len: usize,
    mss: Option<u16>,
) -> Option<SegmentPlan> {
    let tcp = parsed.protocol == PROTOCOL_TCP && parsed.fragment == Fragment::Whole;
    if !tcp || parsed.l2_offset != 0 || parsed.l4_offset == 0 {
        return None;
    }
    let l3_offset = usize::from(parsed.l3_offset);
    let l4_offset = usize::from(parsed.l4_offset);
    // An 802.3 length (below 0x600) in place of the EtherType would be another field to change, and none that
    // offloads know.
    if *frame_headers.get(12 + 4 * usize::from(parsed.vlan_count))? < 0x06 {
        return None;
    }
    let header_len = usize::from(parsed.header_end);
    let headers = frame_headers.get(..header_len)?;
    let l3 = headers.get(l3_offset..l4_offset)?;
    let (ip_end, ipv6) = match parsed.l3 {
        L3::Ipv4 => (ipv4_end(l3, l3_offset, cap_len)?, false),
        L3::Ipv6 => (ipv6_end(l3, l3_offset)?, true),
        L3::None | L3::Arp => return None,
    };
    let l4 = headers.get(l4_offset..)?.first_chunk::<TCP_MIN_LEN>()?;
    let l4_len = usize::from(l4[12] >> 4) * 4;
    if l4_offset + l4_len != header_len || l4[13] & (SYN | RST) != 0 {
        return None;
    }
    let payload_len = ip_end.checked_sub(u32::from(parsed.header_end))?;
    let room = u32::from(len16(max_frame_len.checked_sub(header_len)?));
    let mss = mss.filter(|mss| *mss > 0).map_or(room, |mss| room.min(u32::from(mss)));
    if ip_end > cap_len || payload_len == 0 || mss == 0 {
        return None;
    }
    let count = payload_len.div_ceil(mss);
    Some(SegmentPlan { header_len, l3_offset, l4_offset, mss, payload_len, count, ipv6 })
}

impl SegmentPlan {
    /// The length in bytes of every segment's headers, which is where the payload starts in the super-frame.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// The payload bytes of every segment but the last.
    #[inline]
    pub fn mss(&self) -> u32 {
        self.mss
    }

    /// The number of segments, at least 1.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The bytes of the super-frame that are the payload of segment `index`; `None` past the last one. Bytes after the
    /// IP packet (Ethernet padding) belong to no segment.
    #[inline]
    #[must_use]
    pub fn payload(&self, index: u32) -> Option<Range<u32>> {
        let (start, end) = self.offsets(index)?;
        let header_len = u32::from(len16(self.header_len));
        Some(header_len + start..header_len + end)
    }

    /// Writes the headers of segment `index` to the first [`header_len`](Self::header_len) bytes of `out`. `headers` are
    /// those of the super-frame, `payload_sum` the [`checksum::sum`] of this segment's payload (of several parts:
    /// [`PartsSum`](super::PartsSum); TCP headers are even, so it stands at an even place). False, with `out` in no
    /// particular state, when `index` is past the last segment or a buffer is too short.
    #[inline]
    pub fn write_headers(&self, index: u32, out: &mut [u8], headers: &[u8], payload_sum: u64) -> bool {
        self.try_write(index, out, headers, payload_sum).is_some()
    }

    fn try_write(&self, index: u32, out: &mut [u8], headers: &[u8], payload_sum: u64) -> Option<()> {
        let (start, end) = self.offsets(index)?;
        let out = out.get_mut(..self.header_len)?;
        out.copy_from_slice(headers.get(..self.header_len)?);
        let (lower, l4) = out.split_at_mut_checked(self.l4_offset)?;
        let l3 = lower.get_mut(self.l3_offset..)?;
        let l4_len = len16(l4.len());
        let transport_len = u32::from(l4_len) + (end - start);
        let pseudo = if self.ipv6 {
            write_ipv6(l3, transport_len)?
        } else {
            write_ipv4(l3, transport_len, low16(index))?
        };
        write_tcp(l4.first_chunk_mut()?, start, index == 0, index + 1 == self.count);
        let acc = checksum::sum(l4, pseudo + u64::from(checksum::fold(payload_sum)));
        l4.get_mut(16..18)?.copy_from_slice(&checksum::finish(acc).to_be_bytes());
        Some(())
    }

    /// The part of the payload that segment `index` carries.
    #[inline]
    fn offsets(&self, index: u32) -> Option<(u32, u32)> {
        if index >= self.count {
            return None;
        }
        let start = index * self.mss;
        Some((start, self.payload_len.min(start + self.mss)))
    }
}

/// Where the IPv4 packet ends in the frame. A total length of zero (a super-frame too long for the field) means: where
/// the frame ends.
fn ipv4_end(l3: &[u8], l3_offset: usize, cap_len: u32) -> Option<u32> {
    let ip = l3.first_chunk::<IPV4_MIN_LEN>()?;
    if usize::from(ip[0] & 0x0f) * 4 != l3.len() || has_source_route(l3.get(IPV4_MIN_LEN..)?) {
        return None;
    }
    let end = match u16::from_be_bytes([ip[2], ip[3]]) {
        0 => cap_len,
        len => u32::from(len16(l3_offset)) + u32::from(len),
    };
    Some(end)
}

/// Whether IPv4 options hold a loose or strict source route (RFC 791): then the pseudo-header has another destination.
fn has_source_route(mut options: &[u8]) -> bool {
    loop {
        options = match *options {
            [131 | 137, ..] => return true,
            [1, ref rest @ ..] => rest,
            [kind, len, ..] if kind != 0 && len >= 2 => match options.get(usize::from(len)..) {
                Some(rest) => rest,
                None => return false,
            },
            _ => return false,
        };
    }
}

/// Where the IPv6 packet ends in the frame; `None` when the extension headers do not lead to TCP, forbid copying (an
/// authentication header) or hide the final destination (a routing header that is not used up).
fn ipv6_end(l3: &[u8], l3_offset: usize) -> Option<u32> {
    let (ip, mut rest) = l3.split_first_chunk::<IPV6_LEN>()?;
    let mut next_header = ip[6];
    while !rest.is_empty() {
        let [following, units, _, segments_left, ..] = *rest else { return None };
        let len = match next_header {
            // Hop-by-hop options, destination options, mobility, HIP, Shim6.
            0 | 60 | 135 | 139 | 140 => (usize::from(units) + 1) * 8,
            43 if segments_left == 0 => (usize::from(units) + 1) * 8,
            44 => 8,
            _ => return None,
        };
        next_header = following;
        rest = rest.get(len..)?;
    }
    let len = u16::from_be_bytes([ip[4], ip[5]]);
    // A length of zero belongs to a jumbogram (RFC 2675), which this is not or which cannot be cut so simply.
    if next_header != PROTOCOL_TCP || len == 0 {
        return None;
    }
    Some(u32::from(len16(l3_offset + IPV6_LEN)) + u32::from(len))
}

/// Total length, identification and checksum of a segment's IPv4 header; returns the pseudo-header sum.
#[inline]
fn write_ipv4(l3: &mut [u8], transport_len: u32, index: u16) -> Option<u64> {
    let total = low16(transport_len) + len16(l3.len());
    let ip = l3.first_chunk_mut::<IPV4_MIN_LEN>()?;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index);
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[10..12].fill(0);
    let pseudo = checksum::sum(&ip[12..20], u64::from(PROTOCOL_TCP) + u64::from(transport_len));
    let value = checksum::finish(checksum::sum(l3, 0));
    l3.get_mut(10..12)?.copy_from_slice(&value.to_be_bytes());
    Some(pseudo)
}

/// Payload length of a segment's IPv6 header; returns the pseudo-header sum.
#[inline]
fn write_ipv6(l3: &mut [u8], transport_len: u32) -> Option<u64> {
    let extensions = l3.len().checked_sub(IPV6_LEN)?;
    let ip = l3.first_chunk_mut::<IPV6_LEN>()?;
    let len = low16(transport_len) + len16(extensions);
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    Some(checksum::sum(&ip[8..40], u64::from(PROTOCOL_TCP) + u64::from(transport_len)))
}

/// Sequence number, flags and urgent pointer of a segment whose payload starts `start` bytes into the super-frame's;
/// the checksum field becomes zero.
#[inline]
fn write_tcp(tcp: &mut [u8; TCP_MIN_LEN], start: u32, first: bool, last: bool) {
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(start);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    if !last {
        tcp[13] &= !(FIN | PSH);
    }
    if !first {
        // RFC 3168 section 6.1.2: CWR answers once.
        tcp[13] &= !CWR;
        if tcp[13] & URG != 0 {
            // The urgent pointer counts from the segment's own sequence number.
            let urgent = u32::from(u16::from_be_bytes([tcp[18], tcp[19]])).saturating_sub(start);
            tcp[18..20].copy_from_slice(&low16(urgent).to_be_bytes());
            if urgent == 0 {
                tcp[13] &= !URG;
            }
        }
    }
    tcp[16..18].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encap::tests::naive_sum;
    use crate::wire;
    use proptest::prelude::*;

    const SEQUENCE: u32 = 0xffff_f000; // wraps within a super-frame

    #[derive(Clone, Debug)]
    struct Shape {
        ipv6: bool,
        vlans: usize,
        /// IPv4 options in words, or IPv6 extension headers.
        extras: usize,
        tcp_options: usize,
        flags: u8,
        payload: Vec<u8>,
    }

    prop_compose! {
        fn any_shape()(
            ipv6: bool, vlans in 0usize..3, extras in 0usize..4, tcp_options in 0usize..=10,
            flags in any::<u8>().prop_map(|flags| flags & !(SYN | RST)),
            payload in proptest::collection::vec(any::<u8>(), 1..6_000),
        ) -> Shape {
            Shape { ipv6, vlans, extras, tcp_options, flags, payload }
        }
    }

    /// A frame with an unfinished TCP checksum, and what the parser says about it.
    fn frame(shape: &Shape) -> (Vec<u8>, Parsed) {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for vlan in 0..shape.vlans {
            frame.extend([0x81, 0x00, 0x00, vlan as u8 + 1]);
        }
        frame.extend(if shape.ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let l3_offset = frame.len();
        let tcp_len = 20 + shape.tcp_options * 4 + shape.payload.len();
        if shape.ipv6 {
            frame.extend([0x60, 0x01, 0x23, 0x45]);
            frame.extend(((tcp_len + shape.extras * 8) as u16).to_be_bytes());
            let chain = [0, 60, 43];
            frame.extend([*chain[..shape.extras].first().unwrap_or(&6), 64]);
            frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            for index in 1..=shape.extras {
                let next = *chain[..shape.extras].get(index).unwrap_or(&6);
                frame.extend([next, 0, 1, 0, 0, 0, 0, 0]); // PadN, or a used-up routing header of type 1
            }
        } else {
            let header_len = 20 + shape.extras * 4;
            frame.extend([0x45 + shape.extras as u8, 0x02]);
            frame.extend(((header_len + tcp_len) as u16).to_be_bytes());
            frame.extend([0xff, 0xff, 0x40, 0, 64, 6, 0x5a, 0x5a, 192, 0, 2, 1, 198, 51, 100, 1]);
            frame.extend(std::iter::repeat_n(1, shape.extras * 4));
        }
        let l4_offset = frame.len();
        frame.extend([0x30, 0x39, 0x01, 0xbb]);
        frame.extend(SEQUENCE.to_be_bytes());
        frame.extend([1, 2, 3, 4, 0x50 + ((shape.tcp_options as u8) << 4), shape.flags, 0x12, 0x34]);
        frame.extend([0xab, 0xcd, 0x04, 0x00]); // checksum, urgent pointer 1024
        frame.extend(std::iter::repeat_n(1, shape.tcp_options * 4));
        let header_end = frame.len();
        frame.extend(&shape.payload);
        let parsed = wire::parse(&frame);
        let places = [parsed.l3_offset, parsed.l4_offset, parsed.header_end].map(usize::from);
        assert_eq!(places, [l3_offset, l4_offset, header_end], "{shape:?}");
        (frame, parsed)
    }

    fn simple() -> Shape {
        Shape { ipv6: false, vlans: 0, extras: 0, tcp_options: 0, flags: 0x18, payload: vec![7; 3_000] }
    }

    fn segment(plan: &SegmentPlan, index: u32, frame: &[u8]) -> Vec<u8> {
        let range = plan.payload(index).unwrap();
        let payload = &frame[range.start as usize..range.end as usize];
        let mut out = vec![0xa5; plan.header_len()];
        assert!(plan.write_headers(index, &mut out, frame, checksum::sum(payload, 0)));
        out.extend(payload);
        out
    }

    /// The receiver's view of the TCP checksum: pseudo-header and segment, written out.
    fn tcp_sum(segment: &[u8], parsed: &Parsed) -> u16 {
        let l3 = usize::from(parsed.l3_offset);
        let tcp = &segment[usize::from(parsed.l4_offset)..];
        let addresses = if parsed.l3 == L3::Ipv6 { l3 + 8..l3 + 40 } else { l3 + 12..l3 + 20 };
        let mut bytes = segment[addresses].to_vec();
        bytes.extend((tcp.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, 6]);
        bytes.extend(tcp);
        naive_sum(&bytes)
    }

    proptest! {
        #[test]
        fn segments_are_right_and_make_up_the_frame(
            shape in any_shape(), max_frame_len in 60usize..3_000, mss in proptest::option::of(0u16..2_000),
        ) {
            let (frame, parsed) = frame(&shape);
            let header_len = usize::from(parsed.header_end);
            let (l3, l4) = (usize::from(parsed.l3_offset), usize::from(parsed.l4_offset));
            let plan = plan(&frame, &parsed, frame.len() as u32, max_frame_len, mss);
            let Some(plan) = plan else {
                prop_assert!(max_frame_len <= header_len);
                return Ok(());
            };
            let mut payload: Vec<u8> = Vec::new();
            for index in 0..plan.count() {
                let segment = segment(&plan, index, &frame);
                let (first, last) = (index == 0, index + 1 == plan.count());
                prop_assert!(segment.len() <= max_frame_len);
                if let Some(mss @ 1..) = mss {
                    prop_assert!(segment.len() - header_len <= usize::from(mss));
                }
                prop_assert_eq!(tcp_sum(&segment, &parsed), 0xffff);
                let be16 = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
                if shape.ipv6 {
                    prop_assert_eq!(usize::from(be16(l3 + 4)), segment.len() - l3 - 40);
                } else {
                    prop_assert_eq!(usize::from(be16(l3 + 2)), segment.len() - l3);
                    prop_assert_eq!(be16(l3 + 4), 0xffffu16.wrapping_add(index as u16));
                    prop_assert_eq!(naive_sum(&segment[l3..l4]), 0xffff);
                }
                let sequence = u32::from_be_bytes(segment[l4 + 4..l4 + 8].try_into().unwrap());
                prop_assert_eq!(sequence, SEQUENCE.wrapping_add(payload.len() as u32));
                let mut flags = shape.flags;
                if !last { flags &= !(FIN | PSH); }
                if !first { flags &= !CWR; }
                if flags & URG != 0 {
                    let left = 1_024usize.saturating_sub(payload.len());
                    prop_assert_eq!(usize::from(be16(l4 + 18)), left);
                    if left == 0 { flags &= !URG; }
                }
                prop_assert_eq!(segment[l4 + 13], flags);
                // Everything else is as it was.
                prop_assert_eq!(&segment[..l3], &frame[..l3]);
                prop_assert_eq!(&segment[l3 + 12..l4], &frame[l3 + 12..l4]);
                prop_assert_eq!(&segment[l4 + 20..header_len], &frame[l4 + 20..header_len]);
                payload.extend(&segment[header_len..]);
            }
            prop_assert_eq!(payload, shape.payload);
            prop_assert_eq!(plan.payload(plan.count()), None);
        }

        #[test]
        fn no_bytes_panic(
            shape in any_shape(), flips in proptest::collection::vec((0usize..120, any::<u8>()), 0..6),
            cut in 0usize..200, cap_len in 0u32..70_000, max_frame_len in 0usize..2_000, l4 in 0u16..80, end in 0u16..160,
        ) {
            let (mut frame, mut parsed) = frame(&shape);
            for (at, value) in flips {
                if let Some(byte) = frame.get_mut(at) { *byte = value; }
            }
            frame.truncate(cut.max(frame.len() * (cut % 2)));
            match l4 % 3 {
                0 => parsed = wire::parse(&frame),
                1 => (parsed.l4_offset, parsed.header_end) = (l4, end),
                _ => {}
            }
            if let Some(plan) = plan(&frame, &parsed, cap_len, max_frame_len, None) {
                // Extension headers may be long.
                let mut out = vec![0xa5; plan.header_len() + 40];
                for index in 0..plan.count().min(4) {
                    prop_assert!(plan.payload(index).is_some_and(|range| range.end <= cap_len));
                    plan.write_headers(index, &mut out, &frame, 0);
                    prop_assert!(!plan.write_headers(index, &mut out[..plan.header_len() - 1], &frame, 0));
                }
            }
        }
    }

    #[test]
    fn ethernet_padding_belongs_to_no_segment() {
        let (mut frame, parsed) = frame(&simple());
        let end = frame.len() as u32;
        frame.extend([0xee; 9]);
        let plan = plan(&frame, &parsed, frame.len() as u32, 1_514, None).unwrap();
        assert_eq!((plan.count(), plan.mss()), (3, 1_460));
        assert_eq!(plan.payload(2).unwrap(), end - 80..end);
    }

    #[test]
    fn a_total_length_of_zero_means_all_that_is_there() {
        let (mut frame, parsed) = frame(&Shape { payload: vec![9; 4_000], ..simple() });
        frame[16..18].fill(0);
        let plan = plan(&frame, &parsed, frame.len() as u32, 1_514, Some(1_000)).unwrap();
        assert_eq!(plan.count(), 4);
        assert_eq!(segment(&plan, 3, &frame)[16..18], 1_040u16.to_be_bytes());
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let refused = |shape: &Shape, change: &dyn Fn(&mut Vec<u8>, &mut Parsed)| {
            let (mut frame, mut parsed) = frame(shape);
            assert!(plan(&frame, &parsed, frame.len() as u32, 1_514, None).is_some());
            change(&mut frame, &mut parsed);
            plan(&frame, &parsed, frame.len() as u32, 1_514, None).is_none()
        };
        let v6 = Shape { ipv6: true, extras: 3, ..simple() };
        let options = Shape { extras: 2, ..simple() };
        assert!(refused(&simple(), &|_, parsed| parsed.protocol = 17));
        assert!(refused(&simple(), &|_, parsed| parsed.fragment = Fragment::First));
        assert!(refused(&simple(), &|_, parsed| parsed.l2_offset = 14));
        assert!(refused(&simple(), &|frame, _| frame.truncate(1_000)));
        assert!(refused(&simple(), &|frame, _| frame[12] = 0x05)); // 802.3 length
        assert!(refused(&simple(), &|frame, _| frame[47] |= SYN));
        assert!(refused(&simple(), &|frame, _| frame[47] |= RST));
        assert!(refused(&simple(), &|frame, _| frame[46] = 0x40)); // data offset below its minimum
        assert!(refused(&options, &|frame, _| frame[35] = 131)); // loose source route after a no-operation
        assert!(refused(&v6, &|frame, _| frame[14 + 40 + 16 + 3] = 1)); // segments left
        assert!(refused(&v6, &|frame, _| frame[14 + 40 + 8] = 51)); // authentication header
        assert!(refused(&v6, &|frame, _| frame[18..20].fill(0))); // jumbogram
        let (frame, parsed) = frame(&simple());
        assert_eq!(plan(&frame, &parsed, frame.len() as u32, 54, None), None);
        assert!(plan(&frame, &parsed, frame.len() as u32, 55, None).is_some());
    }
}
