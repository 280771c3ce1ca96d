//! Does the server of metrics answer as HTTP and the text formats say, whatever its clients do?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_export::parquet::SinkReport;
use sluice_export::prometheus::{
    ApiView, Breaker, Counts, DedupPair, Destination, EngineView, Flow, Health, Histogram, LifeView,
    MAX_CONNECTIONS, Metric, MetricsServer, OvsView, Policy, Port, Snapshot, Source, Stage, Tap, Thread,
    Tunnels,
};
use sluice_model::{DropCounts, DropReason};

/// A source that always says the same.
struct Fixed(Health);

impl Source for Fixed {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            version: "1.2.3",
            engine: (self.0 == Health::Ready).then(engine),
            parquet: (self.0 == Health::Ready).then(SinkReport::default),
            life: (self.0 == Health::Ready).then(life),
            api: (self.0 == Health::Ready).then(api),
            ovs: (self.0 == Health::Ready).then(ovs),
        }
    }

    fn health(&self) -> Health {
        self.0
    }
}

fn drops(packets: u64) -> DropCounts {
    let mut drops = DropCounts::default();
    drops.add(DropReason::NoPolicy, packets);
    drops
}

fn ovs() -> OvsView {
    OvsView {
        connected: true,
        names: vec![("vm", 1), ("port", 2)],
        applies: vec![("done", 3), ("failed", 0)],
        ..OvsView::default()
    }
}

fn api() -> ApiView {
    ApiView { connections: vec![("unix", 1, 2)], requests: vec![("viewer", 3)], refused: vec![("role", 4)] }
}

fn life() -> LifeView {
    LifeView { states: vec![("running", true)], exceptions: vec![("disk_low", 1)], ..LifeView::default() }
}

/// Something of everything.
fn engine() -> EngineView {
    let counts = Counts {
        rx_packets: 10,
        tx_packets: 7,
        drops: drops(3),
        not_decapsulated: vec![("depth", 4)],
        ..Counts::default()
    };
    let histogram = || Histogram { buckets: vec![(1e-6, 2), (0.5, 3)], count: 6, sum: 2.5 };
    EngineView {
        generation: 5,
        counts: counts.clone(),
        held: 1,
        threads: vec![Thread {
            name: "worker0".into(),
            counts,
            stages: vec![Stage { name: "rx", packets: 1, batches: 2, cycles: 3 }],
            polls: histogram(),
            batches: Some(histogram()),
            delays: Some(histogram()),
            flow: Some(Flow { rings: vec![("records", 1, 2)], ..Flow::default() }),
            ..Thread::default()
        }],
        ports: vec![Port {
            name: "tap0".into(),
            breaker: Some(Breaker::default()),
            device: vec![("rx_crc_errors".into(), 1), ("rx_q0_packets".into(), 0)],
            ..Port::default()
        }],
        policies: vec![Policy {
            name: "back\\slash \"quoted\"\nline".into(),
            drops: drops(1),
            ..Policy::default()
        }],
        destinations: vec![
            Destination { name: "tool".into(), drops: drops(1), ..Destination::default() },
            Destination { name: "group".into(), away: Some(1), drops: drops(1), ..Destination::default() },
        ],
        dedup_pairs: vec![DedupPair { first: "a".into(), second: "b".into(), packets: 1 }],
        taps: vec![Tap { name: "core".into(), packets: 1, ..Tap::default() }],
        tunnels: vec![Tunnels { kind: "vxlan", ..Tunnels::default() }],
        ..EngineView::default()
    }
}

fn serve(health: Health) -> (MetricsServer, SocketAddr) {
    let source = Arc::new(Fixed(health));
    let server = MetricsServer::start("127.0.0.1:0".parse().unwrap(), source, || {}).unwrap();
    let address = server.address();
    (server, address)
}

/// Sends bytes; gives everything that comes back.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may have had enough before it has everything.
    drop(stream.write_all(request));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8(answer).unwrap()
}

fn get(address: SocketAddr, path: &str, headers: &str) -> (String, String) {
    let answer = exchange(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.to_owned(), body.to_owned())
}

/// Metrics that are not older than this call.
fn fresh(address: SocketAddr, headers: &str) -> (String, String) {
    std::thread::sleep(Duration::from_millis(60));
    get(address, "/metrics", headers)
}

fn sample(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
}

