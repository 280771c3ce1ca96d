//! What a NIC said about a packet it received, and what it is asked to do to one it sends.

use crate::eal::Eal;
use crate::mbuf::Mbuf;

/// VLAN tags that the driver took out of the frame into metadata. Each is a TCI: priority, DEI and VLAN id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxVlan {
    /// The tag that was stripped; with two stripped, the inner one.
    pub stripped: Option<u16>,
    /// The outer of two stripped tags (QinQ).
    pub outer_stripped: Option<u16>,
}

/// What the NIC found when it checked a checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxChecksum {
    /// It did not look.
    #[default]
    Unknown,
    /// Wrong.
    Bad,
    /// Right.
    Good,
    /// Not right in the packet, but the data is sound (a packet that has not been on a wire).
    NotComputed,
}

/// Where mbufs have the time stamp of the NIC that received them: a dynamic field, and the flag that says that it is filled
/// (`rte_mbuf_dyn_rx_timestamp_register`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxTimestampField {
    pub(crate) offset: usize,
    flag: u64,
}

impl RxTimestampField {
    /// Reserves both, or finds where they are; else says what DPDK returned.
    pub(crate) fn register(eal: &Eal) -> Result<Self, i32> {
        let (mut offset, mut flag) = (0, 0);
        let ret = eal.control(|| {
            // SAFETY: EAL is up, and both numbers are written to locals.
            unsafe { dpdk_sys::sluice_rx_timestamp_register(&raw mut offset, &raw mut flag) }
        });
        if ret != 0 {
            return Err(ret);
        }
        usize::try_from(offset).map(|offset| Self { offset, flag }).map_err(|_| offset)
    }
}

/// What one thread tells the next about a packet that it hands over on a [`Ring`](crate::Ring); kept in the mbuf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Capture time, nanoseconds since the epoch.
    pub timestamp_ns: u64,
    /// The original length of the frame in bytes.
    pub wire_len: u32,
    /// Payload bytes of each segment of a super-frame; 0 = none, or not known.
    pub gso_size: u16,
    /// The port that received it, in the program's own numbers.
    pub port: u16,
}

impl RxChecksum {
    fn of(flags: u64, mask: u64, bad: u64, good: u64) -> Self {
        let bits = flags & mask;
        if bits == 0 {
            Self::Unknown
        } else if bits == bad {
            Self::Bad
        } else if bits == good {
            Self::Good
        } else {
            Self::NotComputed
        }
    }
}

