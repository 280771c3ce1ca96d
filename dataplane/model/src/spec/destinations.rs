//! What does a `[[destination]]` say, and can it be built?

use std::net::IpAddr;
use std::path::PathBuf;

use crate::{
    Destination, DestinationKind, Group, MacAddr, Marking, Oversize, Tag, Tunnel, TunnelKind, UdpChecksum,
    VlanFrom,
};

use super::addresses::unicast;
use super::document::Fields;
use super::group_kind::ReadGroup;
use super::limit_section::rate_limit;
use super::source::{Report, quote};

/// UDP port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// The smallest MTU of a link that carries IPv4 (RFC 791).
const MIN_MTU_IPV4: u64 = 68;
/// The smallest MTU of a link that carries IPv6 (RFC 8200 section 5).
const MIN_MTU_IPV6: u64 = 1280;
/// The smallest Ethernet frame without FCS: a tunnel that cannot carry even that one is of no use.
const MIN_FRAME: u64 = 60;
const VLAN_TAG: u64 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Vxlan,
    Erspan2,
    Erspan3,
    Port,
    Pcap,
    Group,
}

const TYPES: [(&str, Type); 6] = [
    ("vxlan", Type::Vxlan),
    ("erspan2", Type::Erspan2),
    ("erspan3", Type::Erspan3),
    ("port", Type::Port),
    ("pcap", Type::Pcap),
    ("group", Type::Group),
];

/// The fields that only some types have.
const FIELD_TYPES: [(&str, &[Type]); 15] = [
    ("remote", TUNNELS),
    ("local", TUNNELS),
    ("mac", TUNNELS),
    ("udp_port", &[Type::Vxlan]),
    ("udp_checksum", &[Type::Vxlan]),
    ("marking", TUNNELS),
    ("mtu", &[Type::Vxlan, Type::Erspan2, Type::Erspan3, Type::Port]),
    ("oversize", &[Type::Vxlan, Type::Erspan2, Type::Erspan3, Type::Port]),
    ("port", &[Type::Vxlan, Type::Erspan2, Type::Erspan3, Type::Port]),
    ("file", &[Type::Pcap]),
    ("inner_vlan", &[Type::Vxlan, Type::Erspan2, Type::Erspan3, Type::Port, Type::Pcap]),
    ("vlan_from", &[Type::Vxlan, Type::Erspan2, Type::Erspan3, Type::Port, Type::Pcap]),
    ("members", &[Type::Group]),
    ("weights", &[Type::Group]),
    ("hash", &[Type::Group]),
];
const TUNNELS: &[Type] = &[Type::Vxlan, Type::Erspan2, Type::Erspan3];

/// Reads everything but the name; `None` when it cannot be built, with the errors reported. The members of a group are
/// left to be found.
pub(super) fn destination<'d>(
    mut fields: Fields<'d>,
    name: Option<&str>,
    report: &Report<'_>,
) -> Option<(Destination, ReadGroup<'d>)> {
    let errors = report.errors();
    let kind = fields.choice("type", &TYPES);
    if kind.is_none() && fields.place_of("type").is_none() {
        fields.missing(
            "type",
            "write type = \"vxlan\", \"erspan2\", \"erspan3\", \"port\", \"pcap\" or \"group\"",
        );
    }
    let read = Read::new(&mut fields, report);
    let limit = rate_limit(&mut fields, report);
    let group = ReadGroup::new(&mut fields);
    let Some(kind) = kind else {
        fields.finish();
        return None;
    };
    for (key, types) in FIELD_TYPES {
        if let Some(place) = fields.place_of(key).filter(|_| !types.contains(&kind.value)) {
            let of =
                TYPES.iter().filter(|(_, t)| types.contains(t)).map(|(name, _)| *name).collect::<Vec<_>>();
            let reason = format!("a destination of this type has no {key}");
            let suggestion = format!("remove it; {key} belongs to {}", of.join(", "));
            report.error(&place, fields.field(key), reason, suggestion);
        }
    }
    let kind = match kind.value {
        Type::Vxlan | Type::Erspan2 | Type::Erspan3 => read.tunnel(kind.value, &fields, report),
        Type::Port => read.port_kind(&fields, report),
        Type::Pcap => read.pcap_kind(&fields),
        Type::Group => {
            if fields.place_of("members").is_none() {
                fields.missing("members", "name the members: members = [\"ids1\", \"ids2\"]");
            }
            Some(DestinationKind::Group(Group { members: Vec::new(), hash: group.hash }))
        }
    };
    fields.finish();
    let (Some(kind), Some(name)) = (kind, name) else { return None };
    let mtu = read.mtu.as_ref().and_then(|mtu| u16::try_from(mtu.value).ok());
    let Read { inner_vlan, vlan_from, oversize, .. } = read;
    (report.errors() == errors).then(|| {
        let name = name.to_owned();
        (Destination { name, kind, inner_vlan, vlan_from, mtu, oversize, limit }, group)
    })
}

