//! How many bytes of a packet count, and for which layer?
//!
//! From the lengths that the headers state, not from what was captured: slices keep their real size, Ethernet padding
//! does not count.

use crate::wire::{Fragment, L3, Parsed};

/// Bytes of an Ethernet header without tags.
const ETHERNET_LEN: u32 = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The bytes of one packet, by layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Ethernet header with its tags, and the IP packet; no padding, no FCS. Without IP: the frame.
    pub frame: u32,
    /// After the IP header with its options or extensions.
    pub l3: u32,
    /// After the L4 header.
    pub l4: u32,
}

impl Lengths {
    /// The lengths of the packet with these headers, whose frame was `wire_len` bytes long.
    #[inline(always)]
    #[must_use]
    pub fn of(frame: &[u8], headers: &Parsed, wire_len: u32) -> Self {
        let l3_offset = u32::from(headers.l3_offset);
        let room = wire_len.saturating_sub(l3_offset);
        let word = |offset: u16| {
            let bytes = frame.get(usize::from(headers.l3_offset + offset)..)?.first_chunk()?;
            Some(u32::from(u16::from_be_bytes(*bytes)))
        };
        // A length of zero is that of a super-frame or a jumbogram; one beyond the frame lies.
        let ip = match headers.l3 {
            L3::Ipv4 => word(2).unwrap_or(0),
            L3::Ipv6 => word(4).filter(|&payload| payload > 0).map_or(0, |payload| payload + 40),
            L3::Arp | L3::None => return Self { frame: wire_len, l3: 0, l4: 0 },
        };
        let ip = if ip == 0 || ip > room { room } else { ip };
        let has_l4 = headers.l4_offset > 0;
        let ip_header = u32::from(if has_l4 { headers.l4_offset } else { headers.header_end }) - l3_offset;
        let l3 = ip.saturating_sub(ip_header);
        let l4_header = match headers.protocol {
            _ if headers.fragment == Fragment::Later => 0,
            TCP => u32::from(tcp_header_len(frame, headers).unwrap_or(20)),
            UDP | ICMP | ICMPV6 => 8,
            SCTP => 12,
            _ => 0,
        };
        let l2 = (l3_offset - u32::from(headers.l2_offset)).max(ETHERNET_LEN);
        Self { frame: l2 + ip, l3, l4: l3.saturating_sub(l4_header) }
    }
}

/// The length of the TCP header by its data offset (RFC 9293 section 3.1); 20 if that lies.
#[inline(always)]
fn tcp_header_len(frame: &[u8], headers: &Parsed) -> Option<u16> {
    if headers.l4_offset == 0 {
        return None;
    }
    let offset = frame.get(usize::from(headers.l4_offset) + 12)?;
    Some(u16::from(offset >> 4).max(5) * 4)
}