impl Mbuf {
    /// The port that received the packet, DPDK's number; 65,535 for a fresh mbuf.
    #[inline]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.seg().port()
    }

    /// Sets the port number.
    #[inline]
    pub fn set_port(&mut self, port: u16) {
        self.seg().set_port(port);
    }

    /// The note that travels with the packet; of an mbuf that has none, zeros or an old one.
    #[inline]
    #[must_use]
    pub fn note(&self) -> Note {
        let field = self.seg().note_ptr();
        // SAFETY: inside our mbuf, aligned, and initialised: pools zero their mbufs, and any integers are a note.
        let raw = unsafe { field.read() };
        Note {
            timestamp_ns: raw.timestamp_ns,
            wire_len: raw.wire_len,
            gso_size: raw.gso_size,
            port: raw.port,
        }
    }

    /// Writes the note that travels with the packet.
    #[inline]
    pub fn set_note(&mut self, note: Note) {
        let Note { timestamp_ns, wire_len, gso_size, port } = note;
        let field = self.seg().note_ptr();
        // SAFETY: inside our mbuf and aligned; we are borrowed mutably, and only owners touch the field.
        unsafe { field.write(dpdk_sys::sluice_note { timestamp_ns, wire_len, gso_size, port }) };
    }

    /// When the NIC received the packet, in ticks of its clock ([`Port::clock`](crate::Port::clock)); `None` = it did not
    /// stamp it.
    #[inline]
    #[must_use]
    pub fn rx_timestamp(&self, field: RxTimestampField) -> Option<u64> {
        let seg = self.seg();
        (seg.ol_flags() & field.flag != 0).then(|| seg.rx_timestamp(field))
    }

    /// VLAN tags that are in metadata and no longer in the bytes.
    #[inline]
    #[must_use]
    pub fn rx_vlan(&self) -> RxVlan {
        let seg = self.seg();
        let flags = seg.ol_flags();
        let set = |flag| flags & flag != 0;
        RxVlan {
            stripped: set(dpdk_sys::SLUICE_MBUF_F_RX_VLAN_STRIPPED).then(|| seg.vlan_tci()),
            outer_stripped: set(dpdk_sys::SLUICE_MBUF_F_RX_QINQ_STRIPPED).then(|| seg.vlan_tci_outer()),
        }
    }

    /// Says which VLAN tags are in metadata, as a driver does.
    #[inline]
    pub fn set_rx_vlan(&mut self, vlan: RxVlan) {
        let seg = self.seg();
        let one = dpdk_sys::SLUICE_MBUF_F_RX_VLAN | dpdk_sys::SLUICE_MBUF_F_RX_VLAN_STRIPPED;
        let two = dpdk_sys::SLUICE_MBUF_F_RX_QINQ | dpdk_sys::SLUICE_MBUF_F_RX_QINQ_STRIPPED;
        let mut flags = seg.ol_flags() & !(one | two);
        if let Some(tci) = vlan.stripped {
            seg.set_vlan_tci(tci);
            flags |= one;
        }
        if let Some(tci) = vlan.outer_stripped {
            seg.set_vlan_tci_outer(tci);
            // A stripped outer tag implies that the inner was seen (rte_mbuf_core.h).
            flags |= two | dpdk_sys::SLUICE_MBUF_F_RX_VLAN;
        }
        seg.set_ol_flags(flags);
    }

    /// What the NIC found about the IPv4 header checksum.
    #[inline]
    #[must_use]
    pub fn rx_ip_checksum(&self) -> RxChecksum {
        RxChecksum::of(
            self.seg().ol_flags(),
            dpdk_sys::SLUICE_MBUF_F_RX_IP_CKSUM_MASK,
            dpdk_sys::SLUICE_MBUF_F_RX_IP_CKSUM_BAD,
            dpdk_sys::SLUICE_MBUF_F_RX_IP_CKSUM_GOOD,
        )
    }

    /// What the NIC found about the TCP, UDP or SCTP checksum.
    #[inline]
    #[must_use]
    pub fn rx_l4_checksum(&self) -> RxChecksum {
        RxChecksum::of(
            self.seg().ol_flags(),
            dpdk_sys::SLUICE_MBUF_F_RX_L4_CKSUM_MASK,
            dpdk_sys::SLUICE_MBUF_F_RX_L4_CKSUM_BAD,
            dpdk_sys::SLUICE_MBUF_F_RX_L4_CKSUM_GOOD,
        )
    }

    /// The hash that the NIC spread the packet by.
    #[inline]
    #[must_use]
    pub fn rss_hash(&self) -> Option<u32> {
        let seg = self.seg();
        (seg.ol_flags() & dpdk_sys::SLUICE_MBUF_F_RX_RSS_HASH != 0).then(|| seg.hash_rss())
    }

    /// Asks the NIC to fill in the UDP checksum; only on a port whose
    /// [`tx_udp_checksum`](crate::PortCapabilities::tx_udp_checksum) is set, others send it as it is.
    ///
    /// `l2_len` and `l3_len` are the bytes of the Ethernet header with its tags, and of the IP header with
    /// its options. Writes the checksum of the pseudo-header into the UDP header, as such NICs need it (and
    /// as `rte_eth_tx_prepare` would). False, and nothing changed, when the three headers are not in the
    /// first segment or its bytes are shared.
    pub fn set_tx_udp_checksum(&mut self, l2_len: u16, l3_len: u16, ipv6: bool) -> bool {
        // The widths of the bit fields of tx_offload: 7 and 9 bits.
        if l2_len >= 1 << 7 || l3_len >= 1 << 9 {
            return false;
        }
        let (ip_at, udp_at) = (usize::from(l2_len), usize::from(l2_len + l3_len));
        let Some(data) = self.data_mut() else { return false };
        let Some((headers, udp)) = data.split_at_mut_checked(udp_at) else { return false };
        let addresses = if ipv6 { 8..40 } else { 12..20 };
        let Some(addresses) = headers.get(ip_at..).and_then(|ip| ip.get(addresses)) else { return false };
        let Some((udp, _)) = udp.split_first_chunk_mut::<8>() else { return false };
        let words = addresses.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        // Pseudo-header (RFC 768, RFC 8200 section 8.1): addresses, protocol 17, UDP length.
        let mut sum = words.sum::<u32>() + 17 + u32::from(u16::from_be_bytes([udp[4], udp[5]]));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let [.., high, low] = sum.to_be_bytes();
        (udp[6], udp[7]) = (high, low);

        let seg = self.seg();
        let ip = if ipv6 { dpdk_sys::SLUICE_MBUF_F_TX_IPV6 } else { dpdk_sys::SLUICE_MBUF_F_TX_IPV4 };
        let flags = seg.ol_flags() & !dpdk_sys::SLUICE_MBUF_F_TX_OFFLOAD_MASK;
        seg.set_ol_flags(flags | ip | dpdk_sys::SLUICE_MBUF_F_TX_UDP_CKSUM);
        seg.set_tx_offload(u64::from(l2_len) | u64::from(l3_len) << 7);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_states_are_told_apart() {
        let of = |flags| {
            RxChecksum::of(
                flags,
                dpdk_sys::SLUICE_MBUF_F_RX_L4_CKSUM_MASK,
                dpdk_sys::SLUICE_MBUF_F_RX_L4_CKSUM_BAD,
                dpdk_sys::SLUICE_MBUF_F_RX_L4_CKSUM_GOOD,
            )
        };
        assert_eq!(of(0), RxChecksum::Unknown);
        assert_eq!(of(dpdk_sys::SLUICE_MBUF_F_RX_L4_CKSUM_BAD), RxChecksum::Bad);
        assert_eq!(of(dpdk_sys::SLUICE_MBUF_F_RX_L4_CKSUM_GOOD), RxChecksum::Good);
        assert_eq!(of(dpdk_sys::SLUICE_MBUF_F_RX_L4_CKSUM_NONE), RxChecksum::NotComputed);
    }
}
