//! Does a real Prometheus server get from a running daemon what its account says, and does nobody keep it out?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use sluice_tests::daemon::{Daemon, Summary};
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::prometheus::{Prometheus, get, installed, sample};
use sluice_tests::tap::{TOOL, Tap};

const BOOT: &str = concat!(
    r#"
[metrics]
listen = "127.0.0.1:9464"

[flow]

[flow.parquet]
folder = "records"
reserve_mb = 0

[dedup]
mode = "count"

[limit]
rate_mbps = 1000

[breaker]
threshold_mbps = 9000

"#,
    sluice_tests::tap_ports!()
);

fn address() -> SocketAddr {
    "127.0.0.1:9464".parse().unwrap()
}

/// UDP to the tool, directly and by a group; all packets to a file; one policy that drops nothing it meets.
fn policy() -> String {
    let remote = TOOL[0];
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{remote}\"\n\
         [[destination]]\nname = \"file\"\ntype = \"pcap\"\nfile = \"copies.pcap\"\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\ntag = 7\nto = [\"tool\", \"file\"]\n\
         [[policy]]\nname = \"tcp\"\nprotocol = \"tcp\"\nto = [\"file\"]\n"
    )
}

/// Metrics, read inside the namespace of the daemon, not older than this call.
fn scrape(namespace: &Namespace, headers: &'static str) -> (String, String) {
    std::thread::sleep(Duration::from_millis(60));
    let (status, head, body) =
        namespace.inside(move || get(address(), "/metrics", headers)).join().unwrap().unwrap();
    assert_eq!(status, 200, "{head}");
    (head, body)
}

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../appliance/packaging").join(file)
}

