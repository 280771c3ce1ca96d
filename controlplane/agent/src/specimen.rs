//! The bytes of a packet that somebody asks about: described in words, or one of a capture file.

use std::io::Cursor;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header,
    SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
};
use sluice_api::{packet_filter, v1};
use sluice_capture::CaptureReader;
use sluice_core::flow::FlowSnapshot;
use sluice_engine::runtime::{FlowSelector, address as flow_address};
use sluice_model::MacAddr;

/// The longest frame that can be described, in bytes.
const LONGEST: usize = 65_535;
/// How long to look for a packet of a capture file: compressed ones can be much longer than they look.
const PATIENCE: Duration = Duration::from_secs(10);
/// Packets between two looks at the clock.
const LOOK: u64 = 1 << 12;
/// The UDP port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;
/// Ends of a tunnel that a packet is described to be inside of: for documentation (RFC 5737).
const TUNNEL_ENDS: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2))];
/// Ethernet addresses where none are given: locally administered.
const MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: [u8; 2] = [1, 58];

/// A frame and its original length.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) data: Vec<u8>,
    pub(crate) wire_len: u32,
}

/// What was described, understood.
#[derive(Debug)]
struct Described {
    ends: Option<[IpAddr; 2]>,
    protocol: u8,
    ports: [u16; 2],
    vlan: Vec<u16>,
    macs: [MacAddr; 2],
    vni: Option<u32>,
    tcp_flags: u8,
    length: usize,
    ethertype: u16,
    fragment: v1::FragmentMatch,
}

/// The frame that `description` is of.
///
/// # Errors
/// The field that cannot be so, and why.
pub(crate) fn described(description: &v1::PacketDescription) -> Result<Frame, String> {
    let packet = Described::read(description)?;
    let overhead = if packet.vni.is_some() { TUNNEL_BYTES } else { 0 };
    let mut inner = packet.frame(0)?;
    if packet.length > 0 {
        let shortest = inner.len() + overhead;
        let payload = packet.length.checked_sub(shortest);
        inner = packet
            .frame(payload.ok_or_else(|| format!("length: the headers alone have {shortest} bytes"))?)?;
    }
    let data = match packet.vni {
        Some(vni) => in_vxlan(vni, &inner)?,
        None => inner,
    };
    let wire_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    Ok(Frame { data, wire_len })
}

/// The packet with this number, from 1, of a capture file.
///
/// # Errors
/// What is wrong with the file, or that it has fewer packets.
pub(crate) fn captured(packet: &v1::CapturedPacket) -> Result<Frame, String> {
    let number = packet.packet;
    if number == 0 {
        return Err("captured.packet: packets count from 1".to_owned());
    }
    let source = Box::new(Cursor::new(packet.file.clone()));
    let mut reader =
        CaptureReader::from_reader("captured.file", source).map_err(|error| error.to_string())?;
    let begin = Instant::now();
    loop {
        let read = reader.packets();
        if read % LOOK == 0 && begin.elapsed() > PATIENCE {
            let seconds = PATIENCE.as_secs();
            return Err(format!(
                "captured.packet: {number} was not reached within {seconds} s; cut the file"
            ));
        }
        match reader.next_frame().map_err(|error| error.to_string())? {
            Some(frame) if read + 1 == number => {
                return Ok(Frame { data: frame.data.to_vec(), wire_len: frame.wire_len });
            }
            Some(_) => {}
            None => return Err(format!("captured.packet: the file has {read} packets, not {number}")),
        }
    }
}

/// The flow that is asked for.
///
/// # Errors
/// The field that cannot be so, and why.
pub(crate) fn selector(flow: &v1::FlowSelector) -> Result<FlowSelector, String> {
    let optional = |field, port: Option<u32>| port.map(|_| self::port(field, port)).transpose();
    let tap = flow.tap.map(u16::try_from).transpose().map_err(|_| "flow.tap: 0 to 65535".to_owned())?;
    Ok(FlowSelector {
        addresses: [address("flow.src", &flow.src)?, address("flow.dst", &flow.dst)?],
        ports: [optional("flow.src_port", flow.src_port)?, optional("flow.dst_port", flow.dst_port)?],
        protocol: (!flow.protocol.is_empty()).then(|| protocol(&flow.protocol)).transpose()?,
        tap,
    })
}

