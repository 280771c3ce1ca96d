//! What stands before the network header in this capture, and which Ethernet header says the same?
//!
//! Frames that are no Ethernet frames get a header of 14 bytes, written in place over the link header and the
//! record header that were before the payload:
//!
//! | link type | EtherType | source MAC |
//! |---|---|---|
//! | raw IP (12, 14, 101) | from the IP version | zero |
//! | IPv4 (228), IPv6 (229) | 0x0800, 0x86dd | zero |
//! | Linux cooked v1 (113), v2 (276) | its protocol field | its address if that has 6 bytes, else zero |
//! | BSD loopback (0, 108) | from the address family | zero |
//!
//! The destination MAC is zero. What no EtherType stands for gets 0xffff, which IANA keeps reserved; IEEE 802.2
//! frames in Linux cooked captures get their length, as on the wire. The original length changes by as much as
//! the header does.

use std::fmt;

use crate::order::Order;
use crate::reader::MAX_FRAME_BYTES;

const ETHERNET_HEADER_BYTES: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Reserved by IANA: nothing will take the payload for something it is not.
const ETHERTYPE_NONE: u16 = 0xffff;
/// Numbers below are lengths in Ethernet, and Linux' own protocol numbers in cooked captures.
const ETHERTYPE_MIN: u16 = 0x0600;
/// The largest length that an IEEE 802.3 length field can state.
const LENGTH_MAX: u16 = 1500;

/// A link type as in the [registry](https://www.tcpdump.org/linktypes.html) of libpcap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkType(pub u32);

impl LinkType {
    /// The name of a well-known link type.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.binary_search_by_key(&self.0, |&(number, _)| number).ok().map(|index| NAMES[index].1)
    }

    /// How its frames become Ethernet frames, in a file of this byte order; `None` when they do not.
    pub(crate) fn framing(self, order: Order) -> Option<Framing> {
        Some(match self.0 {
            1 => Framing::Ethernet,
            12 | 14 | 101 => Framing::Raw(None),
            228 => Framing::Raw(Some(ETHERTYPE_IPV4)),
            229 => Framing::Raw(Some(ETHERTYPE_IPV6)),
            113 => Framing::Cooked,
            276 => Framing::Cooked2,
            0 => Framing::Loopback(order),
            108 => Framing::Loopback(Order::Big),
            _ => return None,
        })
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name().unwrap_or("unknown"), self.0)
    }
}

/// How the frames of an interface become Ethernet frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// They are.
    Ethernet,
    /// An IP packet, of a version that the link type or the packet's first half byte tells.
    Raw(Option<u16>),
    /// Linux cooked capture v1: a header of 16 bytes.
    Cooked,
    /// Linux cooked capture v2: a header of 20 bytes.
    Cooked2,
    /// BSD loopback: an address family of 4 bytes in this byte order.
    Loopback(Order),
}

/// Where in the buffer an Ethernet frame lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) wire_len: u32,
    /// Bytes were left off, since a frame has at most [`MAX_FRAME_BYTES`].
    pub(crate) cut: bool,
}

impl Framing {
    /// Makes an Ethernet frame of the `cap_len` bytes at `at`; at least 14 bytes before may be overwritten.
    #[inline]
    pub(crate) fn place(self, buf: &mut [u8], at: usize, cap_len: usize, wire_len: u32) -> Placed {
        if self == Self::Ethernet {
            return bounded(at, cap_len, u64::from(wire_len));
        }
        self.convert(buf, at, cap_len, wire_len)
    }

    fn convert(self, buf: &mut [u8], at: usize, cap_len: usize, wire_len: u32) -> Placed {
        let packet = &buf[at..at + cap_len];
        let link_header = match self {
            Self::Ethernet | Self::Raw(_) => 0,
            Self::Cooked => 16,
            Self::Cooked2 => 20,
            Self::Loopback(_) => 4,
        };
        let payload_wire_len = u64::from(wire_len).saturating_sub(link_header as u64);
        let mut source = [0; 6];
        let mut ethertype = ETHERTYPE_NONE;
        // A capture may have cut the link header itself: then nothing is known, and nothing is left.
        if packet.len() >= link_header {
            match self {
                Self::Ethernet => {}
                Self::Raw(fixed) => ethertype = fixed.unwrap_or_else(|| ip_version(packet)),
                Self::Cooked => {
                    source = cooked_source(Order::Big.u16_at(packet, 4).into(), &packet[6..]);
                    ethertype = cooked_protocol(Order::Big.u16_at(packet, 14), payload_wire_len);
                }
                Self::Cooked2 => {
                    source = cooked_source(packet[11].into(), &packet[12..]);
                    ethertype = cooked_protocol(Order::Big.u16_at(packet, 0), payload_wire_len);
                }
                Self::Loopback(order) => ethertype = address_family(order.u32_at(packet, 0)),
            }
        }
        let link_header = link_header.min(packet.len());
        let start = at + link_header - ETHERNET_HEADER_BYTES;
        let header = &mut buf[start..start + ETHERNET_HEADER_BYTES];
        header[..6].fill(0);
        header[6..12].copy_from_slice(&source);
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
        bounded(
            start,
            ETHERNET_HEADER_BYTES + cap_len - link_header,
            payload_wire_len + ETHERNET_HEADER_BYTES as u64,
        )
    }
}

