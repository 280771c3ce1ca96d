//! How is an encapsulated copy that exceeds the MTU cut into outer IP fragments (RFC 791, RFC 8200 section 4.5)?
//!
//! The first fragment carries the UDP or GRE header and the tunnel header; all carry their own Ethernet and IP header.
//! The outer UDP checksum covers the whole datagram and must be right in the header that is cut: compute it before.

use std::ops::Range;

use super::{Encap, MAX_HEADER_LEN, MAX_IP_PACKET, len16, low16};
use crate::wire::checksum;

/// The longest header of a fragment in bytes: that of a copy and the IPv6 fragment header.
pub const MAX_FRAGMENT_HEADER_LEN: usize = MAX_HEADER_LEN + IPV6_FRAGMENT_LEN;

const IPV6_FRAGMENT_LEN: usize = 8;
const NEXT_HEADER_FRAGMENT: u8 = 44;
const MORE_FRAGMENTS_IPV4: u16 = 0x2000;

/// How one copy is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPlan {
    count: u32,
    /// Bytes of IP payload per fragment but the last; a multiple of 8.
    chunk: u32,
    /// Bytes of IP payload of the whole datagram.
    payload_len: u32,
    /// Bytes of UDP or GRE and tunnel headers.
    upper_len: u32,
    upper_offset: usize,
    ip_offset: usize,
    ipv6: bool,
}

/// What one fragment consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FragmentPart {
    /// The bytes that [`FragmentPlan::write`] writes.
    pub header_len: usize,
    /// The bytes of the copied frame (as sent, an inserted 802.1Q tag included) that follow.
    pub inner: Range<u32>,
}

impl FragmentPlan {
    /// A plan for a copy of `inner_len` bytes over a link of `mtu` bytes (the largest outer IP packet). One fragment,
    /// which is the whole packet, when it fits. `None` when the datagram exceeds 65,535 bytes (cut the copy first), or
    /// when the MTU does not hold the headers: the first fragment must carry all of them (RFC 7112).
    #[must_use]
    pub fn new(encap: &Encap, inner_len: u32, mtu: u16) -> Option<Self> {
        let upper_len = u32::from(len16(encap.upper_len()));
        let payload_len = upper_len.checked_add(inner_len)?;
        let l3_len = u32::from(len16(encap.l3_len()));
        let total = l3_len.checked_add(payload_len)?;
        if total > u32::from(len16(MAX_IP_PACKET)) {
            return None;
        }
        let mut plan = Self {
            count: 1,
            chunk: payload_len,
            payload_len,
            upper_len,
            upper_offset: encap.upper_offset(),
            ip_offset: encap.ip_offset(),
            ipv6: encap.ipv6(),
        };
        if total > u32::from(mtu) {
            let extension = if plan.ipv6 { u32::from(len16(IPV6_FRAGMENT_LEN)) } else { 0 };
            plan.chunk = u32::from(mtu).checked_sub(l3_len + extension)? & !7;
            if plan.chunk < upper_len {
                return None;
            }
            plan.count = payload_len.div_ceil(plan.chunk);
        }
        Some(plan)
    }

    /// The number of fragments, at least 1.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// What fragment `index` consists of; `None` past the last one.
    #[inline]
    #[must_use]
    pub fn part(&self, index: u32) -> Option<FragmentPart> {
        let payload = self.payload(index)?;
        let extension = if self.ipv6 && self.count > 1 { IPV6_FRAGMENT_LEN } else { 0 };
        let upper_len = if index == 0 { usize::try_from(self.upper_len).ok()? } else { 0 };
        Some(FragmentPart {
            header_len: self.upper_offset + extension + upper_len,
            inner: payload.start.saturating_sub(self.upper_len)..payload.end - self.upper_len,
        })
    }

    /// Writes the header of fragment `index` to `out` and returns its length, that of [`part`](Self::part). `header` is
    /// the header of the copy as [`Encap::write`] wrote it. `id` is the identification, the same for all fragments of
    /// the copy and not repeated within a datagram's lifetime (IPv4 takes the low 16 bits). `None`, with nothing
    /// written, when `index` is past the last fragment or a buffer is too short.
    #[inline]
    pub fn write(&self, index: u32, header: &[u8], id: u32, out: &mut [u8]) -> Option<usize> {
        let payload = self.payload(index)?;
        let part = self.part(index)?;
        let out = out.get_mut(..part.header_len)?;
        let (lower, upper) = header.split_at_checked(self.upper_offset)?;
        let upper = upper.get(..usize::try_from(self.upper_len).ok()?)?;
        let (out_lower, out_rest) = out.split_at_mut_checked(self.upper_offset)?;
        out_lower.copy_from_slice(lower);
        let upper_at = out_rest.len() - if index == 0 { upper.len() } else { 0 };
        let (extension, out_upper) = out_rest.split_at_mut_checked(upper_at)?;
        if index == 0 {
            out_upper.copy_from_slice(upper);
        }
        if self.count > 1 {
            let ip = out_lower.get_mut(self.ip_offset..)?;
            let more = index + 1 < self.count;
            if self.ipv6 {
                write_ipv6(ip.first_chunk_mut()?, extension.first_chunk_mut()?, &payload, more, id);
            } else {
                write_ipv4(ip.first_chunk_mut()?, &payload, more, low16(id));
            }
        }
        Some(part.header_len)
    }

