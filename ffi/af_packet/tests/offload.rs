//! Are super-frames whole, and unfinished checksums finished? Real sockets between two namespaces, judged by
//! tshark and by the bytes that were sent.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "test data"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sluice_af_packet::{GsoKind, RxChecksum, RxConfig, RxMeta};
use support::*;

const PATIENCE: Duration = Duration::from_secs(1);
const ADDRESSES: [(&str, &str); 2] = [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")];

/// Run `work` on a thread inside another namespace.
fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        set_namespace(&file);
        work()
    })
}

/// Write frames as a nanosecond pcap file (draft-ietf-opsawg-pcap), for tshark to judge.
fn write_pcap(path: &Path, frames: &[(Vec<u8>, RxMeta)]) {
    let mut file = vec![];
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for (bytes, meta) in frames {
        let (seconds, nanoseconds) = (meta.timestamp_ns / 1_000_000_000, meta.timestamp_ns % 1_000_000_000);
        for word in [seconds as u32, nanoseconds as u32, bytes.len() as u32, meta.wire_len] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(bytes);
    }
    std::fs::write(path, file).unwrap();
}

/// What tshark says of a field in every frame that has it.
fn tshark_fields(path: &Path, filter: &str, field: &str) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path).args(["-Y", filter, "-T", "fields", "-e", field]);
    for preference in ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"] {
        command.args(["-o", preference]);
    }
    command.args(["-o", "sctp.checksum:CRC 32c"]);
    output_of(&mut command).lines().map(str::to_owned).collect()
}

/// All transport checksums are good (status 1), and there are some.
fn assert_checksums_good(name: &str, frames: &[(Vec<u8>, RxMeta)], protocol: &str) {
    let path = std::env::temp_dir().join(format!("sluice-{name}-{}.pcap", std::process::id()));
    write_pcap(&path, frames);
    let status = tshark_fields(&path, protocol, &format!("{protocol}.checksum.status"));
    std::fs::remove_file(&path).unwrap();
    assert!(!status.is_empty(), "{name}: no {protocol} frames");
    assert!(status.iter().all(|status| status == "1"), "{name}: {status:?}");
}

/// The entered namespace holds va, `far` holds vb; addresses on both.
fn connect(ns: &mut Netns, mtu: u32) -> String {
    let far = ns.other(&format!("far{mtu}"));
    veth("va", "vb", mtu);
    run(&format!("ip link set dev vb netns {far}"));
    let exec = format!("ip netns exec {far} ");
    for (near_address, far_address) in ADDRESSES {
        let (bits, nodad) = if near_address.contains(':') { (64, " nodad") } else { (24, "") };
        run(&format!("ip addr add {near_address}/{bits} dev va{nodad}"));
        run(&format!("{exec}ip addr add {far_address}/{bits} dev vb{nodad}"));
    }
    run(&format!("{exec}ip link set dev vb up"));
    far
}

/// The TCP payload of one direction, put together by sequence number from frames of either IP version.
fn reassemble(frames: &[(Vec<u8>, RxMeta)], port: u16, len: usize) -> Vec<u8> {
    let mut stream = vec![0xee; len];
    let mut first_seq = None;
    for (frame, _) in frames {
        let (l4, end) = match frame[12..14] {
            [0x08, 0x00] => {
                let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
                (14 + usize::from(frame[14] & 15) * 4, 14 + total)
            }
            [0x86, 0xdd] => (54, 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]))),
            _ => continue,
        };
        let protocol = if frame[12] == 0x08 { frame[23] } else { frame[20] };
        if protocol != 6 || u16::from_be_bytes([frame[l4 + 2], frame[l4 + 3]]) != port {
            continue;
        }
        let seq = u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().unwrap());
        if frame[l4 + 13] & 2 != 0 {
            first_seq = Some(seq.wrapping_add(1));
        }
        let payload = &frame[l4 + usize::from(frame[l4 + 12] >> 4) * 4..end];
        let at = seq.wrapping_sub(first_seq.expect("SYN first")) as usize;
        if !payload.is_empty() {
            stream[at..at + payload.len()].copy_from_slice(payload);
        }
    }
    stream
}

