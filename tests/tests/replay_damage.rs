//! What does `sluiced replay` do with captures that are cut, corrupt or missing, with outputs that cannot be written, and
//! with several or compressed captures?
//!
//! Where packets lie in a cut file is computed here; what a cut compressed file still holds is asked of gzip and zstd.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sluice_tests::pcap_file::{self, Builder, ETHERNET, Record};
use sluice_tests::sluiced::{self, Replayed};

const POLICY: &str = r#"
[[destination]]
name = "ids"
type = "vxlan"
remote = "192.0.2.10"

[[destination]]
name = "copy"
type = "pcap"
file = "copy.pcap"

[[policy]]
name = "all"
to = ["ids", "copy"]
"#;

/// A capture of UDP packets of many lengths that compress badly.
fn capture(packets: usize) -> Builder {
    let mut state = 0x5eed_u64;
    let mut capture = Builder::new(ETHERNET);
    for number in 0..packets {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];
        let payload_len = number * 37 % 1_400;
        frame.extend([0x45, 0]);
        frame.extend(((28 + payload_len) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0xc3, 0x50, 0, 53]);
        frame.extend(((8 + payload_len) as u16).to_be_bytes());
        frame.extend([0, 0]);
        for _ in 0..payload_len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            frame.push(state as u8);
        }
        let timestamp_ns = 1_600_000_000_000_000_000 + number as u64 * 1_234_567;
        capture.push(Record { timestamp_ns, wire_len: frame.len() as u32, data: &frame });
    }
    capture
}

/// Whole packets in the first bytes of such a file.
fn whole_packets(bytes: &[u8]) -> usize {
    let mut at = 24;
    let mut packets = 0;
    while let Some(len) = bytes.get(at + 8..at + 12) {
        at += 16 + u32::from_le_bytes(len.try_into().unwrap()) as usize;
        if at > bytes.len() {
            break;
        }
        packets += 1;
    }
    packets
}

fn pipe(program: &str, arguments: &[&str], file: &Path) -> Vec<u8> {
    let output = Command::new(program).args(arguments).arg(file).stderr(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}: install the package {program}")).stdout
}

/// The packets before the damage came out, the report is there, and stderr says where the damage is.
fn check_damaged(replayed: &Replayed, input: &Path, packets: usize, original: &[u8]) {
    assert_eq!(replayed.code, Some(1), "{}", replayed.stderr);
    let report = replayed.report_whatever_the_code();
    assert_eq!(report.number("rx_packets"), packets as u64, "{}", replayed.stderr);
    assert_eq!(report.policy("all").sent_packets, 2 * packets as u64);
    let output = replayed.output("copy");
    let (sent, due) = (pcap_file::records(&output), pcap_file::records(original));
    assert_eq!(sent, due[..packets], "{}", input.display());
    let stderr = &replayed.stderr;
    assert!(stderr.contains(input.to_str().unwrap()), "the file: {stderr}");
    assert!(stderr.contains("byte "), "where: {stderr}");
    assert!(stderr.contains(&format!("in packet {} ", packets + 1)), "after {packets} packets: {stderr}");
    assert_eq!(stderr.lines().filter(|line| line.contains("error")).count(), 1, "one error: {stderr}");
}

#[test]
fn a_cut_capture_gives_all_whole_packets() {
    let dir = tempfile::tempdir().unwrap();
    let original = capture(120);
    let bytes = original.bytes();
    let step = (bytes.len() / 40) | 1;
    for cut in (24 + 8..bytes.len()).step_by(step) {
        if bytes[..cut].len() == 24 || ends_on_a_packet(&bytes[..cut]) {
            continue;
        }
        let input = dir.path().join("cut.pcap");
        fs::write(&input, &bytes[..cut]).unwrap();
        let replayed = sluiced::replay(dir.path(), POLICY, &[&input]);
        check_damaged(&replayed, &input, whole_packets(&bytes[..cut]), bytes);
    }
}

