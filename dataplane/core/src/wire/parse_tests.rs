//! Do the walk and its promises hold, on literal packets and on arbitrary bytes?

use proptest::prelude::*;

use super::{Fragment, L3, Parsed, Stop, TunnelHeader, parse, parse_innermost};

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype.to_be_bytes(), payload].concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (20 + payload.len() as u16).to_be_bytes();
    let header = [0x45, 0, high, low, 0, 1, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2];
    [&header, payload].concat()
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, high, low, next_header, 64];
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    [&packet, payload].concat()
}

fn udp(dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let ([high, low], [port_high, port_low]) =
        ((8 + payload.len() as u16).to_be_bytes(), dst_port.to_be_bytes());
    [&[0xc3, 0x50, port_high, port_low, high, low, 0, 0][..], payload].concat()
}

/// From port 443 to 50000, PSH and ACK, no options, three bytes of payload.
const TCP: [u8; 23] =
    [1, 0xbb, 0xc3, 0x50, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 2, 0, 0, 0, 0, 0, b'a', b'b', b'c'];

fn v4(a: [u8; 4]) -> [u8; 16] {
    let mut addr = [0; 16];
    addr[..4].copy_from_slice(&a);
    addr
}

fn innermost(frame: &[u8]) -> Parsed {
    parse_innermost(frame, &parse(frame), 8)
}

#[test]
fn plain_tcp_and_udp() {
    let tcp = Parsed {
        src_addr: v4([192, 0, 2, 1]),
        dst_addr: v4([198, 51, 100, 2]),
        src_port: 443,
        dst_port: 50000,
        ethertype: 0x0800,
        l3_offset: 14,
        l4_offset: 34,
        header_end: 54,
        protocol: 6,
        tcp_flags: 0x18,
        l3: L3::Ipv4,
        has_ports: true,
        ..Parsed::EMPTY
    };
    assert_eq!(parse(&ethernet(0x0800, &ipv4(6, &TCP))), tcp);
    // Short enough for the general walk.
    let udp = Parsed { src_port: 50000, dst_port: 53, header_end: 42, protocol: 17, tcp_flags: 0, ..tcp };
    let mut frame = ethernet(0x0800, &ipv4(17, &udp_bytes()));
    assert_eq!(parse(&frame), udp);
    frame.resize(60, 0);
    assert_eq!(parse(&frame), udp);
}

fn udp_bytes() -> Vec<u8> {
    udp(53, &[])
}

#[test]
fn tags_labels_and_802_3() {
    let packet = ipv4(6, &TCP);
    let tagged = [&[0x20, 100, 0x81, 0][..], &[0, 200, 8, 0], &packet].concat();
    let parsed = parse(&ethernet(0x88a8, &tagged));
    assert_eq!((parsed.vlan_count, parsed.vlan_tci, parsed.vlan_inner_tci), (2, 0x2064, 200));
    assert_eq!((parsed.ethertype, parsed.l3_offset, parsed.header_end), (0x0800, 22, 62));

    let labels = [&[0, 1, 0, 64][..], &[0, 1, 0x11, 64], &ipv6(6, &TCP)].concat();
    let parsed = parse(&ethernet(0x8847, &labels));
    assert_eq!((parsed.ethertype, parsed.l3, parsed.l3_offset), (0x8847, L3::Ipv6, 22));
    // A pseudowire: neither IPv4 nor IPv6 after the labels.
    let parsed = parse(&ethernet(0x8847, &[0, 1, 1, 64, 0, 0, 0, 0]));
    assert_eq!((parsed.l3, parsed.stop, parsed.header_end), (L3::None, Stop::Unknown, 18));

    let parsed = parse(&ethernet(38, &[0x42, 0x42, 3, 0, 0]));
    assert_eq!((parsed.ethertype, parsed.stop, parsed.header_end), (0, Stop::Unknown, 14));
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &packet].concat();
    let parsed = parse(&ethernet(51, &snap));
    assert_eq!((parsed.ethertype, parsed.l3_offset, parsed.dst_port), (0x0800, 22, 50000));

    // LLDP: not known, kept.
    let parsed = parse(&ethernet(0x88cc, &[2, 7, 4]));
    assert_eq!((parsed.ethertype, parsed.stop, parsed.header_end), (0x88cc, Stop::Unknown, 14));
    // More tags than are followed.
    let parsed = parse(&ethernet(0x8100, &[0, 1, 0x81, 0].repeat(20)));
    assert_eq!((parsed.vlan_count, parsed.stop, parsed.header_end), (8, Stop::Unknown, 46));
    let parsed = parse(&ethernet(0x8847, &[0, 1, 0, 64].repeat(40)));
    assert_eq!((parsed.stop, parsed.header_end), (Stop::Unknown, 14 + 64));
}

