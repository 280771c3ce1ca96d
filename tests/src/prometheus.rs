//! A real Prometheus server for tests, and HTTP by hand: what does it scrape, and what do queries say?

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::netns::{Namespace, wait_for};

/// Where it listens.
const ADDRESS: &str = "127.0.0.1:9090";

/// Whether Debian's package `prometheus` is there. Without it says so, for the test to return; with `CI=true` it panics.
pub fn installed(test: &str) -> bool {
    let found = ["prometheus", "promtool"].iter().all(|program| {
        let mut version = Command::new(program);
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    });
    if !found {
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!ci, "{test}: needs the package prometheus");
        crate::left_out(format_args!("{test}: needs the package prometheus"));
    }
    found
}

/// Status, head and body of a `GET`.
///
/// # Errors
/// No connection, no answer, or none of HTTP.
pub fn get(address: SocketAddr, path: &str, headers: &str) -> std::io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // In 1.0 there are no chunks.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n{headers}\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let wrong = || std::io::Error::other(format!("no HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(wrong)?;
    Ok((status, head.to_owned(), body.to_owned()))
}

/// The value of the sample that a line of metrics begins with: its name and all labels.
///
/// # Panics
/// When there is none, or it is no count.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "asserted before")]
pub fn sample(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value: f64 = value.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap();
    assert!(value >= 0.0 && value.fract() == 0.0, "{name} {value}");
    value as u64
}

/// A running server; ended when dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    namespace: Namespace,
}

impl Prometheus {
    /// Starts it inside `namespace`, where it scrapes `target` every second as job `sluice` and follows `rules`.
    pub fn start(dir: &Path, namespace: &Namespace, target: &str, rules: &Path) -> Self {
        let config = dir.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [\"{}\"]\n\
             scrape_configs:\n  - job_name: sluice\n    static_configs: [{{targets: [\"{target}\"]}}]\n",
            rules.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = namespace
            .command("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
            .args(["--web.listen-address", ADDRESS, "--log.level=warn"])
            .spawn()
            .unwrap();
        Self { child, namespace: namespace.clone() }
    }

    /// What the API says.
    pub fn api(&self, path: String) -> Option<Value> {
        let asked = self.namespace.inside(move || get(ADDRESS.parse().unwrap(), &path, ""));
        let (_, _, body) = asked.join().unwrap().ok()?;
        serde_json::from_str(&body).ok()
    }

    /// The results of a query; panics when it is none.
    pub fn query(&self, query: &str) -> Vec<Value> {
        let mut encoded = String::new();
        for byte in query.bytes() {
            write!(encoded, "%{byte:02X}").unwrap();
        }
        let answer = wait_for("an answer of Prometheus", Duration::from_secs(20), || {
            self.api(format!("/api/v1/query?query={encoded}"))
        });
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until a query has results.
    pub fn wait(&self, query: &str) -> Vec<Value> {
        wait_for(query, Duration::from_secs(60), || Some(self.query(query)).filter(|found| !found.is_empty()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // `ip netns exec` becomes the program itself.
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        drop(self.child.wait());
    }
}
