//! Do pyarrow, DuckDB and DataFusion find in Parquet files what the JSON lines say?

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise should stop the test")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sluice_export::parquet::{Now, ParquetSettings, ParquetSink, Profile};
use sluice_model::fields::{COUNTER_FIELDS, FLOW_FIELDS, Field, METRICS_FIELDS, write_json_line};
use sluice_model::{
    CloseType, CounterRecord, CounterScope, Delay, FlowRecord, MacAddr, MetricsKey, MetricsRecord, Network,
    Period, PortId, SidePerf, SideRecord, TapSide, TcpPerf, Throughput, TunnelRecord, TunnelType,
};
use sluice_tests::{captures, sluiced};

/// Nothing is forwarded: only records are made.
const POLICY: &str = "[[destination]]\nname = \"all\"\ntype = \"pcap\"\nfile = \"all.pcap\"\n\
                      [[policy]]\nname = \"none\"\nethertype = [0xffff]\nto = [\"all\"]\n";

const HOUR_NS: u64 = 3_600_000_000_000;

/// The Python with the readers: `SLUICE_ANALYTICS_PYTHON` (scripts/test.sh makes it), or the one made by it before.
fn python() -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/analytics/bin/python");
    let python = env::var_os("SLUICE_ANALYTICS_PYTHON").map_or(made, PathBuf::from);
    if python.is_file() {
        return Some(python);
    }
    assert!(!env::var("CI").is_ok_and(|ci| ci == "true"), "no {}", python.display());
    sluice_tests::left_out(format_args!("no {} (scripts/test.sh makes it)", python.display()));
    None
}

/// Runs tests/analytics/check.py.
fn check(python: &Path, arguments: &[&Path]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("analytics/check.py");
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
}

#[test]
fn a_capture_gives_the_same_answers() {
    let (Some(python), Some(captures)) = (python(), captures::folder()) else { return };
    let capture = captures.join("mix-open/mix-open.pcap.gz");
    for profile in ["full", "basic"] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (flows, metrics, records) = (path("flows.jsonl"), path("metrics.jsonl"), path("records"));
        let [flows, metrics, records] = [&flows, &metrics, &records];
        let arguments = [
            "--flows",
            flows.to_str().unwrap(),
            "--metrics",
            metrics.to_str().unwrap(),
            "--parquet",
            records.to_str().unwrap(),
            "--parquet-profile",
            profile,
        ];
        let replayed = sluiced::run(folder.path(), POLICY, &[&capture], &arguments);
        assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
        check(&python, &[records, flows, metrics]);
    }
}

/// Records with all values that their types have: what can be null is, now and then.
#[test]
fn any_record_reads_as_its_json_line() {
    let Some(python) = python() else { return };
    for (_, profile) in Profile::NAMES {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random(7);
        let mut flows: Vec<_> = (0..3000).map(|_| flow(&mut random)).collect();
        let mut metrics: Vec<_> = (0..2000).map(|_| metrics(&mut random)).collect();
        let mut counters: Vec<_> = (0..500).map(|_| counter(&mut random)).collect();
        // In any order within an hour; with hours mixed, too, there would be thousands of files.
        flows.sort_by_key(|record| record.start_ns / HOUR_NS);
        metrics.sort_by_key(|record| u64::from(record.begin_s) * 1_000_000_000 / HOUR_NS);
        counters.sort_by_key(|record| record.time_ns / HOUR_NS);
        let records = folder.path().join("records");
        let settings = ParquetSettings {
            profile,
            flow_cap: None,
            flush: Duration::MAX,
            group_rows: 500,
            ..ParquetSettings::new(records.clone())
        };
        let mut sink = ParquetSink::open(settings).unwrap();
        for batch in flows.chunks(70) {
            sink.flows(batch, Now::read());
        }
        sink.metrics(&metrics, Now::read());
        sink.counters(&counters, Now::read());
        sink.close(Now::read()).unwrap();
        let flows = lines(folder.path(), FLOW_FIELDS, &flows);
        let metrics = lines(folder.path(), METRICS_FIELDS, &metrics);
        let counters = lines(folder.path(), COUNTER_FIELDS, &counters);
        check(&python, &[&records, &flows, &metrics, &counters]);
    }
}