/// Whether copies with `tag` can be told by it at `destination`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TagFit {
    /// The tag is carried whole.
    Whole,
    /// Plain frames have no place for a tag: it keeps copies apart, and that is all.
    Uncarried,
    /// One field carries it whole, another (named) shows only its low bits.
    PartlyCut(&'static str),
    /// The widest field has only so many bits, so the receiver would read another tag.
    Cut { bits: u32 },
}

pub(super) fn tag_fit(tag: Tag, destination: &Destination) -> TagFit {
    let (field, bits, other) = match &destination.kind {
        DestinationKind::Tunnel(tunnel) => match (tunnel.kind, tunnel.marking) {
            (TunnelKind::Vxlan { .. }, _) => ("VNI", 24, None),
            (TunnelKind::Erspan3, Marking::Reference) => ("GRE key", 32, Some(("ERSPAN session id", 10))),
            (TunnelKind::Erspan2 | TunnelKind::Erspan3, _) => ("ERSPAN session id", 10, None),
        },
        // Of a group, the members are asked.
        DestinationKind::Port { .. } | DestinationKind::Pcap { .. } | DestinationKind::Group(_) => {
            ("", 0, None)
        }
    };
    let shown = destination.inner_vlan && destination.vlan_from == VlanFrom::Tag;
    let vid = shown.then_some(("inner VLAN id", 12));
    let carriers = [(bits > 0).then_some((field, bits)), other, vid];
    let carriers = carriers.iter().flatten();
    let holds = |bits: u32| bits >= 32 || tag.get() >> bits == 0;
    match carriers.clone().map(|&(_, bits)| bits).max() {
        None if tag.get() == 0 => TagFit::Whole,
        None => TagFit::Uncarried,
        Some(widest) if !holds(widest) => TagFit::Cut { bits: widest },
        Some(_) => match carriers.clone().find(|&&(_, bits)| !holds(bits)) {
            Some(&(field, _)) => TagFit::PartlyCut(field),
            None => TagFit::Whole,
        },
    }
}

/// For an MTU that is too small for a tunnel: the least one, and why.
pub(super) fn too_small(tunnel: &Tunnel, inner_vlan: bool, mtu: u64) -> Option<(u64, String)> {
    let frame = MIN_FRAME + if inner_vlan { VLAN_TAG } else { 0 };
    let (ip, link) = if tunnel.remote.is_ipv4() { (20, 0) } else { (40, MIN_MTU_IPV6) };
    let overhead = ip
        + match (tunnel.kind, tunnel.marking) {
            // GRE with sequence 8 + ERSPAN III 12; with key, 4 more.
            (TunnelKind::Erspan3, Marking::Standard) => 20,
            (TunnelKind::Erspan3, Marking::Reference) => 24,
            // UDP 8 + VXLAN 8; GRE with sequence 8 + ERSPAN II 8.
            (TunnelKind::Vxlan { .. } | TunnelKind::Erspan2, _) => 16,
        };
    let least = link.max(overhead + frame);
    (mtu < least).then(|| {
        let why = if tunnel.remote.is_ipv6() {
            format!("IPv6 needs links of {MIN_MTU_IPV6} bytes (RFC 8200)")
        } else {
            format!("the outer headers take {overhead} bytes and the smallest frame {frame}")
        };
        (least, why)
    })
}