/// Runs promtool, which must have nothing to complain about.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && complaints.is_empty(), "promtool {arguments:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every `expr` under a value, with the variables of the dashboard filled in.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if let (Some(Value::String(expr)), true) = (object.get("expr"), object.contains_key("refId")) {
                found.push(expr.replace("$__rate_interval", "30s").replace("$instance", ".*"));
            }
            object.values().for_each(|value| expressions(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The names of `sluice_` and `process_` metrics in a query.
fn names(expr: &str) -> impl Iterator<Item = &str> {
    let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("sluice_") || word.starts_with("process_"))
}

/// What was scraped after the traffic is what the daemon printed at its end.
fn compare(text: &str, summary: &Summary) {
    for (metric, row) in [
        ("sluice_rx_packets_total", "received"),
        ("sluice_tx_packets_total", "sent"),
        ("sluice_replica_packets_total", "replicas"),
        ("sluice_held_packets", "held"),
        ("sluice_lost_before_rx_packets_total", "lost before rx"),
    ] {
        assert_eq!(sample(text, metric), summary.total(row), "{metric}");
    }
    let drops: u64 = text
        .lines()
        .filter_map(|line| {
            let (reason, rest) =
                line.strip_prefix("sluice_dropped_packets_total{reason=\"")?.split_once('"')?;
            let dropped = rest.rsplit_once(' ')?.1.parse::<u64>().unwrap();
            assert_eq!(dropped, summary.dropped(reason), "{reason}");
            Some(dropped)
        })
        .sum();
    assert_eq!(drops, summary.drops());
    for policy in ["udp", "tcp"] {
        let value =
            |metric: &str| sample(text, &format!("sluice_policy_{metric}_total{{policy=\"{policy}\"}}"));
        assert_eq!(value("matched_packets"), summary.get("policy", policy, 0));
        assert_eq!(value("matched_bytes"), summary.get("policy", policy, 1));
        assert_eq!(value("sent_packets"), summary.get("policy", policy, 2));
    }
    for destination in ["tool", "file"] {
        let name = format!("sluice_destination_sent_packets_total{{destination=\"{destination}\"}}");
        assert_eq!(sample(text, &name), summary.copies(destination));
    }
    for port in ["tap0", "out0"] {
        let value = |metric: &str| sample(text, &format!("sluice_port_{metric}_total{{port=\"{port}\"}}"));
        let found = ["rx_packets", "tx_packets", "lost_before_rx_packets"].map(value);
        assert_eq!(found, summary.port(port), "{port}");
        // The kernel counts what the interface brought, whoever takes it.
        let device = |counter: &str| {
            let labels = format!("{{port=\"{port}\",counter=\"{counter}\"}}");
            sample(text, &format!("sluice_port_xstats_total{labels}"))
        };
        // What the bridge sends out by a tap is seen there, too.
        let [rx, tx, _] = found;
        let crossed = device("rx_packets") + device("tx_packets");
        assert!(crossed >= rx.max(tx) && crossed > 0, "{port}: {crossed} of {found:?}");
    }
    let worker = |metric: &str| sample(text, &format!("sluice_thread_{metric}{{thread=\"worker0\"}}"));
    assert_eq!(worker("rx_packets_total"), summary.get("thread", "worker0", 0));
    assert_eq!(sample(text, "sluice_imbalance_packets"), 0);
    assert!(worker("poll_packets_sum") >= summary.rx(), "polls bring control packets, too");
}

#[test]
fn a_prometheus_server_gets_what_the_account_says() {
    if !installed("metrics") {
        return;
    }
    let Some(mut lab) = Lab::new("metrics") else { return };
    let rules = packaging("prometheus/sluice.rules.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy());
    daemon.wait_resolved(1);
    let prometheus =
        Prometheus::start(lab.dir(), &tap.broker, "127.0.0.1:9464", &rules.canonicalize().unwrap());
    prometheus.wait("sluice_build_info");
    // Rates need traffic between scrapes.
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        tap.flood(500, 100);
        tap.tcp("10.1.0.2", &[7; 10_000], &[8; 10_000]);
        std::thread::sleep(Duration::from_millis(200));
    }

    // The dashboard asks for nothing that is not there.
    let text = std::fs::read_to_string(packaging("grafana/sluice.json")).unwrap();
    let mut queries = Vec::new();
    expressions(&serde_json::from_str(&text).unwrap(), &mut queries);
    assert!(queries.len() > 30, "{queries:?}");
    for query in &queries {
        let found = prometheus.query(query);
        assert!(!found.is_empty(), "{query}");
    }
    // Alerts are about names that there are; those about tunnels and groups need tunnels and groups.
    let (_, metrics) = scrape(&tap.broker, "");
    let answer = wait_for("the rules", Duration::from_secs(10), || prometheus.api("/api/v1/rules".into()));
    let rules = answer["data"]["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() >= 15, "{answer}");
    for rule in rules {
        let query = rule["query"].as_str().unwrap();
        for name in names(query) {
            let absent = ["sluice_tunnel_lost_packets", "sluice_group_away_members"].contains(&name);
            assert!(absent || metrics.contains(&format!("\n{name}")), "{name} of {query}");
        }
        let quiet =
            ["SluiceWorkersBusy", "SluiceRestarted", "SluiceMbufsShort", "SluicePacketsLostBeforeReception"];
        if !quiet.contains(&rule["name"].as_str().unwrap()) {
            assert_eq!(prometheus.query(query), Vec::<Value>::new(), "{query} is not quiet");
        }
    }
    let target = prometheus.api("/api/v1/targets".into()).unwrap();
    assert_eq!(target["data"]["activeTargets"][0]["lastError"], "", "{target}");

    // Nothing moves any more.
    let settled = wait_for("the end of traffic", Duration::from_secs(10), || {
        let before = scrape(&tap.broker, "").1;
        std::thread::sleep(Duration::from_millis(500));
        let after = scrape(&tap.broker, "").1;
        let same = ["sluice_rx_packets_total", "sluice_tx_packets_total", "sluice_held_packets"]
            .iter()
            .all(|name| sample(&before, name) == sample(&after, name));
        (same && sample(&after, "sluice_held_packets") == 0).then_some(after)
    });
    promtool(&["check", "metrics"], &settled);
    let (head, open) = scrape(&tap.broker, "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert!(
        head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(open.ends_with("\n# EOF\n"), "{open}");
    let scraped = wait_for("a scrape of the end", Duration::from_secs(10), || {
        let found = prometheus.query("sluice_rx_packets_total");
        let value = found.first()?["value"][1].as_str()?.parse::<u64>().ok()?;
        (value == sample(&settled, "sluice_rx_packets_total")).then_some(value)
    });
    drop(prometheus);
    let summary = daemon.stop();
    assert_eq!(scraped, summary.rx());
    assert!(summary.rx() > 3_000);
    compare(&settled, &summary);
}

#[test]
fn a_thousand_connections_stop_neither_scrapes_nor_traffic() {
    const CONNECTIONS: usize = 1_000;
    let Some(mut lab) = Lab::new("metrics-crowd") else { return };
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy());
    daemon.wait_resolved(1);
    let crowd = tap.broker.inside(|| {
        let mut held: Vec<TcpStream> = Vec::new();
        let mut slowest = Duration::ZERO;
        for number in 0..CONNECTIONS {
            let mut stream = TcpStream::connect_timeout(&address(), Duration::from_secs(10)).unwrap();
            // One in three says nothing, one half a request, one garbage.
            let said: [&[u8]; 3] =
                [b"", b"GET /metrics HTTP/1.1\r\nHost: ", b"\x16\x03\x01\0\0garbage\r\n\r\n"];
            drop(stream.write_all(said[number % 3]));
            held.push(stream);
            // And all of them go on, byte by byte.
            for stream in held.iter_mut().rev().take(20) {
                drop(stream.write_all(b"x"));
            }
            if number % 50 == 49 {
                let begun = Instant::now();
                let (status, _, body) = get(address(), "/metrics", "").unwrap();
                assert!(status == 200 && body.contains("sluice_rx_packets_total"), "{body}");
                slowest = slowest.max(begun.elapsed());
            }
        }
        slowest
    });
    while !crowd.is_finished() {
        tap.flood(200, 100);
        std::thread::sleep(Duration::from_millis(20));
    }
    let slowest = crowd.join().unwrap();
    eprintln!("the slowest scrape took {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let (_, text) = scrape(&tap.broker, "");
    assert!(sample(&text, "sluice_http_lost_connections_total{why=\"broken\"}") >= 100, "{text}");
    let (ready, healthy) = tap
        .broker
        .inside(|| (get(address(), "/readyz", "").unwrap().0, get(address(), "/healthz", "").unwrap().0))
        .join()
        .unwrap();
    assert_eq!((ready, healthy), (200, 200));
    let summary = daemon.stop();
    assert_eq!(summary.total("lost before rx"), 0);
}