fn ends_on_a_packet(bytes: &[u8]) -> bool {
    let records = whole_packets(bytes);
    let mut at = 24;
    for _ in 0..records {
        at += 16 + u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    at == bytes.len()
}

#[test]
fn a_lying_record_ends_the_capture_there() {
    let dir = tempfile::tempdir().unwrap();
    let original = capture(50);
    let mut bytes = original.bytes().to_vec();
    let mut at = 24;
    for _ in 0..20 {
        at += 16 + u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    bytes[at + 8..at + 12].fill(0xff);
    let input = dir.path().join("lying.pcap");
    fs::write(&input, &bytes).unwrap();
    let replayed = sluiced::replay(dir.path(), POLICY, &[&input]);
    check_damaged(&replayed, &input, 20, original.bytes());
}

#[test]
fn compressed_captures_are_as_plain_ones_also_when_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let original = capture(600);
    let plain = dir.path().join("plain.pcap");
    original.save(&plain);
    let due = sluiced::replay(dir.path(), POLICY, &[&plain]);
    due.report();
    let due = (due.output("ids"), due.output("copy"));
    for (program, extension) in [("gzip", "gz"), ("zstd", "zst")] {
        let packed = pipe(program, &["-c"], &plain);
        let input = dir.path().join(format!("packed.pcap.{extension}"));
        fs::write(&input, &packed).unwrap();
        let replayed = sluiced::replay(dir.path(), POLICY, &[&input]);
        assert_eq!(replayed.report().number("rx_packets"), 600);
        assert!((replayed.output("ids"), replayed.output("copy")) == due, "{program}: outputs differ");

        for cut in [packed.len() / 3, packed.len() / 2, packed.len() - 3] {
            fs::write(&input, &packed[..cut]).unwrap();
            let replayed = sluiced::replay(dir.path(), POLICY, &[&input]);
            // The tools themselves give back whole blocks only; whatever they give must be there.
            let known = whole_packets(&pipe(program, &["-dc"], &input));
            let packets = replayed.report_whatever_the_code().number("rx_packets") as usize;
            assert!(packets >= known && packets <= 600, "{program}: {packets} packets, the tool has {known}");
            check_damaged(&replayed, &input, packets, original.bytes());
        }
        // A changed byte: what comes out before the checksum tells may be changed, too, but never counted twice.
        let mut changed = packed.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x55;
        fs::write(&input, &changed).unwrap();
        let replayed = sluiced::replay(dir.path(), POLICY, &[&input]);
        assert_eq!(replayed.code, Some(1), "{program}: {}", replayed.stderr);
        let report = replayed.report_whatever_the_code();
        let output = replayed.output("copy");
        let records = pcap_file::records(&output);
        assert_eq!(report.number("rx_packets"), records.len() as u64);
        assert!(replayed.stderr.contains("byte "), "{}", replayed.stderr);
    }
}

#[test]
fn several_captures_are_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (capture(30), capture(70));
    let paths: Vec<PathBuf> =
        ["first.pcap", "second.pcap", "cut.pcap"].map(|name| dir.path().join(name)).into();
    first.save(&paths[0]);
    second.save(&paths[1]);
    let replayed = sluiced::replay(dir.path(), POLICY, &paths[..2]);
    assert_eq!(replayed.report().number("rx_packets"), 100);
    let expected = [&first, &second].map(|capture| pcap_file::records(capture.bytes())).concat();
    assert!(pcap_file::records(&replayed.output("copy")) == expected);

    // The same file twice, and a damaged one between whole ones.
    let whole = first.bytes();
    fs::write(&paths[2], &whole[..whole.len() - 1]).unwrap();
    let replayed = sluiced::replay(dir.path(), POLICY, &[&paths[0], &paths[2], &paths[0]]);
    assert_eq!(replayed.code, Some(1));
    assert_eq!(replayed.report_whatever_the_code().number("rx_packets"), 30 + 29 + 30);
    assert!(replayed.stderr.contains("cut.pcap"), "{}", replayed.stderr);
}

/// Exit code 1, nothing on stdout, and these words on stderr.
fn check_refused(replayed: &Replayed, words: &[&str]) {
    assert_eq!(replayed.code, Some(1), "{}", replayed.stderr);
    assert_eq!(replayed.stdout, "", "nothing was done, nothing is reported");
    for word in words {
        assert!(replayed.stderr.contains(word), "{word}: {}", replayed.stderr);
    }
    assert!(!replayed.stderr.contains("panicked"), "{}", replayed.stderr);
}

#[test]
fn inputs_that_are_no_captures_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.pcap");
    capture(3).save(&good);
    let path = |name: &str| dir.path().join(name);
    fs::write(path("empty.pcap"), "").unwrap();
    fs::write(path("text.pcap"), "These are not the packets you are looking for.\n".repeat(10)).unwrap();
    fs::write(path("short.pcap"), &capture(1).bytes()[..10]).unwrap();
    fs::create_dir(path("folder.pcap")).unwrap();
    for name in ["missing.pcap", "empty.pcap", "text.pcap", "short.pcap", "folder.pcap"] {
        let input = path(name);
        for inputs in [vec![&input], vec![&good, &input]] {
            let replayed = sluiced::replay(dir.path(), POLICY, &inputs);
            check_refused(&replayed, &[input.to_str().unwrap()]);
            assert!(!replayed.out.join("ids.pcap").exists(), "{name}: no half-done output");
        }
    }
}

