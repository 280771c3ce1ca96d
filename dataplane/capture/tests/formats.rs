//! Hand-made files: every magic, byte order and block, compression, and damage of each.
//!
//! The bytes follow pcap(5) (draft-ietf-opsawg-pcap), draft-ietf-opsawg-pcapng, RFC 1952 and RFC 8878.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::io::{Cursor, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use sluice_capture::{CaptureError, CaptureReader, Damage, LinkType, PcapWriter};

/// Bytes, original length, time and interface of a frame.
type Seen = (Vec<u8>, u32, u64, u32);

/// Frames up to the end or the error.
fn read(file: &[u8]) -> (Vec<Seen>, Option<CaptureError>) {
    read_from(Box::new(Cursor::new(file.to_vec())))
}

fn read_from(source: Box<dyn Read + Send>) -> (Vec<Seen>, Option<CaptureError>) {
    let mut frames = Vec::new();
    let mut reader = match CaptureReader::from_reader("test", source) {
        Ok(reader) => reader,
        Err(error) => return (frames, Some(error)),
    };
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                assert!(frame.data.len() <= 65_535 && frame.wire_len as usize >= frame.data.len());
                frames.push((frame.data.to_vec(), frame.wire_len, frame.timestamp_ns, frame.interface));
            }
            Ok(None) => return (frames, None),
            Err(error) => {
                assert!(matches!(reader.next_frame(), Ok(None)), "nothing comes after an error");
                return (frames, Some(error));
            }
        }
    }
}

