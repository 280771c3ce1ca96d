//! `sluiced run` under test: how is it started, watched and ended, and what did it say at the end?

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::netns::{Lab, Namespace, run, wait_for};
pub use crate::sluiced::binary;

/// How long the daemon may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command of a daemon inside `namespace` without any privilege. The lab's folder becomes everybody's.
pub fn unprivileged(lab: &Lab, namespace: &Namespace) -> Command {
    // The build folder may be root's alone.
    let copy = lab.dir().join("sluiced");
    if !copy.exists() {
        std::fs::copy(binary(), &copy).unwrap();
    }
    run(&format!("chmod 777 {}", lab.dir().display()));
    let mut command = namespace.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(copy);
    command
}

/// CPU time that a process had so far, of all its threads.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    schedstat(pid, 0, |_| true)
}

/// How long a thread of a process was ready to run so far, and waited for a CPU.
#[must_use]
pub fn cpu_wait(pid: u32, thread: &str) -> Duration {
    schedstat(pid, 1, |name| name == thread)
}

/// A number of nanoseconds that the kernel keeps of each thread (Documentation/scheduler/sched-stats.rst), summed over some.
fn schedstat(pid: u32, column: usize, threads: impl Fn(&str) -> bool) -> Duration {
    let all = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = all.flatten().filter_map(|thread| {
        let text = |file: &str| std::fs::read_to_string(thread.path().join(file)).ok();
        let number = || text("schedstat")?.split_whitespace().nth(column)?.parse::<u64>().ok();
        threads(text("comm")?.trim_end()).then(number)?
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The most memory that a process ever had in RAM, with the hugepages that it has now (proc_pid_status(5)).
#[must_use]
pub fn most_resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    (kib("VmHWM") + kib("HugetlbPages")) << 10
}

/// The boot config with a small flow table, unless it has one of a stated size: the usual one takes a share of the
/// machine's memory, and all of it is touched before the daemon runs.
fn with_few_flows(boot: &str) -> String {
    let mut lines = boot.lines().map(str::trim_start);
    if lines.any(|line| line.starts_with("flows =") || line.starts_with("profile =")) {
        return boot.to_owned();
    }
    boot.replacen("[flow]\n", "[flow]\nflows = 65536\n", 1)
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<String>>,
}

impl Daemon {
    /// Starts it inside `namespace` and waits until it runs. `boot` is the boot config without `policy`; memory and
    /// hugepages are chosen here unless it has `[eal]` or `[memory]` of its own, and the number of flows; the API is off
    /// unless it has `[api]`.
    pub fn start(lab: &Lab, namespace: &Namespace, boot: &str, policy: &str) -> Self {
        let daemon = Self::spawn(namespace.command(binary()), lab.dir(), boot, policy);
        daemon.wait_log("running;");
        daemon
    }

    /// Starts it by `command`, which ends with the binary, and does not wait.
    pub fn spawn(mut command: Command, dir: &Path, boot: &str, policy: &str) -> Self {
        let mut text = "policy = \"policy.toml\"\n".to_owned();
        text += &with_few_flows(boot);
        if !boot.contains("[eal]") {
            text += "\n[eal]\nhugepages = \"never\"\n";
        }
        if !boot.contains("[memory]") {
            text += "\n[memory]\nmbufs = 8191\n";
        }
        // The usual socket is one for the whole machine.
        if !boot.contains("[api]") {
            text += "\n[api]\nenabled = false\n";
        }
        let config = dir.join("boot.toml");
        std::fs::write(&config, text).unwrap();
        std::fs::write(dir.join("policy.toml"), policy).unwrap();
        command.args(["run", "--config"]).arg(config).env_remove("RUST_LOG");
        command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = vec![
            std::thread::spawn(move || {
                let mut text = String::new();
                stdout.read_to_string(&mut text).unwrap();
                text
            }),
            std::thread::spawn({
                let log = Arc::clone(&log);
                move || {
                    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                        *log.lock().unwrap() += &(line + "\n");
                    }
                    String::new()
                }
            }),
        ];
        Self { child, log, readers }
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until so many next hops are resolved and the workers know of it.
    pub fn wait_resolved(&self, next_hops: usize) {
        self.wait_log_times("next hop resolved", next_hops);
        // A worker looks every 64 polls: at once, once it gets to run on a busy machine.
        std::thread::sleep(Duration::from_millis(200));
    }

    /// Waits until the log holds `text`.
    pub fn wait_log(&self, text: &str) {
        self.wait_log_times(text, 1);
    }

    /// Waits until the log holds `text` so many times.
    pub fn wait_log_times(&self, text: &str, times: usize) {
        let what = format!("{times} x {text:?} in the log");
        wait_for(&what, PATIENCE, || (self.log().matches(text).count() >= times).then_some(()));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The number of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The state of the process, by the kernel's one letter: `R`, `S`, `T`.
    #[must_use]
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    /// Waits for its end; gives the exit status and what it printed.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let status = wait_for("the daemon to end", PATIENCE, || self.child.try_wait().unwrap());
        let mut texts = self.readers.drain(..).map(|reader| reader.join().unwrap());
        (status, texts.next().unwrap())
    }

    /// Ends it by `SIGINT`. Whatever was tested: it must end well, in balance, with all mbufs back.
    pub fn stop(self) -> Summary {
        let log = Arc::clone(&self.log);
        let (status, summary) = self.end();
        assert!(status.success(), "{status}\n{}\n{}", summary.text, log.lock().unwrap());
        summary
    }

    /// The same of one that may say by its exit code that records were lost.
    pub fn end(mut self) -> (ExitStatus, Summary) {
        self.signal(Signal::INT);
        let (status, text) = self.wait();
        eprintln!("{text}");
        assert!(status.code().is_some(), "{status}\n{text}\n{}", self.log());
        let summary = Summary::parse(&text);
        assert!(!self.log().contains("panic"), "{}", self.log());
        (status, summary)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- log of the daemon:\n{}---",
                self.log.lock().map_or_else(|e| e.into_inner().clone(), |l| l.clone())
            );
        }
        // Ended already, as a rule.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The tables that the daemon prints at its end.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Rows by the first heading of their table and their name.
    rows: BTreeMap<(String, String), Vec<u64>>,
    /// The whole text.
    pub text: String,
}

impl Summary {
    fn parse(text: &str) -> Self {
        let mut rows = BTreeMap::new();
        let mut table = String::new();
        for line in text.lines() {
            let cells: Vec<_> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
            match cells.as_slice() {
                ["packets", "bytes"] => "total".clone_into(&mut table),
                [name, second, ..] if second.parse::<u64>().is_err() => (*name).clone_into(&mut table),
                [name, numbers @ ..] if !numbers.is_empty() => {
                    let numbers = numbers.iter().map(|number| number.parse().unwrap()).collect();
                    let name = name.split(" (").next().unwrap_or(name);
                    rows.insert((table.clone(), name.to_owned()), numbers);
                }
                _ => {}
            }
        }
        let summary = Self { rows, text: text.to_owned() };
        assert!(text.contains(": balanced"), "{text}");
        let left = summary.rx() + summary.total("replicas");
        assert_eq!(left, summary.tx() + summary.drops() + summary.total("held"), "{text}");
        assert!(
            text.lines().any(
                |line| line == "mbufs not given back: 0" || line.starts_with("mbufs not given back: 0 (")
            ),
            "{text}"
        );
        summary
    }

    /// A number of a table (`total`, `dropped because of`, `policy`, `destination`, `port`): row and column, the first
    /// column of numbers being 0. A row that is not there counts nothing.
    #[must_use]
    pub fn get(&self, table: &str, row: &str, column: usize) -> u64 {
        let row = self.rows.get(&(table.to_owned(), row.to_owned()));
        row.map_or(0, |numbers| *numbers.get(column).unwrap_or_else(|| panic!("{table}: {}", self.text)))
    }

    /// A row of the first table.
    #[must_use]
    pub fn total(&self, row: &str) -> u64 {
        assert!(self.rows.contains_key(&("total".to_owned(), row.to_owned())), "no {row}: {}", self.text);
        self.get("total", row, 0)
    }

    /// Packets received.
    #[must_use]
    pub fn rx(&self) -> u64 {
        self.total("received")
    }

    /// Packets sent.
    #[must_use]
    pub fn tx(&self) -> u64 {
        self.total("sent")
    }

    /// Packets dropped for one reason.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.get("dropped because of", reason, 0)
    }

    /// Packets dropped for any reason.
    #[must_use]
    pub fn drops(&self) -> u64 {
        self.rows.iter().filter(|((table, _), _)| table == "dropped because of").map(|(_, row)| row[0]).sum()
    }

    /// Copies sent to a destination.
    #[must_use]
    pub fn copies(&self, destination: &str) -> u64 {
        self.get("destination", destination, 0)
    }

    /// Packets that a port received, sent, and lost before reception.
    #[must_use]
    pub fn port(&self, port: &str) -> [u64; 3] {
        [0, 1, 2].map(|column| self.get("port", port, column))
    }
}