/// A packet of a flow, from its client or from its server, as far as the flow table keeps it: the shortest one, without
/// its tunnel.
pub(crate) fn of_flow(flow: &FlowSnapshot, from_client: bool) -> v1::PacketDescription {
    let [from, to] = if from_client { [0, 1] } else { [1, 0] };
    let address = |end: usize| flow_address(flow.network, &flow.addresses[end]);
    let text = |end| address(end).map(|address| address.to_string()).unwrap_or_default();
    let port = |end: usize| flow.ports.map(|ports| ports[end].into());
    v1::PacketDescription {
        src: text(from),
        dst: text(to),
        protocol: if address(from).is_some() { flow.protocol.to_string() } else { String::new() },
        src_port: port(from),
        dst_port: port(to),
        vlan: if flow.vlan > 0 { vec![flow.vlan.into()] } else { Vec::new() },
        src_mac: flow.macs[from].to_string(),
        dst_mac: flow.macs[to].to_string(),
        ethertype: address(from).is_none().then_some(flow.ethertype.into()),
        ..v1::PacketDescription::default()
    }
}

impl Described {
    fn read(told: &v1::PacketDescription) -> Result<Self, String> {
        let ends = match (told.src.as_str(), told.dst.as_str()) {
            ("", "") => None,
            (src, dst) => {
                let ends = [address("src", src)?, address("dst", dst)?];
                if ends[0].is_ipv4() != ends[1].is_ipv4() {
                    return Err("dst: not of the family of src".to_owned());
                }
                Some(ends)
            }
        };
        let has_ports = told.src_port.is_some() || told.dst_port.is_some();
        let protocol = match told.protocol.as_str() {
            "" if has_ports => TCP,
            "" => 0,
            word => protocol(word)?,
        };
        let ports = [port("src_port", told.src_port)?, port("dst_port", told.dst_port)?];
        let fragment = v1::FragmentMatch::try_from(told.fragment)
            .map_err(|_| format!("fragment: {} is no kind of fragment", told.fragment))?;
        if has_ports && !matches!(protocol, TCP | UDP | SCTP) {
            return Err("src_port, dst_port: only TCP, UDP and SCTP have ports".to_owned());
        }
        if has_ports && fragment == v1::FragmentMatch::Later {
            return Err("fragment: a later fragment has no ports of its own; leave them out".to_owned());
        }
        if ends.is_none() && (protocol != 0 || fragment != v1::FragmentMatch::Unspecified) {
            return Err("src: missing; only IP has protocols, ports and fragments".to_owned());
        }
        if ends.is_some() && told.ethertype.is_some() {
            return Err("ethertype: only of frames without src and dst; IP has its own".to_owned());
        }
        if told.vlan.len() > 2 {
            return Err("vlan: at most 2".to_owned());
        }
        let vlan = |id: &u32| u16::try_from(*id).ok().filter(|id| *id < 1 << 12);
        let vlan: Option<Vec<u16>> = told.vlan.iter().map(vlan).collect();
        if !told.tcp_flags.is_empty() && protocol != TCP {
            return Err("tcp_flags: only TCP has them".to_owned());
        }
        if told.vni.is_some_and(|vni| vni >= 1 << 24) {
            return Err("vni: 0 to 16777215".to_owned());
        }
        Ok(Self {
            ends,
            protocol,
            ports,
            vlan: vlan.ok_or("vlan: 0 to 4095")?,
            macs: [mac("src_mac", &told.src_mac, MACS[0])?, mac("dst_mac", &told.dst_mac, MACS[1])?],
            vni: told.vni,
            tcp_flags: tcp_flags(&told.tcp_flags)?,
            length: usize::try_from(told.length)
                .ok()
                .filter(|&length| length <= LONGEST)
                .ok_or_else(|| format!("length: at most {LONGEST}"))?,
            ethertype: told
                .ethertype
                .map_or(Ok(0), u16::try_from)
                .map_err(|_| "ethertype: 0 to 65535".to_owned())?,
            fragment,
        })
    }

    /// The frame with so many bytes of payload.
    fn frame(&self, payload: usize) -> Result<Vec<u8>, String> {
        let ethertype = match self.ends {
            Some([IpAddr::V4(_), _]) => EtherType::IPV4,
            Some([IpAddr::V6(_), _]) => EtherType::IPV6,
            None => EtherType(self.ethertype),
        };
        let mut frame = link(self.macs, &self.vlan, ethertype);
        if let Some(ends) = self.ends {
            let l4 = self.l4(payload);
            frame.extend(ip(ends, self.protocol, self.fragment, l4.len() + payload)?);
            frame.extend(l4);
        }
        frame.resize(frame.len() + payload, 0);
        Ok(frame)
    }

    /// The header after that of IP.
    fn l4(&self, payload: usize) -> Vec<u8> {
        if self.fragment == v1::FragmentMatch::Later {
            return Vec::new();
        }
        let [source_port, destination_port] = self.ports;
        match self.protocol {
            TCP => {
                let flag = |bit: u8| self.tcp_flags >> bit & 1 == 1;
                let header = TcpHeader {
                    source_port,
                    destination_port,
                    fin: flag(0),
                    syn: flag(1),
                    rst: flag(2),
                    psh: flag(3),
                    ack: flag(4),
                    urg: flag(5),
                    ece: flag(6),
                    cwr: flag(7),
                    ..TcpHeader::default()
                };
                header.to_bytes().to_vec()
            }
            UDP => udp(source_port, destination_port, payload),
            // RFC 9260 section 3.1: ports, verification tag, checksum.
            SCTP => {
                [source_port.to_be_bytes(), destination_port.to_be_bytes(), [0; 2], [0; 2], [0; 2], [0; 2]]
                    .concat()
            }
            protocol if ICMP.contains(&protocol) => vec![0; 8],
            _ => Vec::new(),
        }
    }
}

