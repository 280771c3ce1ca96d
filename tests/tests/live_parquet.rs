//! Do the Parquet files of a running daemon say what its account says, sampled where too many records come, and does a
//! full disk cost records only?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Row;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::prometheus::{get, sample};
use sluice_tests::tap::{SERVER, Tap};

const BOOT: &str = concat!(
    r#"
[metrics]
listen = "127.0.0.1:9464"

[flow]
flows = 65536
timeouts = { one_way = 1, other = 1 }

"#,
    sluice_tests::tap_ports!()
);

const POLICY: &str = r#"
[[destination]]
name = "file"
type = "pcap"
file = "copies.pcap"

[[policy]]
name = "udp"
protocol = "udp"
to = ["file"]
"#;

/// The next port that no flow had yet.
static PORT: AtomicU16 = AtomicU16::new(10_000);

/// Sends a packet of each of so many new flows.
fn flows(tap: &Tap, flows: u16) {
    let before = tap.server.counters("s0").rx_packets;
    let send = move || {
        for _ in 0..flows {
            let socket = UdpSocket::bind(("0.0.0.0", PORT.fetch_add(1, Ordering::Relaxed))).unwrap();
            while socket.send_to(&[0; 100], (SERVER[0], 9)).is_err() {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    };
    tap.client.inside(send).join().unwrap();
    wait_for("the packets to cross", Duration::from_secs(5), || {
        (tap.server.counters("s0").rx_packets >= before + u64::from(flows)).then_some(())
    });
}

/// The rows of a table.
fn rows(records: &Path, table: &str) -> Vec<Row> {
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                files(&path, found);
            } else if path.extension().is_some_and(|end| end == "parquet") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    files(&records.join(format!("table={table}")), &mut found);
    found.sort();
    found
        .into_iter()
        .flat_map(|path| {
            let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
            reader.get_row_iter(None).unwrap().map(Result::unwrap).collect::<Vec<_>>()
        })
        .collect()
}

/// The columns of a row, as text.
fn cells(row: &Row) -> BTreeMap<&str, String> {
    let text = |field: &parquet::record::Field| field.to_string().trim_matches('"').to_owned();
    row.get_column_iter().map(|(name, field)| (name.as_str(), text(field))).collect()
}

#[test]
fn counters_and_sampled_flows_add_up_to_the_account() {
    let Some(mut lab) = Lab::new("counters") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let boot = format!(
        "{BOOT}\n[flow.parquet]\nfolder = \"records\"\nflush = 1\ncounters = 1\nrecords_per_second = 100\n"
    );
    let daemon = Daemon::start(&lab, &tap.broker, &boot, POLICY);
    for _ in 0..3 {
        flows(&tap, 1000);
        std::thread::sleep(Duration::from_millis(600));
    }
    std::thread::sleep(Duration::from_millis(1500));
    let summary = daemon.stop();
    let records = lab.dir().join("records");

    let table = |column| summary.get("records", "flows", column);
    let (taken, written, sampled_out, lost, pending) = (table(0), table(1), table(2), table(3), table(4));
    assert!(taken >= 3000 && sampled_out > 1000, "{}", summary.text);
    assert_eq!((taken, lost, pending), (written + sampled_out, 0, 0), "{}", summary.text);
    assert_eq!(rows(&records, "flows").len() as u64, written);

    // What was added in all intervals is what was counted in all.
    let mut sums = BTreeMap::<_, u64>::new();
    let mut totals = BTreeMap::<_, u64>::new();
    let counters = rows(&records, "counters");
    let mut latest = String::new();
    for row in &counters {
        let cells = cells(row);
        assert!(latest <= cells["time"], "rows come in the order of time");
        latest.clone_from(&cells["time"]);
        if cells["total"] == "null" {
            continue;
        }
        let key = ["scope", "name", "metric"].map(|name| cells[name].clone());
        *sums.entry(key.clone()).or_default() += cells["value"].parse::<u64>().unwrap();
        totals.insert(key, cells["total"].parse().unwrap());
    }
    assert_eq!(sums, totals);
    let sum = |scope: &str, name: &str, metric: &str| {
        sums.get(&[scope, name, metric].map(str::to_owned)).copied().unwrap_or(0)
    };
    assert_eq!(sum("appliance", "", "rx_packets"), summary.rx());
    assert_eq!(sum("appliance", "", "tx_packets"), summary.tx());
    assert_eq!(sum("appliance", "", "drops"), summary.drops());
    assert_eq!(sum("drop", "", "no_policy"), summary.dropped("no_policy"));
    assert_eq!(sum("port", "tap0", "rx_packets"), summary.port("tap0")[0]);
    assert_eq!(sum("worker", "worker0", "rx_packets"), summary.rx());
    assert_eq!(sum("policy", "udp", "matched_packets"), summary.get("policy", "udp", 0));
    assert_eq!(sum("destination", "file", "sent_packets"), summary.copies("file"));
    assert_eq!(sum("policy", "udp", "matched_packets"), 3000);
    // The last rows are made before the last records are written: what they say was true then.
    let before_end = sum("table", "flows", "taken");
    assert!(before_end > 0 && before_end <= taken && sum("table", "flows", "sampled_out") <= sampled_out);
    let reported = summary.get("records", "counters", 1);
    assert_eq!(counters.len() as u64, reported, "{}", summary.text);
}

#[test]
fn a_full_disk_costs_records_and_no_packets() {
    let Some(mut lab) = Lab::new("disk") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let disk = lab.small_disk(8 << 10);
    let records = disk.join("records");
    let boot = format!(
        "{BOOT}\n[flow.parquet]\nfolder = \"{}\"\nflush = 1\ncounters = 1\nreserve_mb = 1\n",
        records.display()
    );
    let daemon = Daemon::start(&lab, &tap.broker, &boot, POLICY);
    let metrics = || {
        let get = || get("127.0.0.1:9464".parse().unwrap(), "/metrics", "").unwrap().2;
        tap.broker.inside(get).join().unwrap()
    };
    let value = |name: &str| sample(&metrics(), name);
    let written = || value("sluice_parquet_written_records_total{table=\"flows\"}");
    flows(&tap, 100);
    wait_for("records in a file", Duration::from_secs(10), || (written() >= 100).then_some(()));
    assert_eq!((value("sluice_parquet_writing"), value("sluice_parquet_no_space")), (1, 0));

    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1; 7 << 20]).unwrap();
    flows(&tap, 100);
    daemon.wait_log("export_failed: records are lost");
    assert_eq!((value("sluice_parquet_writing"), value("sluice_parquet_no_space")), (0, 1));
    flows(&tap, 100);
    wait_for("lost records", Duration::from_secs(10), || {
        (value("sluice_parquet_lost_records_total{table=\"flows\"}") >= 100).then_some(())
    });

    fs::remove_file(&ballast).unwrap();
    daemon.wait_log("export_failed is over");
    let before = written();
    flows(&tap, 100);
    wait_for("records in a file again", Duration::from_secs(10), || {
        (written() >= before + 100).then_some(())
    });
    assert_eq!((value("sluice_parquet_writing"), value("sluice_parquet_stops_total")), (1, 1));

    daemon.signal(rustix::process::Signal::INT);
    let mut daemon = daemon;
    let (status, text) = daemon.wait();
    assert_eq!(status.code(), Some(1), "records were lost: {text}");
    assert!(text.contains(": balanced"), "{text}");
    let row = |name: &str, cells: usize| -> Vec<u64> {
        let lines = text.lines().filter(|line| line.trim_start().starts_with(name));
        let mut rows =
            lines.map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect());
        rows.find(|row: &Vec<u64>| row.len() == cells).unwrap()
    };
    let flows = row("flows ", 7);
    let [taken, written, sampled_out, lost, pending] = flows[..5] else { panic!("{text}") };
    assert!(lost >= 100 && taken == written + lost && sampled_out == 0 && pending == 0, "{text}");
    assert_eq!(rows(&records, "flows").len() as u64, written);
    // Each packet was copied, whatever the disk was like.
    assert_eq!(row("file ", 3)[0], 400, "{text}");
}