#[test]
fn header_ends_for_truncation() {
    let end = |protocol, payload: &[u8]| parse(&ethernet(0x0800, &ipv4(protocol, payload))).header_end - 34;
    let mut options = TCP.to_vec();
    options[12] = 0x80;
    options.extend([1; 20]);
    assert_eq!(end(6, &options), 32);
    options[12] = 0x40; // it lies
    assert_eq!(end(6, &options), 20);
    assert_eq!(end(17, &[0; 60]), 8);
    assert_eq!(end(132, &[0; 60]), 12);
    assert_eq!(end(1, &[8; 60]), 8);
    assert_eq!(end(47, &[&[0xb0, 0, 0x65, 0x58][..], &[0; 60]].concat()), 16);
    for other in [2, 50, 89, 103, 4, 41] {
        assert_eq!(end(other, &[0; 60]), 0, "protocol {other}");
    }
    assert_eq!(parse(&ethernet(0x86dd, &ipv6(58, &[135; 24]))).header_end, 62);
    let parsed = parse(&ethernet(0x0806, &[0; 46]));
    assert_eq!((parsed.l3, parsed.header_end, parsed.stop), (L3::Arp, 42, Stop::Complete));
    // PPTP: the header is known, what follows is not.
    let pptp = [0x30, 0x81, 0x88, 0x0b, 0, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 3];
    let parsed = parse(&ethernet(0x0800, &ipv4(47, &pptp)));
    assert_eq!((parsed.header_end, parsed.stop, parsed.tunnel), (50, Stop::Unknown, TunnelHeader::None));
}

#[test]
fn lengths_that_lie() {
    let frame = ethernet(0x0800, &ipv4(6, &TCP));
    let with_total_len = |total: u16| {
        let mut frame = frame.clone();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        parse(&frame)
    };
    // Too large, or unfinished by an offload: as if it were right.
    for total in [0, 43, 9000, 65535] {
        assert_eq!(with_total_len(total), parse(&frame), "{total}");
    }
    let parsed = with_total_len(19);
    assert_eq!((parsed.l3, parsed.stop, parsed.header_end), (L3::None, Stop::Malformed, 14));
    // The padding after an IPv4 packet is no TCP header.
    for total in [20, 39] {
        let parsed = with_total_len(total);
        assert_eq!((parsed.l3, parsed.protocol, parsed.stop), (L3::Ipv4, 6, Stop::Malformed));
        assert_eq!((parsed.l4_offset, parsed.has_ports, parsed.header_end), (0, false, 34));
    }
    let mut udp_lies = ethernet(0x0800, &ipv4(17, &udp(4789, &[8, 0, 0, 0, 0, 0, 9, 0])));
    udp_lies[38..40].copy_from_slice(&[0, 0]);
    assert_eq!((parse(&udp_lies).header_end, parse(&udp_lies).tunnel_id), (42, 9));
    let mut version = ethernet(0x86dd, &ipv6(6, &TCP));
    version[14] = 0x45;
    assert_eq!((parse(&version).l3, parse(&version).stop), (L3::None, Stop::Malformed));
    let mut payload_len = ethernet(0x86dd, &ipv6(6, &TCP));
    payload_len[18..20].copy_from_slice(&[0, 19]);
    assert_eq!((parse(&payload_len).l4_offset, parse(&payload_len).stop), (0, Stop::Malformed));
    payload_len[18..20].copy_from_slice(&[0, 0]);
    assert_eq!((parse(&payload_len).l4_offset, parse(&payload_len).stop), (54, Stop::Complete));
}