/// A frame of at most [`MAX_FRAME_BYTES`], and never longer than its original.
#[inline]
fn bounded(start: usize, len: usize, wire_len: u64) -> Placed {
    let wire_len = u32::try_from(wire_len.max(len as u64)).unwrap_or(u32::MAX);
    Placed { start, len: len.min(MAX_FRAME_BYTES), wire_len, cut: len > MAX_FRAME_BYTES }
}

fn ip_version(packet: &[u8]) -> u16 {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ETHERTYPE_IPV4,
        Some(6) => ETHERTYPE_IPV6,
        _ => ETHERTYPE_NONE,
    }
}

fn cooked_source(address_len: usize, address: &[u8]) -> [u8; 6] {
    let mut source = [0; 6];
    if address_len == source.len() {
        source.copy_from_slice(&address[..6]);
    }
    source
}

/// The EtherType, or length, for the protocol field of a Linux cooked header.
fn cooked_protocol(protocol: u16, payload_wire_len: u64) -> u16 {
    match protocol {
        ETHERTYPE_MIN.. => protocol,
        // IEEE 802.3 without (Novell) and with an 802.2 header: a length field on the wire.
        0x0001 | 0x0004 => {
            u16::try_from(payload_wire_len).ok().filter(|&len| len <= LENGTH_MAX).unwrap_or(ETHERTYPE_NONE)
        }
        _ => ETHERTYPE_NONE,
    }
}

/// The EtherType for an address family of any BSD, macOS, Linux or Windows.
fn address_family(family: u32) -> u16 {
    // Files whose byte order was changed on the way keep the family as it was: it is a small number.
    let family = if family > 0xffff { family.swap_bytes() } else { family };
    match u16::try_from(family) {
        Ok(2) => ETHERTYPE_IPV4,
        // Linux, Windows, NetBSD and OpenBSD, FreeBSD, Darwin.
        Ok(10 | 23 | 24 | 28 | 30) => ETHERTYPE_IPV6,
        Ok(ethertype @ ETHERTYPE_MIN..) => ethertype,
        _ => ETHERTYPE_NONE,
    }
}