/// Bytes before a frame in VXLAN over IPv4.
const TUNNEL_BYTES: usize = Ethernet2Header::LEN + Ipv4Header::MIN_LEN + UdpHeader::LEN + 8;

fn in_vxlan(vni: u32, inner: &[u8]) -> Result<Vec<u8>, String> {
    // RFC 7348 section 5: flags with the I bit, VNI.
    let header = [0x0800_0000_u32.to_be_bytes(), (vni << 8).to_be_bytes()].concat();
    let payload = header.len() + inner.len();
    let mut frame = link(MACS, &[], EtherType::IPV4);
    let whole = v1::FragmentMatch::Unspecified;
    frame.extend(ip(TUNNEL_ENDS, UDP, whole, UdpHeader::LEN + payload)?);
    frame.extend(udp(49_152, VXLAN_PORT, payload));
    frame.extend(header);
    frame.extend(inner);
    Ok(frame)
}

/// Ethernet and its tags, the outer one of two a service tag (IEEE 802.1Q).
fn link([source, destination]: [MacAddr; 2], vlan: &[u16], ether_type: EtherType) -> Vec<u8> {
    let types: Vec<EtherType> = match vlan {
        [] => vec![ether_type],
        [_] => vec![EtherType::VLAN_TAGGED_FRAME, ether_type],
        _ => vec![EtherType::PROVIDER_BRIDGING, EtherType::VLAN_TAGGED_FRAME, ether_type],
    };
    let ethernet = Ethernet2Header {
        source: source.0,
        destination: destination.0,
        ether_type: types.first().copied().unwrap_or(ether_type),
    };
    let mut bytes = ethernet.to_bytes().to_vec();
    for (&id, &ether_type) in vlan.iter().zip(types.iter().skip(1)) {
        let vlan_id = VlanId::try_new(id).unwrap_or_default();
        bytes.extend(SingleVlanHeader { vlan_id, ether_type, ..SingleVlanHeader::default() }.to_bytes());
    }
    bytes
}

