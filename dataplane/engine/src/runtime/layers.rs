//! The headers of one packet, layer by layer, for people.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_core::wire::{self, Fragment, L3, Parsed, Stop, TunnelHeader};
use sluice_model::MacAddr;

/// Tunnels that are followed, one inside the other.
const DEPTH: u8 = 8;
const ETHERNET_LEN: u16 = 14;

/// What a layer is to policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerView {
    /// The headers that policies take for the outermost ones.
    Outer,
    /// A tunnel that is taken off or looked through, or one between the others.
    Tunnel,
    /// The innermost headers.
    Inner,
}

/// One layer of headers, and the tunnel that follows.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What it is to policies.
    pub view: LayerView,
    /// Source and destination MAC address, where there is an Ethernet header.
    pub macs: Option<[MacAddr; 2]>,
    /// Source and destination IP address, if it is IP.
    pub addresses: Option<[IpAddr; 2]>,
    /// EtherType after all tags.
    pub ethertype: u16,
    /// VLAN ids, the outermost first.
    pub vlan: Vec<u16>,
    /// The IP protocol, if it is IP.
    pub protocol: Option<u8>,
    /// Source and destination port, where they are known.
    pub ports: Option<[u16; 2]>,
    /// TCP flags, FIN 0x01 to CWR 0x80.
    pub tcp_flags: u8,
    /// The kind of tunnel that follows, and its id, 0 where it has none.
    pub tunnel: Option<(&'static str, u32)>,
    /// How far it could be parsed, in words; empty = whole.
    pub obstacle: &'static str,
    /// Where it begins in the frame.
    begin: u16,
}

/// The layers of a frame, outermost first.
pub(super) fn layers(frame: &[u8]) -> Vec<Layer> {
    let outer = wire::parse(frame);
    let mut all = vec![Layer::new(frame, outer, LayerView::Outer)];
    all[0].tunnel = tunnel(&outer);
    for depth in 1..=DEPTH {
        let inner = wire::parse_innermost(frame, &outer, depth);
        let Some(before) = all.last_mut() else { break };
        if inner.inner_offset == 0 || inner.l2_offset <= before.begin {
            break;
        }
        before.tunnel = tunnel(&inner);
        all.push(Layer::new(frame, inner, LayerView::Tunnel));
    }
    all
}

/// The layers of a packet whose port took `taken` tunnels off, or looked through them: those as they came, then the
/// others as policies see them. `left` is what was left of the frame.
pub(super) fn seen(frame: &[u8], left: &[u8], taken: usize) -> Vec<Layer> {
    let mut came = layers(frame);
    let taken = taken.min(came.len());
    let rest = came.split_off(taken);
    let mut rest = if taken > 0 && left != frame { layers(left) } else { rest };
    for layer in &mut came {
        layer.view = LayerView::Tunnel;
    }
    if let Some(last) = rest.last_mut() {
        last.view = LayerView::Inner;
    }
    if let Some(first) = rest.first_mut() {
        first.view = LayerView::Outer;
    }
    came.extend(rest);
    came
}

impl Layer {
    fn new(frame: &[u8], parsed: Parsed, view: LayerView) -> Self {
        let address = |bytes: &[u8; 16]| match parsed.l3 {
            L3::Ipv4 => {
                let &[a, b, c, d, ..] = bytes;
                Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
            }
            L3::Ipv6 => Some(IpAddr::V6(Ipv6Addr::from(*bytes))),
            L3::None | L3::Arp => None,
        };
        // An inner packet without Ethernet begins with its IP header.
        let has_ethernet = parsed.l3_offset >= parsed.l2_offset.saturating_add(ETHERNET_LEN);
        let mac = |offset: usize| {
            let start = usize::from(parsed.l2_offset) + offset;
            let bytes = frame.get(start..).and_then(|rest| rest.first_chunk::<6>());
            bytes.filter(|_| has_ethernet).map(|bytes| MacAddr(*bytes))
        };
        Self {
            view,
            macs: mac(6).zip(mac(0)).map(<[_; 2]>::from),
            addresses: address(&parsed.src_addr).zip(address(&parsed.dst_addr)).map(<[_; 2]>::from),
            ethertype: parsed.ethertype,
            vlan: [parsed.vlan_tci, parsed.vlan_inner_tci]
                .into_iter()
                .take(parsed.vlan_count.into())
                .map(|tci| tci & 0xfff)
                .collect(),
            protocol: matches!(parsed.l3, L3::Ipv4 | L3::Ipv6).then_some(parsed.protocol),
            ports: parsed.has_ports.then_some([parsed.src_port, parsed.dst_port]),
            tcp_flags: parsed.tcp_flags,
            tunnel: None,
            obstacle: match (parsed.stop, parsed.fragment) {
                (Stop::Truncated, _) => "the captured bytes end inside a header",
                (Stop::Malformed, _) => "a header contradicts itself",
                (Stop::Unknown, _) => "the next header is of a kind that is not known",
                (Stop::Complete, Fragment::Later) => "a later fragment: its ports are in the first one",
                (Stop::Complete, Fragment::Whole | Fragment::First) => "",
            },
            begin: parsed.l2_offset,
        }
    }
}

/// The tunnel that these headers tell of.
fn tunnel(parsed: &Parsed) -> Option<(&'static str, u32)> {
    (parsed.tunnel != TunnelHeader::None).then_some((parsed.tunnel.name(), parsed.tunnel_id))
}
