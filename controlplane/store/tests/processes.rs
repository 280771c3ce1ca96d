//! Does a real process that is killed, or has a full disk, keep what it acknowledged?
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sluice_model::Generation;
use sluice_store::{Entry, KEPT, Origin, Repair, Store, StoreError};

const FOLDER: &str = "SLUICE_STORE_TEST_FOLDER";

/// What any process keeps under this number.
fn entry(number: u64) -> Entry {
    let lines = usize::try_from(number * 7_919 % 20_000).unwrap();
    Entry {
        applied_at_ns: i64::try_from(number).unwrap(),
        applied_by: "child".into(),
        comment: number.to_string(),
        origin: Origin::Apply,
        policies: 0,
        groups: 0,
        destinations: 0,
        changes: vec![],
        policy_text: format!("# {number}\n").repeat(lines),
    }
}

fn append(store: &mut Store) -> Result<u64, StoreError> {
    let generation = store.reserve()?;
    store.append(generation, &entry(generation.0)).map(|repairs| {
        assert!(repairs.is_empty(), "{repairs:?}");
        generation.0
    })
}

/// Everything in the folder is what was kept; the number of the last generation, 0 = none.
fn check(store: &Store) -> u64 {
    let history = store.history();
    assert!(history.len() <= KEPT);
    for pair in history.windows(2) {
        assert_eq!(pair[1].predecessor, Some(pair[0].generation));
    }
    for summary in history {
        let stored = store.get(summary.generation).unwrap();
        assert_eq!(stored.policy_text, entry(summary.generation.0).policy_text);
    }
    history.last().map_or(0, |summary| summary.generation.0)
}

fn folder() -> PathBuf {
    std::env::var_os(FOLDER).expect("only as a child of another test").into()
}

/// Runs one of the tests below that are children, behind `wrapper`.
fn child(test: &str, folder: &Path, wrapper: &[&str]) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut words = wrapper.iter().map(std::ffi::OsStr::new).chain([exe.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["--exact", test, "--ignored", "--nocapture"]);
    command.env(FOLDER, folder);
    command
}

#[test]
#[ignore = "a child of other tests"]
fn appends_until_killed() {
    let (mut store, repairs) = Store::open(&folder()).unwrap();
    assert!(!repairs.iter().any(Repair::is_loss), "{repairs:?}");
    loop {
        let number = append(&mut store).unwrap();
        let mut out = std::io::stdout().lock();
        out.write_all(format!("\nkept {number}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

/// The numbers that a child says it has kept, as it says them.
fn acknowledged(out: ChildStdout) -> mpsc::Receiver<u64> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("kept ") {
                sender.send(number.parse().unwrap()).unwrap();
            }
        }
    });
    receiver
}

fn start(folder: &Path) -> (Child, mpsc::Receiver<u64>) {
    let mut child = child("appends_until_killed", folder, &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = acknowledged(child.stdout.take().unwrap());
    (child, out)
}

/// 40 times; with SLUICE_LONG=1, 200 times.
#[test]
fn killed_at_random_moments() {
    let rounds = if std::env::var_os("SLUICE_LONG").is_some_and(|long| long == "1") { 200 } else { 40 };
    let dir = tempfile::tempdir().unwrap();
    let mut state = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos() | 1;
    println!("seed {state}");
    let (mut last, mut unfinished, mut unacknowledged) = (0, 0, 0);
    for _ in 0..rounds {
        let (mut child, out) = start(dir.path());
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        std::thread::sleep(Duration::from_micros(u64::from(state % 80_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(!status.success() && status.code().is_none(), "the child ended by itself: {status}");
        let acknowledged = out.iter().last().unwrap_or(last);
        let (store, repairs) = Store::open(dir.path()).unwrap();
        for repair in repairs {
            assert!(matches!(repair, Repair::Unfinished { .. }), "{repair}");
            unfinished += 1;
        }
        let found = check(&store);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&found),
            "{acknowledged} acknowledged, {found} found"
        );
        unacknowledged += found - acknowledged;
        last = found;
    }
    println!(
        "{rounds} kills, {last} generations, {unfinished} cut off, {unacknowledged} in force unacknowledged"
    );
    assert!(last > 0, "no child lived long enough");
}

#[test]
fn a_second_process_hears_who_has_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, out) = start(dir.path());
    out.recv().unwrap();
    let refused = Store::open(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let Err(error) = refused else { panic!("two processes have one folder") };
    let holder = format!("in use by process {} (processes-", child.id());
    assert!(error.to_string().contains(&holder), "{error}");
    Store::open(dir.path()).unwrap();
}

#[test]
#[ignore = "a child of another test"]
fn fills_its_disk() {
    let disk = folder();
    let mount = ["-t", "tmpfs", "-o", "size=512k", "sluice-test"];
    assert!(Command::new("mount").args(mount).arg(&disk).status().unwrap().success());
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 16]).unwrap();
    let folder = disk.join("store");
    let (mut store, _) = Store::open(&folder).unwrap();
    let (mut last, mut refusals) = (0, 0);
    // Large ones are refused first; small ones still find room.
    while refusals < 10 {
        match append(&mut store) {
            Ok(number) => last = number,
            Err(error) => {
                assert!(error.to_string().contains("make room on its file system"), "{error}");
                refusals += 1;
            }
        }
        assert_eq!(check_last(&store), last);
    }
    assert!(last > 0);
    // Not a byte is left.
    let mut file = std::fs::File::create(disk.join("filler")).unwrap();
    while file.write(&[0; 512]).is_ok_and(|written| written > 0) {}
    drop(store);
    for _ in 0..2 {
        let (mut store, repairs) = Store::open(&folder).unwrap();
        assert!(repairs.is_empty(), "{repairs:?}");
        assert_eq!(check_last(&store), last);
        append(&mut store).unwrap_err();
    }
    std::fs::remove_file(&ballast).unwrap();
    let (mut store, _) = Store::open(&folder).unwrap();
    let generation = store.reserve().unwrap();
    assert!(generation > Generation(last));
    store.append(generation, &Entry { policy_text: String::new(), ..entry(1) }).unwrap();
    drop(store);
    assert_eq!(Store::open(&folder).unwrap().0.last().unwrap().unwrap().summary.generation, generation);
    println!("full after generation {last}");
}

/// The last generation, which is whole.
fn check_last(store: &Store) -> u64 {
    let Some(last) = store.last().unwrap() else { return 0 };
    let number = last.summary.generation.0;
    assert_eq!(last.policy_text, entry(number).policy_text);
    number
}

#[test]
fn a_full_disk_keeps_what_was_in_force() {
    if !rustix::process::geteuid().is_root() {
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!ci, "needs root for a mount namespace");
        eprintln!("SKIPPED: needs root for a mount namespace");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = child("fills_its_disk", dir.path(), &["unshare", "--mount"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("full after generation"), "{text}");
}
