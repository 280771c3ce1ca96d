//! Frames put together byte by byte, beside the fields that they hold.

use std::net::IpAddr;

use sluice_core::wire::{self, Parsed};
use sluice_model::MacAddr;

use crate::reference::{Fields, Place};

/// One Ethernet frame, or the packet inside a tunnel.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Source and destination; `None` only inside a tunnel that carries IP.
    pub macs: Option<(MacAddr, MacAddr)>,
    /// TCIs.
    pub vlans: Vec<u16>,
    pub net: Net,
}

#[derive(Clone, Debug)]
pub enum Net {
    Arp,
    /// An 802.3 frame with an LLC header: no EtherType.
    Llc,
    Other(u16),
    Ip {
        src: IpAddr,
        dst: IpAddr,
        place: Place,
        ident: u16,
        l4: L4,
    },
}

#[derive(Clone, Debug)]
pub enum L4 {
    Tcp { src: u16, dst: u16, flags: u8, cut: Cut },
    Udp { src: u16, dst: u16 },
    Sctp { src: u16, dst: u16 },
    Other(u8),
    Tunnel(Box<Tunnel>),
}

/// How much of a TCP header was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    No,
    BeforePorts,
    BeforeFlags,
}

#[derive(Clone, Debug)]
pub struct Tunnel {
    pub kind: Kind,
    pub id: u32,
    pub inner: Layer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Vxlan,
    Geneve,
    /// GRE with a key; carries Ethernet or IP, as the inner layer has addresses.
    Gre,
    IpInIp,
}

const UDP_SRC_PORT: u16 = 49_152;

/// A frame and its fields.
#[derive(Clone, Debug)]
pub struct Built {
    pub frame: Vec<u8>,
    pub outer: Fields,
    pub inner: Fields,
    pub parsed_outer: Parsed,
    pub parsed_inner: Parsed,
}

/// The frame of `layer`, its fields, and what the parser makes of it.
pub fn build(layer: &Layer) -> Built {
    let frame = layer.bytes();
    let outer = layer.fields(None);
    let inner = layer.tunnel().map_or_else(
        || outer.clone(),
        |tunnel| tunnel.inner.fields((tunnel.kind != Kind::IpInIp).then_some(tunnel.id)),
    );
    let parsed_outer = wire::parse(&frame);
    let parsed_inner = wire::parse_innermost(&frame, &parsed_outer, 1);
    Built { frame, outer, inner, parsed_outer, parsed_inner }
}

impl Layer {
    pub fn tunnel(&self) -> Option<&Tunnel> {
        match &self.net {
            Net::Ip { l4: L4::Tunnel(tunnel), .. } => Some(tunnel),
            _ => None,
        }
    }

    fn ethertype(&self) -> u16 {
        match &self.net {
            Net::Arp => 0x0806,
            Net::Llc => 3,
            Net::Other(ethertype) => *ethertype,
            Net::Ip { src: IpAddr::V4(_), .. } => 0x0800,
            Net::Ip { .. } => 0x86dd,
        }
    }