/// The bits that a tag may have for a destination: of a group, for all its members.
#[cfg(any(test, feature = "contract"))]
pub(crate) fn largest_tag(id: crate::DestinationId, all: &[Destination]) -> u32 {
    let Some(destination) = all.get(id.index()) else { return Tag::MAX };
    match (&destination.kind, tag_fit(Tag::new(Tag::MAX).unwrap_or_default(), destination)) {
        (DestinationKind::Group(group), _) => {
            group.members.iter().fold(Tag::MAX, |most, member| most & largest_tag(member.destination, all))
        }
        (_, TagFit::Cut { bits }) => (1 << bits) - 1,
        (_, TagFit::Whole | TagFit::Uncarried | TagFit::PartlyCut(_)) => Tag::MAX,
    }
}

/// The smallest MTU that a destination may have.
#[cfg(any(test, feature = "contract"))]
pub(crate) fn least_mtu(kind: &DestinationKind, inner_vlan: bool) -> u16 {
    let least = match kind {
        DestinationKind::Tunnel(tunnel) => too_small(tunnel, inner_vlan, 0).map(|(least, _)| least),
        _ => None,
    };
    u16::try_from(least.unwrap_or(MIN_MTU_IPV4)).unwrap_or(u16::MAX)
}

/// The fields of a destination, each well formed by itself.
struct Read {
    remote: Option<IpAddr>,
    local: Option<IpAddr>,
    mac: Option<MacAddr>,
    udp_port: u16,
    udp_checksum: UdpChecksum,
    marking: Marking,
    mtu: Option<super::source::At<u64>>,
    oversize: Oversize,
    inner_vlan: bool,
    vlan_from: VlanFrom,
    port: Option<String>,
    file: Option<PathBuf>,
}

