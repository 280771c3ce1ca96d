//! Where is the innermost packet of a frame, as far as a port's settings take tunnels off?

use sluice_model::{DecapKind, DecapSettings};

use super::{Bits, Ends, Obstacle, TunnelInfo};
use crate::wire::ethernet::{self, ethertype};
use crate::wire::gre::{self, GreHeader};
use crate::wire::ipv4::{self, protocol};
use crate::wire::vxlan::VxlanHeader;
use crate::wire::{self, Fragment, Inner, L3, Parsed, TunnelHeader, erspan, ipv6, mpls, udp};

/// The VXLAN flags byte of senders that number their packets in the reserved bits (`marking = "reference"`).
pub(super) const NUMBERED_FLAGS: u8 = 0xff;

/// What was found in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwrapped {
    /// Where the inner frame starts. With a `header` that is yet to be written, where that goes.
    pub start: u16,
    /// Where the inner frame ends at the latest, by the lengths of the IP packets around it: what follows is padding of
    /// frames further out. May lie behind the end of the frame; [`u32::MAX`] where no length says anything.
    pub end: u32,
    /// The inner packet has no Ethernet header: one is to be written at `start`.
    pub header: Option<NewHeader>,
    /// The innermost tunnel that was taken off, and its id.
    pub enclosing: (TunnelHeader, u32),
    /// How many tunnels were taken off. With 0, nothing else here counts.
    pub depth: u8,
    /// What stopped the walk, unless there were no more tunnels to take off.
    pub obstacle: Option<Obstacle>,
}

/// An Ethernet header for a packet without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewHeader {
    /// Where the 12 bytes of addresses stand that it takes: those of the closest Ethernet header around the packet.
    pub addresses_at: u16,
    /// Its EtherType.
    pub ethertype: u16,
}

/// A packet of a numbered tunnel, fragments included.
#[derive(Clone, Copy, Debug)]
pub struct Numbered<'a> {
    /// The headers of the tunnel's own packet.
    pub outer: &'a Parsed,
    /// The kind of tunnel.
    pub kind: TunnelHeader,
    /// Its number.
    pub number: u32,
    /// How many bits such numbers have.
    pub bits: Bits,
}

/// Whether a frame with these headers can have a tunnel that [`unwrap`] would take off, or say why not.
#[inline(always)]
#[must_use]
pub fn is_candidate(outer: &Parsed) -> bool {
    outer.tunnel != TunnelHeader::None
        || is_mpls(outer.ethertype)
        || outer.protocol == protocol::GRE
        || outer.fragment == Fragment::Later
}