#[test]
fn fragments() {
    let mut frame = ethernet(0x0800, &ipv4(17, &udp(53, &[0; 16])));
    frame[20..22].copy_from_slice(&[0x20, 0]);
    let first = parse(&frame);
    assert_eq!((first.fragment, first.dst_port, first.header_end), (Fragment::First, 53, 42));
    frame[20..22].copy_from_slice(&[0, 0xb9]);
    let later = parse(&frame);
    assert_eq!((later.fragment, later.has_ports, later.protocol), (Fragment::Later, false, 17));
    assert_eq!((later.l4_offset, later.header_end, later.stop), (0, 34, Stop::Complete));

    for (field, fragment, header_end) in
        [([0, 0], Fragment::Whole, 70), ([0, 1], Fragment::First, 70), ([5, 0xa8], Fragment::Later, 62)]
    {
        let header = [17, 0, field[0], field[1], 0, 0, 0, 1];
        let frame = ethernet(0x86dd, &ipv6(44, &[&header[..], &udp(53, &[])].concat()));
        let parsed = parse(&frame);
        assert_eq!((parsed.fragment, parsed.header_end, parsed.protocol), (fragment, header_end, 17));
        assert_eq!(parsed.has_ports, fragment != Fragment::Later);
    }
}

#[test]
fn extension_headers() {
    let chain = [
        &[43, 0, 1, 4, 0, 0, 0, 0][..],                     // hop-by-hop
        &[60, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // routing
        &[51, 0, 1, 4, 0, 0, 0, 0],                         // destination
        &[6, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1],              // authentication
        &TCP,
    ]
    .concat();
    let parsed = parse(&ethernet(0x86dd, &ipv6(0, &chain)));
    assert_eq!((parsed.protocol, parsed.l3_offset, parsed.l4_offset), (6, 14, 98));
    assert_eq!((parsed.header_end, parsed.tcp_flags, parsed.stop), (118, 0x18, Stop::Complete));
    let none = parse(&ethernet(0x86dd, &ipv6(59, &[1, 2, 3])));
    assert_eq!((none.protocol, none.l4_offset, none.header_end), (59, 0, 54));
    assert_eq!(none.stop, Stop::Complete);
    let endless = parse(&ethernet(0x86dd, &ipv6(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(40))));
    assert_eq!((endless.stop, endless.header_end), (Stop::Unknown, 54 + 16 * 8));
}

#[test]
fn tunnels() {
    let inner = ethernet(0x8100, &[&[0, 7, 8, 0][..], &ipv4(6, &TCP)].concat());
    let ip = |protocol, payload: &[u8]| ethernet(0x0800, &ipv4(protocol, payload));
    let with_inner = |header: &[u8]| [header, &inner].concat();
    let erspan3 = [0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0x64, 2, 9, 1, 2, 3, 4, 0, 9, 0, 1];
    let cases: [(&str, Vec<u8>, TunnelHeader, u32, u16); 12] = [
        ("vxlan", ip(17, &udp(4789, &with_inner(&[8, 0, 0, 0, 0, 1, 2, 0]))), TunnelHeader::Vxlan, 258, 50),
        ("0xff", ip(17, &udp(4789, &with_inner(&[0xff, 1, 2, 3, 0, 0, 7, 1]))), TunnelHeader::Vxlan, 7, 50),
        ("linux", ip(17, &udp(8472, &with_inner(&[8, 0, 0, 0, 0, 0, 7, 0]))), TunnelHeader::Vxlan, 7, 50),
        (
            "geneve",
            ip(17, &udp(6081, &with_inner(&[1, 0, 0x65, 0x58, 0, 0, 5, 0, 1, 2, 3, 4]))),
            TunnelHeader::Geneve,
            5,
            54,
        ),
        ("teb", ip(47, &with_inner(&[0x20, 0, 0x65, 0x58, 0, 0, 0, 9])), TunnelHeader::GreTeb, 9, 42),
        ("erspan 1", ip(47, &with_inner(&[0, 0, 0x88, 0xbe])), TunnelHeader::Erspan1, 0, 38),
        (
            "erspan 2",
            ip(47, &with_inner(&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0x64, 0xe2, 9, 0, 0, 0, 1])),
            TunnelHeader::Erspan2,
            0x209,
            50,
        ),
        (
            "erspan 3",
            ip(47, &with_inner(&[&erspan3[..], &[0; 8]].concat())),
            TunnelHeader::Erspan3,
            0x209,
            62,
        ),
        ("4 in 4", ip(4, &ipv4(6, &TCP)), TunnelHeader::IpInIp, 0, 34),
        ("6 in 4", ip(41, &ipv6(6, &TCP)), TunnelHeader::IpInIp, 0, 34),
        (
            "gtp-u",
            ip(17, &udp(2152, &[&[0x32, 0xff, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0][..], &ipv4(6, &TCP)].concat())),
            TunnelHeader::GtpU,
            256,
            54,
        ),
        ("gre", ip(47, &[&[0, 0, 8, 0][..], &ipv4(6, &TCP)].concat()), TunnelHeader::Gre, 0, 38),
    ];
    for (name, frame, tunnel, id, inner_offset) in cases {
        let outer = parse(&frame);
        assert_eq!((outer.tunnel, outer.tunnel_id, outer.inner_offset), (tunnel, id, inner_offset), "{name}");
        let inner = innermost(&frame);
        assert_eq!((inner.tunnel, inner.tunnel_id, inner.inner_offset), (tunnel, id, inner_offset), "{name}");
        assert_eq!((inner.l2_offset, inner.dst_port, inner.tcp_flags), (inner_offset, 50000, 0x18), "{name}");
        assert_eq!(usize::from(inner.header_end), frame.len() - 3, "{name}");
        assert_eq!(parse_innermost(&frame, &outer, 0), outer, "{name}");
    }
}