#[test]
fn a_disk_that_is_full_at_the_start_costs_records_only() {
    let Some(mut lab) = Lab::new("diskstart") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let disk = lab.small_disk(8 << 10);
    let ballast = disk.join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while std::io::Write::write(&mut file, &[0; 512]).is_ok() {}
    drop(file);
    let records = disk.join("records");
    let boot = format!(
        "{BOOT}\n[flow.parquet]\nfolder = \"{}\"\nflush = 1\ncounters = 0\nreserve_mb = 1\n",
        records.display()
    );
    let daemon = Daemon::start(&lab, &tap.broker, &boot, POLICY);
    daemon.wait_log("export_failed: records are lost until they can be written");
    let metrics = || {
        let get = || get("127.0.0.1:9464".parse().unwrap(), "/metrics", "").unwrap().2;
        tap.broker.inside(get).join().unwrap()
    };
    let value = |name: &str| sample(&metrics(), name);
    let of_flows = |what: &str| value(&format!("sluice_parquet_{what}_records_total{{table=\"flows\"}}"));
    assert_eq!((value("sluice_parquet_writing"), value("sluice_parquet_no_space")), (0, 1));
    wait_for("the exception", Duration::from_secs(10), || {
        metrics().contains("sluice_exceptions{code=\"export_failed\"} 1").then_some(())
    });
    flows(&tap, 100);
    wait_for("lost records", Duration::from_secs(10), || (of_flows("lost") >= 100).then_some(()));

    fs::remove_file(&ballast).unwrap();
    daemon.wait_log("export_failed is over");
    let lost = of_flows("lost");
    flows(&tap, 100);
    wait_for("records in a file", Duration::from_secs(10), || (of_flows("written") >= 100).then_some(()));
    assert_eq!((of_flows("lost"), of_flows("taken")), (lost, lost + of_flows("written")));
    let written = of_flows("written");

    let mut daemon = daemon;
    daemon.signal(rustix::process::Signal::INT);
    let (status, text) = daemon.wait();
    assert_eq!(status.code(), Some(1), "records were lost: {text}");
    assert!(text.contains(": balanced"), "{text}");
    assert_eq!(rows(&records, "flows").len() as u64, written);
}