#[test]
fn both_formats_have_every_metric() {
    let (server, address) = serve(Health::Ready);
    // The first request is the first thing to count.
    assert_eq!(get(address, "/healthz", "").1, "ok\n");
    let (head, text) = fresh(address, "");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(!text.contains("EOF") && !text.contains("# UNIT"), "{text}");
    let (head, open) = fresh(address, "Accept: application/openmetrics-text; version=1.0.0\r\n");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(kind), "{head}");
    assert!(open.ends_with("\n# EOF\n"), "{open}");
    for &metric in Metric::ALL {
        let (name, family) = (metric.name(), metric.family());
        for (text, name) in [(&text, &*name), (&open, family)] {
            let help = format!("# HELP {name} {}\n", metric.help());
            assert_eq!(text.matches(&help).count(), 1, "{name}: {text}");
            assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}: {text}");
        }
    }
    for line in [
        "sluice_build_info{version=\"1.2.3\"} 1",
        "# TYPE sluice_rx_packets_total counter",
        "sluice_rx_packets_total 10",
        "sluice_dropped_packets_total{reason=\"no_policy\",intentional=\"true\"} 3",
        "sluice_dropped_packets_total{reason=\"tx_full\",intentional=\"false\"} 0",
        "sluice_imbalance_packets -1",
        "sluice_policy_matched_packets_total{policy=\"back\\\\slash \\\"quoted\\\"\\nline\"} 0",
        "sluice_thread_dropped_packets_total{thread=\"worker0\",reason=\"no_policy\"} 3",
        "sluice_thread_delay_seconds_bucket{le=\"0.000001\",thread=\"worker0\"} 2",
        "sluice_thread_delay_seconds_bucket{le=\"0.5\",thread=\"worker0\"} 5",
        "sluice_thread_delay_seconds_bucket{le=\"+Inf\",thread=\"worker0\"} 6",
        "sluice_thread_delay_seconds_count{thread=\"worker0\"} 6",
        "sluice_thread_delay_seconds_sum{thread=\"worker0\"} 2.5",
        "sluice_group_away_members{group=\"group\"} 1",
        "sluice_not_decapsulated_packets_total{reason=\"depth\"} 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    // The samples are the same but for what the process did in between.
    let samples = |text: &str| -> Vec<String> {
        let fixed = |line: &&str| line.starts_with("sluice_") && !line.starts_with("sluice_http");
        text.lines().filter(fixed).map(str::to_owned).collect()
    };
    assert_eq!(samples(&text), samples(&open));
    assert!(server.end());
}

#[test]
fn health_and_readiness_say_how_the_daemon_is() {
    for (health, healthy, ready) in [
        (Health::Starting, 200, 503),
        (Health::Ready, 200, 200),
        (Health::Stopping, 200, 503),
        (Health::Stuck, 503, 503),
    ] {
        let (server, address) = serve(health);
        for (path, status) in [("/healthz", healthy), ("/readyz", ready), ("/metrics", 200), ("/", 404)] {
            let (head, _) = get(address, path, "");
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{health:?} {path}: {head}");
        }
        assert!(server.end());
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    }
}

#[test]
fn nothing_but_a_request_is_answered_well() {
    let (server, address) = serve(Health::Ready);
    let post = exchange(address, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD"), "{post}");
    let head = exchange(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    let many = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(100));
    let path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(1 << 20));
    let wrong: [&[u8]; 5] = [
        long.as_bytes(),
        many.as_bytes(),
        path.as_bytes(),
        b"\x16\x03\x01\x02\x00\x01garbage\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ];
    for request in wrong {
        let answer = exchange(address, request);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // HTTP/2 without being asked, half a request, nothing at all.
    for half in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET /metr", b""] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(half).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
    }
    let (_, text) = fresh(address, "");
    assert_eq!(sample(&text, "sluice_http_requests_total{page=\"/metrics\",status=\"405\"}"), 1);
    assert!(sample(&text, "sluice_http_lost_connections_total{why=\"broken\"}") >= 6, "{text}");
    assert!(server.end());
}

#[test]
fn who_holds_connections_keeps_nobody_out() {
    let (server, address) = serve(Health::Ready);
    let mut held = Vec::new();
    let start = Instant::now();
    for number in 0..3 * MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
        held.push(stream);
        if number % 64 == 63 {
            let (head, _) = get(address, "/metrics", "");
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
    }
    let took = start.elapsed();
    let (_, text) = fresh(address, "");
    let evicted = sample(&text, "sluice_http_lost_connections_total{why=\"evicted\"}");
    // Unless this machine was so slow that they ended by themselves.
    assert!(evicted >= MAX_CONNECTIONS as u64 || took > Duration::from_secs(4), "{took:?} {text}");
    // Those that are left are ended after a while.
    let mut last = held.pop().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    drop(last.read_to_end(&mut answer));
    assert!(begun.elapsed() < Duration::from_secs(15), "{answer:?}");
    assert!(server.end(), "open connections do not hold the end up");
}

#[test]
fn an_address_that_is_taken_is_told() {
    let (server, address) = serve(Health::Ready);
    let error = MetricsServer::start(address, Arc::new(Fixed(Health::Ready)), || {}).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(server.end());
}