#[test]
fn what_only_looks_like_a_tunnel() {
    for payload in [
        udp(4789, &[0; 30]),                                 // no VNI flag
        udp(8472, &[8, 0, 0, 1, 0, 0, 7, 0, 1, 2, 3]),       // reserved bits on the port that others use
        udp(6081, &[0x40, 0, 0x65, 0x58, 0, 0, 0, 0, 0]),    // version 1
        udp(6081, &[0x3f, 0, 0x65, 0x58, 0, 0, 0, 0, 0]),    // options beyond the end
        udp(2152, &[0x32, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]), // an echo request
        udp(4789, &[8, 0, 0]),
    ] {
        let frame = ethernet(0x0800, &ipv4(17, &payload));
        let parsed = parse(&frame);
        assert_eq!((parsed.tunnel, parsed.header_end, parsed.stop), (TunnelHeader::None, 42, Stop::Complete));
        assert_eq!(innermost(&frame), parsed);
    }
}

#[test]
fn nested_tunnels_and_the_depth_limit() {
    let mut frame = ethernet(0x0800, &ipv4(6, &TCP));
    for vni in 1..=4 {
        frame = ethernet(0x0800, &ipv4(17, &udp(4789, &[&[8, 0, 0, 0, 0, 0, vni, 0][..], &frame].concat())));
    }
    let outer = parse(&frame);
    assert_eq!(outer.tunnel_id, 4);
    for (limit, vni, at) in [(1, 4, 50), (2, 3, 100), (4, 1, 200), (9, 1, 200)] {
        let view = parse_innermost(&frame, &outer, limit);
        assert_eq!((view.tunnel_id, view.l2_offset), (vni, at), "{limit}");
    }
    // Nothing of the innermost Ethernet header was captured: the one before is the innermost.
    frame.truncate(205);
    assert_eq!(innermost(&frame).l2_offset, 150);
}

#[test]
fn cut_headers() {
    let frame = ethernet(0x0800, &ipv4(6, &TCP));
    for (cut, header_end, l4_offset, has_ports) in [
        (0, 0, 0, false),
        (13, 0, 0, false),
        (14, 14, 0, false),
        (33, 14, 0, false),
        (34, 34, 0, false),
        (38, 38, 0, true),
        (47, 47, 0, true),
        (48, 48, 34, true),
        (53, 53, 34, true),
    ] {
        let parsed = parse(&frame[..cut]);
        assert_eq!(
            (parsed.header_end, parsed.l4_offset, parsed.has_ports, parsed.stop),
            (header_end, l4_offset, has_ports, Stop::Truncated),
            "{cut}"
        );
    }
    assert_eq!(parse(&frame[..54]).stop, Stop::Complete);
}

#[test]
fn frames_beyond_the_offsets() {
    // Options of 2,048 bytes each push L4 past 65,535.
    let option = [&[60, 255, 1, 4][..], &[0; 2044]].concat();
    let frame = ethernet(0x86dd, &ipv6(60, &option.repeat(40)));
    assert_eq!(parse(&frame).check(frame.len()), Ok(()));
    let nest = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 4, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2].repeat(3500);
    let frame = ethernet(0x0800, &nest);
    let outer = parse(&frame);
    assert_eq!(parse_innermost(&frame, &outer, 255).check(frame.len()), Ok(()));
}