#[test]
fn tcp_super_frames_arrive_whole_with_good_checksums() {
    let Some(mut ns) = Netns::enter("tcp") else { return };
    for (mtu, (near, far_address)) in [(1_500, ADDRESSES[0]), (9_000, ADDRESSES[1])] {
        let far = connect(&mut ns, mtu);
        let config = RxConfig { ring_bytes: 64 << 20, ..RxConfig::default() };
        // Both ends: what is sent here, and what is received there.
        let (near_port, mut near_rx) = open_rx("va", config.clone());
        let opened = inside(&far, move || open_rx("vb", config)).join().unwrap();
        let (far_port, mut far_rx) = opened;
        let data: Vec<u8> = (0..3_000_000u32).map(|i| (i * 31 + i / 251) as u8).collect();
        let address: SocketAddr = format!("[{far_address}]:5001")
            .parse()
            .unwrap_or_else(|_| format!("{far_address}:5001").parse().unwrap());
        let listener = inside(&far, move || TcpListener::bind(address).unwrap()).join().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = vec![];
            listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
            all
        });
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&data).unwrap();
        drop(stream);
        assert!(reader.join().unwrap() == data);

        for (side, port, rx) in [("near", near_port, &mut near_rx), ("far", far_port, &mut far_rx)] {
            let name = format!("{side}-{near}-{mtu}");
            let frames = collect(rx, usize::MAX, PATIENCE);
            let stats = port.stats();
            assert_eq!(stats.kernel_drops, 0);
            assert_eq!(stats.rx_packets, frames.len() as u64);
            assert!(reassemble(&frames, 5001, data.len()) == data, "{name}");
            let supers: Vec<_> = frames.iter().filter(|(_, meta)| meta.gso != GsoKind::None).collect();
            assert_eq!(stats.rx_super_frames, supers.len() as u64);
            let longest = supers.iter().map(|(bytes, _)| bytes.len()).max().unwrap();
            assert!(longest > 60_000, "{name}: longest {longest}");
            let kind = if near.contains(':') { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
            for (bytes, meta) in &supers {
                assert_eq!((meta.gso, meta.checksum), (kind, RxChecksum::Finished));
                // Headers of 40 or 60 bytes and the time stamp option.
                let expected = mtu - if kind == GsoKind::TcpV6 { 72 } else { 52 };
                assert_eq!(u32::from(meta.gso_size), expected);
                assert_eq!(bytes.len(), meta.wire_len as usize);
            }
            assert!(stats.checksums_finished >= supers.len() as u64);
            assert_eq!(stats.checksums_unfinished, 0);
            assert_checksums_good(&name, &frames, "tcp");
        }
        run("ip link del dev va");
    }
}

#[test]
fn udp_checksums_are_finished_unless_told_otherwise() {
    let Some(mut ns) = Netns::enter("udp") else { return };
    let far = connect(&mut ns, 1_500);
    let finish = |finish_checksums| RxConfig { ring_bytes: 4 << 20, finish_checksums, ..RxConfig::default() };
    let (port, mut rx) = open_rx("va", finish(true));
    let (raw_port, mut raw_rx) = open_rx("va", finish(false));
    let mut expected = 0;
    for (near, far_address) in ADDRESSES {
        let (near, far_address) = (near.to_owned(), far_address.to_owned());
        let address = (far_address.clone(), 5002);
        let sink =
            inside(&far, move || UdpSocket::bind((far_address.as_str(), 5002)).unwrap()).join().unwrap();
        let socket = UdpSocket::bind((near.as_str(), 0)).unwrap();
        for len in [0usize, 1, 2, 3, 100, 1_001, 1_400] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            socket.send_to(&payload, (address.0.as_str(), address.1)).unwrap();
            expected += 1;
        }
        // One segmented send (UDP_SEGMENT): a super-frame of UDP.
        let segment: libc::c_int = 500;
        // SAFETY: the pointer and length describe `segment`.
        let rc = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, 103, (&raw const segment).cast(), 4)
        };
        assert_eq!(rc, 0);
        socket.send_to(&[9; 4_200], (address.0.as_str(), address.1)).unwrap();
        expected += 1;
        drop(sink);
    }
    let udp = |frames: Vec<(Vec<u8>, RxMeta)>| -> Vec<_> {
        let is_udp =
            |f: &[u8]| (f[12..14] == [8, 0] && f[23] == 17) || (f[12..14] == [0x86, 0xdd] && f[20] == 17);
        frames.into_iter().filter(|(f, meta)| is_udp(f) && meta.outgoing).collect()
    };
    let frames = udp(collect(&mut rx, usize::MAX, PATIENCE));
    assert_eq!(frames.len(), expected);
    assert!(frames.iter().all(|(_, meta)| meta.checksum == RxChecksum::Finished));
    let supers: Vec<_> = frames.iter().filter(|(_, meta)| meta.gso != GsoKind::None).collect();
    assert_eq!(supers.len(), 2);
    assert!(supers.iter().all(|(_, meta)| (meta.gso, meta.gso_size) == (GsoKind::UdpSegment, 500)));
    assert_checksums_good("udp", &frames, "udp");
    assert_eq!(port.stats().checksums_unfinished, 0);

    let raw = udp(collect(&mut raw_rx, usize::MAX, PATIENCE));
    for ((finished, _), (raw, meta)) in frames.iter().zip(&raw) {
        let RxChecksum::Unfinished { start, offset } = meta.checksum else { panic!("{meta:?}") };
        let at = usize::from(start + offset);
        assert_eq!((&finished[..at], &finished[at + 2..]), (&raw[..at], &raw[at + 2..]));
    }
    assert_eq!(raw_port.stats().checksums_finished, 0);
    assert!(raw_port.stats().checksums_unfinished >= expected as u64);
}