/// The IP header of a packet that carries so many bytes.
fn ip(ends: [IpAddr; 2], protocol: u8, fragment: v1::FragmentMatch, bytes: usize) -> Result<Vec<u8>, String> {
    let too_long = || "length: longer than an IP packet can be".to_owned();
    let bytes = u16::try_from(bytes).map_err(|_| too_long())?;
    let protocol = IpNumber(protocol);
    let (offset, more) = match fragment {
        v1::FragmentMatch::Later => (185, false),
        v1::FragmentMatch::Fragments => (0, true),
        v1::FragmentMatch::Unspecified | v1::FragmentMatch::Whole => (0, false),
    };
    let fragment_offset = IpFragOffset::try_new(offset).unwrap_or_default();
    match ends {
        [IpAddr::V4(src), IpAddr::V4(dst)] => {
            let mut header =
                Ipv4Header::new(bytes, 64, protocol, src.octets(), dst.octets()).map_err(|_| too_long())?;
            header.dont_fragment = !more && offset == 0;
            (header.fragment_offset, header.more_fragments) = (fragment_offset, more);
            header.header_checksum = header.calc_header_checksum();
            Ok(header.to_bytes().to_vec())
        }
        [IpAddr::V6(source), IpAddr::V6(destination)] => {
            let part = (more || offset > 0)
                .then(|| Ipv6FragmentHeader::new(protocol, fragment_offset, more, 1).to_bytes());
            let part = part.as_ref().map_or(&[][..], |part| part);
            let length = u16::try_from(part.len()).ok().and_then(|len| bytes.checked_add(len));
            let header = Ipv6Header {
                payload_length: length.ok_or_else(too_long)?,
                next_header: if part.is_empty() { protocol } else { IpNumber::IPV6_FRAGMENTATION_HEADER },
                hop_limit: 64,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            Ok([&header.to_bytes()[..], part].concat())
        }
        [IpAddr::V4(_), IpAddr::V6(_)] | [IpAddr::V6(_), IpAddr::V4(_)] => {
            Err("dst: not of the family of src".to_owned())
        }
    }
}

fn udp(source_port: u16, destination_port: u16, payload: usize) -> Vec<u8> {
    let length = u16::try_from(UdpHeader::LEN + payload).unwrap_or(u16::MAX);
    UdpHeader { source_port, destination_port, length, checksum: 0 }.to_bytes().to_vec()
}

fn address(field: &str, text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{field}: {text:?} is no IP address"))
}

fn port(field: &str, port: Option<u32>) -> Result<u16, String> {
    port.map_or(Ok(0), u16::try_from).map_err(|_| format!("{field}: 0 to 65535"))
}

fn mac(field: &str, text: &str, default: MacAddr) -> Result<MacAddr, String> {
    if text.is_empty() { Ok(default) } else { text.parse().map_err(|error| format!("{field}: {error}")) }
}

/// The one protocol that a word names, as policies name it.
pub(crate) fn protocol(word: &str) -> Result<u8, String> {
    let filter = v1::PacketFilter { protocol: vec![word.to_owned()], ..v1::PacketFilter::default() };
    let policy = packet_filter(&filter, &[]).map_err(|errors| errors.to_string())?.value;
    let only = policy.protocol.as_ref().and_then(|set| {
        let mut ranges = set.iter();
        let range = ranges.next()?;
        (range.start() == range.end() && ranges.next().is_none()).then_some(*range.start())
    });
    only.ok_or_else(|| format!("protocol: {word:?} is more than one"))
}

/// The flags that are set; ACK alone where nothing is said.
fn tcp_flags(words: &[String]) -> Result<u8, String> {
    const ACK: u8 = 0x10;
    if words.is_empty() {
        return Ok(ACK);
    }
    let filter = v1::PacketFilter { tcp_flags: words.to_vec(), ..v1::PacketFilter::default() };
    let policy = packet_filter(&filter, &[]).map_err(|errors| errors.to_string())?.value;
    match policy.tcp_flags {
        Some(flags) if flags.mask == flags.value => Ok(flags.value),
        _ => Err("tcp_flags: those that are set, without \"!\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp() -> v1::PacketDescription {
        v1::PacketDescription {
            src: "10.0.0.1".to_owned(),
            dst: "10.0.0.2".to_owned(),
            src_port: Some(40_000),
            dst_port: Some(443),
            ..v1::PacketDescription::default()
        }
    }

    #[test]
    fn a_description_is_a_frame() {
        let frame = described(&tcp()).unwrap();
        // RFC 791, RFC 9293; the header checksum was worked out by hand.
        let mut expected =
            vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6];
        expected.extend([0x26, 0xce, 10, 0, 0, 1, 10, 0, 0, 2, 0x9c, 0x40, 1, 0xbb]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        assert_eq!((frame.data, frame.wire_len), (expected, 54));

        let long = described(&v1::PacketDescription { length: 1_514, ..tcp() }).unwrap();
        assert_eq!((long.data.len(), &long.data[16..18]), (1_514, &[0x05, 0xdc][..]));
        let tunnelled = described(&v1::PacketDescription { vni: Some(7), length: 200, ..tcp() }).unwrap();
        assert_eq!((tunnelled.data.len(), &tunnelled.data[34..38]), (200, &[0xc0, 0, 0x12, 0xb5][..]));
        assert_eq!(tunnelled.data[42..50], [8, 0, 0, 0, 0, 0, 7, 0]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Change = fn(&mut v1::PacketDescription);
        let cases: [(Change, &str); 14] = [
            (|p| p.src = "10.0.0".to_owned(), "src: \"10.0.0\" is no IP address"),
            (|p| p.dst = "2001:db8::1".to_owned(), "dst: not of the family of src"),
            (|p| p.dst = String::new(), "dst: \"\" is no IP address"),
            (|p| p.protocol = "icmp".to_owned(), "src_port, dst_port: only TCP, UDP and SCTP have ports"),
            (|p| p.protocol = "tcp-udp".to_owned(), "protocol"),
            (|p| p.protocol = "1-6".to_owned(), "protocol: \"1-6\" is more than one"),
            (|p| p.dst_port = Some(65_536), "dst_port: 0 to 65535"),
            (|p| p.vlan = vec![4_096], "vlan: 0 to 4095"),
            (|p| p.vlan = vec![1, 2, 3], "vlan: at most 2"),
            (|p| p.vni = Some(1 << 24), "vni: 0 to 16777215"),
            (|p| p.tcp_flags = vec!["!syn".to_owned()], "tcp_flags: those that are set"),
            (|p| p.length = 53, "length: the headers alone have 54 bytes"),
            (|p| p.length = 65_536, "length: at most 65535"),
            (|p| p.fragment = 2, "fragment: a later fragment has no ports"),
        ];
        for (change, told) in cases {
            let mut description = tcp();
            change(&mut description);
            let error = described(&description).unwrap_err();
            assert!(error.contains(told), "{error} is not {told}");
        }
        assert!(described(&v1::PacketDescription::default()).is_ok(), "a frame without IP");
    }
}
