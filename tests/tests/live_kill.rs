//! Is nothing lost that must not be when the daemon is killed at any moment, while policies are applied and files written?
//!
//! Forty kills, 200 with `SLUICE_LONG=1`. The moments are random: `SLUICE_SEED` repeats those of another run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::HashSet;
use std::env;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rustix::process::Signal;
use sluice_api::v1;
use sluice_api::v1::policy_service_client::PolicyServiceClient;
use sluice_tests::api::policy_set;
use sluice_tests::daemon::{Daemon, binary};
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::prometheus::{get, sample};
use sluice_tests::tap::{SERVER, TOOL, Tap};
use tonic::transport::{Channel, Endpoint};

const BOOT: &str = concat!(
    r#"
[metrics]
listen = "127.0.0.1:9464"

[flow]
flows = 65536
timeouts = { one_way = 1, other = 1 }

[flow.parquet]
folder = "records"
flush = 1
counters = 1

"#,
    sluice_tests::tap_ports!(),
    r#"
[api]
socket = "api.sock"

[store]
folder = "kept"
"#
);

/// After this long a record must be in a whole file: the flush interval, and what a busy machine takes to do it.
const FLUSH: Duration = Duration::from_secs(1 + 1);
/// Records that may come between the last look and the kill.
const LATEST: u64 = 5000;

fn policy(tag: u32) -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\ntag = {tag}\nto = [\"tool\"]\n",
        TOOL[0]
    )
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// 0 to `end`, without it.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }
}

async fn client(socket: &Path) -> PolicyServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    PolicyServiceClient::new(endpoint.connect().await.unwrap())
}

/// The tag of the one policy in force.
async fn tag_in_force(client: &mut PolicyServiceClient<Channel>) -> u32 {
    let response = client.get_policy_set(v1::GetPolicySetRequest {}).await.unwrap().into_inner();
    response.set.unwrap().policies[0].tag.unwrap_or(0)
}

/// Tags that were asked for and acknowledged.
#[derive(Clone, Copy, Debug)]
struct Tags {
    acknowledged: u32,
    asked: u32,
}

/// Applies policies, one after the other, until the daemon is gone.
async fn apply_until_killed(mut client: PolicyServiceClient<Channel>, mut tags: Tags) -> Tags {
    loop {
        tags.asked += 1;
        let set = Some(policy_set(&policy(tags.asked)));
        match client.apply_policy_set(v1::ApplyPolicySetRequest { set, ..Default::default() }).await {
            Ok(response) => {
                let response = response.into_inner();
                assert!(response.applied, "{response:?}");
                tags.acknowledged = tags.asked;
            }
            Err(_) => return tags,
        }
    }
}

/// What the daemon said of its records at one moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    taken: u64,
    crash_lost: u64,
}

/// Looks at the metrics.
fn look() -> Option<Look> {
    let at = Instant::now();
    let (status, _, text) = get("127.0.0.1:9464".parse().unwrap(), "/metrics", "").ok()?;
    assert_eq!(status, 200);
    let tables = |metric: &str| -> u64 {
        let names = ["flows", "metrics_1s", "metrics_1m", "counters"];
        names
            .iter()
            .map(|table| {
                sample(&text, &format!("sluice_parquet_{metric}_records_total{{table=\"{table}\"}}"))
            })
            .sum()
    };
    assert_eq!(tables("lost") + tables("sampled_out"), 0);
    Some(Look { at, taken: tables("taken"), crash_lost: sample(&text, "sluice_parquet_crash_lost_records") })
}