/// Row groups of several pages: what pages say is in them decides what a query reads.
#[test]
fn filters_find_what_is_there() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(11);
    let mut flows: Vec<_> = (0..20_000).map(|_| flow(&mut random)).collect();
    for record in &mut flows {
        record.start_ns =
            1_700_000_000_000_000_000 - 1_700_000_000_000_000_000 % HOUR_NS + random.next() % HOUR_NS;
        // Some addresses and ids come again and again.
        if random.flag() {
            record.addresses = [(); 2].map(|()| [random.u8() % 8; 16]);
            record.flow_id %= 1000;
        }
    }
    let records = folder.path().join("records");
    let settings =
        ParquetSettings { flow_cap: None, flush: Duration::MAX, ..ParquetSettings::new(records.clone()) };
    let mut sink = ParquetSink::open(settings).unwrap();
    sink.flows(&flows, Now::read());
    sink.close(Now::read()).unwrap();
    let flows = lines(folder.path(), FLOW_FIELDS, &flows);
    let metrics = lines::<MetricsRecord>(folder.path(), METRICS_FIELDS, &[]);
    let counters = lines::<CounterRecord>(folder.path(), COUNTER_FIELDS, &[]);
    check(&python, &[&records, &flows, &metrics, &counters]);
}

/// A file of JSON lines.
fn lines<R>(folder: &Path, fields: &[Field<R>], records: &[R]) -> PathBuf {
    let mut text = String::new();
    for record in records {
        write_json_line(fields, record, &mut text);
    }
    let path = folder.join(format!("{}.jsonl", fields.len()));
    fs::write(&path, text).unwrap();
    path
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Below 2^`bits`, small as often as large; often 0.
    fn bits(&mut self, bits: u32) -> u64 {
        let width = u32::try_from(self.next() % u64::from(bits + 1)).unwrap();
        self.next().checked_shr(64 - width).unwrap_or(0)
    }

    fn u8(&mut self) -> u8 {
        u8::try_from(self.bits(8)).unwrap()
    }

    fn u16(&mut self) -> u16 {
        u16::try_from(self.bits(16)).unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::try_from(self.bits(32)).unwrap()
    }

    /// So small that a million of them can be added up.
    fn count(&mut self) -> u64 {
        self.bits(44)
    }

    /// So small that two of them can be added up.
    fn half(&mut self) -> u32 {
        self.u32() / 2
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 == 0
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.next()).unwrap() % list.len()]
    }

    fn address(&mut self) -> [u8; 16] {
        (u128::from(self.next()) << 64 | u128::from(self.bits(64))).to_be_bytes()
    }

    fn network(&mut self) -> Network {
        self.one_of(&[Network::None, Network::Ipv4, Network::Ipv6])
    }

    /// Some hours of 2023, and the first second of all.
    fn time_ns(&mut self) -> u64 {
        if self.next().is_multiple_of(50) {
            return self.bits(29);
        }
        1_700_000_000_000_000_000 + self.next() % (9 * HOUR_NS)
    }

    fn delay(&mut self) -> Delay {
        Delay { sum_ns: self.count(), max_ns: u64::from(self.u32()) * 1000, count: self.u32() }
    }

    fn perf(&mut self) -> TcpPerf {
        let mut side = || SidePerf {
            retrans: self.half(),
            zero_win: self.u32(),
            out_of_order: self.u32(),
            syn: self.half(),
            syn_ack: self.half(),
            fin: self.half(),
            retrans_bytes: self.bits(64),
        };
        let sides = [side(), side()];
        TcpPerf {
            rtt_ns: self.bits(64),
            rtt_client: self.delay(),
            rtt_server: self.delay(),
            srt: self.delay(),
            art: self.delay(),
            sides,
        }
    }
}

