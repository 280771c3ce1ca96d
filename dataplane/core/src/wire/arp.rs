//! What does an ARP packet for IPv4 over Ethernet say (RFC 826)?

use super::bytes::{be16, bytes};

/// Length in bytes of a packet for IPv4 over Ethernet.
pub const PACKET_LEN: usize = 28;
/// Operation: request.
pub const REQUEST: u16 = 1;
/// Operation: reply.
pub const REPLY: u16 = 2;
/// What every packet for IPv4 over Ethernet starts with: hardware type 1, protocol type 0x0800, lengths 6 and 4.
pub const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Offsets of the fields.
pub mod field {
    /// Operation, 2 bytes, after the six of [`ETHERNET_IPV4`](super::ETHERNET_IPV4).
    pub const OPERATION: usize = 6;
    /// Sender hardware address, 6 bytes.
    pub const SRC_MAC: usize = 8;
    /// Sender protocol address, 4 bytes.
    pub const SRC_ADDR: usize = 14;
    /// Target hardware address, 6 bytes.
    pub const DST_MAC: usize = 18;
    /// Target protocol address, 4 bytes.
    pub const DST_ADDR: usize = 24;
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct ArpPacket<'a>(&'a [u8; PACKET_LEN]);

impl<'a> ArpPacket<'a> {
    /// The packet at the front of `data` and what follows it; `None` when `data` is too short, or the packet is about
    /// other kinds of addresses.
    #[inline]
    pub fn split(data: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (packet, rest) = data.split_first_chunk()?;
        (bytes::<0, 6, _>(packet) == ETHERNET_IPV4).then_some((Self(packet), rest))
    }

    /// The operation: [`REQUEST`], [`REPLY`] or another.
    #[inline]
    pub fn operation(self) -> u16 {
        be16::<{ field::OPERATION }, _>(self.0)
    }

    /// Sender hardware address.
    #[inline]
    pub fn src_mac(self) -> [u8; 6] {
        bytes::<{ field::SRC_MAC }, 6, _>(self.0)
    }

    /// Sender protocol address.
    #[inline]
    pub fn src_addr(self) -> [u8; 4] {
        bytes::<{ field::SRC_ADDR }, 4, _>(self.0)
    }

    /// Target hardware address.
    #[inline]
    pub fn dst_mac(self) -> [u8; 6] {
        bytes::<{ field::DST_MAC }, 6, _>(self.0)
    }

    /// Target protocol address.
    #[inline]
    pub fn dst_addr(self) -> [u8; 4] {
        bytes::<{ field::DST_ADDR }, 4, _>(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let mut data = [0u8; 30];
        data[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
        data[8..18].copy_from_slice(&[2, 0, 0, 0, 0, 1, 192, 0, 2, 1]);
        data[18..28].copy_from_slice(&[2, 0, 0, 0, 0, 2, 192, 0, 2, 2]);
        let (arp, rest) = ArpPacket::split(&data).unwrap();
        assert_eq!((arp.operation(), rest.len()), (REPLY, 2));
        assert_eq!((arp.src_mac(), arp.src_addr()), ([2, 0, 0, 0, 0, 1], [192, 0, 2, 1]));
        assert_eq!((arp.dst_mac(), arp.dst_addr()), ([2, 0, 0, 0, 0, 2], [192, 0, 2, 2]));
        assert!(ArpPacket::split(&data[..27]).is_none());
        data[4] = 8; // another kind of hardware address
        assert!(ArpPacket::split(&data).is_none());
    }
}
