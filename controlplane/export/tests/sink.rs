//! Does the sink keep its promises: whole files only, every record counted, old files removed, failures survived?

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise should stop the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMicrosecondType, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sluice_export::parquet::{
    Condition, Now, OpenError, ParquetSettings, ParquetSink, Profile, SinkStats, Table, Waiting,
};
use sluice_model::{CounterRecord, CounterScope, FlowRecord, MetricsRecord, Period};

/// 2023-11-14 22:13:20 UTC.
const BEGIN_S: u64 = 1_700_000_000;

fn settings(folder: &Path) -> ParquetSettings {
    ParquetSettings {
        flow_cap: None,
        reserve_bytes: 0,
        group_rows: 64,
        ..ParquetSettings::new(folder.to_owned())
    }
}

/// A clock that tests move.
fn clock() -> Now {
    Now { at: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN_S) }
}

fn later(now: Now, seconds: u64) -> Now {
    let step = Duration::from_secs(seconds);
    Now { at: now.at + step, wall: now.wall + step }
}

fn flow(flow_id: u64, second: u64) -> FlowRecord {
    FlowRecord { flow_id, start_ns: (BEGIN_S + second) * 1_000_000_000, ..FlowRecord::default() }
}

fn flows(ids: std::ops::Range<u64>) -> Vec<FlowRecord> {
    ids.map(|id| flow(id, id % 60)).collect()
}

/// The whole files of a folder, and the hidden ones.
fn files(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut whole, mut hidden, mut folders) = (Vec::new(), Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with('.') && name != ".sluice" {
                hidden.push(path);
            } else if name.ends_with(".parquet") {
                whole.push(path);
            }
        }
    }
    whole.sort();
    (whole, hidden)
}

fn read(path: &Path) -> Vec<RecordBatch> {
    let file = fs::File::open(path).unwrap();
    ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap).collect()
}

fn ids(folder: &Path) -> Vec<u64> {
    let batches = files(folder).0.into_iter().flat_map(|path| read(&path));
    let mut ids: Vec<u64> = batches
        .flat_map(|batch| {
            batch.column_by_name("flow_id").unwrap().as_primitive::<UInt64Type>().values().to_vec()
        })
        .collect();
    ids.sort_unstable();
    ids
}

/// Every record is somewhere.
fn balanced(stats: &SinkStats) {
    for table in Table::ALL {
        let found = stats.table(table);
        let sum = found.written + found.sampled_out + found.lost + found.pending;
        assert_eq!(found.taken, sum, "{table:?}: {found:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_file_is_whole_when_it_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = ParquetSink::open(settings(folder.path())).unwrap();
    let stats = sink.stats();
    let now = clock();
    sink.flows(&flows(0..100), now);
    sink.tick(later(now, 59));
    let (whole, hidden) = files(folder.path());
    assert_eq!((whole.len(), hidden.len()), (0, 1), "the first row group is written, under a hidden name");
    balanced(&stats);
    assert_eq!(stats.table(Table::Flows).pending, 100);
    sink.tick(later(now, 60));
    let (whole, hidden) = files(folder.path());
    assert_eq!((whole.len(), hidden.len()), (1, 0));
    assert!(whole[0].starts_with(folder.path().join("table=flows/date=2023-11-14/hour=22")));
    assert_eq!(ids(folder.path()), (0..100).collect::<Vec<_>>());
    let found = stats.table(Table::Flows);
    assert_eq!((found.written, found.pending, found.files), (100, 0, 1));
    assert_eq!(found.bytes, fs::metadata(&whole[0]).unwrap().len());
    sink.close(later(now, 61)).unwrap();
}

#[test]
fn row_groups_are_in_the_order_of_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = ParquetSink::open(settings(folder.path())).unwrap();
    let shuffled: Vec<_> = (0..200).map(|id| flow(id, id * 37 % 61)).collect();
    sink.flows(&shuffled, clock());
    sink.close(clock()).unwrap();
    let file = fs::File::open(&files(folder.path()).0[0]).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().with_batch_size(64);
    let groups: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    assert_eq!(groups.len(), 4);
    for group in groups {
        let times = group.column_by_name("start_time").unwrap();
        assert!(times.as_primitive::<TimestampMicrosecondType>().values().is_sorted());
    }
}

#[test]
fn a_file_that_is_large_enough_ends() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ParquetSettings { file_bytes: 1, ..settings(folder.path()) };
    let mut sink = ParquetSink::open(settings).unwrap();
    sink.flows(&flows(0..640), clock());
    assert_eq!(files(folder.path()).0.len(), 10);
    sink.close(clock()).unwrap();
    assert_eq!(ids(folder.path()).len(), 640);
}

