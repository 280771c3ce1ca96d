//! Memory stays bounded whatever a file claims. Alone in its process, whose peak it measures.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Cursor;

use sluice_capture::CaptureReader;

/// Largest resident size of this process so far, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn read(file: &[u8]) -> Option<String> {
    let mut reader = match CaptureReader::from_reader("test", Box::new(Cursor::new(file.to_vec()))) {
        Ok(reader) => reader,
        Err(error) => return Some(error.to_string()),
    };
    loop {
        match reader.next_frame() {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(error) => return Some(error.to_string()),
        }
    }
}

#[test]
fn lengths_that_lie_cost_no_memory() {
    let section: &[u8] =
        b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x1c\0\0\0";
    let interface: &[u8] = b"\x01\0\0\0\x14\0\0\0\x01\0\0\0\0\0\0\0\x14\0\0\0";
    let packet: &[u8] = b"\x06\0\0\0\xfc\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\x7f\0\0\0\0";
    let other: &[u8] = b"\x63\0\0\0\xfc\xff\xff\xff";
    let pcap: &[u8] = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\x01\0\0\0";
    let record: &[u8] = b"\0\0\0\0\0\0\0\0\xff\xff\xff\x7f\xff\xff\xff\x7f";
    let interfaces = [section, &interface.repeat(1_000_000)].concat();
    // 262 MB of packets in 260 kB: it passes through the one buffer.
    let bomb = flate2_bomb(pcap);
    // A zstd frame header that asks for a window of 2 GiB.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0, 0, 0, 0];
    let before = peak_kib();
    for (file, sentence) in [
        (&[section, interface, packet].concat(), Some("claims a length of 4294967292 bytes")),
        (&[section, interface, other].concat(), Some("cut off inside a block")),
        (&[pcap, record].concat(), Some("claims 2147483647 captured bytes")),
        (&interfaces, Some("more than 65536 interfaces")),
        (&window.to_vec(), Some("the zstd stream is damaged")),
        (&bomb, None),
    ] {
        match (read(file), sentence) {
            (Some(error), Some(sentence)) => assert!(error.contains(sentence), "{error}"),
            (error, sentence) => assert_eq!(error.as_deref(), sentence),
        }
    }
    let grown_kib = peak_kib() - before;
    // The interfaces were copied once for the reader: 20 MB.
    assert!(grown_kib < 40 * 1024, "{grown_kib} KiB more");
}

/// A compressed pcap file of 1,000 packets of 256 KiB zeros.
fn flate2_bomb(pcap_header: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(pcap_header).unwrap();
    let mut packet = b"\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\x04\0".to_vec();
    packet.resize(16 + 262_144, 0);
    for _ in 0..1_000 {
        gzip.write_all(&packet).unwrap();
    }
    gzip.finish().unwrap()
}