impl Read {
    fn new(fields: &mut Fields<'_>, report: &Report<'_>) -> Self {
        let address = |fields: &mut Fields<'_>, key, example| {
            let text = fields.string(key, example)?;
            unicast(text.value, &text.span, &fields.field(key), report)
        };
        let remote = address(fields, "remote", "\"192.0.2.10\"");
        let local = address(fields, "local", "\"192.0.2.1\"");
        let mac = mac(fields, "mac", report);
        let udp_port = fields.integer("udp_port", 1..=0xffff, "udp_port");
        let udp_checksum = fields.choice(
            "udp_checksum",
            &[("auto", UdpChecksum::Auto), ("on", UdpChecksum::On), ("off", UdpChecksum::Off)],
        );
        let marking =
            fields.choice("marking", &[("standard", Marking::Standard), ("reference", Marking::Reference)]);
        let mtu = fields.integer("mtu", MIN_MTU_IPV4..=0xffff, "the MTU (bytes of an IP packet)");
        let oversize = fields.choice(
            "oversize",
            &[
                ("truncate", Oversize::Truncate),
                ("fragment", Oversize::Fragment),
                ("segment", Oversize::Segment),
                ("drop", Oversize::Drop),
            ],
        );
        let inner_vlan = fields.boolean("inner_vlan").is_some_and(|at| at.value);
        let vlan_from = fields.choice("vlan_from", &[("tag", VlanFrom::Tag), ("tunnel", VlanFrom::Tunnel)]);
        if let Some(from) = vlan_from.as_ref().filter(|_| !inner_vlan) {
            let suggestion = "write inner_vlan = true, or remove it".to_owned();
            report.error(
                &from.span,
                fields.field("vlan_from"),
                "without inner_vlan no VLAN tag is inserted",
                suggestion,
            );
        }
        let port = non_empty(fields, "port", "the name of an output port", report);
        let file = non_empty(fields, "file", "the path of a file", report);
        Self {
            remote,
            local,
            mac,
            udp_port: udp_port.and_then(|port| u16::try_from(port.value).ok()).unwrap_or(VXLAN_PORT),
            udp_checksum: udp_checksum.map_or(UdpChecksum::Auto, |at| at.value),
            marking: marking.map_or(Marking::Standard, |at| at.value),
            mtu,
            oversize: oversize.map_or(Oversize::Truncate, |at| at.value),
            inner_vlan,
            vlan_from: vlan_from.map_or(VlanFrom::Tag, |at| at.value),
            port,
            file: file.map(PathBuf::from),
        }
    }

    fn tunnel(&self, kind: Type, fields: &Fields<'_>, report: &Report<'_>) -> Option<DestinationKind> {
        let place = |key: &str| fields.place_of(key).unwrap_or(fields.span.clone());
        if fields.place_of("remote").is_none() {
            fields.missing("remote", "a tunnel needs the address of the tool: remote = \"192.0.2.10\"");
        }
        if kind == Type::Erspan2 && self.marking == Marking::Reference {
            report.error(
                &place("marking"),
                fields.field("marking"),
                "ERSPAN type II has no place for the reference marking",
                "write type = \"erspan3\", or marking = \"standard\"".to_owned(),
            );
        }
        let remote = self.remote?;
        if let Some(local) = self.local {
            if local.is_ipv4() != remote.is_ipv4() {
                let reason = format!("{local} and the remote {remote} are of different families");
                let suggestion = format!("give an IPv{} address", if remote.is_ipv4() { 4 } else { 6 });
                report.error(&place("local"), fields.field("local"), reason, suggestion);
            } else if local == remote {
                let suggestion = "local is the address of Sluice's own end; it may be left out".to_owned();
                report.error(
                    &place("local"),
                    fields.field("local"),
                    "local and remote are the same",
                    suggestion,
                );
            }
        }
        let tunnel_kind = match kind {
            Type::Erspan2 => TunnelKind::Erspan2,
            Type::Erspan3 => TunnelKind::Erspan3,
            _ => TunnelKind::Vxlan { udp_port: self.udp_port, udp_checksum: self.udp_checksum },
        };
        let tunnel = Tunnel {
            kind: tunnel_kind,
            marking: self.marking,
            remote,
            local: self.local,
            mac: self.mac,
            port: self.port.clone(),
        };
        if let Some(mtu) = &self.mtu
            && let Some((least, why)) = too_small(&tunnel, self.inner_vlan, mtu.value)
        {
            let reason = format!("an MTU of {} is too small for the tunnel: {why}", mtu.value);
            report.error(&mtu.span, fields.field("mtu"), reason, format!("write {least} or more"));
        }
        Some(DestinationKind::Tunnel(tunnel))
    }

    fn port_kind(&self, fields: &Fields<'_>, report: &Report<'_>) -> Option<DestinationKind> {
        if fields.place_of("port").is_none() {
            fields.missing("port", "name the output port: port = \"tool0\"");
        }
        if self.oversize == Oversize::Fragment {
            let place = fields.place_of("oversize").unwrap_or(fields.span.clone());
            report.error(
                &place,
                fields.field("oversize"),
                "a plain frame has no outer IP packet to fragment",
                "write \"truncate\", \"segment\" or \"drop\"".to_owned(),
            );
        }
        Some(DestinationKind::Port { port: self.port.clone()? })
    }

    fn pcap_kind(&self, fields: &Fields<'_>) -> Option<DestinationKind> {
        if fields.place_of("file").is_none() {
            fields.missing("file", "name the file to write: file = \"copies.pcap\"");
        }
        Some(DestinationKind::Pcap { file: self.file.clone()? })
    }
}

/// The Ethernet address of a machine.
pub(super) fn mac(fields: &mut Fields<'_>, key: &'static str, report: &Report<'_>) -> Option<MacAddr> {
    let text = fields.string(key, "\"02:00:00:00:00:01\"")?;
    let Ok(mac) = text.value.trim().parse::<MacAddr>() else {
        let reason = format!("{} is no MAC address", quote(text.value));
        let suggestion = "write six pairs of hexadecimal digits, as in 02:00:00:00:00:01".to_owned();
        report.error(&text.span, fields.field(key), reason, suggestion);
        return None;
    };
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        let what = if mac.0 == [0; 6] { "the zero address" } else { "a group address" };
        let suggestion = "write the address of one machine".to_owned();
        report.error(&text.span, fields.field(key), format!("{mac} is {what}"), suggestion);
        return None;
    }
    Some(mac)
}

/// A string that must not be empty.
pub(super) fn non_empty(
    fields: &mut Fields<'_>,
    key: &'static str,
    what: &str,
    report: &Report<'_>,
) -> Option<String> {
    let text = fields.string(key, "\"...\"")?;
    if text.value.trim().is_empty() {
        report.error(&text.span, fields.field(key), "empty", format!("write {what}"));
        return None;
    }
    Some(text.value.to_owned())
}