/// A packet socket that takes a `virtio_net_hdr` before each frame: it can ask for what a NIC would do.
fn offloading_sender(interface: &str) -> OwnedFd {
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(fd >= 0);
    // SAFETY: fresh descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length describe `on`; 15 is PACKET_VNET_HDR.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, 15, (&raw const on).cast(), 4) };
    assert_eq!(rc, 0);
    let name = std::ffi::CString::new(interface).unwrap();
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        // SAFETY: a C string.
        sll_ifindex: unsafe { libc::if_nametoindex(name.as_ptr()) } as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `address`.
    let rc = unsafe { libc::bind(fd.as_raw_fd(), (&raw mut address).cast(), len) };
    assert_eq!(rc, 0);
    fd
}

#[test]
fn tagged_frames_with_unfinished_checksums_are_made_whole() {
    let Some(_ns) = Netns::enter("vcsum") else { return };
    veth("va", "vb", 9_000);
    let (port, mut rx) = open_rx("vb", RxConfig { ring_bytes: 4 << 20, ..RxConfig::default() });
    let cut = RxConfig { ring_bytes: 4 << 20, finish_checksums: false, ..RxConfig::default() };
    let (_raw_port, mut raw_rx) = open_rx("vb", cut);
    let sender = File::from(offloading_sender("va"));
    // UDP over IPv4 and SCTP over IPv4 behind no, one or two tags.
    let tags: [&[u8]; 4] =
        [&[], &[0x81, 0, 0, 5], &[0x88, 0xa8, 0x60, 5], &[0x88, 0xa8, 0, 5, 0x81, 0, 0xe0, 6]];
    let mut expected = vec![];
    for (protocol, header_len, csum_offset) in [(17u8, 8usize, 6u16), (132, 28, 8)] {
        for (i, tag) in tags.iter().enumerate() {
            let payload = 64 + i;
            let mut bytes = frame(12, &[], 0);
            bytes.extend_from_slice(tag);
            bytes.extend_from_slice(&[8, 0]);
            let ip = bytes.len();
            let total = (20 + header_len + payload) as u16;
            bytes.extend_from_slice(&[
                0x45,
                0,
                (total >> 8) as u8,
                total as u8,
                0,
                0,
                0,
                0,
                64,
                protocol,
                0,
                0,
            ]);
            bytes.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
            let start = bytes.len();
            let udp_len = (header_len + payload) as u16;
            if protocol == 17 {
                // The field holds the pseudo-header's sum (RFC 768), as a kernel leaves it for the NIC.
                let mut sum = 0xc000 + 0x0201 + 0xc000 + 0x0202 + 17 + u32::from(udp_len);
                sum = (sum & 0xffff) + (sum >> 16);
                bytes.extend_from_slice(&[0x13, 0x88, 0x13, 0x89, (udp_len >> 8) as u8, udp_len as u8]);
                bytes.extend_from_slice(&(sum as u16).to_be_bytes());
            } else {
                // A common header and a DATA chunk (RFC 9260, 3.3.1).
                bytes.extend_from_slice(&[0x0b, 0x59, 0x0b, 0x59, 0, 0, 0, 1, 0, 0, 0, 0, 0, 3]);
                bytes.extend_from_slice(&(16 + payload as u16).to_be_bytes());
                bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
            }
            bytes.extend((0..payload).map(|i| i as u8));
            let mut vnet = vec![1u8, 0];
            for field in [start as u16, 0, start as u16, csum_offset] {
                vnet.extend_from_slice(&field.to_ne_bytes());
            }
            let message = [&vnet[..], &bytes].concat();
            assert_eq!(
                (&sender).write(&message).unwrap(),
                message.len(),
                "protocol {protocol}, tag {tag:02x?}"
            );
            expected.push((bytes, ip, start as u16, csum_offset));
        }
    }
    let frames = collect(&mut rx, expected.len(), PATIENCE);
    let raw = collect(&mut raw_rx, expected.len(), PATIENCE);
    assert_eq!((frames.len(), raw.len()), (expected.len(), expected.len()));
    for (((sent, _, start, offset), (bytes, meta)), (raw_bytes, raw_meta)) in
        expected.iter().zip(&frames).zip(&raw)
    {
        assert_eq!(meta.checksum, RxChecksum::Finished);
        let at = usize::from(start + offset);
        assert_eq!((&bytes[..at], &bytes[at + 4..]), (&sent[..at], &sent[at + 4..]));
        assert_eq!(raw_bytes, sent);
        assert_eq!(raw_meta.checksum, RxChecksum::Unfinished { start: *start, offset: *offset });
    }
    assert_checksums_good("vcsum", &frames[..4], "udp");
    assert_checksums_good("vcsum", &frames[4..], "sctp");
    assert_eq!(port.stats().checksums_finished, 8);
}