#[test]
fn every_table_has_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ParquetSettings { profile: Profile::Basic, ..settings(folder.path()) };
    let mut sink = ParquetSink::open(settings).unwrap();
    let second = MetricsRecord { begin_s: u32::try_from(BEGIN_S).unwrap(), ..MetricsRecord::default() };
    let minute = MetricsRecord { period: Period::Minute, ..second };
    let counter = CounterRecord {
        time_ns: BEGIN_S * 1_000_000_000,
        interval_ms: 1000,
        scope: CounterScope::Port,
        name: Arc::from("uplink"),
        metric: "rx_packets".into(),
        value: 7,
        total: Some(9),
    };
    sink.flows(&flows(0..1), clock());
    sink.metrics(&[second, minute, second], clock());
    sink.counters(&[counter], clock());
    let stats = sink.stats();
    sink.close(clock()).unwrap();
    let rows = |table: &str| -> (usize, usize) {
        let (whole, _) = files(&folder.path().join(format!("table={table}")));
        let batches = read(&whole[0]);
        (batches.iter().map(RecordBatch::num_rows).sum(), batches[0].num_columns())
    };
    assert_eq!(rows("flows"), (1, 24));
    assert_eq!(rows("metrics_1s").0, 2);
    assert_eq!(rows("metrics_1m").0, 1);
    assert_eq!(rows("counters"), (1, 7));
    balanced(&stats);
}

#[test]
fn late_records_go_to_their_own_hour() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = ParquetSink::open(settings(folder.path())).unwrap();
    let records: Vec<_> = (0..300).map(|id| flow(id, (id * 7 % 10) * 3600)).collect();
    sink.flows(&records, clock());
    sink.close(clock()).unwrap();
    assert_eq!(ids(folder.path()), (0..300).collect::<Vec<_>>());
    for path in files(folder.path()).0 {
        for batch in read(&path) {
            let times = batch.column_by_name("start_time").unwrap();
            for time in times.as_primitive::<TimestampMicrosecondType>().values() {
                let hour = format!("hour={:02}", time / 3_600_000_000 % 24);
                assert!(path.parent().unwrap().ends_with(&hour), "{}: {time}", path.display());
            }
        }
    }
}

/// What a killed process leaves is what lies in its folder at that moment.
#[test]
fn what_a_crash_loses_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let now = clock();
    let mut sink = ParquetSink::open(settings(folder.path())).unwrap();
    let stats = sink.stats();
    for step in 0..40_u64 {
        sink.flows(&flows(step * 25..step * 25 + 25), later(now, step * 7));
        sink.tick(later(now, step * 7));
        let copied = copies.path().join(step.to_string());
        copy(folder.path(), &copied);
        let unfinished = files(&copied).1.len();
        let again = ParquetSink::open(settings(&copied)).unwrap();
        let pending = stats.table(Table::Flows).pending;
        assert_eq!(again.stats().crash_lost(), pending, "step {step}");
        assert!(pending <= 25 * 9, "no more than the flush interval");
        assert_eq!(again.stats().crash_files(), unfinished as u64);
        assert_eq!(files(&copied).1.len(), 0, "nothing unfinished is left");
        assert_eq!(ids(&copied).len() as u64 + pending, (step + 1) * 25);
        drop(again);
        assert_eq!(ParquetSink::open(settings(&copied)).unwrap().stats().crash_lost(), 0, "once only");
    }
    sink.close(now).unwrap();
    let again = ParquetSink::open(settings(folder.path())).unwrap();
    assert_eq!((again.stats().crash_lost(), again.stats().crash_files()), (0, 0));
}

/// Records that wait for the thread of the sink when the process is killed.
#[test]
fn what_is_on_its_way_to_the_sink_is_counted_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let waiting = Waiting::default();
    // Before there is a sink, too.
    waiting.set_out(300);
    let mut sink = ParquetSink::open_with(settings(folder.path()), Arc::default(), &waiting).unwrap();
    let lost = || {
        let copies = tempfile::tempdir().unwrap();
        copy(folder.path(), copies.path());
        ParquetSink::open(settings(copies.path())).unwrap().stats().crash_lost()
    };
    assert_eq!(lost(), 300);
    waiting.set_out(40);
    assert_eq!(lost(), 340);
    sink.flows(&flows(0..300), clock());
    assert_eq!(lost(), 640, "between the two steps records count twice: too many, never too few");
    waiting.arrived(300);
    assert_eq!(lost(), 340);
    waiting.arrived(40);
    sink.close(clock()).unwrap();
    assert_eq!(lost(), 0);
}

