//! The outer headers against bytes written out by hand from the RFCs and the draft.

use proptest::prelude::*;
use sluice_model::{MacAddr, Marking, Tunnel, TunnelKind, UdpChecksum};

use super::*;
use crate::wire::{self, L3, TunnelHeader, checksum};

const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
const LOCAL6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const REMOTE6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a];

const VXLAN: TunnelKind = TunnelKind::Vxlan { udp_port: 4789, udp_checksum: UdpChecksum::Auto };

pub(super) fn encap(kind: TunnelKind, marking: Marking, ipv6: bool, dont_fragment: bool) -> Encap {
    let (local, remote) = if ipv6 { ("2001:db8::1", "2001:db8::a") } else { ("192.0.2.1", "192.0.2.10") };
    let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
    let tunnel = Tunnel { kind, marking, remote, local: None, mac: None, port: None };
    let overhead = usize::from(tunnel.overhead_bytes());
    let src_mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let dst_mac = MacAddr([2, 0, 0, 0, 0, 2]);
    let encap = Encap::new(&tunnel, Endpoints { src_mac, dst_mac, local, remote }, dont_fragment).unwrap();
    assert_eq!(encap.overhead(), overhead, "what the model says of it");
    encap
}

fn fields() -> CopyFields {
    CopyFields {
        inner_len: 64,
        tag: Tag::new(0x12_3456).unwrap(),
        egress: true,
        sequence: 0x89ab_cdef,
        entropy: 0xdead_beef,
        timestamp_ns: 0x1779_abcd_ef01_2345,
        truncated: true,
        vlan_tci: Some(0xa064), // COS 5, VLAN 100
        ip_id: 0x4321,
    }
}

/// Ethernet, IP header and the rest, in one row of bytes.
fn expected4(total: u8, flags: u8, protocol: u8, sum: u16, upper: &[u8]) -> Vec<u8> {
    let mut bytes = ETHERNET.to_vec();
    bytes.extend([0x08, 0x00]);
    bytes.extend([0x45, 0x00, 0x00, total, 0x43, 0x21, flags, 0x00, 0x40, protocol]);
    bytes.extend(sum.to_be_bytes());
    bytes.extend([192, 0, 2, 1, 192, 0, 2, 10]);
    bytes.extend(upper);
    bytes
}

/// The same over IPv6, with the upper 20 bits of 0xdeadbeef as flow label.
fn expected6(payload: u8, next_header: u8, upper: &[u8]) -> Vec<u8> {
    let mut bytes = ETHERNET.to_vec();
    bytes.extend([0x86, 0xdd]);
    bytes.extend([0x60, 0x0d, 0xea, 0xdb, 0x00, payload, next_header, 0x40]);
    bytes.extend(LOCAL6);
    bytes.extend(REMOTE6);
    bytes.extend(upper);
    bytes
}

fn check(encap: &Encap, fields: &CopyFields, expected: &[u8]) {
    assert_eq!(encap.header_len(), expected.len());
    assert_eq!(encap.overhead(), expected.len() - 14);
    let mut out = [0xa5; MAX_HEADER_LEN + 2];
    encap.write(&mut out, fields);
    assert_eq!(out[..expected.len()], *expected, "\n{:02x?}\n{expected:02x?}", &out[..expected.len()]);
    assert!(out[expected.len()..].iter().all(|byte| *byte == 0xa5), "wrote past its header");
    // A buffer of exactly the length works; a shorter one stays within itself.
    let mut exact = vec![0xa5; expected.len()];
    encap.write(&mut exact, fields);
    assert_eq!(exact, expected);
    for len in 0..expected.len() {
        encap.write(&mut vec![0xa5; len], fields);
    }
}

// Source port 0xc000 | 0xbeef, destination port 4789, length 8 + 8 + 64, no checksum; flags, VNI.
const VXLAN_STANDARD: [u8; 16] =
    [0xfe, 0xef, 0x12, 0xb5, 0x00, 0x50, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x12, 0x34, 0x56, 0x00];
// Flags 0xff, low 24 bits of the sequence number, VNI, direction.
const VXLAN_REFERENCE: [u8; 16] =
    [0xfe, 0xef, 0x12, 0xb5, 0x00, 0x50, 0x00, 0x00, 0xff, 0xab, 0xcd, 0xef, 0x12, 0x34, 0x56, 0x01];
