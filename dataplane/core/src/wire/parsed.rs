//! What the parser found in one frame, for one view of its headers.

/// The headers of one view (outermost, or innermost) of a frame: one cache line.
///
/// All offsets count from the first byte of the *frame*, also in the inner view. They never exceed the captured
/// length, nor 65,535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Parsed {
    /// Source IP address in wire order; IPv4 in the first four bytes, the others zero.
    pub src_addr: [u8; 16],
    /// Destination IP address in wire order; IPv4 in the first four bytes, the others zero.
    pub dst_addr: [u8; 16],
    /// Source port (TCP, UDP, SCTP), 0 unless `has_ports`.
    pub src_port: u16,
    /// Destination port (TCP, UDP, SCTP), 0 unless `has_ports`.
    pub dst_port: u16,
    /// Tunnel id (VNI, GRE key, TEID, ERSPAN session, bottom label of a pseudowire), 0 unless `tunnel` says there is one. In the outer view that of
    /// the outermost tunnel; in the inner view that of the tunnel that encloses these headers.
    pub tunnel_id: u32,
    /// EtherType after all VLAN tags (0x8847 for MPLS; in 802.3 length frames that of SNAP); 0 when there is none.
    pub ethertype: u16,
    /// TCI of the outermost VLAN tag; meaningful when `vlan_count` > 0.
    pub vlan_tci: u16,
    /// TCI of the second VLAN tag; meaningful when `vlan_count` > 1.
    pub vlan_inner_tci: u16,
    /// Where this view's Ethernet header starts; for an inner view without one (GRE, IP-in-IP), where its IP header starts.
    pub l2_offset: u16,
    /// Where the L3 header starts (IP, ARP); the end of the last L2 header when `l3` is [`L3::None`].
    pub l3_offset: u16,
    /// Where the L4 header starts (of whatever protocol): after the IP header and its extension headers. 0 when there is
    /// none, for a later fragment, and for a TCP header cut before its flags.
    pub l4_offset: u16,
    /// Where the payload starts for truncation: the end of the last header that was understood, up to and including
    /// L4 (spec: TCP by its data offset, UDP 8, SCTP 12, ICMP 8, ARP 28, GRE with its options; other protocols and
    /// later fragments: after the IP header).
    pub header_end: u16,
    /// Where the encapsulated packet of `tunnel` starts (in an inner view: these headers); 0 when there is none.
    pub inner_offset: u16,
    /// IP protocol, or the last next-header value of IPv6; meaningful when `l3` is IP.
    pub protocol: u8,
    /// TCP flags (FIN 0x01 to CWR 0x80); meaningful when `protocol` is 6 and `l4_offset` > 0, which is so only when they
    /// were captured.
    pub tcp_flags: u8,
    /// The number of VLAN tags.
    pub vlan_count: u8,
    /// The network layer.
    pub l3: L3,
    /// The place of the packet in a fragmented datagram.
    pub fragment: Fragment,
    /// The tunnel that starts after this view's L4 header (outer view) or that encloses this view (inner view).
    pub tunnel: TunnelHeader,
    /// Why parsing stopped.
    pub stop: Stop,
    /// Whether the ports were read (or, for a later fragment, filled in from its first one).
    pub has_ports: bool,
}

const _: () = assert!(size_of::<Parsed>() == 64);

impl Parsed {
    /// Nothing understood yet.
    pub const EMPTY: Self = Self {
        src_addr: [0; 16],
        dst_addr: [0; 16],
        src_port: 0,
        dst_port: 0,
        tunnel_id: 0,
        ethertype: 0,
        vlan_tci: 0,
        vlan_inner_tci: 0,
        l2_offset: 0,
        l3_offset: 0,
        l4_offset: 0,
        header_end: 0,
        inner_offset: 0,
        protocol: 0,
        tcp_flags: 0,
        vlan_count: 0,
        l3: L3::None,
        fragment: Fragment::Whole,
        tunnel: TunnelHeader::None,
        stop: Stop::Complete,
        has_ports: false,
    };