#[test]
fn a_folder_has_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let first = ParquetSink::open(settings(folder.path())).unwrap();
    assert!(matches!(ParquetSink::open(settings(folder.path())), Err(OpenError::InUse(_))));
    drop(first);
    ParquetSink::open(settings(folder.path())).unwrap();
}

#[test]
fn old_files_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let keep = Some(Duration::from_secs(3 * 3600));
    let settings = ParquetSettings { keep, ..settings(folder.path()) };
    let mut sink = ParquetSink::open(settings.clone()).unwrap();
    let records: Vec<_> = (0..10).map(|id| flow(id, id * 3600)).collect();
    sink.flows(&records, clock());
    sink.close(clock()).unwrap();
    let ours = &files(folder.path()).0[0].clone();
    for other in ["notes.parquet", "flows-1.parquet.bak", ".flows-1.swp"] {
        fs::write(ours.with_file_name(other), b"not ours").unwrap();
    }
    fs::create_dir_all(folder.path().join("table=flows/date=2001-01-01/hour=00")).unwrap();
    fs::write(folder.path().join("table=flows/date=2001-01-01/notes"), b"not ours").unwrap();
    let mut sink = ParquetSink::open(settings).unwrap();
    let stats = sink.stats();
    // 22:13:20 and 8 hours: the hours 22 to 02 ended 3 hours ago or more.
    sink.tick(later(clock(), 8 * 3600));
    assert_eq!(stats.removed().0, 5);
    assert_eq!(ids(folder.path().join("table=flows/date=2023-11-15").as_path()), [5, 6, 7, 8, 9]);
    assert!(ours.with_file_name("notes.parquet").exists(), "what is not ours stays");
    assert!(!ours.exists());
}

#[test]
fn the_oldest_files_go_when_there_are_too_many_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = ParquetSink::open(settings(folder.path())).unwrap();
    let records: Vec<_> = (0..10).map(|id| flow(id, id * 3600)).collect();
    sink.flows(&records, clock());
    let stats = sink.stats();
    sink.close(clock()).unwrap();
    let bytes = stats.table(Table::Flows).bytes;
    let settings = ParquetSettings { keep_bytes: Some(bytes / 2), ..settings(folder.path()) };
    let mut sink = ParquetSink::open(settings).unwrap();
    assert_eq!(sink.stats().kept_bytes(), bytes);
    sink.tick(clock());
    let left = ids(folder.path());
    assert!(left.len() >= 4 && left == (10 - left.len() as u64..10).collect::<Vec<_>>(), "{left:?}");
    assert!(sink.stats().kept_bytes() <= bytes / 2);
    assert_eq!(sink.stats().removed().1 + sink.stats().kept_bytes(), bytes);
}

#[test]
fn what_cannot_be_removed_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = ParquetSink::open(settings(folder.path())).unwrap();
    let records: Vec<_> = (0..3).map(|id| flow(id, id * 3600)).collect();
    sink.flows(&records, clock());
    sink.close(clock()).unwrap();
    let whole = files(folder.path()).0;
    let bytes = |paths: &[PathBuf]| paths.iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    let (all, kept) = (bytes(&whole), bytes(&whole[2..]));
    let settings = ParquetSettings { keep_bytes: Some(kept), ..settings(folder.path()) };
    let mut sink = ParquetSink::open(settings).unwrap();
    let stats = sink.stats();
    // What is not a file cannot be removed as one, not even by root.
    let aside = folder.path().join("aside");
    fs::rename(&whole[0], &aside).unwrap();
    fs::create_dir(&whole[0]).unwrap();
    let now = clock();
    sink.tick(now);
    let counted = || (stats.removed().0, stats.report().remove_errors, stats.kept_bytes());
    let oldest = fs::metadata(&aside).unwrap().len();
    assert_eq!(counted(), (1, 1, oldest + kept), "the next one went, what stays is counted");
    sink.tick(later(now, 59));
    assert_eq!(counted(), (1, 1, oldest + kept));
    fs::remove_dir(&whole[0]).unwrap();
    fs::rename(&aside, &whole[0]).unwrap();
    sink.tick(later(now, 60));
    assert_eq!(counted(), (2, 1, kept));
    assert_eq!(stats.removed().1 + kept, all);
    assert_eq!(files(folder.path()).0, &whole[2..]);
}