// S, 0x88be, sequence; version 1, VLAN 100, COS 5, En 3, T 1, session 0x056; index 1 (direction).
const ERSPAN2: [u8; 16] =
    [0x10, 0x00, 0x88, 0xbe, 0x89, 0xab, 0xcd, 0xef, 0x10, 0x64, 0xbc, 0x56, 0x00, 0x00, 0x00, 0x01];
// S, 0x22eb, sequence; version 2, VLAN, COS, BSO 0, T, session; 1691572036020806469 / 100 modulo 2^32; SGT 0, P 1,
// FT 0, Hw 0, D 1, Gra 1, O 0.
const ERSPAN3: [u8; 20] = [
    0x10, 0x00, 0x22, 0xeb, 0x89, 0xab, 0xcd, 0xef, 0x20, 0x64, 0xa4, 0x56, 0x0f, 0x30, 0xa6, 0xc0, 0x00,
    0x00, 0x80, 0x0a,
];
// K and S, 0x22eb, key, sequence; version 2 ...; upper 48 bits of the time; P 1, D 1, Gra 3.
const ERSPAN3_REFERENCE: [u8; 24] = [
    0x30, 0x00, 0x22, 0xeb, 0x00, 0x12, 0x34, 0x56, 0x89, 0xab, 0xcd, 0xef, 0x20, 0x64, 0xa4, 0x56, 0x17,
    0x79, 0xab, 0xcd, 0xef, 0x01, 0x80, 0x0e,
];

#[test]
fn every_variant_over_ipv4() {
    let cases: [(TunnelKind, Marking, u8, u16, &[u8]); 5] = [
        (VXLAN, Marking::Standard, 17, 0x735c, &VXLAN_STANDARD),
        (VXLAN, Marking::Reference, 17, 0x735c, &VXLAN_REFERENCE),
        (TunnelKind::Erspan2, Marking::Standard, 47, 0x733e, &ERSPAN2),
        (TunnelKind::Erspan3, Marking::Standard, 47, 0x733a, &ERSPAN3),
        (TunnelKind::Erspan3, Marking::Reference, 47, 0x7336, &ERSPAN3_REFERENCE),
    ];
    for (kind, marking, protocol, sum, upper) in cases {
        let total = 20 + upper.len() as u8 + 64;
        let expected = expected4(total, 0x40, protocol, sum, upper);
        check(&encap(kind, marking, false, true), &fields(), &expected);
    }
    let expected = expected4(100, 0x00, 17, 0xb35c, &VXLAN_STANDARD);
    check(&encap(VXLAN, Marking::Standard, false, false), &fields(), &expected);
}

#[test]
fn every_variant_over_ipv6() {
    let cases: [(TunnelKind, Marking, u8, &[u8]); 5] = [
        (VXLAN, Marking::Standard, 17, &VXLAN_STANDARD),
        (VXLAN, Marking::Reference, 17, &VXLAN_REFERENCE),
        (TunnelKind::Erspan2, Marking::Standard, 47, &ERSPAN2),
        (TunnelKind::Erspan3, Marking::Standard, 47, &ERSPAN3),
        (TunnelKind::Erspan3, Marking::Reference, 47, &ERSPAN3_REFERENCE),
    ];
    for (kind, marking, next_header, upper) in cases {
        let expected = expected6(upper.len() as u8 + 64, next_header, upper);
        check(&encap(kind, marking, true, true), &fields(), &expected);
    }
}

#[test]
fn our_own_parser_finds_the_copy() {
    for (kind, marking, tunnel) in [
        (VXLAN, Marking::Standard, TunnelHeader::Vxlan),
        (VXLAN, Marking::Reference, TunnelHeader::Vxlan),
        (TunnelKind::Erspan2, Marking::Standard, TunnelHeader::Erspan2),
        (TunnelKind::Erspan3, Marking::Standard, TunnelHeader::Erspan3),
        (TunnelKind::Erspan3, Marking::Reference, TunnelHeader::Erspan3),
    ] {
        for ipv6 in [false, true] {
            let encap = encap(kind, marking, ipv6, true);
            let mut packet = vec![0; encap.header_len() + 64];
            encap.write(&mut packet, &fields());
            let parsed = wire::parse(&packet);
            assert_eq!((parsed.tunnel, usize::from(parsed.inner_offset)), (tunnel, encap.header_len()));
        }
    }
}