#[test]
fn outputs_that_cannot_be_written_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input.pcap");
    let original = capture(3);
    original.save(&input);

    // The output folder is a file, or below one.
    let out = dir.path().join("out");
    fs::write(&out, "in the way").unwrap();
    check_refused(&sluiced::replay(dir.path(), POLICY, &[&input]), &[out.to_str().unwrap()]);
    assert_eq!(fs::read(&out).unwrap(), b"in the way");
    fs::remove_file(&out).unwrap();

    // An output file is a folder.
    fs::create_dir_all(out.join("ids.pcap")).unwrap();
    check_refused(&sluiced::replay(dir.path(), POLICY, &[&input]), &[out.join("ids.pcap").to_str().unwrap()]);
    fs::remove_dir_all(&out).unwrap();

    // An output would overwrite an input: by name, by a symbolic link, by a hard link.
    fs::create_dir(&out).unwrap();
    let inside = out.join("copy.pcap");
    fs::copy(&input, &inside).unwrap();
    check_refused(&sluiced::replay(dir.path(), POLICY, &[&inside]), &[inside.to_str().unwrap()]);
    assert_eq!(fs::read(&inside).unwrap(), original.bytes());
    fs::remove_file(&inside).unwrap();
    symlink(&input, &inside).unwrap();
    check_refused(&sluiced::replay(dir.path(), POLICY, &[&input]), &[inside.to_str().unwrap()]);
    assert_eq!(fs::read(&input).unwrap(), original.bytes());
    fs::remove_file(&inside).unwrap();
    fs::hard_link(&input, &inside).unwrap();
    check_refused(&sluiced::replay(dir.path(), POLICY, &[&input]), &[inside.to_str().unwrap()]);
    assert_eq!(fs::read(&input).unwrap(), original.bytes());
}

#[test]
fn a_full_disk_is_counted_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input.pcap");
    capture(2_000).save(&input);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    symlink("/dev/full", out.join("ids.pcap")).unwrap();
    let replayed = sluiced::replay(dir.path(), POLICY, &[&input]);
    assert_eq!(replayed.code, Some(1), "{}", replayed.stderr);
    assert!(replayed.stderr.contains("ids.pcap"), "{}", replayed.stderr);
    if replayed.stdout.is_empty() {
        // Not even the file header could be written: refused at the start.
        return;
    }
    let report = replayed.report_whatever_the_code();
    assert_eq!(report.drops().get("file_write"), Some(&2_000), "{}", report.0);
    assert_eq!(report.destination("copy").0, 2_000);
    assert_eq!(report.policy("all").sent_packets, 2_000);
}

#[test]
fn wrong_policies_are_refused_with_all_their_errors() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input.pcap");
    capture(3).save(&input);
    let policy = "[[destination]]\nname = \"ids\"\ntype = \"vxlan\"\nremote = \"192.0.2.300\"\ncolour = \"red\"\n\n\
                  [[policy]]\nname = \"web\"\nprotocol = \"tcp\"\ncollect = { addresses = [\"@nobody\"], ports = \"90-80\" }\n\
                  tag = 99999999\nto = [\"idz\"]\n";
    let replayed = sluiced::replay(dir.path(), policy, &[&input]);
    let file = dir.path().join("policy.toml");
    let at = |line: u32| format!("{}:{line}:", file.display());
    let places: Vec<String> = [4, 5, 10, 11, 12].into_iter().map(at).collect();
    check_refused(&replayed, &places.iter().map(String::as_str).collect::<Vec<_>>());
    check_refused(&replayed, &["colour", "nobody", "90-80", "192.0.2.300", "idz", "99999999"]);
    assert!(!replayed.out.exists(), "nothing was begun");

    fs::remove_file(&file).unwrap();
    let out = dir.path().join("out");
    let arguments = ["replay", "--policy", file.to_str().unwrap(), "--in", input.to_str().unwrap(), "--out"];
    let replayed = sluiced::plain(&[&arguments[..], &[out.to_str().unwrap()]].concat());
    check_refused(&replayed, &[file.to_str().unwrap()]);
}