/// Sorted by number.
const NAMES: &[(u32, &str)] = &[
    (0, "BSD loopback"),
    (1, "Ethernet"),
    (3, "AX.25"),
    (6, "IEEE 802.5 Token Ring"),
    (7, "ARCNET"),
    (8, "SLIP"),
    (9, "PPP"),
    (10, "FDDI"),
    (12, "raw IP"),
    (14, "raw IP"),
    (50, "PPP in HDLC-like framing"),
    (51, "PPPoE"),
    (99, "Symantec firewall"),
    (100, "RFC 1483 ATM"),
    (101, "raw IP"),
    (104, "Cisco HDLC"),
    (105, "IEEE 802.11"),
    (106, "Linux classical IP over ATM"),
    (107, "Frame Relay"),
    (108, "OpenBSD loopback"),
    (113, "Linux cooked v1"),
    (114, "Apple LocalTalk"),
    (117, "OpenBSD pflog"),
    (119, "IEEE 802.11 with Prism header"),
    (122, "IP over Fibre Channel"),
    (123, "SunATM"),
    (127, "IEEE 802.11 with radiotap header"),
    (129, "ARCNET (Linux)"),
    (130, "Juniper multi-link PPP"),
    (131, "Juniper multi-link Frame Relay"),
    (132, "Juniper encryption services PIC"),
    (133, "Juniper GGSN PIC"),
    (134, "Juniper FRF.16 Frame Relay"),
    (135, "Juniper ATM II PIC"),
    (136, "Juniper services PIC"),
    (137, "Juniper ATM PIC"),
    (138, "IP over IEEE 1394"),
    (139, "MTP2 with pseudo-header"),
    (140, "MTP2"),
    (141, "MTP3"),
    (142, "SCCP"),
    (143, "DOCSIS"),
    (144, "Linux IrDA"),
    (147, "private use 0"),
    (148, "private use 1"),
    (149, "private use 2"),
    (150, "private use 3"),
    (151, "private use 4"),
    (152, "private use 5"),
    (153, "private use 6"),
    (154, "private use 7"),
    (155, "private use 8"),
    (156, "private use 9"),
    (157, "private use 10"),
    (158, "private use 11"),
    (159, "private use 12"),
    (160, "private use 13"),
    (161, "private use 14"),
    (162, "private use 15"),
    (163, "IEEE 802.11 with AVS header"),
    (165, "BACnet MS/TP"),
    (166, "PPP with direction (pppd)"),
    (169, "GPRS LLC"),
    (177, "Linux LAPD"),
    (178, "Juniper Ethernet"),
    (179, "Juniper PPP"),
    (180, "Juniper Frame Relay"),
    (181, "Juniper Cisco HDLC"),
    (182, "multi-link Frame Relay"),
    (183, "Juniper voice PIC"),
    (187, "Bluetooth HCI"),
    (189, "USB (Linux)"),
    (192, "Per-Packet Information"),
    (195, "IEEE 802.15.4 with FCS"),
    (196, "SITA"),
    (197, "Endace ERF"),
    (200, "Juniper integrated services module"),
    (201, "Bluetooth HCI with direction"),
    (202, "AX.25 KISS"),
    (203, "LAPD"),
    (204, "PPP with direction"),
    (205, "Cisco HDLC with direction"),
    (206, "Frame Relay with direction"),
    (209, "IPMB (Linux)"),
    (215, "IEEE 802.15.4 non-ASK PHY"),
    (220, "USB (Linux, padded)"),
    (224, "Fibre Channel FC-2"),
    (225, "Fibre Channel FC-2 with frame delimiters"),
    (226, "Solaris ipnet"),
    (227, "SocketCAN"),
    (228, "raw IPv4"),
    (229, "raw IPv6"),
    (230, "IEEE 802.15.4 without FCS"),
    (231, "D-Bus"),
    (235, "DVB-CI"),
    (236, "MUX27010"),
    (237, "STANAG 5066 D_PDU"),
    (238, "Juniper ATM CEMIC"),
    (239, "Linux netfilter log"),
    (240, "Hilscher netANALYZER"),
    (241, "Hilscher netANALYZER, transparent"),
    (242, "IP over InfiniBand"),
    (243, "MPEG-2 transport stream"),
    (244, "ng40"),
    (245, "NFC LLCP"),
    (247, "InfiniBand"),
    (248, "SCTP"),
    (249, "USBPcap"),
    (250, "RTAC serial"),
    (251, "Bluetooth Low Energy"),
    (252, "Wireshark upper PDU"),
    (253, "Linux netlink"),
    (254, "Bluetooth Linux monitor"),
    (255, "Bluetooth BR/EDR baseband"),
    (256, "Bluetooth Low Energy with pseudo-header"),
    (257, "PROFIBUS"),
    (258, "Apple pktap"),
    (259, "EPON"),
    (260, "IPMI HPM.2 trace"),
    (261, "Z-Wave R1/R2"),
    (262, "Z-Wave R3"),
    (264, "ISO 14443"),
    (265, "Radio Data System"),
    (266, "USB (Darwin)"),
    (267, "OpenFlow"),
    (268, "SDLC"),
    (270, "LoRaTap"),
    (271, "Linux vsock"),
    (272, "Nordic BLE sniffer"),
    (273, "DOCSIS 3.1 XRA-31"),
    (274, "Ethernet mPacket"),
    (275, "DisplayPort AUX"),
    (276, "Linux cooked v2"),
    (278, "OpenVizsla"),
    (279, "Elektrobit EBHSCR"),
    (280, "VPP graph dispatch trace"),
    (281, "Ethernet with Broadcom switch tag"),
    (282, "Ethernet with Broadcom switch tag in front"),
    (283, "IEEE 802.15.4 TAP"),
    (284, "Ethernet with Marvell DSA tag"),
    (285, "Ethernet with Marvell EDSA tag"),
    (286, "ELEE"),
    (287, "Z-Wave serial"),
    (288, "USB 2.0"),
    (289, "ATSC ALP"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Room before the packet, as the window leaves it.
    const ROOM: usize = 64;

    fn place(link_type: u32, order: Order, packet: &[u8], wire_len: u32) -> (Vec<u8>, u32) {
        let mut buf = vec![0xa5; ROOM];
        buf.extend_from_slice(packet);
        let framing = LinkType(link_type).framing(order).expect("a link type that is converted");
        let placed = framing.place(&mut buf, ROOM, packet.len(), wire_len);
        (buf[placed.start..placed.start + placed.len].to_vec(), placed.wire_len)
    }

    fn header(frame: &[u8]) -> ([u8; 6], [u8; 6], u16) {
        let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).expect("six bytes");
        (mac(0), mac(6), u16::from_be_bytes([frame[12], frame[13]]))
    }

    #[test]
    fn names_are_sorted() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(LinkType(127).to_string(), "IEEE 802.11 with radiotap header (127)");
        assert_eq!(LinkType(4711).to_string(), "unknown (4711)");
    }

    #[test]
    fn raw_ip_takes_the_version_of_the_packet() {
        for (first, ethertype) in [(0x45, 0x0800), (0x60, 0x86dd), (0x00, 0xffff)] {
            let (frame, wire_len) = place(101, Order::Little, &[first, 1, 2], 40);
            assert_eq!(header(&frame), ([0; 6], [0; 6], ethertype));
            assert_eq!((&frame[14..], wire_len), (&[first, 1, 2][..], 54));
        }
        // The link type knows better than a damaged packet.
        assert_eq!(header(&place(229, Order::Little, &[0x45], 1).0).2, 0x86dd);
        assert_eq!(place(101, Order::Little, &[], 0).0.len(), 14);
    }

    #[test]
    fn cooked_headers_keep_protocol_and_address() {
        let v1 = [0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 7, 0, 0, 0x86, 0xdd, 0x60, 0x61];
        let (frame, wire_len) = place(113, Order::Big, &v1, 1516);
        assert_eq!(header(&frame), ([0; 6], [2, 0, 0, 0, 0, 7], 0x86dd));
        assert_eq!((&frame[14..], wire_len), (&[0x60, 0x61][..], 1514));

        let v2 = [0x08, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0, 6, 2, 0, 0, 0, 0, 8, 0, 0, 0x45];
        let (frame, wire_len) = place(276, Order::Little, &v2, 21);
        assert_eq!(header(&frame), ([0; 6], [2, 0, 0, 0, 0, 8], 0x0800));
        assert_eq!((&frame[14..], wire_len), (&[0x45][..], 15));

        // An address that is no MAC address; an 802.2 frame.
        let llc = [0, 0, 0, 1, 0, 4, 10, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0x42, 0x42, 0x03];
        let (frame, _) = place(113, Order::Little, &llc, 19);
        assert_eq!(header(&frame), ([0; 6], [0; 6], 3));

        // Cut inside the link header: nothing is known.
        let (frame, wire_len) = place(113, Order::Little, &v1[..15], 100);
        assert_eq!((frame.len(), wire_len), (14, 98));
        assert_eq!(header(&frame), ([0; 6], [0; 6], 0xffff));
    }

    #[test]
    fn loopback_families_of_every_system() {
        for family in [10u8, 23, 24, 28, 30] {
            assert_eq!(header(&place(0, Order::Little, &[family, 0, 0, 0], 4).0).2, 0x86dd);
            assert_eq!(header(&place(0, Order::Big, &[0, 0, 0, family], 4).0).2, 0x86dd);
        }
        // A family in the other byte order than the file; always network order in type 108.
        assert_eq!(header(&place(0, Order::Little, &[0, 0, 0, 2], 4).0).2, 0x0800);
        assert_eq!(header(&place(108, Order::Little, &[0, 0, 0, 2, 0x45], 5).0).2, 0x0800);
        assert_eq!(header(&place(0, Order::Little, &[99, 0, 0, 0], 4).0).2, 0xffff);
    }

    #[test]
    fn frames_end_at_65535_bytes() {
        let (frame, wire_len) = place(1, Order::Little, &vec![7; 70_000], 70_001);
        assert_eq!((frame.len(), wire_len), (65_535, 70_001));
        let (frame, wire_len) = place(101, Order::Little, &vec![0x45; 65_530], 65_530);
        assert_eq!((frame.len(), wire_len), (65_535, 65_544));
    }
}