fn flow(random: &mut Random) -> FlowRecord {
    const TUNNELS: [TunnelType; 3] = [TunnelType::Vxlan, TunnelType::Gre, TunnelType::GtpU];
    let tunnel = |random: &mut Random| TunnelRecord {
        kind: random.one_of(&TUNNELS),
        tier: random.u8(),
        id: random.u32(),
        ipv4: random.flag(),
        addresses: [random.address(), random.address()],
    };
    let side = |random: &mut Random| SideRecord {
        packets: 1 + random.count(),
        bytes: random.count(),
        l3_bytes: random.bits(64),
        l4_bytes: random.bits(64),
        total_packets: random.bits(64),
        total_bytes: random.bits(64),
        duplicates: random.bits(64),
        tcp_flags: random.u8(),
    };
    let mac = |random: &mut Random| {
        let [_, _, mac @ ..] = random.next().to_be_bytes();
        MacAddr(mac)
    };
    FlowRecord {
        flow_id: random.next(),
        start_ns: random.time_ns(),
        end_ns: random.bits(64),
        duration_ns: random.bits(64),
        close_type: random.one_of(&CloseType::ALL),
        is_new_flow: random.flag(),
        network: random.network(),
        addresses: [random.address(), random.address()],
        macs: [mac(random), mac(random)],
        ethertype: random.u16(),
        vlan: random.u16(),
        protocol: if random.flag() { 6 } else { random.u8() },
        ports: random.flag().then(|| [random.u16(), random.u16()]),
        tunnels: [random.flag().then(|| tunnel(random)), random.flag().then(|| tunnel(random))],
        tap: random.u16(),
        port: PortId(random.u16()),
        tap_side: random.one_of(&TapSide::ALL),
        vtap_id: random.u16(),
        direction_score: random.u8(),
        sides: [side(random), side(random)],
        perf: random.perf(),
        syn_seq: random.flag().then(|| random.u32()),
        syn_ack_seq: random.flag().then(|| random.u32()),
    }
}

fn metrics(random: &mut Random) -> MetricsRecord {
    let mut record = MetricsRecord {
        begin_s: u32::try_from(random.time_ns() / 1_000_000_000).unwrap(),
        period: random.one_of(&[Period::Second, Period::Minute]),
        key: None,
        flow_load: random.u32(),
        ..MetricsRecord::default()
    };
    if !random.next().is_multiple_of(4) {
        record.key = Some(MetricsKey {
            addresses: [random.address(), random.address()],
            network: random.network(),
            protocol: random.u8(),
            server_port: random.flag().then(|| random.u16()),
            tap: random.u16(),
            tap_side: random.one_of(&TapSide::ALL),
        });
    }
    record.counters.sides = [(), ()].map(|()| Throughput {
        packets: random.bits(64),
        bytes: random.bits(64),
        l3_bytes: random.bits(64),
        l4_bytes: random.bits(64),
    });
    record.counters.perf = random.perf();
    record.counters.rtt = random.delay();
    (record.counters.new_flows, record.counters.closed_flows) = (random.u32(), random.u32());
    for closed in &mut record.counters.closes {
        *closed = random.u32();
    }
    record
}

fn counter(random: &mut Random) -> CounterRecord {
    CounterRecord {
        time_ns: random.time_ns(),
        interval_ms: random.u32(),
        scope: random.one_of(&CounterScope::ALL),
        name: Arc::from(random.one_of(&["", "uplink", "\"quoted\"\t\\", "Zürich 東京", "a\u{1}b"])),
        metric: random.one_of(&["rx_packets", "no_policy"]).into(),
        value: random.bits(64),
        total: random.flag().then(|| random.bits(64)),
    }
}