/// Frames that reach every branch.
fn samples() -> Vec<Vec<u8>> {
    let inner = ethernet(0x0800, &ipv4(6, &TCP));
    let ip = |protocol, payload: &[u8]| ethernet(0x0800, &ipv4(protocol, payload));
    let extensions = [&[44, 0, 1, 4, 0, 0, 0, 0][..], &[6, 0, 0, 0, 0, 0, 0, 1], &TCP].concat();
    let erspan3 = [0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0x64, 2, 9, 1, 2, 3, 4, 0, 9, 0, 1];
    vec![
        inner.clone(),
        ip(17, &udp(53, &[1; 20])),
        ip(132, &[3; 20]),
        ethernet(0x88a8, &[&[0, 1, 0x81, 0, 0, 2, 8, 0][..], &ipv4(6, &TCP)].concat()),
        ethernet(0x8847, &[&[0, 1, 0, 64, 0, 1, 1, 64][..], &ipv6(58, &[128; 8])].concat()),
        ethernet(0x86dd, &ipv6(0, &extensions)),
        ethernet(60, &[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &ipv4(17, &udp(53, &[]))].concat()),
        ip(17, &udp(4789, &[&[8, 0, 0, 0, 0, 0, 7, 0][..], &inner].concat())),
        ip(17, &udp(6081, &[&[1, 0, 0x65, 0x58, 0, 0, 5, 0, 1, 2, 3, 4][..], &inner].concat())),
        ip(
            17,
            &udp(
                2152,
                &[&[0x34, 0xff, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0x85, 1, 0, 9, 0][..], &ipv4(6, &TCP)].concat(),
            ),
        ),
        ip(
            47,
            &[&[0xf0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0][..], &ipv4(6, &TCP)].concat(),
        ),
        ip(47, &[&erspan3[..], &[0; 8], &inner].concat()),
        ip(4, &ipv4(41, &ipv6(47, &[&[0, 0, 0x65, 0x58][..], &inner].concat()))),
    ]
}

fn holds(frame: &[u8]) {
    let outer = parse(frame);
    assert_eq!(outer.check(frame.len()), Ok(()), "{outer:?} of {frame:x?}");
    let inner = parse_innermost(frame, &outer, 8);
    assert_eq!(inner.check(frame.len()), Ok(()), "{inner:?} of {frame:x?}");
}

#[test]
fn every_prefix_with_every_byte_changed() {
    for frame in samples() {
        for at in 0..frame.len() {
            holds(&frame[..at]);
            for value in
                [0, 0xff, frame[at] ^ 0x80, frame[at] ^ 0x10, frame[at] ^ 1, frame[at].wrapping_add(1)]
            {
                let mut changed = frame.clone();
                changed[at] = value;
                for cut in (0..=changed.len()).step_by(3).chain([changed.len()]) {
                    holds(&changed[..cut]);
                }
            }
        }
    }
}

#[test]
fn a_longer_prefix_knows_no_less() {
    for frame in samples() {
        let mut last = parse(&[]);
        for cut in 1..=frame.len() {
            let parsed = parse(&frame[..cut]);
            assert!(parsed.header_end >= last.header_end && parsed.has_ports >= last.has_ports, "{frame:x?}");
            assert!(last.l3 == L3::None || parsed.l3 == last.l3);
            last = parsed;
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
        holds(&frame);
    }

    /// The straight path and the general walk agree: a frame says the same with a tag in front of its EtherType.
    #[test]
    fn a_tag_changes_nothing_but_offsets(
        sample in 0usize..3, changes in proptest::collection::vec((14usize..64, any::<u8>()), 0..3), cut in 0usize..90
    ) {
        let mut frame = samples().swap_remove(sample);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) { *byte = value; }
        }
        frame.truncate(cut.max(14));
        let plain = parse(&frame);
        let tagged = parse(&[&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat());
        let moved = |offset: u16| if offset == 0 { 0 } else { offset + 4 };
        let expected = Parsed {
            vlan_count: 1,
            vlan_tci: 5,
            l3_offset: moved(plain.l3_offset),
            l4_offset: moved(plain.l4_offset),
            header_end: moved(plain.header_end),
            inner_offset: moved(plain.inner_offset),
            ..plain
        };
        prop_assert_eq!(tagged, expected);
    }
}