fn u16_in(big: bool, value: u16) -> [u8; 2] {
    if big { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn u32_in(big: bool, value: u32) -> [u8; 4] {
    if big { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn pcap_header(big: bool, magic: u32, minor: u16, link_type: u32) -> Vec<u8> {
    let mut file = u32_in(big, magic).to_vec();
    file.extend(u16_in(big, 2));
    file.extend(u16_in(big, minor));
    for field in [0, 0, 65_535, link_type] {
        file.extend(u32_in(big, field));
    }
    file
}

fn pcap_record(big: bool, fields: [u32; 4], extra: usize, data: &[u8]) -> Vec<u8> {
    let mut record: Vec<u8> = fields.iter().flat_map(|field| u32_in(big, *field)).collect();
    record.resize(16 + extra, 0xee);
    record.extend(data);
    record
}

fn block(big: bool, block_type: u32, body: &[u8]) -> Vec<u8> {
    let len = 12 + body.len().next_multiple_of(4);
    let mut block = u32_in(big, block_type).to_vec();
    block.extend(u32_in(big, len as u32));
    block.extend(body);
    block.resize(len - 4, 0);
    block.extend(u32_in(big, len as u32));
    block
}

fn section(big: bool) -> Vec<u8> {
    let mut body = u32_in(big, 0x1a2b_3c4d).to_vec();
    body.extend(u16_in(big, 1));
    body.extend(u16_in(big, 0));
    body.extend([0xff; 8]);
    block(big, 0x0a0d_0d0a, &body)
}

fn interface(big: bool, link_type: u16, snaplen: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = u16_in(big, link_type).to_vec();
    body.extend([0; 2]);
    body.extend(u32_in(big, snaplen));
    for (code, value) in options {
        body.extend(u16_in(big, *code));
        body.extend(u16_in(big, value.len() as u16));
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    block(big, 1, &body)
}

fn enhanced(big: bool, interface: u32, timestamp: u64, wire_len: u32, data: &[u8]) -> Vec<u8> {
    let fields = [interface, (timestamp >> 32) as u32, timestamp as u32, data.len() as u32, wire_len];
    let mut body: Vec<u8> = fields.iter().flat_map(|field| u32_in(big, *field)).collect();
    body.extend(data);
    block(big, 6, &body)
}

fn simple(big: bool, wire_len: u32, data: &[u8]) -> Vec<u8> {
    let mut body = u32_in(big, wire_len).to_vec();
    body.extend(data);
    block(big, 3, &body)
}

/// Frames of growing length with bytes that do not compress away.
fn sample(frames: u64) -> Vec<u8> {
    let mut pcap = PcapWriter::new(Vec::new()).unwrap();
    let mut noise = 1u64;
    for number in 0..frames {
        let frame: Vec<u8> = (0..14 + number * 7 % 1_400)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (noise >> 56) as u8 & 0x3f
            })
            .collect();
        pcap.write(number, 2_000, [&frame[..]]).unwrap();
    }
    pcap.finish().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_pcap_magic_in_both_byte_orders() {
    for big in [false, true] {
        for (magic, unit_ns, extra) in [(0xa1b2_c3d4, 1_000, 0), (0xa1b2_3c4d, 1, 0), (0xa1b2_cd34, 1_000, 8)]
        {
            let mut file = pcap_header(big, magic, 4, 1);
            file.extend(pcap_record(big, [3, 999_999, 2, 60], extra, &[7, 8]));
            file.extend(pcap_record(big, [2, 0, 0, 0], extra, &[]));
            let (frames, error) = read(&file);
            assert!(error.is_none(), "{error:?}");
            let expected: [Seen; 2] =
                [(vec![7, 8], 60, 3_000_000_000 + 999_999 * unit_ns, 0), (vec![], 0, 2_000_000_000, 0)];
            assert_eq!(frames, expected, "{magic:x} {big}");
        }
    }
}

#[test]
fn old_pcap_versions_swap_the_lengths() {
    for (minor, lengths) in [(2, [60, 2]), (3, [60, 2]), (3, [2, 60]), (4, [2, 60])] {
        let mut file = pcap_header(false, 0xa1b2_c3d4, minor, 1);
        file.extend(pcap_record(false, [0, 0, lengths[0], lengths[1]], 0, &[7, 8]));
        let (frames, error) = read(&file);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(frames, [(vec![7, 8], 60, 0, 0)]);
    }
    let mut file = pcap_header(false, 0xa1b2_c3d4, 4, 1);
    file[4] = 3;
    let (_, error) = read(&file);
    assert!(error.unwrap().to_string().contains("pcap version 3.4 is unknown"));
}

#[test]
fn the_frame_check_sequence_bits_are_no_part_of_the_link_type() {
    let mut file = pcap_header(false, 0xa1b2_c3d4, 4, 0x2400_0001);
    file.extend(pcap_record(false, [0, 0, 1, 1], 0, &[7]));
    assert_eq!(read(&file).0.len(), 1);
}

#[test]
fn sections_with_interfaces_of_their_own() {
    let mut file = section(false);
    file.extend(interface(false, 1, 0, &[(9, &[9])]));
    file.extend(interface(false, 101, 0, &[(2, b"tun0"), (9, &[0x8a]), (14, &100i64.to_le_bytes())]));
    file.extend(enhanced(false, 0, 5_000_000_001, 1_514, &[1; 15]));
    file.extend(block(false, 4, &[0; 20]));
    file.extend(enhanced(false, 1, 1_536, 20, &[0x45; 20]));
    file.extend(block(false, 0x0000_0bad, &vec![9; 3 << 20]));
    file.extend(section(true));
    file.extend(interface(true, 1, 4, &[(14, &(-1i64).to_be_bytes())]));
    file.extend(enhanced(true, 0, 3_000_000, 3, &[1, 2, 3]));
    file.extend(simple(true, 9, &[1, 2, 3, 4]));
    file.extend(simple(true, 2, &[1, 2]));
    // An obsolete packet block: a 16-bit interface and the drops before it.
    let mut body = vec![0, 0, 0, 42];
    for field in [0, 7_000_000u32, 1, 1] {
        body.extend(field.to_be_bytes());
    }
    body.push(0xab);
    file.extend(block(true, 2, &body));
    let (frames, error) = read(&file);
    assert!(error.is_none(), "{error:?}");
    let mut ip = vec![0; 12];
    ip.extend([0x08, 0x00]);
    ip.extend([0x45; 20]);
    let expected: [Seen; 6] = [
        (vec![1; 15], 1_514, 5_000_000_001, 0),
        (ip, 34, 101_500_000_000, 1),
        (vec![1, 2, 3], 3, 2_000_000_000, 2),
        (vec![1, 2, 3, 4], 9, 2_000_000_000, 2),
        (vec![1, 2], 2, 2_000_000_000, 2),
        (vec![0xab], 1, 6_000_000_000, 2),
    ];
    assert_eq!(frames, expected);
}

#[test]
fn a_refused_interface_is_an_error_at_its_first_packet() {
    let mut file = section(false);
    file.extend(interface(false, 127, 0, &[]));
    file.extend(interface(false, 1, 0, &[]));
    file.extend(enhanced(false, 1, 1, 1, &[1]));
    let offset = file.len() as u64;
    file.extend(enhanced(false, 0, 1, 1, &[1]));
    let (frames, error) = read(&file);
    assert_eq!(frames.len(), 1);
    let error = error.unwrap();
    assert!(error.to_string().contains("IEEE 802.11 with radiotap header (127)"), "{error}");
    let CaptureError::LinkType { link_type, interface, offset: at, packets, .. } = error else { panic!() };
    assert_eq!((link_type, interface, at, packets), (LinkType(127), 0, offset, 1));
}

#[test]
fn lying_lengths_are_damage() {
    let mut pcap = pcap_header(false, 0xa1b2_c3d4, 4, 1);
    pcap.extend(pcap_record(false, [0, 0, 1, 1], 0, &[7]));
    pcap.extend(pcap_record(false, [0, 0, u32::MAX, 1], 0, &[7; 100]));
    let mut pcapng = section(true);
    pcapng.extend(interface(true, 1, 0, &[]));
    let mut trailer = pcapng.clone();
    trailer.extend(enhanced(true, 0, 0, 4, &[1; 4]));
    *trailer.last_mut().unwrap() = 40;
    let mut beyond = pcapng.clone();
    beyond.extend(enhanced(true, 0, 0, 4, &[1; 4]));
    let at = beyond.len() - 4 - 4 - 8;
    beyond[at..at + 4].copy_from_slice(&5u32.to_be_bytes());
    let mut unknown = pcapng.clone();
    unknown.extend(enhanced(true, 1, 0, 4, &[1; 4]));
    let mut short = pcapng.clone();
    short.extend([0, 0, 0, 6, 0, 0, 0, 8]);
    let mut long = pcapng.clone();
    long.extend([0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let mut skipped = pcapng.clone();
    skipped.extend([0, 0, 0, 99, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let start = pcapng.len() as u64;
    for (file, offset, packet, damage) in [
        (&pcap, 41, 2, Damage::CapturedLength { cap_len: u32::MAX, limit_bytes: 262_144 }),
        (&trailer, start, 1, Damage::BlockTrailer { block_type: 6, first_bytes: 36, second_bytes: 40 }),
        (&beyond, start, 1, Damage::PacketBeyondBlock { cap_len: 5, room_bytes: 4 }),
        (&unknown, start, 1, Damage::UnknownInterface { interface: 1, described: 1 }),
        (&short, start, 1, Damage::BlockLength { block_type: 6, len_bytes: 8 }),
        (&long, start, 1, Damage::BlockLength { block_type: 6, len_bytes: u32::MAX }),
        (&skipped, start, 1, Damage::Cut { part: "block", have_bytes: 12, need_bytes: 1 << 32 }),
    ] {
        match read(file).1 {
            Some(CaptureError::Damaged { offset: o, packet: p, damage: d, .. }) => {
                assert_eq!((o, p, d), (offset, packet, damage));
            }
            other => panic!("{other:?} instead of {damage:?}"),
        }
    }
}

#[test]
fn what_is_no_capture_is_said_to_be_none() {
    for (file, reason) in [
        (&b""[..], "it is empty"),
        (b"abc", "it has only 3 bytes"),
        (b"hello world", "it begins with 68 65 6c 6c"),
        (b"BZh91AY&SY", "a bzip2 file"),
        (&gzip(b""), "it is empty"),
        (&gzip(&gzip(b"x")), "compressed twice"),
    ] {
        let error = read(file).1.unwrap().to_string();
        assert!(error.starts_with("test: not a capture file: ") && error.contains(reason), "{error}");
    }
    let error = CaptureReader::open(std::path::Path::new("/nonexistent/x.pcap")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/x.pcap: cannot be opened: No such file"), "{error}");
}

#[test]
fn compressed_files_of_several_members_and_frames() {
    let whole = sample(300);
    let expected = read(&whole).0;
    assert_eq!(expected.len(), 300);
    let (a, b) = whole.split_at(whole.len() / 2);
    let gz: Vec<u8> = [gzip(a), gzip(b""), gzip(b), vec![0; 512]].concat();
    let zstd_of = |data: &[u8]| zstd::encode_all(data, 3).unwrap();
    let skippable = [0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let zst: Vec<u8> = [&skippable[..], &zstd_of(a), &skippable, &zstd_of(b"")[..], &zstd_of(b)].concat();
    for file in [gz, zst] {
        let (frames, error) = read(&file);
        assert!(error.is_none(), "{error:?}");
        assert!(frames == expected);
    }
}

/// Frames that a reference decoder gets out of the start of a compressed file.
fn decodable(mut decoder: impl Read) -> Vec<u8> {
    let (mut out, mut byte) = (Vec::new(), [0]);
    while let Ok(1) = decoder.read(&mut byte) {
        out.push(byte[0]);
    }
    out
}

#[test]
fn cut_and_corrupt_compressed_files_give_all_that_can_be_decoded() {
    let whole = sample(300);
    let all = read(&whole).0;
    let mut zst = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    zst.include_checksum(true).unwrap();
    zst.write_all(&whole).unwrap();
    let (gz, zst) = (gzip(&whole), zst.finish().unwrap());
    for (file, format) in [(gz, "gzip"), (zst, "zstd")] {
        for step in 1..40 {
            let at = file.len() * step / 40;
            let cut = file[..at].to_vec();
            let mut corrupt = file.clone();
            corrupt[at] ^= 0x55;
            for damaged in [cut, corrupt] {
                let decoded = if format == "gzip" {
                    decodable(flate2::read::GzDecoder::new(&damaged[..]))
                } else {
                    decodable(zstd::stream::read::Decoder::new(&damaged[..]).unwrap())
                };
                let expected = read(&decoded).0;
                let (frames, error) = read(&damaged);
                assert!(
                    frames.len() >= expected.len(),
                    "{format} {at}: {} < {}",
                    frames.len(),
                    expected.len()
                );
                assert!(frames[..expected.len()] == expected[..], "{format} {at}");
                let error = error.unwrap_or_else(|| panic!("{format} at {at}: no error"));
                assert!(frames.len() < all.len() || error.to_string().contains("checksum"), "{error}");
            }
        }
    }
}

/// Hands out few bytes at a time, as a pipe does.
struct Trickle(Cursor<Vec<u8>>, usize);

impl Read for Trickle {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 % 7 + 1;
        let len = out.len().min(self.1);
        self.0.read(&mut out[..len])
    }
}

/// A source that cannot be read.
struct Fails;

impl Read for Fails {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("the disk is on fire"))
    }
}

#[test]
fn pipes_and_failing_disks() {
    let whole = sample(50);
    let expected = read(&whole).0;
    for file in [whole.clone(), gzip(&whole), zstd::encode_all(&whole[..], 1).unwrap()] {
        assert!(read_from(Box::new(Trickle(Cursor::new(file), 0))).0 == expected);
    }
    let (frames, error) = read_from(Box::new(Cursor::new(whole.clone()).chain(Fails)));
    assert!(frames == expected);
    let error = error.unwrap();
    let expected = format!("test: reading failed at byte {}, after 50 whole packets: the disk", whole.len());
    assert!(error.to_string().starts_with(&expected), "{error}");
}

fn mixed_pcapng() -> Vec<u8> {
    let mut file = section(false);
    for link_type in [1, 101, 113, 276, 0, 108] {
        file.extend(interface(false, link_type, 0, &[(9, &[9]), (14, &5i64.to_le_bytes())]));
    }
    for number in 0..30 {
        file.extend(enhanced(false, number % 6, number.into(), 1_500, &vec![number as u8; number as usize]));
    }
    file.extend(simple(false, 3, &[1, 2, 3]));
    file.extend(section(true));
    file.extend(interface(true, 1, 0, &[]));
    file.extend(enhanced(true, 0, 1, 1, &[1]));
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_end(
        start in prop::sample::select(vec![
            vec![], pcap_header(false, 0xa1b2_c3d4, 4, 1), pcap_header(true, 0xa1b2_3c4d, 4, 113), section(false),
            section(true), vec![0x1f, 0x8b, 8, 0], vec![0x28, 0xb5, 0x2f, 0xfd],
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        read(&[start, rest].concat());
    }

    #[test]
    fn mutated_files_end(
        which in 0usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut file = match which {
            0 => sample(20),
            1 => mixed_pcapng(),
            2 => gzip(&mixed_pcapng()),
            _ => zstd::encode_all(&mixed_pcapng()[..], 1).unwrap(),
        };
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        file.truncate(keep.index(file.len() * 2).min(file.len()));
        read(&file);
    }

    /// A model of the whole reader: cutting a file gives exactly the packets that lie before the cut.
    #[test]
    fn a_cut_file_gives_the_packets_before_the_cut(keep in any::<prop::sample::Index>()) {
        let whole = sample(40);
        let keep = 24 + keep.index(whole.len() - 23);
        let (mut at, mut packets) = (24, 0);
        while let Some(len) = whole.get(at + 8..at + 12) {
            at += 16 + u32::from_le_bytes(len.try_into().unwrap()) as usize;
            if at > keep {
                break;
            }
            packets += 1;
        }
        let (frames, error) = read(&whole[..keep]);
        prop_assert_eq!(frames.len(), packets);
        if let Some(error) = error {
            let sentence = error.to_string();
            prop_assert!(sentence.contains("the file is cut off inside a"), "{}", sentence);
        }
    }
}