/// Looks again and again until `end`.
fn watch(namespace: &Namespace, end: &Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<Look>> {
    let end = Arc::clone(end);
    namespace.inside(move || {
        let mut looks = Vec::new();
        while !end.load(Ordering::Relaxed) {
            looks.extend(look());
            std::thread::sleep(Duration::from_millis(60));
        }
        looks
    })
}

/// Packets of ever new flows until `end`: each is a record a second later.
fn traffic(namespace: &Namespace, end: &Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    let end = Arc::clone(end);
    namespace.inside(move || {
        let mut flows = 0;
        while !end.load(Ordering::Relaxed) {
            for _ in 0..10 {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                flows += u64::from(socket.send_to(&[0; 100], (SERVER[0], 9)).is_ok());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        flows
    })
}

/// The whole files that there are, of which each must be readable.
#[derive(Debug, Default)]
struct Files {
    known: HashSet<PathBuf>,
    rows: u64,
}

impl Files {
    /// Reads the files that are new; says how many rows they have.
    fn read_new(&mut self, folder: &Path) -> u64 {
        let (mut rows, mut folders) = (0, vec![folder.to_owned()]);
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if name.ends_with(".parquet") && self.known.insert(path.clone()) {
                    let file = fs::File::open(&path).unwrap();
                    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
                        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    for batch in reader.build().unwrap() {
                        rows += batch.unwrap().num_rows() as u64;
                    }
                }
            }
        }
        self.rows += rows;
        rows
    }
}

/// pyarrow reads all of it, too.
fn check_with_pyarrow(folder: &Path, rows: u64) {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/analytics/bin/python");
    let python = env::var_os("SLUICE_ANALYTICS_PYTHON").map_or(made, PathBuf::from);
    if !python.is_file() {
        assert!(!env::var("CI").is_ok_and(|ci| ci == "true"), "no {}", python.display());
        sluice_tests::left_out(format_args!("pyarrow: no {} (scripts/test.sh makes it)", python.display()));
        return;
    }
    let script = "import pathlib, sys\nimport pyarrow.parquet as pq\n\
                  files = pathlib.Path(sys.argv[1]).rglob('*.parquet')\n\
                  print(sum(pq.read_table(file, partitioning=None).num_rows for file in files))";
    let output = Command::new(python).args(["-c", script]).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap(), rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_kill() {
    let Some(mut lab) = Lab::new("kill") else { return };
    let seed = env::var("SLUICE_SEED").map_or_else(
        |_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
        |seed| seed.parse().unwrap(),
    );
    let kills = if env::var_os("SLUICE_LONG").is_some() { 200 } else { 40 };
    eprintln!("{kills} kills, SLUICE_SEED={seed}");
    let mut random = Random(seed);
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let (socket, records) = (lab.dir().join("api.sock"), lab.dir().join("records"));
    let end = Arc::new(AtomicBool::new(false));
    let sending = traffic(&tap.client, &end);

    let mut tags = Tags { acknowledged: 1, asked: 1 };
    let mut files = Files::default();
    // Of the lives before: records in whole files and counted as lost; and the least that there can be.
    let (mut lost_before, mut lost_most, mut bounded) = (0, 0, 0);
    let mut due: Option<(u64, u64)> = None;
    let begun = Instant::now();
    for kill in 0..kills {
        if random.below(6) == 0 {
            // Killed while it starts.
            let daemon = Daemon::spawn(tap.broker.command(binary()), lab.dir(), BOOT, &policy(1));
            std::thread::sleep(Duration::from_millis(random.below(700)));
            daemon.signal(Signal::KILL);
            continue;
        }
        let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy(1));
        daemon.wait_log("the API is served");
        let mut client = client(&socket).await;
        let found = tag_in_force(&mut client).await;
        assert!((tags.acknowledged..=tags.asked).contains(&found), "kill {kill}: tag {found} after {tags:?}");
        tags = Tags { acknowledged: found, asked: found };

        // What the life before left is counted, unless it is in a file.
        let begin = wait_for("metrics", Duration::from_secs(10), || tap.broker.inside(look).join().unwrap());
        let lost = begin.crash_lost - lost_before;
        if let Some((taken, written)) = due.take() {
            assert!(written + lost >= taken, "kill {kill}: {taken} taken, {written} written, {lost} lost");
            assert!(
                written + lost <= taken + LATEST,
                "kill {kill}: {taken} taken, {written} written, {lost} lost"
            );
            lost_most = lost_most.max(lost);
        }
        lost_before = begin.crash_lost;

        let gone = Arc::new(AtomicBool::new(false));
        let watching = watch(&tap.broker, &gone);
        let applying = tokio::spawn(apply_until_killed(client, tags));
        // Only those that live for long enough show that what was taken is written: some do, whatever is drawn.
        let life = match random.below(3) {
            _ if kill % 10 == 9 => 4500,
            0 => 1000 + random.below(3500),
            _ => random.below(1000),
        };
        tokio::time::sleep(Duration::from_millis(life)).await;
        let killed = Instant::now();
        daemon.signal(Signal::KILL);
        drop(daemon);
        gone.store(true, Ordering::Relaxed);
        let looks = watching.join().unwrap();
        tags = applying.await.unwrap();
        let written = files.read_new(&records);
        let before_kill = |look: &&Look| look.at < killed;
        let last = looks.iter().rfind(before_kill).copied().unwrap_or(begin);
        due = Some((last.taken, written));
        // Whatever came longer ago than the flush interval is in a whole file.
        let old = looks.iter().rfind(|look| killed.duration_since(look.at.min(killed)) > FLUSH);
        if let Some(old) = old {
            assert!(written >= old.taken, "kill {kill}: {} taken, {written} written", old.taken);
            bounded += u64::from(old.taken > 0);
        }
    }
    eprintln!("{kills} kills in {:?}, {tags:?}", begun.elapsed());

    // The last life ends as it should.
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy(1));
    daemon.wait_log("the API is served");
    let found = tag_in_force(&mut client(&socket).await).await;
    assert!((tags.acknowledged..=tags.asked).contains(&found), "tag {found} after {tags:?}");
    std::thread::sleep(Duration::from_millis(1500));
    end.store(true, Ordering::Relaxed);
    let flows = sending.join().unwrap();
    let summary = daemon.stop();
    files.read_new(&records);
    check_with_pyarrow(&records, files.rows);
    eprintln!(
        "{} files, {} rows; at most {lost_most} lost by one kill, {flows} flows",
        files.known.len(),
        files.rows
    );
    let left: Vec<_> = walk(&records)
        .into_iter()
        .filter(|name| name.rsplit_once('.').is_some_and(|(_, end)| end == "tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(files.rows > 1000 && bounded > 0 && lost_before > 0, "{}", summary.text);
    assert_eq!(summary.get("records", "flows", 4), 0, "nothing waits");
    assert_eq!(summary.get("records", "flows", 3), 0, "nothing is lost");
}

/// The names of all files below a folder.
fn walk(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() { walk(&path) } else { vec![name] }
        })
        .collect()
}