/// Follows the tunnels of `frame` inwards, as far as `settings` ask for.
///
/// `view` comes in as what [`wire::parse`] said of the frame, and goes out as what it would say of the inner frame
/// (with its new header, if it gets one); it stays as it is when no tunnel is taken off. `tunnel` is only written when
/// one is. `on_number` is told of every numbered tunnel on the way.
#[inline]
pub fn unwrap(
    frame: &[u8],
    settings: DecapSettings,
    view: &mut Parsed,
    tunnel: &mut TunnelInfo,
    on_number: &mut dyn FnMut(&Numbered<'_>),
) -> Unwrapped {
    unwrap_at(frame, settings, Ends::Any, view, tunnel, on_number)
}

/// As [`unwrap`], for tunnels that end at `ends`; the walk ends before the first one that goes elsewhere.
#[inline(never)]
pub fn unwrap_at(
    frame: &[u8],
    settings: DecapSettings,
    ends: Ends<'_>,
    view: &mut Parsed,
    tunnel: &mut TunnelInfo,
    on_number: &mut dyn FnMut(&Numbered<'_>),
) -> Unwrapped {
    let mut out = Unwrapped {
        start: 0,
        end: u32::MAX,
        header: None,
        enclosing: (TunnelHeader::None, 0),
        depth: 0,
        obstacle: None,
    };
    // The headers of `view` count from here.
    let mut base = 0;
    // Where the closest Ethernet header around `view` is.
    let mut ethernet_at = 0;
    while let Some(around) = frame.get(base..) {
        if !ends.has(view) {
            break;
        }
        let Some(layer) = Layer::of(around, view, settings) else {
            if out.depth == 0 && hides_tunnel(view, settings) {
                out.obstacle = Some(hidden(view));
            }
            break;
        };
        if out.depth == settings.depth {
            out.obstacle = Some(Obstacle::Depth);
            break;
        }
        if let Some((number, bits)) = number_of(around, view, layer.kind) {
            on_number(&Numbered { outer: view, kind: layer.kind, number, bits });
        }
        if view.fragment != Fragment::Whole && layer.kind != TunnelHeader::Mpls {
            out.obstacle = Some(Obstacle::Fragment);
            break;
        }
        let inner_at = base + layer.inner_offset;
        let mut end = out.end;
        if layer.kind != TunnelHeader::Mpls
            && let Some(stated) = ip_end(around, view)
        {
            end = end.min(u32::try_from(base + stated).unwrap_or(u32::MAX));
        }
        let limit = frame.len().min(usize::try_from(end).unwrap_or(usize::MAX));
        let data = frame.get(inner_at..limit).unwrap_or_default();
        // Where the lengths end the packet and not the capture, more bytes would not help.
        let short = if limit < frame.len() { Obstacle::Malformed } else { Obstacle::Truncated };
        let next = match layer.inner {
            Inner::Ethernet if data.len() < ethernet::HEADER_LEN => Err(short),
            Inner::Ethernet => Ok((inner_at, None)),
            Inner::Ip => {
                ip_ethertype(data, layer.version(around, view), short).map(|kind| (inner_at, Some(kind)))
            }
            Inner::Mpls if data.len() < mpls::ENTRY_LEN => Err(short),
            Inner::Mpls => Ok((inner_at, Some(ethertype::MPLS))),
            Inner::Opaque => Err(Obstacle::Unsupported),
        };
        let (next_at, kind) = match next {
            Ok(next) => next,
            Err(obstacle) => {
                out.obstacle = Some(obstacle);
                break;
            }
        };
        // MPLS has no addresses: a tunnel inside it tells more.
        if tunnel.depth == 0 || (tunnel.kind == TunnelHeader::Mpls && layer.kind != TunnelHeader::Mpls) {
            *tunnel = TunnelInfo { own: ends.are_own(), ..layer.info(around, view) };
        }
        out.depth += 1;
        out.enclosing = (layer.kind, layer.id);
        tunnel.depth = out.depth;
        out.end = end;
        match kind {
            None => {
                ethernet_at = next_at;
                base = next_at;
                out.header = None;
                wire::parse_into(data, view);
            }
            Some(kind) => {
                // Every tunnel has at least as many bytes before its packet: the Ethernet header around it.
                base = next_at.saturating_sub(ethernet::HEADER_LEN);
                let addresses_at = u16::try_from(ethernet_at).unwrap_or(u16::MAX);
                out.header = Some(NewHeader { addresses_at, ethertype: kind });
                wire::parse_headless_into(data, kind, view);
            }
        }
        out.start = u16::try_from(base).unwrap_or(u16::MAX);
    }
    out
}

impl Unwrapped {
    /// Makes `view`, which counts from the inner frame, count from the frame around it, as an innermost view does, with
    /// the tunnel that encloses it.
    pub fn look_through(&self, view: &mut Parsed) {
        let start = self.start;
        for offset in [&mut view.l3_offset, &mut view.header_end] {
            *offset = offset.saturating_add(start);
        }
        if view.l4_offset != 0 {
            view.l4_offset = view.l4_offset.saturating_add(start);
        }
        // Without a header of its own, the packet starts with what follows the tunnel.
        let own = if self.header.is_some() { HEADER_LEN_16 } else { 0 };
        view.l2_offset = start.saturating_add(own);
        (view.tunnel, view.tunnel_id) = self.enclosing;
        view.inner_offset = view.l2_offset;
    }
}

/// The length of an Ethernet header as offsets have it.
const HEADER_LEN_16: u16 = 14;
const _: () = assert!(HEADER_LEN_16 as usize == ethernet::HEADER_LEN);

/// One tunnel.
struct Layer {
    kind: TunnelHeader,
    id: u32,
    /// Where its packet starts, from where `view` counts.
    inner_offset: usize,
    inner: Inner,
}

impl Layer {
    /// The tunnel to take off a packet with the headers `view`; `None` when there is none, or not one of those that the
    /// settings name.
    #[inline(always)]
    fn of(frame: &[u8], view: &Parsed, settings: DecapSettings) -> Option<Self> {
        if is_mpls(view.ethertype)
            && matches!(view.l3, L3::Ipv4 | L3::Ipv6)
            && settings.kinds.has(DecapKind::Mpls)
        {
            return Some(Self::labels(frame, view));
        }
        if !settings.kinds.has(decap_kind(view.tunnel)?) {
            return None;
        }
        Some(Self {
            kind: view.tunnel,
            id: view.tunnel_id,
            inner_offset: view.inner_offset.into(),
            inner: wire::carried(frame, view),
        })
    }

    /// A label stack before IP.
    #[cold]
    fn labels(frame: &[u8], view: &Parsed) -> Self {
        let bottom = usize::from(view.l3_offset).saturating_sub(mpls::ENTRY_LEN);
        let label =
            frame.get(bottom..).and_then(mpls::LabelEntry::split).map_or(0, |(entry, _)| entry.label());
        Self { kind: TunnelHeader::Mpls, id: label, inner_offset: view.l3_offset.into(), inner: Inner::Ip }
    }

    /// The IP version that the tunnel announces.
    fn version(&self, frame: &[u8], view: &Parsed) -> Option<u8> {
        if self.kind == TunnelHeader::Mpls { None } else { wire::announced_version(frame, view) }
    }

    #[inline(always)]
    fn info(&self, frame: &[u8], view: &Parsed) -> TunnelInfo {
        let (src_addr, dst_addr) = match self.kind {
            TunnelHeader::Mpls => ([0; 16], [0; 16]),
            _ => (view.src_addr, view.dst_addr),
        };
        let ipv4 = view.l3 == L3::Ipv4 && self.kind != TunnelHeader::Mpls;
        let (kind, id, mark) = (self.kind, self.id, mark_of(frame, view, self.kind, self.id));
        TunnelInfo { kind, depth: 0, ipv4, id, src_addr, dst_addr, own: false, mark }
    }
}

#[inline(always)]
pub(super) fn is_mpls(kind: u16) -> bool {
    matches!(kind, ethertype::MPLS | ethertype::MPLS_UPSTREAM)
}

#[inline(always)]
fn decap_kind(tunnel: TunnelHeader) -> Option<DecapKind> {
    Some(match tunnel {
        TunnelHeader::None => return None,
        TunnelHeader::Vxlan => DecapKind::Vxlan,
        TunnelHeader::Geneve => DecapKind::Geneve,
        TunnelHeader::Gre => DecapKind::Gre,
        TunnelHeader::GreTeb => DecapKind::Teb,
        TunnelHeader::Erspan1 | TunnelHeader::Erspan2 | TunnelHeader::Erspan3 => DecapKind::Erspan,
        TunnelHeader::IpInIp => DecapKind::Ipip,
        TunnelHeader::GtpU => DecapKind::Gtpu,
        TunnelHeader::Mpls => DecapKind::Mpls,
    })
}

/// Whether these headers, which announce no tunnel, belong to a packet of one: a later fragment of it, GRE with a
/// payload that is not known.
#[inline(always)]
fn hides_tunnel(view: &Parsed, settings: DecapSettings) -> bool {
    let wanted = |kinds: &[DecapKind]| kinds.iter().any(|&kind| settings.kinds.has(kind));
    let later = view.fragment == Fragment::Later;
    view.tunnel == TunnelHeader::None
        && match view.protocol {
            protocol::GRE => wanted(&[DecapKind::Gre, DecapKind::Teb, DecapKind::Erspan]),
            protocol::IPV4 | protocol::IPV6 => later && wanted(&[DecapKind::Ipip]),
            protocol::UDP => {
                let is_port = view.has_ports && wire::is_tunnel_port(view.dst_port);
                later && is_port && wanted(&[DecapKind::Vxlan, DecapKind::Geneve, DecapKind::Gtpu])
            }
            _ => false,
        }
}

#[cold]
fn hidden(view: &Parsed) -> Obstacle {
    match view.stop {
        _ if view.fragment != Fragment::Whole => Obstacle::Fragment,
        wire::Stop::Truncated => Obstacle::Truncated,
        wire::Stop::Malformed => Obstacle::Malformed,
        wire::Stop::Complete | wire::Stop::Unknown => Obstacle::Unsupported,
    }
}

/// The EtherType of an IP packet, if `data` is one of the `announced` version, as far as its fixed header tells.
fn ip_ethertype(data: &[u8], announced: Option<u8>, short: Obstacle) -> Result<u16, Obstacle> {
    let (least, kind) = match data.first().map(|first| first >> 4) {
        Some(4) if announced != Some(6) => (ipv4::HEADER_LEN, ethertype::IPV4),
        Some(6) if announced != Some(4) => (ipv6::HEADER_LEN, ethertype::IPV6),
        Some(_) => return Err(Obstacle::Malformed),
        None => return Err(short),
    };
    if data.len() < least { Err(short) } else { Ok(kind) }
}

/// Where the IP packet of `view` ends by its own length; `None` when it gives none (offloads, jumbo payloads).
#[inline(always)]
fn ip_end(frame: &[u8], view: &Parsed) -> Option<usize> {
    let at = usize::from(view.l3_offset);
    let header = frame.get(at..)?;
    let (length, before) = match view.l3 {
        L3::Ipv4 => (header.get(2..4)?, 0),
        L3::Ipv6 => (header.get(4..6)?, ipv6::HEADER_LEN),
        L3::None | L3::Arp => return None,
    };
    match u16::from_be_bytes(*length.first_chunk()?) {
        0 => None,
        length => Some(at + before + usize::from(length)),
    }
}

/// The TCI that stands for a tunnel: the tag is the GRE key where there is one, as an ERSPAN session has only the low bits
/// of it; directions are marked by ERSPAN III, and by VXLAN of senders that number their packets.
#[inline(always)]
fn mark_of(frame: &[u8], view: &Parsed, kind: TunnelHeader, id: u32) -> u16 {
    let header = frame.get(usize::from(view.l4_offset)..).unwrap_or_default();
    let (tag, egress) = match kind {
        TunnelHeader::Vxlan => {
            let vxlan = header.get(udp::HEADER_LEN..).and_then(VxlanHeader::split);
            let egress =
                |vxlan: VxlanHeader<'_>| vxlan.flags() == NUMBERED_FLAGS && vxlan.reserved_low() & 1 == 1;
            (id, vxlan.is_some_and(|(vxlan, _)| egress(vxlan)))
        }
        TunnelHeader::Gre
        | TunnelHeader::GreTeb
        | TunnelHeader::Erspan1
        | TunnelHeader::Erspan2
        | TunnelHeader::Erspan3 => match GreHeader::split(header) {
            Ok((gre, rest)) => {
                let tail = || rest.get(erspan::TYPE2_LEN..).and_then(erspan::Type3Tail::split);
                let egress =
                    kind == TunnelHeader::Erspan3 && tail().is_some_and(|(tail, _)| tail.is_egress());
                (if gre.flags & gre::flags::KEY == 0 { id } else { gre.key }, egress)
            }
            Err(_) => (id, false),
        },
        TunnelHeader::None
        | TunnelHeader::Geneve
        | TunnelHeader::IpInIp
        | TunnelHeader::GtpU
        | TunnelHeader::Mpls => (id, false),
    };
    TunnelInfo::mark_of(tag, egress)
}

/// The number of a packet in a numbered tunnel.
#[inline(always)]
fn number_of(frame: &[u8], view: &Parsed, kind: TunnelHeader) -> Option<(u32, Bits)> {
    match kind {
        TunnelHeader::Vxlan => {
            let at = usize::from(view.l4_offset) + udp::HEADER_LEN;
            let (header, _) = frame.get(at..).and_then(VxlanHeader::split)?;
            (header.flags() == NUMBERED_FLAGS).then(|| (header.reserved(), Bits::B24))
        }
        TunnelHeader::Gre | TunnelHeader::GreTeb | TunnelHeader::Erspan2 | TunnelHeader::Erspan3 => {
            let (header, _) =
                frame.get(usize::from(view.l4_offset)..).and_then(|gre| GreHeader::split(gre).ok())?;
            (header.flags & gre::flags::SEQUENCE != 0).then_some((header.sequence, Bits::B32))
        }
        TunnelHeader::None
        | TunnelHeader::Geneve
        | TunnelHeader::Erspan1
        | TunnelHeader::IpInIp
        | TunnelHeader::GtpU
        | TunnelHeader::Mpls => None,
    }
}