    /// The fields of this layer; `enclosing` is the id of the tunnel that it is inside of.
    pub fn fields(&self, enclosing: Option<u32>) -> Fields {
        let mut fields = Fields {
            macs: self.macs,
            vlans: self.vlans.iter().map(|tci| tci & 0x0fff).collect(),
            // A frame with a length instead counts as EtherType 0.
            ethertype: self.macs.map(|_| if matches!(self.net, Net::Llc) { 0 } else { self.ethertype() }),
            tunnel_id: enclosing,
            ..Fields::default()
        };
        let Net::Ip { src, dst, place, l4, .. } = &self.net else { return fields };
        fields.addresses = Some((*src, *dst));
        fields.protocol = Some(l4.protocol());
        fields.fragment = *place;
        if *place == Place::Later {
            return fields;
        }
        match l4 {
            L4::Tcp { src, dst, flags, cut } => {
                fields.ports = (*cut != Cut::BeforePorts).then_some((*src, *dst));
                fields.tcp_flags = (*cut == Cut::No).then_some(*flags);
            }
            L4::Udp { src, dst } | L4::Sctp { src, dst } => fields.ports = Some((*src, *dst)),
            L4::Other(_) => {}
            L4::Tunnel(tunnel) => {
                if tunnel.kind != Kind::IpInIp {
                    fields.tunnel_id = Some(tunnel.id);
                }
                fields.ports = match tunnel.kind {
                    Kind::Vxlan => Some((UDP_SRC_PORT, 4789)),
                    Kind::Geneve => Some((UDP_SRC_PORT, 6081)),
                    Kind::Gre | Kind::IpInIp => None,
                };
            }
        }
        fields
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some((src, dst)) = self.macs {
            bytes.extend(dst.0);
            bytes.extend(src.0);
            for tci in &self.vlans {
                bytes.extend([0x81, 0]);
                bytes.extend(tci.to_be_bytes());
            }
            bytes.extend(self.ethertype().to_be_bytes());
        }
        match &self.net {
            Net::Arp => bytes.extend([&[0, 1, 8, 0, 6, 4, 0, 1][..], &[0; 20]].concat()),
            Net::Llc => bytes.extend([0x42, 0x42, 3]),
            Net::Other(_) => bytes.extend([0xa5; 46]),
            Net::Ip { src: IpAddr::V4(src), dst: IpAddr::V4(dst), place, ident, l4 } => {
                let payload = l4.payload(*place);
                let total = (20 + payload.stated) as u16;
                let fragment: u16 = match place {
                    Place::Whole => 0x4000,
                    Place::First => 0x2000,
                    Place::Later => 0x0010,
                };
                bytes.extend([0x45, 0]);
                bytes.extend(total.to_be_bytes());
                bytes.extend(ident.to_be_bytes());
                bytes.extend(fragment.to_be_bytes());
                bytes.extend([64, l4.protocol(), 0, 0]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                bytes.extend(payload.bytes);
            }
            Net::Ip { src: IpAddr::V6(src), dst: IpAddr::V6(dst), place, ident, l4 } => {
                let payload = l4.payload(*place);
                let extension = if *place == Place::Whole { 0 } else { 8 };
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend(((payload.stated + extension) as u16).to_be_bytes());
                bytes.extend([if extension > 0 { 44 } else { l4.protocol() }, 64]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                if extension > 0 {
                    let offset: u16 = if *place == Place::First { 1 } else { 0x0040 };
                    bytes.extend([l4.protocol(), 0]);
                    bytes.extend(offset.to_be_bytes());
                    bytes.extend(u32::from(*ident).to_be_bytes());
                }
                bytes.extend(payload.bytes);
            }
            Net::Ip { .. } => panic!("addresses of two families"),
        }
        bytes
    }
}

struct Payload {
    bytes: Vec<u8>,
    /// What the IP header says, before the cut.
    stated: usize,
}

impl L4 {
    pub fn protocol(&self) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Sctp { .. } => 132,
            Self::Other(protocol) => *protocol,
            Self::Tunnel(tunnel) => match (tunnel.kind, &tunnel.inner.net) {
                (Kind::Vxlan | Kind::Geneve, _) => 17,
                (Kind::Gre, _) => 47,
                (Kind::IpInIp, Net::Ip { src: IpAddr::V4(_), .. }) => 4,
                (Kind::IpInIp, _) => 41,
            },
        }
    }

    fn payload(&self, place: Place) -> Payload {
        let bytes = if place == Place::Later { vec![0xa5; 24] } else { self.bytes() };
        let stated = bytes.len();
        let captured = match self {
            Self::Tcp { cut: Cut::BeforePorts, .. } if place != Place::Later => 3,
            Self::Tcp { cut: Cut::BeforeFlags, .. } if place != Place::Later => 13,
            _ => stated,
        };
        Payload { bytes: bytes[..captured].to_vec(), stated }
    }

    fn bytes(&self) -> Vec<u8> {
        let udp = |src: u16, dst: u16, payload: &[u8]| {
            let len = (8 + payload.len()) as u16;
            [&src.to_be_bytes()[..], &dst.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
        };
        match self {
            Self::Tcp { src, dst, flags, .. } => {
                let ports = [src.to_be_bytes(), dst.to_be_bytes()].concat();
                [&ports[..], &[0; 8], &[0x50, *flags, 1, 0, 0, 0, 0, 0], &[0xa5; 4]].concat()
            }
            Self::Udp { src, dst } => udp(*src, *dst, &[0; 20]),
            Self::Sctp { src, dst } => [&src.to_be_bytes()[..], &dst.to_be_bytes(), &[0; 16]].concat(),
            Self::Other(_) => vec![0; 24],
            Self::Tunnel(tunnel) => {
                let inner = tunnel.inner.bytes();
                let id = tunnel.id.to_be_bytes();
                match tunnel.kind {
                    Kind::Vxlan => {
                        udp(UDP_SRC_PORT, 4789, &[&[8, 0, 0, 0, id[1], id[2], id[3], 0], &inner[..]].concat())
                    }
                    Kind::Geneve => {
                        let head = [0, 0, 0x65, 0x58, id[1], id[2], id[3], 0];
                        udp(UDP_SRC_PORT, 6081, &[&head[..], &inner].concat())
                    }
                    Kind::Gre => {
                        let carried =
                            if tunnel.inner.macs.is_some() { 0x6558 } else { tunnel.inner.ethertype() };
                        [&[0x20, 0][..], &carried.to_be_bytes(), &id, &inner].concat()
                    }
                    Kind::IpInIp => inner,
                }
            }
        }
    }
}