    /// Whether the promises of the fields hold for a frame of `cap_len` captured bytes; for tests.
    ///
    /// # Errors
    /// The promise that is broken.
    pub fn check(&self, cap_len: usize) -> Result<(), &'static str> {
        let end = cap_len.min(usize::from(u16::MAX));
        let is_ip = matches!(self.l3, L3::Ipv4 | L3::Ipv6);
        let is_inner = self.l2_offset > 0;
        let has_tunnel = self.tunnel != TunnelHeader::None;
        let rules = [
            (usize::from(self.header_end) <= end, "header_end <= captured length"),
            (usize::from(self.inner_offset) <= end, "inner_offset <= captured length"),
            (self.l2_offset <= self.l3_offset, "l2_offset <= l3_offset"),
            (self.l3_offset <= self.header_end, "l3_offset <= header_end"),
            (self.l4_offset == 0 || self.l3_offset < self.l4_offset, "l3_offset < l4_offset"),
            (self.l4_offset <= self.header_end, "l4_offset <= header_end"),
            (self.l4_offset == 0 || is_ip, "L4 only in IP"),
            (has_tunnel == (self.inner_offset > 0), "inner_offset exactly with a tunnel"),
            (
                is_inner || !has_tunnel || self.inner_offset >= self.header_end,
                "the tunnel's packet after the headers",
            ),
            (!is_inner || self.inner_offset == self.l2_offset, "an inner view starts at inner_offset"),
            (has_tunnel || self.tunnel_id == 0, "a tunnel id only with a tunnel"),
            (self.fragment != Fragment::Later || self.l4_offset == 0, "no L4 in later fragments"),
            (is_ip || self.fragment == Fragment::Whole, "fragments only in IP"),
            (is_ip || self.protocol == 0, "a protocol only in IP"),
            (is_ip || (self.src_addr, self.dst_addr) == ([0; 16], [0; 16]), "addresses only in IP"),
            (!self.has_ports || matches!(self.protocol, 6 | 17 | 132), "ports only in TCP, UDP, SCTP"),
            (self.has_ports || (self.src_port, self.dst_port) == (0, 0), "no ports but those read"),
            (self.tcp_flags == 0 || (self.protocol == 6 && self.l4_offset > 0), "flags only in TCP"),
            (self.vlan_count > 0 || self.vlan_tci == 0, "a TCI only with a tag"),
            (self.vlan_count > 1 || self.vlan_inner_tci == 0, "a second TCI only with a second tag"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, promise)| Err(promise))
    }
}

/// The network layer of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum L3 {
    /// None that is understood.
    None,
    /// IPv4 (RFC 791).
    Ipv4,
    /// IPv6 (RFC 8200).
    Ipv6,
    /// ARP (RFC 826).
    Arp,
}

/// The place of a packet in a fragmented datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// Not a fragment (an IPv6 atomic fragment, RFC 6946, included).
    Whole,
    /// Offset zero, more to come: it holds the L4 header.
    First,
    /// Offset above zero: no L4 header.
    Later,
}

/// The kind of tunnel header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TunnelHeader {
    /// No tunnel.
    None,
    /// VXLAN (RFC 7348), also with the flags byte 0xff.
    Vxlan,
    /// GENEVE (RFC 8926).
    Geneve,
    /// GRE carrying IP (RFC 2784, 2890).
    Gre,
    /// GRE carrying Ethernet (protocol 0x6558).
    GreTeb,
    /// ERSPAN type I.
    Erspan1,
    /// ERSPAN type II.
    Erspan2,
    /// ERSPAN type III.
    Erspan3,
    /// IP in IP (protocols 4 and 41).
    IpInIp,
    /// GTP-U T-PDU (3GPP TS 29.281).
    GtpU,
    /// An Ethernet pseudowire over MPLS (RFC 4448). MPLS before IP is no tunnel of the parser: IP is its network layer.
    Mpls,
}

impl TunnelHeader {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Gre => "gre",
            Self::GreTeb => "teb",
            Self::Erspan1 => "erspan1",
            Self::Erspan2 => "erspan2",
            Self::Erspan3 => "erspan3",
            Self::IpInIp => "ipip",
            Self::GtpU => "gtpu",
            Self::Mpls => "mpls",
        }
    }
}

/// Why parsing stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    /// All the way to L4 (or to the end of what is known of this protocol).
    Complete,
    /// The captured bytes ended inside a header.
    Truncated,
    /// A header contradicts itself (a length field below its minimum, a wrong version).
    Malformed,
    /// The next header is of a kind that is not known.
    Unknown,
}