#[test]
fn ingress_untagged_whole_copies_clear_their_bits() {
    let fields = CopyFields { egress: false, truncated: false, vlan_tci: None, ..fields() };
    let mut out = [0xa5; MAX_HEADER_LEN];
    encap(VXLAN, Marking::Reference, false, true).write(&mut out, &fields);
    assert_eq!(out[46..50], [0x12, 0x34, 0x56, 0x00]);
    encap(TunnelKind::Erspan2, Marking::Standard, false, true).write(&mut out, &fields);
    assert_eq!(out[42..50], [0x10, 0x00, 0x00, 0x56, 0, 0, 0, 0]);
    encap(TunnelKind::Erspan3, Marking::Standard, false, true).write(&mut out, &fields);
    assert_eq!(out[42..46], [0x20, 0x00, 0x00, 0x56]);
    assert_eq!(out[50..54], [0x00, 0x00, 0x80, 0x02]);
    encap(TunnelKind::Erspan3, Marking::Reference, false, true).write(&mut out, &fields);
    assert_eq!(out[54..58], [0xef, 0x01, 0x80, 0x06]);
}

#[test]
fn sequence_numbers_and_checksums_are_asked_for_where_they_are_carried() {
    for ipv6 in [false, true] {
        assert!(!encap(VXLAN, Marking::Standard, ipv6, true).uses_sequence());
        assert!(encap(VXLAN, Marking::Reference, ipv6, true).uses_sequence());
        assert!(encap(TunnelKind::Erspan2, Marking::Standard, ipv6, true).uses_sequence());
        assert!(encap(TunnelKind::Erspan3, Marking::Standard, ipv6, true).uses_sequence());
        assert_eq!(encap(VXLAN, Marking::Standard, ipv6, true).needs_udp_checksum(), ipv6);
        assert!(!encap(TunnelKind::Erspan3, Marking::Standard, ipv6, true).needs_udp_checksum());
        for (setting, needed) in [(UdpChecksum::On, true), (UdpChecksum::Off, false)] {
            let kind = TunnelKind::Vxlan { udp_port: 4789, udp_checksum: setting };
            assert_eq!(encap(kind, Marking::Standard, ipv6, true).needs_udp_checksum(), needed);
        }
    }
}

#[test]
fn next_hop_and_source_can_change() {
    let mut changed = encap(VXLAN, Marking::Standard, false, true);
    changed.set_next_hop(MacAddr([6, 5, 4, 3, 2, 1]));
    changed.set_source(MacAddr([6, 6, 6, 6, 6, 6]), "198.51.100.7".parse().unwrap()).unwrap();
    let mut out = [0xa5; MAX_HEADER_LEN];
    changed.write(&mut out, &fields());
    assert_eq!(out[..12], [6, 5, 4, 3, 2, 1, 6, 6, 6, 6, 6, 6]);
    assert_eq!(out[26..34], [198, 51, 100, 7, 192, 0, 2, 10]);
    assert_eq!(checksum::fold(checksum::sum(&out[14..34], 0)), 0xffff);
    let error = changed.set_source(MacAddr::default(), "2001:db8::1".parse().unwrap()).unwrap_err();
    let remote = "192.0.2.10".parse().unwrap();
    assert_eq!(error, EncapError::Family { local: "2001:db8::1".parse().unwrap(), remote });
}

#[test]
fn impossible_tunnels_are_refused() {
    let local = "2001:db8::1".parse().unwrap();
    let remote = "192.0.2.10".parse().unwrap();
    let ends = Endpoints { src_mac: MacAddr::default(), dst_mac: MacAddr::default(), local, remote };
    let mut tunnel =
        Tunnel { kind: VXLAN, marking: Marking::Reference, remote, local: None, mac: None, port: None };
    assert_eq!(Encap::new(&tunnel, ends, true).unwrap_err(), EncapError::Family { local, remote });
    tunnel.kind = TunnelKind::Erspan2;
    assert_eq!(Encap::new(&tunnel, ends, true).unwrap_err(), EncapError::Erspan2Reference);
}

#[test]
fn inner_vlan_carries_tag_and_direction() {
    assert_eq!(inner_vlan_tag(Tag::new(0x12_3456).unwrap(), false), [0x81, 0x00, 0x84, 0x56]);
    assert_eq!(inner_vlan_tag(Tag::new(0x12_3456).unwrap(), true), [0x81, 0x00, 0xa4, 0x56]);
    assert_eq!(inner_vlan_tag(Tag::new(0xff_ffff).unwrap(), true), [0x81, 0x00, 0xaf, 0xff]);
}