    /// The bytes of IP payload of fragment `index`.
    #[inline]
    fn payload(&self, index: u32) -> Option<Range<u32>> {
        if index >= self.count {
            return None;
        }
        let start = index * self.chunk;
        Some(start..self.payload_len.min(start + self.chunk))
    }
}

/// Total length, identification, flags and offset, checksum. DF is cleared: it contradicts a fragment.
#[inline]
fn write_ipv4(ip: &mut [u8; 20], payload: &Range<u32>, more: bool, id: u16) {
    let total = low16(payload.end - payload.start + 20);
    // 13 bits: the payload is below 65,536 bytes.
    let offset = low16(payload.start / 8) | if more { MORE_FRAGMENTS_IPV4 } else { 0 };
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[6..8].copy_from_slice(&offset.to_be_bytes());
    ip[10..12].fill(0);
    let value = checksum::finish(checksum::sum(ip, 0));
    ip[10..12].copy_from_slice(&value.to_be_bytes());
}

/// Payload length and next header of the IPv6 header, and the fragment header.
#[inline]
fn write_ipv6(ip: &mut [u8; 40], extension: &mut [u8; 8], payload: &Range<u32>, more: bool, id: u32) {
    let next_header = ip[6];
    let len = low16(payload.end - payload.start) + len16(IPV6_FRAGMENT_LEN);
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    ip[6] = NEXT_HEADER_FRAGMENT;
    // Offsets are multiples of 8, so the field's upper 13 bits are the offset in bytes as it is.
    let offset = low16(payload.start) | u16::from(more);
    extension[..2].copy_from_slice(&[next_header, 0]);
    extension[2..4].copy_from_slice(&offset.to_be_bytes());
    extension[4..].copy_from_slice(&id.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encap::{CopyFields, tests::encap};
    use proptest::prelude::*;
    use sluice_model::{Marking, TunnelKind, UdpChecksum};

    const VXLAN: TunnelKind = TunnelKind::Vxlan { udp_port: 4789, udp_checksum: UdpChecksum::Auto };

    fn header(encap: &Encap, inner_len: u32) -> Vec<u8> {
        let mut header = vec![0xa5; encap.header_len()];
        encap.write(&mut header, &CopyFields { inner_len, ip_id: 0x1111, ..CopyFields::default() });
        header
    }

    #[test]
    fn ipv4_fragments_to_the_byte() {
        let encap = encap(VXLAN, Marking::Standard, false, false);
        let header = header(&encap, 2_000);
        // 20 + 1480; 1480 is a multiple of 8.
        let plan = FragmentPlan::new(&encap, 2_000, 1_500).unwrap();
        assert_eq!(plan.count(), 2);
        let mut out = [0xa5; MAX_FRAGMENT_HEADER_LEN];
        assert_eq!(plan.part(0).unwrap(), FragmentPart { header_len: 50, inner: 0..1_464 });
        assert_eq!(plan.write(0, &header, 0xbeef, &mut out), Some(50));
        assert_eq!(out[14..24], [0x45, 0, 0x05, 0xdc, 0xbe, 0xef, 0x20, 0x00, 64, 17]);
        assert_eq!(checksum::fold(checksum::sum(&out[14..34], 0)), 0xffff);
        assert_eq!(out[34..50], header[34..50]);
        assert!(out[50..].iter().all(|byte| *byte == 0xa5));
        out.fill(0xa5);
        assert_eq!(plan.part(1).unwrap(), FragmentPart { header_len: 34, inner: 1_464..2_000 });
        assert_eq!(plan.write(1, &header, 0xbeef, &mut out), Some(34));
        // 536 + 20 bytes; offset 1480 / 8 = 185.
        assert_eq!(out[14..24], [0x45, 0, 0x02, 0x2c, 0xbe, 0xef, 0x00, 0xb9, 64, 17]);
        assert_eq!(checksum::fold(checksum::sum(&out[14..34], 0)), 0xffff);
        assert!(out[34..].iter().all(|byte| *byte == 0xa5));
        assert_eq!(plan.part(2), None);
        assert_eq!(plan.write(2, &header, 0, &mut out), None);
    }

    #[test]
    fn ipv6_fragments_to_the_byte() {
        let encap = encap(TunnelKind::Erspan3, Marking::Standard, true, false);
        let header = header(&encap, 2_000);
        // 40 + 8 + 1448; the last: 2020 - 1448 = 572.
        let plan = FragmentPlan::new(&encap, 2_000, 1_500).unwrap();
        assert_eq!(plan.count(), 2);
        let mut out = [0xa5; MAX_FRAGMENT_HEADER_LEN];
        assert_eq!(plan.part(0).unwrap(), FragmentPart { header_len: 82, inner: 0..1_428 });
        assert_eq!(plan.write(0, &header, 0x0102_0304, &mut out), Some(82));
        assert_eq!(out[18..22], [0x05, 0xb0, 44, 64]);
        assert_eq!(out[54..62], [47, 0, 0x00, 0x01, 1, 2, 3, 4]);
        assert_eq!(out[62..82], header[54..74]);
        assert!(out[82..].iter().all(|byte| *byte == 0xa5));
        assert_eq!(plan.part(1).unwrap(), FragmentPart { header_len: 62, inner: 1_428..2_000 });
        assert_eq!(plan.write(1, &header, 0x0102_0304, &mut out), Some(62));
        assert_eq!(out[18..22], [0x02, 0x44, 44, 64]);
        // Offset 1448 = 181 * 8, no more fragments.
        assert_eq!(out[54..62], [47, 0, 0x05, 0xa8, 1, 2, 3, 4]);
    }

    #[test]
    fn what_fits_stays_whole() {
        for ipv6 in [false, true] {
            let encap = encap(VXLAN, Marking::Standard, ipv6, true);
            let inner_len = encap.max_inner_len(1_500) as u32;
            let plan = FragmentPlan::new(&encap, inner_len, 1_500).unwrap();
            assert_eq!(plan.count(), 1);
            let header = header(&encap, inner_len);
            let mut out = vec![0xa5; header.len()];
            assert_eq!(plan.write(0, &header, 7, &mut out), Some(header.len()));
            assert_eq!(out, header);
            assert_eq!(FragmentPlan::new(&encap, inner_len + 1, 1_500).unwrap().count(), 2);
        }
    }

    #[test]
    fn impossible_plans_are_refused() {
        let encap = encap(VXLAN, Marking::Standard, false, false);
        assert_eq!(FragmentPlan::new(&encap, 65_535 - 35, 1_500), None);
        assert!(FragmentPlan::new(&encap, 65_535 - 36, 1_500).is_some());
        assert_eq!(FragmentPlan::new(&encap, 100, 35), None);
        assert!(FragmentPlan::new(&encap, 100, 36).is_some());
        assert_eq!(FragmentPlan::new(&encap, u32::MAX, 1_500), None);
    }

    proptest! {
        #[test]
        fn fragments_cover_the_datagram_and_fit(
            inner_len in 0u32..65_600, mtu: u16, ipv6: bool, three: bool, room in 0usize..100,
        ) {
            let kind = if three { TunnelKind::Erspan3 } else { VXLAN };
            let encap = encap(kind, Marking::Standard, ipv6, false);
            let header = header(&encap, inner_len);
            let Some(plan) = FragmentPlan::new(&encap, inner_len, mtu) else {
                prop_assert!(mtu < 100 || encap.overhead() + inner_len as usize > 65_535);
                return Ok(());
            };
            let mut next = 0;
            for index in 0..plan.count() {
                let part = plan.part(index).unwrap();
                let mut out = [0xa5; MAX_FRAGMENT_HEADER_LEN];
                prop_assert_eq!(plan.write(index, &header, 9, &mut out), Some(part.header_len));
                let ip_len = part.header_len - 14 + part.inner.len();
                prop_assert!(ip_len <= usize::from(mtu));
                let said = if ipv6 { 40 + usize::from(u16::from_be_bytes([out[18], out[19]])) }
                    else { usize::from(u16::from_be_bytes([out[16], out[17]])) };
                prop_assert_eq!(said, ip_len);
                prop_assert_eq!(part.inner.start, next);
                next = part.inner.end;
                let short = &mut out[..room.min(part.header_len - 1)];
                prop_assert_eq!(plan.write(index, &header, 9, short), None);
            }
            prop_assert_eq!(next, inner_len);
        }
    }
}