#[test]
fn above_the_cap_records_are_sampled() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ParquetSettings { flow_cap: Some(100), ..settings(folder.path()) };
    let mut sink = ParquetSink::open(settings).unwrap();
    let stats = sink.stats();
    let now = clock();
    for second in 0..10 {
        for part in 0..4 {
            let begin = second * 1000 + part * 250;
            sink.flows(&flows(begin..begin + 250), later(now, second));
            balanced(&stats);
        }
        sink.tick(later(now, second + 1));
    }
    sink.close(later(now, 10)).unwrap();
    let found = stats.table(Table::Flows);
    assert_eq!((found.taken, found.written, found.sampled_out), (10_000, 1_000, 9_000));
    let kept = ids(folder.path());
    assert_eq!(kept.len(), 1000);
    for second in 0..10 {
        let begin = second * 1000;
        assert_eq!(kept.iter().filter(|id| (begin..begin + 1000).contains(*id)).count(), 100);
    }
}

#[test]
fn writing_goes_on_when_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let obstacle = folder.path().join("table=flows");
    let mut sink = ParquetSink::open(settings(folder.path())).unwrap();
    let stats = sink.stats();
    fs::write(&obstacle, b"a file where the folder should be").unwrap();
    let now = clock();
    sink.flows(&flows(0..100), now);
    assert_eq!(stats.condition(), Condition::Failing);
    assert!(sink.take_failure().unwrap().to_string().contains("table=flows"));
    assert_eq!(stats.table(Table::Flows).lost, 64, "the row group that could not be written");
    sink.flows(&flows(100..110), now);
    balanced(&stats);
    assert_eq!(stats.table(Table::Flows).lost, 74);
    fs::remove_file(&obstacle).unwrap();
    sink.tick(later(now, 1));
    assert_eq!((stats.condition(), stats.exceptions()), (Condition::Writing, 1));
    sink.flows(&flows(110..210), later(now, 2));
    sink.close(later(now, 3)).unwrap();
    balanced(&stats);
    assert_eq!(ids(folder.path()).len() as u64, stats.table(Table::Flows).written);
    assert_eq!(stats.table(Table::Flows).lost, 74);
}

/// A file system of our own, of a few megabytes.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` without the right to mount.
    fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "none"]).arg(folder.path());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "cannot mount a tmpfs");
            eprintln!("SKIPPED: cannot mount a tmpfs");
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_costs_counted_records() {
    let Some(disk) = Small::mount(2) else { return };
    let path = disk.0.path().join("records");
    for reserve_bytes in [0, 512 << 10] {
        let settings = ParquetSettings { group_rows: 4096, reserve_bytes, ..settings(&path) };
        let mut sink = ParquetSink::open(settings).unwrap();
        let stats = sink.stats();
        let mut now = clock();
        let mut random = 1_u64;
        // Values that do not compress: the disk fills.
        let mut noise = |id: u64| {
            let mut record = flow(id, id % 60);
            for side in &mut record.sides {
                for value in [&mut side.packets, &mut side.bytes, &mut side.l3_bytes, &mut side.total_bytes] {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *value = random;
                }
            }
            record
        };
        let mut taken = 0;
        while stats.condition() == Condition::Writing {
            let batch: Vec<_> = (taken..taken + 500).map(&mut noise).collect();
            sink.flows(&batch, now);
            taken += 500;
            if stats.condition() == Condition::Writing {
                now = later(now, 1);
                sink.tick(now);
            }
            assert!(taken < 1_000_000, "the disk is never full");
        }
        assert_eq!(stats.condition(), Condition::NoSpace, "{:?}", sink.take_failure());
        drop(sink.take_failure());
        // As long as it is full, all are lost; nothing fails, and nothing waits.
        let ballast = path.join("ballast");
        drop(fs::write(&ballast, vec![1; 4 << 20]));
        for _ in 0..5 {
            let lost = stats.table(Table::Flows).lost;
            now = later(now, 1);
            sink.tick(now);
            sink.flows(&[noise(taken)], now);
            assert_eq!(stats.table(Table::Flows).lost, lost + 1);
            balanced(&stats);
        }
        // With room again it goes on.
        fs::remove_file(&ballast).unwrap();
        for path in files(&path).0 {
            read(&path);
            fs::remove_file(path).unwrap();
        }
        let (written, lost) = (stats.table(Table::Flows).written, stats.table(Table::Flows).lost);
        now = later(now, 2);
        sink.tick(now);
        assert_eq!(stats.condition(), Condition::Writing);
        sink.flows(&[noise(taken)], now);
        sink.close(now).unwrap();
        balanced(&stats);
        let found = stats.table(Table::Flows);
        assert_eq!((found.pending, found.lost), (0, lost));
        assert_eq!(ids(&path).len() as u64, found.written - written);
        assert_eq!(files(&path).1.len(), 0);
        fs::remove_dir_all(&path).unwrap();
    }
}