#[test]
fn entropy_spreads_neighbours_and_ignores_direction() {
    let flow = |src: [u8; 4], src_port, dst: [u8; 4], dst_port| {
        let mut parsed = Parsed { src_port, dst_port, protocol: 6, l3: L3::Ipv4, ..Parsed::EMPTY };
        parsed.src_addr[..4].copy_from_slice(&src);
        parsed.dst_addr[..4].copy_from_slice(&dst);
        entropy(&parsed)
    };
    let mut ports = std::collections::BTreeSet::new();
    for client in 0..64u8 {
        for port in 40_000..40_064 {
            let there = flow([10, 0, 0, client], port, [10, 0, 1, 1], 443);
            assert_eq!(there, flow([10, 0, 1, 1], 443, [10, 0, 0, client], port));
            ports.insert(there & 0x3fff);
        }
    }
    // 4,096 flows on 16,384 ports: chance leaves about 3,624 distinct ones.
    assert!(ports.len() > 3_500, "{}", ports.len());
}

/// The pseudo-header written out (RFC 768, RFC 8200 section 8.1), then the datagram: what a receiver sums up.
fn received_udp_sum(encap: &Encap, packet: &[u8]) -> u16 {
    let udp = &packet[encap.upper_offset()..];
    let mut bytes = Vec::new();
    if encap.ipv6() {
        bytes.extend(&packet[22..54]);
        bytes.extend((udp.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, 17]);
    } else {
        bytes.extend(&packet[26..34]);
        bytes.extend([0, 17]);
        bytes.extend((udp.len() as u16).to_be_bytes());
    }
    bytes.extend(udp);
    super::tests::naive_sum(&bytes)
}

/// RFC 1071, word by word.
pub(super) fn naive_sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

prop_compose! {
    fn any_fields()(
        inner_len in 0u32..9_000, tag in 0u32..=Tag::MAX, egress: bool, sequence: u32, entropy: u32,
        timestamp_ns: u64, truncated: bool, vlan_tci: Option<u16>, ip_id: u16,
    ) -> CopyFields {
        let tag = Tag::new(tag).unwrap();
        CopyFields {
            inner_len, tag, egress, sequence, entropy, timestamp_ns, truncated, vlan_tci, ip_id,
        }
    }
}

proptest! {
    #[test]
    fn checksums_are_right(
        fields in any_fields(), reference: bool, ipv6: bool, seed in any::<u8>(), cut in 0usize..9_000,
    ) {
        let kind = TunnelKind::Vxlan { udp_port: 4789, udp_checksum: UdpChecksum::On };
        let marking = if reference { Marking::Reference } else { Marking::Standard };
        let encap = encap(kind, marking, ipv6, true);
        let mut packet = vec![0xa5; encap.header_len()];
        let inner: Vec<u8> = (0..fields.inner_len).map(|i| (i as u8).wrapping_mul(seed)).collect();
        encap.write(&mut packet, &fields);
        if !ipv6 {
            prop_assert_eq!(naive_sum(&packet[14..34]), 0xffff);
        }
        let (a, b) = inner.split_at(cut.min(inner.len()));
        let mut parts = PartsSum::default();
        parts.add(a);
        parts.add(b);
        // Whatever the field held before does not matter.
        encap.write_udp_pseudo_header(&mut packet);
        encap.write_udp_checksum(&mut packet, parts.sum());
        packet.extend(&inner);
        prop_assert_eq!(received_udp_sum(&encap, &packet), 0xffff);
        let at = encap.upper_offset() + 6;
        prop_assert_ne!(&packet[at..at + 2], [0u8, 0]);

        // A NIC sums up the datagram over the pseudo-header that software left in the field.
        encap.write_udp_pseudo_header(&mut packet);
        let value = !naive_sum(&packet[encap.upper_offset()..]);
        packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
        prop_assert_eq!(received_udp_sum(&encap, &packet), 0xffff);
    }

    #[test]
    fn lengths_beyond_the_limit_do_not_wrap(inner_len in 65_400u32.., ipv6: bool, over in 0usize..4) {
        let kinds = [VXLAN, TunnelKind::Erspan2, TunnelKind::Erspan3, VXLAN];
        let encap = encap(kinds[over], Marking::Standard, ipv6, true);
        let mut out = [0xa5; MAX_HEADER_LEN];
        encap.write(&mut out, &CopyFields { inner_len, ..fields() });
        let at = if ipv6 { 18 } else { 16 };
        let len = usize::from(u16::from_be_bytes([out[at], out[at + 1]])) + if ipv6 { 40 } else { 0 };
        prop_assert_eq!(len, (encap.overhead() + inner_len as usize).min(MAX_IP_PACKET));
        prop_assert_eq!(encap.max_inner_len(u16::MAX), MAX_IP_PACKET - encap.overhead());
    }
}
