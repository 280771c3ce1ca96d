//! What does a bare DPDK loop reach here and now? `dpdk-testpmd` in its `macswap` mode between two null ports.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::measure::{Settings, as_f64};
use crate::thread_time::ThreadTime;

/// What stdbuf exits with where there is no program of the name.
const NOT_FOUND: i32 = 127;

/// A running testpmd.
struct Testpmd {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let ended = writeln!(self.stdin, "quit").and_then(|()| self.child.wait());
        if ended.is_err() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Million packets per second of testpmd on the same core, with the same burst size and packet size.
pub fn run(settings: &Settings) -> Result<f64> {
    let mut testpmd = Testpmd::start(settings)?;
    let time = ThreadTime::of(testpmd.child.id(), worker_thread(testpmd.child.id())?);
    let mut rates = Vec::new();
    let mut last = None;
    for _ in 0..=settings.samples.min(7) {
        std::thread::sleep(settings.sample);
        let now = (testpmd.received()?, time.run_ns()?);
        if let Some((packets, run_ns)) = last.replace(now) {
            rates.push(as_f64(now.0 - packets) * 1e3 / as_f64(now.1 - run_ns));
        }
    }
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().context("testpmd was not sampled")
}

impl Testpmd {
    fn start(settings: &Settings) -> Result<Self> {
        let memory = if settings.hugepages { "--in-memory" } else { "--no-huge --no-shconf" };
        let lcores = format!("0@{},1@{}", settings.main_core, settings.core);
        let arguments = "--no-pci -m 128 --vdev=net_null0 --vdev=net_null1 -- --interactive --nb-cores=1 \
                         --forward-mode=macswap --burst=64 --mbcache=512 --total-num-mbufs=8191 --no-mlockall";
        // Into a pipe it would buffer its answers; stdbuf (coreutils) has them written line by line.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "dpdk-testpmd"])
            .args(["--lcores", &lcores, "--main-lcore=0"])
            .args(memory.split_whitespace())
            .args(arguments.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("stdbuf cannot be started (Debian package coreutils)")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else { bail!("no pipes to dpdk-testpmd") };
        let mut testpmd = Self { child, stdin, stdout: BufReader::new(stdout) };
        testpmd.command("start")?;
        testpmd.received()?;
        std::thread::sleep(Duration::from_millis(100));
        Ok(testpmd)
    }

    fn command(&mut self, command: &str) -> Result<()> {
        writeln!(self.stdin, "{command}").or_else(|_| Err(self.ended()?))
    }

    /// Why nobody listens or answers any more.
    fn ended(&mut self) -> Result<anyhow::Error> {
        let status = self.child.wait()?;
        Ok(if status.code() == Some(NOT_FOUND) {
            anyhow!("dpdk-testpmd is not on this machine: install dpdk-dev (Debian's package)")
        } else {
            anyhow!("dpdk-testpmd ended ({status}): run it by hand to see why")
        })
    }

    /// Packets received by both ports.
    fn received(&mut self) -> Result<u64> {
        self.command("show port stats all")?;
        let (mut sum, mut ports) = (0, 0);
        let mut line = String::new();
        while ports < 2 {
            line.clear();
            if self.stdout.read_line(&mut line)? == 0 {
                return Err(self.ended()?);
            }
            if let Some(rest) = line.trim().strip_prefix("RX-packets:") {
                let number = rest.split_whitespace().next().unwrap_or_default();
                sum += number.parse::<u64>().with_context(|| format!("testpmd said {line:?}"))?;
                ports += 1;
            }
        }
        Ok(sum)
    }
}

/// The thread of testpmd that forwards.
fn worker_thread(pid: u32) -> Result<u32> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.contains("worker-1") {
            let tid = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            return tid.parse().with_context(|| format!("{tid} is no thread"));
        }
    }
    bail!("dpdk-testpmd has no forwarding thread")
}
